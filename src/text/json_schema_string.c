/* Patterns and formats of strings. */
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "text/json_schema_parts.h"

void schema_put_literal(text_buffer *out, const char *s, size_t n) {
    text_puts(out, "\"");
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)s[i];
        if (c == '"' || c == '\\') {
            text_put(out, "\\", 1);
            text_put(out, s + i, 1);
        } else if (c < 0x20 || c == 0x7f) {
            char text[8];
            snprintf(text, sizeof text, "\\x%02x", c);
            text_puts(out, text);
        } else {
            text_put(out, s + i, 1);
        }
    }
    text_puts(out, "\"");
}

/* ---- patterns ---- */

enum { LAST_CODE = 0x10ffff, MOST_DEPTH = 50, MOST_TIMES = 10000, ANY = -1 };

typedef struct range {
    uint32_t low, high;
} range;

enum { MOST_RANGES = 400 };
typedef struct set {
    range r[MOST_RANGES];
    int count;
} set;

typedef struct reader {
    const char *s;
    text_buffer *out;
    omni_error *err;
    const char *pattern;
    int depth;
} reader;

/* Characters that a match has. */
typedef struct lengths {
    int64_t least, most;
} lengths;

static omni_status refuse(const reader *p, const char *what) {
    return fail(p->err, OMNI_ERR_FORMAT, "at its character %d, %s", (int)(p->s - p->pattern) + 1, what);
}

static omni_status add(reader *p, set *x, uint32_t low, uint32_t high) {
    if (x->count == MOST_RANGES) {
        return refuse(p, "a class has too many ranges");
    }
    x->r[x->count++] = (range){low, high};
    return OMNI_OK;
}

static int by_low(const void *a, const void *b) {
    const range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* All characters up to last that are in none of the ranges, in their place. */
static void turn(set *x, uint32_t last) {
    set out = {.count = 0};
    uint32_t low = 0;
    qsort(x->r, (size_t)x->count, sizeof *x->r, by_low);
    for (int i = 0; i < x->count; i++) {
        if (x->r[i].low > low && low <= last) {
            out.r[out.count++] = (range){low, x->r[i].low - 1 < last ? x->r[i].low - 1 : last};
        }
        low = x->r[i].high + 1 > low ? x->r[i].high + 1 : low;
    }
    if (low <= last && out.count < MOST_RANGES) {
        out.r[out.count++] = (range){low, last};
    }
    *x = out;
}

static void put_code(text_buffer *out, uint32_t c) {
    char text[16];
    snprintf(text, sizeof text, c < 0x80 ? "\\x%02x" : "\\U%08x", c);
    text_puts(out, text);
}

/* One character of the set, as a JSON string holds it. */
static omni_status put_set(reader *p, const set *x) {
    static const struct {
        uint32_t code;
        const char *written;
    } escaped[] = {{'"', "\"\\\\\\\"\""}, {'\\', "\"\\\\\\\\\""}, {'\n', "\"\\\\n\""}, {'\r', "\"\\\\r\""},
                   {'\t', "\"\\\\t\""},   {'\b', "\"\\\\b\""},    {'\f', "\"\\\\f\""}};
    bool any = false, open = false;
    text_puts(p->out, " (");
    for (int i = 0; i < x->count; i++) {
        /* without control characters, ", \ and DEL; in two or three pieces */
        static const range plain[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x7e}, {0x80, 0xd7ff}, {0xe000, LAST_CODE}};
        for (size_t k = 0; k < sizeof plain / sizeof *plain; k++) {
            const uint32_t low = x->r[i].low > plain[k].low ? x->r[i].low : plain[k].low,
                           high = x->r[i].high < plain[k].high ? x->r[i].high : plain[k].high;
            if (low <= high) {
                text_puts(p->out, open ? "" : "[");
                put_code(p->out, low);
                text_puts(p->out, "-");
                put_code(p->out, high);
                any = open = true;
            }
        }
    }
    text_puts(p->out, open ? "]" : "");
    for (size_t k = 0; k < sizeof escaped / sizeof *escaped; k++) {
        for (int i = 0; i < x->count; i++) {
            if (escaped[k].code >= x->r[i].low && escaped[k].code <= x->r[i].high) {
                text_puts(p->out, any ? " | " : "");
                text_puts(p->out, escaped[k].written);
                any = true;
                break;
            }
        }
    }
    text_puts(p->out, ")");
    return any ? OMNI_OK : refuse(p, "a class has no character that can be written");
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static omni_status read_hex(reader *p, int digits, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < digits; i++, p->s++) {
        if (hex_digit(*p->s) < 0) {
            return refuse(p, "an escape has too few hexadecimal digits");
        }
        *code = *code << 4 | (uint32_t)hex_digit(*p->s);
    }
    return *code < 0xd800 || *code > 0xdfff ? OMNI_OK : refuse(p, "halves of surrogate pairs are not taken");
}

