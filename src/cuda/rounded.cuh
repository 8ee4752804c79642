/* Products of few rows with quantised matrices, in whole numbers. Inputs are rounded to int8 with a scale for every 32, as the CPU's packed kernels
 * do (cpu/packed.h); sums over 16 inputs are exact, those of sums float32.
 *
 * A stored row is read in chunks of 32 values, as two segments of 16 consecutive ones, each scale * q - min; segments lie APART values from each
 * other, the first at first(c). A format has SCALED, the inputs that share scale and min; places_of(width,
 * c), where what is stored of chunk c begins in a row; load(row, places, k), the bytes of chunk c + WARP * k; and unpack(stored, c), its values. All
 * loads of a lane lie at fixed distances from its places. */
#ifndef OMNI_CUDA_ROUNDED_CUH
#define OMNI_CUDA_ROUNDED_CUH

#include "cuda/formats.cuh"

/* Inputs all smaller count as zero, as on the CPU. */
#define ROUNDED_LEAST 1e-30f

enum { ROUNDED_THREADS = 256, ROUNDED_WARPS = ROUNDED_THREADS / WARP, MOST_ROUNDED_BYTES = 48 << 10, LEAST_ROUNDED_OUTPUTS = 8 };

struct segment_pair {
    int q[2][4]; /* four int8 each */
    float scale[2], min[2];
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
    enum { SCALED = 32, APART = 16, HAS_MIN = false };
    struct places {
        unsigned qs, d;
    };
    struct stored {
        uint4 first, second;
        uint16_t d;
    };
    __device__ static int first(unsigned c) {
        return (int)(32 * c);
    }
    __device__ static places places_of(unsigned width, unsigned c) {
        return {32 * c, width + 2 * c};
    }
    __device__ static stored load(const char *row, places at, unsigned k) {
        return {load_16(row + at.qs + 1024 * k), load_16(row + at.qs + 1024 * k + 16), load_2(row + at.d + 64 * k)};
    }
    __device__ static segment_pair unpack(const stored &s, unsigned) {
        const uint4 a = s.first, b = s.second;
        const float d = half_bits_to_float(s.d);
        return {{{(int)a.x, (int)a.y, (int)a.z, (int)a.w}, {(int)b.x, (int)b.y, (int)b.z, (int)b.w}}, {d, d}, {0, 0}};
    }
};

/* Byte i of a word. */
__device__ static inline float byte_of(uint32_t x, int i) {
    return (float)(x >> 8 * i & 255);
}

/* A chunk of Q4_K or Q5_K from its codes: its segments are of the groups 2 * (c / 2) and the next one, whose codes are the low and the high nibbles
 * of 16 bytes. scales: scale, min, scale, min; d: d, dmin. */
__device__ static inline segment_pair nibble_pair(uint4 codes, uint32_t scales, uint32_t d) {
    const float scale = low_half(d), min = low_half(d >> 16);
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    segment_pair p = {{}, {scale * byte_of(scales, 0), scale * byte_of(scales, 2)}, {min * byte_of(scales, 1), min * byte_of(scales, 3)}};
    UNROLL
    for (int i = 0; i < 4; i++) {
        p.q[0][i] = (int)nibbles(words[i], 0);
        p.q[1][i] = (int)nibbles(words[i], 4);
    }
    return p;
}

struct rounded_q4_k {
    enum { SCALED = 32, APART = 32, HAS_MIN = true };
    struct places {
        unsigned qs, scales, d;
    };
    struct stored {
        uint4 codes;
        uint32_t scales, d;
    };
    __device__ static int first(unsigned c) {
        return (int)(64 * (c / 2) + 16 * (c & 1));
    }
    __device__ static places places_of(unsigned width, unsigned c) {
        const unsigned blocks = width / QK_K;
        return {16 * c, 128 * blocks + 4 * (c / 2), 144 * blocks + 4 * (c / 8)};
    }
    __device__ static stored load(const char *row, places at, unsigned k) {
        return {load_16(row + at.qs + 512 * k), load_4(row + at.scales + 64 * k), load_4(row + at.d + 16 * k)};
    }
    __device__ static segment_pair unpack(const stored &s, unsigned) {
        return nibble_pair(s.codes, s.scales, s.d);
    }
};

struct rounded_q5_k {
    enum { SCALED = 32, APART = 32, HAS_MIN = true };
    struct places {
        unsigned qs, qh, scales, d;
    };
    struct stored {
        uint4 codes, high;
        uint32_t scales, d;
    };
    __device__ static int first(unsigned c) {
        return rounded_q4_k::first(c);
    }
    __device__ static places places_of(unsigned width, unsigned c) {
        const unsigned blocks = width / QK_K;
        return {16 * c, 128 * blocks + 32 * (c / 8) + 16 * (c & 1), 160 * blocks + 4 * (c / 2), 176 * blocks + 4 * (c / 8)};
    }
    __device__ static stored load(const char *row, places at, unsigned k) {
        return {load_16(row + at.qs + 512 * k), load_16(row + at.qh + 128 * k), load_4(row + at.scales + 64 * k), load_4(row + at.d + 16 * k)};
    }
    __device__ static segment_pair unpack(const stored &s, unsigned c) {
        const unsigned group = c % 8 / 2 * 2;
        const uint32_t high[4] = {s.high.x, s.high.y, s.high.z, s.high.w};
        segment_pair p = nibble_pair(s.codes, s.scales, s.d);
        UNROLL
        for (int i = 0; i < 4; i++) { /* the fifth bit of group g is bit g */
            const uint32_t bits = high[i] >> group;
            p.q[0][i] |= (int)(bits << 4 & 0x10101010u);
            p.q[1][i] |= (int)(bits << 3 & 0x10101010u);
        }
        return p;
    }
};

