/* Fuzzing forms: the first line is the Content-Type, the rest the body. Parts lie in the body, one after the other, and hold no boundary. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "server/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool holds(const multipart_part *part, const multipart *m) {
    for (size_t i = 0; i + m->delimiter_size + 2 <= part->size; i++) {
        const char *behind = part->data + i + m->delimiter_size;
        if (memcmp(part->data + i, m->delimiter, m->delimiter_size) == 0 && (memcmp(behind, "--", 2) == 0 || memcmp(behind, "\r\n", 2) == 0)) {
            return true;
        }
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *line = memchr(data, '\n', size);
    const size_t head = line ? (size_t)(line - data) : size, rest = line ? size - head - 1 : 0;
    char *type = malloc(head + 1), *body = malloc(rest ? rest : 1);
    check(type && body);
    memcpy(type, data, head);
    type[head] = 0;
    if (rest > 0) {
        memcpy(body, line + 1, rest);
    }
    multipart m;
    multipart_part part;
    omni_error err = {0};
    const char *at = body;
    bool got = true;
    int parts = 0;
    omni_status status = multipart_open(&m, type, body, rest, &err);
    while (status == OMNI_OK && got) {
        status = multipart_next(&m, &part, &got, &err);
        if (status == OMNI_OK && got) {
            check(++parts <= MULTIPART_PARTS);
            check(part.data >= at && part.size <= rest && part.data + part.size <= body + rest);
            check(strlen(part.name) < MULTIPART_NAME && strlen(part.filename) < MULTIPART_NAME && (part.is_file || part.filename[0] == 0));
            check(!strpbrk(part.name, "\r\n") && !strpbrk(part.filename, "\r\n") && !holds(&part, &m));
            at = part.data + part.size;
        }
    }
    check(status == OMNI_OK || err.text[0]);
    free(type);
    free(body);
    return 0;
}
