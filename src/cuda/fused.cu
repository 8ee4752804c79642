/* Steps of a decoder layer for a few rows, each in one kernel or two (tensor/fused.h). What does not fit (more rows, other types) is composed. */
#include "cuda/cache.cuh"
#include "cuda/linear.cuh"
#include "cuda/norm.cuh"
#include "cuda/rounded.cuh"

/* ---- norm, rounding, products ---- */

struct product {
    weight_rows w;
    dtype type;
    int64_t outs;
    float *y; /* [rows, outs] */
};

/* The products of the same rows with up to three matrices. */
struct products {
    enum { MOST = 3 };
    const float *x; /* [rows, width] */
    int64_t width;
    int rows, count;
    const float *norm; /* rows are normed first; NULL: not */
    float eps;
    float *normed;     /* [rows, width] receives the normed rows; NULL: nobody wants them */
    bool paired;       /* of[0].y = silu(of[0]) * of[1] */
    const float *gate; /* [rows] results are multiplied with sigmoid(gate); NULL: they are not */
    bool add;          /* results are added to what y holds */
    product of[MOST];
};

/* Output `out` of all matrices, one behind the other. */
template <int ROWS> __device__ static inline void product_out(const products &p, rounded_rows x, int64_t out) {
    int k = 0;
    while (!p.paired && out >= p.of[k].outs) {
        out -= p.of[k++].outs;
    }
    const product &m = p.of[k];
    float sum[ROWS], up[ROWS];
    rounded_products_of<ROWS>(m.type, m.w.data + out * m.w.stride, x, sum);
    if (p.paired) {
        rounded_products_of<ROWS>(p.of[1].type, p.of[1].w.data + out * p.of[1].w.stride, x, up);
    }
    for (int r = 0; r < ROWS; r++) {
        if (r < p.rows && threadIdx.x % WARP == 0) {
            float v = p.paired ? silu(sum[r]) * up[r] : sum[r];
            v = p.gate ? v / (1.0f + expf(-p.gate[r])) : v;
            m.y[r * m.outs + out] = p.add ? m.y[r * m.outs + out] + v : v;
        }
    }
}

template <int ROWS> __global__ static void products_kernel(products p, int64_t outs) {
    DYNAMIC_SHARED(memory);
    __shared__ float partial[ROUNDED_WARPS];
    const rounded_rows rounded = {memory, p.of[0].w.width};
    for (int r = 0; r < ROWS; r++) {
        const float *x = p.x + r * p.width, *norm = p.norm;
        const float scale = norm && r < p.rows ? rms_scale(x, p.width, p.eps, partial) : 1;
        const auto value = [x, norm, scale](int64_t i) { return norm ? norm[i] * (x[i] * scale) : x[i]; };
        round_values(rounded, r, r < p.rows ? p.width : 0, value);
        for (int64_t i = threadIdx.x; p.normed && r < p.rows && blockIdx.x == 0 && i < p.width; i += ROUNDED_THREADS) {
            p.normed[r * p.width + i] = value(i);
        }
    }
    __syncthreads();
    for (int64_t out = (int64_t)blockIdx.x * ROUNDED_WARPS + threadIdx.x / WARP; out < outs; out += (int64_t)gridDim.x * ROUNDED_WARPS) {
        product_out<ROWS>(p, rounded, out);
    }
}

template <int ROWS> static void launch_products(cuda_backend *c, const char *what, const products &p, int64_t outs) {
    launch(c, what, products_kernel<ROWS>, rounded_blocks(c, outs, 1), ROUNDED_THREADS, ROWS * rounded_rows::bytes(p.of[0].w.width), p, outs);
}

static bool fits(const tensor *w, int64_t rows, int64_t width) {
    const weight_rows stored = rows_of(w);
    return is_rounded(w->type) && rows > 0 && rows <= FEW_ROWS && w->ne[0] == width && w->ne[1] >= LEAST_ROUNDED_OUTPUTS &&
           FEW_ROWS * rounded_rows::bytes(stored.width) <= MOST_ROUNDED_BYTES;
}

static void add_matrix(products *p, const tensor *w, float *y) {
    p->of[p->count++] = product{rows_of(w), w->type, tensor_rows(w), y};
}

static void run_products(backend *b, const char *what, const products &p) {
    cuda_backend *c = cuda_of(b);
    int64_t outs = p.of[0].outs;
    for (int k = 1; k < p.count && !p.paired; k++) {
        outs += p.of[k].outs;
    }
    if (p.rows == 1) {
        launch_products<1>(c, what, p, outs);
    } else if (p.rows == 2) {
        launch_products<2>(c, what, p, outs);
    } else if (p.rows <= 4) {
        launch_products<4>(c, what, p, outs);
    } else {
        launch_products<FEW_ROWS>(c, what, p, outs);
    }
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
    products p = {};
    p.x = x;
    p.width = s->width;
    p.rows = (int)r->n;
    p.norm = w->attn_norm;
    p.eps = s->eps;
    add_matrix(&p, &w->q, q);
    add_matrix(&p, &w->k, k);
    add_matrix(&p, &w->v, v);
    run_products(b, "attention_input", p);
    const head_rows h = {r->cos, r->sin, w->q_norm, w->k_norm, r->slots, q, k, v, r->n, s->heads, s->kv_heads, s->head_dim, s->eps};
    launch(cuda_of(b), "heads", heads_kernel, blocks_for(r->n * (s->heads + 2 * s->kv_heads), HEADS_A_BLOCK), HEADS_A_BLOCK * WARP, 0, h,
           half_of(cache, layer, true), half_of(cache, layer, false));
}

