#include "convert/json_fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

json_t *json_parse_object(json_reader *r, const char *text, size_t size) {
    if (r->status != OMNI_OK) {
        return NULL;
    }
    json_t *root;
    r->status = json_parse(text, size, JSON_MOST_VALUES, JSON_REJECT_DUPLICATES, &root, r->err);
    if (r->status != OMNI_OK) {
        r->status = fail_in(r->err, r->status, "%s", r->file);
        return NULL;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        r->status = fail(r->err, OMNI_ERR_FORMAT, "%s: the file holds no JSON object", r->file);
        return NULL;
    }
    return root;
}

void json_fail(json_reader *r, const json_section *s, const char *field, const char *format, ...) {
    if (r->status != OMNI_OK) {
        return;
    }
    char what[300];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    r->status = fail(r->err, OMNI_ERR_FORMAT, "%s: %s%s%s: %s", r->file, s->path, *s->path ? "." : "", field, what);
}

static const char *kind(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

const json_t *json_get(const json_section *s, const char *field) {
    const json_t *v = s->json ? json_object_get(s->json, field) : NULL;
    return v && !json_is_null(v) ? v : NULL;
}

json_section json_root(const json_t *object) {
    return (json_section){.json = object};
}

json_section json_object_at(json_reader *r, const json_section *s, const char *field, bool optional) {
    json_section out = {0};
    if (r->status != OMNI_OK) {
        return out;
    }
    snprintf(out.path, sizeof out.path, "%.100s%s%.80s", s->path, *s->path ? "." : "", field);
    const json_t *v = json_get(s, field);
    if (!v) {
        if (!optional) {
            json_fail(r, s, field, "missing; the model cannot be converted without it");
        }
    } else if (!json_is_object(v)) {
        json_fail(r, s, field, "must be an object, is %s", kind(v));
    } else {
        out.json = v;
    }
    return out;
}

static const json_t *need(json_reader *r, const json_section *s, const char *field) {
    const json_t *v = json_get(s, field);
    if (!v && r->status == OMNI_OK) {
        json_fail(r, s, field, "missing; the model cannot be converted without it");
    }
    return r->status == OMNI_OK ? v : NULL;
}

static void integer(json_reader *r, const json_section *s, const char *field, const json_t *v, uint32_t min, uint32_t max, uint32_t *out) {
    if (!json_is_integer(v)) {
        json_fail(r, s, field, "must be an integer, is %s", kind(v));
        return;
    }
    json_int_t x = json_integer_value(v);
    if (x < (json_int_t)min || x > (json_int_t)max) {
        json_fail(r, s, field, "%lld is outside %u to %u", (long long)x, min, max);
        return;
    }
    *out = (uint32_t)x;
}

static void real(json_reader *r, const json_section *s, const char *field, const json_t *v, double min, double max, float *out) {
    if (!json_is_number(v)) {
        json_fail(r, s, field, "must be a number, is %s", kind(v));
        return;
    }
    double x = json_number_value(v);
    if (!(x >= min && x <= max)) {
        json_fail(r, s, field, "%g is outside %g to %g", x, min, max);
        return;
    }
    *out = (float)x;
}

void json_u32(json_reader *r, const json_section *s, const char *field, uint32_t min, uint32_t max, uint32_t *out) {
    const json_t *v = need(r, s, field);
    if (v) {
        integer(r, s, field, v, min, max, out);
    }
}

bool json_maybe_u32(json_reader *r, const json_section *s, const char *field, uint32_t min, uint32_t max, uint32_t *out) {
    if (r->status != OMNI_OK || !json_get(s, field)) {
        return false;
    }
    json_u32(r, s, field, min, max, out);
    return true;
}

void json_f32(json_reader *r, const json_section *s, const char *field, double min, double max, float *out) {
    const json_t *v = need(r, s, field);
    if (v) {
        real(r, s, field, v, min, max, out);
    }
}

bool json_maybe_f32(json_reader *r, const json_section *s, const char *field, double min, double max, float *out) {
    if (r->status != OMNI_OK || !json_get(s, field)) {
        return false;
    }
    json_f32(r, s, field, min, max, out);
    return true;
}

void json_bool(json_reader *r, const json_section *s, const char *field, bool *out) {
    const json_t *v = need(r, s, field);
    if (v && !json_is_boolean(v)) {
        json_fail(r, s, field, "must be true or false, is %s", kind(v));
    } else if (v) {
        *out = json_is_true(v);
    }
}

bool json_maybe_bool(json_reader *r, const json_section *s, const char *field, bool *out) {
    if (r->status != OMNI_OK || !json_get(s, field)) {
        return false;
    }
    json_bool(r, s, field, out);
    return true;
}

const char *json_maybe_string(json_reader *r, const json_section *s, const char *field) {
    const json_t *v = json_get(s, field);
    if (!v || r->status != OMNI_OK) {
        return NULL;
    }
    if (!json_is_string(v)) {
        json_fail(r, s, field, "must be a string, is %s", kind(v));
        return NULL;
    }
    return json_string_value(v);
}

/* A list of the right length, or NULL after an error. */
static const json_t *list(json_reader *r, const json_section *s, const char *field, size_t min_count, size_t max_count) {
    const json_t *v = need(r, s, field);
    if (!v) {
        return NULL;
    }
    if (!json_is_array(v)) {
        json_fail(r, s, field, "must be a list, is %s", kind(v));
        return NULL;
    }
    size_t n = json_array_size(v);
    if (n < min_count || n > max_count) {
        if (min_count == max_count) {
            json_fail(r, s, field, "has %zu values; %zu are needed", n, min_count);
        } else {
            json_fail(r, s, field, "has %zu values; %zu to %zu are possible", n, min_count, max_count);
        }
        return NULL;
    }
    return v;
}

void json_u32_list(json_reader *r, const json_section *s, const char *field, uint32_t min, uint32_t max, uint32_t *out, size_t min_count,
                   size_t max_count, size_t *count) {
    const json_t *v = list(r, s, field, min_count, max_count);
    if (!v) {
        return;
    }
    *count = json_array_size(v);
    for (size_t i = 0; i < *count; i++) {
        integer(r, s, field, json_array_get(v, i), min, max, &out[i]);
    }
}

void json_f32_list(json_reader *r, const json_section *s, const char *field, double min, double max, float *out, size_t count) {
    const json_t *v = list(r, s, field, count, count);
    for (size_t i = 0; v && i < count; i++) {
        real(r, s, field, json_array_get(v, i), min, max, &out[i]);
    }
}
