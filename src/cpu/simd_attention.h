/* Softmax attention on vectors: scores of up to 64 positions, then their weighted values, for QUERIES query vectors at a time where
 * there are as many. Each has its own accumulators, which run through the head in order, so the result does not depend on the other rows. */
#ifndef OMNI_CPU_SIMD_ATTENTION_H
#define OMNI_CPU_SIMD_ATTENTION_H

#include <math.h>

#include "cpu/kernels.h"
#include "tensor/blocks.h"

enum { SCORES = sizeof(((attention_scores *)0)->p[0]) / sizeof(float) };

SIMD void store_scores(const vf (*acc)[4], int count, float scale, float (*p)[SCORES], int64_t t) {
    if (count == 4) {
        v4 sum[4];
        vf_sum16(acc[0], acc[1], acc[2], acc[3], sum);
        UNROLL for (int j = 0; j < 4; j++) {
            v4_store(p[j] + t, v4_scale(sum[j], scale));
        }
    } else {
        UNROLL for (int j = 0; j < count; j++) {
            v4_store(p[j] + t, v4_scale(vf_sum4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]), scale));
        }
    }
}

/* p[query][t .. t + 3] = scale * q . k for four positions; COUNT queries, a constant where this is called. */
#define ATTENTION_SCORES(name, type, load, load_part)                                                                                                \
    SIMD void name(const attention_state *s, int h, const type *const *k, float(*p)[SCORES], int64_t t, int COUNT) {                                 \
        vf acc[QUERIES][4];                                                                                                                          \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            UNROLL for (int m = 0; m < 4; m++) {                                                                                                     \
                acc[j][m] = vf_set(0.0f);                                                                                                            \
            }                                                                                                                                        \
        }                                                                                                                                            \
        const int64_t dim = s->head_dim;                                                                                                             \
        int64_t i = 0;                                                                                                                               \
        for (; i + LANES <= dim; i += LANES) {                                                                                                       \
            vf x[QUERIES];                                                                                                                           \
            UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                 \
                x[j] = vf_load(s->q[h + j] + i);                                                                                                     \
            }                                                                                                                                        \
            UNROLL for (int m = 0; m < 4; m++) {                                                                                                     \
                const vf v = load(k[m] + i);                                                                                                         \
                UNROLL for (int j = 0; j < COUNT; j++) {                                                                                             \
                    acc[j][m] = vf_fma(x[j], v, acc[j][m]);                                                                                          \
                }                                                                                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
        if (i < dim) {                                                                                                                               \
            UNROLL for (int m = 0; m < 4; m++) {                                                                                                     \
                const vf v = load_part(k[m] + i, dim - i);                                                                                           \
                UNROLL for (int j = 0; j < COUNT; j++) {                                                                                             \
                    acc[j][m] = vf_fma(vf_load_part(s->q[h + j] + i, dim - i), v, acc[j][m]);                                                        \
                }                                                                                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
        store_scores((const vf(*)[4])acc, COUNT, s->scale, p, t);                                                                                    \
    }

/* acc[i .. i + VECTORS * LANES) = acc * shrink + sum over t of p[t] v_t. */
#define ATTENTION_VALUES(name, type, load)                                                                                                           \
    SIMD void name(attention_state *s, int h, const attention_span *span, const float(*p)[SCORES], const float *shrink, int64_t i, int COUNT,        \
                   int VECTORS) {                                                                                                                    \
        vf acc[QUERIES][4];                                                                                                                          \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            UNROLL for (int m = 0; m < VECTORS; m++) {                                                                                               \
                acc[j][m] = vf_mul(vf_load(s->acc[h + j] + i + m * LANES), vf_set(shrink[j]));                                                       \
            }                                                                                                                                        \
        }                                                                                                                                            \
        const type *v = span->v;                                                                                                                     \
        for (int64_t t = 0; t < span->n; t++, v += span->v_stride) {                                                                                 \
            vf x[4];                                                                                                                                 \
            UNROLL for (int m = 0; m < VECTORS; m++) {                                                                                               \
                x[m] = load(v, i + m * LANES);                                                                                                       \
            }                                                                                                                                        \
            UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                 \
                const vf e = vf_set(p[j][t]);                                                                                                        \
                UNROLL for (int m = 0; m < VECTORS; m++) {                                                                                           \
                    acc[j][m] = vf_fma(e, x[m], acc[j][m]);                                                                                          \
                }                                                                                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            UNROLL for (int m = 0; m < VECTORS; m++) {                                                                                               \
                vf_store(s->acc[h + j] + i + m * LANES, acc[j][m]);                                                                                  \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

/* The same for the last, partial vector of a head. */
#define ATTENTION_VALUES_PART(name, type, load_part)                                                                                                 \
    SIMD void name(attention_state *s, int h, const attention_span *span, const float(*p)[SCORES], const float *shrink, int64_t i, int COUNT) {      \
        const int64_t rest = s->head_dim - i;                                                                                                        \
        vf acc[QUERIES];                                                                                                                             \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            acc[j] = vf_mul(vf_load_part(s->acc[h + j] + i, rest), vf_set(shrink[j]));                                                               \
        }                                                                                                                                            \
        const type *v = span->v;                                                                                                                     \
        for (int64_t t = 0; t < span->n; t++, v += span->v_stride) {                                                                                 \
            const vf x = load_part(v, i, rest);                                                                                                      \
            UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                 \
                acc[j] = vf_fma(vf_set(p[j][t]), x, acc[j]);                                                                                         \
            }                                                                                                                                        \
        }                                                                                                                                            \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            vf_store_part(s->acc[h + j] + i, acc[j], rest);                                                                                          \
        }                                                                                                                                            \
    }

/* Turns scores into e^(score - max), updates the state's maximum and sum; returns what shrinks the earlier sums. p has whole vectors of
 * room behind n. */
SIMD float attention_weights(attention_state *s, int h, float *p, int64_t n) {
    for (int64_t t = n; t % LANES != 0; t++) {
        p[t] = -INFINITY;
    }
    vf most = vf_set(s->max[h]);
    for (int64_t t = 0; t < n; t += LANES) {
        most = vf_max(most, vf_load(p + t));
    }
    const float max = vf_largest(most);
    vf sum = vf_set(0.0f);
    for (int64_t t = 0; t < n; t += LANES) {
        const vf e = vf_exp(vf_sub(vf_load(p + t), vf_set(max)));
        sum = vf_add(sum, e);
        vf_store(p + t, e);
    }
    const float shrink = s->max[h] == max ? 1.0f : expf(s->max[h] - max);
    s->sum[h] = s->sum[h] * shrink + vf_sum(sum);
    s->max[h] = max;
    return shrink;
}

/* Prefetches the values of positions [t, t + n) while scores are computed: all at once would crowd out the keys. */
SIMD void attention_prefetch_span(const attention_span *span, int64_t t, int64_t n) {
    const int64_t end = t + n < span->n ? t + n : span->n;
    for (size_t at = (size_t)t * span->v_bytes; at < (size_t)end * span->v_bytes; at += 64) {
        __builtin_prefetch((const char *)span->v + at);
    }
}

/* Positions behind the last one repeat it for their scores and then weigh nothing. */
#define ATTENTION_KEYS(name, type, scores)                                                                                                           \
    SIMD void name##_some(const attention_state *s, const attention_span *span, int h, attention_scores *w, int COUNT) {                             \
        const type *k = span->k;                                                                                                                     \
        const int64_t n = span->n, last = n - 1;                                                                                                     \
        for (int64_t t = 0; t < n; t += 4) {                                                                                                         \
            const type *at[4];                                                                                                                       \
            UNROLL for (int m = 0; m < 4; m++) {                                                                                                     \
                at[m] = k + (t + m < n ? t + m : last) * span->k_stride;                                                                             \
            }                                                                                                                                        \
            if (h == span->from) {                                                                                                                   \
                attention_prefetch_span(span, t, 4);                                                                                                 \
            }                                                                                                                                        \
            scores(s, h, at, w->p + h, t, COUNT);                                                                                                    \
        }                                                                                                                                            \
    }                                                                                                                                                \
    static void name(const attention_state *s, const attention_span *span, attention_scores *w) {                                                    \
        int h = span->from;                                                                                                                          \
        for (; h + QUERIES <= span->to; h += QUERIES) {                                                                                              \
            name##_some(s, span, h, w, QUERIES);                                                                                                     \
        }                                                                                                                                            \
        for (; h < span->to; h++) {                                                                                                                  \
            name##_some(s, span, h, w, 1);                                                                                                           \
        }                                                                                                                                            \
    }

