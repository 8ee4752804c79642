#define _GNU_SOURCE
#include "convert/stream.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tensor/finite.h"

enum { TILE_VALUES = 1 << 19 }; /* 2 MiB of F32: large enough for the disk, small enough for a thread's cache and memory */

typedef struct tile {
    size_t tensor;
    int64_t first, rows;
} tile;

/* A thread's buffers. */
typedef struct scratch {
    float *values;  /* [largest tile] */
    uint8_t *row;   /* one source row, aligned */
    uint8_t *bytes; /* the converted tile */
} scratch;

typedef struct stream {
    const mapping *m;
    const stream_target *targets;
    const stream_hooks *hooks;
    tile *tiles;
    size_t n_tiles;
    scratch *scratch;
    _Atomic int *left; /* tiles of a tensor not done yet */
    _Atomic uint64_t done;
    uint64_t total;
    size_t page;
    _Atomic bool stop;
    pthread_mutex_t mutex; /* guards status and err */
    omni_status status;
    omni_error *err;
} stream;

static void stop_with(stream *s, omni_status status, const omni_error *error) {
    pthread_mutex_lock(&s->mutex);
    if (s->status == OMNI_OK) {
        s->status = status;
        if (s->err) {
            *s->err = *error;
        }
    }
    pthread_mutex_unlock(&s->mutex);
    atomic_store(&s->stop, true);
}

static size_t value_bytes(dtype type) {
    return dtype_find(type)->bytes; /* sources are F32, F16 or BF16: one value a block */
}

/* Where a row of the stored tensor begins: the source and the offset in values. */
static const st_tensor *row_source(const mapped_tensor *t, int64_t row, int64_t *offset) {
    int64_t i1 = row % t->ne[1], i2 = row / t->ne[1] % t->ne[2], i3 = row / t->ne[1] / t->ne[2];
    if (t->n_sources > 1) {
        *offset = i1 * t->stride[1];
        return t->sources[i2];
    }
    *offset = t->base + i1 * t->stride[1] + i2 * t->stride[2] + i3 * t->stride[3];
    return t->sources[0];
}

static void forget(const stream *s, const void *data, size_t size) {
    /* Rounded outwards: a neighbour's page that is still wanted is only read again. */
    uintptr_t begin = (uintptr_t)data / s->page * s->page, end = ((uintptr_t)data + size + s->page - 1) / s->page * s->page;
    madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* How many values of some rows come from the source; the rest is zeros. */
static int64_t source_values(const mapped_tensor *t, int64_t first, int64_t rows) {
    int64_t left = t->source_values - first * t->ne[0], n = rows * t->ne[0];
    return left < 0 ? 0 : left < n ? left : n;
}

/* Lets go of what a tile with contiguous rows has read; rows may lie in several runs, each is forgotten on its own. */
static void forget_rows(const stream *s, const mapped_tensor *t, const tile *at) {
    const char *begin = NULL, *end = NULL;
    for (int64_t row = at->first; row < at->first + at->rows && source_values(t, row, 1) > 0; row++) {
        int64_t offset;
        const st_tensor *source = row_source(t, row, &offset);
        size_t bytes = value_bytes(source->type);
        const char *data = (const char *)source->data + (size_t)offset * bytes;
        if (data != end) {
            if (begin) {
                forget(s, begin, (size_t)(end - begin));
            }
            begin = data;
        }
        end = data + (size_t)source_values(t, row, 1) * bytes;
    }
    if (begin) {
        forget(s, begin, (size_t)(end - begin));
    }
}

/* One row of source values, contiguous and aligned: straight from the map where possible. */
static const void *fetch_row(const mapped_tensor *t, int64_t row, scratch *w, dtype *type) {
    int64_t offset, n = source_values(t, row, 1), stride = t->stride[0];
    const st_tensor *source = row_source(t, row, &offset);
    size_t bytes = value_bytes(source->type);
    const uint8_t *data = (const uint8_t *)source->data + (size_t)offset * bytes;
    *type = source->type;
    if (stride == 1) {
        if ((uintptr_t)data % bytes == 0) {
            return data;
        }
        return memcpy(w->row, data, (size_t)n * bytes);
    }
    size_t step = (size_t)stride * bytes;
    if (bytes == 2) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(w->row + 2 * i, data + (size_t)i * step, 2);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            memcpy(w->row + 4 * i, data + (size_t)i * step, 4);
        }
    }
    return w->row;
}

