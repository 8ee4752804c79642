/* Matrix times matrix over packed F32, F16 and BF16 weights (cpu/packed.h): a block of rows x outputs lives in registers while the inputs
 * go by; an input of a row is broadcast, its weights for LANES outputs are one load. Inputs go in chunks, of which the weights of a block,
 * made float32 first where several blocks of rows use them, stay in the nearest cache and the rows, transposed so that the values of a block's
 * rows lie side by side, in the next one. A sum begins anew every gemm_chain inputs and is then added to what y has: rounding errors of
 * long sums stay small. */
#ifndef OMNI_CPU_SIMD_GEMM_H
#define OMNI_CPU_SIMD_GEMM_H

#include "cpu/kernels.h"

/* Rows a block, and groups of 16 outputs: with many rows, with few, with one. */
#if defined(__AVX512F__)
enum { GEMM_MANY = 12, GEMM_MANY_GROUPS = 2, GEMM_FEW = 4, GEMM_FEW_GROUPS = 4, GEMM_ONE_GROUPS = 4 };
#else
enum { GEMM_MANY = 4, GEMM_MANY_GROUPS = 1, GEMM_FEW = 2, GEMM_FEW_GROUPS = 1, GEMM_ONE_GROUPS = 2 };
#endif
enum { GEMM_EACH = PACK / LANES, GEMM_MOST_GROUPS = 4 };

/* Some inputs of a call. */
typedef struct gemm_chunk {
    const char *w;     /* of the first of them, first group of outputs */
    size_t w_stride;   /* bytes to the next group */
    int64_t n, chain;  /* chain: inputs that are summed before they are added to y */
    bool first;        /* the sums begin here */
    const float *bias; /* with the last inputs, unless there is none */
    float *y;
    int64_t y_stride, outs;
    float *wide; /* scratch for the weights of a block */
} gemm_chunk;

SIMD vf gemm_weights(dtype type, const char *group, int64_t at) {
    return type == DTYPE_F16    ? vf_load_f16((const uint16_t *)group + at)
           : type == DTYPE_BF16 ? vf_load_bf16((const uint16_t *)group + at)
                                : vf_load((const float *)group + at);
}

SIMD vf gemm_load(const float *p, int64_t n) {
    return n >= LANES ? vf_load(p) : n > 0 ? vf_load_part(p, n) : vf_set(0.0f);
}

SIMD void gemm_store(float *p, vf v, int64_t n) {
    if (n >= LANES) {
        vf_store(p, v);
    } else if (n > 0) {
        vf_store_part(p, v, n);
    }
}

/* w: GROUPS groups w_stride bytes apart; x[n][ROWS]. Type, ROWS and GROUPS are constants where this is called, so that the sums live in
 * registers. */
SIMD void gemm_block(dtype type, const gemm_chunk *c, const char *w, size_t w_stride, const float *x, int64_t row, int64_t out, int ROWS,
                     int GROUPS) {
    const int VECTORS = GROUPS * GEMM_EACH;
    const int64_t left = c->outs - out;
    float *y = c->y + row * c->y_stride + out;
    for (int64_t at = 0, end; at < c->n; at = end) {
        vf acc[GEMM_MANY][GEMM_MOST_GROUPS * GEMM_EACH], v[GEMM_MOST_GROUPS * GEMM_EACH];
        end = c->n - at < c->chain ? c->n : at + c->chain;
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int m = 0; m < VECTORS; m++) {
                acc[r][m] = vf_set(0.0f);
            }
        }
        for (int64_t i = at; i < end; i++) {
            UNROLL for (int m = 0; m < VECTORS; m++) {
                v[m] = gemm_weights(type, w + (size_t)(m / GEMM_EACH) * w_stride, i * PACK + m % GEMM_EACH * LANES);
            }
            UNROLL for (int r = 0; r < ROWS; r++) {
                const vf b = vf_set(x[i * ROWS + r]);
                UNROLL for (int m = 0; m < VECTORS; m++) {
                    acc[r][m] = vf_fma(b, v[m], acc[r][m]);
                }
            }
        }
        const bool first = c->first && at == 0;
        const float *bias = end == c->n && c->bias ? c->bias + out : NULL;
        UNROLL for (int m = 0; m < VECTORS; m++) {
            const vf b = bias ? gemm_load(bias + m * LANES, left - m * LANES) : vf_set(0.0f);
            UNROLL for (int r = 0; r < ROWS; r++) {
                float *to = y + r * c->y_stride + m * LANES;
                const vf sum = first ? acc[r][m] : vf_add(acc[r][m], gemm_load(to, left - m * LANES));
                gemm_store(to, bias ? vf_add(sum, b) : sum, left - m * LANES);
            }
        }
    }
}

