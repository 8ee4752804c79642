#include "text/json_schema.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "text/grammar_states.h"
#include "text/json_schema_merge.h"
#include "text/json_schema_parts.h"
#include "text/json_text.h"

enum {
    MOST_TEXT = 1 << 20,
    MOST_VALUES = 250000,
    MOST_DEPTH = 150,
    MOST_RULES = 20000,
    MOST_OUT = 4 << 20,
    MOST_CHARACTERS = 8192, /* of a string; where more are allowed, these */
    MOST_ITEMS = 4096,
    MOST_COUNTED = 200, /* properties, where their number matters */
    NEVER = -1,         /* in place of a rule: no value is right */
};

typedef struct maker {
    schema_merger merger;
    const char *name;
    text_buffer *out;
    json_t *known;    /* texts of schemas to the numbers of their rules */
    int rules, depth; /* depth: schemas in schemas */
    omni_error *err;
} maker;

/* ---- rules ---- */

static void put_rule_name(const maker *m, text_buffer *out, int rule) {
    char text[64];
    if (rule == 0) {
        text_puts(out, m->name);
        return;
    }
    snprintf(text, sizeof text, "%s%d", m->name, rule);
    text_puts(out, text);
}

static omni_status new_rule(maker *m, int *out) {
    *out = m->rules++;
    return m->rules <= MOST_RULES && m->out->size < MOST_OUT
               ? OMNI_OK
               : fail(m->err, OMNI_ERR_LIMIT, "%s: the schema is too large for a grammar", m->merger.place);
}

/* Ends a rule whose body is complete. */
static omni_status put_rule(maker *m, int rule, text_buffer *body) {
    put_rule_name(m, m->out, rule);
    text_puts(m->out, " ::= ");
    text_put(m->out, body->data ? body->data : "", body->size);
    text_puts(m->out, "\n");
    const bool failed = body->failed || m->out->failed;
    text_buffer_free(body);
    return failed ? fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema") : OMNI_OK;
}

static void put_format(text_buffer *out, const char *format, int64_t a, int64_t b) {
    char text[96];
    snprintf(text, sizeof text, format, a, b);
    text_puts(out, text);
}

/* The rule of a schema, NEVER for one that no value meets. */
static omni_status visit(maker *m, const json_t *schema, const char *at, int *rule);

/* A bound that counts, or otherwise where there is none. */
static int64_t count_of(const json_t *flat, const char *key, int64_t otherwise) {
    const json_t *v = json_object_get(flat, key);
    const double x = json_number_value(v);
    return !v ? otherwise : x > 1e15 ? (int64_t)1e15 : (int64_t)x;
}

/* ---- strings and numbers ---- */

static omni_status put_string(maker *m, const json_t *flat, const char *at, text_buffer *out, bool *never) {
    const int64_t low = count_of(flat, "minLength", 0), high = count_of(flat, "maxLength", -1);
    const char *pattern = json_string_value(json_object_get(flat, "pattern")), *format = json_string_value(json_object_get(flat, "format"));
    int64_t least = 0, most = -1;
    if (high >= 0 && high < low) {
        *never = true;
        return OMNI_OK;
    }
    if (pattern && format) {
        return schema_refuse(&m->merger, at, "pattern", "cannot be combined with format");
    }
    if (!pattern && !format) {
        if (low > MOST_CHARACTERS) {
            return schema_refuse(&m->merger, at, "minLength", "can be 8192 at most");
        }
        if (low == 0 && high < 0) {
            text_puts(out, "json-string");
            return OMNI_OK;
        }
        text_puts(out, "\"\\\"\" json-char");
        if (high < 0) {
            put_format(out, "{%" PRId64 ",}", low, 0);
        } else {
            put_format(out, "{%" PRId64 ",%" PRId64 "}", low, high < MOST_CHARACTERS ? high : MOST_CHARACTERS);
        }
        text_puts(out, " \"\\\"\"");
        return OMNI_OK;
    }
    text_puts(out, "\"\\\"\" ");
    if (pattern) {
        const omni_status status = schema_put_pattern(out, pattern, &least, &most, m->err);
        if (status != OMNI_OK) {
            return fail_in(m->err, status, "%s%s#%s: \"pattern\"", m->merger.place, *m->merger.place ? " " : "", at);
        }
    } else if (!schema_put_format(out, format, &least, &most)) {
        return schema_refuse(&m->merger, at, "format",
                             "is none of date, time, date-time, uuid, email, hostname, ipv4, ipv6, uri, which are supported");
    }
    text_puts(out, " \"\\\"\"");
    if (least < low || (high >= 0 && (most < 0 || most > high))) {
        return schema_refuse(&m->merger, at, least < low ? "minLength" : "maxLength",
                             "cannot be combined with a pattern or format that has other lengths");
    }
    return OMNI_OK;
}

