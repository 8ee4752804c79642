/* Splitting text into the pieces that merges never cross. The pattern is tokenizer.json's:
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} | ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
 * matched by hand: each alternative needs one character of look-ahead at most, where a general engine backtracks. */
#ifndef OMNI_TEXT_PRETOKENIZE_H
#define OMNI_TEXT_PRETOKENIZE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the first piece of s, which holds n > 0 bytes of valid UTF-8; classes as unicode_classes() gives them.
 * At most a constant times the piece's own length is read, or twice that of a run of whitespace. */
size_t pretoken_length(const uint8_t *classes, const char *s, size_t n);

#endif
