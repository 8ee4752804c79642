/* Attention of many rows of one head over plain keys and values. Positions go by in spans of 64, counted from position 0: keys are
 * transposed so that a vector holds one dimension of LANES positions, and a block of rows shares each load. A score is one accumulator
 * that runs through the head in order, a value one that runs through the positions, so a row's result depends on its range alone. */
#ifndef OMNI_CPU_SIMD_DENSE_H
#define OMNI_CPU_SIMD_DENSE_H

#include <math.h>

#include "cpu/kernels.h"

enum { SPAN = ATTENTION_SPAN, SPAN_VECTORS = 4 };

typedef struct dense_tile {
    const attention_tile *t;
    int64_t dim, pad;     /* pad: dim in whole vectors */
    float *keys, *values; /* [dim][SPAN], [SPAN][pad] of the current span */
    float *q, *acc;       /* [rows][dim], scaled; [rows][pad] */
    float *max, *sum;     /* [rows] */
    float (*p)[SPAN];     /* [BLOCK_DENSE] */
    float shrink[BLOCK_DENSE];
} dense_tile;

/* keys[d][i] = k[i][d], values[i] = v[i] for i < n, zeros behind them. */
static void dense_load(dense_tile *s, int64_t position, int64_t n) {
    const int64_t stride = s->t->kv_stride, dim = s->dim;
    const float *k = s->t->k + position * stride, *v = s->t->v + position * stride;
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float *k0 = k + i * stride, *k1 = k0 + stride, *k2 = k1 + stride, *k3 = k2 + stride;
        int64_t d = 0;
        for (; d + 4 <= dim; d += 4) {
            v4 r[4] = {v4_load(k0 + d), v4_load(k1 + d), v4_load(k2 + d), v4_load(k3 + d)};
            v4_transpose(r);
            UNROLL for (int j = 0; j < 4; j++) {
                v4_store(s->keys + (d + j) * SPAN + i, r[j]);
            }
        }
        for (; d < dim; d++) {
            float *to = s->keys + d * SPAN + i;
            to[0] = k0[d], to[1] = k1[d], to[2] = k2[d], to[3] = k3[d];
        }
    }
    for (; i < SPAN; i++) {
        for (int64_t d = 0; d < dim; d++) {
            s->keys[d * SPAN + i] = i < n ? k[i * stride + d] : 0.0f;
        }
    }
    for (i = 0; i < n; i++) {
        int64_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            vf_store(s->values + i * s->pad + d, vf_load(v + i * stride + d));
        }
        if (d < dim) {
            vf_store(s->values + i * s->pad + d, vf_load_part(v + i * stride + d, dim - d));
        }
    }
}

/* p[j][SPAN] = q_j . keys for ROWS rows, a constant where this is called. */
SIMD void dense_scores(const float *q, const float *keys, int64_t dim, float (*p)[SPAN], int ROWS) {
    for (int64_t at = 0; at < SPAN; at += SPAN_VECTORS * LANES) {
        vf acc[BLOCK_DENSE][SPAN_VECTORS];
        UNROLL for (int j = 0; j < ROWS; j++) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                acc[j][m] = vf_set(0.0f);
            }
        }
        const float *k = keys + at;
        for (int64_t d = 0; d < dim; d++, k += SPAN) {
            vf x[BLOCK_DENSE];
            UNROLL for (int j = 0; j < ROWS; j++) {
                x[j] = vf_set(q[j * dim + d]);
            }
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                const vf v = vf_load(k + m * LANES);
                UNROLL for (int j = 0; j < ROWS; j++) {
                    acc[j][m] = vf_fma(x[j], v, acc[j][m]);
                }
            }
        }
        UNROLL for (int j = 0; j < ROWS; j++) {
            UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
                vf_store(p[j] + at + m * LANES, acc[j][m]);
            }
        }
    }
}

static const float dense_places[SPAN] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                         22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                         44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

/* Scores of one row to e^(score - max), zeros outside [from, to); returns by how much what the row has so far shrinks. */
static float dense_softmax(float *p, int64_t from, int64_t to, float *max, float *sum) {
    vf largest = vf_set(-INFINITY);
    if (to - from < SPAN) {
        const vf low = vf_set((float)from), high = vf_set((float)to), none = vf_set(-INFINITY);
        for (int64_t i = 0; i < SPAN; i += LANES) {
            const vf place = vf_load(dense_places + i);
            vf_store(p + i, vf_select(vf_less(place, low), none, vf_select(vf_less(place, high), vf_load(p + i), none)));
        }
    }
    for (int64_t i = 0; i < SPAN; i += LANES) {
        largest = vf_max(largest, vf_load(p + i));
    }
    const float here = vf_largest(largest), next = here > *max ? here : *max;
    const float shrink = *max == next ? 1.0f : expf(*max - next);
    const vf top = vf_set(next == -INFINITY ? 0.0f : next);
    vf total = vf_set(0.0f);
    for (int64_t i = 0; i < SPAN; i += LANES) {
        const vf e = vf_exp_down(vf_sub(vf_load(p + i), top));
        vf_store(p + i, e);
        total = vf_add(total, e);
    }
    *sum = *sum * shrink + vf_sum(total);
    *max = next;
    return shrink;
}

