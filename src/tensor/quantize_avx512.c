#include "tensor/quantize.h"

#include "tensor/quantize_blocks.h"

bool quantize_row_avx512(dtype type, const float *in, const float *importance, void *out, int64_t n) {
    return quantize_rows(type, in, importance, out, n);
}
