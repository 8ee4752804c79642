#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "gguf/gguf_internal.h"

enum { ALIGNMENT = 32, MAX_NAME_BYTES = 63 };

/* Bytes that grow. */
typedef struct buffer {
    uint8_t *data;
    size_t size, capacity;
} buffer;

/* A part [begin, end) of a tensor's data that has been written. */
typedef struct span {
    size_t begin, end;
} span;

typedef struct out_tensor {
    char *name;
    dtype type;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS];
    size_t size, offset; /* bytes; offset from the start of the data */
    span *spans;         /* sorted, apart, and not touching: one span [0, size) once complete */
    size_t span_count, span_capacity;
} out_tensor;

struct gguf_writer {
    file_out file;
    char *path;
    omni_error first; /* the first error of a setter; code OMNI_OK while there is none */
    buffer keys;
    name_index key_index, tensor_index;
    char **key_names;
    out_tensor *tensors;
    size_t tensor_capacity;
    uint32_t alignment;
    uint64_t data_offset; /* of the tensor data in the file; 0 before gguf_writer_begin */
    pthread_mutex_t mutex;
};

omni_status gguf_writer_create(const char *path, gguf_writer **out, omni_error *err) {
    *out = NULL;
    gguf_writer *w = calloc(1, sizeof *w);
    char *copy = strdup(path);
    if (!w || !copy) {
        free(w);
        free(copy);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    w->path = copy;
    w->alignment = ALIGNMENT;
    pthread_mutex_init(&w->mutex, NULL);
    omni_status status = file_out_open(path, &w->file, err);
    if (status != OMNI_OK) {
        gguf_writer_abandon(w);
        return status;
    }
    *out = w;
    return OMNI_OK;
}

static bool healthy(const gguf_writer *w) {
    return w->first.code == OMNI_OK;
}

static void append(gguf_writer *w, const void *data, size_t size) {
    buffer *b = &w->keys;
    if (!healthy(w) || size == 0) {
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

static void append_u32(gguf_writer *w, uint32_t v) {
    append(w, &v, sizeof v);
}

static void append_u64(gguf_writer *w, uint64_t v) {
    append(w, &v, sizeof v);
}

static void append_string(gguf_writer *w, const char *s, size_t n) {
    append_u64(w, n);
    append(w, s, n);
}

/* Records a name; false, with the first error set, when it is unfit or there already. The table keeps pointing at copy. */
static bool add_name(gguf_writer *w, name_index *index, char *copy, size_t limit, const char *what) {
    if (!healthy(w)) {
        return false;
    }
    if (!copy) {
        fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
        return false;
    }
    size_t n = strlen(copy), before = index->count, position;
    if (w->data_offset) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: %s '%s' declared after the header was written", w->path, what, copy);
    } else if (n == 0 || n > limit || !utf8_valid(copy, n)) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: the name of %s '%s' must be UTF-8 of 1 to %zu bytes", w->path, what, copy, limit);
    } else if (name_index_add(index, copy, n, &position, &w->first) == OMNI_OK && position != before) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: %s '%s' declared twice", w->path, what, copy);
    }
    return healthy(w);
}

/* Starts a key: its name and type. False when nothing more is to be written. */
static bool begin_key(gguf_writer *w, const char *key, gguf_type type) {
    size_t n = w->key_index.count;
    if (healthy(w) && (n == 0 || (n & (n - 1)) == 0)) {
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
    append_string(w, key, strlen(key));
    append_u32(w, (uint32_t)type);
    return true;
}

static void put_array(gguf_writer *w, const char *key, gguf_type element, const void *v, size_t n) {
    if (begin_key(w, key, GGUF_ARRAY)) {
        append_u32(w, (uint32_t)element);
        append_u64(w, n);
        append(w, v, n * gguf_type_bytes(element));
    }
}

void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v) {
    if (begin_key(w, key, GGUF_U32)) {
        append_u32(w, v);
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
        append(w, &v, sizeof v);
    }
}

