/* Stored types as kernels read them: groups of consecutive values of a row, as float32 (tensor/blocks.h has the layouts).
 *
 * A format has GROUP, the values of a group, and load(row, g, v, n), which gives the values [g * GROUP, (g + 1) * GROUP) of a row that was placed
 * with n values. Past the row's end it gives zeros. Q8_0 and K-quants of 4 to 6 bits lie as repack.cu has them. */
#ifndef OMNI_CUDA_FORMATS_CUH
#define OMNI_CUDA_FORMATS_CUH

#include "cuda/device.cuh"

/* Rows of a stored matrix of width values; stride in bytes. */
struct weight_rows {
    const char *data;
    int64_t stride, width;
};

/* Whether rows of a type lie otherwise on the card than in a file (repack.cu). */
static inline bool repacks(dtype type) {
    return type == DTYPE_Q8_0 || type == DTYPE_Q4_K || type == DTYPE_Q5_K || type == DTYPE_Q6_K;
}

/* Bytes of a block there. */
static inline size_t card_block_bytes(dtype type) {
    return dtype_find(type)->bytes + (type == DTYPE_Q4_K || type == DTYPE_Q5_K ? 4 : 0);
}

/* The rows of a tensor, whose ne[0] may have been made less since it was placed. */
static inline weight_rows rows_of(const tensor *t) {
    const int64_t rows = tensor_rows(t), stride = t->size ? (int64_t)t->size / rows : (int64_t)dtype_row_bytes(t->type, t->ne[0]);
    const dtype_info *type = dtype_find(t->type);
    return {(const char *)t->data, stride, type->block > 1 ? stride / (int64_t)card_block_bytes(t->type) * type->block : t->ne[0]};
}

/* Sixteen bytes of values of type Stored, in one load where they lie so. */
template <class Stored, class Read> __device__ static inline void load_plain(const char *row, int64_t g, float *v, int64_t n, Read read) {
    enum { N = 16 / sizeof(Stored) };
    const Stored *from = (const Stored *)(const void *)row + g * N;
    if ((g + 1) * N <= n && (uintptr_t)from % 16 == 0) {
        const uint4 all = *(const uint4 *)(const void *)from;
        const Stored *each = (const Stored *)(const void *)&all;
        for (int i = 0; i < N; i++) {
            v[i] = read(each[i]);
        }
        return;
    }
    for (int i = 0; i < N; i++) {
        v[i] = g * N + i < n ? read(from[i]) : 0;
    }
}

struct format_f32 {
    enum { GROUP = 4 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        load_plain<float>(row, g, v, n, [](float x) { return x; });
    }
};

struct format_f16 {
    enum { GROUP = 8 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        load_plain<uint16_t>(row, g, v, n, half_bits_to_float);
    }
};

struct format_bf16 {
    enum { GROUP = 8 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        load_plain<uint16_t>(row, g, v, n, bf16_bits_to_float);
    }
};

/* Nibbles q of 16 bytes, low ones first, each as value(q, its place). */
template <class Value> __device__ static inline void load_nibbles(const uint8_t *qs, float *v, Value value) {
    for (int j = 0; j < 16; j++) {
        v[j] = value(qs[j] & 15, j);
        v[j + 16] = value(qs[j] >> 4, j + 16);
    }
}

__device__ static inline uint32_t fifth_bits(const uint8_t *qh) {
    return qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24;
}

struct format_q4_0 {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_q4_0 *b = (const block_q4_0 *)row + g;
        const float d = half_bits_to_float(b->d);
        load_nibbles(b->qs, v, [d](int q, int) { return d * (float)(q - 8); });
    }
};

struct format_q4_1 {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_q4_1 *b = (const block_q4_1 *)row + g;
        const float d = half_bits_to_float(b->d), m = half_bits_to_float(b->m);
        load_nibbles(b->qs, v, [d, m](int q, int) { return d * (float)q + m; });
    }
};

