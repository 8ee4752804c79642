/* Bytes and sums for the packed kernels: AVX-512 with VNNI. */
#ifndef OMNI_CPU_SIMD_PACKED_VNNI_H
#define OMNI_CPU_SIMD_PACKED_VNNI_H

#include "cpu/simd_avx512.h"

/* Rows that share a vector of weights in registers, and whether vi_dot_wide leaves 128 times the sum of the inputs in the result. */
enum { PACKED_ROWS = 8, DOT_BIASED = 1 };

typedef __m512i vb;

SIMD vb vb_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}

SIMD vb vb_set(int x) {
    return _mm512_set1_epi8((char)x);
}

SIMD vb vb_and(vb a, vb b) {
    return _mm512_and_si512(a, b);
}

/* a | (b & c) */
SIMD vb vb_or_and(vb a, vb b, vb c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0xf8);
}

/* Bits cross from byte to byte: to be masked. */
SIMD vb vb_right(vb a, int n) {
    return _mm512_srli_epi16(a, (unsigned)n);
}

SIMD vb vb_left(vb a, int n) {
    return _mm512_slli_epi16(a, (unsigned)n);
}

/* 16 signed bytes, plus 128. */
SIMD vb vb_table(const int8_t *t) {
    return _mm512_broadcast_i32x4(_mm_xor_si128(_mm_loadu_si128((const void *)t), _mm_set1_epi8((char)0x80)));
}

SIMD vb vb_lookup(vb table, vb index) {
    return _mm512_shuffle_epi8(table, index);
}

/* sum + in each lane four weights, as unsigned bytes, times x[0 .. 3]. */
SIMD vi vi_dot(vi sum, vb w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
}

SIMD vi vi_dot_wide(vi sum, vb w, const int8_t *x) {
    return vi_dot(sum, w, x);
}

SIMD vi vi_set(int32_t x) {
    return _mm512_set1_epi32(x);
}

SIMD vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}

SIMD vi vi_mul(vi a, vi b) {
    return _mm512_mullo_epi32(a, b);
}

SIMD vi vi_and(vi a, int32_t mask) {
    return _mm512_and_si512(a, _mm512_set1_epi32(mask));
}

SIMD vi vi_right(vi a, int n) {
    return _mm512_srli_epi32(a, (unsigned)n);
}

SIMD vi vi_from_u8(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}

SIMD vi vi_from_i8(const int8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p));
}

SIMD vf vf_from(vi a) {
    return _mm512_cvtepi32_ps(a);
}

SIMD int32_t vi_sum(vi a) {
    return _mm512_reduce_add_epi32(a);
}

SIMD void vi_store_i8(int8_t *p, vi a) {
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(a));
}

/* 2^(e - 128) of each byte; exact, subnormal for e < 2. */
SIMD vf vf_load_mxfp4(const uint8_t *p) {
    const vi e = vi_from_u8(p);
    const vi normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const vi small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), normal, small));
}

#endif
