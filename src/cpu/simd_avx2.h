/* Vectors of 8 floats (AVX2, FMA, F16C). Everything static: nothing here may be shared with other files' code. */
#ifndef OMNI_CPU_SIMD_AVX2_H
#define OMNI_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SIMD static inline __attribute__((always_inline, unused))

enum { LANES = 8, BLOCK_ROWS = 3, QUERIES = 2, BLOCK_DENSE = 3 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vmask;
typedef __m128 v4;

SIMD vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}

SIMD void vf_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}

SIMD __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n < LANES values, zeros behind them. */
SIMD vf vf_load_part(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}

SIMD void vf_store_part(float *p, vf a, int64_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), a);
}

SIMD vf vf_set(float x) {
    return _mm256_set1_ps(x);
}

SIMD vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}

SIMD vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}

SIMD vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}

SIMD vf vf_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}

SIMD vf vf_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}

SIMD vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}

/* a * b + c with one rounding, and c - a * b. */
SIMD vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

SIMD vf vf_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}

SIMD vf vf_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

/* To the nearest whole number, halves to even. */
SIMD vf vf_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

SIMD vi vi_from(vf a) {
    return _mm256_cvtps_epi32(a);
}

SIMD vi vi_sub(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}

/* 2^n for -126 <= n <= 127. */
SIMD vf vf_exp2i(vi n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

SIMD vmask vf_less(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

SIMD vf vf_select(vmask m, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, m);
}

/* Whether every lane of a is below b (not so for NaN). */
SIMD int vf_all_less(vf a, vf b) {
    return _mm256_movemask_ps(vf_less(a, b)) == 0xff;
}

/* Every sum folds the halves onto each other down to four lanes, then (0 + 1) + (2 + 3). */
SIMD v4 fold4(vf a) {
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

SIMD v4 vf_sum4(vf a, vf b, vf c, vf d) {
    __m128 r0 = fold4(a), r1 = fold4(b), r2 = fold4(c), r3 = fold4(d);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    return _mm_add_ps(_mm_add_ps(r0, r1), _mm_add_ps(r2, r3));
}

/* out[r] = the sums of four vectors of each of four rows. */
SIMD void vf_sum16(const vf *a, const vf *b, const vf *c, const vf *d, v4 out[4]) {
    out[0] = vf_sum4(a[0], a[1], a[2], a[3]);
    out[1] = vf_sum4(b[0], b[1], b[2], b[3]);
    out[2] = vf_sum4(c[0], c[1], c[2], c[3]);
    out[3] = vf_sum4(d[0], d[1], d[2], d[3]);
}

SIMD float vf_sum(vf a) {
    __m128 r = fold4(a);
    __m128 pair = _mm_add_ps(r, _mm_movehdup_ps(r));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehl_ps(pair, pair)));
}

SIMD float vf_largest(vf a) {
    __m128 r = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    r = _mm_max_ps(r, _mm_movehdup_ps(r));
    return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehl_ps(r, r)));
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
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

/* n < 8 halves and zeros behind them, put together in registers: a copy through memory would stall the load that follows. */
SIMD __m128i part_of_halves(const uint16_t *p, int64_t n) {
    uint64_t low = 0, rest = 0;
    if (n >= 4) {
        memcpy(&low, p, sizeof low);
    }
    for (int64_t i = n & ~3, shift = 0; i < n; i++, shift += 16) {
        rest |= (uint64_t)p[i] << shift;
    }
    return n >= 4 ? _mm_set_epi64x((long long)rest, (long long)low) : _mm_set_epi64x(0, (long long)rest);
}

SIMD vf vf_load_f16_part(const uint16_t *p, int64_t n) {
    return _mm256_cvtph_ps(part_of_halves(p, n));
}

SIMD void vf_store_f16(uint16_t *p, vf a) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

SIMD vf vf_load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}

SIMD vf vf_load_bf16_part(const uint16_t *p, int64_t n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(part_of_halves(p, n)), 16));
}

SIMD vf vf_load_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

/* The F16 at p in every lane. */
SIMD vf vf_set_f16(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

#endif
