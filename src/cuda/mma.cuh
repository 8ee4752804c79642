/* Products of small matrices by a warp (PTX: mma.sync). Of int8, m16n8k32 and m16n8k16; with g = lane / 4 and t = lane % 4, four int8 a word:
 *
 *     a, 16 rows        a[0]: row g, values 4 t ..;  a[1]: row g + 8;  a[2], a[3]: the same, 16 values on
 *     b, 8 columns      b[0]: column g, values 4 t ..;  b[1]: 16 values on
 *     d, 16 x 8 sums    d[0], d[1]: row g, columns 2 t, 2 t + 1;  d[2], d[3]: row g + 8
 *
 * Of half precision, m16n8k16, two values a word, the first one in the lower half:
 *
 *     a, 16 rows        a[0]: row g, values 2 t, 2 t + 1;  a[1]: row g + 8;  a[2], a[3]: the same, 8 values on
 *     b, 8 columns      b[0]: column g, values 2 t, 2 t + 1;  b[1]: 8 values on
 *     d                 as above
 *
 * All lanes of a warp must call them. */
#ifndef OMNI_CUDA_MMA_CUH
#define OMNI_CUDA_MMA_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#ifndef EMULATED_CUDA

/* d = a b, 32 values deep. */
__device__ static inline void mma_k32(int d[4], const int a[4], const int b[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(0));
}

/* d = a b, 16 values deep: a[0], a[1] and b[0] alone. */
__device__ static inline void mma_k16(int d[4], const int a[2], const int b[1]) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(0));
}

/* d += a b in float32, 16 values deep. */
__device__ static inline void mma_half(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

#endif
