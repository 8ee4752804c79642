/* Head normalisation, rotation, the key/value cache and attention. A unit of attention is a few rows and one key/value head with the
 * query heads that share it. */
#include <math.h>
#include <string.h>

#include "cpu/backend.h"
#include "cpu/linear.h"
#include "tensor/blocks.h"

enum { KV_HEAD_BLOCKS = KV_Q8_HEAD / PACK_BLOCK };

typedef struct head_job {
    const cpu_backend *c;
    float *x;
    int64_t x_stride;
    int heads, head_dim;
    const float *weight, *cosine, *sine;
    float eps;
} head_job;

static void head_rows(void *arg, int64_t begin, int64_t end, int thread) {
    head_job *j = arg;
    int64_t half = j->head_dim / 2;
    for (int64_t r = begin; r < end; r++) {
        for (int h = 0; h < j->heads; h++) {
            float *x = j->x + r * j->x_stride + (int64_t)h * j->head_dim;
            if (j->weight) {
                j->c->k.rms_norm(x, j->weight, j->eps, j->head_dim, x);
            }
            if (j->cosine) {
                j->c->k.rotate(x, j->cosine + r * half, j->sine + r * half, half);
            }
        }
    }
}

static void cpu_head_norm_rope(backend *b, float *x, int64_t rows, int64_t x_stride, int heads, int head_dim, const float *weight, float eps,
                               const float *cosine, const float *sine) {
    head_job j = {cpu_of(b), x, x_stride, heads, head_dim, weight, cosine, sine, eps};
    pool_for(j.c->pool, rows, cpu_grain((int64_t)heads * head_dim), head_rows, &j);
}

typedef struct write_job {
    const cpu_backend *c;
    const kv_cache *cache;
    int layer;
    const int32_t *slots;
    const float *k, *v;
} write_job;

/* Rows of head_dim values before a block's. */
static int64_t cache_rows(const kv_cache *cache, int layer, int64_t block, int head) {
    return (((int64_t)layer * cache->blocks + block) * cache->kv_heads + head) * KV_BLOCK;
}

/* Both halves of a cache lie as [layer][block][kv_head][KV_BLOCK][head_dim]. */
static size_t cpu_kv_bytes(backend *b, dtype type, int layers, int kv_heads, int head_dim, int64_t blocks) {
    size_t n = head_dim < 0 ? SIZE_MAX : dtype_row_bytes(type, head_dim);
    const int64_t factors[] = {layers, kv_heads, KV_BLOCK, blocks};
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        if (factors[i] < 0 || __builtin_mul_overflow(n, (size_t)factors[i], &n)) {
            return SIZE_MAX;
        }
    }
    return n;
}

static void cpu_kv_copy(backend *b, const kv_cache *cache, int32_t to, int32_t from) {
    const size_t positions = (size_t)cache->kv_heads * KV_BLOCK;
    const size_t k_bytes = positions * dtype_row_bytes(cache->k_type, cache->head_dim),
                 v_bytes = positions * dtype_row_bytes(cache->v_type, cache->head_dim);
    char *k = cache->k, *v = cache->v;
    for (int layer = 0; to != from && layer < cache->layers; layer++) {
        const size_t base = (size_t)layer * (size_t)cache->blocks;
        memcpy(k + (base + (size_t)to) * k_bytes, k + (base + (size_t)from) * k_bytes, k_bytes);
        memcpy(v + (base + (size_t)to) * v_bytes, v + (base + (size_t)from) * v_bytes, v_bytes);
    }
}

/* Q8_0 keys are packed weights (cpu/packed.h) whose outputs are the positions of a block: so the kernels for those compute scores. */
static void write_q8_0_key(const packed_input *x, int64_t blocks, int64_t position, uint8_t *block) {
    uint8_t *to = block + (size_t)(position / PACK) * packed_group_bytes(DTYPE_Q8_0, blocks * PACK_BLOCK);
    const int64_t lane = position % PACK;
    for (int64_t i = 0; i < blocks; i++, to += 2 * PACK + 8 * PACK_VECTOR) {
        const uint16_t d = f16_from_f32(x[i].scale);
        memcpy(to + 2 * lane, &d, sizeof d);
        for (int g = 0; g < 8; g++) {
            for (int j = 0; j < 4; j++) {
                to[2 * PACK + g * PACK_VECTOR + 4 * lane + j] = (uint8_t)(x[i].q[4 * g + j] + 128);
            }
        }
    }
}

