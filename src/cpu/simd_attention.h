/* Softmax attention on vectors: scores of up to 64 positions, then their weighted values. */
#ifndef OMNI_CPU_SIMD_ATTENTION_H
#define OMNI_CPU_SIMD_ATTENTION_H

#include <math.h>

#include "cpu/kernels.h"

/* q . k for four positions. */
#define ATTENTION_SCORES(name, type, load, load_part)                                                                                                \
    SIMD v4 name(const float *q, const type *k0, const type *k1, const type *k2, const type *k3, int64_t dim) {                                      \
        vf a = vf_set(0.0f), b = a, c = a, d = a;                                                                                                    \
        int64_t i = 0;                                                                                                                               \
        for (; i + LANES <= dim; i += LANES) {                                                                                                       \
            const vf x = vf_load(q + i);                                                                                                             \
            a = vf_fma(x, load(k0 + i), a);                                                                                                          \
            b = vf_fma(x, load(k1 + i), b);                                                                                                          \
            c = vf_fma(x, load(k2 + i), c);                                                                                                          \
            d = vf_fma(x, load(k3 + i), d);                                                                                                          \
        }                                                                                                                                            \
        if (i < dim) {                                                                                                                               \
            const vf x = vf_load_part(q + i, dim - i);                                                                                               \
            a = vf_fma(x, load_part(k0 + i, dim - i), a);                                                                                            \
            b = vf_fma(x, load_part(k1 + i, dim - i), b);                                                                                            \
            c = vf_fma(x, load_part(k2 + i, dim - i), c);                                                                                            \
            d = vf_fma(x, load_part(k3 + i, dim - i), d);                                                                                            \
        }                                                                                                                                            \
        return vf_sum4(a, b, c, d);                                                                                                                  \
    }

/* acc[dim] = acc * shrink + sum over t of p[t] v_t, four vectors of the head at a time. */
#define ATTENTION_VALUES(name, type, load, load_part)                                                                                                \
    SIMD void name(const float *p, const type *v, int64_t stride, int64_t n, float shrink, float *acc, int64_t dim) {                                \
        const vf keep = vf_set(shrink);                                                                                                              \
        int64_t i = 0;                                                                                                                               \
        for (; i + 4 * LANES <= dim; i += 4 * LANES) {                                                                                               \
            vf a = vf_mul(vf_load(acc + i), keep), b = vf_mul(vf_load(acc + i + LANES), keep);                                                       \
            vf c = vf_mul(vf_load(acc + i + 2 * LANES), keep), d = vf_mul(vf_load(acc + i + 3 * LANES), keep);                                       \
            for (int64_t t = 0; t < n; t++) {                                                                                                        \
                const type *from = v + t * stride + i;                                                                                               \
                const vf e = vf_set(p[t]);                                                                                                           \
                a = vf_fma(e, load(from), a);                                                                                                        \
                b = vf_fma(e, load(from + LANES), b);                                                                                                \
                c = vf_fma(e, load(from + 2 * LANES), c);                                                                                            \
                d = vf_fma(e, load(from + 3 * LANES), d);                                                                                            \
            }                                                                                                                                        \
            vf_store(acc + i, a);                                                                                                                    \
            vf_store(acc + i + LANES, b);                                                                                                            \
            vf_store(acc + i + 2 * LANES, c);                                                                                                        \
            vf_store(acc + i + 3 * LANES, d);                                                                                                        \
        }                                                                                                                                            \
        for (; i + LANES <= dim; i += LANES) {                                                                                                       \
            vf a = vf_mul(vf_load(acc + i), keep);                                                                                                   \
            for (int64_t t = 0; t < n; t++) {                                                                                                        \
                a = vf_fma(vf_set(p[t]), load(v + t * stride + i), a);                                                                               \
            }                                                                                                                                        \
            vf_store(acc + i, a);                                                                                                                    \
        }                                                                                                                                            \
        if (i < dim) {                                                                                                                               \
            vf a = vf_mul(vf_load_part(acc + i, dim - i), keep);                                                                                     \
            for (int64_t t = 0; t < n; t++) {                                                                                                        \
                a = vf_fma(vf_set(p[t]), load_part(v + t * stride + i, dim - i), a);                                                                 \
            }                                                                                                                                        \
            vf_store_part(acc + i, a, dim - i);                                                                                                      \
        }                                                                                                                                            \
    }

/* Positions behind the last one repeat it for their scores, and then get the weight 0. */
#define ATTENTION(name, type, scores, values)                                                                                                        \
    static void name(attention_state *s, const attention_span *span) {                                                                               \
        float p[ATTENTION_SPAN + LANES];                                                                                                             \
        const type *k = span->k;                                                                                                                     \
        const int64_t n = span->n, last = n - 1, stride = span->k_stride;                                                                            \
        for (int h = span->from; h < span->to; h++) {                                                                                                \
            const float *q = s->q[h];                                                                                                                \
            for (int64_t t = 0; t < n; t += 4) {                                                                                                     \
                const int64_t t1 = t + 1 < n ? t + 1 : last, t2 = t + 2 < n ? t + 2 : last, t3 = t + 3 < n ? t + 3 : last;                           \
                v4_store(p + t, v4_scale(scores(q, k + t * stride, k + t1 * stride, k + t2 * stride, k + t3 * stride, s->head_dim), s->scale));      \
            }                                                                                                                                        \
            for (int64_t t = n; t < (n + LANES - 1) / LANES * LANES; t++) {                                                                          \
                p[t] = -INFINITY;                                                                                                                    \
            }                                                                                                                                        \
            vf most = vf_set(s->max[h]);                                                                                                             \
            for (int64_t t = 0; t < n; t += LANES) {                                                                                                 \
                most = vf_max(most, vf_load(p + t));                                                                                                 \
            }                                                                                                                                        \
            const float max = vf_largest(most);                                                                                                      \
            const vf shift = vf_set(max);                                                                                                            \
            vf sum = vf_set(0.0f);                                                                                                                   \
            for (int64_t t = 0; t < n; t += LANES) {                                                                                                 \
                const vf e = vf_exp(vf_sub(vf_load(p + t), shift));                                                                                  \
                sum = vf_add(sum, e);                                                                                                                \
                vf_store(p + t, e);                                                                                                                  \
            }                                                                                                                                        \
            const float shrink = s->max[h] == max ? 1.0f : expf(s->max[h] - max);                                                                    \
            s->sum[h] = s->sum[h] * shrink + vf_sum(sum);                                                                                            \
            s->max[h] = max;                                                                                                                         \
            values(p, span->v, span->v_stride, n, shrink, s->acc[h], s->head_dim);                                                                   \
        }                                                                                                                                            \
    }

ATTENTION_SCORES(scores_f32, float, vf_load, vf_load_part)
ATTENTION_SCORES(scores_f16, uint16_t, vf_load_f16, vf_load_f16_part)
ATTENTION_VALUES(values_f32, float, vf_load, vf_load_part)
ATTENTION_VALUES(values_f16, uint16_t, vf_load_f16, vf_load_f16_part)
ATTENTION(simd_attend_f32, float, scores_f32, values_f32)
ATTENTION(simd_attend_f16, uint16_t, scores_f16, values_f16)

#endif
