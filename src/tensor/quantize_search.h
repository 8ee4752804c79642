/* One group of values: the scale (and minimum) whose nearest integers have the least weighted squared error. Only IEEE operations in a
 * fixed order, so that every instruction set gives the same bits. */
#ifndef OMNI_TENSOR_QUANTIZE_SEARCH_H
#define OMNI_TENSOR_QUANTIZE_SEARCH_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

#endif