static void write_q8_0_value(const packed_input *x, int64_t blocks, block_q8_0 *to) {
    for (int64_t i = 0; i < blocks; i++) {
        to[i].d = f16_from_f32(x[i].scale);
        memcpy(to[i].qs, x[i].q, sizeof to[i].qs);
    }
}

/* One position of one head; rows: cache_rows of its block. */
static void write_position(const write_job *j, dtype type, const float *x, int64_t rows, int64_t position, bool key, void *base) {
    const int64_t n = j->cache->head_dim;
    char *to = (char *)base + (size_t)rows * dtype_row_bytes(type, n);
    if (type == DTYPE_Q8_0) {
        packed_input quantised[KV_HEAD_BLOCKS];
        j->c->k.quantise(x, n, quantised);
        if (key) {
            write_q8_0_key(quantised, n / PACK_BLOCK, position, (uint8_t *)to);
        } else {
            write_q8_0_value(quantised, n / PACK_BLOCK, (block_q8_0 *)(void *)(to + (size_t)position * dtype_row_bytes(type, n)));
        }
    } else if (type == DTYPE_F16) {
        j->c->k.to_f16(x, (uint16_t *)(void *)to + position * n, n);
    } else {
        memcpy((float *)(void *)to + position * n, x, (size_t)n * sizeof *x);
    }
}

static void write_rows(void *arg, int64_t begin, int64_t end, int thread) {
    write_job *j = arg;
    const kv_cache *cache = j->cache;
    int64_t n = cache->head_dim;
    for (int64_t r = begin; r < end; r++) {
        for (int h = 0; h < cache->kv_heads; h++) {
            int64_t rows = cache_rows(cache, j->layer, j->slots[r] / KV_BLOCK, h), position = j->slots[r] % KV_BLOCK;
            int64_t from = (r * cache->kv_heads + h) * n;
            write_position(j, cache->k_type, j->k + from, rows, position, true, cache->k);
            write_position(j, cache->v_type, j->v + from, rows, position, false, cache->v);
        }
    }
}

static void cpu_kv_write(backend *b, const kv_cache *cache, int layer, const int32_t *slots, const float *k, const float *v, int64_t rows) {
    write_job j = {cpu_of(b), cache, layer, slots, k, v};
    pool_for(j.c->pool, rows, cpu_grain((int64_t)cache->kv_heads * cache->head_dim * 2), write_rows, &j);
}

typedef struct attention_job {
    const cpu_backend *c;
    const kv_cache *cache; /* NULL: dense */
    int layer;
    const int32_t *block_table;
    const attention_row *at;
    const float *q, *k, *v;
    int64_t q_stride, kv_stride, rows, group, chunks;
    const int32_t *first, *end;
    int heads, kv_heads, head_dim;
    float scale;
    float *y;
} attention_job;

/* The positions a row sees, and where it looks them up. */
static attention_row seen_by(const attention_job *j, int64_t row) {
    return j->cache ? j->at[row] : (attention_row){0, j->first[row], j->end[row]};
}

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Keys and values of one kv head from a position on that lie together: positions of one block. */
static attention_span span_at(const attention_job *j, int64_t table, int64_t position, int64_t n, int kv_head) {
    const kv_cache *cache = j->cache;
    if (!cache) {
        int64_t from = position * j->kv_stride + (int64_t)kv_head * j->head_dim;
        return (attention_span){.k = j->k + from, .v = j->v + from, .k_stride = j->kv_stride, .v_stride = j->kv_stride, .n = n};
    }
    const int64_t rows = cache_rows(cache, j->layer, j->block_table[table + position / KV_BLOCK], kv_head);
    const size_t k_bytes = dtype_row_bytes(cache->k_type, cache->head_dim), v_bytes = dtype_row_bytes(cache->v_type, cache->head_dim);
    const int64_t first = cache->k_type == DTYPE_Q8_0 ? 0 : position % KV_BLOCK; /* packed keys start with their block */
    return (attention_span){
        .k = (const char *)cache->k + (size_t)(rows + first) * k_bytes,
        .v = (const char *)cache->v + (size_t)(rows + position % KV_BLOCK) * v_bytes,
        .k_stride = cache->head_dim,
        .v_stride = cache->v_type == DTYPE_Q8_0 ? cache->head_dim / PACK_BLOCK : cache->head_dim,
        .v_bytes = v_bytes,
        .n = n,
    };
}