/* acc[j][i .. i + VECTORS * LANES) = acc * shrink + sum over positions of p[j] values. */
SIMD void dense_values(const dense_tile *s, int64_t row, int64_t from, int64_t to, int64_t i, int ROWS, int VECTORS) {
    vf acc[BLOCK_DENSE][SPAN_VECTORS];
    float *a = s->acc + row * s->pad + i;
    UNROLL for (int j = 0; j < ROWS; j++) {
        const vf shrink = vf_set(s->shrink[j]);
        UNROLL for (int m = 0; m < VECTORS; m++) {
            acc[j][m] = vf_mul(vf_load(a + j * s->pad + m * LANES), shrink);
        }
    }
    const float *v = s->values + from * s->pad + i;
    for (int64_t t = from; t < to; t++, v += s->pad) {
        vf x[BLOCK_DENSE];
        UNROLL for (int j = 0; j < ROWS; j++) {
            x[j] = vf_set(s->p[j][t]);
        }
        UNROLL for (int m = 0; m < VECTORS; m++) {
            const vf w = vf_load(v + m * LANES);
            UNROLL for (int j = 0; j < ROWS; j++) {
                acc[j][m] = vf_fma(x[j], w, acc[j][m]);
            }
        }
    }
    UNROLL for (int j = 0; j < ROWS; j++) {
        UNROLL for (int m = 0; m < VECTORS; m++) {
            vf_store(a + j * s->pad + m * LANES, acc[j][m]);
        }
    }
}

SIMD void dense_rows(dense_tile *s, int64_t row, int64_t from, int64_t to, int ROWS) {
    dense_scores(s->q + row * s->dim, s->keys, s->dim, s->p, ROWS);
    for (int j = 0; j < ROWS; j++) {
        s->shrink[j] = dense_softmax(s->p[j], from, to, s->max + row + j, s->sum + row + j);
    }
    int64_t i = 0;
    for (; i + SPAN_VECTORS * LANES <= s->pad; i += SPAN_VECTORS * LANES) {
        dense_values(s, row, from, to, i, ROWS, SPAN_VECTORS);
    }
    if (i + 2 * LANES <= s->pad) {
        dense_values(s, row, from, to, i, ROWS, 2);
        i += 2 * LANES;
    }
    if (i < s->pad) {
        dense_values(s, row, from, to, i, ROWS, 1);
    }
}

/* The part of a row's range in the span from `start` on, counted from there. */
SIMD void dense_part(const attention_tile *t, int64_t row, int64_t start, int64_t *from, int64_t *to) {
    *from = t->first[row] > start ? t->first[row] - start : 0;
    *to = t->end[row] < start + SPAN ? t->end[row] - start : SPAN;
}

static void dense_span(dense_tile *s, int64_t start) {
    const attention_tile *t = s->t;
    for (int64_t r = 0; r < t->rows;) {
        int64_t from, to, same = 1;
        dense_part(t, r, start, &from, &to);
        if (from >= to) {
            r++;
            continue;
        }
        while (same < BLOCK_DENSE && r + same < t->rows) {
            int64_t from2, to2;
            dense_part(t, r + same, start, &from2, &to2);
            if (from2 != from || to2 != to) {
                break;
            }
            same++;
        }
        if (same == BLOCK_DENSE) {
            dense_rows(s, r, from, to, BLOCK_DENSE);
        } else {
            for (int64_t j = 0; j < same; j++) {
                dense_rows(s, r + j, from, to, 1);
            }
        }
        r += same;
    }
}

static void simd_attend_tile(const attention_tile *t, float *scratch) {
    dense_tile s = {.t = t, .dim = t->head_dim, .pad = (t->head_dim + LANES - 1) / LANES * LANES};
    s.keys = scratch;
    s.values = s.keys + s.dim * SPAN;
    s.acc = s.values + SPAN * s.pad;
    s.q = s.acc + t->rows * s.pad;
    s.max = s.q + t->rows * s.dim;
    s.sum = s.max + t->rows;
    s.p = (float(*)[SPAN])(s.sum + t->rows);
    int64_t low = INT64_MAX, high = 0;
    for (int64_t r = 0; r < t->rows; r++) {
        if (t->first[r] < t->end[r]) {
            low = t->first[r] < low ? t->first[r] : low;
            high = t->end[r] > high ? t->end[r] : high;
        }
        for (int64_t d = 0; d < s.dim; d++) {
            s.q[r * s.dim + d] = t->q[r * t->q_stride + d] * t->scale;
        }
        s.max[r] = -INFINITY;
        s.sum[r] = 0;
    }
    memset(s.acc, 0, (size_t)(t->rows * s.pad) * sizeof *s.acc);
    for (int64_t start = low / SPAN * SPAN; start < high; start += SPAN) {
        attention_prefetch(t, start + SPAN, start + 2 * SPAN < high ? start + 2 * SPAN : high);
        dense_load(&s, start, high - start < SPAN ? high - start : SPAN);
        dense_span(&s, start);
    }
    for (int64_t r = 0; r < t->rows; r++) {
        const float inverse = s.sum[r] == 0 ? 0.0f : 1.0f / s.sum[r];
        for (int64_t d = 0; d < s.dim; d++) {
            t->y[r * t->y_stride + d] = s.acc[r * s.pad + d] * inverse;
        }
    }
}

#endif