/* The blocks of ROWS rows, a multiple of that from `row` to `end`, for the outputs from `out` on. */
SIMD void gemm_column(dtype type, const gemm_chunk *c, const float *x, int64_t row, int64_t end, int64_t out, int ROWS, int GROUPS) {
    const char *w = c->w + (size_t)(out / PACK) * c->w_stride;
    const int64_t values = c->n * PACK;
    if (type != DTYPE_F32 && end - row > ROWS) {
        for (int g = 0; g < GROUPS; g++) {
            for (int64_t i = 0; i < values; i += LANES) {
                vf_store(c->wide + g * values + i, gemm_weights(type, w + (size_t)g * c->w_stride, i));
            }
        }
        for (; row < end; row += ROWS, x += ROWS * c->n) {
            gemm_block(DTYPE_F32, c, (const char *)c->wide, (size_t)values * sizeof(float), x, row, out, ROWS, GROUPS);
        }
    }
    for (; row < end; row += ROWS, x += ROWS * c->n) {
        gemm_block(type, c, w, c->w_stride, x, row, out, ROWS, GROUPS);
    }
}

/* All outputs of as many rows from `row` to `end` as make whole blocks; x is where these rows lie transposed. */
SIMD void gemm_rows(dtype type, const gemm_chunk *c, const float *x, int64_t row, int64_t end, int ROWS, int GROUPS) {
    end = row + (end - row) / ROWS * ROWS;
    int64_t out = 0;
    for (; row < end && c->outs - out > (GROUPS - 1) * PACK; out += GROUPS * PACK) {
        gemm_column(type, c, x, row, end, out, ROWS, GROUPS);
    }
    for (; row < end && out < c->outs; out += PACK) {
        gemm_column(type, c, x, row, end, out, ROWS, 1);
    }
}

/* to[i][rows] = x[rows][i] */
SIMD void gemm_turn_part(const float *const *x, int64_t n, float *to, int rows) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            v4 v[4] = {v4_load(x[r] + i), v4_load(x[r + 1] + i), v4_load(x[r + 2] + i), v4_load(x[r + 3] + i)};
            v4_transpose(v);
            UNROLL for (int j = 0; j < 4; j++) {
                v4_store(to + (i + j) * rows + r, v[j]);
            }
        }
        for (; i < n; i++) {
            UNROLL for (int j = 0; j < 4; j++) {
                to[i * rows + r + j] = x[r + j][i];
            }
        }
    }
    for (; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) {
            to[i * rows + r] = x[r][i];
        }
    }
}

/* As many rows from `row` to `end` as make whole blocks, inputs [at, at + n) of all segments, each block to [n][ROWS]. Returns the first
 * row left. */
SIMD int64_t gemm_turn(const linear_piece *p, int64_t row, int64_t end, int64_t at, int64_t n, float *to, int ROWS) {
    for (; row + ROWS <= end; row += ROWS) {
        for (int64_t i = at, m; i < at + n; i += m, to += m * ROWS) {
            const float *x[GEMM_MANY];
            m = p->n - i % p->n < at + n - i ? p->n - i % p->n : at + n - i;
            for (int r = 0; r < ROWS; r++) {
                x[r] = p->x + (p->index ? p->index[row + r] : row + r) * p->x_stride + i / p->n * p->x_segment + i % p->n;
            }
            gemm_turn_part(x, m, to, ROWS);
        }
    }
    return row;
}

SIMD void gemm(dtype type, const linear_piece *p, int64_t rows, int64_t outs, float *scratch) {
    const int64_t inputs = p->n * p->segments;
    const size_t input_bytes = PACK * (type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));
    for (int64_t row = 0, end; row < rows; row = end) {
        end = rows - row < GEMM_ROWS ? rows : row + GEMM_ROWS;
        for (int64_t at = 0; at < inputs; at += GEMM_INPUTS) {
            const int64_t n = inputs - at < GEMM_INPUTS ? inputs - at : GEMM_INPUTS;
            const gemm_chunk c = {
                .w = (const char *)p->w + (size_t)at * input_bytes,
                .w_stride = p->w_stride,
                .n = n,
                .chain = gemm_chain(type),
                .first = at == 0,
                .bias = at + n == inputs ? p->bias : NULL,
                .y = p->y,
                .y_stride = p->y_stride,
                .outs = outs,
                .wide = scratch + GEMM_ROWS * GEMM_INPUTS,
            };
            const int64_t few = gemm_turn(p, row, end, at, n, scratch, GEMM_MANY);
            const int64_t one = gemm_turn(p, few, end, at, n, scratch + (few - row) * n, GEMM_FEW);
            gemm_turn(p, one, end, at, n, scratch + (one - row) * n, 1);
            gemm_rows(type, &c, scratch, row, end, GEMM_MANY, GEMM_MANY_GROUPS);
            gemm_rows(type, &c, scratch + (few - row) * n, few, end, GEMM_FEW, GEMM_FEW_GROUPS);
            gemm_rows(type, &c, scratch + (one - row) * n, one, end, 1, GEMM_ONE_GROUPS);
        }
    }
}

static void simd_gemm_f32(const linear_piece *p, int64_t rows, int64_t outs, float *scratch) {
    gemm(DTYPE_F32, p, rows, outs, scratch);
}

static void simd_gemm_f16(const linear_piece *p, int64_t rows, int64_t outs, float *scratch) {
    gemm(DTYPE_F16, p, rows, outs, scratch);
}

static void simd_gemm_bf16(const linear_piece *p, int64_t rows, int64_t outs, float *scratch) {
    gemm(DTYPE_BF16, p, rows, outs, scratch);
}

#endif