static bool put_number(const json_t *flat, bool whole, text_buffer *out) {
    const json_t *low = json_object_get(flat, "minimum"), *high = json_object_get(flat, "maximum");
    const json_t *above = json_object_get(flat, "exclusiveMinimum"), *below = json_object_get(flat, "exclusiveMaximum");
    schema_range r = {low ? json_number_value(low) : -INFINITY, high ? json_number_value(high) : INFINITY, false, false};
    if (above && json_number_value(above) >= r.low) {
        r.low = json_number_value(above);
        r.without_low = true;
    }
    if (below && json_number_value(below) <= r.high) {
        r.high = json_number_value(below);
        r.without_high = true;
    }
    return schema_put_number(out, &r, whole);
}

/* ---- arrays ---- */

static omni_status put_array(maker *m, const json_t *flat, const char *at, text_buffer *out, bool *never) {
    const json_t *prefix = json_object_get(flat, "prefixItems"), *items = json_object_get(flat, "items");
    int64_t count = (int64_t)json_array_size(prefix), low = count_of(flat, "minItems", 0), high = count_of(flat, "maxItems", -1);
    char below[300];
    int rule = NEVER;
    high = high < 0 && !items && count > 0 && low <= count ? count : high; /* what is not spoken of is left out where it may be */
    if (low > MOST_ITEMS) {
        return schema_refuse(&m->merger, at, "minItems", "can be 4096 at most");
    }
    if (high < 0 || high > count) {
        if (items) {
            snprintf(below, sizeof below, "%.280s/items", at);
            TRY(visit(m, items, below, &rule));
        } else {
            json_t *any = json_true();
            TRY(visit(m, any, at, &rule));
        }
        high = rule == NEVER ? (high < 0 || high > count ? count : high) : high;
    }
    text_puts(out, "\"[\" json-ws ");
    const int64_t own = high >= 0 && high < count ? high : count;
    int64_t open = 0;
    for (int64_t i = 0; i < own; i++) {
        int each;
        snprintf(below, sizeof below, "%.270s/prefixItems/%d", at, (int)i);
        TRY(visit(m, json_array_get(prefix, (size_t)i), below, &each));
        if (each == NEVER) {
            high = i;
            break;
        }
        if (i >= low) {
            text_puts(out, "(");
            open++;
        }
        text_puts(out, i > 0 ? "json-ws \",\" json-ws " : "");
        put_rule_name(m, out, each);
        text_puts(out, " ");
    }
    if (high >= 0 && high < low) {
        *never = true;
        return OMNI_OK;
    }
    if (rule != NEVER && (high < 0 || high > count)) {
        int64_t least = low > count ? low - count : 0, most = high < 0 ? -1 : high - count;
        most = most > MOST_ITEMS ? MOST_ITEMS : most;
        if (count == 0) { /* the first one has no comma */
            text_puts(out, least == 0 ? "(" : "");
            open += least == 0;
            put_rule_name(m, out, rule);
            least -= least > 0;
            most -= most > 0;
        }
        text_puts(out, " (json-ws \",\" json-ws ");
        put_rule_name(m, out, rule);
        put_format(out, most < 0 ? "){%" PRId64 ",}" : "){%" PRId64 ",%" PRId64 "}", least, most);
    }
    for (; open > 0; open--) {
        text_puts(out, ")?");
    }
    text_puts(out, " json-ws \"]\"");
    return OMNI_OK;
}

