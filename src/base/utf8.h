/* UTF-8: decoding with replacement, and cutting a byte stream at character boundaries. */
#ifndef OMNI_BASE_UTF8_H
#define OMNI_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes the character at s (n > 0 bytes left) into *code and returns its length in bytes. A malformed sequence gives
 * U+FFFD and the length of its maximal subpart (as the Unicode standard recommends and Python's errors="replace" does). */
size_t utf8_decode(const char *s, size_t n, uint32_t *code);
/* Writes 1 to 4 bytes; returns how many. */
size_t utf8_encode(uint32_t code, char out[4]);
bool utf8_valid(const char *s, size_t n);
/* Valid and without control characters, line ends included: fit for a terminal. */
bool utf8_plain(const char *s, size_t n);
/* Bytes at the start of s that end at a character boundary: n, less an unfinished but so far valid sequence at the end. */
size_t utf8_complete(const char *s, size_t n);
/* A copy of s with every malformed sequence replaced by U+FFFD, NUL-terminated; the caller frees it. NULL when out of memory. */
char *utf8_repair(const char *s, size_t n, size_t *out_n);

#endif
