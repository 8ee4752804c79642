/* Values of keys and tensors by name, from a file that gguf_open has validated. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf_internal.h"

const char *gguf_type_name(gguf_type type) {
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    return (uint32_t)type < sizeof names / sizeof *names ? names[type] : "?";
}

gguf_str gguf_string_at(const uint8_t *p, const uint8_t **next) {
    uint64_t n;
    memcpy(&n, p, sizeof n);
    *next = p + sizeof n + n;
    return (gguf_str){(const char *)p + sizeof n, (size_t)n};
}

const char *gguf_path(const gguf *g) {
    return g->path;
}

uint32_t gguf_version(const gguf *g) {
    return g->version;
}

size_t gguf_file_size(const gguf *g) {
    size_t size = g->size;
    for (size_t i = 0; i < g->other_count; i++) {
        size += g->others[i]->size;
    }
    return size;
}

size_t gguf_part_count(const gguf *g) {
    return g->other_count + 1;
}

const char *gguf_part_path(const gguf *g, size_t i) {
    return i == 0 ? g->path : g->others[i - 1]->path;
}

size_t gguf_tensor_part(const gguf *g, const tensor *t) {
    const uint8_t *at = t->data;
    for (size_t i = 0; i < g->other_count; i++) {
        const gguf *o = g->others[i];
        if (at >= o->data && at < o->data + o->size) {
            return i + 1;
        }
    }
    return 0;
}

static const gguf *part_of(const gguf *g, const tensor *t) {
    const size_t i = gguf_tensor_part(g, t);
    return i == 0 ? g : g->others[i - 1];
}

size_t gguf_tensor_offset(const gguf *g, const tensor *t) {
    return (size_t)((const uint8_t *)t->data - part_of(g, t)->data);
}

size_t gguf_data_offset(const gguf *g) {
    return g->data_offset;
}

void gguf_forget(const gguf *g, const tensor *t) {
    g = part_of(g, t);
    if (g->map.data) {
        file_map_forget(&g->map, (size_t)((const uint8_t *)t->data - g->data), t->size);
    }
}

void gguf_want(const gguf *g, const tensor *t) {
    g = part_of(g, t);
    if (g->map.data) {
        file_map_want(&g->map, (size_t)((const uint8_t *)t->data - g->data), t->size);
    }
}

size_t gguf_key_count(const gguf *g) {
    return g->key_index.count;
}

gguf_str gguf_key_name(const gguf *g, size_t i) {
    return (gguf_str){g->key_index.entries[i].name, g->key_index.entries[i].size};
}

gguf_type gguf_key_type(const gguf *g, size_t i) {
    return g->keys[i].type;
}

int64_t gguf_find(const gguf *g, const char *key) {
    return name_index_find(&g->key_index, key, strlen(key));
}

/* A number of any type, kept exactly: integers as sign and magnitude, floats as double. */
typedef struct number {
    bool real, negative;
    uint64_t magnitude;
    double value; /* of both kinds */
} number;

static number signed_number(int64_t v) {
    return (number){.negative = v < 0, .magnitude = v < 0 ? 0 - (uint64_t)v : (uint64_t)v, .value = (double)v};
}

/* False for types that are no numbers. */
static bool load_number(gguf_type type, const uint8_t *p, number *out) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        float f32;
        uint64_t u64;
        int64_t i64;
        double f64;
    } v = {0};
    size_t bytes = gguf_type_bytes(type);
    if (bytes == 0 || type == GGUF_BOOL) {
        return false;
    }
    memcpy(&v, p, bytes);
    switch (type) {
    case GGUF_I8:
        *out = signed_number(v.i8);
        break;
    case GGUF_I16:
        *out = signed_number(v.i16);
        break;
    case GGUF_I32:
        *out = signed_number(v.i32);
        break;
    case GGUF_I64:
        *out = signed_number(v.i64);
        break;
    case GGUF_F32:
        *out = (number){.real = true, .value = v.f32};
        break;
    case GGUF_F64:
        *out = (number){.real = true, .value = v.f64};
        break;
    default: /* unsigned: the bytes above the value's own are 0 */
        *out = (number){.magnitude = v.u64, .value = (double)v.u64};
    }
    return true;
}

static void number_text(const number *n, char *text, size_t size) {
    if (n->real) {
        snprintf(text, size, "%.9g", n->value);
    } else {
        snprintf(text, size, "%s%" PRIu64, n->negative ? "-" : "", n->magnitude);
    }
}

static omni_status missing(const gguf *g, const char *key, omni_error *err) {
    return fail(err, OMNI_ERR_FORMAT, "%s: key '%s' is missing; the file is incomplete or of another kind", g->path, key);
}

