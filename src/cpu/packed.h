/* Repacked weights: sixteen outputs side by side, so that products need neither shuffles nor sums across a vector.
 *
 * F32, F16, BF16: groups of 16 outputs (the last one padded with zeros), input by input: 16 values of input 0, 16 of input 1, ...
 * A result is a sum of sums of some inputs in their order, whatever the rows and outputs computed beside it.
 *
 * Block types are made for integer dot products. A matrix {in, out} becomes groups of 16 outputs (the last one padded with zeros). A group is a
 * sequence of superblocks, each of 256 inputs (K types) or 32 (the others). Everything in it comes in vectors with one lane an output:
 *
 *     d      16 F16 (MXFP4: 16 bytes, the exponents)     scale of the superblock
 *     m      16 F16                                       scale of the minima, or the minimum itself; only where has_min
 *     subs   for each 32 inputs `sub` bytes: 16 scales, then 16 minima, of every 32 inputs; or scales of the first and of the last 16
 *     codes  for each 32 inputs the low bits, then the high bits of the codes
 *
 * Codes of 32 inputs: inputs go in eights of four, group g holding inputs 4g to 4g + 3; a vector of 64 bytes has byte 4o + i for input
 * 4g + i of output o. Eight bits: eight vectors, Q8_0 holding the value + 128. Four bits: vector v has group v in its low nibbles,
 * v + 4 in its high ones. Two bits: vector v has group 4v + j in bits 2j, 2j + 1. One bit: one vector, group g in bit g.
 * Scales keep the width that they have in the file, so a packed matrix is at most 4% larger.
 *
 * Inputs are quantised a row at a time into blocks of 32 int8 with a float scale. Sums within 32 inputs are whole numbers and exact;
 * float sums go up in the order of the inputs. A result therefore depends on its row and its output's weights alone. */
#ifndef OMNI_CPU_PACKED_H
#define OMNI_CPU_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/tensor.h"

enum { PACK = 16, PACK_BLOCK = 32, PACK_VECTOR = 4 * PACK };

/* How the codes become values; every one is scale * (code - offset) or scale * table[code], less what a minimum takes away. */
typedef enum packed_scales {
    SCALES_NONE,   /* d alone */
    SCALES_MIN,    /* d, and m is added */
    SCALES_32,     /* d * s8 of every 32 inputs */
    SCALES_32_MIN, /* d * u8 of every 32 inputs, less m * u8 */
    SCALES_16,     /* d * s8 of every 16 inputs */
    SCALES_16_MIN, /* d * low nibble of every 16 inputs, less m * high nibble */
} packed_scales;

typedef struct packed_format {
    int blocks; /* of 32 inputs a superblock; 0: the type cannot be packed */
    int head;   /* bytes of d and m */
    int sub;    /* bytes of scales every 32 inputs */
    int low, high;
    packed_scales scales;
} packed_format;

/* As a constant expression, so that a kernel is made for one format. X(dtype, name, blocks, head, sub, low, high, scales, offset) */
#define PACKED_FORMATS(X)                                                                                                                            \
    X(DTYPE_Q4_0, q4_0, 1, 32, 0, 4, 0, SCALES_NONE, 8)                                                                                              \
    X(DTYPE_Q4_1, q4_1, 1, 64, 0, 4, 0, SCALES_MIN, 0)                                                                                               \
    X(DTYPE_Q5_0, q5_0, 1, 32, 0, 4, 1, SCALES_NONE, 16)                                                                                             \
    X(DTYPE_Q5_1, q5_1, 1, 64, 0, 4, 1, SCALES_MIN, 0)                                                                                               \
    X(DTYPE_Q8_0, q8_0, 1, 32, 0, 8, 0, SCALES_NONE, 128)                                                                                            \
    X(DTYPE_Q2_K, q2_k, 8, 64, 32, 2, 0, SCALES_16_MIN, 0)                                                                                           \
    X(DTYPE_Q3_K, q3_k, 8, 32, 32, 2, 1, SCALES_16, 4)                                                                                               \
    X(DTYPE_Q4_K, q4_k, 8, 64, 32, 4, 0, SCALES_32_MIN, 0)                                                                                           \
    X(DTYPE_Q5_K, q5_k, 8, 64, 32, 4, 1, SCALES_32_MIN, 0)                                                                                           \
    X(DTYPE_Q6_K, q6_k, 8, 32, 32, 4, 2, SCALES_16, 32)                                                                                              \
    X(DTYPE_IQ4_NL, iq4_nl, 1, 32, 0, 4, 0, SCALES_NONE, 128)                                                                                        \
    X(DTYPE_IQ4_XS, iq4_xs, 8, 32, 16, 4, 0, SCALES_32, 128)                                                                                         \
    X(DTYPE_MXFP4, mxfp4, 1, 16, 0, 4, 0, SCALES_NONE, 128)

/* All zeros for a type that is no packed block type. */
packed_format packed_format_of(dtype type);

/* Blocks of a row of n inputs; zeros fill the last one. */
static inline int64_t packed_blocks(int64_t n) {
    return (n + PACK_BLOCK - 1) / PACK_BLOCK;
}

/* Types packed as they are, whose inputs stay float32. */
static inline bool packed_floats(dtype type) {
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
}

/* Bytes of 16 outputs' weights for n inputs; n is a multiple of the type's block. */
size_t packed_group_bytes(dtype type, int64_t n);
/* Bytes of a packed matrix of n inputs and `outs` outputs. */
size_t packed_bytes(dtype type, int64_t n, int64_t outs);

/* One group from `outs` <= 16 rows as they lie in a file. */
void packed_pack(dtype type, const void *rows, int outs, int64_t n, void *group);

/* Blocks of inputs whose largest magnitude is below this count as zeros. */
#define PACK_LEAST 1e-30f

/* 32 inputs: value i is about scale * q[i], rounded to nearest, scale = largest / 127. The scale of a block that holds a NaN or an infinity is NaN.
 * sum[h] is that of q[16 h] to q[16 h + 15]. */
typedef struct packed_input {
    float scale;
    float total; /* scale * (sum[0] + sum[1]) */
    int32_t sum[2];
    int8_t q[PACK_BLOCK];
} packed_input;

/* y[r * y_stride + o] = bias[o] + x_r . w_o for r < rows and o < outs, x_r = x + (index ? index[r] : r) * x_stride. */
typedef struct packed_piece {
    const void *w;     /* a group of 16 outputs; the next one w_stride bytes on */
    size_t w_stride;   /* packed_group_bytes */
    const float *bias; /* NULL: none */
    const packed_input *x;
    int64_t x_stride; /* blocks */
    const int32_t *index;
    float *y;
    int64_t y_stride;
    int64_t n; /* inputs */
} packed_piece;

typedef void (*packed_kernel)(const packed_piece *p, int64_t rows, int64_t outs);
/* n is a multiple of 32. */
typedef void (*quantise_kernel)(const float *x, int64_t n, packed_input *y);

#endif