/* ---- objects ---- */

typedef struct property {
    const char *name;
    int rule; /* of the value */
    bool required;
} property;

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* One character of a name, as a JSON string holds it. */
static void put_key_char(text_buffer *out, const char *s, size_t n) {
    text_buffer json = {0};
    json_t *one = json_stringn_nocheck(s, n);
    char *text = one ? json_text(one) : NULL;
    if (text && strlen(text) >= 2) {
        schema_put_literal(out, text + 1, strlen(text) - 2);
    }
    free(text);
    json_decref(one);
    text_buffer_free(&json);
}

/* Names that share their first from bytes, whose rest is a rule of its own: rules nest only so deep. */
typedef struct shared_start {
    size_t first, count, from; /* of the sorted names */
    int rule;
} shared_start;

/* Sorted names, and the rules of their rests that were asked for. */
typedef struct name_rules {
    const char **names;
    shared_start *starts;
    size_t count, room;
} name_rules;

static omni_status put_rest_rule(maker *m, text_buffer *out, name_rules *r, shared_start at) {
    if (r->count == r->room) {
        const size_t room = r->room ? 2 * r->room : 16;
        shared_start *more = realloc(r->starts, room * sizeof *more);
        if (!more) {
            return fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema");
        }
        r->starts = more;
        r->room = room;
    }
    TRY(new_rule(m, &at.rule));
    r->starts[r->count++] = at;
    put_rule_name(m, out, at.rule);
    return OMNI_OK;
}

/* The inside of a name that is none of the sorted ones of at, which all begin with the same bytes. Characters are written in one way only: as they
 * are, or with a short escape. depth: of the parentheses it stands in. */
static omni_status put_other_names(maker *m, text_buffer *out, name_rules *r, shared_start at, int depth) {
    enum { DEEPEST = 32 };
    const char *const *names = r->names + at.first;
    const size_t from = at.from;
    if (depth == DEEPEST) {
        return put_rest_rule(m, out, r, at);
    }
    text_buffer taken = {0};
    omni_status status = OMNI_OK;
    bool whole = false, first = true;
    text_puts(out, "(");
    for (size_t i = 0; i < at.count && status == OMNI_OK;) {
        if (!names[i][from]) {
            whole = true;
            i++;
            continue;
        }
        uint32_t code;
        const size_t n = utf8_decode(names[i] + from, strlen(names[i] + from), &code);
        size_t next = i;
        while (next < at.count && strncmp(names[next] + from, names[i] + from, n) == 0) {
            next++;
        }
        text_puts(out, first ? "" : " | ");
        put_key_char(out, names[i] + from, n);
        text_puts(out, " ");
        status = put_other_names(m, out, r, (shared_start){.first = at.first + i, .count = next - i, .from = from + n}, depth + 1);
        char text[16];
        snprintf(text, sizeof text, code < 0x80 ? "\\x%02x" : "\\U%08x", code);
        text_puts(&taken, text);
        first = false;
        i = next;
    }
    text_puts(out, first ? "([^" : " | ([^");
    text_puts(out, "\"\\\\\\x00-\\x1f\\x7f");
    text_puts(out, taken.data ? taken.data : "");
    text_puts(out, "]");
    static const char *const escapes[] = {"\"", "\\\\", "n", "r", "t"}; /* the others, and \u, could write a taken name in another way */
    static const char codes[] = "\"\\\n\r\t";
    bool any = false;
    for (size_t k = 0; k < 5; k++) {
        bool is_taken = false;
        for (size_t i = 0; i < at.count; i++) {
            is_taken |= names[i][from] == codes[k];
        }
        if (!is_taken) {
            text_puts(out, any ? "" : " | \"\\\\\" [");
            text_puts(out, escapes[k]);
            any = true;
        }
    }
    text_puts(out, any ? "]" : "");
    text_puts(out, ") json-key-rest");
    text_puts(out, whole || from == 0 ? ")" : ")?");
    text_buffer_free(&taken);
    return status;
}

