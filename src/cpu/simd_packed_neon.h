/* Bytes and sums for the packed kernels: NEON, with dot products of signed bytes, or of unsigned and signed ones (I8MM), where the
 * including file is compiled for them. */
#ifndef OMNI_CPU_SIMD_PACKED_NEON_H
#define OMNI_CPU_SIMD_PACKED_NEON_H

#include "cpu/simd_neon.h"

#ifdef __ARM_FEATURE_MATMUL_INT8
enum { PACKED_ROWS = 4, DOT_BIASED = 1 };
#else
enum { PACKED_ROWS = 4, DOT_BIASED = 0 };
#endif

typedef uint8x16_t vb;

SIMD vb vb_load(const uint8_t *p) {
    return vld1q_u8(p);
}

SIMD vb vb_set(int x) {
    return vdupq_n_u8((uint8_t)x);
}

SIMD vb vb_and(vb a, vb b) {
    return vandq_u8(a, b);
}

/* a | (b & c) */
SIMD vb vb_or_and(vb a, vb b, vb c) {
    return vorrq_u8(a, vandq_u8(b, c));
}

SIMD vb vb_right(vb a, int n) {
    return vshlq_u8(a, vdupq_n_s8((int8_t)-n));
}

SIMD vb vb_left(vb a, int n) {
    return vshlq_u8(a, vdupq_n_s8((int8_t)n));
}

/* 16 signed bytes, plus 128. */
SIMD vb vb_table(const int8_t *t) {
    return veorq_u8(vreinterpretq_u8_s8(vld1q_s8(t)), vb_set(0x80));
}

SIMD vb vb_lookup(vb table, vb index) {
    return vqtbl1q_u8(table, index);
}

/* sum + in each lane four weights times x[0 .. 3]; weights below 128 but for I8MM. */
SIMD vi vi_dot(vi sum, vb w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    const int8x16_t b = vreinterpretq_s8_s32(vdupq_n_s32(four));
#ifdef __ARM_FEATURE_MATMUL_INT8
    return vusdotq_s32(sum, w, b);
#elif defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, vreinterpretq_s8_u8(w), b);
#else
    const int8x16_t a = vreinterpretq_s8_u8(w);
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))), high = vpaddlq_s16(vmull_high_s8(a, b));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

/* The same with weights from -128 to 127, held plus 128. */
SIMD vi vi_dot_wide(vi sum, vb w, const int8_t *x) {
    return vi_dot(sum, DOT_BIASED ? w : veorq_u8(w, vb_set(0x80)), x);
}

SIMD vi vi_set(int32_t x) {
    return vdupq_n_s32(x);
}

SIMD vi vi_add(vi a, vi b) {
    return vaddq_s32(a, b);
}

SIMD vi vi_mul(vi a, vi b) {
    return vmulq_s32(a, b);
}

SIMD vi vi_and(vi a, int32_t mask) {
    return vandq_s32(a, vdupq_n_s32(mask));
}

SIMD vi vi_right(vi a, int n) {
    return vshlq_s32(a, vdupq_n_s32(-n));
}

SIMD vi vi_from_u8(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}

SIMD vi vi_from_i8(const int8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four))));
}

SIMD vf vf_from(vi a) {
    return vcvtq_f32_s32(a);
}

SIMD int32_t vi_sum(vi a) {
    return vaddvq_s32(a);
}

SIMD void vi_store_i8(int8_t *p, vi a) {
    const int16x4_t halves = vmovn_s32(a);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(bytes), 0);
    memcpy(p, &four, sizeof four);
}

/* 2^(e - 128) of each byte; exact, subnormal for e < 2. */
SIMD vf vf_load_mxfp4(const uint8_t *p) {
    const vi e = vi_from_u8(p);
    const vi normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23), small = vshlq_s32(vdupq_n_s32(0x00200000), e);
    return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), small, normal));
}

#endif