/* Long contexts are cut at multiples of CHUNK positions: a chunk is summed by itself and then joined to those before it. So a single row
 * can be spread over threads and still get the result that it would get in a batch. */
enum { CHUNK = 16 * KV_BLOCK, CHUNK_MAX_DIM = CPU_SCRATCH / 4 / ATTENTION_HEADS };

/* A row's result over some positions: acc[head_dim] = sum of e^(score - max) v. */
typedef struct partial {
    float *acc, max, sum;
} partial;

static void join(partial *to, const partial *part, int dim) {
    if (part->sum == 0) { /* saw nothing; a NaN must not get lost */
        return;
    }
    float max = part->max > to->max ? part->max : to->max;
    float a = expf(to->max - max), b = expf(part->max - max);
    for (int i = 0; i < dim; i++) {
        to->acc[i] = to->acc[i] * a + part->acc[i] * b;
    }
    to->sum = to->sum * a + part->sum * b;
    to->max = max;
}

static void begin(partial *p, float *acc, int dim) {
    *p = (partial){.acc = acc, .max = -INFINITY};
    memset(acc, 0, (size_t)dim * sizeof *acc);
}

static void finish(const partial *p, int dim) {
    float inverse = p->sum == 0 ? 0.0f : 1.0f / p->sum; /* NaN stays */
    for (int i = 0; i < dim; i++) {
        p->acc[i] *= inverse;
    }
}

/* Scores of a span from position `first` of its block on, with queries that hold scale * q. */
static void packed_scores(const cpu_backend *c, const attention_span *span, int64_t first, const packed_input *q, int64_t n, attention_scores *w) {
    const int64_t group = first / PACK * PACK, skip = first - group;
    packed_piece p = {
        .w = span->k,
        .w_stride = packed_group_bytes(DTYPE_Q8_0, n),
        .x = q + span->from * (n / PACK_BLOCK),
        .x_stride = n / PACK_BLOCK,
        .n = n,
    };
    packed_move(&p, 0, group);
    p.y = w->p[span->from];
    p.y_stride = w->p[1] - w->p[0];
    c->k.packed[DTYPE_Q8_0](&p, span->to - span->from, span->n + skip);
    for (int h = span->from; skip && h < span->to; h++) {
        memmove(w->p[h], w->p[h] + skip, (size_t)span->n * sizeof *w->p[h]);
    }
}

static void quantise_queries(const attention_job *j, const attention_state *s, int n, packed_input *to) {
    float x[KV_HEAD_BLOCKS * PACK_BLOCK];
    for (int h = 0; h < n; h++, to += s->head_dim / PACK_BLOCK) {
        for (int i = 0; i < s->head_dim; i++) {
            x[i] = s->q[h][i] * s->scale;
        }
        j->c->k.quantise(x, s->head_dim, to);
    }
}

static void attend_span(const attention_job *j, attention_state *s, const attention_span *span, int64_t position, const packed_input *q) {
    const dtype k_type = j->cache ? j->cache->k_type : DTYPE_F32, v_type = j->cache ? j->cache->v_type : DTYPE_F32;
    attention_scores w;
    if (k_type == DTYPE_Q8_0) {
        for (size_t i = 0; i < (size_t)span->n * span->v_bytes; i += 64) {
            __builtin_prefetch((const char *)span->v + i);
        }
        packed_scores(j->c, span, position % KV_BLOCK, q, s->head_dim, &w);
    } else {
        j->c->k.attend_keys[k_type](s, span, &w);
    }
    j->c->k.attend_weights(s, span, &w);
    j->c->k.attend_values[v_type](s, span, &w);
}

