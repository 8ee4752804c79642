#include "tensor/blocks.h"

#include <assert.h>
#include <string.h>

static_assert(sizeof(block_q4_0) == 18 && sizeof(block_q4_1) == 20 && sizeof(block_q5_0) == 22 && sizeof(block_q5_1) == 24, "layout");
static_assert(sizeof(block_q8_0) == 34 && sizeof(block_iq4_nl) == 18 && sizeof(block_mxfp4) == 17 && sizeof(block_iq4_xs) == 136, "layout");
static_assert(sizeof(block_q2_k) == 84 && sizeof(block_q3_k) == 110 && sizeof(block_q4_k) == 144, "layout");
static_assert(sizeof(block_q5_k) == 176 && sizeof(block_q6_k) == 210, "layout");

const int8_t BLOCK_IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t BLOCK_MXFP4_VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float block_mxfp4_scale(uint8_t e) {
    uint32_t u = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void from_q4_0(const block_q4_0 *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        float d = f16_to_f32(b->d);
        for (int j = 0; j < QK / 2; j++) {
            y[j] = d * (float)((b->qs[j] & 15) - 8);
            y[j + QK / 2] = d * (float)((b->qs[j] >> 4) - 8);
        }
    }
}

static void from_q4_1(const block_q4_1 *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        float d = f16_to_f32(b->d), m = f16_to_f32(b->m);
        for (int j = 0; j < QK / 2; j++) {
            y[j] = d * (float)(b->qs[j] & 15) + m;
            y[j + QK / 2] = d * (float)(b->qs[j] >> 4) + m;
        }
    }
}

static inline uint32_t fifth_bits(const uint8_t qh[4]) {
    return qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24;
}

static void from_q5_0(const block_q5_0 *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        float d = f16_to_f32(b->d);
        uint32_t high = fifth_bits(b->qh);
        for (int j = 0; j < QK / 2; j++) {
            y[j] = d * (float)((int)((b->qs[j] & 15) | (high >> j & 1) << 4) - 16);
            y[j + QK / 2] = d * (float)((int)((b->qs[j] >> 4) | (high >> (j + QK / 2) & 1) << 4) - 16);
        }
    }
}

static void from_q5_1(const block_q5_1 *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        float d = f16_to_f32(b->d), m = f16_to_f32(b->m);
        uint32_t high = fifth_bits(b->qh);
        for (int j = 0; j < QK / 2; j++) {
            y[j] = d * (float)((b->qs[j] & 15) | (high >> j & 1) << 4) + m;
            y[j + QK / 2] = d * (float)((b->qs[j] >> 4) | (high >> (j + QK / 2) & 1) << 4) + m;
        }
    }
}

static void from_q8_0(const block_q8_0 *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        float d = f16_to_f32(b->d);
        for (int j = 0; j < QK; j++) {
            y[j] = d * (float)b->qs[j];
        }
    }
}

/* 16 bytes of table indices, low nibbles first. */
static inline void from_table(const uint8_t *qs, const int8_t table[16], float d, float *y) {
    for (int j = 0; j < QK / 2; j++) {
        y[j] = d * (float)table[qs[j] & 15];
        y[j + QK / 2] = d * (float)table[qs[j] >> 4];
    }
}

static void from_iq4_nl(const block_iq4_nl *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        from_table(b->qs, BLOCK_IQ4_VALUES, f16_to_f32(b->d), y);
    }
}

static void from_mxfp4(const block_mxfp4 *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK) {
        from_table(b->qs, BLOCK_MXFP4_VALUES, block_mxfp4_scale(b->e), y);
    }
}

static void from_iq4_xs(const block_iq4_xs *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++) {
        float d = f16_to_f32(b->d);
        for (int g = 0; g < QK_K / 32; g++, y += 32) {
            int scale = (b->scales_l[g / 2] >> 4 * (g & 1) & 15) | (b->scales_h >> 2 * g & 3) << 4;
            from_table(b->qs + 16 * g, BLOCK_IQ4_VALUES, d * (float)(scale - 32), y);
        }
    }
}

static void from_q2_k(const block_q2_k *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK_K) {
        float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);
        for (int g = 0; g < QK_K / 16; g++) {
            float scale = d * (float)(b->scales[g] & 15), min = dmin * (float)(b->scales[g] >> 4);
            const uint8_t *qs = b->qs + 32 * (g / 8) + 16 * (g & 1);
            int shift = g / 2 % 4 * 2;
            for (int j = 0; j < 16; j++) {
                y[16 * g + j] = scale * (float)(qs[j] >> shift & 3) - min;
            }
        }
    }
}

