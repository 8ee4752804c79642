/* The quantisers of the block formats, as static functions: compiled once for each instruction set that gains from it
 * (quantize_*.c). Only IEEE operations in a fixed order, so every version gives the same bits.
 *
 * Each minimises sum_i w_i (x_i - y_i)^2, y what the block stands for and w the importance of the columns. Two steps alternate: given
 * the scale (and minimum), the nearest integers; given the integers, the least squares solution for scale and minimum. Both lower the
 * error, but only to the nearest valley, so this is begun from several ranges and the best result is kept. In the formats whose
 * scales are themselves integers times a common factor, the neighbours of each integer scale are then tried, and the
 * factor is solved for by least squares over the whole block. */
#ifndef OMNI_TENSOR_QUANTIZE_BLOCKS_H
#define OMNI_TENSOR_QUANTIZE_BLOCKS_H

#include <math.h>
#include <string.h>

#include "tensor/blocks.h"
#include "tensor/quantize_search.h"

/* ---- scales ---- */

/* A common factor as stored: never so small that a positive one becomes zero, never infinite. */
static inline uint16_t factor_bits(float d) {
    float a = fabsf(d), least = 0x1p-24f;
    a = a > 0 && a < least ? least : a > 65504.0f ? 65504.0f : a;
    return f16_from_f32(d < 0 ? -a : a);
}

static inline bool all_finite(const float *x, int n) {
    float zero = 0;
    for (int i = 0; i < n; i++) {
        zero += x[i] * 0;
    }
    return zero == 0;
}

enum { F16_NAN = 0x7e00 };

/* Weights of a block: the importance of its columns, a little of their mean added so that a column that was never used
 * still gets values of the right size. All ones without. */
static inline void block_weights(const float *importance, int n, float *w) {
    float sum = 0;
    for (int i = 0; importance && i < n; i++) {
        sum += importance[i] > 0 ? importance[i] : 0;
    }
    if (!(sum > 0) || !isfinite(sum)) {
        for (int i = 0; i < n; i++) {
            w[i] = 1;
        }
        return;
    }
    /* Scaled to a mean near one, so that small numbers cannot vanish. */
    float unit = (float)n / sum;
    for (int i = 0; i < n; i++) {
        w[i] = (importance[i] > 0 ? importance[i] * unit : 0) + 1e-3f;
    }
}

/* ---- blocks of 32 ---- */

static void pack_nibbles(const uint8_t *q, uint8_t *qs) {
    for (int j = 0; j < QK / 2; j++) {
        qs[j] = (uint8_t)((q[j] & 15) | (q[j + QK / 2] & 15) << 4);
    }
}

static void pack_fifth(const uint8_t *q, uint8_t *qh) {
    memset(qh, 0, QK / 8);
    for (int j = 0; j < QK; j++) {
        qh[j / 8] |= (uint8_t)((q[j] >> 4 & 1) << j % 8);
    }
}

static void to_q4_0(const float *x, const float *importance, block_q4_0 *b) {
    float w[QK];
    uint8_t q[QK] = {0};
    *b = (block_q4_0){.d = F16_NAN};
    if (!all_finite(x, QK)) {
        return;
    }
    block_weights(importance, QK, w);
    b->d = factor_bits(search_symmetric(x, w, QK, 8));
    group_integers(x, QK, f16_to_f32(b->d), 0, -8, 7, q);
    pack_nibbles(q, b->qs);
}

static void to_q5_0(const float *x, const float *importance, block_q5_0 *b) {
    float w[QK];
    uint8_t q[QK] = {0};
    *b = (block_q5_0){.d = F16_NAN};
    if (!all_finite(x, QK)) {
        return;
    }
    block_weights(importance, QK, w);
    b->d = factor_bits(search_symmetric(x, w, QK, 16));
    group_integers(x, QK, f16_to_f32(b->d), 0, -16, 15, q);
    pack_nibbles(q, b->qs);
    pack_fifth(q, b->qh);
}

