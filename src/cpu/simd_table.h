/* Overwrites the table with the vector kernels of the file that includes this. */
#ifndef OMNI_CPU_SIMD_TABLE_H
#define OMNI_CPU_SIMD_TABLE_H

/* Loops over registers, whose counts are constants, must disappear. */
#define UNROLL _Pragma("GCC unroll 16")

#include "cpu/simd_math.h"

#include "cpu/simd_attention.h"
#include "cpu/simd_dense.h"
#include "cpu/simd_gemm.h"
#include "cpu/simd_linear.h"
#include "cpu/simd_rows.h"

static float simd_probe_arithmetic(int64_t rounds) {
    vf acc[PROBE_SUMS];
    const vf a = vf_set(0.999f), b = vf_set(0.001f);
    UNROLL for (int j = 0; j < PROBE_SUMS; j++) {
        acc[j] = vf_set((float)j);
    }
    for (int64_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < PROBE_SUMS; j++) {
            acc[j] = vf_fma(acc[j], a, b);
        }
    }
    float sum = 0;
    UNROLL for (int j = 0; j < PROBE_SUMS; j++) {
        sum += vf_sum(acc[j]);
    }
    return sum;
}

/* Four streams, called for early: a single one does not reach what the memory can give. */
static float simd_probe_memory(const float *x, int64_t n) {
    vf sum[4] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    const int64_t quarter = n / 4;
    for (int64_t i = 0; i < quarter; i += LANES) {
        UNROLL for (int j = 0; j < 4; j++) {
            const float *p = x + j * quarter + i;
            __builtin_prefetch((const char *)p + 8192, 0, 2);
            sum[j] = vf_add(sum[j], vf_load(p));
        }
    }
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static void simd_table(cpu_kernels *k) {
    k->linear[DTYPE_F32] = simd_linear_f32;
    k->linear[DTYPE_F16] = simd_linear_f16;
    k->linear[DTYPE_BF16] = simd_linear_bf16;
    k->linear[DTYPE_Q8_0] = simd_linear_q8_0;
    k->gemm[DTYPE_F32] = simd_gemm_f32;
    k->gemm[DTYPE_F16] = simd_gemm_f16;
    k->gemm[DTYPE_BF16] = simd_gemm_bf16;
    k->convert_rows[DTYPE_F16] = 0; /* halves are as good as free to convert, and take half the room in the cache */
    k->convert_rows[DTYPE_BF16] = 0;
    k->convert_rows[DTYPE_Q8_0] = 16;
    k->to_f32[DTYPE_F16] = simd_from_f16;
    k->to_f32[DTYPE_BF16] = simd_from_bf16;
    k->to_f32[DTYPE_Q8_0] = simd_from_q8_0;
    k->to_f16 = simd_to_f16;
    k->rms_norm = simd_rms_norm;
    k->layer_norm = simd_layer_norm;
    k->rotate = simd_rotate;
    k->activate = simd_activate;
    k->silu_mul = simd_silu_mul;
    k->add = simd_add;
    k->add_product = simd_add_product;
    k->add_multiple = simd_add_multiple;
    k->snake_beta = simd_snake_beta;
    k->depthwise = simd_depthwise;
    k->attend_keys[DTYPE_F32] = simd_attend_keys_f32;
    k->attend_keys[DTYPE_F16] = simd_attend_keys_f16;
    k->attend_weights = simd_attend_weights;
    k->attend_values[DTYPE_F32] = simd_attend_values_f32;
    k->attend_values[DTYPE_F16] = simd_attend_values_f16;
    k->attend_values[DTYPE_Q8_0] = simd_attend_values_q8_0;
    k->attend_tile = k->attend_tile_bf16 = simd_attend_tile;
    k->lanes = LANES;
    k->probe_arithmetic = simd_probe_arithmetic;
    k->probe_memory = simd_probe_memory;
}

#endif
