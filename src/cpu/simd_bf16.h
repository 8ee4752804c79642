/* Attention of many rows of one head in bfloat16, what its kernels share: spans of 64 positions as in simd_dense.h, the layout of keys and
 * values, and the online softmax. Keys are transposed so that a vector holds a pair of dimensions of 16 positions; values so that one holds a
 * pair of positions of 16 dimensions. Sums are float32. Needs AVX-512 BF16. */
#ifndef OMNI_CPU_SIMD_BF16_H
#define OMNI_CPU_SIMD_BF16_H

#include <math.h>

#include "cpu/kernels.h"
#include "cpu/simd_avx512.h"

#define UNROLL _Pragma("GCC unroll 16")

enum { SPAN = ATTENTION_SPAN, SPAN_VECTORS = SPAN / LANES };

/* A row's exponents count from the largest score that it had seen when that last grew by more than this power of two: larger sums do no
 * harm, and most spans then need no look at single lanes. */
#define HEADROOM 8.0f

/* A head's dimensions past its whole vectors of 16 may take half a vector when they are 8 or fewer: two pairs of positions by turns, whose
 * sums are added up at the end. All arrays lie at multiples of 64 bytes if the scratch does. */
typedef struct bf16_tile {
    const attention_tile *t;
    int64_t pairs, vectors;    /* of dimensions: pairs, whole vectors (the last one filled up) */
    bool half;                 /* and half a one behind them */
    int64_t pad;               /* values of acc a row */
    int64_t q_stride;          /* pairs a row of q, a multiple of 16 */
    int64_t low, high;         /* the positions that rows see */
    int64_t prefetched;        /* the position up to which memory has been called for */
    int64_t start;             /* the span whose values are loaded */
    uint64_t special;          /* its positions with infinities or NaN, for which zeros are loaded */
    uint32_t *keys;            /* [q_stride][SPAN] of a span, two bfloat16 each; those past pairs are not written */
    uint32_t *values, *halves; /* [SPAN / 2][vectors * LANES]; [SPAN / 4][8][2] */
    float *acc, *sum;          /* [rows][pad], [rows][LANES] */
    float *base;               /* [rows][LANES], all the same: minus where exponents count from */
    uint32_t *q;               /* [rows][q_stride], zeros behind pairs */
    float *limit;              /* [rows]: by how much a score may lie above */
} bf16_tile;

SIMD __m128 pairs_of(__m256 a) {
    return _mm_castsi128_ps((__m128i)_mm256_cvtneps_pbh(a));
}

/* x[n] as pairs, times scale. */
static void load_query(const float *x, int64_t n, float scale, uint32_t *out) {
    for (int64_t d = 0; d < n; d += 8) {
        const __mmask8 some = (__mmask8)(n - d < 8 ? (1u << (n - d)) - 1 : 255);
        const __m256 v = _mm256_mul_ps(_mm256_maskz_loadu_ps(some, x + d), _mm256_set1_ps(scale));
        const int64_t pairs = (n - d + 1) / 2;
        _mm_mask_storeu_epi32(out + d / 2, (__mmask8)(pairs < 4 ? (1u << pairs) - 1 : 15), _mm_castps_si128(pairs_of(v)));
    }
}

/* How many positions of the span from `start` on are seen by some row or lie before one. */
static int64_t loaded(const bf16_tile *s, int64_t start) {
    return s->high - start < SPAN ? s->high - start : SPAN;
}

/* Prefetches n more positions of the span behind the one that starts there. */
static void prefetch(bf16_tile *s, int64_t start, int64_t n) {
    const int64_t from = s->prefetched > start + SPAN ? s->prefetched : start + SPAN, end = start + 2 * SPAN < s->high ? start + 2 * SPAN : s->high;
    s->prefetched = from + n < end ? from + n : end;
    attention_prefetch(s->t, from, s->prefetched);
}

/* keys[p][i] = k[start + i][2 p, 2 p + 1], zeros behind the last one seen. */
static void load_keys(const bf16_tile *s, int64_t start) {
    const int64_t dim = s->t->head_dim, stride = s->t->kv_stride, n = loaded(s, start);
    const float *k = s->t->k + start * stride;
    for (int64_t i = 0; i < SPAN; i += 4) {
        for (int64_t d = 0; d < dim; d += 8) {
            const __mmask8 some = (__mmask8)(dim - d < 8 ? (1u << (dim - d)) - 1 : 255);
            v4 r[4];
            UNROLL for (int j = 0; j < 4; j++) {
                r[j] = i + j < n ? pairs_of(_mm256_maskz_loadu_ps(some, k + (i + j) * stride + d)) : _mm_setzero_ps();
            }
            v4_transpose(r);
            UNROLL for (int j = 0; j < 4; j++) {
                if (d / 2 + j < s->pairs) {
                    v4_store((float *)(s->keys + (d / 2 + j) * SPAN + i), r[j]);
                }
            }
        }
    }
}

