/* Softmax attention on vectors: scores of up to 64 positions, then their weighted values, for QUERIES query vectors at a time where
 * there are as many. Each has its own accumulators, which run through the head in order, so none depends on its company. */
#ifndef OMNI_CPU_SIMD_ATTENTION_H
#define OMNI_CPU_SIMD_ATTENTION_H

#include <math.h>

#include "cpu/kernels.h"

enum { SCORES = ATTENTION_SPAN + LANES };

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
    SIMD void name(attention_state *s, int h, const attention_span *span, float(*p)[SCORES], const float *shrink, int64_t i, int COUNT,              \
                   int VECTORS) {                                                                                                                    \
        vf acc[QUERIES][4];                                                                                                                          \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            UNROLL for (int m = 0; m < VECTORS; m++) {                                                                                               \
                acc[j][m] = vf_mul(vf_load(s->acc[h + j] + i + m * LANES), vf_set(shrink[j]));                                                       \
            }                                                                                                                                        \
        }                                                                                                                                            \
        const type *v = (const type *)span->v + i;                                                                                                   \
        for (int64_t t = 0; t < span->n; t++, v += span->v_stride) {                                                                                 \
            vf x[4];                                                                                                                                 \
            UNROLL for (int m = 0; m < VECTORS; m++) {                                                                                               \
                x[m] = load(v + m * LANES);                                                                                                          \
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
    SIMD void name(attention_state *s, int h, const attention_span *span, float(*p)[SCORES], const float *shrink, int64_t i, int COUNT) {            \
        const int64_t rest = s->head_dim - i;                                                                                                        \
        vf acc[QUERIES];                                                                                                                             \
        UNROLL for (int j = 0; j < COUNT; j++) {                                                                                                     \
            acc[j] = vf_mul(vf_load_part(s->acc[h + j] + i, rest), vf_set(shrink[j]));                                                               \
        }                                                                                                                                            \
        const type *v = (const type *)span->v + i;                                                                                                   \
        for (int64_t t = 0; t < span->n; t++, v += span->v_stride) {                                                                                 \
            const vf x = load_part(v, rest);                                                                                                         \
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

/* COUNT queries from h on through one span. The values are called for while the scores are computed. Positions behind the last one repeat it for
 * their scores and then weigh nothing. */
#define ATTENTION_QUERIES(name, type, scores, values, values_part)                                                                                   \
    SIMD void name(attention_state *s, const attention_span *span, int h, int COUNT) {                                                               \
        float p[QUERIES][SCORES], shrink[QUERIES];                                                                                                   \
        const type *k = span->k;                                                                                                                     \
        const int64_t n = span->n, last = n - 1;                                                                                                     \
        for (int64_t t = 0; t < n; t += 4) {                                                                                                         \
            const type *at[4];                                                                                                                       \
            UNROLL for (int m = 0; m < 4; m++) {                                                                                                     \
                at[m] = k + (t + m < n ? t + m : last) * span->k_stride;                                                                             \
            }                                                                                                                                        \
            for (int64_t m = t; h == span->from && m < t + 4 && m < n; m++) {                                                                        \
                for (int64_t i = 0; i < s->head_dim; i += 64 / (int64_t)sizeof(type)) {                                                              \
                    __builtin_prefetch((const type *)span->v + m * span->v_stride + i);                                                              \
                }                                                                                                                                    \
            }                                                                                                                                        \
            scores(s, h, at, p, t, COUNT);                                                                                                           \
        }                                                                                                                                            \
        for (int j = 0; j < COUNT; j++) {                                                                                                            \
            shrink[j] = attention_weights(s, h + j, p[j], n);                                                                                        \
        }                                                                                                                                            \
        int64_t i = 0;                                                                                                                               \
        for (; i + 4 * LANES <= s->head_dim; i += 4 * LANES) {                                                                                       \
            values(s, h, span, p, shrink, i, COUNT, 4);                                                                                              \
        }                                                                                                                                            \
        for (; i + LANES <= s->head_dim; i += LANES) {                                                                                               \
            values(s, h, span, p, shrink, i, COUNT, 1);                                                                                              \
        }                                                                                                                                            \
        if (i < s->head_dim) {                                                                                                                       \
            values_part(s, h, span, p, shrink, i, COUNT);                                                                                            \
        }                                                                                                                                            \
    }

#define ATTENTION(name, queries)                                                                                                                     \
    static void name(attention_state *s, const attention_span *span) {                                                                               \
        int h = span->from;                                                                                                                          \
        for (; h + QUERIES <= span->to; h += QUERIES) {                                                                                              \
            queries(s, span, h, QUERIES);                                                                                                            \
        }                                                                                                                                            \
        for (; h < span->to; h++) {                                                                                                                  \
            queries(s, span, h, 1);                                                                                                                  \
        }                                                                                                                                            \
    }

ATTENTION_SCORES(scores_f32, float, vf_load, vf_load_part)
ATTENTION_SCORES(scores_f16, uint16_t, vf_load_f16, vf_load_f16_part)
ATTENTION_VALUES(values_f32, float, vf_load)
ATTENTION_VALUES(values_f16, uint16_t, vf_load_f16)
ATTENTION_VALUES_PART(values_part_f32, float, vf_load_part)
ATTENTION_VALUES_PART(values_part_f16, uint16_t, vf_load_f16_part)
ATTENTION_QUERIES(queries_f32, float, scores_f32, values_f32, values_part_f32)
ATTENTION_QUERIES(queries_f16, uint16_t, scores_f16, values_f16, values_part_f16)
ATTENTION(simd_attend_f32, queries_f32)
ATTENTION(simd_attend_f16, queries_f16)

#endif
