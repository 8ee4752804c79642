/* Steps of a decoder layer for a few rows, each in one kernel or two (tensor/fused.h). What does not fit (more rows, other types) is composed. */
#include "cuda/cache.cuh"
#include "cuda/linear.cuh"
#include "cuda/norm.cuh"
#include "cuda/rounded.cuh"
#include "cuda/route.cuh"

/* ---- norm, rounding, products ---- */

enum { MOST_FUSED = 32 }; /* rows: more than FEW_ROWS in groups of as many, whose weights come from the card's cache */

struct product {
    weight_rows w;
    dtype type;
    int64_t outs;
    float *y;      /* [rows, outs] */
    int end_block; /* blocks [that of the product before, end_block) compute it */
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
    bool paired;       /* of[0].y = silu(of[0]) * of[1]: both of one type */
    const float *gate; /* [rows] results are multiplied with sigmoid(gate); NULL: they are not */
    bool add;          /* results are added to what y holds */
    int each;          /* outputs of a warp */
    product of[MOST];
};

/* The first of the ROWS rows that a block has. */
template <int ROWS> __device__ static inline int first_row() {
    return (int)blockIdx.y * ROWS;
}

/* What a warp computes of a product: outputs first, first + ROUNDED_WARPS, ... ; of paired ones the row of either matrix, in turn. */
template <int ROWS> struct product_rows {
    const products &p;
    const product &m;
    const char *inputs_at, *row, *up_row; /* the next rows to load */
    int64_t out;                          /* the next one to compute */

    template <int R> __device__ void point(const char *(&at)[R], int) {
        UNROLL
        for (int r = 0; r < R; r++) {
            const bool up = p.paired && r % 2;
            at[r] = up ? up_row : row;
            (up ? up_row : row) += ROUNDED_WARPS * m.w.stride;
        }
    }
    __device__ const char *inputs(int) const {
        return inputs_at;
    }
    template <int R> __device__ void done(float (&sum)[R][ROWS], int left) {
        const int r = threadIdx.x % WARP, row = first_row<ROWS>() + r; /* what this lane stores */
        sum_over_lanes<R, ROWS>(sum);
        UNROLL
        for (int j = 0; j < R; j++) {
            float v = sum[j][0], gate = sum[j ? j - 1 : 0][0];
            UNROLL
            for (int i = 1; i < ROWS; i++) {
                v = r == i ? sum[j][i] : v;
                gate = r == i ? sum[j ? j - 1 : 0][i] : gate;
            }
            if (p.paired && j % 2 == 0) {
                continue;
            }
            if (j < left && row < p.rows && r < ROWS) {
                float *y = m.y + row * m.outs + out;
                v = p.paired ? silu(gate) * v : v;
                v = p.gate ? v / (1.0f + expf(-p.gate[row])) : v;
                *y = p.add ? *y + v : v;
            }
            out += ROUNDED_WARPS;
        }
    }
};

/* Rounds the block's rows, normed if they are to be. norm: the weights of this thread's first eight values, which were asked for early. */
template <int ROWS> __device__ static inline void take_rows(const products &p, const float norm[8], rounded_rows to) {
    __shared__ float partial[ROUNDED_WARPS], scale[ROWS];
    const int warp = threadIdx.x / WARP, first = first_row<ROWS>(), own = (int)threadIdx.x * 8;
    const float *x = p.x + first * p.width;
    float piece[8]; /* of one row, this thread's first */
    if (ROWS == 1) {
        load_8(x, own, p.width, piece);
    }
    if (p.norm && ROWS == 1) {
        float sum = 0;
        for (int i = 0; i < 8; i++) {
            sum += piece[i] * piece[i];
        }
        for (int64_t at = own + ROUNDED_THREADS * 8; at < p.width; at += ROUNDED_THREADS * 8) {
            float v[8];
            load_8(x, at, p.width, v);
            for (int i = 0; i < 8; i++) {
                sum += v[i] * v[i];
            }
        }
        scale[0] = 1.0f / sqrtf(block_sum(sum, partial) / (float)p.width + p.eps); /* the same of every thread */
    } else if (p.norm && first + warp < p.rows) {
        const float s = rms_scale_by_warp(x + warp * p.width, p.width, p.eps);
        if (threadIdx.x % WARP == 0) {
            scale[warp] = s;
        }
    }
    __syncthreads();
    round_values(to, ROWS, [&](int r, int at, float *v) {
        if (first + r >= p.rows) {
            return; /* zeros */
        }
        const bool known = ROWS == 1 && at == own;
        float weight[8];
        if (known) {
            for (int i = 0; i < 8; i++) {
                v[i] = piece[i];
                weight[i] = norm[i];
            }
        } else {
            load_8(x + r * p.width, at, p.width, v);
            if (p.norm) {
                load_8(p.norm, at, p.width, weight);
            }
        }
        for (int i = 0; p.norm && i < 8; i++) {
            v[i] = weight[i] * (v[i] * scale[r]);
        }
        for (int i = 0; p.normed && blockIdx.x == 0 && i < 8 && at + i < p.width; i++) {
            p.normed[(first + r) * p.width + at + i] = v[i];
        }
    });
    __syncthreads();
}

