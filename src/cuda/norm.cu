/* Normalisation: a block of threads a row; heads: a warp a head. */
#include "cuda/norm.cuh"

enum { THREADS = 256 };

__global__ static void rms_norm_kernel(const float *x, const float *w, float eps, int64_t width, float *y) {
    __shared__ float partial[THREADS / WARP];
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    const float scale = rms_scale(x, width, eps, partial);
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        y[i] = w[i] * (x[i] * scale);
    }
}

static void rms_norm(backend *b, const float *x, const float *w, float eps, int64_t rows, int64_t width, float *y) {
    launch(cuda_of(b), "rms_norm", rms_norm_kernel, (unsigned)rows, THREADS, 0, x, w, eps, width, y);
}

/* Two passes over the row: the squares are of the distances from the mean. */
__global__ static void layer_norm_kernel(const float *x, const float *w, const float *bias, float eps, int64_t width, float *y) {
    __shared__ float partial[THREADS / WARP];
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    float sum = 0, squares = 0;
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        sum += x[i];
    }
    const float mean = block_sum(sum, partial) / (float)width;
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        squares += (x[i] - mean) * (x[i] - mean);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, partial) / (float)width + eps);
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        y[i] = (x[i] - mean) * scale * w[i] + (bias ? bias[i] : 0);
    }
}

static void layer_norm(backend *b, const float *x, const float *w, const float *bias, float eps, int64_t rows, int64_t width, float *y) {
    launch(cuda_of(b), "layer_norm", layer_norm_kernel, (unsigned)rows, THREADS, 0, x, w, bias, eps, width, y);
}

enum { HEADS_A_BLOCK = 4 };

/* A warp a head. */
__global__ static void head_norm_rope_kernel(float *x, int64_t rows, int64_t x_stride, int heads, int head_dim, const float *weight, float eps,
                                             const float *cosine, const float *sine) {
    const int64_t unit = (int64_t)blockIdx.x * HEADS_A_BLOCK + threadIdx.x / WARP, row = unit / heads, half = head_dim / 2;
    if (unit < rows * heads) { /* the same for a whole warp */
        norm_and_turn(x + row * x_stride + unit % heads * head_dim, head_dim, weight, eps, cosine ? cosine + row * half : NULL,
                      cosine ? sine + row * half : NULL);
    }
}

static void head_norm_rope(backend *b, float *x, int64_t rows, int64_t x_stride, int heads, int head_dim, const float *weight, float eps,
                           const float *cosine, const float *sine) {
    launch(cuda_of(b), "head_norm_rope", head_norm_rope_kernel, blocks_for(rows * heads, HEADS_A_BLOCK), HEADS_A_BLOCK * WARP, 0, x, rows, x_stride,
           heads, head_dim, weight, eps, cosine, sine);
}

void cuda_norm_ops(ops *o) {
    o->rms_norm = rms_norm;
    o->layer_norm = layer_norm;
    o->head_norm_rope = head_norm_rope;
}
