/* Dot products in register blocks of rows x outputs. Whatever the block, one output of one row is one vector accumulator that runs
 * through the row in order, and one way to add up its lanes: so no result depends on the block it fell into. */
#ifndef OMNI_CPU_SIMD_LINEAR_H
#define OMNI_CPU_SIMD_LINEAR_H

#include "cpu/kernels.h"

/* Adds up the accumulators of one row and stores O outputs. */
SIMD void store_row(const vf *acc, int outs, const float *bias, float *y) {
    for (int o = 0; o + 4 <= outs; o += 4) {
        v4 sum = vf_sum4(acc[o], acc[o + 1], acc[o + 2], acc[o + 3]);
        v4_store(y + o, bias ? v4_add(sum, v4_load(bias + o)) : sum);
    }
    if (outs == 1) {
        float sum = vf_sum(acc[0]);
        y[0] = bias ? sum + bias[0] : sum;
    }
}

SIMD void store_block(const vf (*acc)[8], int rows, int outs, const float *bias, float *const *y, int64_t out) {
    bias = bias ? bias + out : NULL;
    if (rows == 4 && outs == 4) {
        v4 sum[4];
        vf_sum16(acc[0], acc[1], acc[2], acc[3], sum);
        UNROLL for (int r = 0; r < 4; r++) {
            v4_store(y[r] + out, bias ? v4_add(sum[r], v4_load(bias)) : sum[r]);
        }
    } else {
        UNROLL for (int r = 0; r < rows; r++) {
            store_row(acc[r], outs, bias, y[r] + out);
        }
    }
}

/* Prefetches the weights that the next block of outputs begins with, a whole block early: the hardware prefetcher starts anew
 * with every row, and rows are short. A hint; the address behind the last row does no harm. */
SIMD void prefetch(const char *w) {
    __builtin_prefetch(w, 0, 2);
}

