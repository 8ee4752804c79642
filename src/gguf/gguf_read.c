/* The layout of a GGUF file (version 2 or 3, little-endian):
 *   magic "GGUF", u32 version, u64 tensor count, u64 key count,
 *   keys: string name, u32 type, value (array: u32 element type, u64 count, elements),
 *   tensors: string name, u32 dimension count, u64 dimensions, u32 type, u64 offset from the start of the data,
 *   padding to the alignment, tensor data.
 * A string is u64 length and bytes. */
#include "gguf/gguf_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF files are read in place: a little-endian machine is needed"
#endif

enum {
    MAX_KEYS = 1 << 16,
    MAX_TENSORS = 1 << 20,
    MAX_KEY_BYTES = 65535,
    MAX_TENSOR_NAME_BYTES = 255,
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
};

/* Where parsing stands. Errors found on the way do not name the file; open_parsed() does. */
typedef struct cursor {
    const uint8_t *data;
    size_t size, at;
    omni_error *err;
} cursor;

static omni_status need(cursor *c, size_t bytes, const char *what) {
    if (bytes > c->size - c->at) {
        return fail(c->err, OMNI_ERR_FORMAT, "the file ends inside %s: %zu bytes needed at offset %zu of %zu; it is cut short or damaged", what,
                    bytes, c->at, c->size);
    }
    return OMNI_OK;
}

static omni_status read_u32(cursor *c, uint32_t *out, const char *what) {
    TRY(need(c, sizeof *out, what));
    memcpy(out, c->data + c->at, sizeof *out);
    c->at += sizeof *out;
    return OMNI_OK;
}

static omni_status read_u64(cursor *c, uint64_t *out, const char *what) {
    TRY(need(c, sizeof *out, what));
    memcpy(out, c->data + c->at, sizeof *out);
    c->at += sizeof *out;
    return OMNI_OK;
}

static omni_status read_string(cursor *c, gguf_str *out, const char *what) {
    size_t start = c->at;
    uint64_t length;
    TRY(read_u64(c, &length, what));
    if (length > c->size - c->at) {
        return fail(c->err, OMNI_ERR_FORMAT, "%s: a string at offset %zu claims %" PRIu64 " bytes, but the file ends after %zu", what, start, length,
                    c->size - c->at);
    }
    *out = (gguf_str){(const char *)c->data + c->at, (size_t)length};
    c->at += (size_t)length;
    return OMNI_OK;
}

/* Names go into error texts and onto terminals: no control characters, valid UTF-8. */
static omni_status read_name(cursor *c, gguf_str *out, size_t limit, const char *what) {
    size_t start = c->at;
    TRY(read_string(c, out, what));
    if (out->size == 0 || out->size > limit) {
        return fail(c->err, OMNI_ERR_FORMAT, "%s at offset %zu has a name of %zu bytes (1 to %zu are possible)", what, start, out->size, limit);
    }
    if (!utf8_plain(out->data, out->size)) {
        return fail(c->err, OMNI_ERR_FORMAT, "%s at offset %zu has a name that is not readable text", what, start);
    }
    return OMNI_OK;
}

static omni_status check_bools(cursor *c, const uint8_t *p, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (p[i] > 1) {
            return fail(c->err, OMNI_ERR_FORMAT, "truth value %u at offset %zu is neither 0 nor 1", p[i], (size_t)(p - c->data) + (size_t)i);
        }
    }
    return OMNI_OK;
}

/* The value of a key whose type is known; errors do not name the key yet. */
static omni_status read_value(cursor *c, gguf_key *k) {
    gguf_type element = k->type;
    k->count = 1;
    if (k->type == GGUF_ARRAY) {
        uint32_t type;
        size_t start = c->at;
        TRY(read_u32(c, &type, "an array's element type"));
        TRY(read_u64(c, &k->count, "an array's length"));
        if (type == GGUF_ARRAY) {
            return fail(c->err, OMNI_ERR_UNSUPPORTED, "array of arrays at offset %zu", start);
        }
        if (type > GGUF_F64) {
            return fail(c->err, OMNI_ERR_FORMAT, "unknown element type %" PRIu32 " at offset %zu", type, start);
        }
        element = k->element = (gguf_type)type;
    }
    size_t start = c->at, bytes = gguf_type_bytes(element);
    k->value = c->data + start;
    if (bytes) {
        if (k->count > (c->size - c->at) / bytes) {
            return fail(c->err, OMNI_ERR_FORMAT, "%" PRIu64 " values of %zu bytes at offset %zu, but the file ends after %zu", k->count, bytes, start,
                        c->size - c->at);
        }
        c->at += (size_t)k->count * bytes;
        if (element == GGUF_BOOL) {
            TRY(check_bools(c, k->value, k->count));
        }
    } else {
        for (uint64_t i = 0; i < k->count; i++) {
            gguf_str s;
            TRY(read_string(c, &s, "text"));
        }
    }
    k->size = c->at - start;
    return OMNI_OK;
}

