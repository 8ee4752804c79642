/* Values that are no numbers to compute with. */
#ifndef OMNI_TENSOR_FINITE_H
#define OMNI_TENSOR_FINITE_H

#include <stdint.h>

#include "tensor/tensor.h"

/* The first of n values, stored as type at any address, that is NaN or infinite; -1 when all are finite, or of a type without such values.
 * n is a multiple of the block. As fast as the memory: of blocks, only the scales are read. */
int64_t find_not_finite(dtype type, const void *in, int64_t n);

#endif