INLINE void to_affine(const float *x, const float *importance, float top, uint16_t *d, uint16_t *m, uint8_t *q) {
    float w[QK], scale, min;
    memset(q, 0, QK);
    *d = F16_NAN;
    *m = 0;
    if (!all_finite(x, QK)) {
        return;
    }
    block_weights(importance, QK, w);
    search_affine(x, w, QK, top, false, &scale, &min);
    *d = factor_bits(scale);
    *m = f16_from_f32(clamped(-min, -65504.0f, 65504.0f));
    group_integers(x, QK, f16_to_f32(*d), -f16_to_f32(*m), 0, top, q);
}

static void to_q4_1(const float *x, const float *importance, block_q4_1 *b) {
    uint8_t q[QK];
    uint16_t d, m;
    to_affine(x, importance, 15, &d, &m, q);
    b->d = d;
    b->m = m;
    pack_nibbles(q, b->qs);
}

static void to_q5_1(const float *x, const float *importance, block_q5_1 *b) {
    uint8_t q[QK];
    uint16_t d, m;
    to_affine(x, importance, 31, &d, &m, q);
    b->d = d;
    b->m = m;
    pack_nibbles(q, b->qs);
    pack_fifth(q, b->qh);
}

/* ---- q4_k, q5_k: 8 groups, six-bit scales and minima ---- */

typedef struct affine_block {
    uint16_t d, dmin;
    float scale[8], min[8]; /* integers */
    uint8_t q[QK_K];
} affine_block;

enum { SCALE_TOP = 63 };

/* The best of the given integers of a group and their neighbours. */
INLINE void try_neighbours(const float *x, const float *w, float top, float d, float dmin, float *scale, float *min) {
    static const float of_scale[TRIALS] = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 2};
    static const float of_min[TRIALS] = {0, 1, -1, 2, -2, 0, 1, -1, 2, -2, 0, 1, -1, 2, -2, 0};
    float errors[TRIALS];
    for (int trial = 0; trial < TRIALS; trial += LANES) {
        vf s = vf_clamp(*scale + vf_load(of_scale + trial), splat(0), splat(SCALE_TOP));
        vf m = vf_clamp(*min + vf_load(of_min + trial), splat(0), splat(SCALE_TOP));
        vf_store(errors + trial, group_errors(x, w, 32, d * s, dmin * m, 0, top));
    }
    int best = smallest(errors);
    *scale = clamped(*scale + of_scale[best], 0, SCALE_TOP);
    *min = clamped(*min + of_min[best], 0, SCALE_TOP);
}