/* Room for one more item in a list that grows as the file is read, whatever count it claims. */
static omni_status reserve(void **list, size_t count, size_t item, omni_error *err) {
    if (count < 64 ? count > 0 : (count & (count - 1)) != 0) {
        return OMNI_OK;
    }
    void *larger = realloc(*list, (count < 64 ? 64 : 2 * count) * item);
    if (!larger) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    *list = larger;
    return OMNI_OK;
}

static omni_status read_keys(gguf *g, cursor *c, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        size_t start = c->at;
        gguf_str name;
        TRY(read_name(c, &name, MAX_KEY_BYTES, "a key"));
        size_t position;
        TRY(reserve((void **)&g->keys, (size_t)i, sizeof *g->keys, c->err));
        gguf_key *k = &g->keys[i];
        *k = (gguf_key){0}; /* before the table counts it: gguf_close frees the copies of all counted */
        TRY(name_index_add(&g->key_index, name.data, name.size, &position, c->err));
        if (position != i) {
            return fail(c->err, OMNI_ERR_FORMAT, "key '%.*s' appears twice (again at offset %zu)", (int)name.size, name.data, start);
        }
        uint32_t type;
        TRY(read_u32(c, &type, "a key's type"));
        if (type > GGUF_F64) {
            return fail(c->err, OMNI_ERR_FORMAT, "key '%.*s' has the unknown type %" PRIu32 " (offset %zu)", (int)name.size, name.data, type,
                        c->at - 4);
        }
        k->type = (gguf_type)type;
        omni_status status = read_value(c, k);
        if (status != OMNI_OK) {
            return fail_in(c->err, status, "key '%.*s'", (int)name.size, name.data);
        }
    }
    return OMNI_OK;
}

static omni_status read_alignment(gguf *g, cursor *c) {
    g->alignment = DEFAULT_ALIGNMENT;
    if (gguf_maybe_u32(g, "general.alignment", DEFAULT_ALIGNMENT, &g->alignment, NULL) != OMNI_OK) {
        return fail(c->err, OMNI_ERR_FORMAT, "key 'general.alignment' is no unsigned integer");
    }
    if (g->alignment < MIN_ALIGNMENT || g->alignment > MAX_ALIGNMENT || (g->alignment & (g->alignment - 1)) != 0) {
        return fail(c->err, OMNI_ERR_FORMAT, "general.alignment is %" PRIu32 ", not a power of two from %d to %d", g->alignment, MIN_ALIGNMENT,
                    MAX_ALIGNMENT);
    }
    return OMNI_OK;
}

