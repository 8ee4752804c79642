#include "model/weights.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_SIZE = 256 };

void weights_init(weights *w, backend *b, const gguf *g) {
    *w = (weights){.b = b, .g = g};
}

void weights_free(weights *w) {
    for (size_t i = 0; i < w->count; i++) {
        w->b->ops->release(w->b, w->memory[i]);
    }
    free(w->memory);
    *w = (weights){0};
}

static omni_status format_name(char *name, const char *format, va_list args, omni_error *err) {
    int n = vsnprintf(name, NAME_MAX_SIZE, format, args);
    if (n < 0 || n >= NAME_MAX_SIZE) {
        return fail(err, OMNI_ERR_ARGUMENT, "tensor name longer than %d bytes: %s...", NAME_MAX_SIZE - 1, name);
    }
    return OMNI_OK;
}

/* False once cancelled. */
static bool tell(weights *w, size_t bytes) {
    weights_progress *p = &w->b->loading;
    p->done += bytes;
    p->total = p->total < p->done ? p->done : p->total;
    p->cancelled = p->cancelled || (p->tell && !p->tell(p->arg, "loading", p->done, p->total));
    return !p->cancelled;
}

typedef struct read_part {
    weights *w;
    tensor from;
} read_part;

static void forget_part(void *arg, size_t begin, size_t end) {
    const read_part *r = arg;
    tensor part = r->from;
    part.data = (const char *)part.data + begin;
    part.size = end - begin;
    gguf_forget(r->w->g, &part);
    tell(r->w, part.size);
}

/* r->data = t's rows in r's type, zeros behind them up to r's width; the caller frees it. */
static omni_status round_rows(const tensor *t, tensor *r, omni_error *err) {
    const size_t bytes = dtype_row_bytes(r->type, r->ne[0]);
    r->size = bytes * (size_t)t->ne[1];
    char *rows = malloc(r->size);
    float *row = calloc((size_t)r->ne[0], sizeof *row);
    if (rows && row) {
        for (int64_t i = 0; i < t->ne[1]; i++) {
            dtype_to_f32(t->type, tensor_row(t, i), row, t->ne[0]);
            dtype_from_f32(r->type, row, rows + (size_t)i * bytes, r->ne[0]);
        }
        free(row);
        r->data = rows;
        return OMNI_OK;
    }
    free(rows);
    free(row);
    return fail(err, OMNI_ERR_MEMORY, "out of memory for tensor %s: %zu bytes", t->name, r->size);
}

/* {inputs ..., outputs} as {inputs, outputs}; experts stay apart. */
static tensor as_matrix(weight_use use, const tensor *t) {
    tensor m = *t;
    if (use != WEIGHT_EXPERTS) {
        m.ne[1] = t->ne[t->n_dims - 1];
        m.ne[0] = t->ne[0] * tensor_rows(t) / m.ne[1];
        m.ne[2] = m.ne[3] = 1;
        m.n_dims = 2;
    }
    return m;
}

static void take_place(tensor *t, const tensor *m) {
    t->size = m->size;
    t->data = m->data;
    t->packed = m->packed;
}

omni_status weights_place(weights *w, weight_use use, tensor *t, omni_error *err) {
    tensor m = as_matrix(use, t);
    const size_t size = w->b->ops->packed_size(w->b, use, &m);
    if (size) {
        void *memory;
        TRY(weights_memory(w, size, &memory, err));
        read_part r = {w, m};
        w->b->ops->pack(w->b, use, &m, memory, forget_part, &r);
        take_place(t, &m);
    } else if (use == WEIGHT_TABLE) {
        gguf_want(w->g, t); /* a token seen for the first time should not wait for the disk */
    } else {
        tell(w, t->size);
    }
    return w->b->loading.cancelled ? fail(err, OMNI_CANCELLED, "%s: loading was cancelled", gguf_path(w->g)) : OMNI_OK;
}

static omni_status find(weights *w, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *format, va_list args) {
    char name[NAME_MAX_SIZE];
    const tensor *t;
    TRY(format_name(name, format, args, err));
    TRY(gguf_need_tensor(w->g, &t, err, n_dims, ne, "%s", name));
    *out = *t;
    w->bytes += t->size;
    return OMNI_OK;
}

omni_status weights_stored(weights *w, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    omni_status status = find(w, out, err, n_dims, ne, name_format, args);
    va_end(args);
    return status;
}

omni_status weights_matrix(weights *w, weight_use use, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...) {
    va_list args;
    va_start(args, name_format);
    omni_status status = find(w, out, err, n_dims, ne, name_format, args);
    va_end(args);
    return status == OMNI_OK ? weights_place(w, use, out, err) : status;
}

omni_status weights_upload(weights *w, weight_use use, tensor *t, omni_error *err) {
    tensor m = as_matrix(use, t);
    const size_t packed = w->b->ops->packed_size(w->b, use, &m);
    void *memory;
    TRY(weights_memory(w, packed ? packed : t->size, &memory, err));
    if (packed) {
        w->b->ops->pack(w->b, use, &m, memory, NULL, NULL);
    } else {
        w->b->ops->upload(w->b, memory, t->data, t->size);
        m.data = memory;
    }
    take_place(t, &m);
    return OMNI_OK;
}