INLINE void to_affine_block(const float *x, const float *importance, float top, affine_block *b) {
    float w[QK_K], scale[8], min[8], largest_scale = 0, largest_min = 0;
    *b = (affine_block){.d = F16_NAN};
    if (!all_finite(x, QK_K)) {
        return;
    }
    block_weights(importance, QK_K, w);
    for (int g = 0; g < 8; g++) {
        search_affine(x + 32 * g, w + 32 * g, 32, top, true, &scale[g], &min[g]);
        largest_scale = scale[g] > largest_scale ? scale[g] : largest_scale;
        largest_min = min[g] > largest_min ? min[g] : largest_min;
    }
    b->d = factor_bits(largest_scale / SCALE_TOP);
    b->dmin = factor_bits(largest_min / SCALE_TOP);
    for (int g = 0; g < 8; g++) {
        float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);
        b->scale[g] = d > 0 ? nearest(clamped(scale[g] / d, 0, SCALE_TOP)) : 0;
        b->min[g] = dmin > 0 ? nearest(clamped(min[g] / dmin, 0, SCALE_TOP)) : 0;
    }
    for (int round = 0; round < 2; round++) {
        float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin), before = 0, after = 0;
        /* y = D u - M v with u = scale q, v = min: the normal equations of D and M over the block. */
        float uu = 0, uv = 0, vv = 0, xu = 0, xv = 0;
        for (int g = 0; g < 8; g++) {
            const float *xg = x + 32 * g, *wg = w + 32 * g;
            try_neighbours(xg, wg, top, d, dmin, &b->scale[g], &b->min[g]);
            float s = b->scale[g], m = b->min[g];
            group_fit f = fit_group(xg, wg, 32, d * s, dmin * m, 0, top, b->q + 32 * g);
            group_sums sums = sum_group(xg, wg, 32);
            before += f.error;
            uu += s * s * f.qq;
            uv += s * m * f.q;
            vv += m * m * sums.w;
            xu += s * f.xq;
            xv += m * sums.x;
        }
        float det = uu * vv - uv * uv, new_d = d, new_min = dmin;
        if (vv > 0 && det > 1e-6f * uu * vv) {
            new_d = (xu * vv - xv * uv) / det;
            new_min = (xu * uv - xv * uu) / det;
        } else if (uu > 0) {
            new_d = (xu + dmin * uv) / uu;
        }
        if (!(new_d > 0) || !(new_min >= 0) || !isfinite(new_d) || !isfinite(new_min)) {
            break;
        }
        uint16_t d_bits = factor_bits(new_d), min_bits = factor_bits(new_min);
        uint8_t q[QK_K];
        for (int g = 0; g < 8; g++) {
            float s = f16_to_f32(d_bits) * b->scale[g], m = f16_to_f32(min_bits) * b->min[g];
            after += fit_group(x + 32 * g, w + 32 * g, 32, s, m, 0, top, q + 32 * g).error;
        }
        if (!(after < before)) {
            break;
        }
        b->d = d_bits;
        b->dmin = min_bits;
        memcpy(b->q, q, sizeof q);
    }
}

static void pack_scales(const affine_block *b, uint8_t *scales) {
    memset(scales, 0, 12);
    for (int g = 0; g < 4; g++) {
        int s = (int)b->scale[g], m = (int)b->min[g], s4 = (int)b->scale[g + 4], m4 = (int)b->min[g + 4];
        scales[g] = (uint8_t)(s | s4 >> 4 << 6);
        scales[g + 4] = (uint8_t)(m | m4 >> 4 << 6);
        scales[g + 8] = (uint8_t)((s4 & 15) | (m4 & 15) << 4);
    }
}

static void pack_halves(const uint8_t *q, uint8_t *qs) {
    for (int h = 0; h < QK_K / 64; h++) {
        for (int j = 0; j < 32; j++) {
            qs[32 * h + j] = (uint8_t)((q[64 * h + j] & 15) | (q[64 * h + 32 + j] & 15) << 4);
        }
    }
}

static void to_q4_k(const float *x, const float *importance, block_q4_k *b) {
    affine_block a;
    to_affine_block(x, importance, 15, &a);
    b->d = a.d;
    b->dmin = a.dmin;
    pack_scales(&a, b->scales);
    pack_halves(a.q, b->qs);
}

static void to_q5_k(const float *x, const float *importance, block_q5_k *b) {
    affine_block a;
    to_affine_block(x, importance, 31, &a);
    b->d = a.d;
    b->dmin = a.dmin;
    pack_scales(&a, b->scales);
    pack_halves(a.q, b->qs);
    for (int j = 0; j < 32; j++) {
        uint8_t bits = 0;
        for (int k = 0; k < 8; k++) {
            bits |= (uint8_t)((a.q[32 * k + j] >> 4 & 1) << k);
        }
        b->qh[j] = bits;
    }
}

/* ---- q6_k: 16 groups, eight-bit scales ---- */

