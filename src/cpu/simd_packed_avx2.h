/* Bytes and sums for the packed kernels: AVX2, with the dot products of AVX-VNNI where the including file is compiled for them. */
#ifndef OMNI_CPU_SIMD_PACKED_AVX2_H
#define OMNI_CPU_SIMD_PACKED_AVX2_H

#include "cpu/simd_avx2.h"

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define AVX2_VNNI
enum { PACKED_ROWS = 4, DOT_BIASED = 1 };
#else
enum { PACKED_ROWS = 4, DOT_BIASED = 0 };
#endif

typedef __m256i vb;

SIMD vb vb_load(const uint8_t *p) {
    return _mm256_loadu_si256((const void *)p);
}

SIMD vb vb_set(int x) {
    return _mm256_set1_epi8((char)x);
}

SIMD vb vb_and(vb a, vb b) {
    return _mm256_and_si256(a, b);
}

/* a | (b & c) */
SIMD vb vb_or_and(vb a, vb b, vb c) {
    return _mm256_or_si256(a, _mm256_and_si256(b, c));
}

/* Bits cross from byte to byte: to be masked. */
SIMD vb vb_right(vb a, int n) {
    return _mm256_srli_epi16(a, n);
}

SIMD vb vb_left(vb a, int n) {
    return _mm256_slli_epi16(a, n);
}

/* 16 signed bytes, plus 128. */
SIMD vb vb_table(const int8_t *t) {
    return _mm256_broadcastsi128_si256(_mm_xor_si128(_mm_loadu_si128((const void *)t), _mm_set1_epi8((char)0x80)));
}

SIMD vb vb_lookup(vb table, vb index) {
    return _mm256_shuffle_epi8(table, index);
}

#ifdef AVX2_VNNI

/* sum + in each lane four weights, as unsigned bytes, times x[0 .. 3]. */
SIMD vi vi_dot(vi sum, vb w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, w, _mm256_set1_epi32(four));
#else /* the same instruction by its other name: a processor with AVX-512 can test this file */
    return _mm256_dpbusd_epi32(sum, w, _mm256_set1_epi32(four));
#endif
}

SIMD vi vi_dot_wide(vi sum, vb w, const int8_t *x) {
    return vi_dot(sum, w, x);
}

#else

SIMD vi add_fours(vi sum, __m256i twos) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)));
}

/* sum + in each lane four weights, as unsigned bytes below 128, times x[0 .. 3]: sums of two fit 16 bits. */
SIMD vi vi_dot(vi sum, vb w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return add_fours(sum, _mm256_maddubs_epi16(w, _mm256_set1_epi32(four)));
}

/* The same with weights from -128 to 127, held plus 128: their magnitude times x with their sign, for two of 255 * 127 would not fit. */
SIMD vi vi_dot_wide(vi sum, vb w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    const vb value = _mm256_xor_si256(w, vb_set(0x80));
    return add_fours(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8(_mm256_set1_epi32(four), value)));
}

#endif

SIMD vi vi_set(int32_t x) {
    return _mm256_set1_epi32(x);
}

SIMD vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}

SIMD vi vi_mul(vi a, vi b) {
    return _mm256_mullo_epi32(a, b);
}

SIMD vi vi_and(vi a, int32_t mask) {
    return _mm256_and_si256(a, _mm256_set1_epi32(mask));
}

SIMD vi vi_right(vi a, int n) {
    return _mm256_srli_epi32(a, n);
}

SIMD vi vi_from_u8(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}

SIMD vi vi_from_i8(const int8_t *p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
}

SIMD vf vf_from(vi a) {
    return _mm256_cvtepi32_ps(a);
}

SIMD int32_t vi_sum(vi a) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

SIMD void vi_store_i8(int8_t *p, vi a) {
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((void *)p, _mm_packs_epi16(halves, halves));
}

/* 2^(e - 128) of each byte; exact, subnormal for e < 2. */
SIMD vf vf_load_mxfp4(const uint8_t *p) {
    const vi e = vi_from_u8(p);
    const vi normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const vi small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

#endif
