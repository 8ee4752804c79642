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

__device__ static inline uint32_t load_4(const void *p) {
    return *(const uint32_t *)p;
}

__device__ static inline uint16_t load_2(const void *p) {
    return *(const uint16_t *)p;
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
    struct stored {
        uint4 first, second;
        uint16_t d;
    };
    __device__ static stored load(const char *row, unsigned width, unsigned c) {
        return {load_16(row + 32 * c), load_16(row + 32 * c + 16), load_2(row + width + 2 * c)};
    }
    __device__ static segment_pair unpack(const stored &s, unsigned c) {
        const uint4 a = s.first, b = s.second;
        const float d = half_bits_to_float(s.d);
        const int at = (int)(32 * c);
        return {{{(int)a.x, (int)a.y, (int)a.z, (int)a.w}, {(int)b.x, (int)b.y, (int)b.z, (int)b.w}}, {d, d}, {0, 0}, {at, at + 16}};
    }
};

/* Byte i of a word. */
__device__ static inline float byte_of(uint32_t x, int i) {
    return (float)(x >> 8 * i & 255);
}

/* Chunk c of Q4_K or Q5_K from its codes: its segments are of the groups 2 * (c / 2) and the next one, whose codes are the low and the high nibbles
 * of 16 bytes. scales: scale, min, scale, min; d: d, dmin. */
__device__ static inline segment_pair nibble_pair(uint4 codes, uint32_t scales, uint32_t d, unsigned c) {
    const int at = (int)(64 * (c / 2) + 16 * (c & 1));
    const float scale = low_half(d), min = low_half(d >> 16);
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    segment_pair p = {
        {}, {scale * byte_of(scales, 0), scale * byte_of(scales, 2)}, {min * byte_of(scales, 1), min * byte_of(scales, 3)}, {at, at + 32}};
    for (int i = 0; i < 4; i++) {
        p.q[0][i] = (int)nibbles(words[i], 0);
        p.q[1][i] = (int)nibbles(words[i], 4);
    }
    return p;
}

struct rounded_q4_k {
    enum { SCALED = 32 };
    struct stored {
        uint4 codes;
        uint32_t scales, d;
    };
    __device__ static stored load(const char *row, unsigned width, unsigned c) {
        const unsigned blocks = width / QK_K;
        return {load_16(row + 16 * c), load_4(row + 128 * blocks + 4 * (c / 2)), load_4(row + 144 * blocks + 4 * (c / 8))};
    }
    __device__ static segment_pair unpack(const stored &s, unsigned c) {
        return nibble_pair(s.codes, s.scales, s.d, c);
    }
};

