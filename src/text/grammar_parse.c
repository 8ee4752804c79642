#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/grammar_tree.h"

enum {
    MOST_TEXT = 8 << 20,
    MOST_DEPTH = 200,      /* parentheses in parentheses */
    MOST_REPEATS = 100000, /* {m,n} */
    MOST_REPEATED = 4,     /* ? * + {} behind one term */
    LAST_CODE = 0x10ffff,
};

typedef struct parser {
    const char *text, *at, *end;
    grammar_find_token *find;
    const void *arg;
    grammar_tree *t;
    omni_error *err;
    int depth;
} parser;

/* ---- places and errors ---- */

void grammar_tree_place(const grammar_tree *t, int32_t at, int32_t *line, int32_t *column) {
    *line = *column = 1;
    for (int32_t i = 0; i < at; i++) {
        if (t->text[i] == '\n') {
            (*line)++;
            *column = 1;
        } else {
            *column += ((uint8_t)t->text[i] & 0xc0) != 0x80;
        }
    }
}

static omni_status wrong_at(const parser *p, const char *at, const char *what) {
    int32_t line, column;
    grammar_tree_place(p->t, (int32_t)(at - p->text), &line, &column);
    return fail(p->err, OMNI_ERR_FORMAT, "grammar, line %d, column %d: %s", line, column, what);
}

static omni_status wrong(const parser *p, const char *what) {
    return wrong_at(p, p->at, what);
}

static omni_status deep_at(const parser *p, const char *at) {
    int32_t line, column;
    grammar_tree_place(p->t, (int32_t)(at - p->text), &line, &column);
    return fail(p->err, OMNI_ERR_LIMIT, "grammar, line %d, column %d: parentheses are nested more than %d deep", line, column, MOST_DEPTH);
}

static omni_status no_memory(const parser *p) {
    return fail(p->err, OMNI_ERR_MEMORY, "out of memory for a grammar");
}

/* ---- the tree ---- */

static bool grow(void **list, int32_t count, int32_t *room, size_t each) {
    if (count < *room) {
        return true;
    }
    const int32_t more = *room ? *room * 2 : 64;
    void *bigger = more > *room ? realloc(*list, (size_t)more * each) : NULL;
    if (!bigger) {
        return false;
    }
    *list = bigger;
    *room = more;
    return true;
}

static omni_status add_node(parser *p, grammar_node node, int32_t *out) {
    grammar_tree *t = p->t;
    if (!grow((void **)&t->nodes, t->node_count, &t->node_room, sizeof *t->nodes)) {
        return no_memory(p);
    }
    node.next = -1;
    t->nodes[t->node_count] = node;
    *out = t->node_count++;
    return OMNI_OK;
}

static omni_status add_range(parser *p, uint32_t low, uint32_t high) {
    grammar_tree *t = p->t;
    if (!grow((void **)&t->ranges, t->range_count, &t->range_room, sizeof *t->ranges)) {
        return no_memory(p);
    }
    t->ranges[t->range_count++] = (grammar_range){low, high};
    return OMNI_OK;
}

/* Appends a child to a parent's list, of which *last is the newest (-1: it has none). */
static void append(parser *p, int32_t *first, int32_t *last, int32_t child) {
    if (*last < 0) {
        *first = child;
    } else {
        p->t->nodes[*last].next = child;
    }
    *last = child;
}

static uint32_t hash_name(const char *s, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (uint8_t)s[i]) * 16777619u;
    }
    return h ^ h >> 15;
}

static omni_status rehash(parser *p) {
    grammar_tree *t = p->t;
    const int32_t room = t->table_room ? t->table_room * 2 : 64;
    int32_t *table = malloc((size_t)room * sizeof *table);
    if (!table) {
        return no_memory(p);
    }
    memset(table, 0xff, (size_t)room * sizeof *table);
    for (int32_t i = 0; i < t->rule_count; i++) {
        uint32_t k = hash_name(t->rules[i].name, t->rules[i].size) & (uint32_t)(room - 1);
        while (table[k] >= 0) {
            k = (k + 1) & (uint32_t)(room - 1);
        }
        table[k] = i;
    }
    free(t->table);
    t->table = table;
    t->table_room = room;
    return OMNI_OK;
}

