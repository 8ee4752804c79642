/* Attention of many rows of one head with dot products of bfloat16 pairs, as simd_dense.h otherwise does it: spans of 64 positions, blocks
 * of rows that share each load. Keys are turned so that a vector holds a pair of dimensions of 16 positions; values so that one holds a pair
 * of positions of 16 dimensions. Sums are float32. Compiled for AVX-512 BF16 and called only where the processor has it. */
#include <float.h>
#include <math.h>

#include "cpu/kernels.h"
#include "cpu/simd_avx512.h"

#define UNROLL _Pragma("GCC unroll 16")

/* Six rows times four vectors of positions, or five of values, leave room for what they are multiplied by. */
enum { SPAN = ATTENTION_SPAN, ROWS = 6, SPAN_VECTORS = SPAN / LANES, VALUE_VECTORS = 5 };

/* A row's exponents count from the largest score that it had seen when that last grew by more than this power of two: larger sums do no
 * harm, and most spans then need no look at single lanes. */
#define HEADROOM 8.0f

typedef struct coarse_tile {
    const attention_tile *t;
    int64_t pairs, pad;      /* of dimensions; head_dim in whole vectors */
    uint32_t *keys, *values; /* [pairs][SPAN], [SPAN / 2][pad] of the current span: two bfloat16 each */
    float *acc, *sum;        /* [rows][pad], [rows][LANES] */
    float *max;              /* [rows] */
    uint32_t *q;             /* [rows][pairs] */
} coarse_tile;

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

/* keys[p][i] = k[i][2 p, 2 p + 1] for i < n, zeros behind them. */
static void load_keys(const coarse_tile *s, const float *k, int64_t n) {
    const int64_t dim = s->t->head_dim, stride = s->t->kv_stride;
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

/* values[p][d] = v[2 p, 2 p + 1][d], zeros from position n and dimension head_dim on. */
static void load_values(const coarse_tile *s, const float *v, int64_t n) {
    const int64_t dim = s->t->head_dim, stride = s->t->kv_stride;
    for (int64_t i = 0; i < n; i += 2) {
        for (int64_t d = 0; d < s->pad; d += LANES) {
            const float *a = v + i * stride + d;
            const __mmask16 some = first_lanes(dim - d < LANES ? dim - d : LANES);
            const __m512i low = words_of(_mm512_maskz_loadu_ps(some, a));
            const __m512i high = i + 1 < n ? words_of(_mm512_maskz_loadu_ps(some, a + stride)) : _mm512_setzero_si512();
            _mm512_storeu_si512(s->values + i / 2 * s->pad + d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

SIMD vf dot_pairs(vf sum, __m512i a, uint32_t b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32((int)b), (__m512bh)a);
}

/* 2^x, relative error 7.5e-5: 2^(x - floor x) as a polynomial. */
SIMD vf exp2_coarse(vf x) {
    const vf r = _mm512_reduce_ps(x, 0x09);
    vf p = vf_fma(vf_set(0.0780245226f), r, vf_set(0.226067155f));
    p = vf_fma(p, r, vf_set(0.69583354f));
    p = vf_fma(p, r, vf_set(0.999925219f));
    return _mm512_scalef_ps(p, x);
}

/* A row's sums so far, now that its exponents count from `next`. */
static void rescale(coarse_tile *s, int64_t row, float next) {
    const vf shrink = vf_set(exp2f(s->max[row] - next));
    vf_store(s->sum + row * LANES, vf_mul(vf_load(s->sum + row * LANES), shrink));
    for (int64_t d = 0; d < s->pad; d += LANES) {
        vf_store(s->acc + row * s->pad + d, vf_mul(vf_load(s->acc + row * s->pad + d), shrink));
    }
    s->max[row] = next;
}

/* out[SPAN] = e^(score - max) as bfloat16 of one row. */
SIMD void softmax(coarse_tile *s, int64_t row, const vf *x, uint32_t *out) {
    const vf largest = vf_max(vf_max(x[0], x[1]), vf_max(x[2], x[3]));
    if (_mm512_cmp_ps_mask(largest, vf_set(s->max[row] + HEADROOM), _CMP_NLE_UQ)) {
        rescale(s, row, vf_largest(largest));
    }
    const vf max = vf_set(s->max[row]);
    vf e[SPAN_VECTORS];
    UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
        e[m] = exp2_coarse(vf_sub(x[m], max));
    }
    const vf total = vf_add(vf_add(e[0], e[1]), vf_add(e[2], e[3]));
    vf_store(s->sum + row * LANES, vf_add(vf_load(s->sum + row * LANES), total));
    UNROLL for (int m = 0; m < SPAN_VECTORS; m += 2) {
        _mm512_storeu_si512(out + m * LANES / 2, (__m512i)_mm512_cvtne2ps_pbh(e[m + 1], e[m]));
    }
}

/* acc[row + j][d ...] += sum over pairs of positions of p[j] values; N rows, VECTORS vectors. */
SIMD void add_values(const coarse_tile *s, int64_t row, const uint32_t (*p)[SPAN / 2], int64_t from, int64_t to, int64_t d, int N, int VECTORS) {
    vf acc[ROWS][VALUE_VECTORS];
    float *a = s->acc + row * s->pad + d;
    UNROLL for (int j = 0; j < N; j++) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            acc[j][m] = vf_load(a + j * s->pad + m * LANES);
        }
    }
    const uint32_t *v = s->values + from * s->pad + d;
    for (int64_t i = from; i < to; i++, v += s->pad) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            const __m512i w = _mm512_loadu_si512(v + m * LANES);
            UNROLL for (int j = 0; j < N; j++) {
                acc[j][m] = dot_pairs(acc[j][m], w, p[j][i]);
            }
        }
    }
    UNROLL for (int j = 0; j < N; j++) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            vf_store(a + j * s->pad + m * LANES, acc[j][m]);
        }
    }
}

