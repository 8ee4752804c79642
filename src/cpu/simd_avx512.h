/* Vectors of 16 floats (AVX-512 F, BW, VL, DQ). Everything static: nothing here may be shared with other files' code. */
#ifndef OMNI_CPU_SIMD_AVX512_H
#define OMNI_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SIMD static inline __attribute__((always_inline, unused))

enum { LANES = 16, BLOCK_ROWS = 4, QUERIES = 4, BLOCK_DENSE = 6 };
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vmask;
typedef __m128 v4;

SIMD vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}

SIMD void vf_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}

SIMD __mmask16 first_lanes(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}

/* The first n < LANES values, zeros behind them. */
SIMD vf vf_load_part(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

SIMD void vf_store_part(float *p, vf a, int64_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), a);
}

SIMD vf vf_set(float x) {
    return _mm512_set1_ps(x);
}

SIMD vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}

SIMD vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}

SIMD vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}

SIMD vf vf_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}

SIMD vf vf_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}

SIMD vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}

/* a * b + c with one rounding, and c - a * b. */
SIMD vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

SIMD vf vf_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}

SIMD vf vf_abs(vf a) {
    return _mm512_abs_ps(a);
}

/* To the nearest whole number, halves to even. */
SIMD vf vf_round(vf a) {
    return _mm512_roundscale_ps(a, 8);
}

SIMD vi vi_from(vf a) {
    return _mm512_cvtps_epi32(a);
}

SIMD vi vi_sub(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}

/* 2^n for -126 <= n <= 127. */
SIMD vf vf_exp2i(vi n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

SIMD vmask vf_less(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

SIMD vf vf_select(vmask m, vf yes, vf no) {
    return _mm512_mask_blend_ps(m, no, yes);
}

/* Whether every lane of a is below b (not so for NaN). */
SIMD int vf_all_less(vf a, vf b) {
    return vf_less(a, b) == 0xffff;
}

/* Every sum folds the halves onto each other down to four lanes, then (0 + 1) + (2 + 3). */
SIMD v4 fold4(vf a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

SIMD v4 vf_sum4(vf a, vf b, vf c, vf d) {
    __m128 r0 = fold4(a), r1 = fold4(b), r2 = fold4(c), r3 = fold4(d);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    return _mm_add_ps(_mm_add_ps(r0, r1), _mm_add_ps(r2, r3));
}

/* Two vectors at once: the halves of each folded, a's below b's; then the same with pairs of such. */
SIMD vf fold_pair(vf a, vf b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

SIMD vf fold_quarters(vf ab, vf cd) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

SIMD vf add_neighbours(vf a, vf b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* out[r] = the sums of four vectors of each of four rows: the additions of vf_sum4, for all sixteen at once. */
SIMD void vf_sum16(const vf *a, const vf *b, const vf *c, const vf *d, v4 out[4]) {
    vf s0 = fold_quarters(fold_pair(a[0], b[0]), fold_pair(c[0], d[0]));
    vf s1 = fold_quarters(fold_pair(a[1], b[1]), fold_pair(c[1], d[1]));
    vf s2 = fold_quarters(fold_pair(a[2], b[2]), fold_pair(c[2], d[2]));
    vf s3 = fold_quarters(fold_pair(a[3], b[3]), fold_pair(c[3], d[3]));
    vf all = add_neighbours(add_neighbours(s0, s1), add_neighbours(s2, s3));
    out[0] = _mm512_castps512_ps128(all);
    out[1] = _mm512_extractf32x4_ps(all, 1);
    out[2] = _mm512_extractf32x4_ps(all, 2);
    out[3] = _mm512_extractf32x4_ps(all, 3);
}

SIMD float vf_sum(vf a) {
    __m128 r = fold4(a);
    __m128 pair = _mm_add_ps(r, _mm_movehdup_ps(r));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehl_ps(pair, pair)));
}

SIMD float vf_largest(vf a) {
    return _mm512_reduce_max_ps(a);
}

/* r[i][j] = r[j][i] */
SIMD void v4_transpose(v4 r[4]) {
    _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
}

SIMD v4 v4_load(const float *p) {
    return _mm_loadu_ps(p);
}

SIMD void v4_store(float *p, v4 a) {
    _mm_storeu_ps(p, a);
}

SIMD v4 v4_add(v4 a, v4 b) {
    return _mm_add_ps(a, b);
}

SIMD v4 v4_scale(v4 a, float s) {
    return _mm_mul_ps(a, _mm_set1_ps(s));
}

SIMD vf vf_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

SIMD vf vf_load_f16_part(const uint16_t *p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}

SIMD void vf_store_f16(uint16_t *p, vf a) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

SIMD vf vf_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}

SIMD vf vf_load_bf16_part(const uint16_t *p, int64_t n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p)), 16));
}

SIMD vf vf_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

/* The F16 at p in every lane. */
SIMD vf vf_set_f16(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

#endif
