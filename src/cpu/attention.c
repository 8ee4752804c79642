/* Head normalisation, rotation, the key/value cache and attention. A unit of work is one row and one key/value head with the query
 * heads that share it. */
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
    int64_t q_stride, kv_stride;
    const int32_t *first, *end;
    int heads, kv_heads, head_dim;
    float scale;
    float *y;
} attention_job;

/* Query heads of one kv head are taken in groups that fit the scratch of a thread. */
enum { HEAD_GROUP = 16 };

static void begin_state(attention_state *s) {
    for (int h = 0; h < s->heads; h++) {
        s->max[h] = -INFINITY;
        s->sum[h] = 0;
    }
    memset(s->acc, 0, (size_t)s->heads * (size_t)s->head_dim * sizeof *s->acc);
}

static void end_state(const attention_state *s) {
    for (int h = 0; h < s->heads; h++) {
        float inverse = s->sum[h] > 0 ? 1.0f / s->sum[h] : 0.0f;
        for (int i = 0; i < s->head_dim; i++) {
            s->acc[(int64_t)h * s->head_dim + i] *= inverse;
        }
    }
}

/* The spans start at multiples of KV_BLOCK positions, so the order of the sums depends on the row's range alone. */
static void attend_paged(const attention_job *j, attention_state *s, int64_t row, int kv_head) {
    const kv_cache *cache = j->cache;
    const attention_row *at = &j->at[row];
    size_t size = cache->type == DTYPE_F16 ? 2 : 4;
    for (int64_t p = at->first; p < at->end;) {
        int64_t offset = p % KV_BLOCK, n = KV_BLOCK - offset;
        n = at->end - p < n ? at->end - p : n;
        size_t from = (size_t)(cache_offset(cache, j->layer, j->block_table[at->table + p / KV_BLOCK], kv_head) + offset * cache->head_dim);
        attention_span span = {(const char *)cache->k + from * size, (const char *)cache->v + from * size, cache->head_dim, cache->head_dim, n};
        (cache->type == DTYPE_F16 ? j->c->k.attend_f16 : j->c->k.attend_f32)(s, &span);
        p += n;
    }
}

static void attend_dense(const attention_job *j, attention_state *s, int64_t row, int kv_head) {
    for (int64_t p = j->first[row]; p < j->end[row];) {
        int64_t n = KV_BLOCK - p % KV_BLOCK;
        n = j->end[row] - p < n ? j->end[row] - p : n;
        int64_t from = p * j->kv_stride + (int64_t)kv_head * j->head_dim;
        attention_span span = {j->k + from, j->v + from, j->kv_stride, j->kv_stride, n};
        j->c->k.attend_f32(s, &span);
        p += n;
    }
}

static void attention_units(void *arg, int64_t begin, int64_t end, int thread) {
    attention_job *j = arg;
    int shared = j->heads / j->kv_heads;
    float max[HEAD_GROUP], sum[HEAD_GROUP];
    for (int64_t u = begin; u < end; u++) {
        int64_t row = u / j->kv_heads;
        int kv_head = (int)(u % j->kv_heads);
        for (int h = 0; h < shared; h += HEAD_GROUP) {
            int64_t head = (int64_t)kv_head * shared + h;
            attention_state s = {
                .heads = shared - h < HEAD_GROUP ? shared - h : HEAD_GROUP,
                .head_dim = j->head_dim,
                .q = j->q + row * j->q_stride + head * j->head_dim,
                .scale = j->scale,
                .acc = j->y + (row * j->heads + head) * j->head_dim,
                .max = max,
                .sum = sum,
            };
            begin_state(&s);
            if (j->cache) {
                attend_paged(j, &s, row, kv_head);
            } else {
                attend_dense(j, &s, row, kv_head);
            }
            end_state(&s);
        }
    }
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
        .heads = heads,
        .kv_heads = cache->kv_heads,
        .head_dim = cache->head_dim,
        .scale = scale,
        .y = y,
    };
    pool_for(j.c->pool, rows * cache->kv_heads, 1, attention_units, &j);
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
        .heads = heads,
        .kv_heads = kv_heads,
        .head_dim = head_dim,
        .scale = scale,
        .y = y,
    };
    pool_for(j.c->pool, rows * kv_heads, 1, attention_units, &j);
}

void cpu_attention_ops(ops *o) {
    o->head_norm_rope = cpu_head_norm_rope;
    o->kv_write = cpu_kv_write;
    o->attention = cpu_attention;
    o->attention_dense = cpu_attention_dense;
}
