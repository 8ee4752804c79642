#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Texts quote names and values from files: whatever could upset a terminal or a JSON reply becomes a question mark, as does a
 * character that the end of the text cuts in two. */
static void make_printable(char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t length = utf8_decode(text + i, n - i, &code);
        bool given = length == 3 && memcmp(text + i, "\xef\xbf\xbd", 3) == 0; /* U+FFFD itself, not a sign of damage */
        if ((code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7f && code < 0xa0) || (code == 0xfffd && !given)) {
            memset(text + i, '?', length);
        }
        i += length;
    }
}

omni_status fail(omni_error *err, omni_status code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        make_printable(err->text);
    }
    return code;
}

omni_status fail_in(omni_error *err, omni_status code, const char *format, ...) {
    if (err) {
        char text[sizeof err->text];
        memcpy(text, err->text, sizeof text);
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        size_t used = strlen(err->text), room = sizeof err->text - used;
        snprintf(err->text + used, room, ": %.*s", (int)room, text);
        make_printable(err->text);
        err->code = code;
    }
    return code;
}