omni_status weights_linear_like(weights *w, dtype like, tensor *out, omni_error *err, int64_t in, int64_t outs, const char *name) {
    const int64_t ne[] = {in, outs}, block = dtype_find(DTYPE_Q8_0)->block;
    const tensor *t;
    TRY(gguf_need_tensor(w->g, &t, err, 2, ne, "%s", name));
    tensor r = *t;
    r.type = DTYPE_Q8_0;
    r.ne[0] = (in + block - 1) / block * block;
    const size_t size = w->b->ops->packed_size(w->b, WEIGHT_LINEAR, &r);
    const bool rounds = w->b->rounds_floats && dtype_find(like)->block > 1 && dtype_find(t->type)->block == 1 && r.ne[0] != in;
    if (!rounds || size == 0) { /* 0: too few outputs, say, for a layout of the backend's own */
        return weights_matrix(w, WEIGHT_LINEAR, out, err, 2, ne, "%s", name);
    }
    void *memory;
    TRY(weights_memory(w, size, &memory, err));
    TRY(round_rows(t, &r, err));
    void *rows = (void *)(uintptr_t)r.data;
    w->b->ops->pack(w->b, WEIGHT_LINEAR, &r, memory, NULL, NULL);
    free(rows);
    gguf_forget(w->g, t);
    *out = r;
    out->ne[0] = in;
    w->bytes += t->size;
    return tell(w, t->size) ? OMNI_OK : fail(err, OMNI_CANCELLED, "%s: loading was cancelled", gguf_path(w->g));
}

omni_status weights_place_rounded(weights *w, dtype like, tensor *t, omni_error *err) {
    const int64_t block = dtype_find(DTYPE_Q8_0)->block, taps = t->n_dims == 3 ? t->ne[1] : 1, outs = t->ne[t->n_dims - 1];
    const int64_t in = (t->ne[0] + block - 1) / block * block;
    tensor r = {.type = DTYPE_Q8_0, .n_dims = 2, .ne = {in * taps, outs, 1, 1}};
    const bool rounds = w->b->rounds_floats && dtype_find(like)->block > 1 && dtype_find(t->type)->block == 1;
    const size_t size = rounds ? w->b->ops->packed_size(w->b, WEIGHT_LINEAR, &r) : 0;
    if (size == 0) { /* also too few outputs, say, for a layout of the backend's own */
        return weights_place(w, t->n_dims == 3 ? WEIGHT_CONVOLUTION : WEIGHT_LINEAR, t, err);
    }
    void *memory;
    TRY(weights_memory(w, size, &memory, err));
    tensor each = *t; /* of one output and tap a row */
    each.n_dims = 2;
    each.ne[1] = taps * outs;
    each.ne[2] = 1;
    r.ne[0] = in;
    TRY(round_rows(&each, &r, err));
    r.ne[0] = in * taps;
    void *rows = (void *)(uintptr_t)r.data;
    w->b->ops->pack(w->b, WEIGHT_LINEAR, &r, memory, NULL, NULL);
    free(rows);
    gguf_forget(w->g, t);
    const size_t read = t->size;
    t->type = r.type;
    take_place(t, &r);
    return tell(w, read) ? OMNI_OK : fail(err, OMNI_CANCELLED, "%s: loading was cancelled", gguf_path(w->g));
}

omni_status weights_memory(weights *w, size_t bytes, void **out, omni_error *err) {
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 64;
        void **grown = realloc(w->memory, capacity * sizeof *grown);
        if (!grown) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for the list of %zu weights", capacity);
        }
        w->memory = grown;
        w->capacity = capacity;
    }
    TRY(w->b->ops->alloc(w->b, bytes, out, err));
    w->memory[w->count++] = *out;
    return OMNI_OK;
}

omni_status weights_vector(weights *w, const float **out, omni_error *err, int64_t n, const char *name_format, ...) {
    char name[NAME_MAX_SIZE];
    va_list args;
    va_start(args, name_format);
    omni_status status = format_name(name, name_format, args, err);
    va_end(args);
    TRY(status);
    const tensor *t;
    TRY(gguf_need_tensor(w->g, &t, err, 1, &n, "%s", name));
    if (t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s has type number %d; a vector must be F32, F16 or BF16", gguf_path(w->g), name,
                    (int)t->type);
    }
    float *values = malloc((size_t)n * sizeof *values);
    if (!values) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for tensor %s: %lld values", name, (long long)n);
    }
    dtype_to_f32(t->type, t->data, values, n);
    void *memory;
    status = weights_memory(w, (size_t)n * sizeof *values, &memory, err);
    if (status == OMNI_OK) {
        w->b->ops->upload(w->b, memory, values, (size_t)n * sizeof *values);
        *out = memory;
        w->bytes += t->size;
    }
    free(values);
    return status;
}
