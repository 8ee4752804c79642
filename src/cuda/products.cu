/* Norm, rounding, products, and what is done with them, of a few rows. Every block rounds the rows for itself; a warp has a few outputs. */
#include "cuda/products.cuh"

/* The first of the ROWS rows that a block has. */
template <int ROWS> __device__ static inline int first_row() {
    return (int)blockIdx.y * ROWS;
}

/* What a warp computes of a product: outputs out, out + ROUNDED_WARPS, ... ; of paired ones the row of either matrix, in turn. */
template <int ROWS, int R> struct product_rows {
    const products &p;
    const product &m;
    const char *row, *up_row; /* the next rows to load */
    int64_t out;              /* the next one to compute */

    __device__ void point(const char *(&at)[R], int left) {
        UNROLL
        for (int r = 0; r < R; r++) {
            const bool up = p.paired && r % 2;
            const int64_t step = r + (p.paired ? 2 : 1) < left ? ROUNDED_WARPS * m.w.stride : 0;
            at[r] = up ? up_row : row;
            up_row += up ? step : 0;
            row += up ? 0 : step;
        }
    }
    __device__ void done(float v, int left) {
        enum { LANES = WARP / (R * ROWS) }; /* that have one value */
        const int lane = threadIdx.x % WARP, j = lane / (LANES * ROWS), row = first_row<ROWS>() + lane / LANES % ROWS;
        if (p.paired) {
            const float gate = __shfl_xor_sync(0xffffffffu, v, LANES * ROWS);
            v = silu(gate) * v;
        }
        const int64_t at = out + (p.paired ? j / 2 : j) * ROUNDED_WARPS;
        if (lane % LANES == 0 && j < left && row < p.rows && (!p.paired || j % 2)) {
            float *y = m.y + row * m.y_stride + at;
            v = m.bias ? v + m.bias[at] : v;
            v = p.gate ? v / (1.0f + expf(-p.gate[row])) : v;
            *y = p.add ? *y + v : v;
        }
        out += (p.paired ? R / 2 : R) * ROUNDED_WARPS;
    }
};

/* Rounds the block's rows, normed if they are to be. norm: the weights of this thread's first eight values, which were asked for early. */
template <int ROWS> __device__ static inline void take_rows(const products &p, const float norm[8], rounded_rows to) {
    enum { WARPS_EACH = ROUNDED_WARPS / ROWS, LANES = WARPS_EACH * WARP };
    __shared__ float partial[ROUNDED_WARPS];
    const int r = (int)threadIdx.x / LANES, own = (int)threadIdx.x % LANES * 8, row = first_row<ROWS>() + r, last = (to.width - 1) / (LANES * 8);
    const int64_t n = row < p.rows ? p.width : 0;
    const float *x = p.x + row * p.x_stride;
    float v[8], sum = 0, scale = 1;
    for (int piece = 0; piece <= last; piece++) {
        load_8(x, own + piece * LANES * 8, n, v);
        UNROLL
        for (int i = 0; i < 8; i++) {
            sum += v[i] * v[i];
        }
    }
    if (p.norm) {
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) {
            partial[threadIdx.x / WARP] = sum;
        }
        __syncthreads();
        sum = 0;
        for (int i = 0; i < WARPS_EACH; i++) {
            sum += partial[r * WARPS_EACH + i];
        }
        scale = 1.0f / sqrtf(sum / (float)p.width + p.eps);
    }
    for (int piece = last; piece >= 0; piece--) { /* the last one is still there */
        const int at = own + piece * LANES * 8;
        if (piece < last) {
            load_8(x, at, n, v);
        }
        if (p.norm) {
            float weight[8];
            UNROLL
            for (int i = 0; i < 8; i++) {
                weight[i] = norm[i];
            }
            if (piece > 0) {
                load_8(p.norm, at, p.width, weight);
            }
            UNROLL
            for (int i = 0; i < 8; i++) {
                v[i] = weight[i] * (v[i] * scale);
            }
        }
        if (p.normed && blockIdx.x == 0) {
            UNROLL
            for (int i = 0; i < 8; i++) {
                if (at + i < n) {
                    p.normed[row * p.width + at + i] = v[i];
                }
            }
        }
        if (at - (int)threadIdx.x % WARP * 8 < to.width) { /* the same of a warp */
            round_eight(to, to.row(r), at, v);
        }
    }
    __syncthreads();
}

template <class Format, int ROWS, int R, int P> __device__ static inline void products_of_block(const products &p, int k, rounded_rows rounded) {
    const product &m = p.of[k];
    const warp_outs outs = outs_of((int)blockIdx.x - (k ? p.of[k - 1].end_block : 0), p.each, m.outs);
    const int count = p.paired ? 2 * outs.count : outs.count;
    product_rows<ROWS, R> rows = {p, m, m.w.data + outs.first * m.w.stride, p.of[1].w.data + outs.first * m.w.stride, outs.first};
    row_stream<Format, ROWS, R, P> stream;
    stream.begin(rows, count, m.w.width);
    const int own = (int)threadIdx.x % (ROUNDED_THREADS / ROWS) * 8;
    float norm[8] = {};
    if (p.norm) {
        load_8(p.norm, own, p.width, norm);
    }
    wait_for_inputs();
    take_rows<ROWS>(p, norm, rounded);
    stream.run(rows, count, rounded);
}

template <int ROWS, int R, int P> __global__ static void __launch_bounds__(ROUNDED_THREADS, ROWS > 2 ? 1 : 2) products_kernel(products p) {
    DYNAMIC_SHARED(memory);
    const rounded_rows rounded = {memory, (int)p.of[0].w.width};
    int k = 0;
    while ((int)blockIdx.x >= p.of[k].end_block) {
        k++;
    }
    let_next_begin();
    switch (p.of[k].type) {
    case DTYPE_Q8_0:
        return products_of_block<rounded_q8_0, ROWS, R, P>(p, k, rounded);
    case DTYPE_Q4_K:
        return products_of_block<rounded_q4_k, ROWS, R, P>(p, k, rounded);
    case DTYPE_Q5_K:
        return products_of_block<rounded_q5_k, ROWS, R, P>(p, k, rounded);
    default:
        return products_of_block<rounded_q6_k, ROWS, R, P>(p, k, rounded);
    }
}

void products_run(cuda_backend *c, const char *what, products p) {
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
    const bool is_short = p.of[0].w.width <= SHORT_WIDTH, several = p.each * (p.paired ? 2 : 1) > 2;
    const auto start = [&](int rows, auto kernel) {
        launch_chained(c, what, kernel, dim3((unsigned)blocks, blocks_for(p.rows, rows)), ROUNDED_THREADS,
                       (size_t)rows * rounded_rows::bytes(p.of[0].w.width), p);
    };
    if (p.rows == 1 && is_short) {
        start(1, several ? products_kernel<1, 4, 1> : products_kernel<1, 2, 1>);
    } else if (p.rows == 1) {
        start(1, products_kernel<1, 2, 2>);
    } else if (p.rows == 2) {
        start(2, is_short ? products_kernel<2, 2, 1> : products_kernel<2, 2, 2>);
    } else if (p.rows <= 4) {
        start(4, products_kernel<4, 2, 1>);
    } else {
        start(FEW_ROWS, products_kernel<FEW_ROWS, 2, 1>);
    }
}