SIMD __m512i words_of(vf a) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
}

/* values[p][d] = v[2 p, 2 p + 1][d], halves[p][d][j] = v[4 p + 2 j, 4 p + 2 j + 1][16 vectors + d], positions counted from `start`; zeros
 * behind the last one seen, and up to whole vectors. */
static void load_values(bf16_tile *s, int64_t start) {
    const int64_t dim = s->t->head_dim, stride = s->t->kv_stride, whole = s->vectors * LANES, n = loaded(s, start);
    const float *v = s->t->v + start * stride;
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    s->start = start;
    s->special = 0;
    for (int64_t i = 0; i < SPAN; i += 2) {
        for (int64_t d = 0; d < dim; d += LANES) {
            const float *a = v + i * stride + d;
            const __mmask16 some = first_lanes(dim - d < LANES ? dim - d : LANES);
            const __m512i low = words_of(i < n ? _mm512_maskz_loadu_ps(some, a) : vf_set(0.0f));
            const __m512i high = words_of(i + 1 < n ? _mm512_maskz_loadu_ps(some, a + stride) : vf_set(0.0f));
            __m512i both = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
            const __mmask32 finite = _mm512_cmpneq_epi16_mask(_mm512_and_si512(both, exponent), exponent);
            s->special |= finite != 0xffffffff ? 3ull << i : 0;
            both = _mm512_maskz_mov_epi16(finite, both);
            if (d < whole) {
                _mm512_storeu_si512(s->values + i / 2 * whole + d, both);
            } else {
                uint32_t *to = s->halves + i / 4 * LANES + i / 2 % 2;
                _mm512_mask_i32scatter_epi32(to, 0xff, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0), both, 4);
            }
        }
    }
}

/* 2^x for x <= 8, relative error 7.5e-5; at least 2^-126. x = n + r, |r| <= 1 / 2: adding 1.5 * 2^23 leaves n in the lowest bits. */
SIMD vf exp2_coarse(vf x) {
    const vf shift = vf_set(0x1.8p23f);
    x = vf_max(vf_set(-126.0f), x); /* in this order NaN stays */
    const vf n = vf_add(x, shift), r = vf_sub(x, vf_sub(n, shift));
    vf p = vf_fma(vf_set(0.0551716691f), r, vf_set(0.242611122f));
    p = vf_fma(p, r, vf_set(0.693260985f));
    p = vf_fma(p, r, vf_set(0.999928074f));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}

/* The row's exponents count from `rise` more. */
static void rescale(bf16_tile *s, int64_t row, float rise) {
    const vf shrink = vf_set(s->limit[row] < 0 ? 0.0f : exp2f(-rise)); /* nothing there yet: rise may be anything */
    vf_store(s->sum + row * LANES, vf_mul(vf_load(s->sum + row * LANES), shrink));
    for (int64_t d = 0; d < s->pad; d += LANES) {
        vf_store(s->acc + row * s->pad + d, vf_mul(vf_load(s->acc + row * s->pad + d), shrink));
    }
    vf_store(s->base + row * LANES, vf_sub(vf_load(s->base + row * LANES), vf_set(rise)));
    s->limit[row] = HEADROOM;
}

/* The lanes of a span that lie in [from, to). */
SIMD uint64_t lanes_in(int64_t from, int64_t to) {
    return (to < SPAN ? (1ull << to) - 1 : ~0ull) & ~0ull << from;
}

