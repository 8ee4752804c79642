/* Attention of many rows of one head with dot products of bfloat16 pairs (simd_bf16.h): blocks of rows share each load. Compiled for
 * AVX-512 BF16 and called only where the processor has it. */
#include "cpu/simd_bf16.h"

/* Six rows times four vectors leave room for what they are multiplied by. */
enum { ROWS = 6, VALUE_VECTORS = 4 };

SIMD vf dot_pairs(vf sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)a);
}

/* acc[row + j][d ...] += sum over pairs of positions of p[j] values; N rows, VECTORS vectors. */
SIMD void add_values(const bf16_tile *s, int64_t row, const uint32_t (*p)[SPAN / 2], int64_t from, int64_t to, int64_t d, int N, int VECTORS) {
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

SIMD void add_halves(const bf16_tile *s, int64_t row, const uint32_t (*p)[SPAN / 2], int64_t from, int64_t to, int N) {
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
SIMD void add_span(bf16_tile *s, int64_t row, int64_t from, int64_t to, int N) {
    _Alignas(64) uint32_t p[ROWS][SPAN / 2];
    {
        vf x[ROWS][SPAN_VECTORS];
        UNROLL for (int j = 0; j < N; j++) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                x[j][m] = vf_load(s->base + (row + j) * LANES);
            }
        }
        const uint32_t *q = s->q + row * s->q_stride, *k = s->keys;
        for (int64_t i = 0; i < s->pairs; i++, k += SPAN) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                const __m512i w = _mm512_loadu_si512(k + m * LANES);
                UNROLL for (int j = 0; j < N; j++) {
                    x[j][m] = dot_pairs(x[j][m], w, _mm512_set1_epi32((int)q[j * s->q_stride + i]));
                }
            }
        }
        UNROLL for (int j = 0; j < N; j++) {
            softmax(s, row + j, x[j], from, to, p[j]);
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
    for (int j = 0; s->special && j < N; j++) {
        add_special(s, row + j, p[j], from, to);
    }
}

static void add_span_rows(bf16_tile *s, int64_t row, int64_t from, int64_t to) {
    add_span(s, row, from, to, ROWS);
}

static void add_span_row(bf16_tile *s, int64_t row, int64_t from, int64_t to) {
    add_span(s, row, from, to, 1);
}

static void attend_tile_bf16(const attention_tile *t, float *scratch) {
    bf16_tile s = bf16_begin(t, true, scratch);
    for (int64_t start = s.low; start < s.high; start += SPAN) {
        prefetch(&s, start, SPAN);
        load_keys(&s, start);
        load_values(&s, start);
        for (int64_t r = 0, same; r < t->rows; r += same) {
            int64_t from, to, from2, to2;
            const bool any = part_of(t, r, start, &from, &to);
            for (same = 1; same < ROWS && r + same < t->rows; same++) {
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
    bf16_end(&s);
}

void attention_avx512bf16(cpu_kernels *k) {
    k->attend_tile_bf16 = attend_tile_bf16;
}
