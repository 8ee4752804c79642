#include "convert/quantize_file.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "convert/imatrix.h"
#include "convert/recipe.h"
#include "gguf/gguf.h"
#include "tensor/finite.h"

enum { TILE_VALUES = 1 << 18, QUANTIZATION_VERSION = 2 };

typedef struct change {
    const tensor *t;
    dtype type;
    size_t target;     /* index in the writer */
    float *importance; /* NULL: none */
    _Atomic int left;  /* tiles not done yet */
} change;

typedef struct tile {
    size_t change;
    int64_t first, rows;
} tile;

/* A thread's buffers. */
typedef struct scratch {
    float *values;
    uint8_t *bytes;
} scratch;

typedef struct job {
    const quantize_options *o;
    const recipe *recipe;
    gguf *g;
    imatrix *imatrix;
    gguf_writer *w;
    pool *pool;
    change *changes;
    size_t n_changes;
    tile *tiles;
    size_t n_tiles;
    scratch *scratch;
    int threads;
    _Atomic uint64_t done;
    uint64_t total;
    _Atomic bool stop;
    pthread_mutex_t mutex; /* guards status and err */
    omni_status status;
    omni_error error;
} job;

/* ---- what becomes of each tensor ---- */

static omni_status describe(gguf *g, recipe_model *m, omni_error *err) {
    const char *architecture;
    TRY(gguf_maybe_str(g, "general.architecture", "", &architecture, err));
    *m = (recipe_model){.part = PART_THINKER, .tied = gguf_tensor(g, "output.weight") == NULL};
    if (strcmp(architecture, "clip") == 0) {
        m->part = PART_MMPROJ;
    } else if (strcmp(architecture, "qwen3omni_talker") == 0) {
        m->part = PART_TALKER;
        return gguf_maybe_u32(g, "talker.block_count", 0, &m->layers, err);
    } else if (strlen(architecture) < 100) {
        char key[128];
        snprintf(key, sizeof key, "%s.block_count", architecture);
        TRY(gguf_maybe_u32(g, key, 0, &m->layers, err));
        snprintf(key, sizeof key, "%s.expert_count", architecture);
        TRY(gguf_maybe_u32(g, key, 0, &m->experts, err));
    }
    return OMNI_OK;
}

static bool plain_float(dtype type) {
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
}

static omni_status choose(const job *j, const recipe_model *m, const tensor *t, dtype *out, omni_error *err) {
    weight_class c = recipe_class(m->part, t->name, t->n_dims);
    *out = t->type;
    if (c == WEIGHT_F32 || (c == WEIGHT_PRECISE && t->type != DTYPE_F32)) {
        return OMNI_OK;
    }
    dtype want = recipe_type(j->recipe, m, c, t->name, t->ne[0]);
    if (want == t->type) {
        return OMNI_OK;
    }
    if (!dtype_computable((uint32_t)t->type)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s is stored as %s, which cannot be read", gguf_path(j->g), t->name,
                    dtype_find((uint32_t)t->type)->name);
    }
    if (!plain_float(t->type) && t->type != DTYPE_Q8_0 && !j->o->allow_requantize) {
        return fail(
            err, OMNI_ERR_UNSUPPORTED,
            "%s: tensor %s is quantised already (%s); doing it twice loses more than once from the original: take an F16, BF16, F32 or Q8_0 file, or "
            "allow it (--allow-requantize)",
            gguf_path(j->g), t->name, dtype_find((uint32_t)t->type)->name);
    }
    *out = want;
    return OMNI_OK;
}

static int64_t tile_rows(const tensor *t) {
    int64_t rows = TILE_VALUES / (t->ne[0] < 1 ? 1 : t->ne[0]), all = tensor_rows(t);
    return rows < 1 ? 1 : rows > all ? all : rows;
}