struct format_q5_0 {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_q5_0 *b = (const block_q5_0 *)row + g;
        const float d = half_bits_to_float(b->d);
        const uint32_t high = fifth_bits(b->qh);
        load_nibbles(b->qs, v, [d, high](int q, int j) { return d * (float)((int)(q | (high >> j & 1) << 4) - 16); });
    }
};

struct format_q5_1 {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_q5_1 *b = (const block_q5_1 *)row + g;
        const float d = half_bits_to_float(b->d), m = half_bits_to_float(b->m);
        const uint32_t high = fifth_bits(b->qh);
        load_nibbles(b->qs, v, [d, m, high](int q, int j) { return d * (float)(int)(q | (high >> j & 1) << 4) + m; });
    }
};

struct format_q8_0 {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const int8_t *qs = (const int8_t *)row + g * GROUP;
        const float d = half_bits_to_float(*(const uint16_t *)(const void *)(row + n + 2 * g));
        for (int j = 0; j < GROUP; j++) {
            v[j] = d * (float)qs[j];
        }
    }
};

__device__ static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
__device__ static const int8_t mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct format_iq4_nl {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_iq4_nl *b = (const block_iq4_nl *)row + g;
        const float d = half_bits_to_float(b->d);
        load_nibbles(b->qs, v, [d](int q, int) { return d * (float)iq4_values[q]; });
    }
};

struct format_mxfp4 {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_mxfp4 *b = (const block_mxfp4 *)row + g;
        const float d = __uint_as_float(b->e < 2 ? 0x00200000u << b->e : (uint32_t)(b->e - 1) << 23);
        load_nibbles(b->qs, v, [d](int q, int) { return d * (float)mxfp4_values[q]; });
    }
};

struct format_iq4_xs {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_iq4_xs *b = (const block_iq4_xs *)row + g / 8;
        const int k = (int)(g % 8), scale = (b->scales_l[k / 2] >> 4 * (k & 1) & 15) | (b->scales_h >> 2 * k & 3) << 4;
        const float d = half_bits_to_float(b->d) * (float)(scale - 32);
        load_nibbles(b->qs + 16 * k, v, [d](int q, int) { return d * (float)iq4_values[q]; });
    }
};

struct format_q2_k {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_q2_k *b = (const block_q2_k *)row + g / 8;
        const int k = (int)(g % 8), shift = k % 4 * 2;
        const float d = half_bits_to_float(b->d), dmin = half_bits_to_float(b->dmin);
        for (int j = 0; j < GROUP; j++) {
            const int s = b->scales[2 * k + j / 16];
            v[j] = d * (float)(s & 15) * (float)(b->qs[32 * (k / 4) + j] >> shift & 3) - dmin * (float)(s >> 4);
        }
    }
};

struct format_q3_k {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const block_q3_k *b = (const block_q3_k *)row + g / 8;
        const int k = (int)(g % 8), shift = k % 4 * 2;
        const float d = half_bits_to_float(b->d);
        for (int j = 0; j < GROUP; j++) {
            const int s = 2 * k + j / 16, low = b->scales[s % 8] >> s / 8 * 4 & 15, high = b->scales[8 + s % 4] >> s / 4 * 2 & 3;
            const int q = (b->qs[32 * (k / 4) + j] >> shift & 3) + ((b->hmask[j] >> k & 1) << 2) - 4;
            v[j] = d * (float)((low | high << 4) - 32) * (float)q;
        }
    }
};

/* Scale and min of group k from the 12 bytes of a Q4_K or Q5_K block. */
__device__ static inline void scale_and_min(const uint8_t *s, int k, uint8_t *scale, uint8_t *min) {
    if (k < 4) {
        *scale = s[k] & 63;
        *min = s[k + 4] & 63;
    } else {
        *scale = (uint8_t)((s[k + 4] & 15) | (s[k - 4] >> 6) << 4);
        *min = (uint8_t)((s[k + 4] >> 4) | (s[k] >> 6) << 4);
    }
}

