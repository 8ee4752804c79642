/* The weights of code2wav, shared by its loader (code2wav_load.c) and the computation (code2wav.c). */
#ifndef OMNI_MODEL_CODE2WAV_MODEL_H
#define OMNI_MODEL_CODE2WAV_MODEL_H

#include "model/code2wav.h"
#include "model/rope.h"
#include "model/weights.h"

enum { CODE2WAV_MAX_STAGES = 16, CODE2WAV_MAX_UNITS = 8 };

/* One layer of the transformer. */
typedef struct c2w_layer {
    const float *attn_norm, *ffn_norm;   /* [hidden] */
    const float *attn_scale, *ffn_scale; /* LayerScale [hidden] */
    tensor q, k, v, o, gate, up, down;
} c2w_layer;

/* A causal convolution: w->ne = {in, kernel, out}. Its input is preceded by (kernel - 1) * dilation rows of the past. */
typedef struct c2w_conv {
    tensor w;
    const float *bias; /* [out] */
    int64_t in, out, kernel, dilation;
} c2w_conv;

/* A transposed convolution as a linear map to kernel * out values a row, which are then overlapped and added.
 * The first kernel - stride rows of its output are trimmed, and as many at the end. */
typedef struct c2w_transposed {
    tensor w;          /* ne = {in, out * kernel}: a view of {in, out, kernel} */
    const float *bias; /* [out] */
    int64_t in, out, kernel, stride;
} c2w_transposed;

typedef struct c2w_snake {
    const float *a, *inv_b; /* [channels]: e^alpha and 1 / (e^beta + 1e-9) */
} c2w_snake;

typedef struct c2w_upsample {
    c2w_transposed conv;
    tensor dw; /* F32, ne = {hidden, kernel} */
    const float *dw_bias, *norm, *norm_bias, *gamma;
    tensor pw1, pw2; /* {hidden, inner} and back */
    const float *pw1_bias, *pw2_bias;
    int64_t dw_kernel, inner;
} c2w_upsample;

typedef struct c2w_unit {
    c2w_snake snake1, snake2;
    c2w_conv conv1, conv2;
} c2w_unit;

typedef struct c2w_block {
    c2w_snake snake;
    c2w_transposed conv;
    int units;
    c2w_unit unit[CODE2WAV_MAX_UNITS];
} c2w_block;

struct code2wav {
    backend *b;
    weights held;
    int64_t hidden, layers, heads, kv_heads, head_dim, ffn, window, codebook, groups, decoder_dim, sample_rate;
    float eps;
    rotation rope;
    tensor embd; /* {hidden, codebook * groups} */
    c2w_layer *layer;
    const float *output_norm;
    int n_upsample, n_blocks;
    c2w_upsample upsample[CODE2WAV_MAX_STAGES];
    c2w_block block[CODE2WAV_MAX_STAGES];
    c2w_conv conv_in, conv_out;
    c2w_snake snake_out;
    int64_t total_upsample, trimmed;
};

#endif
