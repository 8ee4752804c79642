/* Linear maps. */
#include "cuda/products.cuh"
#include "cuda/rounded_tiles.cuh"

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
    if (rows <= FEW_ROWS && products_fit(w, rows, w->ne[0])) {
        products p = products_of(x, w->ne[0], rows);
        p.x_stride = x_stride;
        products_add(&p, w, y);
        p.of[0].bias = bias;
        p.of[0].y_stride = y_stride;
        products_run(c, "linear", p);
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
