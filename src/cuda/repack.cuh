/* How stored rows lie on the card (repack.cu). */
#ifndef OMNI_CUDA_REPACK_CUH
#define OMNI_CUDA_REPACK_CUH

#include "cuda/device.cuh"

/* Whether rows of a type lie otherwise on the card than in a file. */
static inline bool repacks(dtype type) {
    return type == DTYPE_Q8_0 || type == DTYPE_Q6_K;
}

/* Bytes of a row of width values on the card. */
size_t repacked_row_bytes(dtype type, int64_t width);

/* Rows as a file has them, already on the card, to where they stay. */
void repack(cuda_backend *c, dtype type, const char *from, int64_t rows, int64_t width, char *to);

#endif
