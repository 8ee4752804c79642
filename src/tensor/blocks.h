/* The block formats of GGUF: how the bytes of one block are laid out, and plain conversions of whole rows.
 *
 * A block stands for QK or QK_K consecutive values of a row. Scales are F16 bits. Structs are packed, so a block may lie at any
 * address. "Low nibbles first" means: byte j of 16 holds value j in its low and value j + 16 in its high four bits.
 * The facts are those of the `gguf` package's reader (gguf/quants.py). */
#ifndef OMNI_TENSOR_BLOCKS_H
#define OMNI_TENSOR_BLOCKS_H

#include <stdint.h>

#include "tensor/tensor.h"

enum { QK = 32, QK_K = 256 };

#define BLOCK_PACKED __attribute__((packed))

/* ---- 32 values ---- */

/* d * (q - 8), low nibbles first. */
typedef struct BLOCK_PACKED block_q4_0 {
    uint16_t d;
    uint8_t qs[QK / 2];
} block_q4_0;

/* d * q + m, low nibbles first. */
typedef struct BLOCK_PACKED block_q4_1 {
    uint16_t d, m;
    uint8_t qs[QK / 2];
} block_q4_1;

/* d * (q - 16); low four bits of q as in q4_0, the fifth of value j is bit j of qh (little endian). */
typedef struct BLOCK_PACKED block_q5_0 {
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[QK / 2];
} block_q5_0;

/* d * q + m */
typedef struct BLOCK_PACKED block_q5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[QK / 2];
} block_q5_1;

/* d * q */
typedef struct BLOCK_PACKED block_q8_0 {
    uint16_t d;
    int8_t qs[QK];
} block_q8_0;

/* d * BLOCK_IQ4_VALUES[q], low nibbles first. */
typedef struct BLOCK_PACKED block_iq4_nl {
    uint16_t d;
    uint8_t qs[QK / 2];
} block_iq4_nl;

/* 2^(e - 128) * BLOCK_MXFP4_VALUES[q] (the table holds doubled values), low nibbles first. */
typedef struct BLOCK_PACKED block_mxfp4 {
    uint8_t e;
    uint8_t qs[QK / 2];
} block_mxfp4;

/* ---- 256 values ---- */

/* 16 groups of 16: d * (scales[g] & 15) * q - dmin * (scales[g] >> 4).
 * Value 128 h + 32 k + j (k < 4, j < 32) is bits 2k, 2k + 1 of qs[32 h + j]. */
typedef struct BLOCK_PACKED block_q2_k {
    uint8_t scales[QK_K / 16];
    uint8_t qs[QK_K / 4];
    uint16_t d, dmin;
} block_q2_k;

/* 16 groups of 16: d * (scale[g] - 32) * (q - 4); low two bits of q as in q2_k, the third of value 32 k + j is bit k of hmask[j].
 * Six-bit scales: low four bits of scale[g] in scales[g % 8] (low nibble for g < 8), the upper two in bits 2 (g / 4) of
 * scales[8 + g % 4]. */
typedef struct BLOCK_PACKED block_q3_k {
    uint8_t hmask[QK_K / 8];
    uint8_t qs[QK_K / 4];
    uint8_t scales[12];
    uint16_t d;
} block_q3_k;

/* 8 groups of 32: d * scale[g] * q - dmin * min[g]. Values 64 h + j (j < 32) are the low, 64 h + 32 + j the high nibbles of
 * qs[32 h + j]. For the six-bit scales and minima see block_scale_min. */
typedef struct BLOCK_PACKED block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[QK_K / 2];
} block_q4_k;

/* As q4_k; the fifth bit of value 32 k + j is bit k of qh[j]. */
typedef struct BLOCK_PACKED block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[QK_K / 8];
    uint8_t qs[QK_K / 2];
} block_q5_k;

/* 16 groups of 16: d * scales[g] * (q - 32). With j < 64 and h < 2: values 128 h + j are the low, 128 h + 64 + j the high nibbles of
 * ql[64 h + j]. With j < 32 and k < 4: the upper two bits of value 128 h + 32 k + j are bits 2k, 2k + 1 of qh[32 h + j]. */
typedef struct BLOCK_PACKED block_q6_k {
    uint8_t ql[QK_K / 2];
    uint8_t qh[QK_K / 4];
    int8_t scales[QK_K / 16];
    uint16_t d;
} block_q6_k;

/* 8 groups of 32: d * (scale[g] - 32) * BLOCK_IQ4_VALUES[q], each group's 16 bytes of qs low nibbles first. Six-bit scales: four bits in
 * nibble g of scales_l, two in bits 2g of scales_h. */
typedef struct BLOCK_PACKED block_iq4_xs {
    uint16_t d;
    uint16_t scales_h;
    uint8_t scales_l[QK_K / 64];
    uint8_t qs[QK_K / 2];
} block_iq4_xs;

extern const int8_t BLOCK_IQ4_VALUES[16];
extern const int8_t BLOCK_MXFP4_VALUES[16];

/* Scale and minimum of group g < 8 from the 12 bytes of q4_k and q5_k: the first four groups in the low six bits of bytes 0 to 3 and
 * 4 to 7, the last four in the nibbles of bytes 8 to 11 (scale low, minimum high) and the upper two bits of bytes 0 to 3 and 4 to 7. */
static inline void block_scale_min(const uint8_t scales[12], int g, uint8_t *scale, uint8_t *min) {
    if (g < 4) {
        *scale = scales[g] & 63;
        *min = scales[g + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[g + 4] & 15) | (scales[g - 4] >> 6) << 4);
        *min = (uint8_t)((scales[g + 4] >> 4) | (scales[g] >> 6) << 4);
    }
}

/* e of block_mxfp4 as a scale for the doubled values; exact, subnormal for e < 2. */
float block_mxfp4_scale(uint8_t e);

/* A row of a block type as float32; n is a multiple of the block. False, and nothing done, for any other type. */
bool blocks_to_f32(dtype type, const void *in, float *out, int64_t n);

#endif
