#include "text/pretokenize.h"

#include <stdbool.h>

#include "text/unicode_class.h"

static unsigned class_at(const uint8_t *classes, const char *s, size_t *length) {
    return classes[utf8_next(s, length)] & CLASS_MASK;
}

/* End of the run of one class that starts at or after i. */
static size_t run_end(const uint8_t *classes, const char *s, size_t i, size_t n, unsigned class) {
    size_t length;
    while (i < n && class_at(classes, s + i, &length) == class) {
        i += length;
    }
    return i;
}

static bool is_newline(char c) {
    return c == '\r' || c == '\n';
}

/* Length of an English contraction after the apostrophe at s: (?i:'s|'t|'re|'ve|'m|'ll|'d), or 0. */
static size_t contraction(const char *s, size_t n) {
    if (n < 2) {
        return 0;
    }
    char a = (char)(s[1] | 0x20), b = (char)(n > 2 ? s[2] | 0x20 : 0);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 2;
    }
    if (n > 2 && (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))) {
        return 3;
    }
    /* Ignoring case, s is also U+017F, the long s. */
    return n > 2 && s[1] == '\xC5' && s[2] == '\xBF' ? 3 : 0;
}

/* The three alternatives for whitespace that no letter or symbol takes: up to the last newline of the run if it has one; else the run
 * at the end of the text; else the run less its last character, which may lead the next piece; else that one character. */
static size_t whitespace(const uint8_t *classes, const char *s, size_t n) {
    size_t end = 0, last = 0, newline = 0, length;
    while (end < n && class_at(classes, s + end, &length) == CLASS_SPACE) {
        last = end;
        end += length;
        if (is_newline(s[last])) {
            newline = end;
        }
    }
    if (newline > 0) {
        return newline;
    }
    return end == n || last == 0 ? end : last;
}

size_t pretoken_length(const uint8_t *classes, const char *s, size_t n) {
    size_t first;
    unsigned class = class_at(classes, s, &first);
    if (class == CLASS_LETTER) {
        return run_end(classes, s, first, n, CLASS_LETTER);
    }
    if (class == CLASS_NUMBER) {
        return first;
    }
    if (s[0] == '\'') {
        size_t k = contraction(s, n);
        if (k > 0) {
            return k;
        }
    }
    size_t second = 0;
    unsigned next = first < n ? class_at(classes, s + first, &second) : CLASS_SPACE;
    if (next == CLASS_LETTER && !is_newline(s[0])) {
        return run_end(classes, s, first + second, n, CLASS_LETTER);
    }
    if (class == CLASS_OTHER || (s[0] == ' ' && next == CLASS_OTHER)) {
        size_t i = run_end(classes, s, first, n, CLASS_OTHER);
        while (i < n && is_newline(s[i])) {
            i++;
        }
        return i;
    }
    return whitespace(classes, s, n);
}
