#include "text/json_schema_merge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DEPTH = 60, MOST_BRANCHES = 256, MOST_WORK = 200000 };

static const char describes[] = " title description default examples $comment deprecated readOnly writeOnly $schema $id $defs definitions "
                                "contentEncoding contentMediaType contentSchema $vocabulary ";
static const char combines[] = " $ref allOf anyOf oneOf ";
static const char asserts[] =
    " type enum const properties required additionalProperties minProperties maxProperties items prefixItems minItems maxItems "
    "minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf uniqueItems ";

static bool among(const char *names, const char *key) {
    char padded[64];
    return snprintf(padded, sizeof padded, " %s ", key) < (int)sizeof padded && strstr(names, padded);
}

omni_status schema_refuse(const schema_merger *m, const char *at, const char *key, const char *why) {
    return fail(m->err, OMNI_ERR_FORMAT, "%s%s#%s: \"%.60s\" %s", m->place, *m->place ? " " : "", at, key, why);
}

static omni_status no_memory(const schema_merger *m) {
    return fail(m->err, OMNI_ERR_MEMORY, "out of memory for a schema");
}

const char *schema_only_key(const json_t *schema) {
    const char *key, *only = NULL;
    json_t *v;
    json_object_foreach((json_t *)schema, key, v) {
        if (among(describes, key) || strncmp(key, "x-", 2) == 0) {
            continue;
        }
        if (only) {
            return NULL;
        }
        only = strcmp(key, "$ref") == 0 || strcmp(key, "anyOf") == 0 ? key : NULL;
        if (!only) {
            return NULL;
        }
    }
    return only;
}

/* ---- references ---- */

/* One step of a JSON pointer, its escapes carried out, to name; returns where the next begins. */
static const char *read_step(const char *s, char *name, size_t room) {
    size_t n = 0;
    for (; *s && *s != '/' && n + 1 < room; s++) {
        unsigned code;
        if (*s == '%' && sscanf(s + 1, "%2x", &code) == 1 && s[1] && s[2]) {
            name[n++] = (char)code;
            s += 2;
        } else if (*s == '~' && (s[1] == '0' || s[1] == '1')) {
            name[n++] = *++s == '0' ? '~' : '/';
        } else {
            name[n++] = *s;
        }
    }
    name[n] = 0;
    return s;
}

omni_status schema_resolve(schema_merger *m, const json_t *ref, const char *at, const json_t **out) {
    const char *s = json_string_value(ref);
    char name[512];
    *out = m->root;
    if (!s || *s != '#' || (s[1] && s[1] != '/')) {
        return schema_refuse(m, at, "$ref", "must be # or #/..., a place in the same schema");
    }
    for (s++; *s == '/' && *out;) {
        s = read_step(s + 1, name, sizeof name);
        *out = json_is_array(*out) ? json_array_get(*out, (size_t)strtoul(name, NULL, 10)) : json_object_get(*out, name);
    }
    return *out && !*s ? OMNI_OK : schema_refuse(m, at, "$ref", "points to nothing");
}

/* ---- merging ---- */

static omni_status merge_flat(schema_merger *m, const json_t *a, const json_t *b, const char *at, json_t *out, bool *never);

/* Both schemas at once, unmerged until they are needed. */
static json_t *both(const json_t *a, const json_t *b) {
    return a && b && !json_equal(a, b) ? json_pack("{s:[O,O]}", "allOf", a, b) : json_incref((json_t *)(a ? a : b));
}

static double numeric(const json_t *x) {
    return json_number_value(x);
}

/* For bounds: the tighter of two. */
static const json_t *tighter(const json_t *a, const json_t *b, bool higher) {
    return !a ? b : !b ? a : (numeric(a) > numeric(b)) == higher ? a : b;
}

static bool has_type(const json_t *types, const char *name) {
    if (json_is_string(types)) {
        return strcmp(json_string_value(types), name) == 0;
    }
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *s = json_string_value(json_array_get(types, i));
        if (s && strcmp(s, name) == 0) {
            return true;
        }
    }
    return false;
}

static const char *const type_names[] = {"object", "array", "string", "integer", "number", "boolean", "null"};

static json_t *common_types(const json_t *a, const json_t *b) {
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++) {
        const char *name = type_names[i];
        const bool integer = strcmp(name, "integer") == 0;
        const bool in_a = has_type(a, name) || (integer && has_type(a, "number")), in_b = has_type(b, name) || (integer && has_type(b, "number"));
        if (in_a && in_b && !(integer && has_type(a, "number") && has_type(b, "number"))) {
            json_array_append_new(list, json_string(name));
        }
    }
    return list;
}