/* out[SPAN] = 2^x as bfloat16 of one row, x as counted from its base; 0 outside [from, to). */
SIMD void softmax(bf16_tile *s, int64_t row, vf *x, int64_t from, int64_t to, uint32_t *out) {
    if (to - from < SPAN) {
        const uint64_t seen = lanes_in(from, to);
        UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
            x[m] = vf_select((vmask)(seen >> m * LANES), x[m], vf_set(-INFINITY));
        }
    }
    const vf largest = vf_max(vf_max(x[0], x[1]), vf_max(x[2], x[3]));
    if (_mm512_cmp_ps_mask(largest, vf_set(s->limit[row]), _CMP_NLE_UQ)) {
        const float rise = vf_largest(largest);
        rescale(s, row, rise);
        UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
            x[m] = vf_sub(x[m], vf_set(rise));
        }
    }
    vf e[SPAN_VECTORS];
    UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
        e[m] = exp2_coarse(x[m]);
    }
    const vf total = vf_add(vf_add(e[0], e[1]), vf_add(e[2], e[3]));
    vf_store(s->sum + row * LANES, vf_add(vf_load(s->sum + row * LANES), total));
    UNROLL for (int m = 0; m < SPAN_VECTORS; m += 2) {
        _mm512_storeu_si512(out + m * LANES / 2, (__m512i)_mm512_cvtne2ps_pbh(e[m + 1], e[m]));
    }
}

SIMD float *acc_at(const bf16_tile *s, int64_t row, int64_t d) {
    const int64_t whole = s->vectors * LANES;
    return s->acc + row * s->pad + (d < whole ? d : 2 * d - whole);
}

/* Infinities and NaN among the values are added up here, for the rows alone that see them: 0 * NaN is not 0. */
static void add_special(const bf16_tile *s, int64_t row, const uint32_t *p, int64_t from, int64_t to) {
    for (uint64_t left = s->special & lanes_in(from, to); left; left &= left - 1) {
        const int i = __builtin_ctzll(left);
        const float w = bf16_to_f32((uint16_t)(p[i / 2] >> i % 2 * 16)), *v = s->t->v + (s->start + i) * s->t->kv_stride;
        for (int64_t d = 0; d < s->t->head_dim; d++) {
            *acc_at(s, row, d) += isfinite(bf16_to_f32(bf16_from_f32(v[d]))) ? 0.0f : w * v[d];
        }
    }
}

/* The part of a row's range in the span from `start` on, counted from there; whether there is one. */
static bool part_of(const attention_tile *t, int64_t row, int64_t start, int64_t *from, int64_t *to) {
    *from = t->first[row] > start ? t->first[row] - start : 0;
    *to = t->end[row] < start + SPAN ? t->end[row] - start : SPAN;
    return *from < *to;
}

/* halves: whether the kernel has use for them. Returns the tile with its arrays in scratch, rows up to a multiple of 16. */
static bf16_tile bf16_begin(const attention_tile *t, bool halves, float *scratch) {
    const int64_t dim = t->head_dim, rows = (t->rows + LANES - 1) / LANES * LANES, rest = dim % LANES;
    bf16_tile s = {.t = t, .pairs = (dim + 1) / 2, .half = halves && rest > 0 && rest <= LANES / 2, .low = INT64_MAX};
    s.vectors = dim / LANES + (rest > 0 && !s.half);
    s.pad = (s.vectors + s.half) * LANES;
    s.q_stride = (s.pairs + LANES - 1) / LANES * LANES;
    s.keys = (uint32_t *)scratch;
    s.values = s.keys + s.q_stride * SPAN;
    s.halves = s.values + SPAN / 2 * s.vectors * LANES;
    s.acc = (float *)(s.halves + SPAN / 4 * LANES);
    s.sum = s.acc + rows * s.pad;
    s.base = s.sum + rows * LANES;
    s.q = (uint32_t *)(s.base + rows * LANES);
    s.limit = (float *)(s.q + rows * s.q_stride);
    memset(s.acc, 0, (size_t)(s.limit - s.acc) * sizeof *s.acc);
    for (int64_t r = 0; r < t->rows; r++) {
        if (t->first[r] < t->end[r]) {
            s.low = t->first[r] < s.low ? t->first[r] : s.low;
            s.high = t->end[r] > s.high ? t->end[r] : s.high;
        }
        load_query(t->q + r * t->q_stride, dim, t->scale * 1.44269504f, s.q + r * s.q_stride);
        s.limit[r] = -INFINITY;
    }
    s.low = s.low < s.high ? s.low / SPAN * SPAN : s.high;
    return s;
}

static void bf16_end(const bf16_tile *s) {
    const attention_tile *t = s->t;
    for (int64_t r = 0; r < t->rows; r++) {
        const float sum = vf_sum(vf_load(s->sum + r * LANES)), inverse = sum == 0 ? 0.0f : 1.0f / sum;
        float *y = t->y + r * t->y_stride;
        for (int64_t d = 0; d < t->head_dim; d++) {
            const float *acc = acc_at(s, r, d);
            y[d] = (d < s->vectors * LANES ? acc[0] : acc[0] + acc[1]) * inverse;
        }
    }
}

#endif
