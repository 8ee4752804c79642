#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "gguf/describe.h"
#include "gguf/gguf_internal.h"

enum { TEXT_ELEMENTS = 6, JSON_ELEMENTS = 16, JSON_STRING_BYTES = 1 << 16 };

/* ---- text ---- */

/* "1,234,567" */
static const char *grouped(uint64_t n, char buffer[32]) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) {
            buffer[at++] = ',';
        }
        buffer[at++] = digits[i];
    }
    buffer[at] = 0;
    return buffer;
}

/* "18.6 GiB" */
static const char *bytes_text(uint64_t n, char buffer[32]) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)n;
    int unit = 0;
    while (v >= 1023.95 && unit < 6) {
        v /= 1024;
        unit++;
    }
    if (n == UINT64_MAX) {
        return "too large to count";
    }
    snprintf(buffer, 32, unit ? "%.1f %s" : "%.0f %s", v, units[unit]);
    return buffer;
}

static void sum_line(FILE *f, const char *name, const tensor_sum *s, const char *note) {
    char a[32], b[32];
    fprintf(f, "  %-26s %8" PRIu64 " %18s %12s%s\n", name, s->tensors, grouped(s->values, a), bytes_text(s->bytes, b), note);
}

static void print_sums(FILE *f, const description *d) {
    fprintf(f, "\n%-28s %8s %18s %12s\n", "Types", "tensors", "values", "memory");
    for (uint32_t t = 0; t < DTYPE_COUNT; t++) {
        if (d->types[t].tensors) {
            bool weights = strcmp(d->kind, "checkpoint") != 0;
            sum_line(f, dtype_find(t)->name, &d->types[t], weights && !dtype_computable(t) ? "   cannot be computed with" : "");
        }
    }
    fprintf(f, "\n%-28s %8s %18s %12s\n", "Parts", "tensors", "values", "memory");
    for (size_t i = 0; i < d->part_count; i++) {
        sum_line(f, d->parts[i].name, &d->parts[i].sum, "");
    }
    sum_line(f, "all", &d->all, "");
}

static void print_memory(FILE *f, const description *d) {
    char a[32], b[32], line[64];
    fprintf(f, "\nMemory to run\n  %-44s %12s\n", "weights", bytes_text(d->all.bytes, a));
    for (size_t i = 0; i < d->context_count; i++) {
        const context_memory *c = &d->contexts[i];
        snprintf(line, sizeof line, "keys and values of %" PRIu64 " positions%s", c->positions,
                 c->positions == d->context_length ? " (the most)" : "");
        fprintf(f, "  %-44s %12s in F32, %s in F16\n", line, bytes_text(c->f32_bytes, a), bytes_text(c->f16_bytes, b));
    }
    if (d->fixed_bytes) {
        fprintf(f, "  %-44s %12s\n", "code predictor and code2wav, at least", bytes_text(d->fixed_bytes, a));
    }
    if (d->unusable) {
        fprintf(f, "  This program cannot run the file: tensor '%s' is stored as %s. Convert it to f32, f16, bf16 or q8_0.\n", d->unusable->name,
                dtype_find((uint32_t)d->unusable->type)->name);
    }
}

/* A key's value, escaped: it may hold anything. */
static omni_status text_key(FILE *f, const gguf *g, const char *label, const char *name, omni_error *err) {
    int64_t i = gguf_find(g, name);
    char *value = i < 0 ? strdup("(not given)") : gguf_value_text(g, (size_t)i, TEXT_ELEMENTS);
    if (!value) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", gguf_path(g));
    }
    fprintf(f, "  %s%s\n", label, value);
    free(value);
    return OMNI_OK;
}

