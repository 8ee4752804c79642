/* Linear maps. */
#include "cuda/linear.cuh"

static void linear(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride) {
    const weight_rows stored = rows_of(w);
    const int64_t outs = tensor_rows(w);
    for (int64_t at = 0; at < rows; at += (int64_t)MOST_TILES * TILE) {
        const int64_t part = rows - at < (int64_t)MOST_TILES * TILE ? rows - at : (int64_t)MOST_TILES * TILE;
        with_format(w->type, product_call<plain_input>{cuda_of(b), "linear", stored, w->ne[0], outs, bias, plain_input{x + at * x_stride, x_stride},
                                                       part, y + at * y_stride, y_stride});
    }
}

void cuda_linear_ops(ops *o) {
    o->linear = linear;
}