static omni_status plan(job *j, quantize_result *result, omni_error *err) {
    recipe_model m;
    TRY(describe(j->g, &m, err));
    size_t n = gguf_tensor_count(j->g), values = 1, bytes = 1;
    j->changes = calloc(n + 1, sizeof *j->changes);
    if (!j->changes) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu tensors", n);
    }
    j->n_changes = n;
    result->tensors = n;
    for (size_t i = 0; i < n; i++) {
        change *c = &j->changes[i];
        c->t = gguf_tensor_at(j->g, i);
        TRY(choose(j, &m, c->t, &c->type, err));
        c->target = gguf_put_tensor(j->w, c->t->name, c->type, c->t->n_dims, c->t->ne);
        result->changed += c->type != c->t->type;
        if (j->imatrix && c->type != c->t->type && !plain_float(c->type)) {
            TRY(imatrix_find(j->imatrix, c->t, &c->importance, err));
            result->important += c->importance != NULL;
        }
        int64_t rows = tile_rows(c->t);
        size_t before = dtype_row_bytes(c->t->type, c->t->ne[0]), after = dtype_row_bytes(c->type, c->t->ne[0]);
        size_t most = (size_t)rows * (before > after ? before : after);
        j->n_tiles += (size_t)((tensor_rows(c->t) + rows - 1) / rows);
        j->total += c->t->size;
        values = (size_t)c->t->ne[0] > values ? (size_t)c->t->ne[0] : values;
        bytes = most > bytes ? most : bytes;
    }
    j->tiles = calloc(j->n_tiles + 1, sizeof *j->tiles);
    j->scratch = calloc((size_t)j->threads, sizeof *j->scratch);
    bool enough = j->tiles && j->scratch;
    for (int i = 0; enough && i < j->threads; i++) {
        j->scratch[i].values = malloc(values * sizeof(float));
        j->scratch[i].bytes = malloc(bytes);
        enough = j->scratch[i].values && j->scratch[i].bytes;
    }
    if (!enough) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the buffers of %d threads", j->threads);
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t rows = tile_rows(j->changes[i].t), all = tensor_rows(j->changes[i].t);
        for (int64_t first = 0; first < all; first += rows) {
            j->tiles[k++] = (tile){i, first, all - first < rows ? all - first : rows};
            atomic_fetch_add(&j->changes[i].left, 1);
        }
    }
    return OMNI_OK;
}

/* ---- the work ---- */

static omni_status convert_rows(const job *j, const change *c, const tile *at, scratch *s, omni_error *err) {
    const tensor *t = c->t;
    int64_t n = t->ne[0];
    size_t row_bytes = dtype_row_bytes(c->type, n);
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = at->first + i;
        const void *from = tensor_row(t, row);
        uint8_t *to = s->bytes + (size_t)i * row_bytes;
        int64_t bad = find_not_finite(t->type, from, n);
        if (bad >= 0) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor %s holds NaN or an infinite value (row %lld, value %lld): the file is damaged",
                        gguf_path(j->g), t->name, (long long)row, (long long)bad);
        }
        if (c->type == t->type) {
            memcpy(to, from, row_bytes);
            continue;
        }
        dtype_to_f32(t->type, from, s->values, n);
        dtype_from_f32_weighted(c->type, s->values, c->importance ? c->importance + row / t->ne[1] * n : NULL, to, n);
        if (find_not_finite(c->type, to, n) >= 0) { /* the value itself, or a block's scale in F16 */
            float largest = 0;
            for (int64_t k = 0; k < n; k++) {
                largest = fabsf(s->values[k]) > fabsf(largest) ? s->values[k] : largest;
            }
            return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s holds %g, which %s cannot hold; take %s", gguf_path(j->g), t->name, (double)largest,
                        dtype_find((uint32_t)c->type)->name, c->type == DTYPE_BF16 ? "f32" : "bf16 or f32");
        }
    }
    return OMNI_OK;
}

static void stop_with(job *j, omni_status status, const omni_error *error) {
    pthread_mutex_lock(&j->mutex);
    if (j->status == OMNI_OK) {
        j->status = status;
        j->error = *error;
    }
    pthread_mutex_unlock(&j->mutex);
    atomic_store(&j->stop, true);
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    job *j = arg;
    for (int64_t i = begin; i < end && !atomic_load_explicit(&j->stop, memory_order_relaxed); i++) {
        const tile *at = &j->tiles[i];
        change *c = &j->changes[at->change];
        size_t row_bytes = dtype_row_bytes(c->type, c->t->ne[0]);
        omni_error error;
        omni_status status = convert_rows(j, c, at, &j->scratch[thread], &error);
        if (status == OMNI_OK) {
            status = gguf_writer_data(j->w, c->target, (size_t)at->first * row_bytes, j->scratch[thread].bytes, (size_t)at->rows * row_bytes, &error);
        }
        if (status != OMNI_OK) {
            stop_with(j, status, &error);
            return;
        }
        if (atomic_fetch_sub(&c->left, 1) == 1) {
            gguf_forget(j->g, c->t);
        }
        uint64_t done = atomic_fetch_add(&j->done, (uint64_t)at->rows * dtype_row_bytes(c->t->type, c->t->ne[0]));
        if (thread == 0 && j->o->progress && !j->o->progress(j->o->arg, done, j->total)) {
            status = fail(&error, OMNI_CANCELLED, "stopped; nothing was written");
            stop_with(j, status, &error);
        }
    }
}

