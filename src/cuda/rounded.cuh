/* Products of few rows with quantised matrices, in whole numbers. Inputs are rounded to int8 with a scale for every 32, as the CPU's packed kernels
 * do (cpu/packed.h); sums over 16 inputs are exact, those of sums float32.
 *
 * A format has SCALED, the inputs that share scale and min, and segments(row, width, c): the values [32 * c, 32 * c + 32) of a stored row, or as many
 * that lie near each other, as two segments of 16 consecutive ones; each value is scale * q - min. */
#ifndef OMNI_CUDA_ROUNDED_CUH
#define OMNI_CUDA_ROUNDED_CUH

#include "cuda/formats.cuh"

/* Inputs all smaller count as zero, as on the CPU. */
#define ROUNDED_LEAST 1e-30f

enum { ROUNDED_THREADS = 256, ROUNDED_WARPS = ROUNDED_THREADS / WARP, MOST_ROUNDED_BYTES = 48 << 10, LEAST_ROUNDED_OUTPUTS = 8 };

struct segment_pair {
    int q[2][4]; /* four int8 each */
    float scale[2], min[2];
    int at[2]; /* the first value's place in the row */
};

__device__ static inline uint4 load_16(const void *p) {
    return *(const uint4 *)p;
}

/* Bits [shift, shift + 4) of each byte. */
__device__ static inline uint32_t nibbles(uint32_t x, int shift) {
    return x >> shift & 0x0f0f0f0fu;
}

__device__ static inline float low_half(uint32_t x) {
    return half_bits_to_float((uint16_t)x);
}

struct rounded_q8_0 {
    enum { SCALED = 32 };
    __device__ static segment_pair segments(const char *row, int64_t width, int64_t c) {
        const uint4 a = load_16(row + 32 * c), b = load_16(row + 32 * c + 16);
        const float d = half_bits_to_float(*(const uint16_t *)(const void *)(row + width + 2 * c));
        const int at = (int)(32 * c);
        return {{{(int)a.x, (int)a.y, (int)a.z, (int)a.w}, {(int)b.x, (int)b.y, (int)b.z, (int)b.w}}, {d, d}, {0, 0}, {at, at + 16}};
    }
};

/* Scale and minimum of group g from the 12 bytes of a Q4_K or Q5_K block, as three words (tensor/blocks.h). */
__device__ static inline void group_scale_min(uint4 head, int g, float *scale, float *min) {
    const int shift = 8 * (g & 3);
    const uint32_t s = head.y >> shift, m = head.z >> shift, both = head.w >> shift;
    *scale = (float)(g < 4 ? s & 63 : (both & 15) | (s >> 6 & 3) << 4) * low_half(head.x);
    *min = (float)(g < 4 ? m & 63 : (both >> 4 & 15) | (m >> 6 & 3) << 4) * low_half(head.x >> 16);
}

/* Chunk k of a Q4_K or Q5_K block that begins at value `first`: its two segments are of the groups 2 * (k / 2) and the next one, whose codes are the
 * low and the high nibbles of 16 bytes. */
__device__ static inline segment_pair nibble_pair(uint4 head, uint4 codes, int first, int k) {
    const int group = k / 2 * 2, at = first + 32 * group + 16 * (k & 1);
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    segment_pair p = {{}, {}, {}, {at, at + 32}};
    for (int i = 0; i < 4; i++) {
        p.q[0][i] = (int)nibbles(words[i], 0);
        p.q[1][i] = (int)nibbles(words[i], 4);
    }
    group_scale_min(head, group, &p.scale[0], &p.min[0]);
    group_scale_min(head, group + 1, &p.scale[1], &p.min[1]);
    return p;
}

struct rounded_q4_k {
    enum { SCALED = 32 };
    __device__ static segment_pair segments(const char *row, int64_t width, int64_t c) {
        const char *b = row + c / 8 * (int64_t)sizeof(block_q4_k);
        const int k = (int)(c % 8);
        return nibble_pair(load_16(b), load_16(b + 16 + 16 * k), (int)(c / 8) * QK_K, k);
    }
};