/* Rows [row, row + rows) of one table and `heads` query heads from `head` on, which share kv_head, over positions [start, stop), a
 * chunk. Walks the blocks of 64 positions; a row's spans are its own range cut at those, so the order of its sums depends on its range
 * alone. Rows that see the same part of a block go through it together, so that it is read once. out[row][head]. */
static void attend_chunk(const attention_job *j, int64_t row, int rows, int64_t head, int heads, int kv_head, int64_t start, int64_t stop,
                         partial *out) {
    attention_state s = {.head_dim = j->head_dim, .scale = j->scale};
    attention_row seen[ATTENTION_HEADS];
    for (int r = 0; r < rows; r++) {
        seen[r] = seen_by(j, row + r);
        for (int h = 0; h < heads; h++) {
            int i = r * heads + h;
            s.q[i] = j->q + (row + r) * j->q_stride + (head + h) * j->head_dim;
            s.acc[i] = out[i].acc;
            s.max[i] = -INFINITY;
        }
    }
    packed_input quantised[ATTENTION_HEADS * KV_HEAD_BLOCKS];
    if (j->cache && j->cache->k_type == DTYPE_Q8_0) {
        quantise_queries(j, &s, rows * heads, quantised);
    }
    for (int64_t block = start / KV_BLOCK * KV_BLOCK; block < stop; block += KV_BLOCK) {
        for (int r = 0, next; r < rows; r = next) {
            int64_t from = most(seen[r].first, block), to = least(seen[r].end, block + KV_BLOCK);
            for (next = r + 1; next < rows; next++) {
                if (most(seen[next].first, block) != from || least(seen[next].end, block + KV_BLOCK) != to) {
                    break;
                }
            }
            if (from < to) {
                attention_span span = span_at(j, seen[r].table, from, to - from, kv_head);
                span.from = r * heads;
                span.to = next * heads;
                attend_span(j, &s, &span, from, quantised);
            }
        }
    }
    for (int i = 0; i < rows * heads; i++) {
        out[i].max = s.max[i];
        out[i].sum = s.sum[i];
    }
}

/* All chunks of those rows and heads, one after the other. */
static void attend(const attention_job *j, int64_t row, int rows, int64_t head, int heads, int kv_head, float *scratch) {
    partial total[ATTENTION_HEADS], part[ATTENTION_HEADS];
    int64_t first = INT64_MAX, end = 0;
    for (int r = 0; r < rows; r++) {
        attention_row seen = seen_by(j, row + r);
        if (seen.first < seen.end) {
            first = least(first, seen.first);
            end = most(end, seen.end);
        }
        for (int h = 0; h < heads; h++) {
            begin(&total[r * heads + h], j->y + ((row + r) * j->heads + head + h) * j->head_dim, j->head_dim);
        }
    }
    int64_t next;
    for (int64_t start = first; start < end; start = next) {
        next = j->head_dim <= CHUNK_MAX_DIM ? least(end, (start / CHUNK + 1) * CHUNK) : end;
        for (int i = 0; i < rows * heads; i++) {
            begin(&part[i], j->head_dim <= CHUNK_MAX_DIM ? scratch + (int64_t)i * j->head_dim : total[i].acc, j->head_dim);
        }
        attend_chunk(j, row, rows, head, heads, kv_head, start, next, part);
        for (int i = 0; i < rows * heads; i++) {
            if (part[i].acc == total[i].acc) {
                total[i] = part[i];
            } else {
                join(&total[i], &part[i], j->head_dim);
            }
        }
    }
    for (int i = 0; i < rows * heads; i++) {
        finish(&total[i], j->head_dim);
    }
}

static void attention_units(void *arg, int64_t begin_unit, int64_t end_unit, int thread) {
    attention_job *j = arg;
    int shared = j->heads / j->kv_heads;
    for (int64_t u = begin_unit; u < end_unit; u++) {
        int64_t row = u / j->kv_heads * j->group, stop = least(row + j->group, j->rows);
        int kv_head = (int)(u % j->kv_heads);
        while (row < stop) {
            int64_t next = row + 1;
            while (next < stop && seen_by(j, next).table == seen_by(j, row).table) {
                next++;
            }
            for (int h = 0; h < shared; h += ATTENTION_HEADS) {
                int heads = shared - h < ATTENTION_HEADS ? shared - h : ATTENTION_HEADS;
                attend(j, row, (int)(next - row), (int64_t)kv_head * shared + h, heads, kv_head, cpu_scratch(j->c, thread));
            }
            row = next;
        }
    }
}