struct format_q4_k {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const int64_t blocks = n / QK_K, block = g / 8;
        const int k = (int)(g % 8), shift = 4 * (k & 1);
        const uint8_t *qs = (const uint8_t *)row + 128 * block + 32 * (k / 2), *scales = (const uint8_t *)row + 128 * blocks + 16 * block + 2 * k;
        const uint16_t *d = (const uint16_t *)(const void *)(row + 144 * blocks + 4 * block);
        const float scale = (float)scales[0] * half_bits_to_float(d[0]), min = (float)scales[1] * half_bits_to_float(d[1]);
        for (int j = 0; j < GROUP; j++) {
            v[j] = scale * (float)(qs[j] >> shift & 15) - min;
        }
    }
};

struct format_q5_k {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const int64_t blocks = n / QK_K, block = g / 8;
        const int k = (int)(g % 8), shift = 4 * (k & 1);
        const uint8_t *qs = (const uint8_t *)row + 128 * block + 32 * (k / 2), *qh = (const uint8_t *)row + 128 * blocks + 32 * block;
        const uint8_t *scales = (const uint8_t *)row + 160 * blocks + 16 * block + 2 * k;
        const uint16_t *d = (const uint16_t *)(const void *)(row + 176 * blocks + 4 * block);
        const float scale = (float)scales[0] * half_bits_to_float(d[0]), min = (float)scales[1] * half_bits_to_float(d[1]);
        for (int j = 0; j < GROUP; j++) {
            v[j] = scale * (float)((qs[j] >> shift & 15) | (qh[j] >> k & 1) << 4) - min;
        }
    }
};

struct format_q6_k {
    enum { GROUP = 32 };
    __device__ static void load(const char *row, int64_t g, float *v, int64_t n) {
        const int64_t blocks = n / QK_K, block = g / 8;
        const uint8_t *ql = (const uint8_t *)row + 128 * block, *qh = (const uint8_t *)row + 128 * blocks + 64 * block;
        const int8_t *scales = (const int8_t *)row + 192 * blocks + 16 * block;
        const int k = (int)(g % 8), h = k / 4, low = k / 2 % 2 * 4, high = k % 4 * 2;
        const int chunk = 4 * h + 2 * (k & 1); /* of its first 16 values (rounded.cuh), one of the chunk's two segments */
        const float d = half_bits_to_float(*(const uint16_t *)(const void *)(row + 208 * blocks + 2 * block));
        for (int j = 0; j < GROUP; j++) {
            const int q = ((ql[64 * h + 32 * (k & 1) + j] >> low & 15) | (qh[32 * h + j] >> high & 3) << 4) - 32;
            v[j] = d * (float)scales[2 * (chunk + j / 16) + k / 2 % 2] * (float)q;
        }
    }
};

/* call.run<Format>() for a stored type; a type that no operation takes never comes here (dtype_computable). */
template <class Call> static void with_format(dtype type, const Call &call) {
    switch (type) {
    case DTYPE_F32:
        return call.template run<format_f32>();
    case DTYPE_F16:
        return call.template run<format_f16>();
    case DTYPE_BF16:
        return call.template run<format_bf16>();
    case DTYPE_Q4_0:
        return call.template run<format_q4_0>();
    case DTYPE_Q4_1:
        return call.template run<format_q4_1>();
    case DTYPE_Q5_0:
        return call.template run<format_q5_0>();
    case DTYPE_Q5_1:
        return call.template run<format_q5_1>();
    case DTYPE_Q8_0:
        return call.template run<format_q8_0>();
    case DTYPE_Q2_K:
        return call.template run<format_q2_k>();
    case DTYPE_Q3_K:
        return call.template run<format_q3_k>();
    case DTYPE_Q4_K:
        return call.template run<format_q4_k>();
    case DTYPE_Q5_K:
        return call.template run<format_q5_k>();
    case DTYPE_Q6_K:
        return call.template run<format_q6_k>();
    case DTYPE_IQ4_NL:
        return call.template run<format_iq4_nl>();
    case DTYPE_IQ4_XS:
        return call.template run<format_iq4_xs>();
    case DTYPE_MXFP4:
        return call.template run<format_mxfp4>();
    default:
        return;
    }
}

#endif