static void to_q6_k(const float *x, const float *importance, block_q6_k *b) {
    float w[QK_K], scale[16], largest = 0, value = 0;
    *b = (block_q6_k){.d = F16_NAN};
    if (!all_finite(x, QK_K)) {
        return;
    }
    block_weights(importance, QK_K, w);
    for (int g = 0; g < 16; g++) {
        scale[g] = search_symmetric(x + 16 * g, w + 16 * g, 16, 32);
        if (fabsf(scale[g]) > largest) {
            largest = fabsf(scale[g]);
            value = scale[g];
        }
    }
    b->d = factor_bits(value / -128);
    for (int g = 0; g < 16; g++) {
        float d = f16_to_f32(b->d);
        scale[g] = d != 0 ? nearest(clamped(scale[g] / d, -128, 127)) : 0;
    }
    uint8_t q[QK_K], better[QK_K];
    for (int round = 0; round < 2; round++) {
        float d = f16_to_f32(b->d), uu = 0, xu = 0, before = 0;
        static const float steps[TRIALS] = {0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8};
        for (int g = 0; g < 16; g++) {
            const float *xg = x + 16 * g, *wg = w + 16 * g;
            float errors[TRIALS];
            for (int trial = 0; trial < TRIALS; trial += LANES) {
                vf s = vf_clamp(scale[g] + vf_load(steps + trial), splat(-128), splat(127));
                vf_store(errors + trial, group_errors(xg, wg, 16, d * s, splat(0), -32, 31));
            }
            int best = smallest(errors);
            scale[g] = clamped(scale[g] + steps[best], -128, 127);
            group_fit f = fit_group(xg, wg, 16, d * scale[g], 0, -32, 31, q + 16 * g);
            before += f.error;
            uu += scale[g] * scale[g] * f.qq;
            xu += scale[g] * f.xq;
        }
        float solved = xu / uu;
        if (!(uu > 0) || !isfinite(solved) || solved == 0) {
            break;
        }
        uint16_t bits = factor_bits(solved);
        float after = 0;
        for (int g = 0; g < 16; g++) {
            after += fit_group(x + 16 * g, w + 16 * g, 16, f16_to_f32(bits) * scale[g], 0, -32, 31, better + 16 * g).error;
        }
        if (!(after < before)) {
            break;
        }
        b->d = bits;
        memcpy(q, better, sizeof q);
    }
    for (int g = 0; g < 16; g++) {
        b->scales[g] = (int8_t)scale[g];
    }
    for (int h = 0; h < 2; h++) {
        for (int j = 0; j < 64; j++) {
            b->ql[64 * h + j] = (uint8_t)((q[128 * h + j] & 15) | (q[128 * h + 64 + j] & 15) << 4);
        }
        for (int j = 0; j < 32; j++) {
            uint8_t bits = 0;
            for (int k = 0; k < 4; k++) {
                bits |= (uint8_t)(q[128 * h + 32 * k + j] >> 4 << 2 * k);
            }
            b->qh[32 * h + j] = bits;
        }
    }
}

/* ---- rows ---- */

#define EACH_BLOCK(values, block, convert)                                                                                                           \
    for (int64_t i = 0; i < n / (values); i++) {                                                                                                     \
        convert(x + i * (values), importance ? importance + i * (values) : NULL, (block *)out + i);                                                  \
    }                                                                                                                                                \
    return true

static bool quantize_rows(dtype type, const float *x, const float *importance, void *out, int64_t n) {
    switch (type) {
    case DTYPE_Q4_0:
        EACH_BLOCK(QK, block_q4_0, to_q4_0);
    case DTYPE_Q4_1:
        EACH_BLOCK(QK, block_q4_1, to_q4_1);
    case DTYPE_Q5_0:
        EACH_BLOCK(QK, block_q5_0, to_q5_0);
    case DTYPE_Q5_1:
        EACH_BLOCK(QK, block_q5_1, to_q5_1);
    case DTYPE_Q4_K:
        EACH_BLOCK(QK_K, block_q4_k, to_q4_k);
    case DTYPE_Q5_K:
        EACH_BLOCK(QK_K, block_q5_k, to_q5_k);
    case DTYPE_Q6_K:
        EACH_BLOCK(QK_K, block_q6_k, to_q6_k);
    default:
        return false;
    }
}

#endif
