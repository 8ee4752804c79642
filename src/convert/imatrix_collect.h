/* Adding up the squares of matrices' inputs, for an importance matrix (imatrix.h says how it is stored). */
#ifndef OMNI_CONVERT_IMATRIX_COLLECT_H
#define OMNI_CONVERT_IMATRIX_COLLECT_H

#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"

typedef struct imatrix_collector imatrix_collector;

/* NULL when out of memory. */
imatrix_collector *imatrix_collector_create(void);
void imatrix_collector_free(imatrix_collector *c);

/* The inputs x[row * x_stride .. + w->ne[0]] of one matrix. Slot s of slots reads row index[s] (NULL: s / repeat) and belongs to
 * expert experts[s] (NULL: 0). Tensors that quantisation leaves alone, and the head, whose inputs are too few to go by, are passed
 * over. Fits tensor/ops.h's input_collector. */
void imatrix_collect(void *collector, const tensor *w, const float *x, int64_t slots, int64_t x_stride, int repeat, const int32_t *index,
                     const int32_t *experts);

/* Matrices seen so far. */
size_t imatrix_collected(const imatrix_collector *c);
/* dataset: a name for people; chunks: pieces of it. An error also when memory had run out on the way. */
omni_status imatrix_write(const imatrix_collector *c, const char *path, const char *dataset, uint32_t chunks, uint32_t chunk_size, omni_error *err);

#endif