/* The rules of rests that were asked for, and those that they ask for. */
static omni_status put_rest_rules(maker *m, name_rules *r) {
    for (size_t i = 0; i < r->count; i++) {
        text_buffer body = {0};
        const omni_status status = put_other_names(m, &body, r, r->starts[i], 0);
        if (status != OMNI_OK) {
            text_buffer_free(&body);
            return status;
        }
        TRY(put_rule(m, r->starts[i].rule, &body));
    }
    return OMNI_OK;
}

/* NAME : VALUE of properties that are not among the count sorted names. */
static omni_status put_other_property(maker *m, name_rules *r, size_t count, int value, int rule) {
    text_buffer body = {0};
    omni_status status = OMNI_OK;
    text_puts(&body, "\"\\\"\" ");
    if (count == 0) {
        text_puts(&body, "json-char*");
    } else {
        status = put_other_names(m, &body, r, (shared_start){.count = count}, 0);
        text_puts(&body, *r->names[0] ? "?" : ""); /* the empty name comes first */
    }
    text_puts(&body, " \"\\\"\" json-ws \":\" json-ws ");
    put_rule_name(m, &body, value);
    if (status != OMNI_OK) {
        text_buffer_free(&body);
        return status;
    }
    TRY(put_rule(m, rule, &body));
    return put_rest_rules(m, r);
}

static omni_status put_other(maker *m, const property *list, size_t count, int value, int *rule) {
    name_rules r = {.names = calloc(count + 1, sizeof *r.names)};
    if (!r.names) {
        return fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema");
    }
    for (size_t i = 0; i < count; i++) {
        r.names[i] = list[i].name;
    }
    qsort(r.names, count, sizeof *r.names, by_name);
    omni_status status = new_rule(m, rule);
    if (status == OMNI_OK) {
        status = put_other_property(m, &r, count, value, *rule);
    }
    free(r.starts);
    free(r.names);
    return status;
}

/* What follows when the properties before i were decided and n were written. n counts up to what matters alone: 1 where only commas do. */
typedef struct object_plan {
    const property *list;
    size_t count;
    int other; /* rule, or NEVER */
    int64_t low, high, cap;
    int *rules; /* [(count + 1) * (cap + 1)] their numbers */
} object_plan;

static int plan_rule(const object_plan *p, size_t i, int64_t n) {
    return p->rules[i * (size_t)(p->cap + 1) + (size_t)(n < p->cap ? n : p->cap)];
}