/* y[row] += w x, times sigmoid(gate[row]) where there is a gate; false, and nothing done, where it does not fit. */
static bool add_product(backend *b, const tensor *w, const float *x, int64_t rows, const float *gate, float *y) {
    if (!fits(w, rows, w->ne[0])) {
        return false;
    }
    products p = {};
    p.x = x;
    p.width = w->ne[0];
    p.rows = (int)rows;
    p.add = true;
    p.gate = gate;
    add_matrix(&p, w, y);
    run_products(b, "linear_add", p);
    return true;
}

static void linear_add(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch) {
    if (!add_product(b, w, x, rows, NULL, y)) {
        ops_composed.linear_add(b, w, x, rows, y, scratch);
    }
}

/* ---- feed-forward ---- */

/* hidden[rows, ffn] = silu(gate x) * up x, of normed rows with a norm; false, and nothing done, where it does not fit. */
static bool gate_and_up(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, const float *norm, float *hidden) {
    if (!fits(&w->gate, rows, s->width) || !fits(&w->up, rows, s->width)) {
        return false;
    }
    products p = {};
    p.x = x;
    p.width = s->width;
    p.rows = (int)rows;
    p.norm = norm;
    p.eps = s->eps;
    p.paired = true;
    add_matrix(&p, &w->gate, hidden);
    add_matrix(&p, &w->up, NULL);
    run_products(b, "gate_and_up", p);
    return true;
}

static void mlp_add(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch) {
    if (!fits(&w->down, rows, s->ffn) || !gate_and_up(b, s, w, x, rows, w->ffn_norm, scratch)) {
        ops_composed.mlp_add(b, s, w, rows, x, scratch);
        return;
    }
    add_product(b, &w->down, scratch, rows, NULL, x);
}

enum { ROUTER_ROWS = 4 };

/* Normed rows, kept in shared memory and left in n, times a matrix of floats. */
template <class Format>
__global__ static void router_kernel(weight_rows w, int64_t outs, const float *x, const float *norm, float eps, int64_t width, int rows, float *n,
                                     float *logits) {
    DYNAMIC_SHARED(memory);
    __shared__ float partial[ROUNDED_WARPS];
    float *normed = (float *)(void *)memory;
    for (int r = 0; r < rows; r++) {
        const float scale = rms_scale(x + r * width, width, eps, partial);
        for (int64_t i = threadIdx.x; i < width; i += ROUNDED_THREADS) {
            const float v = norm[i] * (x[r * width + i] * scale);
            normed[r * width + i] = v;
            if (blockIdx.x == 0) {
                n[r * width + i] = v;
            }
        }
    }
    __syncthreads();
    const int64_t out = (int64_t)blockIdx.x * ROUNDED_WARPS + threadIdx.x / WARP;
    if (out < outs) { /* the same for a whole warp */
        float sum[ROUTER_ROWS];
        warp_products<Format, ROUTER_ROWS>(w.data + out * w.stride, w.width, width, plain_input{normed, width}, 0, rows, sum);
        for (int r = 0; r < ROUTER_ROWS; r++) {
            if (r < rows && threadIdx.x % WARP == 0) {
                logits[r * outs + out] = sum[r];
            }
        }
    }
}

struct router_call {
    cuda_backend *c;
    const layer_shape *s;
    const layer_weights *w;
    const float *x;
    int64_t rows;
    float *n, *logits;
    template <class Format> void run() const {
        launch(c, "router", router_kernel<Format>, blocks_for(s->experts, ROUNDED_WARPS), ROUNDED_THREADS, (size_t)(rows * s->width) * sizeof(float),
               rows_of(&w->router), (int64_t)s->experts, x, w->ffn_norm, s->eps, s->width, (int)rows, n, logits);
    }
};

static void moe_input(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids, float *weights,
                      float *scratch) {
    if (rows == 0 || rows > ROUTER_ROWS || (size_t)(rows * s->width) * sizeof(float) > MOST_ROUNDED_BYTES) {
        ops_composed.moe_input(b, s, w, x, rows, n, ids, weights, scratch);
        return;
    }
    with_format(w->router.type, router_call{cuda_of(b), s, w, x, rows, n, scratch});
    b->ops->route(b, scratch, rows, s->experts, s->experts_used, s->normalise_weights, ids, weights);
}

static void moe_add(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids, const float *weights,
                    float *x, float *scratch) {
    const bool shared = s->ffn > 0;
    const bool fit = !shared || (fits(&w->gate, rows, s->width) && fits(&w->up, rows, s->width) && fits(&w->down, rows, s->ffn));
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
    products p = {};
    p.x = x;
    p.width = head->ne[0];
    p.rows = (int)rows;
    p.norm = norm;
    p.eps = eps;
    p.normed = hidden;
    add_matrix(&p, head, logits);
    run_products(b, "head", p);
    if (params) {
        b->ops->sample(b, logits, rows, head->ne[1], params, ids);
    }
}

const fused_ops cuda_fused = {NULL, attention_input, linear_add, moe_input, moe_add, mlp_add, head_sample};
