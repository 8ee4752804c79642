#include "tensor/tensor.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "tensor/blocks.h"
#include "tensor/quantize.h"

enum { Q8_BLOCK = 32, Q8_BYTES = 34 };

static const dtype_info INFO[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 1, 4, true},
    [DTYPE_F16] = {"F16", 1, 2, true},
    [DTYPE_Q4_0] = {"Q4_0", 32, 18, true},
    [DTYPE_Q4_1] = {"Q4_1", 32, 20, true},
    [DTYPE_Q5_0] = {"Q5_0", 32, 22, true},
    [DTYPE_Q5_1] = {"Q5_1", 32, 24, true},
    [DTYPE_Q8_0] = {"Q8_0", Q8_BLOCK, Q8_BYTES, true},
    [DTYPE_Q8_1] = {"Q8_1", 32, 36, false},
    [DTYPE_Q2_K] = {"Q2_K", 256, 84, true},
    [DTYPE_Q3_K] = {"Q3_K", 256, 110, true},
    [DTYPE_Q4_K] = {"Q4_K", 256, 144, true},
    [DTYPE_Q5_K] = {"Q5_K", 256, 176, true},
    [DTYPE_Q6_K] = {"Q6_K", 256, 210, true},
    [DTYPE_Q8_K] = {"Q8_K", 256, 292, false},
    [DTYPE_IQ2_XXS] = {"IQ2_XXS", 256, 66, false},
    [DTYPE_IQ2_XS] = {"IQ2_XS", 256, 74, false},
    [DTYPE_IQ3_XXS] = {"IQ3_XXS", 256, 98, false},
    [DTYPE_IQ1_S] = {"IQ1_S", 256, 50, false},
    [DTYPE_IQ4_NL] = {"IQ4_NL", 32, 18, true},
    [DTYPE_IQ3_S] = {"IQ3_S", 256, 110, false},
    [DTYPE_IQ2_S] = {"IQ2_S", 256, 82, false},
    [DTYPE_IQ4_XS] = {"IQ4_XS", 256, 136, true},
    [DTYPE_I8] = {"I8", 1, 1, false},
    [DTYPE_I16] = {"I16", 1, 2, false},
    [DTYPE_I32] = {"I32", 1, 4, false},
    [DTYPE_I64] = {"I64", 1, 8, false},
    [DTYPE_F64] = {"F64", 1, 8, false},
    [DTYPE_IQ1_M] = {"IQ1_M", 256, 56, false},
    [DTYPE_BF16] = {"BF16", 1, 2, true},
    [DTYPE_TQ1_0] = {"TQ1_0", 256, 54, false},
    [DTYPE_TQ2_0] = {"TQ2_0", 256, 66, false},
    [DTYPE_MXFP4] = {"MXFP4", 32, 17, true},
    [DTYPE_NVFP4] = {"NVFP4", 64, 36, false},
    [DTYPE_Q1_0] = {"Q1_0", 128, 18, false},
    [DTYPE_Q2_0] = {"Q2_0", 64, 18, false},
};

const dtype_info *dtype_find(uint32_t type) {
    return type < DTYPE_COUNT && INFO[type].name ? &INFO[type] : NULL;
}

bool dtype_computable(uint32_t type) {
    const dtype_info *info = dtype_find(type);
    return info && info->computable;
}

bool dtype_writable(uint32_t type) {
    switch (type) {
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16:
    case DTYPE_Q4_0:
    case DTYPE_Q4_1:
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
    case DTYPE_Q8_0:
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
    case DTYPE_Q6_K:
        return true;
    default:
        return false;
    }
}

bool dtype_by_name(const char *name, dtype *out) {
    for (uint32_t i = 0; i < DTYPE_COUNT; i++) {
        if (INFO[i].name && strcasecmp(INFO[i].name, name) == 0) {
            *out = (dtype)i;
            return true;
        }
    }
    return false;
}

size_t dtype_row_bytes(dtype type, int64_t n) {
    const dtype_info *info = dtype_find((uint32_t)type);
    return info ? (size_t)(n / info->block) * info->bytes : 0;
}

