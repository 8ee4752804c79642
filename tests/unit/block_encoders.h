/* Rows in the block formats that omni reads but does not make, by rounding to nearest: enough to compute with, not the best that the
 * formats can hold. Layouts: tensor/blocks.h. */
#ifndef TESTS_BLOCK_ENCODERS_H
#define TESTS_BLOCK_ENCODERS_H

#include <math.h>
#include <string.h>

#include "tensor/blocks.h"

static float nearest_in(float v, float low, float high) {
    v = rintf(v);
    return v < low ? low : v > high ? high : v;
}

/* Index of the table's value nearest to v. */
static uint8_t nearest_entry(const int8_t *table, float v) {
    int best = 0;
    for (int i = 1; i < 16; i++) {
        best = fabsf(v - table[i]) < fabsf(v - table[best]) ? i : best;
    }
    return (uint8_t)best;
}

/* The value of largest magnitude, with its sign. */
static float extreme(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) {
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    }
    return most;
}

static void table_codes(const int8_t *table, const float *x, float scale, uint8_t *qs) {
    for (int j = 0; j < QK / 2 && scale != 0; j++) {
        qs[j] = (uint8_t)(nearest_entry(table, x[j] / scale) | nearest_entry(table, x[j + QK / 2] / scale) << 4);
    }
}

static void encode_iq4_nl(const float *x, block_iq4_nl *b) {
    b->d = f16_from_f32(extreme(x, QK) / BLOCK_IQ4_VALUES[0]);
    table_codes(BLOCK_IQ4_VALUES, x, f16_to_f32(b->d), b->qs);
}

/* The smallest power of two that reaches the largest value. */
static void encode_mxfp4(const float *x, block_mxfp4 *b) {
    const float most = fabsf(extreme(x, QK));
    int e = 0;
    while (e < 254 && 12 * block_mxfp4_scale((uint8_t)e) < most) {
        e++;
    }
    b->e = (uint8_t)e;
    table_codes(BLOCK_MXFP4_VALUES, x, block_mxfp4_scale(b->e), b->qs);
}

static void encode_iq4_xs(const float *x, block_iq4_xs *b) {
    b->d = f16_from_f32(fabsf(extreme(x, QK_K)) / (31 * 113));
    const float d = f16_to_f32(b->d);
    for (int g = 0; g < 8 && d > 0; g++) {
        const int scale = (int)nearest_in(extreme(x + 32 * g, 32) / BLOCK_IQ4_VALUES[0] / d, -32, 31);
        b->scales_l[g / 2] |= (uint8_t)(((scale + 32) & 15) << 4 * (g % 2));
        b->scales_h |= (uint16_t)((scale + 32) >> 4 << 2 * g);
        table_codes(BLOCK_IQ4_VALUES, x + 32 * g, d * (float)scale, b->qs + 16 * g);
    }
}

/* Two low bits of 256 codes, as q2_k and q3_k have them. */
static void two_bits(const uint8_t *q, uint8_t *qs) {
    for (int i = 0; i < QK_K; i++) {
        qs[i / 128 * 32 + i % 32] |= (uint8_t)((q[i] & 3) << 2 * (i / 32 % 4));
    }
}

static void encode_q2_k(const float *x, block_q2_k *b) {
    float low[16], step[16], most_low = 0, most_step = 0;
    uint8_t q[QK_K] = {0};
    for (int g = 0; g < 16; g++) {
        float least = 0, most = 0;
        for (int i = 0; i < 16; i++) {
            least = fminf(least, x[16 * g + i]);
            most = fmaxf(most, x[16 * g + i]);
        }
        low[g] = -least;
        step[g] = (most - least) / 3;
        most_low = fmaxf(most_low, low[g]);
        most_step = fmaxf(most_step, step[g]);
    }
    b->d = f16_from_f32(most_step / 15);
    b->dmin = f16_from_f32(most_low / 15);
    const float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);
    for (int g = 0; g < 16; g++) {
        const float scale = d > 0 ? nearest_in(step[g] / d, 0, 15) : 0, min = dmin > 0 ? nearest_in(low[g] / dmin, 0, 15) : 0;
        b->scales[g] = (uint8_t)((int)scale | (int)min << 4);
        for (int i = 0; i < 16 && scale > 0; i++) {
            q[16 * g + i] = (uint8_t)nearest_in((x[16 * g + i] + dmin * min) / (d * scale), 0, 3);
        }
    }
    two_bits(q, b->qs);
}

static void encode_q3_k(const float *x, block_q3_k *b) {
    uint8_t q[QK_K];
    memset(q, 4, sizeof q);
    b->d = f16_from_f32(fabsf(extreme(x, QK_K)) / (31 * 4));
    const float d = f16_to_f32(b->d);
    for (int g = 0; g < 16 && d > 0; g++) {
        const int scale = (int)nearest_in(extreme(x + 16 * g, 16) / -4 / d, -32, 31);
        b->scales[g % 8] |= (uint8_t)(((scale + 32) & 15) << 4 * (g / 8));
        b->scales[8 + g % 4] |= (uint8_t)((scale + 32) >> 4 << 2 * (g / 4));
        for (int i = 0; i < 16 && scale; i++) {
            q[16 * g + i] = (uint8_t)(nearest_in(x[16 * g + i] / (d * (float)scale), -4, 3) + 4);
        }
    }
    two_bits(q, b->qs);
    for (int i = 0; i < QK_K; i++) {
        b->hmask[i % 32] |= (uint8_t)(q[i] >> 2 << i / 32);
    }
}

#define ENCODE(TYPE, name)                                                                                                                           \
    case TYPE:                                                                                                                                       \
        encode_##name(x + i, (block_##name *)((char *)out + i / block * size));                                                                      \
        break

/* n values, whole blocks. False for other types. */
static bool encode_row(dtype type, const float *x, void *out, int64_t n) {
    const int64_t block = dtype_find(type)->block, size = (int64_t)dtype_find(type)->bytes;
    memset(out, 0, dtype_row_bytes(type, n));
    for (int64_t i = 0; i < n; i += block) {
        switch (type) {
            ENCODE(DTYPE_Q2_K, q2_k);
            ENCODE(DTYPE_Q3_K, q3_k);
            ENCODE(DTYPE_IQ4_NL, iq4_nl);
            ENCODE(DTYPE_IQ4_XS, iq4_xs);
            ENCODE(DTYPE_MXFP4, mxfp4);
        default:
            return false;
        }
    }
    return true;
}

#endif
