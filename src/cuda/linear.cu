/* Linear maps. */
#include "cuda/linear.cuh"
#include "cuda/rounded.cuh"

template <class Format, int ROWS>
__global__ static void rounded_kernel(weight_rows w, int64_t n, int64_t outs, const float *bias, const float *x, int64_t x_stride, int64_t rows,
                                      float *y, int64_t y_stride) {
    DYNAMIC_SHARED(memory);
    const rounded_rows rounded = {memory, w.width};
    for (int r = 0; r < ROWS; r++) {
        round_row(rounded, r, x + r * x_stride, r < rows ? n : 0);
    }
    __syncthreads();
    for (int64_t out = (int64_t)blockIdx.x * ROUNDED_WARPS + threadIdx.x / WARP; out < outs; out += (int64_t)gridDim.x * ROUNDED_WARPS) {
        float sum[ROWS];
        rounded_products<Format, ROWS>(w.data + out * w.stride, rounded, sum);
        for (int r = 0; r < ROWS; r++) {
            if (r < rows && threadIdx.x % WARP == 0) {
                y[r * y_stride + out] = sum[r] + (bias ? bias[out] : 0);
            }
        }
    }
}

struct rounded_call {
    cuda_backend *c;
    weight_rows w;
    int64_t n, outs;
    const float *bias, *x;
    int64_t x_stride, rows;
    float *y;
    int64_t y_stride;

    template <class Format, int ROWS> void rows_of_them() const {
        launch(c, "linear", rounded_kernel<Format, ROWS>, rounded_blocks(c, outs, 1), ROUNDED_THREADS, ROWS * rounded_rows::bytes(w.width), w, n,
               outs, bias, x, x_stride, rows, y, y_stride);
    }

    template <class Format> void run() const {
        if (rows == 1) {
            rows_of_them<Format, 1>();
        } else if (rows == 2) {
            rows_of_them<Format, 2>();
        } else if (rows <= 4) {
            rows_of_them<Format, 4>();
        } else {
            rows_of_them<Format, FEW_ROWS>();
        }
    }
};

/* Whether rounding does for so many rows of a matrix. A few outputs alone (a gate) cost nothing, and are kept exact as on the CPU. */
static bool rounds(const weight_rows *w, int64_t outs, int64_t rows) {
    return outs >= LEAST_ROUNDED_OUTPUTS && rows > 0 && rows <= FEW_ROWS && FEW_ROWS * rounded_rows::bytes(w->width) <= MOST_ROUNDED_BYTES;
}

static void linear(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride) {
    const weight_rows stored = rows_of(w);
    const int64_t outs = tensor_rows(w);
    if (rounds(&stored, outs, rows) &&
        with_rounded(w->type, rounded_call{cuda_of(b), stored, w->ne[0], outs, bias, x, x_stride, rows, y, y_stride})) {
        return;
    }
    for (int64_t at = 0; at < rows; at += (int64_t)MOST_TILES * TILE) {
        const int64_t part = rows - at < (int64_t)MOST_TILES * TILE ? rows - at : (int64_t)MOST_TILES * TILE;
        with_format(w->type, product_call<plain_input>{cuda_of(b), "linear", stored, w->ne[0], outs, bias, plain_input{x + at * x_stride, x_stride},
                                                       part, y + at * y_stride, y_stride});
    }
}

void cuda_linear_ops(ops *o) {
    o->linear = linear;
}