static bool equal_values(const json_t *a, const json_t *b) {
    return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b) : json_equal(a, b);
}

static json_t *common_values(const json_t *a, const json_t *b) {
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(a); i++) {
        for (size_t k = 0; k < json_array_size(b); k++) {
            if (equal_values(json_array_get(a, i), json_array_get(b, k))) {
                json_array_append(list, json_array_get(a, i));
                break;
            }
        }
    }
    return list;
}

/* What a schema says of a property that its properties do not name: NULL: anything. */
static const json_t *others(const json_t *s) {
    return json_object_get(s, "additionalProperties");
}

static void merge_properties(const json_t *a, const json_t *b, json_t *out) {
    const json_t *pa = json_object_get(a, "properties"), *pb = json_object_get(b, "properties");
    json_t *all = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)pa, key, v) {
        const json_t *other = json_object_get(pb, key);
        json_object_set_new(all, key, both(v, other ? other : others(b)));
    }
    json_object_foreach((json_t *)pb, key, v) {
        if (!json_object_get(all, key)) {
            json_object_set_new(all, key, both(others(a), v));
        }
    }
    json_object_set_new(out, "properties", all);
}

static void merge_items(const json_t *a, const json_t *b, json_t *out) {
    const json_t *pa = json_object_get(a, "prefixItems"), *pb = json_object_get(b, "prefixItems");
    const json_t *ia = json_object_get(a, "items"), *ib = json_object_get(b, "items");
    const size_t na = json_array_size(pa), nb = json_array_size(pb), n = na > nb ? na : nb;
    json_t *all = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *x = both(i < na ? json_array_get(pa, i) : ia, i < nb ? json_array_get(pb, i) : ib);
        json_array_append_new(all, x ? x : json_true());
    }
    json_object_set_new(out, "prefixItems", all);
    if (ia || ib) {
        json_object_set_new(out, "items", both(ia, ib));
    }
}

/* One key that both have. *never: no value can be right. */
static omni_status merge_key(schema_merger *m, const char *key, const json_t *a, const json_t *b, const char *at, json_t *out, bool *never) {
    const json_t *x = json_object_get(a, key), *y = json_object_get(b, key);
    if (strcmp(key, "type") == 0) {
        json_t *types = common_types(x, y);
        *never |= json_array_size(types) == 0;
        json_object_set_new(out, key, types);
    } else if (strcmp(key, "enum") == 0) {
        json_t *values = common_values(x, y);
        *never |= json_array_size(values) == 0;
        json_object_set_new(out, key, values);
    } else if (strncmp(key, "min", 3) == 0 || strcmp(key, "exclusiveMinimum") == 0) {
        json_object_set(out, key, (json_t *)tighter(x, y, true));
    } else if (strncmp(key, "max", 3) == 0 || strcmp(key, "exclusiveMaximum") == 0) {
        json_object_set(out, key, (json_t *)tighter(x, y, false));
    } else if (strcmp(key, "required") == 0) {
        json_t *all = json_copy((json_t *)x);
        for (size_t i = 0; i < json_array_size(y); i++) {
            json_array_append(all, json_array_get(y, i));
        }
        json_object_set_new(out, key, all);
    } else if (strcmp(key, "additionalProperties") == 0) {
        json_object_set_new(out, key, both(x, y));
    } else if (!json_equal(x, y)) {
        return schema_refuse(m, at, key, "is asked for twice, with different values, which cannot be met at once");
    }
    return OMNI_OK;
}

static omni_status merge_flat(schema_merger *m, const json_t *a, const json_t *b, const char *at, json_t *out, bool *never) {
    static const char apart[] = " properties prefixItems items ";
    const char *key;
    json_t *v;
    json_object_update(out, (json_t *)b);
    json_object_update(out, (json_t *)a);
    json_object_foreach((json_t *)a, key, v) {
        if (json_object_get(b, key) && !among(apart, key)) {
            TRY(merge_key(m, key, a, b, at, out, never));
        }
    }
    if (json_object_get(a, "properties") || json_object_get(b, "properties")) {
        merge_properties(a, b, out);
    }
    if (json_object_get(a, "prefixItems") || json_object_get(b, "prefixItems") || (json_object_get(a, "items") && json_object_get(b, "items"))) {
        merge_items(a, b, out);
    }
    return OMNI_OK;
}

