/* Attention of many rows of one head with dot products of bfloat16 pairs, as simd_dense.h otherwise does it: spans of 64 positions, blocks
 * of rows that share each load. Keys are turned so that a vector holds a pair of dimensions of 16 positions; values so that one holds a pair
 * of positions of 16 dimensions. Sums are float32. Compiled for AVX-512 BF16 and called only where the processor has it. */
#include <math.h>

#include "cpu/kernels.h"
#include "cpu/simd_avx512.h"

#define UNROLL _Pragma("GCC unroll 16")

/* Six rows times four vectors leave room for what they are multiplied by. */
enum { SPAN = ATTENTION_SPAN, ROWS = 6, SPAN_VECTORS = SPAN / LANES, VALUE_VECTORS = 4 };

/* A row's exponents count from the largest score that it had seen when that last grew by more than this power of two: larger sums do no
 * harm, and most spans then need no look at single lanes. */
#define HEADROOM 8.0f

/* A head's dimensions past its whole vectors of 16 take half a vector when they are 8 or fewer: two pairs of positions by turns, whose sums
 * are added up at the end. */
typedef struct coarse_tile {
    const attention_tile *t;
    int64_t pairs, vectors;    /* of dimensions: pairs, whole vectors (the last one filled up) */
    bool half;                 /* and half a one behind them */
    int64_t pad;               /* values of acc a row */
    uint32_t *keys;            /* [pairs][SPAN] of the current span, two bfloat16 each */
    uint32_t *values, *halves; /* [SPAN / 2][vectors * LANES]; [SPAN / 4][8][2] */
    float *acc, *sum;          /* [rows][pad], [rows][LANES] */
    float *max, *limit;        /* [rows]: where exponents count from; by how much a score may lie above */
    uint32_t *q;               /* [rows][pairs] */
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

/* values[p][d] = v[2 p, 2 p + 1][d], halves[p][d][j] = v[4 p + 2 j, 4 p + 2 j + 1][16 vectors + d]; zeros from position n on, and up to whole
 * vectors. */
static void load_values(const coarse_tile *s, const float *v, int64_t n) {
    const int64_t dim = s->t->head_dim, stride = s->t->kv_stride, whole = s->vectors * LANES;
    for (int64_t i = 0; i < (n + 3) / 4 * 4; i += 2) {
        for (int64_t d = 0; d < dim; d += LANES) {
            const float *a = v + i * stride + d;
            const __mmask16 some = first_lanes(dim - d < LANES ? dim - d : LANES);
            const __m512i low = words_of(i < n ? _mm512_maskz_loadu_ps(some, a) : vf_set(0.0f));
            const __m512i high = words_of(i + 1 < n ? _mm512_maskz_loadu_ps(some, a + stride) : vf_set(0.0f));
            const __m512i both = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
            if (d < whole) {
                _mm512_storeu_si512(s->values + i / 2 * whole + d, both);
            } else {
                uint32_t *to = s->halves + i / 4 * LANES + i / 2 % 2;
                _mm512_mask_i32scatter_epi32(to, 0xff, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0), both, 4);
            }
        }
    }
}

SIMD vf dot_pairs(vf sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)a);
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
static void rescale(coarse_tile *s, int64_t row, float rise) {
    const vf shrink = vf_set(s->limit[row] < 0 ? 0.0f : exp2f(-rise)); /* nothing there yet: rise may be anything */
    vf_store(s->sum + row * LANES, vf_mul(vf_load(s->sum + row * LANES), shrink));
    for (int64_t d = 0; d < s->pad; d += LANES) {
        vf_store(s->acc + row * s->pad + d, vf_mul(vf_load(s->acc + row * s->pad + d), shrink));
    }
    s->max[row] += rise;
    s->limit[row] = HEADROOM;
}

/* out[SPAN] = 2^x as bfloat16 of one row, x as counted from its max. */
SIMD void softmax(coarse_tile *s, int64_t row, const vf *x, uint32_t *out) {
    const vf largest = vf_max(vf_max(x[0], x[1]), vf_max(x[2], x[3]));
    vf rise = vf_set(0.0f);
    if (_mm512_cmp_ps_mask(largest, vf_set(s->limit[row]), _CMP_NLE_UQ)) {
        const float most = vf_largest(largest);
        rescale(s, row, most);
        rise = vf_set(most);
    }
    vf e[SPAN_VECTORS];
    UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
        e[m] = exp2_coarse(vf_sub(x[m], rise));
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
    const int64_t pad = s->pad, stride = s->vectors * LANES;
    float *a = s->acc + row * pad + d;
    UNROLL for (int j = 0; j < N; j++) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            acc[j][m] = vf_load(a + j * pad + m * LANES);
        }
    }
    const uint32_t *v = s->values + from / 2 * stride + d;
    for (int64_t i = from / 2; i < (to + 1) / 2; i++, v += stride) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            const __m512i w = _mm512_loadu_si512(v + m * LANES);
            UNROLL for (int j = 0; j < N; j++) {
                acc[j][m] = dot_pairs(acc[j][m], w, _mm512_set1_epi32((int)p[j][i]));
            }
        }
    }
    UNROLL for (int j = 0; j < N; j++) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            vf_store(a + j * pad + m * LANES, acc[j][m]);
        }
    }
}