/* N rows from `row` on, which all see [from, to) of the span. */
SIMD void add_span(coarse_tile *s, int64_t row, int64_t from, int64_t to, int N) {
    uint32_t p[ROWS][SPAN / 2];
    {
        vf x[ROWS][SPAN_VECTORS];
        UNROLL for (int j = 0; j < N; j++) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                x[j][m] = vf_set(0.0f);
            }
        }
        const uint32_t *q = s->q + row * s->pairs, *k = s->keys;
        for (int64_t i = 0; i < s->pairs; i++, k += SPAN) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                const __m512i w = _mm512_loadu_si512(k + m * LANES);
                UNROLL for (int j = 0; j < N; j++) {
                    x[j][m] = dot_pairs(x[j][m], w, q[j * s->pairs + i]);
                }
            }
        }
        if (to - from < SPAN) {
            const uint64_t seen = (to < SPAN ? (1ull << to) - 1 : ~0ull) & ~0ull << from;
            UNROLL for (int j = 0; j < N; j++) {
                UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                    x[j][m] = vf_select((vmask)(seen >> m * LANES), x[j][m], vf_set(-INFINITY));
                }
            }
        }
        UNROLL for (int j = 0; j < N; j++) {
            softmax(s, row + j, x[j], p[j]);
        }
    }
    from /= 2;
    to = (to + 1) / 2;
    for (int64_t d = 0, left = s->pad / LANES; left > 0;) {
        const int64_t n = left == VALUE_VECTORS ? VALUE_VECTORS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (n == VALUE_VECTORS) {
            add_values(s, row, p, from, to, d, N, VALUE_VECTORS);
        } else if (n == 4) {
            add_values(s, row, p, from, to, d, N, 4);
        } else if (n == 2) {
            add_values(s, row, p, from, to, d, N, 2);
        } else {
            add_values(s, row, p, from, to, d, N, 1);
        }
        left -= n;
        d += n * LANES;
    }
}

static void add_span_rows(coarse_tile *s, int64_t row, int64_t from, int64_t to) {
    add_span(s, row, from, to, ROWS);
}

static void add_span_row(coarse_tile *s, int64_t row, int64_t from, int64_t to) {
    add_span(s, row, from, to, 1);
}

/* The part of a row's range in the span from `start` on, counted from there; whether there is one. */
static bool part_of(const attention_tile *t, int64_t row, int64_t start, int64_t *from, int64_t *to) {
    *from = t->first[row] > start ? t->first[row] - start : 0;
    *to = t->end[row] < start + SPAN ? t->end[row] - start : SPAN;
    return *from < *to;
}

static void attend_tile_coarse(const attention_tile *t, float *scratch) {
    const int64_t dim = t->head_dim, rows = t->rows;
    coarse_tile s = {.t = t, .pairs = (dim + 1) / 2, .pad = (dim + LANES - 1) / LANES * LANES};
    s.keys = (uint32_t *)scratch;
    s.values = s.keys + s.pairs * SPAN;
    s.acc = (float *)(s.values + SPAN / 2 * s.pad);
    s.sum = s.acc + rows * s.pad;
    s.max = s.sum + rows * LANES;
    s.q = (uint32_t *)(s.max + rows);
    int64_t low = INT64_MAX, high = 0;
    for (int64_t r = 0; r < rows; r++) {
        if (t->first[r] < t->end[r]) {
            low = t->first[r] < low ? t->first[r] : low;
            high = t->end[r] > high ? t->end[r] : high;
        }
        load_query(t->q + r * t->q_stride, dim, t->scale * 1.44269504f, s.q + r * s.pairs);
        s.max[r] = -FLT_MAX;
    }
    memset(s.acc, 0, (size_t)(rows * (s.pad + LANES)) * sizeof *s.acc);
    for (int64_t start = low / SPAN * SPAN; start < high; start += SPAN) {
        const int64_t n = high - start < SPAN ? high - start : SPAN;
        load_keys(&s, t->k + start * t->kv_stride, n);
        load_values(&s, t->v + start * t->kv_stride, n);
        for (int64_t r = 0, same; r < rows; r += same) {
            int64_t from, to, from2, to2;
            const bool any = part_of(t, r, start, &from, &to);
            for (same = 1; same < ROWS && r + same < rows; same++) {
                part_of(t, r + same, start, &from2, &to2);
                if (from2 != from || to2 != to) {
                    break;
                }
            }
            if (any && same == ROWS) {
                add_span_rows(&s, r, from, to);
            } else if (any) {
                for (int64_t j = 0; j < same; j++) {
                    add_span_row(&s, r + j, from, to);
                }
            }
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        const float sum = vf_sum(vf_load(s.sum + r * LANES)), inverse = sum == 0 ? 0.0f : 1.0f / sum;
        for (int64_t d = 0; d < dim; d++) {
            t->y[r * t->y_stride + d] = s.acc[r * s.pad + d] * inverse;
        }
    }
}

void attention_avx512bf16(cpu_kernels *k) {
    k->attend_tile_coarse = attend_tile_coarse;
}