static omni_status wrong_type(const gguf *g, const char *key, const gguf_key *k, const char *wanted, omni_error *err) {
    return fail(err, OMNI_ERR_FORMAT, "%s: key '%s' is of type %s%s%s, but %s is needed", g->path, key, gguf_type_name(k->type),
                k->type == GGUF_ARRAY ? " of " : "", k->type == GGUF_ARRAY ? gguf_type_name(k->element) : "", wanted);
}

/* An integer in [low, high] at p; low <= 0. */
static omni_status load_int(const gguf *g, const char *key, const gguf_key *k, gguf_type type, const uint8_t *p, int64_t low, int64_t high,
                            int64_t *out, omni_error *err) {
    number n;
    if (!load_number(type, p, &n) || n.real) {
        return wrong_type(g, key, k, k->type == GGUF_ARRAY ? "an array of integers" : "an integer", err);
    }
    bool fits = n.negative ? n.magnitude <= (uint64_t)INT64_MAX && -(int64_t)n.magnitude >= low : n.magnitude <= (uint64_t)high;
    int64_t v = n.negative ? -(int64_t)(n.magnitude & INT64_MAX) : (int64_t)(n.magnitude & INT64_MAX);
    if (!fits) {
        char text[32];
        number_text(&n, text, sizeof text);
        return fail(err, OMNI_ERR_FORMAT, "%s: key '%s' holds %s, outside of %" PRId64 " to %" PRId64, g->path, key, text, low, high);
    }
    *out = v;
    return OMNI_OK;
}

static omni_status load_float(const gguf *g, const char *key, const gguf_key *k, gguf_type type, const uint8_t *p, float *out, omni_error *err) {
    number n;
    if (!load_number(type, p, &n)) {
        return wrong_type(g, key, k, k->type == GGUF_ARRAY ? "an array of numbers" : "a number", err);
    }
    if (!(fabs(n.value) <= 3.4028234663852886e38)) {
        return fail(err, OMNI_ERR_FORMAT, "%s: key '%s' holds %g, not a finite number", g->path, key, n.value);
    }
    *out = (float)n.value;
    return OMNI_OK;
}

omni_status gguf_maybe_u32(const gguf *g, const char *key, uint32_t fallback, uint32_t *out, omni_error *err) {
    int64_t i = gguf_find(g, key), v = 0;
    if (i < 0) {
        *out = fallback;
        return OMNI_OK;
    }
    const gguf_key *k = &g->keys[i];
    TRY(load_int(g, key, k, k->type, k->value, 0, UINT32_MAX, &v, err));
    *out = (uint32_t)v;
    return OMNI_OK;
}

omni_status gguf_need_u32(const gguf *g, const char *key, uint32_t *out, omni_error *err) {
    return gguf_find(g, key) < 0 ? missing(g, key, err) : gguf_maybe_u32(g, key, 0, out, err);
}

omni_status gguf_need_int(const gguf *g, const char *key, int64_t low, int64_t high, int *out, omni_error *err) {
    uint32_t v = 0;
    TRY(gguf_need_u32(g, key, &v, err));
    if (v > INT32_MAX || v < low || v > high) {
        return fail(err, OMNI_ERR_FORMAT, "%s: key %s is %u; it must be between %lld and %lld", gguf_path(g), key, v, (long long)low,
                    (long long)high);
    }
    *out = (int)v;
    return OMNI_OK;
}

omni_status gguf_maybe_int(const gguf *g, const char *key, int fallback, int64_t low, int64_t high, int *out, omni_error *err) {
    if (gguf_find(g, key) < 0) {
        *out = fallback;
        return OMNI_OK;
    }
    return gguf_need_int(g, key, low, high, out, err);
}

omni_status gguf_maybe_f32(const gguf *g, const char *key, float fallback, float *out, omni_error *err) {
    int64_t i = gguf_find(g, key);
    if (i < 0) {
        *out = fallback;
        return OMNI_OK;
    }
    return load_float(g, key, &g->keys[i], g->keys[i].type, g->keys[i].value, out, err);
}

omni_status gguf_need_f32(const gguf *g, const char *key, float *out, omni_error *err) {
    return gguf_find(g, key) < 0 ? missing(g, key, err) : gguf_maybe_f32(g, key, 0, out, err);
}

omni_status gguf_maybe_bool(const gguf *g, const char *key, bool fallback, bool *out, omni_error *err) {
    int64_t i = gguf_find(g, key);
    if (i < 0) {
        *out = fallback;
        return OMNI_OK;
    }
    if (g->keys[i].type != GGUF_BOOL) {
        return wrong_type(g, key, &g->keys[i], "a truth value", err);
    }
    *out = *g->keys[i].value != 0;
    return OMNI_OK;
}