struct rounded_q6_k {
    enum { SCALED = 16, APART = 64, HAS_MIN = true };
    struct places {
        unsigned ql, qh, scales, d;
    };
    struct stored {
        uint4 low, high;
        uint16_t d, scales;
    };
    __device__ static int first(unsigned c) {
        return (int)(128 * (c / 4) + 16 * (c % 4));
    }
    __device__ static places places_of(unsigned width, unsigned c) {
        const unsigned blocks = width / QK_K;
        return {16 * c, 128 * blocks + 32 * (c / 4) + 16 * (c & 1), 192 * blocks + 2 * c, 208 * blocks + 2 * (c / 8)};
    }
    __device__ static stored load(const char *row, places at, unsigned k) {
        return {load_16(row + at.ql + 512 * k), load_16(row + at.qh + 256 * k), load_2(row + at.d + 8 * k), load_2(row + at.scales + 64 * k)};
    }
    __device__ static segment_pair unpack(const stored &t, unsigned c) {
        const int shift = (int)(c % 4 / 2 * 2);
        const float d = low_half(t.d), first = d * (float)(int8_t)t.scales, second = d * (float)(int8_t)(t.scales >> 8);
        const uint32_t words[4] = {t.low.x, t.low.y, t.low.z, t.low.w}, high[4] = {t.high.x, t.high.y, t.high.z, t.high.w};
        segment_pair p = {{}, {first, second}, {32 * first, 32 * second}};
        UNROLL
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

/* Rounds the values [at, at + 8) of a row that lies at `row`; four lanes have what has a scale, so that a whole warp must call it. Nothing is stored
 * behind the row's end. */
__device__ static inline void round_eight(rounded_rows to, char *row, int at, const float v[8]) {
    uint32_t bits = 0; /* as bits the absolute values of floats are in order, infinity and NaN behind the others */
    UNROLL
    for (int i = 0; i < 8; i++) {
        bits = largest_of(bits, __float_as_uint(v[i]) & 0x7fffffffu);
    }
    bits = largest_of(bits, __shfl_xor_sync(0xffffffffu, bits, 1));
    bits = largest_of(bits, __shfl_xor_sync(0xffffffffu, bits, 2));
    const float largest = __uint_as_float(bits);
    const bool finite = largest < INFINITY, none = largest < ROUNDED_LEAST, zero = !finite || none;
    const float factor = zero ? 0 : 127 / largest;
    uint32_t words[2] = {};
    UNROLL
    for (int i = 0; i < 8; i++) {
        words[i / 4] |= (uint32_t)((zero ? 0 : __float2int_rn(v[i] * factor)) & 255) << 8 * (i % 4);
    }
    int sum = __dp4a((int)words[0], 0x01010101, __dp4a((int)words[1], 0x01010101, 0));
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (at < to.width) {
        *(uint2 *)(void *)(row + at) = uint2{words[0], words[1]};
        if (at % 16 == 0) {
            const float scale = finite ? none ? 0 : largest / 127 : nanf("");
            *to.scale(row, at) = float2{scale, scale * (float)sum};
        }
    }
}

/* Rounds row x of n values by lanes whose places are `lane`, of `lanes` in whole warps. */
__device__ static inline void round_row(rounded_rows to, char *row, const float *x, int64_t n, int lane, int lanes) {
    for (int at = lane * 8; at - lane % WARP * 8 < to.width; at += lanes * 8) {
        float v[8] = {};
        if (at < to.width) {
            load_8(x, at, n, v);
        }
        round_eight(to, row, at, v);
    }
}

/* What a lane needs of a rounded row for a chunk. */
struct chunk_input {
    uint4 values[2];
    float2 scale[2];
};

/* Chunk c + WARP * k of a row. */
template <class Format> __device__ static inline chunk_input input_of(rounded_rows x, const char *row, unsigned c, unsigned k) {
    const char *values = row + Format::first(c) + 1024 * k;
    const float2 *scale = (const float2 *)(const void *)(row + x.width + Format::first(c) / 2) + 64 * k;
    return {{load_16(values), load_16(values + Format::APART)}, {scale[0], scale[Format::APART / 16]}};
}

/* The product of a chunk of a stored row with that of a rounded one. */
template <class Format> __device__ static inline float chunk_product(const segment_pair &w, const chunk_input &x) {
    float sum = 0;
    UNROLL
    for (int s = 0; s < 2; s++) {
        int dot = __dp4a(w.q[s][0], (int)x.values[s].x, 0);
        dot = __dp4a(w.q[s][1], (int)x.values[s].y, dot);
        dot = __dp4a(w.q[s][2], (int)x.values[s].z, dot);
        dot = __dp4a(w.q[s][3], (int)x.values[s].w, dot);
        sum += x.scale[s].x * w.scale[s] * (float)dot;
        if (Format::HAS_MIN) {
            sum -= w.min[s] * x.scale[s].y;
        }
    }
    return sum;
}

/* The sums over the lanes of N values each, N a power of two up to WARP: lane l gets that of value l / (WARP / N). */
template <int N> __device__ static inline float sum_over_lanes(float (&v)[N]) {
    int distance = WARP / 2;
    UNROLL
    for (int n = N / 2; n > 0; n /= 2) { /* lanes halve what they look after */
        const bool upper = threadIdx.x & (unsigned)distance;
        UNROLL
        for (int i = 0; i < n; i++) {
            const float kept = upper ? v[i + n] : v[i], given = upper ? v[i] : v[i + n];
            v[i] = kept + __shfl_xor_sync(0xffffffffu, given, distance);
        }
        distance /= 2;
    }
    UNROLL
    for (; distance > 0; distance /= 2) {
        v[0] += __shfl_xor_sync(0xffffffffu, v[0], distance);
    }
    return v[0];
}

/* Products of stored rows with ROWS rounded ones, by a warp. It takes R stored rows at a time and of each P chunks a lane; those that come next are
 * loaded while these are multiplied.
 *
 * Rows says which: point(at, left) gives the places of the next R stored rows, of which `left` exist, and for the others any that do; done(v, left)
 * takes those products: v is that of the stored row i / ROWS and the rounded row i % ROWS, i = lane / (WARP / (R * ROWS)). begin reads nothing but
 * weights, and what point reads. */
template <class Format, int ROWS, int R, int P> struct row_stream {
    typename Format::stored coming[P][R];
    const char *at[R];
    typename Format::places places;
    unsigned chunk;     /* this lane's first */
    int chunks, pieces; /* of a row; P * WARP chunks are a piece */

    /* Chunk `chunk + WARP * k` is one of the row's. */
    __device__ bool there(unsigned k) const {
        return threadIdx.x % WARP + WARP * k < (unsigned)chunks;
    }
    /* Or another chunk that is. */
    __device__ unsigned one_there(unsigned k) const {
        return there(k) ? k : 0;
    }
    __device__ void load(int r, int p, int piece) {
        coming[p][r] = Format::load(at[r], places, one_there((unsigned)(piece * P + p)));
    }

    template <class Rows> __device__ void begin(Rows &of, int count, int64_t width) {
        const unsigned lane = threadIdx.x % WARP;
        chunks = (int)width / 32;
        pieces = (chunks + P * WARP - 1) / (P * WARP);
        chunk = lane < (unsigned)chunks ? lane : (unsigned)chunks - 1;
        places = Format::places_of((unsigned)width, chunk);
        if (count > 0) {
            of.point(at, count);
            UNROLL
            for (int i = 0; i < P * R; i++) {
                load(i % R, i / R, 0);
            }
        }
    }

    template <class Rows> __device__ void run(Rows &of, int count, rounded_rows x) {
        chunk_input kept[P]; /* of a single row: those of the piece at hand */
        UNROLL
        for (int p = 0; ROWS == 1 && p < P; p++) {
            kept[p] = input_of<Format>(x, x.memory, chunk, one_there((unsigned)p));
        }
        for (int left = count; left > 0; left -= R) {
            float sum[R * ROWS] = {};
            for (int piece = 0; piece < pieces; piece++) {
                const int next = piece + 1 < pieces ? piece + 1 : 0;
                const bool more = next > 0 || left > R, fresh = pieces > 1 && (piece > 0 || left < count);
                if (next == 0 && more) {
                    of.point(at, left - R);
                }
                UNROLL
                for (int p = 0; p < P; p++) {
                    const unsigned k = (unsigned)(piece * P + p);
                    if (ROWS == 1 && fresh) {
                        kept[p] = input_of<Format>(x, x.memory, chunk, one_there(k));
                    }
                    segment_pair w[R];
                    UNROLL
                    for (int r = 0; r < R; r++) {
                        w[r] = Format::unpack(coming[p][r], chunk);
                        if (ROWS == 1) {
                            const float product = chunk_product<Format>(w[r], kept[p]);
                            sum[r] += there(k) ? product : 0;
                        }
                        if (more) {
                            load(r, p, next);
                        }
                    }
                    UNROLL
                    for (int i = 0; ROWS > 1 && i < ROWS; i++) {
                        const chunk_input input = input_of<Format>(x, x.row(i), chunk, one_there(k));
                        UNROLL
                        for (int r = 0; r < R; r++) {
                            const float product = chunk_product<Format>(w[r], input);
                            sum[r * ROWS + i] += there(k) ? product : 0;
                        }
                    }
                }
            }
            of.done(sum_over_lanes(sum), left);
        }
    }
};

enum { SHORT_WIDTH = 32 * WARP };

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
