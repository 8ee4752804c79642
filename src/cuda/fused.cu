/* Steps of a decoder layer for a few rows, each in one kernel or two (tensor/fused.h). What does not fit (more rows, other types) is composed. */
#include "cuda/cache.cuh"
#include "cuda/norm.cuh"
#include "cuda/products.cuh"
#include "cuda/route.cuh"

enum { MOST_FUSED = 32 }; /* rows: more than FEW_ROWS in groups of as many, whose weights come from the card's cache */

static bool fits(const tensor *w, int64_t rows, int64_t width) {
    return rows <= MOST_FUSED && products_fit(w, rows, width);
}

/* ---- attention's inputs ---- */

enum { HEADS_A_BLOCK = 4 };

struct head_rows {
    const float *cosine, *sine, *q_norm, *k_norm;
    const int32_t *slots;
    float *q, *k, *v; /* [rows, heads or kv_heads, head_dim] */
    int64_t rows;
    int heads, kv_heads, head_dim;
    float eps;
};

/* A warp a head of a row: queries are normed and turned, keys as well and stored, values stored. */
__global__ static void heads_kernel(head_rows h, cache_half keys, cache_half values) {
    const int64_t unit = (int64_t)blockIdx.x * HEADS_A_BLOCK + threadIdx.x / WARP, row = unit / (h.heads + 2 * h.kv_heads);
    int head = (int)(unit % (h.heads + 2 * h.kv_heads));
    let_next_begin();
    wait_for_inputs();
    if (row >= h.rows) {
        return; /* a whole warp */
    }
    const float *cosine = h.cosine + row * (h.head_dim / 2), *sine = h.sine + row * (h.head_dim / 2);
    if (head < h.heads) {
        norm_and_turn(h.q + (row * h.heads + head) * h.head_dim, h.head_dim, h.q_norm, h.eps, cosine, sine);
        return;
    }
    head -= h.heads;
    if (head < h.kv_heads) {
        float *k = h.k + (row * h.kv_heads + head) * h.head_dim;
        norm_and_turn(k, h.head_dim, h.k_norm, h.eps, cosine, sine);
        __syncwarp();
        write_head(keys, k, h.slots[row], head);
        return;
    }
    head -= h.kv_heads;
    write_head(values, h.v + (row * h.kv_heads + head) * h.head_dim, h.slots[row], head);
}

static void attention_input(backend *b, const layer_shape *s, const layer_weights *w, const kv_cache *cache, int layer, const layer_rows *r,
                            const float *x, float *q, float *scratch) {
    const int64_t kv_width = (int64_t)s->kv_heads * s->head_dim;
    if (r->wanted || r->wanted_count != r->n || !fits(&w->q, r->n, s->width) || !fits(&w->k, r->n, s->width) || !fits(&w->v, r->n, s->width)) {
        ops_composed.attention_input(b, s, w, cache, layer, r, x, q, scratch);
        return;
    }
    float *k = scratch, *v = k + r->n * kv_width;
    products p = products_of(x, s->width, r->n);
    p.norm = w->attn_norm;
    p.eps = s->eps;
    products_add(&p, &w->q, q);
    products_add(&p, &w->k, k);
    products_add(&p, &w->v, v);
    products_run(cuda_of(b), "attention_input", p);
    const head_rows h = {r->cos, r->sin, w->q_norm, w->k_norm, r->slots, q, k, v, r->n, s->heads, s->kv_heads, s->head_dim, s->eps};
    launch_chained(cuda_of(b), "heads", heads_kernel, blocks_for(r->n * (s->heads + 2 * s->kv_heads), HEADS_A_BLOCK), HEADS_A_BLOCK * WARP, 0, h,
                   half_of(cache, layer, true), half_of(cache, layer, false));
}

/* y[row] += w x, times sigmoid(gate[row]) where there is a gate; false, and nothing done, where it does not fit. */
static bool add_product(backend *b, const tensor *w, const float *x, int64_t rows, const float *gate, float *y) {
    if (!fits(w, rows, w->ne[0])) {
        return false;
    }
    products p = products_of(x, w->ne[0], rows);
    p.add = true;
    p.gate = gate;
    products_add(&p, w, y);
    products_run(cuda_of(b), "linear_add", p);
    return true;
}

static void linear_add(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch) {
    if (!add_product(b, w, x, rows, NULL, y)) {
        ops_composed.linear_add(b, w, x, rows, y, scratch);
    }
}

/* ---- feed-forward ---- */

static bool gate_and_up_fit(const layer_shape *s, const layer_weights *w, int64_t rows) {
    return fits(&w->gate, rows, s->width) && fits(&w->up, rows, s->width) && w->gate.type == w->up.type;
}

/* hidden[rows, ffn] = silu(gate x) * up x, of normed rows with a norm, where they fit. */
static void gate_and_up(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, const float *norm, float *hidden) {
    products p = products_of(x, s->width, rows);
    p.norm = norm;
    p.eps = s->eps;
    p.paired = true;
    products_add(&p, &w->gate, hidden);
    products_add(&p, &w->up, NULL);
    products_run(cuda_of(b), "gate_and_up", p);
}

static void mlp_add(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch) {
    if (!fits(&w->down, rows, s->ffn) || !gate_and_up_fit(s, w, rows)) {
        ops_composed.mlp_add(b, s, w, rows, x, scratch);
        return;
    }
    gate_and_up(b, s, w, x, rows, w->ffn_norm, scratch);
    add_product(b, &w->down, scratch, rows, NULL, x);
}