/* Shape, type and offset of one tensor; *offset is from the start of the data. Errors do not name the tensor yet. */
static omni_status read_tensor(cursor *c, tensor *t, uint64_t *offset) {
    uint32_t dims, type;
    TRY(read_u32(c, &dims, "a dimension count"));
    if (dims > TENSOR_MAX_DIMS) {
        return fail(c->err, OMNI_ERR_FORMAT, "%" PRIu32 " dimensions at offset %zu (at most %d are possible)", dims, c->at - 4, TENSOR_MAX_DIMS);
    }
    *t = (tensor){.n_dims = dims ? (int)dims : 1, .ne = {1, 1, 1, 1}};
    int64_t values = 1;
    for (uint32_t i = 0; i < dims; i++) {
        uint64_t n;
        TRY(read_u64(c, &n, "a dimension"));
        if (n == 0 || n > INT64_MAX || __builtin_mul_overflow(values, (int64_t)n, &values)) {
            return fail(c->err, OMNI_ERR_FORMAT, "dimension %" PRIu32 " at offset %zu is %" PRIu64 ", an impossible size", i, c->at - 8, n);
        }
        t->ne[i] = (int64_t)n;
    }
    TRY(read_u32(c, &type, "a tensor's type"));
    TRY(read_u64(c, offset, "a tensor's offset"));
    const dtype_info *info = dtype_find(type);
    if (!info) {
        return fail(c->err, OMNI_ERR_FORMAT, "unknown type number %" PRIu32 " at offset %zu", type, c->at - 12);
    }
    t->type = (dtype)type;
    if (t->ne[0] % info->block != 0) {
        return fail(c->err, OMNI_ERR_FORMAT, "rows of %" PRId64 " values, but %s packs them in blocks of %" PRId64, t->ne[0], info->name,
                    info->block);
    }
    if (__builtin_mul_overflow((size_t)(values / info->block), info->bytes, &t->size)) {
        return fail(c->err, OMNI_ERR_FORMAT, "%" PRId64 " values of type %s are more bytes than can be addressed", values, info->name);
    }
    return OMNI_OK;
}

/* Reads the tensor list; (*offsets)[i] is the caller's to free whatever the outcome. */
static omni_status read_tensors(gguf *g, cursor *c, uint64_t count, uint64_t **offsets) {
    size_t name_bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        size_t start = c->at, position;
        gguf_str name;
        TRY(read_name(c, &name, MAX_TENSOR_NAME_BYTES, "a tensor"));
        TRY(name_index_add(&g->tensor_index, name.data, name.size, &position, c->err));
        if (position != i) {
            return fail(c->err, OMNI_ERR_FORMAT, "tensor '%.*s' appears twice (again at offset %zu)", (int)name.size, name.data, start);
        }
        TRY(reserve((void **)&g->tensors, (size_t)i, sizeof *g->tensors, c->err));
        TRY(reserve((void **)offsets, (size_t)i, sizeof **offsets, c->err));
        omni_status status = read_tensor(c, &g->tensors[i], &(*offsets)[i]);
        if (status != OMNI_OK) {
            return fail_in(c->err, status, "tensor '%.*s'", (int)name.size, name.data);
        }
        name_bytes += name.size + 1;
    }
    g->tensor_names = malloc(name_bytes + 1);
    if (!g->tensor_names) {
        return fail(c->err, OMNI_ERR_MEMORY, "out of memory");
    }
    char *p = g->tensor_names;
    for (size_t i = 0; i < count; i++) {
        const name_entry *e = &g->tensor_index.entries[i];
        g->tensors[i].name = memcpy(p, e->name, e->size);
        p[e->size] = 0;
        p += e->size + 1;
    }
    return OMNI_OK;
}

static int by_data(const void *a, const void *b) {
    const tensor *x = *(const tensor *const *)a, *y = *(const tensor *const *)b;
    return x->data < y->data ? -1 : x->data > y->data;
}

/* Turns offsets into pointers once each is known to lie in the file, aligned and apart from all others. */
static omni_status place_tensors(gguf *g, const uint64_t *offsets, omni_error *err) {
    size_t count = g->tensor_index.count, available = g->size - g->data_offset;
    bool ordered = true;
    for (size_t i = 0; i < count; i++) {
        tensor *t = &g->tensors[i];
        if (offsets[i] % g->alignment != 0) {
            return fail(err, OMNI_ERR_FORMAT, "tensor '%s' starts at data offset %" PRIu64 ", not a multiple of the alignment %" PRIu32, t->name,
                        offsets[i], g->alignment);
        }
        if (offsets[i] > available || t->size > available - offsets[i]) {
            return fail(err, OMNI_ERR_FORMAT,
                        "tensor '%s' needs %zu bytes at data offset %" PRIu64 ", but the file holds %zu bytes of data; it is cut short or damaged",
                        t->name, t->size, offsets[i], available);
        }
        t->data = g->data + g->data_offset + offsets[i];
        ordered &= i == 0 || (const uint8_t *)t[-1].data + t[-1].size <= (const uint8_t *)t->data;
    }
    if (ordered) {
        return OMNI_OK;
    }
    const tensor **sorted = malloc(count * sizeof *sorted);
    if (!sorted) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = &g->tensors[i];
    }
    qsort(sorted, count, sizeof *sorted, by_data);
    omni_status status = OMNI_OK;
    for (size_t i = 1; i < count && status == OMNI_OK; i++) {
        const tensor *a = sorted[i - 1], *b = sorted[i];
        if ((const uint8_t *)a->data + a->size > (const uint8_t *)b->data) {
            status = fail(err, OMNI_ERR_FORMAT, "tensors '%s' and '%s' overlap at offset %zu", a->name, b->name,
                          (size_t)((const uint8_t *)b->data - g->data));
        }
    }
    free(sorted);
    return status;
}