template <class Format, int ROWS, bool SHORT> __device__ static inline void products_of_block(const products &p, int k, rounded_rows rounded) {
    const product &m = p.of[k];
    const warp_outs outs = outs_of((int)blockIdx.x - (k ? p.of[k - 1].end_block : 0), p.each, m.outs);
    const int count = p.paired ? 2 * outs.count : outs.count;
    product_rows<ROWS> mine = {p, m, rounded.memory, m.w.data + outs.first * m.w.stride, p.of[1].w.data + outs.first * m.w.stride, outs.first};
    stream_of<Format, ROWS, SHORT> stream;
    stream.begin(mine, count, m.w.width);
    float norm[8] = {};
    if (p.norm && ROWS == 1) {
        load_8(p.norm, threadIdx.x * 8, p.width, norm);
    } else if (p.norm && threadIdx.x * 32 < p.width) {
        prefetch(p.norm + threadIdx.x * 32);
    }
    wait_for_inputs();
    take_rows<ROWS>(p, norm, rounded);
    stream.run(mine, count, rounded);
}

template <int ROWS, bool SHORT> __global__ static void __launch_bounds__(ROUNDED_THREADS, ROWS > 2 ? 1 : 2) products_kernel(products p) {
    DYNAMIC_SHARED(memory);
    const rounded_rows rounded = {memory, (int)p.of[0].w.width};
    int k = 0;
    while ((int)blockIdx.x >= p.of[k].end_block) {
        k++;
    }
    let_next_begin();
    switch (p.of[k].type) {
    case DTYPE_Q8_0:
        return products_of_block<rounded_q8_0, ROWS, SHORT>(p, k, rounded);
    case DTYPE_Q4_K:
        return products_of_block<rounded_q4_k, ROWS, SHORT>(p, k, rounded);
    case DTYPE_Q5_K:
        return products_of_block<rounded_q5_k, ROWS, SHORT>(p, k, rounded);
    default:
        return products_of_block<rounded_q6_k, ROWS, SHORT>(p, k, rounded);
    }
}

static bool fits(const tensor *w, int64_t rows, int64_t width) {
    const weight_rows stored = rows_of(w);
    return is_rounded(w->type) && rows > 0 && rows <= MOST_FUSED && w->ne[0] == width && w->ne[1] >= LEAST_ROUNDED_OUTPUTS &&
           FEW_ROWS * rounded_rows::bytes(stored.width) <= MOST_ROUNDED_BYTES;
}

static void add_matrix(products *p, const tensor *w, float *y) {
    p->of[p->count++] = product{rows_of(w), w->type, tensor_rows(w), y, 0};
}

static void run_products(backend *b, const char *what, products p) {
    cuda_backend *c = cuda_of(b);
    const int matrices = p.paired ? 1 : p.count;
    int64_t outs = 0;
    int blocks = 0;
    for (int k = 0; k < matrices; k++) {
        outs += p.of[k].outs;
    }
    p.each = outputs_a_warp(c, outs, 1);
    for (int k = 0; k < matrices; k++) {
        blocks += (int)blocks_for(p.of[k].outs, ROUNDED_WARPS * p.each);
        p.of[k].end_block = blocks;
    }
    const bool is_short = p.of[0].w.width <= SHORT_WIDTH;
    const auto start = [&](int rows, auto kernel, auto short_kernel) {
        launch_chained(c, what, is_short ? short_kernel : kernel, dim3((unsigned)blocks, blocks_for(p.rows, rows)), ROUNDED_THREADS,
                       (size_t)rows * rounded_rows::bytes(p.of[0].w.width), p);
    };
    if (p.rows == 1) {
        start(1, products_kernel<1, false>, products_kernel<1, true>);
    } else if (p.rows == 2) {
        start(2, products_kernel<2, false>, products_kernel<2, true>);
    } else if (p.rows <= 4) {
        start(4, products_kernel<4, false>, products_kernel<4, false>);
    } else {
        start(FEW_ROWS, products_kernel<FEW_ROWS, false>, products_kernel<FEW_ROWS, false>);
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
    launch_chained(cuda_of(b), "heads", heads_kernel, blocks_for(r->n * (s->heads + 2 * s->kv_heads), HEADS_A_BLOCK), HEADS_A_BLOCK * WARP, 0, h,
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

static bool gate_and_up_fit(const layer_shape *s, const layer_weights *w, int64_t rows) {
    return fits(&w->gate, rows, s->width) && fits(&w->up, rows, s->width) && w->gate.type == w->up.type;
}

/* hidden[rows, ffn] = silu(gate x) * up x, of normed rows with a norm, where they fit. */
static void gate_and_up(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, const float *norm, float *hidden) {
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