static omni_status put_step(maker *m, const object_plan *p, size_t i, int64_t n) {
    text_buffer body = {0};
    const bool counted = p->low > 1 || p->high >= 0;
    const char *comma = n > 0 ? "json-ws \",\" json-ws " : "";
    if (i < p->count) {
        const property *x = &p->list[i];
        char *key = NULL;
        json_t *name = json_string_nocheck(x->name);
        bool any = false;
        if (x->rule != NEVER && !(counted && p->high >= 0 && n >= p->high) && (key = name ? json_text(name) : NULL)) {
            text_puts(&body, comma);
            schema_put_literal(&body, key, strlen(key));
            text_puts(&body, " json-ws \":\" json-ws ");
            put_rule_name(m, &body, x->rule);
            text_puts(&body, " ");
            put_rule_name(m, &body, plan_rule(p, i + 1, n + 1));
            any = true;
        }
        free(key);
        json_decref(name);
        if (!x->required) {
            text_puts(&body, any ? " | " : "");
            put_rule_name(m, &body, plan_rule(p, i + 1, n));
            any = true;
        }
        text_puts(&body, any ? "" : "[]");
    } else {
        /* Others may have the same name twice, and count once then: only the first of them can be counted on. */
        const int64_t need = p->low - n, room = p->high < 0 ? -1 : p->high - n;
        if (need > (p->other != NEVER) || (room >= 0 && room < need) || (p->high >= 0 && n > p->high)) {
            text_puts(&body, "[]");
        } else if (p->other == NEVER || room == 0) {
            text_puts(&body, "\"\"");
        } else {
            text_puts(&body, "(");
            text_puts(&body, comma);
            put_rule_name(m, &body, p->other);
            text_puts(&body, " (json-ws \",\" json-ws ");
            put_rule_name(m, &body, p->other);
            put_format(&body, room < 0 ? ")*" : "){0,%" PRId64 "}", room - 1, 0);
            text_puts(&body, need > 0 ? ")" : ")?");
        }
    }
    return put_rule(m, plan_rule(p, i, n), &body);
}

static omni_status put_plan(maker *m, object_plan *p, text_buffer *out) {
    const size_t each = (size_t)(p->cap + 1);
    p->rules = calloc((p->count + 1) * each, sizeof *p->rules);
    omni_status status = p->rules ? OMNI_OK : fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema");
    for (size_t i = 0; status == OMNI_OK && i < (p->count + 1) * each; i++) {
        status = new_rule(m, &p->rules[i]);
    }
    for (size_t i = 0; status == OMNI_OK && i <= p->count; i++) {
        for (int64_t n = 0; status == OMNI_OK && n <= p->cap; n++) {
            status = put_step(m, p, i, n);
        }
    }
    if (status == OMNI_OK) {
        text_puts(out, "\"{\" json-ws ");
        put_rule_name(m, out, p->rules[0]);
        text_puts(out, " json-ws \"}\"");
    }
    free(p->rules);
    return status;
}

static omni_status add_property(maker *m, property *list, size_t *count, const char *name, const json_t *schema, const char *at) {
    char below[300];
    snprintf(below, sizeof below, "%.220s/properties/%.60s", at, name);
    list[*count] = (property){.name = name};
    TRY(visit(m, schema, below, &list[*count].rule));
    (*count)++;
    return OMNI_OK;
}

static omni_status put_object(maker *m, const json_t *flat, const char *at, text_buffer *out, bool *never) {
    json_t *properties = json_object_get(flat, "properties"), *v;
    const json_t *required = json_object_get(flat, "required"), *others = json_object_get(flat, "additionalProperties");
    const size_t most = json_object_size(properties) + json_array_size(required);
    property *list = calloc(most + 1, sizeof *list);
    object_plan p = {.list = list, .other = NEVER, .low = count_of(flat, "minProperties", 0), .high = count_of(flat, "maxProperties", -1), .cap = 1};
    const char *name;
    int any = NEVER;
    omni_status status = list ? OMNI_OK : fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema");
    json_object_foreach(properties, name, v) {
        status = status == OMNI_OK ? add_property(m, list, &p.count, name, v, at) : status;
    }
    json_t *open = json_true();
    for (size_t i = 0; status == OMNI_OK && i < json_array_size(required); i++) {
        name = json_string_value(json_array_get(required, i));
        size_t k = 0;
        while (k < p.count && strcmp(list[k].name, name) != 0) {
            k++;
        }
        if (k == p.count) {
            status = add_property(m, list, &p.count, name, others ? others : open, at);
        }
        list[k].required = true;
        *never |= status == OMNI_OK && list[k].rule == NEVER;
    }
    if (status == OMNI_OK && (others || p.count == 0)) {
        char below[300];
        snprintf(below, sizeof below, "%.270s/additionalProperties", at);
        status = visit(m, others ? others : open, below, &any);
    }
    if (status == OMNI_OK && !*never && any != NEVER) {
        status = put_other(m, list, p.count, any, &p.other);
    }
    if (status == OMNI_OK && !*never && (p.low > 1 || p.high >= 0)) {
        p.cap = p.high > p.low ? p.high : p.low;
        p.cap = p.cap > (int64_t)p.count + 1 ? (int64_t)p.count + 1 : p.cap;
        p.cap = p.cap < 1 ? 1 : p.cap;
        p.high = p.high > MOST_ITEMS ? MOST_ITEMS : p.high;
        if (p.count > MOST_COUNTED) {
            status = schema_refuse(&m->merger, at, p.low > 1 ? "minProperties" : "maxProperties", "is supported with 200 properties at most");
        } else if (p.low > (int64_t)p.count + (any != NEVER)) {
            status = any != NEVER ? schema_refuse(&m->merger, at, "minProperties",
                                                  "asks for more than one property without a name in the schema, which is not supported")
                                  : OMNI_OK;
            *never = true;
        }
    } else if (status == OMNI_OK && p.low == 1) {
        p.cap = 1;
    }
    if (status == OMNI_OK && !*never) {
        status = put_plan(m, &p, out);
    }
    free(list);
    return status;
}