enum { ROUTER_ROWS = 4 };

/* The logits of one expert a block, rows normed on the way and left in n; the last block to end routes. */
template <class Format>
__global__ static void router_kernel(weight_rows w, int experts, const float *x, const float *norm, float eps, int64_t width, int rows, int used,
                                     bool normalise, float *n, float *logits, int32_t *ids, float *weights, unsigned *counter) {
    __shared__ float partial[2][ROUNDED_WARPS];
    const int expert = (int)blockIdx.x;
    const char *row = w.data + expert * w.stride;
    for (int64_t at = threadIdx.x * 128; at < w.stride; at += ROUNDED_THREADS * 128) {
        prefetch(row + at);
    }
    if (threadIdx.x * 32 < width) {
        prefetch(norm + threadIdx.x * 32);
    }
    let_next_begin();
    wait_for_inputs();
    for (int r = 0; r < rows; r++) {
        const float *from = x + r * width;
        float squares = 0, dot = 0;
        for (int64_t at = threadIdx.x * 8; at < width; at += ROUNDED_THREADS * 8) {
            float v[8], weight[8];
            load_8(from, at, width, v);
            load_8(norm, at, width, weight);
            for (int g = 0; g < 8 / Format::GROUP; g++) {
                float stored[Format::GROUP];
                Format::load(row, at / Format::GROUP + g, stored, w.width);
                for (int i = 0; i < Format::GROUP; i++) {
                    dot += stored[i] * (weight[g * Format::GROUP + i] * v[g * Format::GROUP + i]);
                }
            }
            for (int i = 0; i < 8; i++) {
                squares += v[i] * v[i];
            }
        }
        squares = warp_sum(squares);
        dot = warp_sum(dot);
        __syncthreads(); /* partial may still be read */
        if (threadIdx.x % WARP == 0) {
            partial[0][threadIdx.x / WARP] = squares;
            partial[1][threadIdx.x / WARP] = dot;
        }
        __syncthreads();
        squares = dot = 0;
        for (int k = 0; k < ROUNDED_WARPS; k++) {
            squares += partial[0][k];
            dot += partial[1][k];
        }
        const float scale = 1.0f / sqrtf(squares / (float)width + eps);
        if (threadIdx.x == 0) {
            logits[r * experts + expert] = dot * scale;
        }
        for (int64_t i = threadIdx.x; expert == r % experts && i < width; i += ROUNDED_THREADS) {
            n[r * width + i] = norm[i] * (from[i] * scale);
        }
    }
    if (is_last(counter, gridDim.x) && (int)threadIdx.x / WARP < rows) {
        const int r = (int)threadIdx.x / WARP;
        route_row(logits + r * experts, experts, used, normalise, ids + r * used, weights + r * used);
    }
}

struct router_call {
    cuda_backend *c;
    const layer_shape *s;
    const layer_weights *w;
    const float *x;
    int64_t rows;
    float *n, *logits, *weights;
    int32_t *ids;
    template <class Format> void run() const {
        if constexpr (8 % Format::GROUP == 0) {
            launch_chained(c, "router", router_kernel<Format>, (unsigned)s->experts, ROUNDED_THREADS, 0, rows_of(&w->router), s->experts, x,
                           w->ffn_norm, s->eps, s->width, (int)rows, s->experts_used, s->normalise_weights, n, logits, ids, weights, c->counters);
        }
    }
};

static void moe_input(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids, float *weights,
                      float *scratch) {
    const dtype type = w->router.type;
    if (rows == 0 || rows > ROUTER_ROWS || (type != DTYPE_F32 && type != DTYPE_F16 && type != DTYPE_BF16)) {
        ops_composed.moe_input(b, s, w, x, rows, n, ids, weights, scratch);
        return;
    }
    with_format(type, router_call{cuda_of(b), s, w, x, rows, n, scratch, weights, ids});
}

static void moe_add(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids, const float *weights,
                    float *x, float *scratch) {
    const bool shared = s->ffn > 0;
    const bool fit = !shared || (gate_and_up_fit(s, w, rows) && fits(&w->down, rows, s->ffn));
    if (!fit || !cuda_moe_add(b, &w->gate_exps, &w->up_exps, &w->down_exps, n, rows, ids, weights, s->experts_used, scratch, x)) {
        ops_composed.moe_add(b, s, w, n, rows, ids, weights, x, scratch);
        return;
    }
    if (shared) { /* the experts' scratch is free again */
        float *hidden = scratch, *gate = hidden + rows * s->ffn;
        b->ops->linear(b, &w->shared_router, NULL, n, rows, s->width, gate, 1);
        gate_and_up(b, s, w, n, rows, NULL, hidden);
        add_product(b, &w->down, hidden, rows, gate, x);
    }
}

/* ---- head ---- */

static void head_sample(backend *b, const float *norm, float eps, const tensor *head, const float *x, int64_t rows, float *hidden, float *logits,
                        const sample_row *params, int32_t *ids) {
    if (!fits(head, rows, head->ne[0])) {
        ops_composed.head_sample(b, norm, eps, head, x, rows, hidden, logits, params, ids);
        return;
    }
    products p = products_of(x, head->ne[0], rows);
    p.norm = norm;
    p.eps = eps;
    p.normed = hidden;
    products_add(&p, head, logits);
    products_run(cuda_of(b), "head", p);
    if (params) {
        b->ops->sample(b, logits, rows, head->ne[1], params, ids);
    }
}

const fused_ops cuda_fused = {NULL, attention_input, linear_add, moe_input, moe_add, mlp_add, head_sample};
