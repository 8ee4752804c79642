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
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "tensor/blocks.h"

/* The trials of a group lie in the lanes of vectors, so nothing is ever added across lanes and their number a vector changes no result. */
enum { TRIALS = 16 };
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

#pragma GCC diagnostic ignored "-Wpsabi" /* every function that takes a vector is inlined */
#define INLINE static inline __attribute__((always_inline))

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, halves to even, for |v| < 2^22. */
static const float ROUNDER = 12582912.0f;

static inline float nearest(float v) {
    return (v + ROUNDER) - ROUNDER;
}

static inline float clamped(float v, float low, float high) {
    v = v > low ? v : low;
    return v < high ? v : high;
}

INLINE vf splat(float x) {
    return x - (vf){0};
}

INLINE vf choose(vi mask, vf yes, vf no) {
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

INLINE vf vf_clamp(vf v, vf low, vf high) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps(_mm512_max_ps((__m512)v, (__m512)low), (__m512)high);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps(_mm256_max_ps((__m256)v, (__m256)low), (__m256)high);
#elif defined(__SSE2__)
    return (vf)_mm_min_ps(_mm_max_ps((__m128)v, (__m128)low), (__m128)high);
#else
    v = choose(v > low, v, low);
    return choose(v < high, v, high);
#endif
}

INLINE vf vf_load(const float *from) {
    vf v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void vf_store(float *to, vf v) {
    memcpy(to, &v, sizeof v);
}

INLINE vf vf_integers(float x, vf origin, vf inverse, vf low, vf high) {
    return (vf_clamp((x - origin) * inverse, low, high) + ROUNDER) - ROUNDER;
}

/* Weighted sums over a group: of the values once, of the integers for each trial. */
typedef struct group_sums {
    float w, x, xx;
} group_sums;

typedef struct trial_sums {
    vf q, qq, xq;
} trial_sums;

/* Sums over a group are made in four parts, whatever the processor. */
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

INLINE v4 v4_load(const float *from) {
    v4 v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE v4 v4_clamp(v4 v, float low, float high) {
    v4 l = low - (v4){0}, h = high - (v4){0};
    i4 above = v > l;
    v = (v4)((above & (i4)v) | (~above & (i4)l));
    i4 below = v < h;
    return (v4)((below & (i4)v) | (~below & (i4)h));
}

INLINE float v4_sum(v4 v) {
    return (v[0] + v[2]) + (v[1] + v[3]);
}

INLINE group_sums sum_group(const float *x, const float *w, int n) {
    v4 a = {0}, b = {0}, c = {0};
    for (int i = 0; i < n; i += 4) {
        v4 xi = v4_load(x + i), wi = v4_load(w + i), wx = wi * xi;
        a += wi;
        b += wx;
        c += wx * xi;
    }
    return (group_sums){v4_sum(a), v4_sum(b), v4_sum(c)};
}

/* What a group becomes: its integers (stored less low), their weighted sums, and the error of y = scale * q - min. */
typedef struct group_fit {
    float q, qq, xq, error;
} group_fit;

INLINE group_fit fit_group(const float *x, const float *w, int n, float scale, float min, float low, float high, uint8_t *stored) {
    v4 a = {0}, b = {0}, c = {0}, e = {0};
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < n; i += 4) {
        v4 xi = v4_load(x + i), wi = v4_load(w + i);
        v4 q = (v4_clamp((xi + min) * inverse, low, high) + ROUNDER) - ROUNDER;
        v4 wq = wi * q, d = (xi + min) - scale * q;
        a += wq;
        b += wq * q;
        c += wq * xi;
        e += wi * (d * d);
        i4 integers = __builtin_convertvector(q - low, i4);
        for (int j = 0; j < 4; j++) {
            stored[i + j] = (uint8_t)integers[j];
        }
    }
    return (group_fit){v4_sum(a), v4_sum(b), v4_sum(c), v4_sum(e)};
}

/* q = nearest((x - origin) * inverse) within [low, high]. */
INLINE trial_sums sum_trials(const float *x, const float *w, int n, vf origin, vf inverse, float low, float high) {
    trial_sums t = {0};
    const vf l = splat(low), h = splat(high);
    for (int i = 0; i < n; i++) {
        vf q = vf_integers(x[i], origin, inverse, l, h);
        vf wq = w[i] * q;
        t.q += wq;
        t.qq += wq * q;
        t.xq += wq * x[i];
    }
    return t;
}

/* The errors of y = scale * q - min with the nearest q. */
INLINE vf group_errors(const float *x, const float *w, int n, vf scale, vf min, float low, float high) {
    const vf zero = {0}, l = splat(low), h = splat(high), inverse = choose(scale != 0, 1 / choose(scale != 0, scale, zero + 1), zero);
    vf sum = {0};
    for (int i = 0; i < n; i++) {
        vf e = (x[i] + min) - scale * vf_integers(x[i], -min, inverse, l, h);
        sum += w[i] * (e * e);
    }
    return sum;
}

static inline void group_integers(const float *x, int n, float scale, float min, float low, float high, uint8_t *q) {
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < n; i++) {
        q[i] = (uint8_t)(int)(nearest(clamped((x[i] + min) * inverse, low, high)) - low);
    }
}

