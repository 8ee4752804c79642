/* Linear maps inside other operations (convolutions, experts). */
#ifndef OMNI_CPU_LINEAR_H
#define OMNI_CPU_LINEAR_H

#include "cpu/backend.h"

/* Moves a piece to start at another row and output. */
static inline void linear_move(linear_piece *p, int64_t row, int64_t out) {
    p->w = (const char *)p->w + (size_t)out * p->w_stride;
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

#endif