tensor tensor_slice(const tensor *t, int64_t i) {
    tensor s = *t;
    s.n_dims = 2;
    s.ne[2] = s.ne[3] = 1;
    s.size = t->packed ? t->size / (size_t)t->ne[2] : (size_t)t->ne[1] * dtype_row_bytes(t->type, t->ne[0]);
    s.data = (const char *)t->data + (size_t)i * s.size;
    return s;
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Rebiases the exponent; infinities and NaN get the rest of the way to exponent 255, and a subnormal is normalised by
 * giving it an implicit one and subtracting that again. No branches, so that loops over it become vector code. */
static inline float half_to_float(uint16_t h) {
    const uint32_t exponent = 0x7c00u << 13;
    uint32_t u = (uint32_t)(h & 0x7fff) << 13;
    uint32_t e = u & exponent;
    u += 112u << 23;
    u += e == exponent ? 112u << 23 : 0;
    uint32_t subnormal = bits_of(float_of(u + (1u << 23)) - float_of(113u << 23));
    u = e == 0 ? subnormal : u;
    return float_of(u | (uint32_t)(h & 0x8000) << 16);
}

static inline uint16_t float_to_half(float x) {
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    /* Normal: subtract the difference of biases, then round to even by adding just under a half, and one more when odd. */
    uint32_t normal = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;
    /* Subnormal: adding 0.5 leaves the value in the lowest bits, rounded to even by the addition itself. */
    uint32_t subnormal = bits_of(float_of(u) + 0.5f) - bits_of(0.5f);
    uint32_t nan = 0x7c00 | (u >> 13 & 0x3ff);
    nan |= nan == 0x7c00 ? 0x200 : 0;
    uint32_t h = u < (113u << 23) ? subnormal : normal;
    h = u >= 0x477ff000 ? 0x7c00 : h; /* 65520 and more round to infinity */
    h = u > 0x7f800000 ? nan : h;
    return (uint16_t)(h | sign);
}

static inline uint16_t float_to_bfloat(float x) {
    uint32_t u = bits_of(x);
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    uint32_t nan = u >> 16 | 0x40; /* quiet, so that dropping the low bits cannot make it an infinity */
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

float f16_to_f32(uint16_t h) {
    return half_to_float(h);
}

uint16_t f16_from_f32(float x) {
    return float_to_half(x);
}

uint16_t bf16_from_f32(float x) {
    return float_to_bfloat(x);
}

static inline uint16_t load16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void q8_from_f32(const float *in, uint8_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i += Q8_BLOCK, out += Q8_BYTES) {
        const float *x = in + i;
        float largest = 0;
        uint32_t largest_bits = 0;
        for (int j = 0; j < Q8_BLOCK; j++) {
            uint32_t u = bits_of(x[j]) & 0x7fffffff;
            largest_bits = u > largest_bits ? u : largest_bits; /* orders magnitudes as floats do, with NaN on top */
        }
        largest = float_of(largest_bits);
        float scale = largest / 127;
        float inverse = scale != 0 ? 1 / scale : 0;
        if (largest_bits >= 0x7f800000) {
            scale = NAN;
            inverse = 0;
        } else if (!isfinite(inverse)) {
            inverse = 0; /* the scale is far below what F16 can hold: all zeros either way */
        }
        uint16_t stored = float_to_half(scale);
        memcpy(out, &stored, sizeof stored);
        if (largest_bits >= 0x7f800000) {
            memset(out + 2, 0, Q8_BLOCK);
            continue;
        }
        for (int j = 0; j < Q8_BLOCK; j++) {
            float v = x[j] * inverse;
            float a = fabsf(v);
            int whole = (int)a;
            whole += a - (float)whole >= 0.5f;
            out[2 + j] = (uint8_t)(int8_t)(v < 0 ? -whole : whole);
        }
    }
}

void dtype_to_f32(dtype type, const void *in, float *out, int64_t n) {
    const uint8_t *p = in;
    switch (type) {
    case DTYPE_F32:
        memcpy(out, p, (size_t)n * sizeof *out);
        break;
    case DTYPE_F16:
        for (int64_t i = 0; i < n; i++) {
            out[i] = half_to_float(load16(p + 2 * i));
        }
        break;
    case DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) {
            out[i] = bf16_to_f32(load16(p + 2 * i));
        }
        break;
    default:
        if (blocks_to_f32(type, in, out, n)) {
            break;
        }
        for (int64_t i = 0; i < n; i++) {
            out[i] = NAN;
        }
    }
}

void dtype_from_f32(dtype type, const float *in, void *out, int64_t n) {
    dtype_from_f32_weighted(type, in, NULL, out, n);
}

void dtype_from_f32_weighted(dtype type, const float *in, const float *importance, void *out, int64_t n) {
    uint8_t *p = out;
    switch (type) {
    case DTYPE_F32:
        memcpy(p, in, (size_t)n * sizeof *in);
        break;
    case DTYPE_F16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = float_to_half(in[i]);
            memcpy(p + 2 * i, &h, sizeof h);
        }
        break;
    case DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = float_to_bfloat(in[i]);
            memcpy(p + 2 * i, &h, sizeof h);
        }
        break;
    case DTYPE_Q8_0:
        q8_from_f32(in, p, n);
        break;
    default:
        quantize_row(type, in, importance, out, n);
        break;
    }
}