/* The number of the rule with that name, which need not be defined yet. */
static omni_status find_rule(parser *p, const char *name, size_t size, int32_t *out) {
    grammar_tree *t = p->t;
    if (t->rule_count * 2 >= t->table_room) {
        TRY(rehash(p));
    }
    uint32_t k = hash_name(name, size) & (uint32_t)(t->table_room - 1);
    for (; t->table[k] >= 0; k = (k + 1) & (uint32_t)(t->table_room - 1)) {
        const grammar_rule *r = &t->rules[t->table[k]];
        if (r->size == size && memcmp(r->name, name, size) == 0) {
            *out = t->table[k];
            return OMNI_OK;
        }
    }
    if (!grow((void **)&t->rules, t->rule_count, &t->rule_room, sizeof *t->rules)) {
        return no_memory(p);
    }
    t->rules[t->rule_count] = (grammar_rule){.name = name, .size = size, .body = -1, .defined = -1, .used = -1};
    *out = t->table[k] = t->rule_count++;
    return OMNI_OK;
}

/* ---- characters ---- */

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Past blanks and comments, and past line ends where they mean nothing. */
static void skip(parser *p, bool lines) {
    while (p->at < p->end) {
        const char c = *p->at;
        if (c == '#') {
            const char *line_end = memchr(p->at, '\n', (size_t)(p->end - p->at));
            p->at = line_end ? line_end : p->end;
        } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
            p->at++;
        } else {
            return;
        }
    }
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static omni_status read_hex(parser *p, int digits, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        const int d = p->at < p->end ? hex_digit(*p->at) : -1;
        if (d < 0) {
            return wrong(p, "an escape has too few hexadecimal digits (\\xHH, \\uHHHH, \\UHHHHHHHH)");
        }
        *code = *code << 4 | (uint32_t)d;
    }
    return *code <= LAST_CODE && (*code < 0xd800 || *code > 0xdfff) ? OMNI_OK : wrong(p, "an escape stands for no character");
}

/* One character of a literal or a class, which has one. */
static omni_status read_char(parser *p, uint32_t *code) {
    if (*p->at != '\\') {
        p->at += utf8_decode(p->at, (size_t)(p->end - p->at), code);
        return OMNI_OK;
    }
    static const char named[] = "nrt\\\"[]-^", means[] = "\n\r\t\\\"[]-^";
    const char c = p->at + 1 < p->end ? p->at[1] : 0;
    const char *found = c ? strchr(named, c) : NULL;
    if (found) {
        *code = (uint8_t)means[found - named];
        p->at += 2;
        return OMNI_OK;
    }
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
        return wrong(p, "an unknown escape; known are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xHH \\uHHHH \\UHHHHHHHH");
    }
    p->at += 2;
    return read_hex(p, digits, code);
}

static int by_low(const void *a, const void *b) {
    const uint32_t x = ((const grammar_range *)a)->low, y = ((const grammar_range *)b)->low;
    return (x > y) - (x < y);
}

/* Sorts the ranges from first on and joins those that meet; turned: takes all other characters in their place. */
static omni_status tidy_ranges(parser *p, int32_t first, bool turned) {
    grammar_range *r = p->t->ranges;
    int32_t n = first;
    if (p->t->range_count == first) { /* none: [] and [^] */
        return turned ? add_range(p, 0, LAST_CODE) : OMNI_OK;
    }
    qsort(r + first, (size_t)(p->t->range_count - first), sizeof *r, by_low);
    for (int32_t i = first; i < p->t->range_count; i++) {
        if (n > first && r[i].low <= r[n - 1].high + 1) {
            r[n - 1].high = r[i].high > r[n - 1].high ? r[i].high : r[n - 1].high;
        } else {
            r[n++] = r[i];
        }
    }
    p->t->range_count = n;
    if (!turned) {
        return OMNI_OK;
    }
    TRY(add_range(p, 0, 0)); /* room for one more */
    r = p->t->ranges;
    uint32_t low = 0;
    int32_t out = first;
    for (int32_t i = first; i < n; i++) {
        const grammar_range taken = r[i];
        if (taken.low > low) {
            r[out++] = (grammar_range){low, taken.low - 1};
        }
        low = taken.high + 1;
    }
    if (low <= LAST_CODE) {
        r[out++] = (grammar_range){low, LAST_CODE};
    }
    p->t->range_count = out;
    return OMNI_OK;
}

static omni_status read_class(parser *p, int32_t *out) {
    const char *opened = p->at++;
    const int32_t first = p->t->range_count;
    const bool turned = p->at < p->end && *p->at == '^';
    p->at += turned;
    while (p->at < p->end && *p->at != ']') {
        uint32_t low, high;
        const char *begin = p->at;
        TRY(read_char(p, &low));
        high = low;
        if (p->at + 1 < p->end && p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            TRY(read_char(p, &high));
        }
        if (high < low) {
            return wrong_at(p, begin, "a range ends before it begins");
        }
        TRY(add_range(p, low, high));
    }
    if (p->at == p->end) {
        return wrong_at(p, opened, "[ is not closed");
    }
    p->at++;
    TRY(tidy_ranges(p, first, turned));
    return add_node(p, (grammar_node){.kind = GRAMMAR_CHAR, .a = first, .count = p->t->range_count - first}, out);
}

