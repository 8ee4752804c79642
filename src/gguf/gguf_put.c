/* The writer's setters: keys and tensors are declared, the first error is kept. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "gguf/gguf_writer.h"

enum { MAX_NAME_BYTES = 63 };

void writer_append(gguf_writer *w, const void *data, size_t size) {
    buffer *b = &w->keys;
    if (!writer_healthy(w) || size == 0) {
        return;
    }
    if (size > b->capacity - b->size) {
        size_t capacity = 2 * (b->size + size) + 1024;
        uint8_t *larger = realloc(b->data, capacity);
        if (!larger) {
            fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
            return;
        }
        b->data = larger;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void writer_append_u32(gguf_writer *w, uint32_t v) {
    writer_append(w, &v, sizeof v);
}

void writer_append_u64(gguf_writer *w, uint64_t v) {
    writer_append(w, &v, sizeof v);
}

void writer_append_string(gguf_writer *w, const char *s, size_t n) {
    writer_append_u64(w, n);
    writer_append(w, s, n);
}

/* Records a name; false, with the first error set, when it is unfit or there already. The table keeps pointing at copy. */
static bool add_name(gguf_writer *w, name_index *index, char *copy, size_t limit, const char *what) {
    if (!writer_healthy(w)) {
        return false;
    }
    if (!copy) {
        fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
        return false;
    }
    size_t n = strlen(copy), before = index->count, position;
    if (w->begun) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: %s '%s' declared after the header was written", w->path, what, copy);
    } else if (n == 0 || n > limit || !utf8_valid(copy, n)) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: the name of %s '%s' must be UTF-8 of 1 to %zu bytes", w->path, what, copy, limit);
    } else if (name_index_add(index, copy, n, &position, &w->first) == OMNI_OK && position != before) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: %s '%s' declared twice", w->path, what, copy);
    }
    return writer_healthy(w);
}

/* Starts a key: its name and type. False when nothing more is to be written. */
static bool begin_key(gguf_writer *w, const char *key, gguf_type type) {
    size_t n = w->key_index.count;
    if (writer_healthy(w) && (n == 0 || (n & (n - 1)) == 0)) {
        char **larger = realloc(w->key_names, (n ? 2 * n : 1) * sizeof *larger);
        if (!larger) {
            fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
            return false;
        }
        w->key_names = larger;
    }
    char *copy = strdup(key);
    if (!add_name(w, &w->key_index, copy, 65535, "key")) {
        free(copy);
        return false;
    }
    w->key_names[n] = copy;
    writer_append_string(w, key, strlen(key));
    writer_append_u32(w, (uint32_t)type);
    return true;
}

static void put_array(gguf_writer *w, const char *key, gguf_type element, const void *v, size_t n) {
    if (begin_key(w, key, GGUF_ARRAY)) {
        writer_append_u32(w, (uint32_t)element);
        writer_append_u64(w, n);
        writer_append(w, v, n * gguf_type_bytes(element));
    }
}

void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v) {
    if (begin_key(w, key, GGUF_U32)) {
        writer_append_u32(w, v);
        if (strcmp(key, "general.alignment") == 0) {
            if (v < 8 || v > 1 << 20 || (v & (v - 1)) != 0) {
                fail(&w->first, OMNI_ERR_ARGUMENT, "%s: general.alignment %" PRIu32 " is not a power of two from 8 to 1048576", w->path, v);
            } else {
                w->alignment = v;
            }
        }
    }
}

void gguf_put_f32(gguf_writer *w, const char *key, float v) {
    if (begin_key(w, key, GGUF_F32)) {
        writer_append(w, &v, sizeof v);
    }
}

void gguf_put_bool(gguf_writer *w, const char *key, bool v) {
    if (begin_key(w, key, GGUF_BOOL)) {
        writer_append(w, &(uint8_t){v}, 1);
    }
}

void gguf_put_str(gguf_writer *w, const char *key, const char *v) {
    gguf_put_strn(w, key, v, strlen(v));
}