static omni_status gguf_text(FILE *f, const gguf *g, const description *d, omni_error *err) {
    char a[32], b[32];
    fprintf(f, "%s\n", gguf_path(g));
    fprintf(f, "  kind          %s%s\n", d->kind, strcmp(d->kind, "other") == 0 ? " (not of this model family, as far as its keys tell)" : "");
    TRY(text_key(f, g, "architecture  ", "general.architecture", err));
    TRY(text_key(f, g, "name          ", "general.name", err));
    fprintf(f, "  format        GGUF version %" PRIu32 ", alignment %" PRIu32 "\n", gguf_version(g), g->alignment);
    if (gguf_part_count(g) > 1) {
        fprintf(f, "  files         %zu\n", gguf_part_count(g));
    }
    fprintf(f, "  size          %s bytes (%s)\n", grouped(gguf_file_size(g), a), bytes_text(gguf_file_size(g), b));
    fprintf(f, "  values        %s", grouped(d->all.values, a));
    fprintf(f, d->active_values ? ", of which a token meets %s\n" : "\n", grouped(d->active_values, b));
    print_sums(f, d);
    print_memory(f, d);
    fprintf(f, "\nMetadata: %zu keys\n", gguf_key_count(g));
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        gguf_str name = gguf_key_name(g, i);
        char *value = gguf_value_text(g, i, TEXT_ELEMENTS);
        if (!value) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", gguf_path(g));
        }
        fprintf(f, "  %.*s = %s\n", (int)name.size, name.data, value);
        free(value);
    }
    return OMNI_OK;
}

static omni_status checkpoint_text(FILE *f, const safetensors *s, const char *path, const description *d) {
    char a[32];
    size_t shards = 0;
    const char *last = NULL;
    for (size_t i = 0; i < safetensors_count(s); i++) { /* tensors come shard by shard */
        shards += safetensors_at(s, i)->file != last;
        last = safetensors_at(s, i)->file;
    }
    fprintf(f, "%s\n  kind          checkpoint: safetensors, %zu file%s\n", path, shards, shards == 1 ? "" : "s");
    fprintf(f, "  values        %s\n", grouped(d->all.values, a));
    print_sums(f, d);
    return OMNI_OK;
}

/* Bytes of a file as text for a terminal: values were escaped where they were printed, names were checked; what is left is
 * bytes that are no UTF-8. */
