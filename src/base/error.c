#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

omni_status fail(omni_error *err, omni_status code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

omni_status fail_in(omni_error *err, omni_status code, const char *format, ...) {
    if (err) {
        char text[sizeof err->text];
        memcpy(text, err->text, sizeof text);
        va_list args;
        va_start(args, format);
        int n = vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        if (n >= 0 && (size_t)n < sizeof err->text) {
            snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", text);
        }
        err->code = code;
    }
    return code;
}