struct rounded_q5_k {
    enum { SCALED = 32 };
    __device__ static segment_pair segments(const char *row, int64_t width, int64_t c) {
        const char *b = row + c / 8 * (int64_t)sizeof(block_q5_k);
        const int k = (int)(c % 8), group = k / 2 * 2;
        const uint4 h = load_16(b + 16 + 16 * (k & 1));
        const uint32_t high[4] = {h.x, h.y, h.z, h.w};
        segment_pair p = nibble_pair(load_16(b), load_16(b + 48 + 16 * k), (int)(c / 8) * QK_K, k);
        for (int i = 0; i < 4; i++) { /* the fifth bit of group g is bit g */
            p.q[0][i] |= (int)((high[i] >> group & 0x01010101u) << 4);
            p.q[1][i] |= (int)((high[i] >> (group + 1) & 0x01010101u) << 4);
        }
        return p;
    }
};

struct rounded_q6_k {
    enum { SCALED = 16 };
    __device__ static segment_pair segments(const char *row, int64_t width, int64_t c) {
        const int64_t blocks = width / QK_K, block = c / 8;
        const int k = (int)(c % 8), half = k / 4, r = k % 4, at = (int)block * QK_K + 128 * half + 16 * r;
        const uint4 v = load_16(row + 128 * block + 16 * k), h = load_16(row + 128 * blocks + 64 * block + 32 * half + 16 * (r & 1));
        const int8_t *scales = (const int8_t *)(row + 192 * blocks + 16 * block);
        const float d = half_bits_to_float(*(const uint16_t *)(const void *)(row + 208 * blocks + 2 * block));
        segment_pair p = {{}, {}, {}, {at, at + 64}};
        const uint32_t words[4] = {v.x, v.y, v.z, v.w}, high[4] = {h.x, h.y, h.z, h.w};
        for (int i = 0; i < 4; i++) {
            p.q[0][i] = (int)(nibbles(words[i], 0) | (high[i] >> r / 2 * 2 & 0x03030303u) << 4);
            p.q[1][i] = (int)(nibbles(words[i], 4) | (high[i] >> (4 + r / 2 * 2) & 0x03030303u) << 4);
        }
        for (int s = 0; s < 2; s++) {
            p.scale[s] = d * (float)scales[8 * half + 4 * s + r];
            p.min[s] = 32 * p.scale[s];
        }
        return p;
    }
};

/* call.run<Format>() for a type that has such products; false, and nothing done, for the others. */
template <class Call> static bool with_rounded(dtype type, const Call &call) {
    switch (type) {
    case DTYPE_Q8_0:
        call.template run<rounded_q8_0>();
        return true;
    case DTYPE_Q4_K:
        call.template run<rounded_q4_k>();
        return true;
    case DTYPE_Q5_K:
        call.template run<rounded_q5_k>();
        return true;
    case DTYPE_Q6_K:
        call.template run<rounded_q6_k>();
        return true;
    default:
        return false;
    }
}

/* Rounded rows, in a block's shared memory or in the card's: of each row its int8 values, a scale for every 32, a sum for every 16. */
struct rounded_rows {
    char *memory;
    int64_t width; /* a multiple of 32 */

    __host__ __device__ static size_t bytes(int64_t width) {
        return (size_t)(width + width / 32 * 4 + width / 16 * 4 + 15) / 16 * 16;
    }
    __device__ char *row(int64_t r) const {
        return memory + (size_t)r * bytes(width);
    }
    __device__ const int *values(int64_t r, int at) const {
        return (const int *)(const void *)(row(r) + at);
    }
    __device__ float *scale(int64_t r, int at) const {
        return (float *)(void *)(row(r) + width) + at / 32;
    }
    __device__ int *sum(int64_t r, int at) const {
        return (int *)(void *)(row(r) + width + width / 32 * 4) + at / 16;
    }
};