void gguf_put_strn(gguf_writer *w, const char *key, const char *v, size_t n) {
    if (begin_key(w, key, GGUF_STRING)) {
        writer_append_string(w, v, n);
    }
}

void gguf_put_i32s(gguf_writer *w, const char *key, const int32_t *v, size_t n) {
    put_array(w, key, GGUF_I32, v, n);
}

void gguf_put_u32s(gguf_writer *w, const char *key, const uint32_t *v, size_t n) {
    put_array(w, key, GGUF_U32, v, n);
}

void gguf_put_f32s(gguf_writer *w, const char *key, const float *v, size_t n) {
    put_array(w, key, GGUF_F32, v, n);
}

void gguf_put_bools(gguf_writer *w, const char *key, const bool *v, size_t n) {
    _Static_assert(sizeof(bool) == 1, "truth values are stored as bytes");
    put_array(w, key, GGUF_BOOL, v, n);
}

void gguf_put_strs(gguf_writer *w, const char *key, const gguf_str *v, size_t n) {
    if (begin_key(w, key, GGUF_ARRAY)) {
        writer_append_u32(w, GGUF_STRING);
        writer_append_u64(w, n);
        for (size_t i = 0; i < n; i++) {
            writer_append_string(w, v[i].data, v[i].size);
        }
    }
}

void gguf_put_copy(gguf_writer *w, const gguf *from, size_t i) {
    gguf_str name = gguf_key_name(from, i);
    char *key = strndup(name.data, name.size);
    const gguf_key *k = &from->keys[i];
    if (!key) {
        fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
        return;
    }
    if (strcmp(key, "general.alignment") == 0) {
        gguf_put_u32(w, key, from->alignment);
    } else if (begin_key(w, key, k->type)) {
        if (k->type == GGUF_ARRAY) {
            writer_append_u32(w, (uint32_t)k->element);
            writer_append_u64(w, k->count);
        }
        writer_append(w, k->value, k->size);
    }
    free(key);
}

/* Bytes of a tensor of this shape and type; false when they do not fit together. */
static bool shape_bytes(dtype type, int n_dims, const int64_t *ne, size_t *out) {
    const dtype_info *info = dtype_find((uint32_t)type);
    int64_t values = 1;
    if (!info || n_dims < 1 || n_dims > TENSOR_MAX_DIMS) {
        return false;
    }
    for (int i = 0; i < n_dims; i++) {
        if (ne[i] <= 0 || __builtin_mul_overflow(values, ne[i], &values)) {
            return false;
        }
    }
    return ne[0] % info->block == 0 && !__builtin_mul_overflow((size_t)(values / info->block), info->bytes, out);
}

size_t gguf_put_tensor(gguf_writer *w, const char *name, dtype type, int n_dims, const int64_t *ne) {
    size_t n = w->tensor_index.count;
    out_tensor t = {.type = type, .n_dims = n_dims};
    if (!writer_healthy(w)) {
        return SIZE_MAX;
    }
    if (n == w->tensor_capacity) {
        size_t capacity = n ? 2 * n : 64;
        out_tensor *larger = realloc(w->tensors, capacity * sizeof *larger);
        if (!larger) {
            fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
            return SIZE_MAX;
        }
        w->tensors = larger;
        w->tensor_capacity = capacity;
    }
    if (!shape_bytes(type, n_dims, ne, &t.size)) {
        const dtype_info *info = dtype_find((uint32_t)type);
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: tensor '%s': %d dimensions, rows of %" PRId64 " values and type %s do not fit together", w->path,
             name, n_dims, n_dims > 0 ? ne[0] : 0, info ? info->name : "unknown");
        return SIZE_MAX;
    }
    t.name = strdup(name);
    if (!add_name(w, &w->tensor_index, t.name, MAX_NAME_BYTES, "tensor")) {
        free(t.name);
        return SIZE_MAX;
    }
    memcpy(t.ne, ne, (size_t)n_dims * sizeof *ne);
    w->tensors[n] = t;
    return n;
}

size_t gguf_writer_tensor_bytes(const gguf_writer *w, size_t index) {
    return index < w->tensor_index.count ? w->tensors[index].size : 0;
}