/* ---- values ---- */

/* Whether a grammar of the schema without its enum accepts the text of a value. */
static omni_status accepts(maker *m, const json_t *flat, const json_t *value, bool *yes) {
    json_t *rest = json_copy((json_t *)flat);
    text_buffer text = {0};
    grammar *g = NULL;
    *yes = false;
    json_object_del(rest, "enum");
    maker inner = *m;
    inner.out = &text;
    inner.name = "root";
    inner.rules = 0;
    inner.known = json_object();
    int rule;
    omni_status status = visit(&inner, rest, "", &rule);
    json_decref(inner.known);
    json_decref(rest);
    char *said = json_text(value);
    if (status == OMNI_OK && rule != NEVER && said) {
        omni_error ignored;
        json_schema_common(&text);
        if (!text.failed && grammar_parse(text.data, text.size, NULL, NULL, &g, &ignored) == OMNI_OK) {
            grammar_states *s = grammar_states_create(g, 16 << 20);
            int32_t state = s ? grammar_states_start(s) : GRAMMAR_DEAD;
            for (const char *c = said; *c && state > 0; c++) {
                state = grammar_states_step(s, state, (uint8_t)*c);
            }
            *yes = state > 0 && grammar_states_ends(s, state);
            grammar_states_free(s);
        }
    }
    free(said);
    grammar_free(g);
    text_buffer_free(&text);
    return status;
}

static bool has_other_keys(const json_t *flat) {
    return json_object_size(flat) > 1u + (json_object_get(flat, "type") != NULL);
}

static unsigned type_of(const json_t *v) {
    return json_is_boolean(v)  ? 1u << JSON_TRUE
           : json_is_number(v) ? 1u << (json_number_value(v) == floor(json_number_value(v)) ? JSON_INTEGER : JSON_REAL)
                               : 1u << json_typeof(v);
}

static omni_status put_values(maker *m, const json_t *flat, text_buffer *out, bool *any) {
    const json_t *values = json_object_get(flat, "enum"), *type = json_object_get(flat, "type");
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *v = json_array_get(values, i);
        bool right = !type || (schema_types(flat) & type_of(v));
        if (right && has_other_keys(flat)) {
            if (++m->merger.work > 2000) {
                return fail(m->err, OMNI_ERR_LIMIT, "%s: the schema has too many values beside other keywords", m->merger.place);
            }
            TRY(accepts(m, flat, v, &right));
        }
        if (right) {
            char *text = json_text(v);
            text_puts(out, *any ? " | " : "");
            if (text) {
                schema_put_literal(out, text, strlen(text));
            }
            out->failed |= !text;
            free(text);
            *any = true;
        }
    }
    return OMNI_OK;
}