/* ROWS, OUTS and PREFETCH are constants where this is called, so that the accumulators live in registers. */
#define LINEAR_BLOCK(name, type, load, load_part)                                                                                                    \
    SIMD void name(const linear_piece *p, const float *const *rows, float *const *y, int64_t out, int ROWS, int OUTS, bool PREFETCH) {               \
        vf acc[4][8];                                                                                                                                \
        const type *w[8];                                                                                                                            \
        UNROLL for (int o = 0; o < OUTS; o++) {                                                                                                      \
            w[o] = (const type *)((const char *)p->w + (size_t)(out + o) * p->w_stride);                                                             \
        }                                                                                                                                            \
        UNROLL for (int r = 0; r < ROWS; r++) {                                                                                                      \
            UNROLL for (int o = 0; o < OUTS; o++) {                                                                                                  \
                acc[r][o] = vf_set(0.0f);                                                                                                            \
            }                                                                                                                                        \
        }                                                                                                                                            \
        for (int64_t s = 0; s < p->segments; s++) {                                                                                                  \
            const int64_t x = s * p->x_segment, at = s * p->n;                                                                                       \
            int64_t i = 0;                                                                                                                           \
            for (; i + LANES <= p->n; i += LANES) {                                                                                                  \
                vf xs[4];                                                                                                                            \
                UNROLL for (int r = 0; r < ROWS; r++) {                                                                                              \
                    xs[r] = vf_load(rows[r] + x + i);                                                                                                \
                }                                                                                                                                    \
                UNROLL for (int o = 0; o < OUTS; o++) {                                                                                              \
                    if (PREFETCH) {                                                                                                                  \
                        prefetch((const char *)(w[o] + at + i) + (size_t)OUTS * p->w_stride);                                                        \
                    }                                                                                                                                \
                    const vf v = load(w[o] + at + i);                                                                                                \
                    UNROLL for (int r = 0; r < ROWS; r++) {                                                                                          \
                        acc[r][o] = vf_fma(xs[r], v, acc[r][o]);                                                                                     \
                    }                                                                                                                                \
                }                                                                                                                                    \
            }                                                                                                                                        \
            if (i < p->n) {                                                                                                                          \
                UNROLL for (int o = 0; o < OUTS; o++) {                                                                                              \
                    const vf v = load_part(w[o] + at + i, p->n - i);                                                                                 \
                    UNROLL for (int r = 0; r < ROWS; r++) {                                                                                          \
                        acc[r][o] = vf_fma(vf_load_part(rows[r] + x + i, p->n - i), v, acc[r][o]);                                                   \
                    }                                                                                                                                \
                }                                                                                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
        store_block(acc, ROWS, OUTS, p->bias, y, out);                                                                                               \
    }

#define BLOCKS_OF_FOUR(block, m, prefetch)                                                                                                           \
    switch (m) {                                                                                                                                     \
    case 1:                                                                                                                                          \
        block(p, x, y, o, 1, 4, prefetch);                                                                                                           \
        break;                                                                                                                                       \
    case 2:                                                                                                                                          \
        block(p, x, y, o, 2, 4, prefetch);                                                                                                           \
        break;                                                                                                                                       \
    case 3:                                                                                                                                          \
        block(p, x, y, o, 3, 4, prefetch);                                                                                                           \
        break;                                                                                                                                       \
    default:                                                                                                                                         \
        block(p, x, y, o, BLOCK_ROWS, 4, prefetch);                                                                                                  \
    }

/* Walks the outputs in fours (eights for a single row), then one by one. */
#define LINEAR_KERNEL(name, block)                                                                                                                   \
    static void name(const linear_piece *p, int64_t rows, int64_t outs) {                                                                            \
        for (int64_t o = 0; o < outs;) {                                                                                                             \
            const int64_t left = outs - o;                                                                                                           \
            const int64_t step = rows == 1 && left >= 8 ? 8 : left >= 4 ? 4 : 1;                                                                     \
            for (int64_t r = 0; r < rows; r += BLOCK_ROWS) {                                                                                         \
                const int64_t m = rows - r < BLOCK_ROWS ? rows - r : BLOCK_ROWS;                                                                     \
                const float *x[4];                                                                                                                   \
                float *y[4];                                                                                                                         \
                for (int64_t i = 0; i < m; i++) {                                                                                                    \
                    x[i] = p->x + (p->index ? p->index[r + i] : r + i) * p->x_stride;                                                                \
                    y[i] = p->y + (r + i) * p->y_stride;                                                                                             \
                }                                                                                                                                    \
                if (step == 8) {                                                                                                                     \
                    block(p, x, y, o, 1, 8, true);                                                                                                   \
                } else if (step == 4 && r == 0) {                                                                                                    \
                    BLOCKS_OF_FOUR(block, m, true)                                                                                                   \
                } else if (step == 4) {                                                                                                              \
                    BLOCKS_OF_FOUR(block, m, false)                                                                                                  \
                } else {                                                                                                                             \
                    for (int64_t i = 0; i < m; i++) {                                                                                                \
                        block(p, x + i, y + i, o, 1, 1, false);                                                                                      \
                    }                                                                                                                                \
                }                                                                                                                                    \
            }                                                                                                                                        \
            o += step;                                                                                                                               \
        }                                                                                                                                            \
    }

LINEAR_BLOCK(block_f32, float, vf_load, vf_load_part)
LINEAR_BLOCK(block_f16, uint16_t, vf_load_f16, vf_load_f16_part)
LINEAR_BLOCK(block_bf16, uint16_t, vf_load_bf16, vf_load_bf16_part)
LINEAR_KERNEL(simd_linear_f32, block_f32)
LINEAR_KERNEL(simd_linear_f16, block_f16)
LINEAR_KERNEL(simd_linear_bf16, block_bf16)

enum { Q8_BLOCK = 32, Q8_BYTES = 34 };

/* A weight is scale * int8, exact in float32, so the sums are those of the converted row. */
SIMD void rows_by_q8_0(const linear_piece *p, const float *const *rows, float *const *y, int64_t out, int ROWS, int OUTS, bool PREFETCH) {
    vf acc[4][8];
    const uint8_t *w[8];
    UNROLL for (int o = 0; o < OUTS; o++) {
        w[o] = (const uint8_t *)p->w + (size_t)(out + o) * p->w_stride;
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
        UNROLL for (int o = 0; o < OUTS; o++) {
            acc[r][o] = vf_set(0.0f);
        }
    }
    int64_t at = 0;
    for (int64_t s = 0; s < p->segments; s++) {
        for (int64_t i = s * p->x_segment; i < s * p->x_segment + p->n; i += Q8_BLOCK, at += Q8_BYTES) {
            UNROLL for (int o = 0; o < OUTS; o++) {
                if (PREFETCH) {
                    prefetch((const char *)(w[o] + at) + (size_t)OUTS * p->w_stride);
                }
                const vf d = vf_set_f16(w[o] + at);
                UNROLL for (int j = 0; j < Q8_BLOCK; j += LANES) {
                    const vf v = vf_mul(d, vf_load_i8((const int8_t *)w[o] + at + 2 + j));
                    UNROLL for (int r = 0; r < ROWS; r++) {
                        acc[r][o] = vf_fma(vf_load(rows[r] + i + j), v, acc[r][o]);
                    }
                }
            }
        }
    }
    store_block(acc, ROWS, OUTS, p->bias, y, out);
}

LINEAR_KERNEL(simd_linear_q8_0, rows_by_q8_0)

static void simd_from_f16(const void *in, float *out, int64_t n) {
    const uint16_t *h = in;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf_store(out + i, vf_load_f16(h + i));
    }
    if (i < n) {
        vf_store_part(out + i, vf_load_f16_part(h + i, n - i), n - i);
    }
}

static void simd_from_bf16(const void *in, float *out, int64_t n) {
    const uint16_t *h = in;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf_store(out + i, vf_load_bf16(h + i));
    }
    if (i < n) {
        vf_store_part(out + i, vf_load_bf16_part(h + i, n - i), n - i);
    }
}

static void simd_from_q8_0(const void *in, float *out, int64_t n) {
    const uint8_t *w = in;
    for (int64_t i = 0; i < n; i += Q8_BLOCK, w += Q8_BYTES) {
        const vf d = vf_set_f16(w);
        for (int j = 0; j < Q8_BLOCK; j += LANES) {
            vf_store(out + i + j, vf_mul(d, vf_load_i8((const int8_t *)w + 2 + j)));
        }
    }
}

static void simd_to_f16(const float *in, uint16_t *out, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf_store_f16(out + i, vf_load(in + i));
    }
    if (i < n) {
        uint16_t t[LANES];
        vf_store_f16(t, vf_load_part(in + i, n - i));
        memcpy(out + i, t, (size_t)(n - i) * sizeof *out);
    }
}

#endif
