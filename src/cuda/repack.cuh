/* How stored rows lie on the card (repack.cu). */
#ifndef OMNI_CUDA_REPACK_CUH
#define OMNI_CUDA_REPACK_CUH

#include "cuda/formats.cuh"

/* Bytes of a row of width values on the card. */
size_t repacked_row_bytes(dtype type, int64_t width);

/* Rows as a file has them, already on the card, to where they stay. */
void repack(cuda_backend *c, dtype type, const char *from, int64_t rows, int64_t width, char *to);

#endif