/* Every type that a flat schema allows, as alternatives. */
static omni_status put_flat(maker *m, const json_t *flat, const char *at, text_buffer *out, bool *any) {
    if (json_object_get(flat, "enum")) {
        return put_values(m, flat, out, any);
    }
    if (json_object_size(flat) == 0) {
        text_puts(out, *any ? " | json-value" : "json-value");
        *any = true;
        return OMNI_OK;
    }
    const unsigned types = schema_types(flat);
    static const int order[] = {JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_REAL, JSON_INTEGER, JSON_TRUE, JSON_NULL};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        text_buffer one = {0};
        bool never = false;
        omni_status status = OMNI_OK;
        if (!(types >> order[i] & 1) || (order[i] == JSON_INTEGER && (types >> JSON_REAL & 1))) {
            continue;
        }
        switch (order[i]) {
        case JSON_OBJECT:
            status = put_object(m, flat, at, &one, &never);
            break;
        case JSON_ARRAY:
            status = put_array(m, flat, at, &one, &never);
            break;
        case JSON_STRING:
            status = put_string(m, flat, at, &one, &never);
            break;
        case JSON_REAL:
        case JSON_INTEGER:
            never = !put_number(flat, order[i] == JSON_INTEGER, &one);
            break;
        default:
            text_puts(&one, order[i] == JSON_TRUE ? "\"true\" | \"false\"" : "\"null\"");
        }
        if (status == OMNI_OK && !never) {
            text_puts(out, *any ? " | " : "");
            text_put(out, one.data ? one.data : "", one.size);
            out->failed |= one.failed;
            *any = true;
        }
        text_buffer_free(&one);
        TRY(status);
    }
    return OMNI_OK;
}

/* anyOf alone: the rules of its alternatives. */
static omni_status put_any_of(maker *m, const json_t *list, const char *at, text_buffer *out, bool *any) {
    if (!json_is_array(list) || json_array_size(list) == 0) {
        return schema_refuse(&m->merger, at, "anyOf", "must be a list of schemas");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        char below[300];
        int rule;
        snprintf(below, sizeof below, "%.270s/anyOf/%zu", at, i);
        TRY(visit(m, json_array_get(list, i), below, &rule));
        if (rule != NEVER) {
            text_puts(out, *any ? " | " : "");
            put_rule_name(m, out, rule);
            *any = true;
        }
    }
    return OMNI_OK;
}

static omni_status put_schema(maker *m, const json_t *schema, const char *at, text_buffer *out, bool *any) {
    const char *only = json_is_object(schema) ? schema_only_key(schema) : NULL;
    if (only && strcmp(only, "anyOf") == 0) {
        return put_any_of(m, json_object_get(schema, "anyOf"), at, out, any);
    }
    json_t *branches = NULL;
    TRY(schema_flatten(&m->merger, schema, at, &branches));
    omni_status status = OMNI_OK;
    for (size_t i = 0; status == OMNI_OK && i < json_array_size(branches); i++) {
        status = put_flat(m, json_array_get(branches, i), at, out, any);
    }
    json_decref(branches);
    return status;
}

static omni_status visit(maker *m, const json_t *schema, const char *at, int *rule) {
    char *text = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
    text_buffer body = {0};
    bool any = false;
    if (!text) {
        return fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema");
    }
    const json_t *known = json_object_get(m->known, text);
    if (known) {
        *rule = (int)json_integer_value(known);
        free(text);
        return OMNI_OK;
    }
    omni_status status = new_rule(m, rule);
    json_object_set_new_nocheck(m->known, text, json_integer(*rule));
    if (status == OMNI_OK && m->depth > MOST_DEPTH) {
        status = fail(m->err, OMNI_ERR_LIMIT, "%s#%s: the schema is nested too deep", m->merger.place, at);
    }
    m->depth++;
    status = status == OMNI_OK ? put_schema(m, schema, at, &body, &any) : status;
    m->depth--;
    if (status == OMNI_OK && !any) { /* one that refers to itself meets a rule without a text */
        text_puts(&body, "[]");
        json_object_set_new_nocheck(m->known, text, json_integer(NEVER));
    }
    free(text);
    if (status != OMNI_OK) {
        text_buffer_free(&body);
        return status;
    }
    const int own = *rule;
    *rule = any ? own : NEVER;
    return put_rule(m, own, &body);
}