static inline int smallest(const float *errors) {
    int best = 0;
    for (int i = 1; i < TRIALS; i++) {
        best = errors[i] < errors[best] ? i : best;
    }
    return best;
}

/* ---- one group, real scales ---- */

enum { AFFINE_STEPS = 3, SYMMETRIC_STEPS = 2 };

/* scale and min of y = scale * q - min, 0 <= q <= top; with positive_min, min >= 0. */
INLINE void search_affine(const float *x, const float *w, int n, float top, bool positive_min, float *scale, float *min) {
    float low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    low = positive_min && low > 0 ? 0 : low;
    *scale = 0;
    *min = -low;
    if (!(high > low) || !isfinite(top / (high - low))) {
        return;
    }
    *scale = (high - low) / top;
    const group_sums g = sum_group(x, w, n);
    /* Both ends of the range are moved inwards, by up to these shares of the range. */
    static const float from[TRIALS] = {0.0f, 0.0f, 0.0f, 0.0f, 0.04f, 0.04f, 0.04f, 0.08f, 0.08f, 0.08f, 0.14f, 0.14f, 0.14f, 0.22f, 0.22f, -0.03f};
    static const float to[TRIALS] = {0.0f, 0.05f, 0.11f, 0.2f, 0.0f, 0.06f, 0.13f, 0.02f, 0.09f, 0.17f, 0.0f, 0.07f, 0.15f, 0.02f, 0.2f, -0.03f};
    const vf worst = splat(INFINITY), zero = {0}, one = splat(1);
    float errors[TRIALS], scales[TRIALS], mins[TRIALS];
    for (int trial = 0; trial < TRIALS; trial += LANES) {
        vf origin = low + (high - low) * vf_load(from + trial), s = (high - low) * (1 - vf_load(from + trial) - vf_load(to + trial)) / top;
        vf best = worst, best_scale = splat(*scale), best_min = splat(*min);
        for (int step = 0; step < AFFINE_STEPS; step++) {
            trial_sums t = sum_trials(x, w, n, origin, 1 / s, 0, top);
            vf det = g.w * t.qq - t.q * t.q, usable = choose(det > 0, det, one);
            vf a = (g.w * t.xq - g.x * t.q) / usable, b = (t.qq * g.x - t.q * t.xq) / usable;
            if (positive_min) {
                vi at_zero = b > 0;
                b = choose(at_zero, zero, b);
                a = choose(at_zero, t.xq / choose(t.qq > 0, t.qq, one), a);
            }
            vi good = (det > 0) & (a > 1e-37f);
            vf error = g.xx - a * t.xq - b * g.x;
            vi better = good & (error < best);
            best = choose(better, error, best);
            best_scale = choose(better, a, best_scale);
            best_min = choose(better, -b, best_min);
            s = choose(good, a, s);
            origin = choose(good, b, origin);
        }
        vf_store(errors + trial, best);
        vf_store(scales + trial, best_scale);
        vf_store(mins + trial, best_min);
    }
    int best_trial = smallest(errors);
    *scale = scales[best_trial];
    *min = mins[best_trial];
}

/* The scale of y = scale * q, -limit <= q < limit; either sign. 0 when all is zero. */
INLINE float search_symmetric(const float *x, const float *w, int n, float limit) {
    float largest = 0, value = 0;
    for (int i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        value = a > largest ? x[i] : value;
        largest = a > largest ? a : largest;
    }
    if (!(largest > 0) || !isfinite(2 * limit / largest)) {
        return 0;
    }
    const group_sums g = sum_group(x, w, n);
    /* The largest value at either end of the integers, or beyond it. */
    static const float reach[TRIALS] = {-1.12f, -1.06f, -1.0f, -0.97f, -0.94f, -0.91f, -0.88f, -0.84f,
                                        1.1f,   1.04f,  0.98f, 0.95f,  0.92f,  0.89f,  0.86f,  0.82f};
    const vf zero = {0}, one = splat(1);
    float errors[TRIALS], scales[TRIALS];
    for (int trial = 0; trial < TRIALS; trial += LANES) {
        vf inverse = limit * vf_load(reach + trial) / value;
        vf best = splat(INFINITY), scale = splat(-value / limit);
        for (int step = 0; step < SYMMETRIC_STEPS; step++) {
            trial_sums t = sum_trials(x, w, n, zero, inverse, -limit, limit - 1);
            vf d = t.xq / choose(t.qq > 0, t.qq, one);
            vf error = g.xx - d * t.xq;
            vi good = ((d > 1e-37f) | (d < -1e-37f));
            vi better = good & (error < best);
            best = choose(better, error, best);
            scale = choose(better, d, scale);
            inverse = choose(good, 1 / choose(good, d, one), inverse);
        }
        vf_store(errors + trial, best);
        vf_store(scales + trial, scale);
    }
    return scales[smallest(errors)];
}

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