static omni_status parse(gguf *g, omni_error *err) {
    cursor c = {.data = g->data, .size = g->size, .err = err};
    if (g->size < 4 || memcmp(g->data, "GGUF", 4) != 0) {
        return fail(err, OMNI_ERR_FORMAT, "not a GGUF file (it does not begin with 'GGUF')");
    }
    c.at = 4;
    uint64_t tensors, keys;
    TRY(read_u32(&c, &g->version, "the header"));
    if (g->version != 2 && g->version != 3) {
        bool swapped = g->version == __builtin_bswap32(2) || g->version == __builtin_bswap32(3);
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s %" PRIu32 " (versions 2 and 3 can be read)",
                    swapped ? "big-endian GGUF file, version" : "GGUF version", swapped ? __builtin_bswap32(g->version) : g->version);
    }
    TRY(read_u64(&c, &tensors, "the header"));
    TRY(read_u64(&c, &keys, "the header"));
    if (tensors > MAX_TENSORS || keys > MAX_KEYS) {
        return fail(err, OMNI_ERR_LIMIT, "the header claims %" PRIu64 " tensors and %" PRIu64 " keys, over the limits of %d and %d", tensors, keys,
                    MAX_TENSORS, MAX_KEYS);
    }
    TRY(read_keys(g, &c, keys));
    TRY(read_alignment(g, &c));
    uint64_t *offsets = NULL;
    omni_status status = read_tensors(g, &c, tensors, &offsets);
    if (status == OMNI_OK) {
        size_t a = g->alignment, padding = (a - c.at % a) % a;
        /* The padding may be missing when no data follows. */
        g->data_offset = padding <= c.size - c.at ? c.at + padding : c.size;
        status = place_tensors(g, offsets, err);
    }
    free(offsets);
    return status;
}

static omni_status open_parsed(gguf *g, gguf **out, omni_error *err) {
    omni_status status = parse(g, err);
    if (status != OMNI_OK) {
        fail_in(err, status, "%s", g->path);
        gguf_close(g);
        return status;
    }
    *out = g;
    return OMNI_OK;
}

omni_status gguf_open_one(const char *path, gguf **out, omni_error *err) {
    *out = NULL;
    gguf *g = calloc(1, sizeof *g);
    if (!g) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    omni_status status = file_map_open(path, &g->map, err);
    if (status != OMNI_OK) {
        gguf_close(g);
        return status;
    }
    g->path = g->map.path;
    g->data = g->map.data;
    g->size = g->map.size;
    return open_parsed(g, out, err);
}

omni_status gguf_open_memory(const void *data, size_t size, const char *name, gguf **out, omni_error *err) {
    *out = NULL;
    if ((uintptr_t)data % MIN_ALIGNMENT != 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: the memory must be aligned to %d bytes", name, MIN_ALIGNMENT);
    }
    gguf *g = calloc(1, sizeof *g);
    char *path = strdup(name);
    if (!g || !path) {
        free(g);
        free(path);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    g->path = path;
    g->data = data;
    g->size = size;
    return open_parsed(g, out, err);
}

void gguf_close(gguf *g) {
    if (!g) {
        return;
    }
    for (size_t i = 0; i < g->key_index.count; i++) {
        free(g->keys[i].copy);
    }
    for (size_t i = 0; i < g->other_count; i++) {
        gguf_close(g->others[i]);
    }
    free(g->others);
    if (g->path != g->map.path) {
        free(g->path);
    }
    free(g->keys);
    free(g->tensors);
    free(g->tensor_names);
    name_index_free(&g->key_index);
    name_index_free(&g->tensor_index);
    file_map_close(&g->map);
    free(g);
}
