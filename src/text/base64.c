#include "text/base64.h"

#include <stdlib.h>
#include <string.h>

static int value_of(char c) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(alphabet, c) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

omni_status base64_decode(const char *s, size_t n, size_t limit, uint8_t **out, size_t *out_n, omni_error *err) {
    int8_t values[256];
    for (int c = 0; c < 256; c++) {
        values[c] = (int8_t)value_of((char)c);
    }
    *out = NULL;
    *out_n = 0;
    if (n / 4 > limit / 3 + 1) {
        return fail(err, OMNI_ERR_LIMIT, "%zu bytes of base64 are over the limit of %zu bytes decoded", n, limit);
    }
    uint8_t *data = malloc(n / 4 * 3 + 4);
    if (!data) {
        return fail(err, OMNI_ERR_MEMORY, "no memory for %zu bytes of base64", n);
    }
    size_t used = 0, digits = 0, padding = 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == ' ' || c == '\n' || c == '\r' || c == '\t') {
            continue;
        }
        if (c == '=' && digits % 4 + padding >= 2 && padding < 2) {
            padding++;
            continue;
        }
        int v = values[(uint8_t)c];
        if (v < 0 || padding > 0) {
            free(data);
            return fail(err, OMNI_ERR_FORMAT, "not base64: byte %zu is 0x%02X", i, (unsigned)(uint8_t)c);
        }
        bits = bits << 6 | (uint32_t)v;
        digits++;
        if (digits % 4 == 0) {
            data[used++] = (uint8_t)(bits >> 16);
            data[used++] = (uint8_t)(bits >> 8);
            data[used++] = (uint8_t)bits;
        }
    }
    if (digits % 4 == 1 || (padding > 0 && (digits + padding) % 4 != 0)) {
        free(data);
        return fail(err, OMNI_ERR_FORMAT, "not base64: it ends after %zu digits", digits);
    }
    if (digits % 4 >= 2) {
        bits <<= digits % 4 == 2 ? 12 : 6;
        data[used++] = (uint8_t)(bits >> 16);
        if (digits % 4 == 3) {
            data[used++] = (uint8_t)(bits >> 8);
        }
    }
    if (used > limit) {
        free(data);
        return fail(err, OMNI_ERR_LIMIT, "%zu bytes decoded from base64 are over the limit of %zu", used, limit);
    }
    *out = data;
    *out_n = used;
    return OMNI_OK;
}