SIMD void add_halves(const coarse_tile *s, int64_t row, const uint32_t (*p)[SPAN / 2], int64_t from, int64_t to, int N) {
    vf acc[ROWS];
    float *a = s->acc + row * s->pad + s->vectors * LANES;
    UNROLL for (int j = 0; j < N; j++) {
        acc[j] = vf_load(a + j * s->pad);
    }
    for (int64_t i = from / 4; i < (to + 3) / 4; i++) {
        const __m512i w = _mm512_loadu_si512(s->halves + i * LANES);
        UNROLL for (int j = 0; j < N; j++) {
            int64_t two;
            memcpy(&two, &p[j][2 * i], sizeof two);
            acc[j] = dot_pairs(acc[j], w, _mm512_set1_epi64(two));
        }
    }
    UNROLL for (int j = 0; j < N; j++) {
        vf_store(a + j * s->pad, acc[j]);
    }
}

/* N rows from `row` on, which all see [from, to) of the span. */
SIMD void add_span(coarse_tile *s, int64_t row, int64_t from, int64_t to, int N) {
    _Alignas(64) uint32_t p[ROWS][SPAN / 2];
    {
        vf x[ROWS][SPAN_VECTORS];
        UNROLL for (int j = 0; j < N; j++) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                x[j][m] = vf_set(-s->max[row + j]);
            }
        }
        const uint32_t *q = s->q + row * s->pairs, *k = s->keys;
        for (int64_t i = 0; i < s->pairs; i++, k += SPAN) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                const __m512i w = _mm512_loadu_si512(k + m * LANES);
                UNROLL for (int j = 0; j < N; j++) {
                    x[j][m] = dot_pairs(x[j][m], w, _mm512_set1_epi32((int)q[j * s->pairs + i]));
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
    int64_t d = 0;
    for (; d + VALUE_VECTORS <= s->vectors; d += VALUE_VECTORS) {
        add_values(s, row, p, from, to, d * LANES, N, VALUE_VECTORS);
    }
    if (d + 2 <= s->vectors) {
        add_values(s, row, p, from, to, d * LANES, N, 2);
        d += 2;
    }
    if (d < s->vectors) {
        add_values(s, row, p, from, to, d * LANES, N, 1);
    }
    if (s->half) {
        add_halves(s, row, p, from, to, N);
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
    coarse_tile s = {.t = t, .pairs = (dim + 1) / 2, .vectors = dim / LANES};
    s.half = dim % LANES > 0 && dim % LANES <= LANES / 2;
    s.vectors += dim % LANES > LANES / 2;
    s.pad = (s.vectors + s.half) * LANES;
    s.keys = (uint32_t *)scratch;
    s.values = s.keys + s.pairs * SPAN;
    s.halves = s.values + SPAN / 2 * s.vectors * LANES;
    s.acc = (float *)(s.halves + SPAN / 4 * LANES);
    s.sum = s.acc + rows * s.pad;
    s.max = s.sum + rows * LANES;
    s.limit = s.max + rows;
    s.q = (uint32_t *)(s.limit + rows);
    int64_t low = INT64_MAX, high = 0;
    for (int64_t r = 0; r < rows; r++) {
        if (t->first[r] < t->end[r]) {
            low = t->first[r] < low ? t->first[r] : low;
            high = t->end[r] > high ? t->end[r] : high;
        }
        load_query(t->q + r * t->q_stride, dim, t->scale * 1.44269504f, s.q + r * s.pairs);
        s.max[r] = 0;
        s.limit[r] = -INFINITY;
    }
    memset(s.acc, 0, (size_t)(rows * (s.pad + LANES)) * sizeof *s.acc);
    for (int64_t start = low / SPAN * SPAN; start < high; start += SPAN) {
        const int64_t n = high - start < SPAN ? high - start : SPAN;
        attention_call_ahead(t, start + SPAN, high);
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
        const int64_t whole = s.half ? s.vectors * LANES : dim;
        const float *acc = s.acc + r * s.pad;
        float *y = t->y + r * t->y_stride;
        for (int64_t d = 0; d < dim; d++) {
            y[d] = (d < whole ? acc[d] : acc[2 * d - whole] + acc[2 * d - whole + 1]) * inverse;
        }
    }
}

void attention_avx512bf16(cpu_kernels *k) {
    k->attend_tile_coarse = attend_tile_coarse;
}