/* Sinusoids of Whisper's encoder: row t is sin(t f_i), then cos(t f_i), f_i = 10000^(-i / (n / 2 - 1)), in float32 as the reference. */
static void sinusoids(int64_t row, float *out, int64_t n) {
    int64_t half = n / 2;
    float increment = (float)(log(10000.0) / (double)(half - 1));
    for (int64_t i = 0; i < half; i++) {
        float frequency = (float)exp((double)(-increment * (float)i));
        float angle = (float)row * frequency;
        out[i] = (float)sin((double)angle);
        out[half + i] = (float)cos((double)angle);
    }
}

static float largest_of(const float *x, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    }
    return largest;
}

static omni_status check_finite(const mapped_tensor *t, int64_t row, dtype type, const void *values, int64_t n, omni_error *err) {
    int64_t i = find_not_finite(type, values, n);
    if (i < 0) {
        return OMNI_OK;
    }
    float value;
    dtype_to_f32(type, (const uint8_t *)values + (size_t)i * value_bytes(type), &value, 1);
    const st_tensor *source = t->sources[t->n_sources > 1 ? row / t->ne[1] : 0];
    return fail(err, OMNI_ERR_FORMAT, "%s: tensor %s holds %g (for %s, row %lld, value %lld): the checkpoint is damaged", source->file, source->name,
                (double)value, t->name, (long long)row, (long long)i);
}

static omni_status convert_tile(const mapped_tensor *t, const float *importance, const tile *at, scratch *w, omni_error *err) {
    size_t row_bytes = dtype_row_bytes(t->type, t->ne[0]);
    for (int64_t i = 0; i < at->rows; i++) {
        uint8_t *out = w->bytes + (size_t)i * row_bytes;
        dtype type = DTYPE_F32;
        if (t->n_sources == 0) {
            sinusoids(at->first + i, (float *)out, t->ne[0]);
            continue;
        }
        int64_t n = source_values(t, at->first + i, 1);
        if (n < t->ne[0]) {
            memset(out, 0, row_bytes); /* zero in every type */
        }
        if (n == 0) {
            continue;
        }
        const void *row = fetch_row(t, at->first + i, w, &type);
        TRY(check_finite(t, at->first + i, type, row, n, err));
        if (type == t->type) {
            memcpy(out, row, dtype_row_bytes(type, n));
            continue;
        }
        if (t->type == DTYPE_F32) {
            dtype_to_f32(type, row, (float *)out, n);
            continue;
        }
        const float *values = row;
        if (type != DTYPE_F32) {
            dtype_to_f32(type, row, w->values, n);
            values = w->values;
        }
        dtype_from_f32_weighted(t->type, values, importance ? importance + (at->first + i) / t->ne[1] * n : NULL, out, n);
        if (find_not_finite(t->type, out, n) >= 0) { /* the value itself, or a block's scale in F16 */
            const st_tensor *source = t->sources[t->n_sources > 1 ? (at->first + i) / t->ne[1] : 0];
            return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s holds %g, which %s cannot hold; use --type %s", source->file, source->name,
                        (double)largest_of(values, n), dtype_find(t->type)->name, t->type == DTYPE_BF16 ? "f32" : "bf16 or f32");
        }
    }
    return OMNI_OK;
}