/* All keys in their order, those that say how the matrices are stored with their new values. */
static void put_keys(job *j) {
    static const char *const names[] = {"general.file_type", "general.quantization_version"};
    const uint32_t values[] = {j->recipe->file_type, QUANTIZATION_VERSION};
    static const char importance[] = "quantize.imatrix.", split[] = "split.";
    for (size_t i = 0; i < gguf_key_count(j->g); i++) {
        gguf_str name = gguf_key_name(j->g, i);
        int replaced = -1;
        for (int k = 0; k < 2; k++) {
            replaced = name.size == strlen(names[k]) && memcmp(name.data, names[k], name.size) == 0 ? k : replaced;
        }
        if (replaced >= 0) {
            gguf_put_u32(j->w, names[replaced], values[replaced]);
        } else if (!gguf_name_begins(name, importance) && !gguf_name_begins(name, split)) {
            gguf_put_copy(j->w, j->g, i);
        }
    }
    for (int k = 0; k < 2; k++) {
        if (gguf_find(j->g, names[k]) < 0) {
            gguf_put_u32(j->w, names[k], values[k]);
        }
    }
    if (j->imatrix) {
        imatrix_put_keys(j->imatrix, j->w);
    }
}

static omni_status run(job *j, quantize_result *result, omni_error *err) {
    const quantize_options *o = j->o;
    if (!o->input || !o->output || !o->type) {
        return fail(err, OMNI_ERR_ARGUMENT, "an input file, an output file and a type are needed");
    }
    TRY(recipe_find(o->type, &j->recipe, err));
    if (!dtype_writable((uint32_t)j->recipe->base)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "the type %s can be read but not made", j->recipe->name);
    }
    TRY(gguf_open(o->input, &j->g, err));
    TRY(gguf_check_output(j->g, o->output, err));
    if (o->imatrix) {
        TRY(imatrix_open(o->imatrix, &j->imatrix, err));
    }
    TRY(pool_create(o->threads, &j->pool, err));
    j->threads = pool_threads(j->pool);
    TRY(gguf_writer_create(o->output, &j->w, err));
    put_keys(j);
    TRY(plan(j, result, err));
    TRY(gguf_writer_begin(j->w, err));
    pool_for(j->pool, (int64_t)j->n_tiles, 1, run_tiles, j);
    if (j->status != OMNI_OK) {
        if (err) {
            *err = j->error;
        }
        return j->status;
    }
    if (o->progress && !o->progress(o->arg, j->total, j->total)) {
        return fail(err, OMNI_CANCELLED, "stopped; nothing was written");
    }
    gguf_writer *w = j->w;
    result->bytes_after = gguf_writer_bytes(w);
    j->w = NULL; /* freed by the call below, whatever the outcome */
    TRY(gguf_writer_finish(w, err));
    result->bytes_before = gguf_file_size(j->g);
    return OMNI_OK;
}

omni_status quantize_file(const quantize_options *options, quantize_result *result, omni_error *err) {
    quantize_result unused;
    result = result ? result : &unused;
    *result = (quantize_result){0};
    job j = {.o = options, .mutex = PTHREAD_MUTEX_INITIALIZER};
    omni_status status = run(&j, result, err);
    if (j.w) {
        gguf_writer_abandon(j.w);
    }
    for (size_t i = 0; j.changes && i < j.n_changes; i++) {
        free(j.changes[i].importance);
    }
    for (int i = 0; j.scratch && i < j.threads; i++) {
        free(j.scratch[i].values);
        free(j.scratch[i].bytes);
    }
    free(j.scratch);
    free(j.tiles);
    free(j.changes);
    if (j.pool) {
        pool_destroy(j.pool);
    }
    imatrix_close(j.imatrix);
    gguf_close(j.g);
    return status;
}
