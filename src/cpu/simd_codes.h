/* Codes of packed weights (cpu/packed.h) out of their bits, over the vectors of bytes that the including file brings. */
#ifndef OMNI_CPU_SIMD_CODES_H
#define OMNI_CPU_SIMD_CODES_H

#include "cpu/kernels.h"
#include "tensor/blocks.h"

#ifndef UNROLL
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* Moves bits at `from` of every byte to `to`; what else is in the byte must be masked away. */
SIMD vb vb_move(vb v, int from, int to) {
    return from > to ? vb_right(v, from - to) : to > from ? vb_left(v, to - from) : v;
}

/* Codes of input group g; `codes` are those of 32 inputs, at this vector's outputs. */
SIMD vb packed_codes(const uint8_t *codes, int low, int high, int g) {
    if (low == 8) {
        return vb_load(codes + g * PACK_VECTOR);
    }
    vb w;
    if (low == 4) {
        w = vb_load(codes + g % 4 * PACK_VECTOR);
        w = vb_and(g < 4 ? w : vb_right(w, 4), vb_set(15));
    } else {
        w = vb_and(vb_move(vb_load(codes + g / 4 * PACK_VECTOR), 2 * (g % 4), 0), vb_set(3));
    }
    if (high == 1) {
        w = vb_or_and(w, vb_move(vb_load(codes + low * PACK_VECTOR), g, low), vb_set(1 << low));
    } else if (high == 2) {
        w = vb_or_and(w, vb_move(vb_load(codes + (low + g / 4) * PACK_VECTOR), 2 * (g % 4), low), vb_set(3 << low));
    }
    return w;
}

/* Whether codes stand for values of a table, and which. */
SIMD int packed_has_table(dtype type) {
    return type == DTYPE_MXFP4 || type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS;
}

SIMD vb packed_table(dtype type) {
    return type == DTYPE_MXFP4 ? vb_table(BLOCK_MXFP4_VALUES) : packed_has_table(type) ? vb_table(BLOCK_IQ4_VALUES) : vb_set(0);
}

/* Scales of a superblock, of the outputs from `at` on. */
SIMD vf packed_d(dtype type, const uint8_t *w, int at) {
    return type == DTYPE_MXFP4 ? vf_load_mxfp4(w + at) : vf_load_f16((const uint16_t *)w + at);
}

SIMD vf packed_m(packed_format f, const uint8_t *w, int at) {
    return f.head > 2 * PACK ? vf_load_f16((const uint16_t *)w + PACK + at) : vf_set(0.0f);
}

#endif