#define ATTENTION_SUMS(name, values, values_part)                                                                                                    \
    SIMD void name##_some(attention_state *s, const attention_span *span, int h, const attention_scores *w, int COUNT) {                             \
        int64_t i = 0;                                                                                                                               \
        for (; i + 4 * LANES <= s->head_dim; i += 4 * LANES) {                                                                                       \
            values(s, h, span, w->p + h, w->shrink + h, i, COUNT, 4);                                                                                \
        }                                                                                                                                            \
        for (; i + LANES <= s->head_dim; i += LANES) {                                                                                               \
            values(s, h, span, w->p + h, w->shrink + h, i, COUNT, 1);                                                                                \
        }                                                                                                                                            \
        if (i < s->head_dim) {                                                                                                                       \
            values_part(s, h, span, w->p + h, w->shrink + h, i, COUNT);                                                                              \
        }                                                                                                                                            \
    }                                                                                                                                                \
    static void name(attention_state *s, const attention_span *span, const attention_scores *w) {                                                    \
        int h = span->from;                                                                                                                          \
        for (; h + QUERIES <= span->to; h += QUERIES) {                                                                                              \
            name##_some(s, span, h, w, QUERIES);                                                                                                     \
        }                                                                                                                                            \
        for (; h < span->to; h++) {                                                                                                                  \
            name##_some(s, span, h, w, 1);                                                                                                           \
        }                                                                                                                                            \
    }