/* Every one of a with every one of b, in the place of a. */
static omni_status cross(schema_merger *m, json_t **a, json_t *b, const char *at) {
    json_t *out = json_array();
    omni_status status = OMNI_OK;
    if (json_array_size(*a) * json_array_size(b) > MOST_BRANCHES) {
        status = fail(m->err, OMNI_ERR_LIMIT, "%s#%s: more than %d combinations of alternatives", m->place, at, MOST_BRANCHES);
    }
    for (size_t i = 0; status == OMNI_OK && i < json_array_size(*a); i++) {
        for (size_t k = 0; status == OMNI_OK && k < json_array_size(b); k++) {
            bool never = false;
            json_t *one = json_object();
            status = merge_flat(m, json_array_get(*a, i), json_array_get(b, k), at, one, &never);
            if (status == OMNI_OK && !never) {
                json_array_append(out, one);
            }
            json_decref(one);
        }
    }
    json_decref(*a);
    json_decref(b);
    *a = out;
    return status;
}

/* ---- flattening ---- */

/* Whether the value of an asserting key is of the kind that it must have. */
static omni_status check_value(schema_merger *m, const char *key, const json_t *v, const char *at) {
    static const char counts[] = " minProperties maxProperties minItems maxItems minLength maxLength ";
    static const char numbers[] = " minimum maximum exclusiveMinimum exclusiveMaximum multipleOf ", texts[] = " pattern format ";
    static const char lists[] = " enum required prefixItems ";
    if (among(counts, key) && (!json_is_number(v) || numeric(v) < 0 || numeric(v) != floor(numeric(v)))) {
        return schema_refuse(m, at, key, "must be a whole number, 0 or more");
    }
    if (among(numbers, key) && !json_is_number(v)) {
        return schema_refuse(m, at, key, "must be a number");
    }
    if (among(texts, key) && (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))) {
        return schema_refuse(m, at, key, "must be a text");
    }
    if (among(lists, key) && !json_is_array(v)) {
        return schema_refuse(m, at, key, "must be a list");
    }
    if (strcmp(key, "properties") == 0 && !json_is_object(v)) {
        return schema_refuse(m, at, key, "must be an object");
    }
    for (size_t i = 0; strcmp(key, "required") == 0 && i < json_array_size(v); i++) {
        if (!json_is_string(json_array_get(v, i))) {
            return schema_refuse(m, at, key, "must be a list of texts");
        }
    }
    if (strcmp(key, "type") == 0) {
        const size_t n = json_is_array(v) ? json_array_size(v) : 1;
        for (size_t i = 0; i < n; i++) {
            const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
            bool known = false;
            for (size_t k = 0; json_is_string(one) && k < sizeof type_names / sizeof *type_names; k++) {
                known |= strcmp(json_string_value(one), type_names[k]) == 0;
            }
            if (!known) {
                return schema_refuse(m, at, key, "must be object, array, string, integer, number, boolean or null, or a list of them");
            }
        }
    }
    if (strcmp(key, "multipleOf") == 0 && numeric(v) != 1) {
        return schema_refuse(m, at, key, "is not supported, but for 1");
    }
    if (strcmp(key, "uniqueItems") == 0 && !json_is_false(v)) {
        return schema_refuse(m, at, key, "is not supported");
    }
    return OMNI_OK;
}

/* The keys that say something by themselves; unknown ones are refused. const becomes an enum of one. */
static omni_status own_keys(schema_merger *m, const json_t *schema, const char *at, json_t *out) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)schema, key, v) {
        if (among(describes, key) || among(combines, key) || strncmp(key, "x-", 2) == 0) {
            continue;
        }
        if (!among(asserts, key)) {
            return schema_refuse(m, at, key, "is not supported");
        }
        TRY(check_value(m, key, v, at));
        json_object_set(out, key, v);
    }
    const json_t *multiple = json_object_get(out, "multipleOf"); /* of 1: whole numbers */
    if (multiple) {
        json_object_del(out, "multipleOf");
        json_t *types = json_object_get(out, "type"), *wholes = json_array();
        for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++) {
            const bool number = strcmp(type_names[i], "number") == 0;
            if (!number && (!types || has_type(types, type_names[i]) || (strcmp(type_names[i], "integer") == 0 && has_type(types, "number")))) {
                json_array_append_new(wholes, json_string(type_names[i]));
            }
        }
        json_object_set_new(out, "type", wholes);
    }
    const json_t *value = json_object_get(out, "const");
    if (value) {
        json_t *values = json_pack("[O]", value), *given = json_object_get(out, "enum");
        json_t *left = given ? common_values(given, values) : json_incref(values);
        json_object_set_new(out, "enum", left);
        json_object_del(out, "const");
        json_decref(values);
    }
    return OMNI_OK;
}