/* ---- few rows, long contexts: a unit is a row, a kv head and a chunk ---- */

static partial *chunk_partial(const attention_job *j, int64_t row, int64_t head, int64_t chunk) {
    return (partial *)(void *)j->c->scratch + (row * j->heads + head) * j->chunks + chunk;
}

static void chunk_units(void *arg, int64_t begin_unit, int64_t end_unit, int thread) {
    attention_job *j = arg;
    int shared = j->heads / j->kv_heads;
    float *accs = (float *)(void *)chunk_partial(j, j->rows, 0, 0);
    for (int64_t u = begin_unit; u < end_unit; u++) {
        int64_t chunk = u % j->chunks, row = u / j->chunks / j->kv_heads;
        int kv_head = (int)(u / j->chunks % j->kv_heads);
        attention_row seen = seen_by(j, row);
        int64_t start = most(seen.first, chunk * CHUNK), stop = least(seen.end, (chunk + 1) * CHUNK);
        for (int h = 0; h < shared; h += ATTENTION_HEADS) {
            int heads = shared - h < ATTENTION_HEADS ? shared - h : ATTENTION_HEADS;
            int64_t head = (int64_t)kv_head * shared + h;
            partial part[ATTENTION_HEADS];
            for (int i = 0; i < heads; i++) {
                begin(&part[i], accs + ((row * j->heads + head + i) * j->chunks + chunk) * j->head_dim, j->head_dim);
            }
            if (start < stop) {
                attend_chunk(j, row, 1, head, heads, kv_head, start, stop, part);
            }
            for (int i = 0; i < heads; i++) {
                *chunk_partial(j, row, head + i, chunk) = part[i];
            }
        }
    }
}

static void join_units(void *arg, int64_t begin_unit, int64_t end_unit, int thread) {
    attention_job *j = arg;
    for (int64_t u = begin_unit; u < end_unit; u++) {
        partial total;
        begin(&total, j->y + u * j->head_dim, j->head_dim);
        for (int64_t chunk = 0; chunk < j->chunks; chunk++) {
            join(&total, chunk_partial(j, 0, u, chunk), j->head_dim);
        }
        finish(&total, j->head_dim);
    }
}

/* Rows a unit: as many as fill a call with query vectors, but not so many that threads stay without work. */
static void attention_run(attention_job *j) {
    int shared = j->heads / j->kv_heads, threads = pool_threads(j->c->pool);
    int64_t group = shared >= ATTENTION_HEADS ? 1 : ATTENTION_HEADS / shared;
    int64_t enough = j->rows * j->kv_heads / (4 * threads);
    j->group = most(1, least(group, enough));
    int64_t positions = 0, longest = 0;
    for (int64_t r = 0; r < j->rows; r++) {
        attention_row seen = seen_by(j, r);
        positions += most(seen.end - seen.first, 0);
        longest = most(longest, seen.end);
    }
    int64_t units = (j->rows + j->group - 1) / j->group * j->kv_heads;
    int64_t steps = positions * j->heads * j->head_dim / 8 / most(units, 1);
    j->chunks = (longest + CHUNK - 1) / CHUNK;
    size_t need = (size_t)(j->rows * j->heads * j->chunks) * (sizeof(partial) + (size_t)j->head_dim * sizeof(float));
    if (units < 4 * threads && j->chunks > 1 && j->head_dim <= CHUNK_MAX_DIM && need <= (size_t)threads * CPU_SCRATCH) {
        pool_for(j->c->pool, j->rows * j->kv_heads * j->chunks, 1, chunk_units, j);
        pool_for(j->c->pool, j->rows * j->heads, cpu_grain(j->chunks * j->head_dim), join_units, j);
        return;
    }
    pool_for(j->c->pool, units, cpu_grain(steps), attention_units, j);
}