static void run_tile(void *arg, int64_t begin, int64_t end, int thread) {
    stream *s = arg;
    for (int64_t i = begin; i < end && !atomic_load_explicit(&s->stop, memory_order_relaxed); i++) {
        const tile *at = &s->tiles[i];
        const mapped_tensor *t = &s->m->tensors[at->tensor];
        size_t row_bytes = dtype_row_bytes(t->type, t->ne[0]);
        omni_error error;
        const stream_target *to = &s->targets[at->tensor];
        omni_status status = convert_tile(t, to->importance, at, &s->scratch[thread], &error);
        if (status == OMNI_OK) {
            status = gguf_writer_data(to->writer, to->tensor, (size_t)at->first * row_bytes, s->scratch[thread].bytes, (size_t)at->rows * row_bytes,
                                      &error);
        }
        if (status != OMNI_OK) {
            stop_with(s, status, &error);
            return;
        }
        if (t->n_sources && t->stride[0] == 1) {
            forget_rows(s, t, at);
        }
        if (atomic_fetch_sub(&s->left[at->tensor], 1) == 1 && t->n_sources == 1) {
            forget(s, t->sources[0]->data, t->sources[0]->size);
        }
        if (t->n_sources) {
            atomic_fetch_add(&s->done, (uint64_t)source_values(t, at->first, at->rows) * value_bytes(t->sources[0]->type));
        }
        if (thread != 0) {
            continue;
        }
        if (s->hooks->progress) {
            s->hooks->progress(s->hooks->arg, atomic_load(&s->done), s->total);
        }
        if (s->hooks->cancelled && s->hooks->cancelled(s->hooks->arg)) {
            status = fail(&error, OMNI_CANCELLED, "stopped; nothing was written");
            stop_with(s, status, &error);
        }
    }
}

/* Rows of a tile: as many as TILE_VALUES holds, at least one. */
static int64_t tile_rows(const mapped_tensor *t) {
    int64_t rows = TILE_VALUES / t->ne[0], all = t->ne[1] * t->ne[2] * t->ne[3];
    return rows < 1 ? 1 : rows > all ? all : rows;
}

static bool plan(stream *s, int threads) {
    const mapping *m = s->m;
    size_t values = 0, widest = 0;
    for (size_t i = 0; i < m->count; i++) {
        const mapped_tensor *t = &m->tensors[i];
        int64_t rows = tile_rows(t), all = t->ne[1] * t->ne[2] * t->ne[3];
        s->n_tiles += (size_t)((all + rows - 1) / rows);
        size_t tile_values = (size_t)(rows * t->ne[0]);
        values = tile_values > values ? tile_values : values;
        widest = (size_t)t->ne[0] > widest ? (size_t)t->ne[0] : widest;
        if (t->n_sources) {
            s->total += (uint64_t)t->source_values * value_bytes(t->sources[0]->type);
        }
    }
    s->tiles = calloc(s->n_tiles + 1, sizeof *s->tiles);
    s->left = calloc(m->count + 1, sizeof *s->left);
    s->scratch = calloc((size_t)threads, sizeof *s->scratch);
    if (!s->tiles || !s->left || !s->scratch) {
        return false;
    }
    for (int i = 0; i < threads; i++) {
        scratch *w = &s->scratch[i];
        w->values = malloc(widest * sizeof(float) + 1);
        w->row = malloc(widest * sizeof(float) + 1);
        w->bytes = malloc(values * sizeof(float) + 1);
        if (!w->values || !w->row || !w->bytes) {
            return false;
        }
    }
    size_t n = 0;
    for (size_t i = 0; i < m->count; i++) {
        const mapped_tensor *t = &m->tensors[i];
        int64_t rows = tile_rows(t), all = t->ne[1] * t->ne[2] * t->ne[3];
        for (int64_t first = 0; first < all; first += rows) {
            s->tiles[n++] = (tile){i, first, all - first < rows ? all - first : rows};
            atomic_fetch_add(&s->left[i], 1);
        }
    }
    return true;
}

omni_status stream_tensors(const mapping *m, const stream_target *targets, pool *p, const stream_hooks *hooks, omni_error *err) {
    int threads = pool_threads(p);
    stream s = {.m = m, .targets = targets, .hooks = hooks, .page = (size_t)sysconf(_SC_PAGESIZE), .err = err};
    pthread_mutex_init(&s.mutex, NULL);
    if (plan(&s, threads)) {
        pool_for(p, (int64_t)s.n_tiles, 1, run_tile, &s);
    } else {
        s.status = fail(err, OMNI_ERR_MEMORY, "out of memory for the buffers of %d threads", threads);
    }
    if (s.status == OMNI_OK && hooks->progress) {
        hooks->progress(hooks->arg, s.total, s.total);
    }
    for (int i = 0; s.scratch && i < threads; i++) {
        free(s.scratch[i].values);
        free(s.scratch[i].row);
        free(s.scratch[i].bytes);
    }
    free(s.scratch);
    free(s.tiles);
    free(s.left);
    pthread_mutex_destroy(&s.mutex);
    return s.status;
}
