/* Vectors of 4 floats (AArch64 Advanced SIMD). */
#ifndef OMNI_CPU_SIMD_NEON_H
#define OMNI_CPU_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define SIMD static inline __attribute__((always_inline, unused))

enum { LANES = 4, BLOCK_ROWS = 4, QUERIES = 4, BLOCK_DENSE = 6 };
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vmask;
typedef float32x4_t v4;

SIMD vf vf_load(const float *p) {
    return vld1q_f32(p);
}

SIMD void vf_store(float *p, vf a) {
    vst1q_f32(p, a);
}

/* The first n < LANES values, zeros behind them. */
SIMD vf vf_load_part(const float *p, int64_t n) {
    float t[LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vld1q_f32(t);
}

SIMD void vf_store_part(float *p, vf a, int64_t n) {
    float t[LANES];
    vst1q_f32(t, a);
    memcpy(p, t, (size_t)n * sizeof *p);
}

SIMD vf vf_set(float x) {
    return vdupq_n_f32(x);
}

SIMD vf vf_add(vf a, vf b) {
    return vaddq_f32(a, b);
}

SIMD vf vf_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}

SIMD vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}

SIMD vf vf_div(vf a, vf b) {
    return vdivq_f32(a, b);
}

SIMD vf vf_max(vf a, vf b) {
    return vmaxq_f32(a, b);
}

SIMD vf vf_min(vf a, vf b) {
    return vminq_f32(a, b);
}

/* a * b + c with one rounding, and c - a * b. */
SIMD vf vf_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}

SIMD vf vf_fnma(vf a, vf b, vf c) {
    return vfmsq_f32(c, a, b);
}

SIMD vf vf_abs(vf a) {
    return vabsq_f32(a);
}

/* To the nearest whole number, halves to even. */
SIMD vf vf_round(vf a) {
    return vrndnq_f32(a);
}

SIMD vi vi_from(vf a) {
    return vcvtnq_s32_f32(a);
}

SIMD vi vi_sub(vi a, vi b) {
    return vsubq_s32(a, b);
}

/* 2^n for -126 <= n <= 127. */
SIMD vf vf_exp2i(vi n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

SIMD vmask vf_less(vf a, vf b) {
    return vcltq_f32(a, b);
}

SIMD vf vf_select(vmask m, vf yes, vf no) {
    return vbslq_f32(m, yes, no);
}

/* Whether every lane of a is below b (not so for NaN). */
SIMD int vf_all_less(vf a, vf b) {
    return vminvq_u32(vf_less(a, b)) != 0;
}

/* Every sum is (0 + 1) + (2 + 3). */
SIMD v4 vf_sum4(vf a, vf b, vf c, vf d) {
    return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

/* out[r] = the sums of four vectors of each of four rows. */
SIMD void vf_sum16(const vf *a, const vf *b, const vf *c, const vf *d, v4 out[4]) {
    out[0] = vf_sum4(a[0], a[1], a[2], a[3]);
    out[1] = vf_sum4(b[0], b[1], b[2], b[3]);
    out[2] = vf_sum4(c[0], c[1], c[2], c[3]);
    out[3] = vf_sum4(d[0], d[1], d[2], d[3]);
}

SIMD float vf_sum(vf a) {
    return vaddvq_f32(vpaddq_f32(a, vdupq_n_f32(0)));
}

SIMD float vf_largest(vf a) {
    return vmaxvq_f32(a);
}

/* r[i][j] = r[j][i] */
SIMD void v4_transpose(v4 r[4]) {
    const v4 a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]), c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

SIMD v4 v4_load(const float *p) {
    return vld1q_f32(p);
}

SIMD void v4_store(float *p, v4 a) {
    vst1q_f32(p, a);
}

SIMD v4 v4_add(v4 a, v4 b) {
    return vaddq_f32(a, b);
}

SIMD v4 v4_scale(v4 a, float s) {
    return vmulq_n_f32(a, s);
}

SIMD vf vf_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

SIMD vf vf_load_f16_part(const uint16_t *p, int64_t n) {
    uint16_t t[LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vf_load_f16(t);
}

SIMD void vf_store_f16(uint16_t *p, vf a) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}

SIMD vf vf_load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

SIMD vf vf_load_bf16_part(const uint16_t *p, int64_t n) {
    uint16_t t[LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vf_load_bf16(t);
}

SIMD vf vf_load_i8(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    int16x8_t wide = vmovl_s8(vcreate_s8((uint32_t)four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

/* The F16 at p in every lane. */
SIMD vf vf_set_f16(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h)));
}

#endif