omni_status gguf_maybe_str(gguf *g, const char *key, const char *fallback, const char **out, omni_error *err) {
    int64_t i = gguf_find(g, key);
    if (i < 0) {
        *out = fallback;
        return OMNI_OK;
    }
    gguf_key *k = &g->keys[i];
    if (k->type != GGUF_STRING) {
        return wrong_type(g, key, k, "a string", err);
    }
    if (!k->copy) {
        const uint8_t *next;
        gguf_str s = gguf_string_at(k->value, &next);
        if (memchr(s.data, 0, s.size)) {
            return fail(err, OMNI_ERR_FORMAT, "%s: the string of key '%s' has a NUL byte inside", g->path, key);
        }
        k->copy = strndup(s.data, s.size);
        if (!k->copy) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", g->path);
        }
    }
    *out = k->copy;
    return OMNI_OK;
}

omni_status gguf_need_str(gguf *g, const char *key, const char **out, omni_error *err) {
    return gguf_find(g, key) < 0 ? missing(g, key, err) : gguf_maybe_str(g, key, NULL, out, err);
}

int64_t gguf_array_count(const gguf *g, const char *key, gguf_type *element) {
    int64_t i = gguf_find(g, key);
    if (i < 0 || g->keys[i].type != GGUF_ARRAY) {
        return -1;
    }
    if (element) {
        *element = g->keys[i].element;
    }
    return (int64_t)g->keys[i].count;
}

/* The array under a key, when it has count elements. */
static omni_status need_array(const gguf *g, const char *key, size_t count, const gguf_key **out, omni_error *err) {
    int64_t i = gguf_find(g, key);
    if (i < 0) {
        return missing(g, key, err);
    }
    const gguf_key *k = &g->keys[i];
    if (k->type != GGUF_ARRAY) {
        return wrong_type(g, key, k, "an array", err);
    }
    if (k->count != count) {
        return fail(err, OMNI_ERR_FORMAT, "%s: key '%s' has %" PRIu64 " elements, but %zu are needed", g->path, key, k->count, count);
    }
    *out = k;
    return OMNI_OK;
}

omni_status gguf_need_i32s(const gguf *g, const char *key, size_t count, int32_t *out, omni_error *err) {
    const gguf_key *k = NULL;
    TRY(need_array(g, key, count, &k, err));
    for (size_t i = 0; i < count; i++) {
        int64_t v = 0;
        TRY(load_int(g, key, k, k->element, k->value + i * gguf_type_bytes(k->element), INT32_MIN, INT32_MAX, &v, err));
        out[i] = (int32_t)v;
    }
    return OMNI_OK;
}

omni_status gguf_need_f32s(const gguf *g, const char *key, size_t count, float *out, omni_error *err) {
    const gguf_key *k = NULL;
    TRY(need_array(g, key, count, &k, err));
    for (size_t i = 0; i < count; i++) {
        TRY(load_float(g, key, k, k->element, k->value + i * gguf_type_bytes(k->element), &out[i], err));
    }
    return OMNI_OK;
}

omni_status gguf_need_bools(const gguf *g, const char *key, size_t count, bool *out, omni_error *err) {
    const gguf_key *k = NULL;
    TRY(need_array(g, key, count, &k, err));
    if (k->element != GGUF_BOOL) {
        return wrong_type(g, key, k, "an array of truth values", err);
    }
    for (size_t i = 0; i < count; i++) {
        out[i] = k->value[i] != 0;
    }
    return OMNI_OK;
}

omni_status gguf_need_strs(const gguf *g, const char *key, gguf_str **out, size_t *count, omni_error *err) {
    *out = NULL;
    *count = 0;
    int64_t i = gguf_find(g, key);
    if (i < 0) {
        return missing(g, key, err);
    }
    const gguf_key *k = &g->keys[i];
    if (k->type != GGUF_ARRAY || k->element != GGUF_STRING) {
        return wrong_type(g, key, k, "an array of strings", err);
    }
    gguf_str *strings = malloc((size_t)(k->count + 1) * sizeof *strings);
    if (!strings) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for the %" PRIu64 " strings of key '%s'", g->path, k->count, key);
    }
    const uint8_t *p = k->value;
    for (size_t j = 0; j < k->count; j++) {
        strings[j] = gguf_string_at(p, &p);
    }
    *out = strings;
    *count = (size_t)k->count;
    return OMNI_OK;
}

