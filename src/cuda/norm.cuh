/* Norms that several kernels have in them. */
#ifndef OMNI_CUDA_NORM_CUH
#define OMNI_CUDA_NORM_CUH

#include "cuda/device.cuh"

/* What rms_norm multiplies a row of width values with. All threads of the block must call it; partial as for block_sum. */
__device__ static inline float rms_scale(const float *x, int64_t width, float eps, float *partial) {
    float sum = 0;
    for (int64_t at = threadIdx.x * 8; at < width; at += blockDim.x * 8) {
        float v[8];
        load_8(x, at, width, v);
        for (int i = 0; i < 8; i++) {
            sum += v[i] * v[i];
        }
    }
    return 1.0f / sqrtf(block_sum(sum, partial) / (float)width + eps);
}

/* The same by a warp. */
__device__ static inline float rms_scale_by_warp(const float *x, int64_t width, float eps) {
    float sum = 0;
    for (int64_t at = threadIdx.x % WARP * 8; at < width; at += WARP * 8) {
        float v[8];
        load_8(x, at, width, v);
        for (int i = 0; i < 8; i++) {
            sum += v[i] * v[i];
        }
    }
    return 1.0f / sqrtf(warp_sum(sum) / (float)width + eps);
}

/* A warp norms and turns one head: head_norm_rope of tensor/ops.h. weight NULL: no norm; cosine and sine [head_dim / 2] NULL: no rotation. A lane has
 * the pairs (j, j + half) for j = lane, lane + 32, ... */
__device__ static inline void norm_and_turn(float *x, int head_dim, const float *weight, float eps, const float *cosine, const float *sine) {
    const int lane = threadIdx.x % WARP, half = head_dim / 2;
    float scale = 1;
    if (weight) {
        float sum = 0;
        for (int i = lane; i < head_dim; i += WARP) {
            sum += x[i] * x[i];
        }
        scale = 1.0f / sqrtf(warp_sum(sum) / (float)head_dim + eps);
    }
    for (int j = lane; j < half; j += WARP) {
        float a = x[j], b = x[j + half];
        if (weight) {
            a = weight[j] * (a * scale);
            b = weight[j + half] * (b * scale);
        }
        if (cosine) {
            const float turned = a * cosine[j] - b * sine[j];
            b = b * cosine[j] + a * sine[j];
            a = turned;
        }
        x[j] = a;
        x[j + half] = b;
    }
}

#endif
