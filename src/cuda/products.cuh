/* Products of the same few rows with up to three quantised matrices, in one launch (products.cu). */
#ifndef OMNI_CUDA_PRODUCTS_CUH
#define OMNI_CUDA_PRODUCTS_CUH

#include "cuda/linear.cuh"
#include "cuda/rounded.cuh"

struct product {
    weight_rows w;
    dtype type;
    int64_t outs;
    float *y;          /* [rows, outs], a row every y_stride values */
    const float *bias; /* [outs]; NULL: none */
    int64_t y_stride;
    int end_block; /* blocks [that of the product before, end_block) compute it */
};

struct products {
    enum { MOST = 3 };
    const float *x; /* [rows, width], a row every x_stride values */
    int64_t width, x_stride;
    int rows, count;
    const float *norm; /* [width] rows are normed first; NULL: not */
    float eps;
    float *normed;     /* [rows, width] receives the normed rows; NULL: nobody wants them */
    bool paired;       /* of[0].y = silu(of[0]) * of[1]: both of one type and number of outputs */
    bool add;          /* results are added to what y holds */
    const float *gate; /* [rows] results are multiplied with sigmoid(gate); NULL: they are not */
    int each;          /* outputs of a warp */
    product of[MOST];
};

/* Whether w can be one of the matrices for so many rows of width values. */
static inline bool products_fit(const tensor *w, int64_t rows, int64_t width) {
    return is_rounded(w->type) && rows > 0 && w->ne[0] == width && tensor_rows(w) >= LEAST_ROUNDED_OUTPUTS &&
           FEW_ROWS * rounded_rows::bytes(rows_of(w).width) <= MOST_ROUNDED_BYTES;
}

/* No matrix yet, and nothing done but the products. */
static inline products products_of(const float *x, int64_t width, int64_t rows) {
    products p = {};
    p.x = x;
    p.width = p.x_stride = width;
    p.rows = (int)rows;
    return p;
}

static inline void products_add(products *p, const tensor *w, float *y) {
    p->of[p->count++] = product{rows_of(w), w->type, tensor_rows(w), y, NULL, tensor_rows(w), 0};
}

/* what: a name for errors. More than FEW_ROWS rows go in groups of as many. */
void products_run(cuda_backend *c, const char *what, products p);

#endif
