/* Classes of code points for NFC and the pre-tokenizer, and NFC itself. */
#ifndef OMNI_TEXT_UNICODE_CLASS_H
#define OMNI_TEXT_UNICODE_CLASS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* One byte a code point: a class of the pre-tokenizer's pattern, and whether NFC may touch it. */
enum {
    CLASS_OTHER = 0,
    CLASS_LETTER = 1, /* \p{L} */
    CLASS_NUMBER = 2, /* \p{N} */
    CLASS_SPACE = 3,  /* \s */
    CLASS_MASK = 3,
    CLASS_NFC_ACTIVE = 4,
    UNICODE_SIZE = 0x110000,
};

/* UNICODE_SIZE bytes, the caller's to free(). NULL when out of memory. */
uint8_t *unicode_classes(void);

/* Decodes the character at s, which must be valid UTF-8; *length is 1 to 4. */
static inline uint32_t utf8_next(const char *text, size_t *length) {
    const uint8_t *s = (const uint8_t *)text;
    if (s[0] < 0x80) {
        *length = 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *length = 2;
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    }
    if (s[0] < 0xF0) {
        *length = 3;
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    }
    *length = 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

/* The text in NFC as the reference tokenizer understands it: malformed UTF-8 replaced by U+FFFD, marks newer than its tables left where
 * they are. *out is s itself when nothing changes, else memory that the caller must free(). Linear in n but for the sorting of
 * marks on one letter, which is a counting sort when there are many. */
omni_status unicode_nfc(const uint8_t *classes, const char *s, size_t n, char **out, size_t *out_n, omni_error *err);

#endif
