#include "server/text.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void bytes_add(bytes *b, const void *data, size_t size) {
    if (b->failed || size == 0) {
        return;
    }
    if (b->size + size > b->capacity) {
        const size_t capacity = 2 * (b->size + size) + 64;
        char *grown = realloc(b->data, capacity);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void bytes_add_pcm16(bytes *b, const float *samples, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const float x = samples[i] > 1 ? 1 : samples[i] < -1 ? -1 : samples[i];
        const int16_t v = (int16_t)lrintf(x * 32767);
        const unsigned char two[2] = {(unsigned char)(v & 255), (unsigned char)((uint16_t)v >> 8)};
        bytes_add(b, two, sizeof two);
    }
}

void bytes_free(bytes *b) {
    free(b->data);
    *b = (bytes){0};
}

json_t *text_value(const char *text, size_t size) {
    json_t *whole = json_stringn(text ? text : "", size);
    if (whole || size == 0) {
        return whole;
    }
    bytes good = {0};
    for (size_t at = 0; at < size;) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(size - at), &c);
        bytes_add(&good, n > 0 ? text + at : "\xef\xbf\xbd", n > 0 ? (size_t)n : 3);
        at += n > 0 ? (size_t)n : 1;
    }
    whole = good.failed ? NULL : json_stringn(good.data, good.size);
    bytes_free(&good);
    return whole;
}

json_t *base64_value(const void *head, size_t head_size, const void *data, size_t size) {
    const size_t all = head_size + size;
    unsigned char *joined = malloc(all + 1), *text = all < INT32_MAX / 2 ? malloc(4 * (all / 3 + 1) + 1) : NULL;
    json_t *value = NULL;
    if (joined && text) {
        if (head_size > 0) {
            memcpy(joined, head, head_size);
        }
        if (size > 0) {
            memcpy(joined + head_size, data, size);
        }
        const int n = EVP_EncodeBlock(text, joined, (int)all);
        value = json_stringn_nocheck((const char *)text, (size_t)n);
    }
    free(joined);
    free(text);
    return value;
}
