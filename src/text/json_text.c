#include "text/json_text.h"

#include <stdio.h>

#include "text/text_buffer.h"

static void put_string(text_buffer *b, const char *s, size_t n) {
    text_puts(b, "\"");
    size_t done = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        text_put(b, s + done, i - done);
        done = i + 1;
        const char *short_form = c == '"'    ? "\\\""
                                 : c == '\\' ? "\\\\"
                                 : c == '\n' ? "\\n"
                                 : c == '\r' ? "\\r"
                                 : c == '\t' ? "\\t"
                                 : c == '\b' ? "\\b"
                                 : c == '\f' ? "\\f"
                                             : NULL;
        char code[8];
        snprintf(code, sizeof code, "\\u%04x", (unsigned)c);
        text_puts(b, short_form ? short_form : code);
    }
    text_put(b, s + done, n - done);
    text_puts(b, "\"");
}

/* Python's repr of a float. Only the digits are taken from what printf gives, since its decimal point depends on the locale. */
static void put_real(text_buffer *b, double v) {
    char printed[40], digits[20];
    int exponent = 0;
    size_t count = 0;
    for (int precision = 0; precision <= 16; precision++) {
        snprintf(printed, sizeof printed, "%.*e", precision, v);
        if (strtod(printed, NULL) == v) {
            break;
        }
    }
    char *e = strchr(printed, 'e');
    for (const char *p = printed; e && p < e && count < sizeof digits; p++) {
        if (*p >= '0' && *p <= '9') {
            digits[count++] = *p;
        }
    }
    exponent = e ? atoi(e + 1) : 0;
    while (count > 1 && digits[count - 1] == '0') {
        count--;
    }
    text_puts(b, printed[0] == '-' ? "-" : "");
    if (exponent >= -4 && exponent < 16) {
        if (exponent < 0) {
            text_puts(b, "0.");
            text_put(b, "000", (size_t)(-exponent - 1));
            text_put(b, digits, count);
            return;
        }
        size_t whole = (size_t)exponent + 1;
        text_put(b, digits, count < whole ? count : whole);
        text_put(b, "0000000000000000", count < whole ? whole - count : 0);
        text_puts(b, ".");
        text_put(b, count > whole ? digits + whole : "0", count > whole ? count - whole : 1);
        return;
    }
    text_put(b, digits, 1);
    text_puts(b, count > 1 ? "." : "");
    text_put(b, digits + 1, count - 1);
    snprintf(printed, sizeof printed, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    text_puts(b, printed);
}

/* The depth of what jansson parses is limited, and with it this recursion. */
static void put_value(text_buffer *b, const json_t *value) {
    char number[32];
    size_t i;
    const char *separator = "", *key;
    json_t *item;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        text_puts(b, "{");
        for (void *at = json_object_iter((json_t *)(uintptr_t)value); at; at = json_object_iter_next((json_t *)(uintptr_t)value, at)) {
            key = json_object_iter_key(at);
            text_puts(b, separator);
            put_string(b, key, strlen(key));
            text_puts(b, ": ");
            put_value(b, json_object_iter_value(at));
            separator = ", ";
        }
        text_puts(b, "}");
        break;
    case JSON_ARRAY:
        text_puts(b, "[");
        json_array_foreach(value, i, item) {
            text_puts(b, separator);
            put_value(b, item);
            separator = ", ";
        }
        text_puts(b, "]");
        break;
    case JSON_STRING:
        put_string(b, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        text_puts(b, number);
        break;
    case JSON_REAL:
        put_real(b, json_real_value(value));
        break;
    case JSON_TRUE:
        text_puts(b, "true");
        break;
    case JSON_FALSE:
        text_puts(b, "false");
        break;
    case JSON_NULL:
        text_puts(b, "null");
        break;
    }
}

char *json_text(const json_t *value) {
    text_buffer b = {0};
    put_value(&b, value);
    if (b.failed) {
        text_buffer_free(&b);
    }
    return b.data;
}
