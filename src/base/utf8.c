#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { REPLACEMENT = 0xFFFD };

/* Length of the sequence that lead starts (0: never a lead) and the range its second byte must lie in (Unicode table 3-7). */
static size_t lead_length(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xBF;
    if (lead < 0x80) {
        return 1;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
        return 2;
    }
    if (lead >= 0xE0 && lead <= 0xEF) {
        *low = lead == 0xE0 ? 0xA0 : 0x80;
        *high = lead == 0xED ? 0x9F : 0xBF;
        return 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        *low = lead == 0xF0 ? 0x90 : 0x80;
        *high = lead == 0xF4 ? 0x8F : 0xBF;
        return 4;
    }
    return 0;
}

/* Valid bytes of the sequence at s, of at most length; equal to length when the sequence is whole. */
static size_t valid_bytes(const uint8_t *s, size_t n, size_t length, uint8_t low, uint8_t high) {
    size_t i = 1;
    while (i < length && i < n && s[i] >= (i == 1 ? low : 0x80) && s[i] <= (i == 1 ? high : 0xBF)) {
        i++;
    }
    return i;
}

size_t utf8_decode(const char *text, size_t n, uint32_t *code) {
    const uint8_t *s = (const uint8_t *)text;
    uint8_t low, high;
    size_t length = lead_length(s[0], &low, &high);
    *code = REPLACEMENT;
    if (length == 0) {
        return 1;
    }
    size_t got = valid_bytes(s, n, length, low, high);
    if (got < length) {
        return got;
    }
    static const uint8_t lead_mask[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = s[0] & lead_mask[length];
    for (size_t i = 1; i < length; i++) {
        c = c << 6 | (s[i] & 0x3F);
    }
    *code = c;
    return length;
}

size_t utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

bool utf8_valid(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t k = utf8_decode(s + i, n - i, &code);
        if (code == REPLACEMENT && !(k == 3 && memcmp(s + i, "\xEF\xBF\xBD", 3) == 0)) {
            return false;
        }
        i += k;
    }
    return true;
}

bool utf8_plain(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += utf8_decode(s + i, n - i, &code);
        if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            return false;
        }
    }
    return utf8_valid(s, n);
}

size_t utf8_complete(const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t low, high;
        size_t length = lead_length(s[n - back], &low, &high);
        if (length > 1) {
            bool unfinished = back < length && valid_bytes(s + n - back, back, length, low, high) == back;
            return unfinished ? n - back : n;
        }
        if (length == 1) {
            return n;
        }
    }
    return n;
}

char *utf8_repair(const char *s, size_t n, size_t *out_n) {
    char *out = n > (SIZE_MAX - 1) / 3 ? NULL : malloc(n * 3 + 1); /* a replacement is 3 bytes for at least 1 */
    if (!out) {
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        i += utf8_decode(s + i, n - i, &code);
        used += utf8_encode(code, out + used);
    }
    out[used] = 0;
    *out_n = used;
    return out;
}