static void cpu_attention(backend *b, const kv_cache *cache, int layer, const int32_t *block_table, const attention_row *at, const float *q,
                          int64_t rows, int heads, float scale, float *y) {
    attention_job j = {
        .c = cpu_of(b),
        .cache = cache,
        .layer = layer,
        .block_table = block_table,
        .at = at,
        .q = q,
        .q_stride = (int64_t)heads * cache->head_dim,
        .rows = rows,
        .heads = heads,
        .kv_heads = cache->kv_heads,
        .head_dim = cache->head_dim,
        .scale = scale,
        .y = y,
    };
    attention_run(&j);
}

/* ---- dense: a unit is a head and a tile of rows, which share what they load ---- */

enum { TILE_ROWS = 1056 };

typedef struct dense_job {
    const cpu_backend *c;
    attention_tile tile; /* of head 0 and row 0, with all rows */
    int64_t tile_rows;
    int heads, shared; /* shared: query heads that read one kv head */
    bool bf16;
} dense_job;

static void dense_units(void *arg, int64_t begin_unit, int64_t end_unit, int thread) {
    dense_job *j = arg;
    for (int64_t u = begin_unit; u < end_unit; u++) {
        const int64_t row = u / j->heads * j->tile_rows, head = u % j->heads, dim = j->tile.head_dim;
        attention_tile t = j->tile;
        t.q += row * t.q_stride + head * dim;
        t.k += head / j->shared * dim;
        t.v += head / j->shared * dim;
        t.first += row;
        t.end += row;
        t.rows = least(t.rows - row, j->tile_rows);
        t.y += row * t.y_stride + head * dim;
        (j->bf16 ? j->c->k.attend_tile_bf16 : j->c->k.attend_tile)(&t, cpu_scratch(j->c, thread));
    }
}

static void cpu_attention_dense(backend *b, const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int32_t *first,
                                const int32_t *end, int64_t rows, int heads, int kv_heads, int head_dim, float scale, bool bf16, float *y) {
    const cpu_backend *c = cpu_of(b);
    if (rows <= 0) {
        return;
    }
    if (attention_tile_scratch(1, head_dim) > CPU_SCRATCH / (int64_t)sizeof(float)) { /* heads of many thousands of values */
        attention_job j = {
            .c = c,
            .q = q,
            .q_stride = q_stride,
            .k = k,
            .v = v,
            .kv_stride = kv_stride,
            .first = first,
            .end = end,
            .rows = rows,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .scale = scale,
            .y = y,
        };
        attention_run(&j);
        return;
    }
    dense_job j = {.c = c, .heads = heads, .shared = heads / kv_heads, .bf16 = bf16};
    j.tile = (attention_tile){
        .q = q,
        .k = k,
        .v = v,
        .q_stride = q_stride,
        .kv_stride = kv_stride,
        .y_stride = (int64_t)heads * head_dim,
        .first = first,
        .end = end,
        .rows = rows,
        .head_dim = head_dim,
        .scale = scale,
        .y = y,
    };
    /* As large as the scratch takes, but a few units a thread; even in size. */
    int64_t tile_rows = least(rows, TILE_ROWS);
    while (tile_rows > 1 && attention_tile_scratch(tile_rows, head_dim) > CPU_SCRATCH / (int64_t)sizeof(float)) {
        tile_rows /= 2;
    }
    const int64_t wanted = (4 * pool_threads(c->pool) + heads - 1) / heads;
    const int64_t tiles = most((rows + tile_rows - 1) / tile_rows, least(wanted, (rows + 23) / 24));
    j.tile_rows = least(tile_rows, ((rows + tiles - 1) / tiles + 5) / 6 * 6);
    pool_for(c->pool, (rows + j.tile_rows - 1) / j.tile_rows * heads, 1, dense_units, &j);
}

void cpu_attention_ops(ops *o) {
    o->head_norm_rope = cpu_head_norm_rope;
    o->kv_bytes = cpu_kv_bytes;
    o->kv_copy = cpu_kv_copy;
    o->kv_write = cpu_kv_write;
    o->attention = cpu_attention;
    o->attention_dense = cpu_attention_dense;
}