/* \d and its like: the ASCII characters alone, since implementations differ over the others. */
static omni_status read_named(reader *p, char c, set *x) {
    set named = {.count = 0};
    const char kind = c | 0x20;
    if (kind == 'd') {
        named = (set){{{'0', '9'}}, 1};
    } else if (kind == 'w') {
        named = (set){{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, 4};
    } else {
        named = (set){{{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}}, 3}; /* \v has no short escape */
    }
    if (c != kind) {
        if (kind == 's') {
            named = (set){{{'\t', '\r'}, {0x1c, 0x20}}, 2};
        }
        turn(&named, 0x7f);
    }
    for (int i = 0; i < named.count; i++) {
        TRY(add(p, x, named.r[i].low, named.r[i].high));
    }
    return OMNI_OK;
}

/* Behind a backslash. *named: it stands for several characters, which were added to x; else *code is the one. */
static omni_status read_escape(reader *p, set *x, uint32_t *code, bool *named) {
    const char c = *p->s;
    static const char letters[] = "nrtfv", means[] = "\n\r\t\f\v";
    *named = c && strchr("dDwWsS", c);
    if (*named) {
        p->s++;
        return read_named(p, c, x);
    }
    const char *found = c ? strchr(letters, c) : NULL;
    if (found) {
        *code = (uint8_t)means[found - letters];
        p->s++;
        return OMNI_OK;
    }
    if (c == 'x' || c == 'u') {
        p->s++;
        return read_hex(p, c == 'x' ? 2 : 4, code);
    }
    if (!c || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (uint8_t)c >= 0x80) {
        return refuse(p, "this escape is not supported (\\b, \\p, back references and their like)");
    }
    *code = (uint8_t)c;
    p->s++;
    return OMNI_OK;
}

static omni_status read_one(reader *p, set *x, uint32_t *code, bool *named) {
    *named = false;
    if (*p->s == '\\') {
        p->s++;
        return read_escape(p, x, code, named);
    }
    p->s += utf8_decode(p->s, strlen(p->s), code);
    return OMNI_OK;
}

static omni_status read_class(reader *p, set *x) {
    const bool turned = *++p->s == '^';
    uint32_t last = LAST_CODE;
    p->s += turned;
    while (*p->s && *p->s != ']') {
        uint32_t low = 0, high;
        bool named, ends;
        const char *at = p->s;
        TRY(read_one(p, x, &low, &named));
        if (named && turned) {
            if (at[1] < 'a') {
                return refuse(p, "\\D, \\W and \\S in a class that begins with ^ are not supported");
            }
            last = 0x7f;
        }
        if (named) {
            continue;
        }
        high = low;
        if (p->s[0] == '-' && p->s[1] && p->s[1] != ']') {
            p->s++;
            TRY(read_one(p, x, &high, &ends));
            if (ends || high < low) {
                return refuse(p, "a range of a class has no order");
            }
        }
        TRY(add(p, x, low, high));
    }
    if (!*p->s) {
        return refuse(p, "[ is not closed");
    }
    p->s++;
    if (turned) {
        turn(x, last);
    }
    return OMNI_OK;
}

static omni_status read_choice(reader *p, bool top, lengths *n);

static omni_status read_group(reader *p, lengths *n) {
    p->s++;
    if (p->s[0] == '?') {
        if (p->s[1] == ':') {
            p->s += 2;
        } else if (p->s[1] == '<' && p->s[2] && !strchr("=!", p->s[2]) && strchr(p->s, '>')) {
            p->s = strchr(p->s, '>') + 1;
        } else {
            return refuse(p, "looking ahead or behind is not supported");
        }
    }
    if (++p->depth > MOST_DEPTH) {
        return refuse(p, "groups are nested too deep");
    }
    TRY(read_choice(p, false, n));
    p->depth--;
    if (*p->s != ')') {
        return refuse(p, "( is not closed");
    }
    p->s++;
    return OMNI_OK;
}

static omni_status read_atom(reader *p, lengths *n) {
    set x = {.count = 0};
    *n = (lengths){1, 1};
    if (*p->s == '(') {
        return read_group(p, n);
    }
    if (*p->s == '[') {
        TRY(read_class(p, &x));
    } else if (*p->s == '.') {
        p->s++;
        x = (set){{{'\n', '\n'}, {'\r', '\r'}, {0x85, 0x85}, {0x2028, 0x2029}}, 4};
        turn(&x, LAST_CODE);
    } else if (strchr("^$", *p->s)) {
        return refuse(p, "^ and $ are supported only where the whole pattern or one of its alternatives begins and ends");
    } else if (strchr("*+?{}", *p->s)) {
        return refuse(p, "there is nothing to repeat");
    } else {
        uint32_t code = 0;
        bool named;
        TRY(read_one(p, &x, &code, &named));
        if (!named) {
            TRY(add(p, &x, code, code));
        }
    }
    return put_set(p, &x);
}

static bool read_times(reader *p, int64_t *low, int64_t *high) {
    char *end;
    if (*p->s != '{' || p->s[1] < '0' || p->s[1] > '9') {
        return false;
    }
    *low = strtoll(p->s + 1, &end, 10);
    *high = *low;
    if (*end == ',') {
        *high = end[1] == '}' ? ANY : end[1] >= '0' && end[1] <= '9' ? strtoll(end + 1, &end, 10) : -2;
        end += *high == ANY;
    }
    p->s = end;
    return *end == '}' && *high >= ANY;
}

static int64_t times(int64_t a, int64_t b) {
    return a == ANY || b == ANY ? (a == 0 || b == 0 ? 0 : ANY) : a > INT32_MAX || b > INT32_MAX ? INT32_MAX : a * b;
}

static omni_status read_term(reader *p, lengths *n) {
    int64_t low = 1, high = 1;
    char text[64];
    TRY(read_atom(p, n));
    if (*p->s == '{') {
        if (!read_times(p, &low, &high)) {
            return refuse(p, "a repetition is {m}, {m,} or {m,n}");
        }
    } else if (*p->s && strchr("*+?", *p->s)) {
        low = *p->s == '+';
        high = *p->s == '?' ? 1 : ANY;
    } else {
        return OMNI_OK;
    }
    p->s++;
    if (low > MOST_TIMES || high > MOST_TIMES || (high != ANY && high < low)) {
        return refuse(p, "a repetition has no order, or is more than 10000 times");
    }
    if (*p->s == '?') { /* as few as can be: the same texts */
        p->s++;
    }
    if (*p->s && strchr("*+?{", *p->s)) {
        return refuse(p, "a repetition of a repetition needs a group");
    }
    if (high == ANY) {
        snprintf(text, sizeof text, "{%lld,}", (long long)low);
    } else {
        snprintf(text, sizeof text, "{%lld,%lld}", (long long)low, (long long)high);
    }
    text_puts(p->out, text);
    *n = (lengths){times(n->least, low), times(n->most, high)};
    return OMNI_OK;
}

static int64_t sum(int64_t a, int64_t b) {
    return a == ANY || b == ANY ? ANY : a + b > INT32_MAX ? INT32_MAX : a + b;
}

/* top: the whole pattern, which is looked for anywhere unless ^ and $ say otherwise. */
static omni_status read_choice(reader *p, bool top, lengths *n) {
    bool first = true;
    text_puts(p->out, " (");
    for (bool more = true; more; first = false) {
        lengths own = {0, 0}, term;
        const bool begins = top && *p->s == '^';
        p->s += begins;
        text_puts(p->out, first ? "" : " |");
        if (top && !begins) {
            text_puts(p->out, " json-char*");
            own.most = ANY;
        }
        text_puts(p->out, " \"\"");
        while (*p->s && *p->s != '|' && *p->s != ')' && !(top && *p->s == '$' && (!p->s[1] || p->s[1] == '|'))) {
            TRY(read_term(p, &term));
            own = (lengths){sum(own.least, term.least), sum(own.most, term.most)};
        }
        const bool ends = top && *p->s == '$';
        p->s += ends;
        if (top && !ends) {
            text_puts(p->out, " json-char*");
            own.most = ANY;
        }
        *n = first ? own
                   : (lengths){own.least < n->least ? own.least : n->least, own.most == ANY || n->most == ANY ? ANY
                                                                            : own.most > n->most              ? own.most
                                                                                                              : n->most};
        more = *p->s == '|';
        p->s += more;
    }
    text_puts(p->out, ")");
    return OMNI_OK;
}

omni_status schema_put_pattern(text_buffer *out, const char *pattern, int64_t *least, int64_t *most, omni_error *err) {
    reader p = {.s = pattern, .pattern = pattern, .out = out, .err = err};
    lengths n;
    TRY(read_choice(&p, true, &n));
    *least = n.least;
    *most = n.most;
    return *p.s ? refuse(&p, "there is no ( for this )") : OMNI_OK;
}

/* ---- formats ---- */

#define YEAR "([0-9]{3} [1-9] | [0-9]{2} [1-9] \"0\" | [0-9] [1-9] \"00\" | [1-9] \"000\")"
#define LEAP_PART "(\"0\" [48] | [2468] [048] | [13579] [26])"
#define DATE                                                                                                                                         \
    "(" YEAR                                                                                                                                         \
    " \"-\" ((\"0\" [13578] | \"1\" [02]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01]) | (\"0\" [469] | \"11\") \"-\" (\"0\" [1-9] | [12] "         \
    "[0-9] | \"30\") | \"02-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8])) | ([0-9]{2} " LEAP_PART " | " LEAP_PART " \"00\") \"-02-29\")"
#define HOUR "(([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])"
#define TIME "(" HOUR " \":\" [0-5] [0-9] (\".\" [0-9]{1,6})? (\"Z\" | [-+] " HOUR "))"
#define HEX "[0-9a-fA-F]"
#define OCTET "(\"25\" [0-5] | \"2\" [0-4] [0-9] | \"1\" [0-9]{2} | [1-9]? [0-9])"
#define IPV4 "(" OCTET " (\".\" " OCTET "){3})"
#define GROUP "[0-9a-fA-F]{1,4}"
#define MORE(n) "(\":\" " GROUP "){" #n "}"
#define AFTER(n) "(" GROUP " (\":\" " GROUP "){0," #n "})?"
#define IPV6                                                                                                                                         \
    "(" GROUP " " MORE(7) " | \"::\" " AFTER(6) " | " GROUP " \"::\" " AFTER(5) " | " GROUP " " MORE(1) " \"::\" " AFTER(4) " | " GROUP " " MORE(    \
        2) " \"::\" " AFTER(3) " | " GROUP " " MORE(3) " \"::\" " AFTER(2) " | " GROUP                                                               \
                                                                           " " MORE(4) " \"::\" " AFTER(1) " | " GROUP " " MORE(5) " \"::\" " AFTER( \
                                                                               0) " | " GROUP " " MORE(6) " \"::\")"
#define LABEL "([a-zA-Z0-9] ([a-zA-Z0-9-]{0,30} [a-zA-Z0-9])?)"
#define HOST "(" LABEL " (\".\" " LABEL "){0,6})"
#define ATEXT "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
#define PCHAR "([a-zA-Z0-9._~!$&'()*+,;=:@-] | \"%\" " HEX "{2})"

bool schema_put_format(text_buffer *out, const char *format, int64_t *least, int64_t *most) {
    static const struct {
        const char *name, *term;
        int64_t least, most;
    } formats[] = {
        {"date", DATE, 10, 10},
        {"time", TIME, 9, 21},
        {"date-time", "(" DATE " \"T\" " TIME ")", 20, 32},
        {"uuid", "(" HEX "{8} \"-\" " HEX "{4} \"-\" " HEX "{4} \"-\" " HEX "{4} \"-\" " HEX "{12})", 36, 36},
        {"ipv4", IPV4, 7, 15},
        {"ipv6", IPV6, 2, 39},
        {"hostname", HOST, 1, 230},
        {"email", "(" ATEXT " (\".\" " ATEXT "){0,2} \"@\" " HOST ")", 3, 293},
        {"uri",
         "((\"http\" \"s\"? | \"ftp\") \"://\" " HOST " (\":\" [1-9] [0-9]{0,3})? (\"/\" " PCHAR "*)* (\"?\" (" PCHAR " | [/?])*)? (\"#\" (" PCHAR
         " | [/?])*)?)",
         7, ANY},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(format, formats[i].name) == 0) {
            text_puts(out, formats[i].term);
            *least = formats[i].least;
            *most = formats[i].most;
            return true;
        }
    }
    return false;
}