struct rounded_q5_k {
    enum { SCALED = 32 };
    struct stored {
        uint4 codes, high;
        uint32_t scales, d;
    };
    __device__ static stored load(const char *row, unsigned width, unsigned c) {
        const unsigned blocks = width / QK_K;
        return {load_16(row + 16 * c), load_16(row + 128 * blocks + 32 * (c / 8) + 16 * (c & 1)), load_4(row + 160 * blocks + 4 * (c / 2)),
                load_4(row + 176 * blocks + 4 * (c / 8))};
    }
    __device__ static segment_pair unpack(const stored &s, unsigned c) {
        const unsigned group = c % 8 / 2 * 2;
        const uint32_t high[4] = {s.high.x, s.high.y, s.high.z, s.high.w};
        segment_pair p = nibble_pair(s.codes, s.scales, s.d, c);
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
        uint16_t d, scales;
    };
    __device__ static stored load(const char *row, unsigned width, unsigned c) {
        const unsigned blocks = width / QK_K, half = c / 4; /* of all blocks */
        return {load_16(row + 16 * c), load_16(row + 128 * blocks + 32 * half + 16 * (c & 1)), load_2(row + 208 * blocks + 2 * (c / 8)),
                load_2(row + 192 * blocks + 2 * c)};
    }
    __device__ static segment_pair unpack(const stored &t, unsigned c) {
        const int shift = (int)(c % 4 / 2 * 2), at = (int)(128 * (c / 4) + 16 * (c % 4));
        const float d = low_half(t.d), first = d * (float)(int8_t)t.scales, second = d * (float)(int8_t)(t.scales >> 8);
        const uint32_t words[4] = {t.low.x, t.low.y, t.low.z, t.low.w}, high[4] = {t.high.x, t.high.y, t.high.z, t.high.w};
        segment_pair p = {{}, {first, second}, {32 * first, 32 * second}, {at, at + 64}};
        for (int i = 0; i < 4; i++) {
            const uint32_t bits = high[i] >> shift; /* 0 and 1 of each byte are the first segment's, 4 and 5 the second's */
            p.q[0][i] = (int)(nibbles(words[i], 0) | (bits << 4 & 0x30303030u));
            p.q[1][i] = (int)(nibbles(words[i], 4) | (bits & 0x30303030u));
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

/* Rounded rows, in a block's shared memory or in the card's: of each row its int8 values, and for every 16 their scale and scale times their sum. */
struct rounded_rows {
    char *memory;
    int width; /* a multiple of 32 */

    __host__ __device__ static size_t bytes(int64_t width) {
        return (size_t)(width + width / 16 * (int64_t)sizeof(float2) + 15) / 16 * 16;
    }
    __device__ char *row(int64_t r) const {
        return memory + (size_t)r * bytes(width);
    }
    /* Of the row that lies at p. */
    __device__ static uint4 values(const char *p, int at) {
        return load_16(p + at);
    }
    __device__ float2 *scale(char *p, int at) const {
        return (float2 *)(void *)(p + width) + at / 16;
    }
    __device__ float2 scale_of(const char *p, int at) const {
        return ((const float2 *)(const void *)(p + width))[(unsigned)at / 16];
    }
};

__device__ static inline uint32_t largest_of(uint32_t x, uint32_t y) {
    return x > y ? x : y;
}

/* The first `rows` rows from the values input(row, at, v), which gives those of [at, at + 8). A thread rounds eight, four threads what has a scale.
 * All threads of the block must call it, and then __syncthreads. */
template <class Input> __device__ static inline void round_values(rounded_rows to, int rows, Input input) {
    const int each = to.width / 8, pieces = rows * each;
    for (int first = 0; first < pieces; first += (int)blockDim.x) {
        const int piece = first + (int)threadIdx.x, r = rows == 1 ? 0 : piece / each, at = (piece - r * each) * 8;
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
            const int q = factor > 0 ? __float2int_rn(v[i] * factor) : 0;
            words[i / 4] |= (uint32_t)(q & 255) << 8 * (i % 4);
            sum += q;
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        if (piece >= pieces) {
            continue;
        }
        *(uint2 *)(void *)(to.row(r) + at) = uint2{words[0], words[1]};
        if (at % 16 == 0) {
            const float scale = finite ? none ? 0 : largest / 127 : nanf("");
            *to.scale(to.row(r), at) = float2{scale, scale * (float)sum};
        }
    }
}

/* Row r of n values at x + r * stride. */
__device__ static inline void round_rows_of(rounded_rows to, int rows, const float *x, int64_t stride, int64_t n) {
    round_values(to, rows, [x, stride, n](int r, int at, float *v) { load_8(x + r * stride, at, n, v); });
}

/* Dot products of stored rows with rounded ones, by a warp. It takes R stored rows at a time and of each P chunks a lane, which are loaded while
 * those before are multiplied.
 *
 * Rows says which: point(at, left) gives the places of the next R stored rows, of which `left` exist; inputs(r) is where the ROWS rounded rows lie
 * that the r-th of those being multiplied belongs to; done(sum, left) takes this lane's part of their products, whose sums over the lanes are what is
 * looked for. begin reads nothing but weights, and what point reads. */
template <class Format, int ROWS, int R, int P> struct row_stream {
    enum { TOGETHER = R };
    typename Format::stored coming[R * P];
    const char *at[R];
    int left, first; /* rows to load, those of `at` included, and the first chunk of the next load */
    int width;

    __device__ void load(int r, int p) {
        const int c = first + (int)threadIdx.x % WARP + p * WARP;
        if (r < left && c < width / 32) {
            coming[r * P + p] = Format::load(at[r], (unsigned)width, (unsigned)c);
        }
    }

    template <class Rows> __device__ void begin(Rows &of, int count, int64_t row_width) {
        width = (int)row_width;
        first = 0;
        left = count;
        of.point(at, left);
        UNROLL
        for (int i = 0; i < R * P; i++) {
            load(i / P, i % P);
        }
    }

    template <class Rows> __device__ void run(Rows &of, int count, rounded_rows x) {
        float sum[R][ROWS] = {};
        int c = (int)threadIdx.x % WARP;
        while (count > 0) {
            first += P * WARP;
            if (first >= width / 32) {
                first = 0;
                left -= R;
                of.point(at, left);
            }
            UNROLL
            for (int i = 0; i < R * P; i++) {
                const typename Format::stored now = coming[i];
                load(i / P, i % P);
                if (i / P < count && c + i % P * WARP < width / 32) {
                    add(Format::unpack(now, (unsigned)(c + i % P * WARP)), x, of.inputs(i / P), sum[i / P]);
                }
            }
            c += P * WARP;
            if (first == 0) {
                of.done(sum, count);
                for (int i = 0; i < R * ROWS; i++) {
                    sum[i / ROWS][i % ROWS] = 0;
                }
                c = (int)threadIdx.x % WARP;
                count -= R;
            }
        }
    }

    __device__ static void add(const segment_pair &p, rounded_rows x, const char *inputs, float sum[ROWS]) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const char *from = inputs + r * (int)rounded_rows::bytes(x.width);
            UNROLL
            for (int s = 0; s < 2; s++) {
                const uint4 v = rounded_rows::values(from, p.at[s]);
                const float2 scale = x.scale_of(from, p.at[s]);
                int dot = __dp4a(p.q[s][0], (int)v.x, 0);
                dot = __dp4a(p.q[s][1], (int)v.y, dot);
                dot = __dp4a(p.q[s][2], (int)v.z, dot);
                dot = __dp4a(p.q[s][3], (int)v.w, dot);
                sum[r] += scale.x * p.scale[s] * (float)dot - p.min[s] * scale.y;
            }
        }
    }
};

/* How many: short rows four at a time; fewer where many rounded rows take the registers. */
template <class Format, int ROWS, bool SHORT> using stream_of = row_stream<Format, ROWS, ROWS <= 2 && SHORT ? 4 : 2, ROWS <= 2 && !SHORT ? 2 : 1>;
enum { SHORT_WIDTH = 32 * WARP };

/* The sums over the lanes. */
template <int R, int ROWS> __device__ static inline void sum_over_lanes(float sum[R][ROWS]) {
    UNROLL
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        UNROLL
        for (int i = 0; i < R * ROWS; i++) {
            sum[i / ROWS][i % ROWS] += __shfl_xor_sync(0xffffffffu, sum[i / ROWS][i % ROWS], distance);
        }
    }
}

/* What a warp of a block computes of `outs` outputs, of which each warp has `each`: first, first + ROUNDED_WARPS, ... */
struct warp_outs {
    int64_t first;
    int count;
};

__device__ static inline warp_outs outs_of(int64_t block, int each, int64_t outs) {
    const int64_t first = block * ROUNDED_WARPS * each + threadIdx.x / WARP, left = (outs - first + ROUNDED_WARPS - 1) / ROUNDED_WARPS;
    return {first, left < each ? left < 0 ? 0 : (int)left : each};
}

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
