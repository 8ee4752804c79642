/* Linear maps inside other operations (convolutions, experts). */
#ifndef OMNI_CPU_LINEAR_H
#define OMNI_CPU_LINEAR_H

#include "cpu/backend.h"

/* A piece over a matrix of n inputs, packed or not, in one segment; x and y to be filled in. */
static inline linear_piece linear_of(const tensor *w, int64_t n) {
    const size_t stride = w->packed ? packed_group_bytes(w->type, n) : dtype_row_bytes(w->type, n);
    return (linear_piece){.w = w->data, .w_stride = stride, .packed = w->packed, .n = n, .segments = 1};
}

/* Moves a piece to start at another row and output; of packed weights, one that a group begins with. */
static inline void linear_move(linear_piece *p, int64_t row, int64_t out) {
    p->w = (const char *)p->w + (size_t)(p->packed ? out / PACK : out) * p->w_stride;
    p->bias = p->bias ? p->bias + out : NULL;
    if (p->index) {
        p->index += row;
    } else {
        p->x += row * p->x_stride;
    }
    p->y += row * p->y_stride + out;
}

/* One piece on the calling thread; uses the first half of the thread's scratch. */
void linear_run(const cpu_backend *c, dtype type, const linear_piece *p, int64_t rows, int64_t outs, int thread);
/* The whole of p[rows, outs] on the pool. */
void linear_parallel(const cpu_backend *c, dtype type, const linear_piece *p, int64_t rows, int64_t outs);

/* As linear_move; out is a multiple of PACK. */
static inline void packed_move(packed_piece *p, int64_t row, int64_t out) {
    p->w = (const char *)p->w + (size_t)(out / PACK) * p->w_stride;
    p->bias = p->bias ? p->bias + out : NULL;
    if (p->index) {
        p->index += row;
    } else {
        p->x += row * p->x_stride;
    }
    p->y += row * p->y_stride + out;
}

/* Outputs a tile of packed weights: enough work to be worth handing out, a multiple of 32. */
int64_t packed_out_tile(const cpu_backend *c, dtype type, int64_t n, int64_t rows);
/* linear over packed weights of a block type. */
void packed_linear(const cpu_backend *c, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y,
                   int64_t y_stride);
/* conv1d over packed weights of a block type, as weights_place_rounded makes them: every tap's channels are whole blocks, zeros behind. */
void packed_conv1d(const cpu_backend *c, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y);

#endif