static void from_q3_k(const block_q3_k *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK_K) {
        float d = f16_to_f32(b->d);
        for (int g = 0; g < QK_K / 16; g++) {
            int low = b->scales[g % 8] >> g / 8 * 4 & 15, high = b->scales[8 + g % 4] >> g / 4 * 2 & 3;
            float scale = d * (float)((low | high << 4) - 32);
            const uint8_t *qs = b->qs + 32 * (g / 8) + 16 * (g & 1), *mask = b->hmask + 16 * (g & 1);
            int shift = g / 2 % 4 * 2;
            for (int j = 0; j < 16; j++) {
                y[16 * g + j] = scale * (float)((qs[j] >> shift & 3) + ((mask[j] >> g / 2 & 1) << 2) - 4);
            }
        }
    }
}

static void from_q4_k(const block_q4_k *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK_K) {
        float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);
        for (int g = 0; g < QK_K / 32; g++) {
            uint8_t sc, m;
            block_scale_min(b->scales, g, &sc, &m);
            float scale = d * (float)sc, min = dmin * (float)m;
            const uint8_t *qs = b->qs + 32 * (g / 2);
            int shift = 4 * (g & 1);
            for (int j = 0; j < 32; j++) {
                y[32 * g + j] = scale * (float)(qs[j] >> shift & 15) - min;
            }
        }
    }
}

static void from_q5_k(const block_q5_k *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK_K) {
        float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);
        for (int g = 0; g < QK_K / 32; g++) {
            uint8_t sc, m;
            block_scale_min(b->scales, g, &sc, &m);
            float scale = d * (float)sc, min = dmin * (float)m;
            const uint8_t *qs = b->qs + 32 * (g / 2);
            int shift = 4 * (g & 1);
            for (int j = 0; j < 32; j++) {
                y[32 * g + j] = scale * (float)((qs[j] >> shift & 15) | (b->qh[j] >> g & 1) << 4) - min;
            }
        }
    }
}

static void from_q6_k(const block_q6_k *b, float *y, int64_t blocks) {
    for (; blocks > 0; blocks--, b++, y += QK_K) {
        float d = f16_to_f32(b->d);
        for (int g = 0; g < QK_K / 16; g++) {
            float scale = d * (float)b->scales[g];
            const uint8_t *ql = b->ql + 64 * (g / 8) + 16 * (g % 4), *qh = b->qh + 32 * (g / 8) + 16 * (g & 1);
            int low = g / 4 % 2 * 4, high = g / 2 % 4 * 2;
            for (int j = 0; j < 16; j++) {
                y[16 * g + j] = scale * (float)(((ql[j] >> low & 15) | (qh[j] >> high & 3) << 4) - 32);
            }
        }
    }
}

bool blocks_to_f32(dtype type, const void *in, float *out, int64_t n) {
    switch (type) {
    case DTYPE_Q4_0:
        from_q4_0(in, out, n / QK);
        return true;
    case DTYPE_Q4_1:
        from_q4_1(in, out, n / QK);
        return true;
    case DTYPE_Q5_0:
        from_q5_0(in, out, n / QK);
        return true;
    case DTYPE_Q5_1:
        from_q5_1(in, out, n / QK);
        return true;
    case DTYPE_Q8_0:
        from_q8_0(in, out, n / QK);
        return true;
    case DTYPE_Q2_K:
        from_q2_k(in, out, n / QK_K);
        return true;
    case DTYPE_Q3_K:
        from_q3_k(in, out, n / QK_K);
        return true;
    case DTYPE_Q4_K:
        from_q4_k(in, out, n / QK_K);
        return true;
    case DTYPE_Q5_K:
        from_q5_k(in, out, n / QK_K);
        return true;
    case DTYPE_Q6_K:
        from_q6_k(in, out, n / QK_K);
        return true;
    case DTYPE_IQ4_NL:
        from_iq4_nl(in, out, n / QK);
        return true;
    case DTYPE_IQ4_XS:
        from_iq4_xs(in, out, n / QK_K);
        return true;
    case DTYPE_MXFP4:
        from_mxfp4(in, out, n / QK);
        return true;
    default:
        return false;
    }
}