size_t gguf_tensor_count(const gguf *g) {
    return g->tensor_index.count;
}

const tensor *gguf_tensor_at(const gguf *g, size_t i) {
    return &g->tensors[i];
}

const tensor *gguf_tensor(const gguf *g, const char *name) {
    int64_t i = name_index_find(&g->tensor_index, name, strlen(name));
    return i < 0 ? NULL : &g->tensors[i];
}

/* "{2048, 768, any}" */
static void shape_text(int n_dims, const int64_t *ne, char *text, size_t size) {
    size_t at = 0;
    for (int i = 0; i < n_dims && at < size; i++) {
        const char *open = i ? ", " : "{";
        int n = ne[i] < 0 ? snprintf(text + at, size - at, "%sany", open) : snprintf(text + at, size - at, "%s%" PRId64, open, ne[i]);
        at += n > 0 ? (size_t)n : 0;
    }
    if (at < size) {
        snprintf(text + at, size - at, "}");
    }
}

omni_status gguf_need_tensor(const gguf *g, const tensor **out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...) {
    char name[256];
    va_list args;
    va_start(args, name_format);
    vsnprintf(name, sizeof name, name_format, args);
    va_end(args);
    *out = NULL;
    const tensor *t = gguf_tensor(g, name);
    char found[128], wanted[128];
    shape_text(n_dims, ne, wanted, sizeof wanted);
    if (!t) {
        return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%s' %s is missing; the file is incomplete or of another kind", g->path, name, wanted);
    }
    for (int i = 0; i < TENSOR_MAX_DIMS; i++) {
        int64_t want = i < n_dims ? ne[i] : 1;
        if (want >= 0 && t->ne[i] != want) {
            shape_text(t->n_dims, t->ne, found, sizeof found);
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%s' has the shape %s, but %s is needed", g->path, name, found, wanted);
        }
    }
    if (!dtype_computable((uint32_t)t->type)) {
        return fail(err, OMNI_ERR_UNSUPPORTED,
                    "%s: tensor '%s' is stored as %s, which this program cannot compute with: take another quantisation of the model", g->path, name,
                    dtype_find((uint32_t)t->type)->name);
    }
    *out = t;
    return OMNI_OK;
}

/* As a JSON string, but cut after limit bytes. Bytes that are no UTF-8 are copied as they are. */
static void print_string(FILE *f, gguf_str s, size_t limit) {
    size_t n = s.size > limit ? limit : s.size;
    while (n > 0 && n < s.size && ((uint8_t)s.data[n] & 0xc0) == 0x80) {
        n--;
    }
    fputc('"', f);
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)s.data[i];
        if (c == '"' || c == '\\') {
            fprintf(f, "\\%c", c);
        } else if (c == '\n') {
            fputs("\\n", f);
        } else if (c == '\t') {
            fputs("\\t", f);
        } else if (c < 0x20 || c == 0x7f) {
            fprintf(f, "\\u%04x", c);
        } else if (c == 0xc2 && i + 1 < n && (uint8_t)s.data[i + 1] < 0xa0) { /* the control characters above ASCII */
            fprintf(f, "\\u%04x", (uint8_t)s.data[++i]);
        } else {
            fputc(c, f);
        }
    }
    fputc('"', f);
    if (n < s.size) {
        fprintf(f, "... (%zu bytes in all)", s.size);
    }
}

static const uint8_t *print_value(FILE *f, gguf_type type, const uint8_t *p, size_t limit) {
    if (type == GGUF_STRING) {
        gguf_str s = gguf_string_at(p, &p);
        print_string(f, s, 16 * limit);
        return p;
    }
    number n;
    if (type == GGUF_BOOL) {
        fputs(*p ? "true" : "false", f);
    } else if (load_number(type, p, &n)) {
        char text[32];
        number_text(&n, text, sizeof text);
        fputs(text, f);
    }
    return p + gguf_type_bytes(type);
}

char *gguf_value_text(const gguf *g, size_t i, size_t limit) {
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) {
        return NULL;
    }
    const gguf_key *k = &g->keys[i];
    if (k->type == GGUF_ARRAY) {
        const uint8_t *p = k->value;
        fputc('[', f);
        for (uint64_t j = 0; j < k->count && j < limit; j++) {
            fputs(j ? ", " : "", f);
            p = print_value(f, k->element, p, limit);
        }
        if (k->count > limit) {
            fprintf(f, "%s... (%" PRIu64 " in all)", limit ? ", " : "", k->count);
        }
        fputc(']', f);
    } else {
        print_value(f, k->type, k->value, limit);
    }
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