void gguf_put_bool(gguf_writer *w, const char *key, bool v) {
    if (begin_key(w, key, GGUF_BOOL)) {
        append(w, &(uint8_t){v}, 1);
    }
}

void gguf_put_str(gguf_writer *w, const char *key, const char *v) {
    gguf_put_strn(w, key, v, strlen(v));
}

void gguf_put_strn(gguf_writer *w, const char *key, const char *v, size_t n) {
    if (begin_key(w, key, GGUF_STRING)) {
        append_string(w, v, n);
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
        append_u32(w, GGUF_STRING);
        append_u64(w, n);
        for (size_t i = 0; i < n; i++) {
            append_string(w, v[i].data, v[i].size);
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
            append_u32(w, (uint32_t)k->element);
            append_u64(w, k->count);
        }
        append(w, k->value, k->size);
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
    if (!healthy(w)) {
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

/* Gives every tensor its place, in order of declaration as other readers demand. *total: bytes of the whole data. */
static bool place(gguf_writer *w, uint64_t *total) {
    uint64_t at = 0;
    for (size_t i = 0; i < w->tensor_index.count; i++) {
        w->tensors[i].offset = at;
        if (__builtin_add_overflow(at, w->tensors[i].size + (w->alignment - 1), &at) || at > INT64_MAX / 2) {
            return false;
        }
        at &= ~(uint64_t)(w->alignment - 1);
    }
    *total = at;
    return true;
}

omni_status gguf_writer_begin(gguf_writer *w, omni_error *err) {
    uint64_t total = 0;
    if (healthy(w) && w->data_offset) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: the header was written already", w->path);
    }
    if (healthy(w) && !place(w, &total)) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: the tensors together are larger than any file", w->path);
    }
    /* The key/value bytes gathered so far go behind the fixed fields; the same buffer then takes the tensor list. */
    buffer keys = w->keys;
    w->keys = (buffer){0};
    append(w, "GGUF", 4);
    append_u32(w, 3);
    append_u64(w, w->tensor_index.count);
    append_u64(w, w->key_index.count);
    append(w, keys.data, keys.size);
    for (size_t i = 0; i < w->tensor_index.count; i++) {
        const out_tensor *t = &w->tensors[i];
        append_string(w, t->name, strlen(t->name));
        append_u32(w, (uint32_t)t->n_dims);
        append(w, t->ne, (size_t)t->n_dims * sizeof *t->ne);
        append_u32(w, (uint32_t)t->type);
        append_u64(w, t->offset);
    }
    free(keys.data);
    static const uint8_t zeros[256] = {0};
    while (healthy(w) && w->keys.size % w->alignment != 0) {
        size_t n = w->alignment - w->keys.size % w->alignment;
        append(w, zeros, n < sizeof zeros ? n : sizeof zeros);
    }
    if (!healthy(w)) {
        if (err) {
            *err = w->first;
        }
        return w->first.code;
    }
    /* Better to learn now than after an hour that the disk is too small. File systems that cannot reserve say so at once. */
    if (total && fallocate(w->file.fd, 0, 0, (off_t)(w->keys.size + total)) != 0 && errno == ENOSPC) {
        return fail(err, OMNI_ERR_IO, "%s: %" PRIu64 " bytes are needed, but the disk is full", w->path, w->keys.size + total);
    }
    TRY(file_out_write_at(&w->file, 0, w->keys.data, w->keys.size, err));
    if (total) {
        /* The padding behind the last tensor belongs to the file, too. */
        TRY(file_out_write_at(&w->file, w->keys.size + total - 1, zeros, 1, err));
    }
    w->data_offset = w->keys.size;
    free(w->keys.data);
    w->keys = (buffer){0};
    return OMNI_OK;
}

/* Adds [begin, end) to what has been written of a tensor; joins it with its neighbours. */
static omni_status mark(gguf_writer *w, out_tensor *t, size_t begin, size_t end, omni_error *err) {
    size_t i = t->span_count; /* the first span behind begin */
    while (i > 0 && t->spans[i - 1].begin > begin) {
        i--;
    }
    if ((i > 0 && t->spans[i - 1].end > begin) || (i < t->span_count && t->spans[i].begin < end)) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: tensor '%s': bytes %zu to %zu were written before, at least in part", w->path, t->name, begin, end);
    }
    bool joins_left = i > 0 && t->spans[i - 1].end == begin, joins_right = i < t->span_count && t->spans[i].begin == end;
    if (joins_left && joins_right) {
        t->spans[i - 1].end = t->spans[i].end;
        memmove(t->spans + i, t->spans + i + 1, (t->span_count - i - 1) * sizeof *t->spans);
        t->span_count--;
    } else if (joins_left) {
        t->spans[i - 1].end = end;
    } else if (joins_right) {
        t->spans[i].begin = begin;
    } else {
        if (t->span_count == t->span_capacity) {
            size_t capacity = t->span_capacity ? 2 * t->span_capacity : 4;
            span *larger = realloc(t->spans, capacity * sizeof *larger);
            if (!larger) {
                return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
            }
            t->spans = larger;
            t->span_capacity = capacity;
        }
        memmove(t->spans + i + 1, t->spans + i, (t->span_count - i) * sizeof *t->spans);
        t->spans[i] = (span){begin, end};
        t->span_count++;
    }
    return OMNI_OK;
}

