/* Linear maps. */
#include "cuda/linear.cuh"
#include "cuda/rounded_tiles.cuh"

/* What a warp computes: outputs first, first + ROUNDED_WARPS, ... */
template <int ROWS> struct linear_rows {
    const char *row;   /* the next one to load */
    int64_t step, out; /* to the row after it; the next output to compute */
    const char *inputs_at;
    const float *bias;
    int rows;
    float *y;
    int64_t y_stride;

    template <int R> __device__ void point(const char *(&at)[R], int) {
        UNROLL
        for (int r = 0; r < R; r++) {
            at[r] = row;
            row += step;
        }
    }
    __device__ const char *inputs(int) const {
        return inputs_at;
    }
    template <int R> __device__ void done(float (&sum)[R][ROWS], int left) {
        const int r = threadIdx.x % WARP; /* the row that this lane stores */
        sum_over_lanes<R, ROWS>(sum);
        UNROLL
        for (int j = 0; j < R; j++) {
            float v = sum[j][0];
            UNROLL
            for (int i = 1; i < ROWS; i++) {
                v = r == i ? sum[j][i] : v;
            }
            if (j < left && r < rows && r < ROWS) {
                y[r * y_stride + out] = v + (bias ? bias[out] : 0);
            }
            out += ROUNDED_WARPS;
        }
    }
};

template <class Format, int ROWS, bool SHORT>
__global__ static void __launch_bounds__(ROUNDED_THREADS, ROWS > 2 ? 1 : 2)
    rounded_kernel(weight_rows w, int64_t n, int64_t outs, int each, const float *bias, const float *x, int64_t x_stride, int rows, float *y,
                   int64_t y_stride) {
    DYNAMIC_SHARED(memory);
    const rounded_rows rounded = {memory, (int)w.width};
    const warp_outs own = outs_of(blockIdx.x, each, outs);
    linear_rows<ROWS> mine = {w.data + own.first * w.stride, ROUNDED_WARPS * w.stride, own.first, memory, bias, rows, y, y_stride};
    stream_of<Format, ROWS, SHORT> stream;
    stream.begin(mine, own.count, w.width);
    let_next_begin();
    wait_for_inputs();
    round_values(rounded, ROWS, [=](int r, int at, float *v) {
        if (r < rows) {
            load_8(x + r * x_stride, at, n, v);
        }
    });
    __syncthreads();
    stream.run(mine, own.count, rounded);
}

struct rounded_call {
    cuda_backend *c;
    weight_rows w;
    int64_t n, outs;
    const float *bias, *x;
    int64_t x_stride, rows;
    float *y;
    int64_t y_stride;

    template <class Format, int ROWS, bool SHORT> void rows_of_them() const {
        const int each = outputs_a_warp(c, outs, 1);
        launch_chained(c, "linear", rounded_kernel<Format, ROWS, SHORT>, blocks_for(outs, ROUNDED_WARPS * each), ROUNDED_THREADS,
                       ROWS * rounded_rows::bytes(w.width), w, n, outs, each, bias, x, x_stride, (int)rows, y, y_stride);
    }

    template <class Format> void run() const {
        if (rows == 1 && w.width <= SHORT_WIDTH) {
            rows_of_them<Format, 1, true>();
        } else if (rows == 1) {
            rows_of_them<Format, 1, false>();
        } else if (rows == 2) {
            rows_of_them<Format, 2, false>();
        } else if (rows <= 4) {
            rows_of_them<Format, 4, false>();
        } else {
            rows_of_them<Format, FEW_ROWS, false>();
        }
    }
};

/* ---- many rows ---- */

struct linear_place {
    weight_rows w;
    int64_t rows;
    const float *bias;
    float *y;
    int64_t y_stride;
    __device__ tile_rows open() const {
        const int64_t first = (int64_t)blockIdx.y * TILE;
        return {w, first, rows - first < TILE ? (int)(rows - first) : (int)TILE};
    }
    __device__ int64_t source(int64_t row) const {
        return row;
    }
    __device__ void store(int64_t row, int64_t out, float v) const {
        y[row * y_stride + out] = v + (bias ? bias[out] : 0);
    }
};

struct tiles_call {
    cuda_backend *c;
    rounded_rows x;
    int64_t outs;
    linear_place place;
    template <class Format> void run() const {
        launch(c, "linear", rounded_tiles_kernel<Format, linear_place>, dim3(blocks_for(outs, TILE_OUTS), blocks_for(place.rows, TILE)),
               ROUNDED_THREADS, 0, x, outs, place);
    }
};

/* A few outputs alone (a gate) cost nothing, and are kept exact as on the CPU. */
static bool rounds(const tensor *w, int64_t outs) {
    return is_rounded(w->type) && outs >= LEAST_ROUNDED_OUTPUTS;
}

static void linear(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride) {
    const weight_rows stored = rows_of(w);
    const int64_t outs = tensor_rows(w);
    cuda_backend *c = cuda_of(b);
    if (rounds(w, outs) && rows > 0 && rows <= FEW_ROWS && FEW_ROWS * rounded_rows::bytes(stored.width) <= MOST_ROUNDED_BYTES) {
        with_rounded(w->type, rounded_call{c, stored, w->ne[0], outs, bias, x, x_stride, rows, y, y_stride});
        return;
    }
    if (rounds(w, outs)) {
        enum { MOST_AT_ONCE = 16384 }; /* rows: what they take while they are rounded is bounded */
        for (int64_t at = 0; at < rows; at += MOST_AT_ONCE) {
            const int64_t part = rows - at < MOST_AT_ONCE ? rows - at : (int64_t)MOST_AT_ONCE;
            const rounded_rows rounded = round_rows(c, x + at * x_stride, part, w->ne[0], x_stride, stored.width);
            if (rounded.memory) {
                with_rounded(w->type, tiles_call{c, rounded, outs, linear_place{stored, part, bias, y + at * y_stride, y_stride}});
            }
        }
        return;
    }
    for (int64_t at = 0; at < rows; at += (int64_t)MOST_TILES * TILE) {
        const int64_t part = rows - at < (int64_t)MOST_TILES * TILE ? rows - at : (int64_t)MOST_TILES * TILE;
        with_format(w->type, product_call<plain_input>{c, "linear", stored, w->ne[0], outs, bias, plain_input{x + at * x_stride, x_stride}, part,
                                                       y + at * y_stride, y_stride});
    }
}

void cuda_linear_ops(ops *o) {
    o->linear = linear;
}