__device__ static inline uint32_t warp_max(uint32_t x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, x, distance);
        x = other > x ? other : x;
    }
    return x;
}

/* Row r from the values input(i), i < n, as if zeros followed them. All threads of the block must call it, and then __syncthreads. */
template <class Input> __device__ static inline void round_values(rounded_rows to, int64_t r, int64_t n, Input input) {
    const int lane = threadIdx.x % WARP;
    for (int at = (int)threadIdx.x / WARP * 32; at < to.width; at += ROUNDED_WARPS * 32) {
        const float v = at + lane < n ? input(at + lane) : 0;
        /* As bits the absolute values of floats are in order, infinity and NaN behind the others. */
        const float largest = __uint_as_float(warp_max(__float_as_uint(v) & 0x7fffffffu));
        const bool finite = largest < INFINITY, none = largest < ROUNDED_LEAST;
        const int q = finite && !none ? (int)rintf(v * (127 / largest)) : 0;
        int sum = q;
        for (int distance = 8; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        }
        ((int8_t *)to.row(r))[at + lane] = (int8_t)q;
        if (lane % 16 == 0) {
            *to.sum(r, at + lane) = sum;
        }
        if (lane == 0) {
            *to.scale(r, at) = finite ? none ? 0 : largest / 127 : nanf("");
        }
    }
}

__device__ static inline void round_row(rounded_rows to, int64_t r, const float *x, int64_t n) {
    round_values(to, r, n, [x](int64_t i) { return x[i]; });
}

/* The dot products of one stored row with the first ROWS rounded rows, the same in every lane. */
template <class Format, int ROWS> __device__ static inline void rounded_products(const char *w, rounded_rows x, float *sum) {
    for (int r = 0; r < ROWS; r++) {
        sum[r] = 0;
    }
    for (int64_t c = threadIdx.x % WARP; c < x.width / 32; c += WARP) {
        const segment_pair p = Format::segments(w, x.width, c);
        for (int r = 0; r < ROWS; r++) {
            for (int s = 0; s < 2; s++) {
                const int *v = x.values(r, p.at[s]);
                int dot = 0;
                for (int i = 0; i < 4; i++) {
                    dot = __dp4a(p.q[s][i], v[i], dot);
                }
                sum[r] += *x.scale(r, p.at[s]) * (p.scale[s] * (float)dot - p.min[s] * (float)*x.sum(r, p.at[s]));
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        sum[r] = warp_sum(sum[r]);
    }
}

/* The same for a type that is known only as the kernel runs: one of those of with_rounded. */
template <int ROWS> __device__ static inline void rounded_products_of(dtype type, const char *w, rounded_rows x, float *sum) {
    switch (type) {
    case DTYPE_Q8_0:
        return rounded_products<rounded_q8_0, ROWS>(w, x, sum);
    case DTYPE_Q4_K:
        return rounded_products<rounded_q4_k, ROWS>(w, x, sum);
    case DTYPE_Q5_K:
        return rounded_products<rounded_q5_k, ROWS>(w, x, sum);
    default:
        return rounded_products<rounded_q6_k, ROWS>(w, x, sum);
    }
}

static inline bool is_rounded(dtype type) {
    return type == DTYPE_Q8_0 || type == DTYPE_Q4_K || type == DTYPE_Q5_K || type == DTYPE_Q6_K;
}

/* Blocks that share outputs between them so that rounding the inputs, which each block does for itself, does not outweigh the products. */
static inline unsigned rounded_blocks(const cuda_backend *c, int64_t outs, int64_t parts) {
    const int64_t each = (outs + ROUNDED_WARPS - 1) / ROUNDED_WARPS, most = (4 * c->multiprocessors + parts - 1) / parts;
    return (unsigned)(each < most ? each : most);
}

#endif
