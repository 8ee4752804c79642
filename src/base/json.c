#include "base/json.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What the text's values cost, roughly, counted by what stands in front of or between them: a number or text 1, a list 5, an object 10. */
static size_t count_values(const char *text, size_t size) {
    size_t count = 1;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        if (in_string && text[i] == '\\') {
            i++;
        } else if (in_string) {
            in_string = text[i] != '"';
        } else {
            in_string = text[i] == '"';
            count += text[i] == ',' ? 1 : text[i] == '[' ? 5 : text[i] == '{' ? 10 : 0;
        }
    }
    return count;
}

omni_status json_parse(const char *text, size_t size, size_t most_values, size_t flags, json_t **out, omni_error *err) {
    json_error_t error;
    *out = NULL;
    const unsigned char *b = (const unsigned char *)text;
    if (size >= 2 && ((b[0] == 0xFF && b[1] == 0xFE) || (b[0] == 0xFE && b[1] == 0xFF) || b[0] == 0 || b[1] == 0)) {
        return fail(err, OMNI_ERR_FORMAT, "is in UTF-16 or UTF-32; JSON must be in UTF-8");
    }
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark */
        text += 3;
        size -= 3;
    }
    size_t values = count_values(text, size);
    if (values > most_values) {
        return fail(err, OMNI_ERR_LIMIT, "%zu values of JSON; up to %zu are taken (a list counts as 5, an object as 10)", values, most_values);
    }
    *out = json_loadb(text, size, flags, &error);
    if (*out) {
        return OMNI_OK;
    }
    /* Without memory for its first buffer jansson fails before it has filled anything in. */
    if (json_error_code(&error) == json_error_out_of_memory || (error.line < 0 && !error.text[0])) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu values of JSON", values);
    }
    char *quoted = strstr(error.text, " near '"); /* what follows is a piece of the text, line ends and all */
    if (quoted) {
        *quoted = 0;
    }
    return fail(err, OMNI_ERR_FORMAT, "not JSON: line %d, column %d: %s", error.line, error.column, error.text);
}

typedef struct printed {
    char *text;
    size_t size, capacity;
    bool failed;
} printed;

/* jansson passes over some of the failures that it is told of here, so they are remembered. */
static int print_piece(const char *piece, size_t size, void *arg) {
    printed *p = arg;
    if (p->failed) {
        return -1;
    }
    if (p->capacity - p->size <= size) { /* room for the NUL, too */
        const size_t capacity = 2 * (p->size + size) + 1024;
        char *larger = realloc(p->text, capacity);
        if (!larger) {
            p->failed = true;
            return -1;
        }
        p->text = larger;
        p->capacity = capacity;
    }
    memcpy(p->text + p->size, piece, size);
    p->size += size;
    p->text[p->size] = 0;
    return 0;
}

char *json_print(const json_t *value, size_t flags) {
    printed p = {0};
    if (json_dump_callback(value, print_piece, &p, flags) != 0 || p.failed) {
        free(p.text);
        return NULL;
    }
    return p.text;
}