static omni_status finish_text(FILE *f, char **buffer, size_t *size, omni_status status, const char *path, char **text, omni_error *err) {
    if (fclose(f) != 0 && status == OMNI_OK) {
        status = fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    if (status == OMNI_OK) {
        *text = utf8_repair(*buffer, *size, size);
        status = *text ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    free(*buffer);
    return status;
}

/* ---- JSON ---- */

/* jansson gives NULL for a value when there is no memory, and does not put NULL anywhere. *ok: whether everything has been put so far. */
static void put(bool *ok, json_t *object, const char *key, json_t *value) {
    *ok = json_object_set_new(object, key, value) == 0 && *ok;
}

static void append(bool *ok, json_t *array, json_t *value) {
    *ok = json_array_append_new(array, value) == 0 && *ok;
}

/* The first bytes of a string, made valid UTF-8. */
static json_t *json_text(gguf_str s) {
    size_t n = s.size > JSON_STRING_BYTES ? JSON_STRING_BYTES : s.size, length;
    char *copy = utf8_repair(s.data, n, &length);
    json_t *j = copy ? json_stringn(copy, length) : NULL;
    free(copy);
    return j;
}

/* Integers beyond 63 bits and numbers that JSON cannot hold become strings. */
static json_t *json_number(gguf_type type, const uint8_t *p) {
    union {
        uint64_t u;
        int64_t i;
        float f;
        double d;
    } v = {0};
    size_t bytes = gguf_type_bytes(type);
    memcpy(&v, p, bytes);
    char text[32];
    if (type == GGUF_F32 || type == GGUF_F64) {
        double d = type == GGUF_F32 ? v.f : v.d;
        snprintf(text, sizeof text, "%g", d);
        return isfinite(d) ? json_real(d) : json_string(text);
    }
    if (type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32) {
        int shift = 64 - 8 * (int)bytes;
        return json_integer((int64_t)(v.u << shift) >> shift);
    }
    if (type == GGUF_U64 && v.u > INT64_MAX) {
        snprintf(text, sizeof text, "%" PRIu64, v.u);
        return json_string(text);
    }
    return json_integer(v.i);
}

static json_t *json_element(gguf_type type, const uint8_t **p) {
    const uint8_t *at = *p;
    if (type == GGUF_STRING) {
        return json_text(gguf_string_at(at, p));
    }
    *p += gguf_type_bytes(type);
    return type == GGUF_BOOL ? json_boolean(*at) : json_number(type, at);
}

/* A value as itself; an array as its length, element type and first elements. */
static json_t *json_value(bool *ok, const gguf_key *k) {
    const uint8_t *p = k->value;
    if (k->type != GGUF_ARRAY) {
        return json_element(k->type, &p);
    }
    json_t *values = json_array();
    for (uint64_t i = 0; i < k->count && i < JSON_ELEMENTS; i++) {
        append(ok, values, json_element(k->element, &p));
    }
    return json_pack("{s:s, s:I, s:o}", "array_of", gguf_type_name(k->element), "count", (json_int_t)k->count, "first", values);
}

/* UINT64_MAX stands for "too large to count". */
static json_t *json_count(uint64_t n) {
    return n > INT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static json_t *json_sum(const char *label, const char *name, const tensor_sum *s) {
    return json_pack("{s:s, s:o, s:o, s:o}", label, name, "tensors", json_count(s->tensors), "values", json_count(s->values), "bytes",
                     json_count(s->bytes));
}

static void json_sums(bool *ok, json_t *root, const description *d) {
    json_t *types = json_array(), *parts = json_array();
    for (uint32_t t = 0; t < DTYPE_COUNT; t++) {
        if (d->types[t].tensors) {
            json_t *type = json_sum("type", dtype_find(t)->name, &d->types[t]);
            put(ok, type, "computable", json_boolean(dtype_computable(t)));
            append(ok, types, type);
        }
    }
    for (size_t i = 0; i < d->part_count; i++) {
        size_t n;
        char *name = utf8_repair(d->parts[i].name, strlen(d->parts[i].name), &n); /* a long name may have been cut within a character */
        append(ok, parts, name ? json_sum("part", name, &d->parts[i].sum) : NULL);
        free(name);
    }
    put(ok, root, "tensor_count", json_count(d->all.tensors));
    put(ok, root, "value_count", json_count(d->all.values));
    put(ok, root, "tensor_bytes", json_count(d->all.bytes));
    put(ok, root, "types", types);
    put(ok, root, "parts", parts);
}

static json_t *json_memory(bool *ok, const description *d) {
    json_t *contexts = json_array();
    for (size_t i = 0; i < d->context_count; i++) {
        const context_memory *c = &d->contexts[i];
        append(ok, contexts,
               json_pack("{s:o, s:o, s:o}", "positions", json_count(c->positions), "f32_bytes", json_count(c->f32_bytes), "f16_bytes",
                         json_count(c->f16_bytes)));
    }
    json_t *memory =
        json_pack("{s:o, s:o, s:o}", "weight_bytes", json_count(d->all.bytes), "key_value", contexts, "fixed_bytes", json_count(d->fixed_bytes));
    if (d->context_length) {
        put(ok, memory, "context_length", json_count(d->context_length));
    }
    return memory;
}

static json_t *json_tensor(bool *ok, const char *name, dtype type, int n_dims, const int64_t *shape, size_t bytes) {
    json_t *dims = json_array();
    for (int i = 0; i < n_dims; i++) {
        append(ok, dims, json_integer(shape[i]));
    }
    return json_pack("{s:s, s:s, s:o, s:I}", "name", name, "type", dtype_find((uint32_t)type)->name, "shape", dims, "bytes", (json_int_t)bytes);
}

static json_t *gguf_json(bool *ok, const gguf *g, const description *d) {
    json_t *root = json_object(), *metadata = json_object(), *tensors = json_array();
    put(ok, root, "file", json_text((gguf_str){gguf_path(g), strlen(gguf_path(g))}));
    put(ok, root, "format", json_string("gguf"));
    put(ok, root, "version", json_integer(gguf_version(g)));
    put(ok, root, "files", json_count(gguf_part_count(g)));
    put(ok, root, "bytes", json_count(gguf_file_size(g)));
    put(ok, root, "kind", json_string(d->kind));
    put(ok, root, "architecture", json_text((gguf_str){d->architecture, strlen(d->architecture)}));
    put(ok, root, "name", json_text((gguf_str){d->name, strlen(d->name)}));
    put(ok, root, "usable", json_boolean(!d->unusable));
    json_sums(ok, root, d);
    if (d->active_values) {
        put(ok, root, "active_value_count", json_count(d->active_values));
    }
    put(ok, root, "memory", json_memory(ok, d));
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        gguf_str name = gguf_key_name(g, i);
        char *key = strndup(name.data, name.size);
        *ok = key && *ok;
        if (key) {
            put(ok, metadata, key, json_value(ok, &g->keys[i]));
        }
        free(key);
    }
    put(ok, root, "metadata", metadata);
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const tensor *t = gguf_tensor_at(g, i);
        json_t *entry = json_tensor(ok, t->name, t->type, t->n_dims, t->ne, t->size);
        if (gguf_part_count(g) > 1) {
            put(ok, entry, "part", json_count(gguf_tensor_part(g, t) + 1));
        }
        put(ok, entry, "offset", json_count(gguf_tensor_offset(g, t)));
        append(ok, tensors, entry);
    }
    put(ok, root, "tensors", tensors);
    return root;
}

static json_t *checkpoint_json(bool *ok, const safetensors *s, const char *path, const description *d) {
    json_t *root = json_object(), *tensors = json_array();
    put(ok, root, "file", json_text((gguf_str){path, strlen(path)}));
    put(ok, root, "format", json_string("safetensors"));
    put(ok, root, "kind", json_string(d->kind));
    json_sums(ok, root, d);
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const st_tensor *t = safetensors_at(s, i);
        const char *file = strrchr(t->file, '/');
        json_t *entry = json_tensor(ok, t->name, t->type, t->n_dims, t->shape, t->size);
        put(ok, entry, "file", json_string(file ? file + 1 : t->file));
        append(ok, tensors, entry);
    }
    put(ok, root, "tensors", tensors);
    return root;
}

static omni_status finish_json(json_t *root, bool ok, const char *path, char **text, omni_error *err) {
    *text = root && ok ? json_print(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    return *text ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
}

/* ---- both ---- */

omni_status describe_gguf_render(const gguf *g, const description *d, bool json, char **text, omni_error *err) {
    *text = NULL;
    if (json) {
        bool ok = true;
        json_t *root = gguf_json(&ok, g, d);
        return finish_json(root, ok, gguf_path(g), text, err);
    }
    char *buffer = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&buffer, &size);
    if (!f) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", gguf_path(g));
    }
    return finish_text(f, &buffer, &size, gguf_text(f, g, d, err), gguf_path(g), text, err);
}

omni_status describe_checkpoint_render(const safetensors *s, const char *path, const description *d, bool json, char **text, omni_error *err) {
    *text = NULL;
    if (json) {
        bool ok = true;
        json_t *root = checkpoint_json(&ok, s, path, d);
        return finish_json(root, ok, path, text, err);
    }
    char *buffer = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&buffer, &size);
    if (!f) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    return finish_text(f, &buffer, &size, checkpoint_text(f, s, path, d), path, text, err);
}