static omni_status read_literal(parser *p, int32_t *out) {
    const char *opened = p->at++;
    int32_t last = -1;
    TRY(add_node(p, (grammar_node){.kind = GRAMMAR_SEQUENCE, .a = -1}, out));
    while (p->at < p->end && *p->at != '"') {
        uint32_t code;
        int32_t child, first = p->t->nodes[*out].a;
        if (*p->at == '\n') {
            return wrong_at(p, opened, "\" is not closed in its line");
        }
        TRY(read_char(p, &code));
        TRY(add_range(p, code, code));
        TRY(add_node(p, (grammar_node){.kind = GRAMMAR_CHAR, .a = p->t->range_count - 1, .count = 1}, &child));
        append(p, &first, &last, child);
        p->t->nodes[*out].a = first;
    }
    if (p->at == p->end) {
        return wrong_at(p, opened, "\" is not closed");
    }
    p->at++;
    return OMNI_OK;
}

static omni_status read_token(parser *p, int32_t *out) {
    const char *close = memchr(p->at, '>', (size_t)(p->end - p->at));
    if (!close || close - p->at > 100) {
        return wrong(p, "< is not closed: a token is <NAME> or <[ID]>");
    }
    const size_t size = (size_t)(close + 1 - p->at);
    const int32_t id = p->find ? p->find(p->arg, p->at, size) : -1;
    if (id < 0) {
        return wrong(p, "the vocabulary has no such token, or it is not one of text");
    }
    p->at = close + 1;
    return add_node(p, (grammar_node){.kind = GRAMMAR_TOKEN, .a = id}, out);
}

/* ---- rules ---- */

static omni_status read_number(parser *p, int32_t *out) {
    int64_t n = 0;
    const char *begin = p->at;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9' && n <= MOST_REPEATS; p->at++) {
        n = n * 10 + (*p->at - '0');
    }
    if (n > MOST_REPEATS) {
        return wrong_at(p, begin, "a repetition can be 100000 times at most");
    }
    *out = p->at == begin ? -1 : (int32_t)n;
    return OMNI_OK;
}

/* What may stand behind a term. */
static omni_status read_repeat(parser *p, int32_t *node) {
    int count = 0;
    for (; p->at < p->end && strchr("?*+{", *p->at) && *p->at; skip(p, p->depth > 0)) {
        if (++count > MOST_REPEATED) {
            return wrong(p, "more than 4 repetitions of one term");
        }
        int32_t low = *p->at == '+', high = *p->at == '?' ? 1 : -1;
        const char *begin = p->at++;
        if (*begin == '{') {
            skip(p, false);
            TRY(read_number(p, &low));
            skip(p, false);
            high = low;
            if (p->at < p->end && *p->at == ',') {
                p->at++;
                skip(p, false);
                TRY(read_number(p, &high));
                skip(p, false);
                low = low < 0 ? 0 : low;
            }
            if (low < 0 || p->at == p->end || *p->at != '}' || (high >= 0 && high < low)) {
                return wrong_at(p, begin, "a repetition is {m}, {m,} or {m,n} with m up to n");
            }
            p->at++;
        }
        TRY(add_node(p, (grammar_node){.kind = GRAMMAR_REPEAT, .a = *node, .low = low, .high = high}, node));
    }
    return OMNI_OK;
}

static omni_status read_choice(parser *p, int32_t *out);

static omni_status read_term(parser *p, int32_t *out) {
    const char c = *p->at;
    if (c == '"') {
        return read_literal(p, out);
    }
    if (c == '[') {
        return read_class(p, out);
    }
    if (c == '<') {
        return read_token(p, out);
    }
    if (c == '.') {
        p->at++;
        TRY(add_range(p, 0, LAST_CODE));
        return add_node(p, (grammar_node){.kind = GRAMMAR_CHAR, .a = p->t->range_count - 1, .count = 1}, out);
    }
    if (c == '(') {
        const char *opened = p->at++;
        if (++p->depth > MOST_DEPTH) {
            return deep_at(p, opened);
        }
        TRY(read_choice(p, out));
        p->depth--;
        if (p->at == p->end || *p->at != ')') {
            return wrong_at(p, p->at < p->end ? p->at : opened, p->at < p->end ? "expected a term, | or )" : "( is not closed");
        }
        p->at++;
        return OMNI_OK;
    }
    const char *name = p->at;
    while (p->at < p->end && is_name(*p->at)) {
        p->at++;
    }
    int32_t rule;
    TRY(find_rule(p, name, (size_t)(p->at - name), &rule));
    grammar_rule *r = &p->t->rules[rule];
    r->used = r->used < 0 ? (int32_t)(name - p->text) : r->used;
    return add_node(p, (grammar_node){.kind = GRAMMAR_RULE, .a = rule}, out);
}

