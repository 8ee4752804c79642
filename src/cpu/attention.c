/* Head normalisation, rotation, the key/value cache and attention. A unit of attention is a few rows and one key/value head with the
 * query heads that share it. */
#include <math.h>
#include <string.h>

#include "cpu/backend.h"

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

static int64_t cache_offset(const kv_cache *cache, int layer, int64_t block, int head) {
    return (((int64_t)layer * cache->blocks + block) * cache->kv_heads + head) * KV_BLOCK * cache->head_dim;
}

static void write_rows(void *arg, int64_t begin, int64_t end, int thread) {
    write_job *j = arg;
    const kv_cache *cache = j->cache;
    int64_t n = cache->head_dim;
    for (int64_t r = begin; r < end; r++) {
        for (int h = 0; h < cache->kv_heads; h++) {
            int64_t to = cache_offset(cache, j->layer, j->slots[r] / KV_BLOCK, h) + j->slots[r] % KV_BLOCK * n;
            const float *k = j->k + (r * cache->kv_heads + h) * n, *v = j->v + (r * cache->kv_heads + h) * n;
            if (cache->type == DTYPE_F16) {
                j->c->k.to_f16(k, (uint16_t *)cache->k + to, n);
                j->c->k.to_f16(v, (uint16_t *)cache->v + to, n);
            } else {
                memcpy((float *)cache->k + to, k, (size_t)n * sizeof *k);
                memcpy((float *)cache->v + to, v, (size_t)n * sizeof *v);
            }
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
    int64_t q_stride, kv_stride, rows, group;
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
    size_t size = cache->type == DTYPE_F16 ? 2 : 4;
    int64_t in_block = position % KV_BLOCK * cache->head_dim;
    size_t from = (size_t)(cache_offset(cache, j->layer, j->block_table[table + position / KV_BLOCK], kv_head) + in_block) * size;
    return (attention_span){
        .k = (const char *)cache->k + from,
        .v = (const char *)cache->v + from,
        .k_stride = cache->head_dim,
        .v_stride = cache->head_dim,
        .n = n,
    };
}

/* Rows [row, row + rows) of one table and `heads` query heads from `head` on, which share kv_head. Walks the blocks of 64 positions; a
 * row's spans are its own range cut at those, so the order of its sums depends on its range alone. Rows that see the same part of a
 * block go through it together, so that it is read once. */
static void attend(const attention_job *j, int64_t row, int rows, int64_t head, int heads, int kv_head) {
    attention_state s = {.head_dim = j->head_dim, .scale = j->scale};
    attention_row seen[ATTENTION_HEADS];
    int64_t first = INT64_MAX, end = 0;
    for (int r = 0; r < rows; r++) {
        seen[r] = seen_by(j, row + r);
        if (seen[r].first < seen[r].end) {
            first = least(first, seen[r].first);
            end = most(end, seen[r].end);
        }
        for (int h = 0; h < heads; h++) {
            int i = r * heads + h;
            s.q[i] = j->q + (row + r) * j->q_stride + (head + h) * j->head_dim;
            s.acc[i] = j->y + ((row + r) * j->heads + head + h) * j->head_dim;
            s.max[i] = -INFINITY;
            memset(s.acc[i], 0, (size_t)j->head_dim * sizeof(float));
        }
    }
    for (int64_t block = first / KV_BLOCK * KV_BLOCK; block < end; block += KV_BLOCK) {
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
                (j->cache && j->cache->type == DTYPE_F16 ? j->c->k.attend_f16 : j->c->k.attend_f32)(&s, &span);
            }
        }
    }
    for (int i = 0; i < rows * heads; i++) {
        float inverse = s.sum[i] > 0 ? 1.0f / s.sum[i] : 0.0f;
        for (int d = 0; d < j->head_dim; d++) {
            s.acc[i][d] *= inverse;
        }
    }
}

static void attention_units(void *arg, int64_t begin, int64_t end, int thread) {
    attention_job *j = arg;
    int shared = j->heads / j->kv_heads;
    for (int64_t u = begin; u < end; u++) {
        int64_t row = u / j->kv_heads * j->group, stop = least(row + j->group, j->rows);
        int kv_head = (int)(u % j->kv_heads);
        while (row < stop) {
            int64_t next = row + 1;
            while (next < stop && seen_by(j, next).table == seen_by(j, row).table) {
                next++;
            }
            for (int h = 0; h < shared; h += ATTENTION_HEADS) {
                int heads = shared - h < ATTENTION_HEADS ? shared - h : ATTENTION_HEADS;
                attend(j, row, (int)(next - row), (int64_t)kv_head * shared + h, heads, kv_head);
            }
            row = next;
        }
    }
}

/* Rows a unit: as many as fill a call with query vectors, but not so many that threads stay without work. */
static void attention_run(attention_job *j) {
    int shared = j->heads / j->kv_heads;
    int64_t group = shared >= ATTENTION_HEADS ? 1 : ATTENTION_HEADS / shared;
    int64_t enough = j->rows * j->kv_heads / (4 * pool_threads(j->c->pool));
    j->group = most(1, least(group, enough));
    int64_t positions = 0;
    for (int64_t r = 0; r < j->rows; r++) {
        attention_row seen = seen_by(j, r);
        positions += most(seen.end - seen.first, 0);
    }
    int64_t units = (j->rows + j->group - 1) / j->group * j->kv_heads;
    int64_t steps = positions * j->heads * j->head_dim / 8 / most(units, 1);
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

static void cpu_attention_dense(backend *b, const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int32_t *first,
                                const int32_t *end, int64_t rows, int heads, int kv_heads, int head_dim, float scale, float *y) {
    attention_job j = {
        .c = cpu_of(b),
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
}

void cpu_attention_ops(ops *o) {
    o->head_norm_rope = cpu_head_norm_rope;
    o->kv_write = cpu_kv_write;
    o->attention = cpu_attention;
    o->attention_dense = cpu_attention_dense;
}