static omni_status flatten_list(schema_merger *m, const json_t *schema, const char *key, const char *at, json_t **branches) {
    const json_t *list = json_object_get(schema, key);
    json_t *union_of = json_array(), *seen = json_array();
    omni_status status = json_is_array(list) && json_array_size(list) > 0 ? OMNI_OK : schema_refuse(m, at, key, "must be a list of schemas");
    for (size_t i = 0; status == OMNI_OK && i < json_array_size(list); i++) {
        json_t *one = NULL;
        char below[300];
        snprintf(below, sizeof below, "%.250s/%s/%zu", at, key, i);
        status = schema_flatten(m, json_array_get(list, i), below, &one);
        if (status == OMNI_OK && strcmp(key, "allOf") == 0) {
            status = cross(m, branches, one, at);
            continue;
        }
        if (status == OMNI_OK && strcmp(key, "oneOf") == 0) {
            json_t *with = json_copy(*branches);
            status = cross(m, &with, one, below);
            one = with;
            for (size_t a = 0; status == OMNI_OK && a < json_array_size(one); a++) {
                for (size_t b = 0; status == OMNI_OK && b < json_array_size(seen); b++) {
                    if (!schema_apart(m, json_array_get(one, a), json_array_get(seen, b), 0)) {
                        status = schema_refuse(m, at, key,
                                               "has alternatives that may both be right for one value: anyOf is meant, or they need "
                                               "different types or constants");
                    }
                }
            }
            json_array_extend(seen, one);
        }
        json_array_extend(union_of, one);
        json_decref(one);
    }
    json_decref(seen);
    if (status != OMNI_OK || strcmp(key, "allOf") == 0) {
        json_decref(union_of);
        return status;
    }
    if (strcmp(key, "oneOf") == 0) { /* the branches are in it already */
        json_decref(*branches);
        *branches = union_of;
        return OMNI_OK;
    }
    return cross(m, branches, union_of, at);
}

omni_status schema_flatten(schema_merger *m, const json_t *schema, const char *at, json_t **out) {
    static const char *const lists[] = {"allOf", "anyOf", "oneOf"};
    *out = json_array();
    if (!*out) {
        return no_memory(m);
    }
    if (json_is_boolean(schema)) {
        if (json_is_true(schema)) {
            json_array_append_new(*out, json_object());
        }
        return OMNI_OK;
    }
    omni_status status = OMNI_OK;
    if (!json_is_object(schema)) {
        status = fail(m->err, OMNI_ERR_FORMAT, "%s%s#%s: a schema must be an object, true or false", m->place, *m->place ? " " : "", at);
    }
    if (status == OMNI_OK && (m->depth >= MOST_DEPTH || ++m->work > MOST_WORK)) {
        status = fail(m->err, OMNI_ERR_LIMIT, "%s%s#%s: the schema is too deep, or refers to itself without end", m->place, *m->place ? " " : "", at);
    }
    m->depth++;
    if (status == OMNI_OK) {
        json_t *own = json_object();
        status = own_keys(m, schema, at, own);
        json_array_append_new(*out, own);
    }
    if (status == OMNI_OK && json_object_get(schema, "$ref")) {
        const json_t *there;
        json_t *list = NULL;
        status = schema_resolve(m, json_object_get(schema, "$ref"), at, &there);
        if (status == OMNI_OK) {
            status = schema_flatten(m, there, json_string_value(json_object_get(schema, "$ref")) + 1, &list);
        }
        if (status == OMNI_OK) {
            status = cross(m, out, list, at);
        } else {
            json_decref(list);
        }
    }
    for (size_t i = 0; status == OMNI_OK && i < 3; i++) {
        if (json_object_get(schema, lists[i])) {
            status = flatten_list(m, schema, lists[i], at, out);
        }
    }
    m->depth--;
    if (status != OMNI_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}

/* ---- what a flat schema allows ---- */

unsigned schema_types(const json_t *flat) {
    static const struct {
        const char *name;
        unsigned bits;
        const char *keys;
    } types[] = {
        {"object", 1u << JSON_OBJECT, "properties required additionalProperties minProperties maxProperties"},
        {"array", 1u << JSON_ARRAY, "items prefixItems minItems maxItems uniqueItems"},
        {"string", 1u << JSON_STRING, "minLength maxLength pattern format"},
        {"integer", 1u << JSON_INTEGER, ""},
        {"number", 1u << JSON_INTEGER | 1u << JSON_REAL, "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"},
        {"boolean", 1u << JSON_TRUE, ""},
        {"null", 1u << JSON_NULL, ""},
    };
    const json_t *type = json_object_get(flat, "type");
    unsigned bits = 0, all = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        all |= types[i].bits;
        bits |= type && has_type(type, types[i].name) ? types[i].bits : 0;
        char keys[128], *save = NULL;
        snprintf(keys, sizeof keys, "%s", types[i].keys);
        for (char *key = strtok_r(keys, " ", &save); !type && key; key = strtok_r(NULL, " ", &save)) {
            bits |= json_object_get(flat, key) ? types[i].bits : 0;
        }
    }
    return type || bits ? bits : all;
}

