/* Products of rows with stored matrices, for linear.cu, conv.cu and moe.cu.
 *
 *     y[r, o] = bias[o] + sum over i < n of input(r, i) * w[o, i]
 *
 * An input says where the values of row r lie: an object with float operator()(int64_t r, int64_t i), i < n, and FEW: whether few rows of it have
 * kernels of their own. Few rows: a warp an output, so the weights, which are what such a product waits for, are read once, spread over all
 * multiprocessors. Many rows: tiles of outputs and rows in shared memory. */
#ifndef OMNI_CUDA_LINEAR_CUH
#define OMNI_CUDA_LINEAR_CUH

#include "cuda/formats.cuh"

enum { FEW_ROWS = 8, OUTPUTS_A_BLOCK = 8, TILE = 64, TILE_DEPTH = 32, TILE_THREADS = 256 };

struct plain_input {
    enum { FEW = true };
    const float *x;
    int64_t stride;
    __device__ float operator()(int64_t row, int64_t i) const {
        return x[row * stride + i];
    }
};

/* The dot products of one output's weights, stored width values long, with ROWS rows of the input, of which `rows` exist; the same in every lane. */
template <class Format, int ROWS, class Input>
__device__ static inline void warp_products(const char *w, int64_t width, int64_t n, Input input, int64_t first_row, int rows, float *sum) {
    const int lane = threadIdx.x % WARP;
    for (int r = 0; r < ROWS; r++) {
        sum[r] = 0;
    }
    for (int64_t g = lane; g * Format::GROUP < n; g += WARP) {
        float v[Format::GROUP];
        Format::load(w, g, v, width);
        const int64_t at = g * Format::GROUP;
        const int count = n - at < Format::GROUP ? (int)(n - at) : Format::GROUP;
        for (int r = 0; r < ROWS; r++) {
            if (r < rows) {
                for (int i = 0; i < Format::GROUP; i++) {
                    sum[r] += i < count ? v[i] * input(first_row + r, at + i) : 0;
                }
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        sum[r] = warp_sum(sum[r]);
    }
}

/* grid: outputs, groups of ROWS rows. */
template <class Format, int ROWS, class Input>
__global__ static void few_rows_kernel(weight_rows w, int64_t n, int64_t outs, const float *bias, Input input, int64_t rows, float *y,
                                       int64_t y_stride) {
    const int64_t out = (int64_t)blockIdx.x * OUTPUTS_A_BLOCK + threadIdx.x / WARP, first = (int64_t)blockIdx.y * ROWS;
    if (out >= outs) {
        return; /* a whole warp */
    }
    const int count = rows - first < ROWS ? (int)(rows - first) : ROWS;
    float sum[ROWS];
    warp_products<Format, ROWS>(w.data + out * w.stride, w.width, n, input, first, count, sum);
    if (threadIdx.x % WARP == 0) {
        for (int r = 0; r < ROWS; r++) {
            if (r < count) {
                y[(first + r) * y_stride + out] = sum[r] + (bias ? bias[out] : 0);
            }
        }
    }
}

/* Sums of a tile of TILE outputs x TILE rows, of which `outs` and `rows` exist: a thread has those of outputs 4 * (thread % 16) + 0..3 and rows
 * 4 * (thread / 16) + 0..3. All threads of the block must call it. */
template <class Format, class Input>
__device__ static inline void tile_products(weight_rows w, int64_t first_out, int64_t outs, int64_t n, Input input, int64_t first_row, int64_t rows,
                                            float sum[4][4]) {
    __shared__ float weights[TILE_DEPTH][TILE + 1], inputs[TILE_DEPTH][TILE + 1];
    enum { GROUPS = TILE_DEPTH / Format::GROUP };
    const int thread = (int)threadIdx.x, out = thread % 16 * 4, row = thread / 16 * 4;
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            sum[a][b] = 0;
        }
    }
    for (int64_t depth = 0; depth < n; depth += TILE_DEPTH) {
        for (int k = thread; k < TILE * GROUPS; k += TILE_THREADS) {
            const int o = k / GROUPS, g = k % GROUPS;
            float v[Format::GROUP] = {};
            if (o < outs && depth + g * Format::GROUP < n) {
                Format::load(w.data + (first_out + o) * w.stride, depth / Format::GROUP + g, v, w.width);
            }
            for (int i = 0; i < Format::GROUP; i++) {
                weights[g * Format::GROUP + i][o] = v[i];
            }
        }
        for (int k = thread; k < TILE * TILE_DEPTH; k += TILE_THREADS) {
            const int r = k / TILE_DEPTH, i = k % TILE_DEPTH;
            inputs[i][r] = r < rows && depth + i < n ? input(first_row + r, depth + i) : 0;
        }
        __syncthreads();
        for (int i = 0; i < TILE_DEPTH; i++) {
            for (int a = 0; a < 4; a++) {
                for (int b = 0; b < 4; b++) {
                    sum[a][b] += inputs[i][row + a] * weights[i][out + b];
                }
            }
        }
        __syncthreads();
    }
}

template <class Format, class Input>
__global__ static void many_rows_kernel(weight_rows w, int64_t n, int64_t outs, const float *bias, Input input, int64_t rows, float *y,
                                        int64_t y_stride) {
    const int64_t first_out = (int64_t)blockIdx.x * TILE, first_row = (int64_t)blockIdx.y * TILE;
    const int out = threadIdx.x % 16 * 4, row = threadIdx.x / 16 * 4;
    float sum[4][4];
    tile_products<Format>(w, first_out, outs - first_out, n, input, first_row, rows - first_row, sum);
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            const int64_t o = first_out + out + b, r = first_row + row + a;
            if (o < outs && r < rows) {
                y[r * y_stride + o] = sum[a][b] + (bias ? bias[o] : 0);
            }
        }
    }
}

enum { MOST_TILES = 65535 }; /* of rows in one launch: a grid's limit */

template <class Input> struct product_call {
    cuda_backend *c;
    const char *what;
    weight_rows w;
    int64_t n, outs;
    const float *bias;
    Input input;
    int64_t rows;
    float *y;
    int64_t y_stride;

    template <class Format, int ROWS> void few() const {
        if constexpr (Input::FEW) {
            launch(c, what, few_rows_kernel<Format, ROWS, Input>, dim3(blocks_for(outs, OUTPUTS_A_BLOCK), blocks_for(rows, ROWS)),
                   OUTPUTS_A_BLOCK * WARP, 0, w, n, outs, bias, input, rows, y, y_stride);
        }
    }

    template <class Format> void run() const {
        if (rows <= 0) {
            return;
        }
        if (rows == 1 && Input::FEW) {
            few<Format, 1>();
        } else if (rows == 2 && Input::FEW) {
            few<Format, 2>();
        } else if (rows <= 4 && Input::FEW) {
            few<Format, 4>();
        } else if (Input::FEW && (rows <= FEW_ROWS || (int64_t)blocks_for(outs, TILE) * blocks_for(rows, TILE) < c->multiprocessors)) {
            few<Format, FEW_ROWS>(); /* tiles would leave most of the card idle */
        } else {
            launch(c, what, many_rows_kernel<Format, Input>, dim3(blocks_for(outs, TILE), blocks_for(rows, TILE)), TILE_THREADS, 0, w, n, outs, bias,
                   input, rows, y, y_stride);
        }
    }
};

#endif
