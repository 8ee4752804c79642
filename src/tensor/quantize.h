/* Quantisation of rows: float32 to the block formats, with the least squared error that a short search finds. */
#ifndef OMNI_TENSOR_QUANTIZE_H
#define OMNI_TENSOR_QUANTIZE_H

#include "tensor/tensor.h"

/* n values (a multiple of the block) as Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K. importance[n]: the weight of each column's squared error,
 * NULL for all alike; a column without importance (zero, negative or NaN) still gets a thousandth of the mean. A block with a NaN or an
 * infinity reads back as NaN. False, and nothing done, for other types. The result depends on the input only. */
bool quantize_row(dtype type, const float *in, const float *importance, void *out, int64_t n);

/* The same code for particular instructions; quantize_row takes the best that the processor has. */
bool quantize_row_generic(dtype type, const float *in, const float *importance, void *out, int64_t n);
#if defined(__x86_64__)
bool quantize_row_avx2(dtype type, const float *in, const float *importance, void *out, int64_t n);
bool quantize_row_avx512(dtype type, const float *in, const float *importance, void *out, int64_t n);
#endif

#endif