static unsigned value_type(const json_t *v) {
    return json_is_boolean(v)                                   ? 1u << JSON_TRUE
           : json_is_real(v) && numeric(v) != floor(numeric(v)) ? 1u << JSON_REAL
           : json_is_number(v)                                  ? 1u << JSON_INTEGER
                                                                : 1u << json_typeof(v);
}

/* The types of a flat schema when all that it may mean is taken: keywords say nothing of other types. */
static unsigned wide_types(const json_t *flat) {
    const json_t *values = json_object_get(flat, "enum");
    unsigned bits = json_object_get(flat, "type") ? schema_types(flat) : ~0u, of_values = 0;
    for (size_t i = 0; i < json_array_size(values); i++) {
        of_values |= value_type(json_array_get(values, i));
    }
    return values ? bits & of_values : bits;
}

static bool values_apart(const json_t *a, const json_t *b) {
    json_t *common = common_values(json_object_get(a, "enum"), json_object_get(b, "enum"));
    const bool apart = json_object_get(a, "enum") && json_object_get(b, "enum") && json_array_size(common) == 0;
    json_decref(common);
    return apart;
}

static bool is_required(const json_t *s, const char *name) {
    const json_t *list = json_object_get(s, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *r = json_string_value(json_array_get(list, i));
        if (r && strcmp(r, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool property_apart(schema_merger *m, const json_t *x, const json_t *y, int depth) {
    json_t *a = NULL, *b = NULL;
    omni_error *err = m->err, ignored;
    m->err = &ignored;
    const int before = m->depth;
    bool apart = schema_flatten(m, x, "", &a) == OMNI_OK && schema_flatten(m, y, "", &b) == OMNI_OK;
    m->depth = before;
    m->err = err;
    for (size_t i = 0; apart && i < json_array_size(a); i++) {
        for (size_t k = 0; apart && k < json_array_size(b); k++) {
            apart = schema_apart(m, json_array_get(a, i), json_array_get(b, k), depth + 1);
        }
    }
    json_decref(a);
    json_decref(b);
    return apart;
}

/* A property that a requires, which b has otherwise or not at all. */
static bool objects_apart(schema_merger *m, const json_t *a, const json_t *b, int depth) {
    const json_t *list = json_object_get(a, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        const json_t *x = name ? json_object_get(json_object_get(a, "properties"), name) : NULL;
        const json_t *y = name ? json_object_get(json_object_get(b, "properties"), name) : NULL;
        if (name && !y && json_is_false(others(b))) {
            return true;
        }
        if (x && y && is_required(b, name) && property_apart(m, x, y, depth)) {
            return true;
        }
    }
    return false;
}

static bool numbers_apart(const json_t *a, const json_t *b) {
    const json_t *high = json_object_get(a, "maximum"), *low = json_object_get(b, "minimum");
    const json_t *without_high = json_object_get(a, "exclusiveMaximum"), *without_low = json_object_get(b, "exclusiveMinimum");
    return (high && low && numeric(high) < numeric(low)) || (without_high && low && numeric(without_high) <= numeric(low)) ||
           (high && without_low && numeric(high) <= numeric(without_low));
}

bool schema_apart(schema_merger *m, const json_t *a, const json_t *b, int depth) {
    const unsigned common = wide_types(a) & wide_types(b);
    const unsigned numbers = 1u << JSON_INTEGER | 1u << JSON_REAL;
    if (common == 0 || values_apart(a, b)) {
        return true;
    }
    if (common == 1u << JSON_OBJECT && depth < 4) {
        return objects_apart(m, a, b, depth) || objects_apart(m, b, a, depth);
    }
    return (common & ~numbers) == 0 && (numbers_apart(a, b) || numbers_apart(b, a));
}
