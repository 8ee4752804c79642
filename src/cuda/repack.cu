/* Weights on their way up. Rows of blocks whose bytes lie at odd addresses are taken apart, so that a lane loads 16 bytes of them at once:
 *
 *     Q8_0   qs of all blocks, then d of all blocks
 *     Q6_K   ql of all blocks, qh, scales, d
 *
 * and rows begin at multiples of 16 bytes. The other types stay as the file has them. */
#include "cuda/repack.cuh"

enum { THREADS = 256 };

size_t repacked_row_bytes(dtype type, int64_t width) {
    const size_t bytes = dtype_row_bytes(type, width);
    return repacks(type) ? (bytes + 15) / 16 * 16 : bytes;
}

__device__ static inline void move_bytes(char *to, const char *from, int n) {
    for (int i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

/* A thread a block. */
__global__ static void repack_q8_0_kernel(const char *from, int64_t blocks, int64_t row_blocks, int64_t stride, char *to) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, block = i % row_blocks;
    if (i < blocks) {
        char *row = to + i / row_blocks * stride;
        from += i * (int64_t)sizeof(block_q8_0);
        move_bytes(row + block * QK, from + 2, QK);
        move_bytes(row + row_blocks * QK + block * 2, from, 2);
    }
}

__global__ static void repack_q6_k_kernel(const char *from, int64_t blocks, int64_t row_blocks, int64_t stride, char *to) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, block = i % row_blocks;
    if (i < blocks) {
        char *row = to + i / row_blocks * stride;
        from += i * (int64_t)sizeof(block_q6_k);
        move_bytes(row + block * 128, from, 128);
        move_bytes(row + row_blocks * 128 + block * 64, from + 128, 64);
        move_bytes(row + row_blocks * 192 + block * 16, from + 192, 16);
        move_bytes(row + row_blocks * 208 + block * 2, from + 208, 2);
    }
}

void repack(cuda_backend *c, dtype type, const char *from, int64_t rows, int64_t width, char *to) {
    const int64_t row_blocks = width / dtype_find(type)->block, blocks = rows * row_blocks, stride = (int64_t)repacked_row_bytes(type, width);
    launch(c, "repack", type == DTYPE_Q8_0 ? repack_q8_0_kernel : repack_q6_k_kernel, blocks_for(blocks, THREADS), THREADS, 0, from, blocks,
           row_blocks, stride, to);
}