static void simd_attend_weights(attention_state *s, const attention_span *span, attention_scores *w) {
    for (int h = span->from; h < span->to; h++) {
        w->shrink[h] = attention_weights(s, h, w->p[h], span->n);
    }
}

SIMD vf row_f32(const float *row, int64_t i) {
    return vf_load(row + i);
}

SIMD vf row_f16(const uint16_t *row, int64_t i) {
    return vf_load_f16(row + i);
}

SIMD vf row_q8_0(const block_q8_0 *row, int64_t i) {
    return vf_mul(vf_set_f16((const uint8_t *)(row + i / QK)), vf_load_i8(row[i / QK].qs + i % QK));
}

SIMD vf row_f32_part(const float *row, int64_t i, int64_t n) {
    return vf_load_part(row + i, n);
}

SIMD vf row_f16_part(const uint16_t *row, int64_t i, int64_t n) {
    return vf_load_f16_part(row + i, n);
}

/* Heads in Q8_0 are whole blocks, and so whole vectors. */
SIMD vf row_q8_0_part(const block_q8_0 *row, int64_t i, int64_t n) {
    return row_q8_0(row, i);
}

ATTENTION_SCORES(scores_f32, float, vf_load, vf_load_part)
ATTENTION_SCORES(scores_f16, uint16_t, vf_load_f16, vf_load_f16_part)
ATTENTION_VALUES(values_f32, float, row_f32)
ATTENTION_VALUES(values_f16, uint16_t, row_f16)
ATTENTION_VALUES(values_q8_0, block_q8_0, row_q8_0)
ATTENTION_VALUES_PART(values_part_f32, float, row_f32_part)
ATTENTION_VALUES_PART(values_part_f16, uint16_t, row_f16_part)
ATTENTION_VALUES_PART(values_part_q8_0, block_q8_0, row_q8_0_part)
ATTENTION_KEYS(simd_attend_keys_f32, float, scores_f32)
ATTENTION_KEYS(simd_attend_keys_f16, uint16_t, scores_f16)
ATTENTION_SUMS(simd_attend_values_f32, values_f32, values_part_f32)
ATTENTION_SUMS(simd_attend_values_f16, values_f16, values_part_f16)
ATTENTION_SUMS(simd_attend_values_q8_0, values_q8_0, values_part_q8_0)

#endif
