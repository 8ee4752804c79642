#define _GNU_SOURCE
#include "cli/terminal_text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t utf8_character(const char *s, size_t n, uint32_t *code) {
    const unsigned char *b = (const unsigned char *)s;
    size_t length = b[0] < 0x80 ? 1 : b[0] < 0xC2 ? 0 : b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : b[0] < 0xF5 ? 4 : 0;
    if (length == 0 || length > n) {
        return 0;
    }
    uint32_t c = length == 1 ? b[0] : b[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((b[i] & 0xC0) != 0x80) {
            return 0;
        }
        c = c << 6 | (b[i] & 0x3F);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[length] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) {
        return 0;
    }
    *code = c;
    return length;
}

bool obeyed_by_terminals(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

bool write_text(FILE *to, const char *text, size_t size) {
    if (!isatty(fileno(to))) {
        return fwrite(text, 1, size, to) == size;
    }
    bool ok = true;
    for (size_t i = 0, length; ok && i < size; i += length) {
        uint32_t c = 0;
        length = utf8_character(text + i, size - i, &c);
        if (length == 0) {
            ok = fprintf(to, "\\x%02x", (unsigned char)text[i]) > 0;
            length = 1;
        } else if (c == '\r' && i + 1 < size && text[i + 1] == '\n') {
            continue; /* a line end as others write it */
        } else if (c != '\n' && c != '\t' && obeyed_by_terminals(c)) {
            ok = fprintf(to, "\\u%04x", c) > 0;
        } else {
            ok = fwrite(text + i, 1, length, to) == length;
        }
    }
    return ok;
}

static void print_arguments(FILE *to, const char *format, va_list args) {
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    if (n < 0) { /* no memory: then at least what it is about */
        fputs(format, to);
        return;
    }
    write_text(to, text, (size_t)n);
    free(text);
}

void print_text(FILE *to, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_arguments(to, format, args);
    va_end(args);
}

void print_error(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_arguments(stderr, format, args);
    va_end(args);
}