omni_status gguf_writer_data(gguf_writer *w, size_t index, size_t offset, const void *data, size_t size, omni_error *err) {
    if (!w->data_offset || index >= w->tensor_index.count) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: data for tensor %zu, but %s", w->path, index,
                    w->data_offset ? "no such tensor was declared" : "the header has not been written");
    }
    out_tensor *t = &w->tensors[index];
    if (offset > t->size || size > t->size - offset) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: tensor '%s': %zu bytes at %zu do not fit into its %zu", w->path, t->name, size, offset, t->size);
    }
    if (size == 0) {
        return OMNI_OK;
    }
    pthread_mutex_lock(&w->mutex);
    omni_status status = mark(w, t, offset, offset + size, err);
    pthread_mutex_unlock(&w->mutex);
    if (status != OMNI_OK) {
        return status;
    }
    return file_out_write_at(&w->file, w->data_offset + t->offset + offset, data, size, err);
}

omni_status gguf_writer_finish(gguf_writer *w, omni_error *err) {
    omni_status status = OMNI_OK;
    if (!w->data_offset) {
        status = fail(err, OMNI_ERR_ARGUMENT, "%s: finished before its header was written", w->path);
    }
    for (size_t i = 0; i < w->tensor_index.count && status == OMNI_OK; i++) {
        const out_tensor *t = &w->tensors[i];
        if (t->span_count != 1 || t->spans[0].begin != 0 || t->spans[0].end != t->size) {
            size_t gap = t->span_count && t->spans[0].begin == 0 ? t->spans[0].end : 0;
            status = fail(err, OMNI_ERR_ARGUMENT, "%s: tensor '%s': data from byte %zu of %zu was never written", w->path, t->name, gap, t->size);
        }
    }
    if (status == OMNI_OK) {
        status = file_out_commit(&w->file, err);
    }
    gguf_writer_abandon(w);
    return status;
}

void gguf_writer_abandon(gguf_writer *w) {
    if (!w) {
        return;
    }
    if (w->file.path) {
        file_out_abandon(&w->file);
    }
    for (size_t i = 0; i < w->tensor_index.count; i++) {
        free(w->tensors[i].name);
        free(w->tensors[i].spans);
    }
    for (size_t i = 0; i < w->key_index.count; i++) {
        free(w->key_names[i]);
    }
    free(w->tensors);
    free(w->key_names);
    free(w->keys.data);
    name_index_free(&w->key_index);
    name_index_free(&w->tensor_index);
    pthread_mutex_destroy(&w->mutex);
    free(w->path);
    free(w);
}
