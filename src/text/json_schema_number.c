#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/json_schema_parts.h"

/* Numbers with bounds are written as multiples of a power of ten, 15 digits at most: then different texts are different doubles, and which of them
 * lie between the bounds can be said digit by digit. */
enum { MOST_DIGITS = 15, MOST_FRACTION = 12 };

typedef struct digits {
    char low[MOST_DIGITS + 4], high[MOST_DIGITS + 4]; /* of the same length */
    int whole, total;                                 /* digits before the point, and all */
} digits;

static void put_class(text_buffer *out, int a, int b) {
    char text[16];
    snprintf(text, sizeof text, a == b ? "[%d]" : "[%d-%d]", a, b);
    text_puts(out, text);
}

static void put_repeat(text_buffer *out, const char *what, int low, int high) {
    char text[64];
    if (high > 0) {
        snprintf(text, sizeof text, " %s{%d,%d}", what, low, high);
        text_puts(out, text);
    }
}

/* The digits from i on, when those before were equal to the lower bound's (at_low), to the higher one's (at_high), both, or between. */
static void put_from(text_buffer *out, const digits *d, int i, bool at_low, bool at_high);

/* The point and what follows, or nothing where that means zeros that are allowed. */
static void put_point(text_buffer *out, const digits *d, int i, bool at_low, bool at_high) {
    bool may_end = true; /* the rest as zeros is not below the lower bound */
    for (int k = i; at_low && k < d->total; k++) {
        may_end &= d->low[k] == '0';
    }
    if (i == d->total) {
        return;
    }
    text_puts(out, may_end ? " (" : " ");
    if (i == d->whole) {
        text_puts(out, "\".\"");
    }
    put_from(out, d, i, at_low, at_high);
    text_puts(out, may_end ? ")?" : "");
}

static void put_rest(text_buffer *out, const digits *d, int i) {
    if (i < d->whole) {
        put_repeat(out, "[0-9]", d->whole - i, d->whole - i);
        i = d->whole;
        if (d->total > i) {
            text_puts(out, " (\".\"");
            put_repeat(out, "[0-9]", 1, d->total - i);
            text_puts(out, ")?");
        }
    } else if (i == d->whole) {
        put_repeat(out, "[0-9]", 1, d->total - i);
    } else {
        put_repeat(out, "[0-9]", 0, d->total - i);
    }
}

static void put_next(text_buffer *out, const digits *d, int i, bool at_low, bool at_high) {
    if (i < d->whole) {
        put_from(out, d, i, at_low, at_high);
    } else if (at_low || at_high) {
        put_point(out, d, i, at_low, at_high);
    } else if (i == d->whole && d->total > i) {
        text_puts(out, " (\".\"");
        put_repeat(out, "[0-9]", 1, d->total - i);
        text_puts(out, ")?");
    } else {
        put_rest(out, d, i);
    }
}

static void put_from(text_buffer *out, const digits *d, int i, bool at_low, bool at_high) {
    const int a = at_low ? d->low[i] - '0' : 0, b = at_high ? d->high[i] - '0' : 9;
    text_puts(out, " (");
    if (at_low && at_high && a == b) {
        put_class(out, a, a);
        put_next(out, d, i + 1, true, true);
    } else {
        bool any = false;
        if (at_low) {
            put_class(out, a, a);
            put_next(out, d, i + 1, true, false);
            any = true;
        }
        const int from = a + at_low, to = b - at_high;
        if (from <= to) {
            text_puts(out, any ? " | " : "");
            put_class(out, from, to);
            put_next(out, d, i + 1, false, false);
            any = true;
        }
        if (at_high) {
            text_puts(out, any ? " | " : "");
            put_class(out, b, b);
            put_next(out, d, i + 1, false, true);
        }
    }
    text_puts(out, ")");
}

static int64_t power(int n) {
    int64_t p = 1;
    while (n-- > 0) {
        p *= 10;
    }
    return p;
}