/* ---- whole schemas ---- */

void json_schema_common(text_buffer *out) {
    text_puts(
        out,
        "json-ws ::= (\" \" | \"\\n\" [ ]{0,20})?\n"
        "json-char ::= [^\"\\\\\\x00-\\x1f\\x7f] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" ([1-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2} | "
        "\"0\" ([1-9a-fA-F] [0-9a-fA-F]{2} | \"0\" ([1-9a-fA-F] [0-9a-fA-F] | \"0\" [1-9a-fA-F]))))\n"
        "json-key-char ::= [^\"\\\\\\x00-\\x1f\\x7f] | \"\\\\\" [\"\\\\nrt]\n"
        "json-key-rest ::= json-key-char*\n"
        "json-string ::= \"\\\"\" json-char* \"\\\"\"\n"
        "json-integer ::= \"0\" | \"-\"? [1-9] [0-9]{0,15}\n"
        "json-number ::= \"-\"? (\"0\" | [1-9] [0-9]{0,15}) (\".\" [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?\n"
        "json-value ::= json-object | json-array | json-string | json-number | \"true\" | \"false\" | \"null\"\n"
        "json-object ::= \"{\" json-ws (json-pair (json-ws \",\" json-ws json-pair)*)? json-ws \"}\"\n"
        "json-pair ::= json-string json-ws \":\" json-ws json-value\n"
        "json-array ::= \"[\" json-ws (json-value (json-ws \",\" json-ws json-value)*)? json-ws \"]\"\n");
}

omni_status json_schema_rules(const json_t *schema, const char *name, const char *place, text_buffer *out, omni_error *err) {
    maker m = {.merger = {.root = schema, .place = place, .err = err}, .name = name, .out = out, .known = json_object(), .err = err};
    int rule = NEVER;
    omni_status status = m.known ? visit(&m, schema, "", &rule) : fail(err, OMNI_ERR_MEMORY, "out of memory for a schema");
    json_decref(m.known);
    return status != OMNI_OK || rule != NEVER ? status : fail(err, OMNI_ERR_FORMAT, "%s#: no value can be right under the schema", place);
}

omni_status json_schema_load(const char *json, size_t size, json_t **out, omni_error *err) {
    *out = NULL;
    if (size > MOST_TEXT) {
        return fail(err, OMNI_ERR_LIMIT, "a JSON schema of %zu bytes; up to %d are taken", size, MOST_TEXT);
    }
    const omni_status status = json_parse(json, size, MOST_VALUES, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, out, err);
    return status == OMNI_OK ? OMNI_OK : fail_in(err, status, "JSON schema");
}

omni_status json_schema_to_grammar(const char *json, size_t size, char **out, omni_error *err) {
    json_t *schema = NULL;
    text_buffer text = {0};
    *out = NULL;
    TRY(json_schema_load(json, size, &schema, err));
    omni_status status = json_schema_rules(schema, "root", "JSON schema", &text, err);
    json_decref(schema);
    json_schema_common(&text);
    if (status == OMNI_OK && text.failed) {
        status = fail(err, OMNI_ERR_MEMORY, "out of memory for a schema");
    }
    if (status != OMNI_OK) {
        text_buffer_free(&text);
        return status;
    }
    *out = text.data;
    return OMNI_OK;
}
