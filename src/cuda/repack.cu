/* Weights on their way up. Rows of K-quants and Q8_0 are taken apart, so that a lane loads 16 bytes of codes at once, and their scales as they are
 * needed:
 *
 *     Q8_0   qs of all blocks, then d of all blocks
 *     Q4_K   qs of all blocks; of each block the scale and the min of every group, a byte each; d and dmin
 *     Q5_K   qs, qh; scales and mins; d and dmin
 *     Q6_K   ql, qh; scales, in the order in which chunks of 32 values need two of them (rounded.cuh); d
 *
 * and rows begin at multiples of 16 bytes. The other types stay as the file has them. */
#include "cuda/repack.cuh"

enum { THREADS = 256 };

size_t repacked_row_bytes(dtype type, int64_t width) {
    return repacks(type) ? ((size_t)(width / dtype_find(type)->block) * card_block_bytes(type) + 15) / 16 * 16 : dtype_row_bytes(type, width);
}

__device__ static inline void move_bytes(char *to, const char *from, int n) {
    for (int i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

/* The next part of a row, of which each block has n bytes: where those of this block go. */
__device__ static inline char *part_of(char **row, int64_t blocks, int64_t block, int n) {
    char *to = *row + block * n;
    *row += blocks * n;
    return to;
}

__device__ static void repack_block(dtype type, const char *from, char *row, int64_t blocks, int64_t block) {
    if (type == DTYPE_Q8_0) {
        move_bytes(part_of(&row, blocks, block, QK), from + 2, QK);
        move_bytes(part_of(&row, blocks, block, 2), from, 2);
    } else if (type == DTYPE_Q6_K) {
        move_bytes(part_of(&row, blocks, block, 128), from, 128);
        move_bytes(part_of(&row, blocks, block, 64), from + 128, 64);
        char *scales = part_of(&row, blocks, block, 16);
        for (int k = 0; k < 8; k++) {
            scales[2 * k] = from[192 + k / 4 * 8 + k % 4];
            scales[2 * k + 1] = from[192 + k / 4 * 8 + 4 + k % 4];
        }
        move_bytes(part_of(&row, blocks, block, 2), from + 208, 2);
    } else {
        const int high = type == DTYPE_Q5_K ? 32 : 0;
        move_bytes(part_of(&row, blocks, block, 128), from + 16 + high, 128);
        move_bytes(part_of(&row, blocks, block, high), from + 16, high);
        char *scales = part_of(&row, blocks, block, 16);
        for (int k = 0; k < 8; k++) {
            uint8_t scale, min;
            scale_and_min((const uint8_t *)from + 4, k, &scale, &min);
            scales[2 * k] = (char)scale;
            scales[2 * k + 1] = (char)min;
        }
        move_bytes(part_of(&row, blocks, block, 4), from, 4);
    }
}

/* A thread a block. */
__global__ static void repack_kernel(dtype type, const char *from, int64_t block_bytes, int64_t blocks, int64_t row_blocks, int64_t stride,
                                     char *to) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < blocks) {
        repack_block(type, from + i * block_bytes, to + i / row_blocks * stride, row_blocks, i % row_blocks);
    }
}

void repack(cuda_backend *c, dtype type, const char *from, int64_t rows, int64_t width, char *to) {
    const dtype_info *info = dtype_find(type);
    const int64_t row_blocks = width / info->block, blocks = rows * row_blocks;
    launch(c, "repack", repack_kernel, blocks_for(blocks, THREADS), THREADS, 0, type, from, (int64_t)info->bytes, blocks, row_blocks,
           (int64_t)repacked_row_bytes(type, width), to);
}
