/* Convolutions: products whose inputs are windows, and what is left of transposed ones. */
#include "cuda/linear.cuh"

enum { THREADS = 256 };

/* Value i of row t: x[t + i / channels * dilation, i % channels]. */
struct dilated_input {
    enum { FEW = false };
    const float *x;
    int64_t channels, dilation;
    __device__ float operator()(int64_t row, int64_t i) const {
        return x[(row + i / channels * dilation) * channels + i % channels];
    }
};

/* Value (ky, kx, c) of the 3x3 window of output pixel (n, oy, ox), zero outside the picture. */
struct window_input {
    enum { FEW = false };
    const float *x;
    int64_t channels, height, width, out_height, out_width;
    __device__ float operator()(int64_t row, int64_t i) const {
        const int64_t ox = row % out_width, oy = row / out_width % out_height, n = row / out_width / out_height;
        const int64_t k = i / channels, at_y = 2 * oy + k / 3 - 1, at_x = 2 * ox + k % 3 - 1;
        return at_y < 0 || at_y >= height || at_x < 0 || at_x >= width ? 0 : x[((n * height + at_y) * width + at_x) * channels + i % channels];
    }
};

/* The matrix of a convolution: its outputs are the last dimension, everything before is one row. */
static weight_rows kernel_rows(const tensor *w, int64_t outs, int64_t *n) {
    *n = w->ne[0] * tensor_rows(w) / outs;
    return {(const char *)w->data, w->size ? (int64_t)w->size / outs : (int64_t)dtype_row_bytes(w->type, *n), *n};
}

static void conv1d(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y) {
    int64_t n;
    const int64_t outs = w->ne[2], channels = w->ne[0];
    const weight_rows stored = kernel_rows(w, outs, &n);
    for (int64_t at = 0; at < rows; at += (int64_t)MOST_TILES * TILE) {
        const int64_t part = rows - at < (int64_t)MOST_TILES * TILE ? rows - at : (int64_t)MOST_TILES * TILE;
        with_format(w->type, product_call<dilated_input>{cuda_of(b), "conv1d", stored, n, outs, bias,
                                                         dilated_input{x + at * channels, channels, dilation}, part, y + at * outs, outs});
    }
}

static void conv2d_3x3_s2(backend *b, const tensor *w, const float *bias, const float *x, int64_t n, int64_t height, int64_t width, float *y) {
    const int64_t outs = w->ne[3], out_height = (height + 1) / 2, out_width = (width + 1) / 2, pixels = out_height * out_width;
    int64_t inputs;
    const weight_rows stored = kernel_rows(w, outs, &inputs);
    int64_t most = (int64_t)MOST_TILES * TILE / (pixels > 0 ? pixels : 1); /* pictures of a launch */
    most = most > 0 ? most : 1;
    for (int64_t at = 0; at < n; at += most) {
        const int64_t part = n - at < most ? n - at : most;
        const window_input input = {x + at * height * width * w->ne[0], w->ne[0], height, width, out_height, out_width};
        with_format(w->type, product_call<window_input>{cuda_of(b), "conv2d_3x3_s2", stored, inputs, outs, bias, input, part * pixels,
                                                        y + at * pixels * outs, outs});
    }
}

__global__ static void depthwise_kernel(const float *w, const float *bias, const float *x, int64_t values, int64_t kernel, int64_t width, float *y) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < values) {
        float sum = bias ? bias[i % width] : 0;
        for (int64_t k = 0; k < kernel; k++) {
            sum += x[i + k * width] * w[k * width + i % width];
        }
        y[i] = sum;
    }
}

static void conv1d_depthwise(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, float *y) {
    const int64_t values = rows * w->ne[0];
    launch(cuda_of(b), "conv1d_depthwise", depthwise_kernel, blocks_for(values, THREADS), THREADS, 0, (const float *)w->data, bias, x, values,
           w->ne[1], w->ne[0], y);
}

/* Output (t * stride + k, c) gets z[t, k, c] and what the row before reaches over with: z[t - 1, stride + k, c], or the tail. */
__global__ static void overlap_kernel(const float *z, const float *bias, const float *tail, int64_t values, int64_t kernel, int64_t stride,
                                      int64_t channels, float *y) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= values) {
        return;
    }
    const int64_t c = i % channels, k = i / channels % stride, t = i / channels / stride;
    float sum = z[(t * kernel + k) * channels + c];
    if (k < kernel - stride) {
        sum += t == 0 ? tail[k * channels + c] : z[((t - 1) * kernel + stride + k) * channels + c];
    }
    y[i] = sum + (bias ? bias[c] : 0);
}

static void overlap_add(backend *b, const float *z, const float *bias, int64_t rows, int64_t kernel, int64_t stride, int64_t channels, float *tail,
                        float *y) {
    if (rows <= 0) {
        return;
    }
    const int64_t values = rows * stride * channels, over = (kernel - stride) * channels;
    launch(cuda_of(b), "overlap_add", overlap_kernel, blocks_for(values, THREADS), THREADS, 0, z, bias, (const float *)tail, values, kernel, stride,
           channels, y);
    b->ops->copy(b, tail, z + rows * kernel * channels - over, (size_t)over * sizeof *tail);
}

void cuda_conv_ops(ops *o) {
    o->conv1d = conv1d;
    o->conv2d_3x3_s2 = conv2d_3x3_s2;
    o->conv1d_depthwise = conv1d_depthwise;
    o->overlap_add = overlap_add;
}