static int length_of(int64_t n) {
    int length = 1;
    while (n >= 10) {
        n /= 10;
        length++;
    }
    return length;
}

static void write_digits(char *out, int n, int64_t value) {
    for (int i = n - 1; i >= 0; i--, value /= 10) {
        out[i] = (char)('0' + value % 10);
    }
}

/* From low to high, not negative, in units of 10^-fraction; one alternative for each number of digits before the point. */
static void put_units(text_buffer *out, const char *sign, int64_t low, int64_t high, int fraction, bool *any) {
    const int64_t unit = power(fraction);
    for (int whole = length_of(low / unit); whole <= length_of(high / unit); whole++) {
        const int64_t least = whole == 1 ? 0 : power(whole - 1) * unit, most = power(whole) * unit - 1;
        digits d = {.whole = whole, .total = whole + fraction};
        write_digits(d.low, d.total, low > least ? low : least);
        write_digits(d.high, d.total, high < most ? high : most);
        text_puts(out, *any ? " | " : "");
        text_puts(out, sign);
        put_from(out, &d, 0, true, true);
        *any = true;
    }
}

static double value_of(int64_t units, int fraction) {
    char text[64];
    const int64_t unit = power(fraction), a = units < 0 ? -units : units;
    snprintf(text, sizeof text, "%s%lld.%0*lld", units < 0 ? "-" : "", (long long)(a / unit), fraction > 0 ? fraction : 1,
             (long long)(fraction > 0 ? a % unit : 0));
    return strtod(text, NULL);
}

/* The first multiple of 10^-fraction that is not below x, or not at or below it. */
static int64_t units_above(double x, bool without, int fraction) {
    int64_t n = (int64_t)floor(x * (double)power(fraction)) - 2;
    while (value_of(n, fraction) < x || (without && value_of(n, fraction) == x)) {
        n++;
    }
    return n;
}

/* Digits behind the point that the bound has. */
static int fraction_of(double x) {
    for (int n = 0; n < MOST_FRACTION; n++) {
        char text[64];
        snprintf(text, sizeof text, "%.*f", n, x);
        if (fabs(x) > 1e15 || strtod(text, NULL) == x) {
            return n;
        }
    }
    return MOST_FRACTION;
}

bool schema_put_number(text_buffer *out, const schema_range *r, bool whole) {
    if (isinf(r->low) && isinf(r->high)) {
        text_puts(out, whole ? "json-integer" : "json-number");
        return true;
    }
    int fraction = 0, before = 1;
    const double bounds[2] = {r->low, r->high};
    for (int i = 0; i < 2; i++) {
        if (isinf(bounds[i])) {
            continue;
        }
        const int own = fraction_of(bounds[i]) + 2;
        fraction = own > fraction ? own : fraction;
        for (double x = fabs(bounds[i]); x >= 10 && before < MOST_DIGITS; x /= 10) {
            before++;
        }
    }
    before = before < MOST_DIGITS ? before + 1 : before; /* room for what rounding adds */
    fraction = fraction < 4 ? 4 : fraction > MOST_FRACTION ? MOST_FRACTION : fraction;
    fraction = whole ? 0 : fraction > MOST_DIGITS - before ? MOST_DIGITS - before : fraction;
    const int64_t most = power(MOST_DIGITS) - 1;
    const double edge = value_of(most, fraction);
    if (r->low > edge || r->high < -edge) {
        return false;
    }
    const int64_t low = r->low <= -edge ? -most : units_above(r->low, r->without_low, fraction);
    const int64_t high = r->high >= edge ? most : -units_above(-r->high, r->without_high, fraction);
    bool any = false;
    if (low > high) {
        return false;
    }
    text_puts(out, "(");
    if (low < 0) {
        put_units(out, "\"-\"", high < 0 ? -high : 1, -low, fraction, &any);
    }
    if (high >= 0) {
        put_units(out, "", low > 0 ? low : 0, high, fraction, &any);
    }
    text_puts(out, ")");
    return true;
}
