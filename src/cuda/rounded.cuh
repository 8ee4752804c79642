/* Products of few rows with quantised matrices, in whole numbers. Inputs are rounded to int8 with a scale for every 32, as the CPU's packed kernels
 * do (cpu/packed.h); sums over 16 inputs are exact, those of sums float32.
 *
 * A format has SCALED, the inputs that share scale and min; load(row, width, c), the bytes that hold the values [32 * c, 32 * c + 32) of a stored
 * row, or as many that lie near each other; and unpack(stored, c), these values as two segments of 16 consecutive ones, each scale * q - min. */
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

/* Bits [shift, shift + 4) of each byte. */
__device__ static inline uint32_t nibbles(uint32_t x, int shift) {
    return x >> shift & 0x0f0f0f0fu;
}

__device__ static inline float low_half(uint32_t x) {
    return half_bits_to_float((uint16_t)x);
}

struct rounded_q8_0 {
    enum { SCALED = 32 };
    struct stored {
        uint4 first, second;
        uint16_t d;
    };
    __device__ static stored load(const char *row, int64_t width, int c) {
        const char *at = row + 32 * c;
        return {load_16(at), load_16(at + 16), *(const uint16_t *)(const void *)(row + width + 2 * c)};
    }
    __device__ static segment_pair unpack(const stored &s, int c) {
        const uint4 a = s.first, b = s.second;
        const float d = half_bits_to_float(s.d);
        const int at = 32 * c;
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
    struct stored {
        uint4 head, codes;
    };
    __device__ static stored load(const char *row, int64_t width, int c) {
        const char *b = row + c / 8 * (int64_t)sizeof(block_q4_k);
        return {load_16(b), load_16(b + 16 + 16 * (c % 8))};
    }
    __device__ static segment_pair unpack(const stored &s, int c) {
        return nibble_pair(s.head, s.codes, c / 8 * QK_K, c % 8);
    }
};

struct rounded_q5_k {
    enum { SCALED = 32 };
    struct stored {
        uint4 head, high, codes;
    };
    __device__ static stored load(const char *row, int64_t width, int c) {
        const char *b = row + c / 8 * (int64_t)sizeof(block_q5_k);
        return {load_16(b), load_16(b + 16 + 16 * (c & 1)), load_16(b + 48 + 16 * (c % 8))};
    }
    __device__ static segment_pair unpack(const stored &s, int c) {
        const int k = c % 8, group = k / 2 * 2;
        const uint32_t high[4] = {s.high.x, s.high.y, s.high.z, s.high.w};
        segment_pair p = nibble_pair(s.head, s.codes, c / 8 * QK_K, k);
        for (int i = 0; i < 4; i++) { /* the fifth bit of group g is bit g */
            p.q[0][i] |= (int)((high[i] >> group & 0x01010101u) << 4);
            p.q[1][i] |= (int)((high[i] >> (group + 1) & 0x01010101u) << 4);
        }
        return p;
    }
};

struct rounded_q6_k {
    enum { SCALED = 16 };
    struct stored {
        uint4 low, high;
        uint16_t d;
        int8_t scales[2];
    };
    __device__ static stored load(const char *row, int64_t width, int c) {
        const int64_t blocks = width / QK_K, block = c / 8;
        const int k = c % 8, half = k / 4, r = k % 4;
        const int8_t *scales = (const int8_t *)(row + 192 * blocks + 16 * block + 8 * half + r);
        return {load_16(row + 128 * block + 16 * k),
                load_16(row + 128 * blocks + 64 * block + 32 * half + 16 * (r & 1)),
                *(const uint16_t *)(const void *)(row + 208 * blocks + 2 * block),
                {scales[0], scales[4]}};
    }
    __device__ static segment_pair unpack(const stored &t, int c) {
        const int k = c % 8, half = k / 4, r = k % 4, at = c / 8 * QK_K + 128 * half + 16 * r;
        const float d = half_bits_to_float(t.d);
        segment_pair p = {{}, {}, {}, {at, at + 64}};
        const uint32_t words[4] = {t.low.x, t.low.y, t.low.z, t.low.w}, high[4] = {t.high.x, t.high.y, t.high.z, t.high.w};
        for (int i = 0; i < 4; i++) {
            p.q[0][i] = (int)(nibbles(words[i], 0) | (high[i] >> r / 2 * 2 & 0x03030303u) << 4);
            p.q[1][i] = (int)(nibbles(words[i], 4) | (high[i] >> (4 + r / 2 * 2) & 0x03030303u) << 4);
        }
        for (int s = 0; s < 2; s++) {
            p.scale[s] = d * (float)t.scales[s];
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
    __device__ const char *values(int64_t r, int at) const {
        return row(r) + at;
    }
    __device__ float *scale(int64_t r, int at) const {
        return (float *)(void *)(row(r) + width) + at / 32;
    }
    __device__ int *sum(int64_t r, int at) const {
        return (int *)(void *)(row(r) + width + width / 32 * 4) + at / 16;
    }
};

__device__ static inline uint32_t largest_of(uint32_t x, uint32_t y) {
    return x > y ? x : y;
}

/* The first `rows` rows from the values input(row, at, v), which gives those of [at, at + 8). A thread rounds eight, four threads what has a scale.
 * All threads of the block must call it, and then __syncthreads. */
template <class Input> __device__ static inline void round_values(rounded_rows to, int rows, Input input) {
    const int each = (int)to.width / 8, pieces = rows * each;
    for (int first = 0; first < pieces; first += (int)blockDim.x) {
        const int piece = first + (int)threadIdx.x, r = piece / each, at = piece % each * 8;
        if (piece / WARP * WARP >= pieces) {
            return; /* a whole warp */
        }
        float v[8] = {};
        uint32_t bits = 0; /* as bits the absolute values of floats are in order, infinity and NaN behind the others */
        if (piece < pieces) {
            input(r, at, v);
        }
        for (int i = 0; i < 8; i++) {
            bits = largest_of(bits, __float_as_uint(v[i]) & 0x7fffffffu);
        }
        bits = largest_of(bits, __shfl_xor_sync(0xffffffffu, bits, 1));
        bits = largest_of(bits, __shfl_xor_sync(0xffffffffu, bits, 2));
        const float largest = __uint_as_float(bits);
        const bool finite = largest < INFINITY, none = largest < ROUNDED_LEAST;
        const float factor = finite && !none ? 127 / largest : 0;
        uint32_t words[2] = {};
        int sum = 0;
        for (int i = 0; i < 8; i++) {
            const int q = factor > 0 ? (int)rintf(v[i] * factor) : 0;
            words[i / 4] |= (uint32_t)(q & 255) << 8 * (i % 4);
            sum += q;
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        if (piece >= pieces) {
            continue;
        }
        *(uint2 *)(void *)(to.row(r) + at) = uint2{words[0], words[1]};
        if (at % 16 == 0) {
            *to.sum(r, at) = sum;
        }
        if (at % 32 == 0) {
            *to.scale(r, at) = finite ? none ? 0 : largest / 127 : nanf("");
        }
    }
}

/* Row r of n values at x + r * stride. */
__device__ static inline void round_rows_of(rounded_rows to, int rows, const float *x, int64_t stride, int64_t n) {
    round_values(to, rows, [x, stride, n](int r, int at, float *v) { load_8(x + r * stride, at, n, v); });
}

/* Dot products of stored rows with rounded ones, by a warp, with the loads of DEPTH chunks under way.
 *
 * Rows says which: row(j) is where stored row j lies, inputs(j) the first of the ROWS rounded rows that it is multiplied with, and done(j, sum) takes
 * this lane's part of the products: their sums over the lanes are what is looked for. begin reads nothing but weights, and what row(j) reads. */
template <class Format, int ROWS, int DEPTH> struct row_stream {
    typename Format::stored coming[DEPTH];
    int64_t width;
    int chunks, passes;  /* of a row: its chunks, and how often a warp's lanes go over it */
    int row, pass, rows; /* what is loaded next; how many there are */

    template <class Rows> __device__ void load(const Rows &of, int to) {
        const int c = (int)threadIdx.x % WARP + pass * WARP;
        if (row < rows) {
            if (c < chunks) {
                coming[to] = Format::load(of.row(row), width, c);
            }
            if (++pass == passes) {
                pass = 0;
                row++;
            }
        }
    }

    template <class Rows> __device__ void begin(const Rows &of, int count, int64_t row_width) {
        width = row_width;
        chunks = (int)(width / 32);
        passes = (chunks + WARP - 1) / WARP;
        row = pass = 0;
        rows = count;
        UNROLL
        for (int d = 0; d < DEPTH; d++) {
            load(of, d);
        }
    }

    template <class Rows> __device__ void run(Rows &of, rounded_rows x) {
        float sum[ROWS] = {};
        int at = 0, times = 0;
        while (at < rows) {
            UNROLL
            for (int d = 0; d < DEPTH; d++) {
                if (at < rows) {
                    const int c = (int)threadIdx.x % WARP + times * WARP;
                    const typename Format::stored now = coming[d];
                    load(of, d);
                    if (c < chunks) {
                        add(Format::unpack(now, c), x, of.inputs(at), sum);
                    }
                    if (++times == passes) {
                        of.done(at, sum);
                        for (int r = 0; r < ROWS; r++) {
                            sum[r] = 0;
                        }
                        times = 0;
                        at++;
                    }
                }
            }
        }
    }

    __device__ static void add(const segment_pair &p, rounded_rows x, int first, float sum[ROWS]) {
        for (int r = 0; r < ROWS; r++) {
            for (int s = 0; s < 2; s++) {
                const int4 v = *(const int4 *)(const void *)x.values(first + r, p.at[s]);
                int dot = __dp4a(p.q[s][0], v.x, 0);
                dot = __dp4a(p.q[s][1], v.y, dot);
                dot = __dp4a(p.q[s][2], v.z, dot);
                dot = __dp4a(p.q[s][3], v.w, dot);
                sum[r] += *x.scale(first + r, p.at[s]) * (p.scale[s] * (float)dot - p.min[s] * (float)*x.sum(first + r, p.at[s]));
            }
        }
    }
};

/* Chunks under way: fewer where many rows take the registers. */
template <int ROWS> struct stream_depth {
    enum { CHUNKS = ROWS > 2 ? 2 : 4 };
};

static inline bool is_rounded(dtype type) {
    return type == DTYPE_Q8_0 || type == DTYPE_Q4_K || type == DTYPE_Q5_K || type == DTYPE_Q6_K;
}

/* Outputs of a warp, where `groups` blocks of threads each have all of `outs` to compute, so that the launch has about BLOCKS_EACH blocks for every
 * multiprocessor: every block rounds the inputs for itself. */
static inline int outputs_a_warp(const cuda_backend *c, int64_t outs, int64_t groups) {
    enum { BLOCKS_EACH = 2 };
    const int64_t at_once = (int64_t)BLOCKS_EACH * c->multiprocessors * ROUNDED_WARPS;
    const int64_t n = (outs * groups + at_once - 1) / at_once;
    return n < 1 ? 1 : (int)n;
}

#endif
