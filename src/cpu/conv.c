/* Convolutions that are more than a linear map: depthwise, transposed (its overlap), two-dimensional. */
#include <string.h>

#include "cpu/backend.h"
#include "cpu/linear.h"

typedef struct depthwise_job {
    const cpu_backend *c;
    const float *w, *bias, *x;
    int64_t kernel, width;
    float *y;
} depthwise_job;

static void depthwise_rows(void *arg, int64_t begin, int64_t end, int thread) {
    depthwise_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        j->c->k.depthwise(j->x + t * j->width, j->w, j->bias, j->kernel, j->width, j->y + t * j->width);
    }
}

static void cpu_conv1d_depthwise(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, float *y) {
    depthwise_job j = {cpu_of(b), w->data, bias, x, w->ne[1], w->ne[0], y};
    pool_for(j.c->pool, rows, cpu_grain(j.kernel * j.width), depthwise_rows, &j);
}

typedef struct overlap_job {
    const cpu_backend *c;
    const float *z, *bias, *tail;
    int64_t kernel, stride, channels;
    float *y;
} overlap_job;

static void overlap_rows(void *arg, int64_t begin, int64_t end, int thread) {
    overlap_job *j = arg;
    int64_t over = j->kernel - j->stride, n = j->stride * j->channels;
    for (int64_t t = begin; t < end; t++) {
        float *y = j->y + t * n;
        const float *z = j->z + t * j->kernel * j->channels;
        const float *before = t == 0 ? j->tail : z - over * j->channels;
        memcpy(y, z, (size_t)n * sizeof *y);
        j->c->k.add(before, over * j->channels, y);
        if (j->bias) {
            for (int64_t k = 0; k < j->stride; k++) {
                j->c->k.add(j->bias, j->channels, y + k * j->channels);
            }
        }
    }
}

static void cpu_overlap_add(backend *b, const float *z, const float *bias, int64_t rows, int64_t kernel, int64_t stride, int64_t channels,
                            float *tail, float *y) {
    if (rows <= 0) {
        return;
    }
    overlap_job j = {cpu_of(b), z, bias, tail, kernel, stride, channels, y};
    pool_for(j.c->pool, rows, cpu_grain(kernel * channels), overlap_rows, &j);
    int64_t over = (kernel - stride) * channels;
    memcpy(tail, z + rows * kernel * channels - over, (size_t)over * sizeof *tail);
}

typedef struct conv2d_job {
    const cpu_backend *c;
    const tensor *w;
    const float *bias, *x;
    int64_t height, width, out_height, out_width, row_tile, rows;
    float *y;
} conv2d_job;

/* Gathers the 3x3 window of one output pixel, [y][x][in], zero outside the picture. */
static void gather_window(const conv2d_job *j, int64_t row, float *to) {
    int64_t in = j->w->ne[0];
    int64_t ox = row % j->out_width, oy = row / j->out_width % j->out_height, n = row / j->out_width / j->out_height;
    for (int64_t ky = 0; ky < 3; ky++) {
        int64_t y = 2 * oy + ky - 1;
        for (int64_t kx = 0; kx < 3; kx++, to += in) {
            int64_t x = 2 * ox + kx - 1;
            if (y < 0 || y >= j->height || x < 0 || x >= j->width) {
                memset(to, 0, (size_t)in * sizeof *to);
            } else {
                memcpy(to, j->x + ((n * j->height + y) * j->width + x) * in, (size_t)in * sizeof *to);
            }
        }
    }
}

/* The upper half of the scratch holds the windows; linear_run uses the lower. */
static void conv2d_tile(void *arg, int64_t begin, int64_t end, int thread) {
    conv2d_job *j = arg;
    int64_t n = 9 * j->w->ne[0], outs = j->w->ne[3];
    float *window = (float *)((char *)cpu_scratch(j->c, thread) + CPU_SCRATCH / 2);
    for (int64_t t = begin; t < end; t++) {
        int64_t row = t * j->row_tile;
        int64_t rows = j->rows - row < j->row_tile ? j->rows - row : j->row_tile;
        for (int64_t r = 0; r < rows; r++) {
            gather_window(j, row + r, window + r * n);
        }
        linear_piece p = linear_of(j->w, n);
        p.bias = j->bias;
        p.x = window;
        p.x_stride = n;
        p.y = j->y + row * outs;
        p.y_stride = outs;
        linear_run(j->c, j->w->type, &p, rows, outs, thread);
    }
}

static void cpu_conv2d_3x3_s2(backend *b, const tensor *w, const float *bias, const float *x, int64_t n, int64_t height, int64_t width, float *y) {
    conv2d_job j = {.c = cpu_of(b), .w = w, .bias = bias, .x = x, .height = height, .width = width, .y = y};
    j.out_height = (height + 1) / 2;
    j.out_width = (width + 1) / 2;
    j.rows = n * j.out_height * j.out_width;
    int64_t fit = (int64_t)(CPU_SCRATCH / 2 / sizeof(float)) / (9 * w->ne[0]);
    j.row_tile = fit > 64 ? 64 : fit;
    pool_for(j.c->pool, (j.rows + j.row_tile - 1) / j.row_tile, 1, conv2d_tile, &j);
}

void cpu_conv_ops(ops *o) {
    o->conv1d_depthwise = cpu_conv1d_depthwise;
    o->overlap_add = cpu_overlap_add;
    o->conv2d_3x3_s2 = cpu_conv2d_3x3_s2;
}