static bool at_term(const parser *p) {
    return p->at < p->end && *p->at && (strchr("\"[<.(", *p->at) || is_name(*p->at));
}

static omni_status read_sequence(parser *p, int32_t *out) {
    int32_t last = -1;
    TRY(add_node(p, (grammar_node){.kind = GRAMMAR_SEQUENCE, .a = -1}, out));
    while (at_term(p)) {
        int32_t child, first = p->t->nodes[*out].a;
        TRY(read_term(p, &child));
        skip(p, p->depth > 0);
        TRY(read_repeat(p, &child));
        append(p, &first, &last, child);
        p->t->nodes[*out].a = first;
    }
    return OMNI_OK;
}

static omni_status read_choice(parser *p, int32_t *out) {
    int32_t last = -1;
    TRY(add_node(p, (grammar_node){.kind = GRAMMAR_CHOICE, .a = -1}, out));
    for (bool more = true; more;) {
        int32_t child, first = p->t->nodes[*out].a;
        skip(p, true);
        TRY(read_sequence(p, &child));
        append(p, &first, &last, child);
        p->t->nodes[*out].a = first;
        const char *end = p->at;
        skip(p, true);
        more = p->at < p->end && *p->at == '|';
        if (more) {
            p->at++;
        } else if (p->depth == 0) {
            p->at = end; /* the line's end is the rule's */
        }
    }
    return OMNI_OK;
}

static omni_status read_rule(parser *p) {
    const char *name = p->at;
    while (p->at < p->end && is_name(*p->at)) {
        p->at++;
    }
    const size_t size = (size_t)(p->at - name);
    if (size == 0) {
        return wrong(p, "expected a rule: NAME ::= ...");
    }
    skip(p, false);
    if (p->end - p->at < 3 || memcmp(p->at, "::=", 3) != 0) {
        return wrong(p, "expected ::= behind the rule's name");
    }
    p->at += 3;
    int32_t rule, body;
    TRY(find_rule(p, name, size, &rule));
    if (p->t->rules[rule].body >= 0) {
        return wrong_at(p, name, "the rule is defined twice");
    }
    TRY(read_choice(p, &body));
    p->t->rules[rule].body = body;
    p->t->rules[rule].defined = (int32_t)(name - p->text);
    skip(p, false);
    if (p->at < p->end && *p->at != '\n' && *p->at != '\r') {
        return wrong(p, "expected a term, | or the line's end");
    }
    return OMNI_OK;
}

omni_status grammar_tree_parse(const char *text, size_t size, grammar_find_token *find, const void *arg, grammar_tree *out, omni_error *err) {
    *out = (grammar_tree){.text = text, .root = -1};
    parser p = {.text = text, .at = text, .end = text + size, .find = find, .arg = arg, .t = out, .err = err};
    if (size > MOST_TEXT) {
        return fail(err, OMNI_ERR_LIMIT, "a grammar of %zu bytes; up to %d are taken", size, MOST_TEXT);
    }
    if (!utf8_valid(text, size)) {
        return fail(err, OMNI_ERR_FORMAT, "the grammar is not valid UTF-8");
    }
    for (skip(&p, true); p.at < p.end; skip(&p, true)) {
        TRY(read_rule(&p));
    }
    for (int32_t i = 0; i < out->rule_count; i++) {
        const grammar_rule *r = &out->rules[i];
        if (r->body < 0) {
            int32_t line, column;
            grammar_tree_place(out, r->used, &line, &column);
            return fail(err, OMNI_ERR_FORMAT, "grammar, line %d, column %d: there is no rule \"%.*s\"", line, column,
                        (int)(r->size < 60 ? r->size : 60), r->name);
        }
        if (r->size == 4 && memcmp(r->name, "root", 4) == 0) {
            out->root = i;
        }
    }
    return out->root >= 0 ? OMNI_OK : fail(err, OMNI_ERR_FORMAT, "the grammar has no rule \"root\", which says what an answer is");
}

void grammar_tree_free(grammar_tree *t) {
    free(t->nodes);
    free(t->ranges);
    free(t->rules);
    free(t->table);
    *t = (grammar_tree){0};
}
