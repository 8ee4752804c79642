#include "media/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RATIO = 200, FRACTION_BITS = 22, MAX_OUT_SIDE = 1 << 20, MAX_SIDE = 1 << 27 };
static const int64_t MAX_OUT_PIXELS = (int64_t)1 << 28;

omni_status resize_target(int64_t height, int64_t width, int64_t factor, int64_t min_pixels, int64_t max_pixels, int64_t *out_height,
                          int64_t *out_width, omni_error *err) {
    if (height < 1 || width < 1 || height > MAX_SIDE || width > MAX_SIDE || factor < 1 || factor > 4096 || min_pixels < 0 ||
        max_pixels < factor * factor || min_pixels > max_pixels) {
        return fail(err, OMNI_ERR_ARGUMENT, "cannot resize %lld x %lld pixels to multiples of %lld within %lld to %lld pixels", (long long)width,
                    (long long)height, (long long)factor, (long long)min_pixels, (long long)max_pixels);
    }
    double h = (double)height, w = (double)width, f = (double)factor;
    double longer = fmax(h, w), shorter = fmin(h, w);
    if (longer / shorter > MAX_RATIO) {
        return fail(err, OMNI_ERR_LIMIT, "%lld x %lld pixels: one side is %.1f times the other, over the limit of %d", (long long)width,
                    (long long)height, longer / shorter, MAX_RATIO);
    }
    double oh = rint(h / f) * f, ow = rint(w / f) * f; /* halves to even, as Python's round */
    if (oh * ow > (double)max_pixels) {
        double beta = sqrt(h * w / (double)max_pixels);
        oh = fmax(f, floor(h / beta / f) * f);
        ow = fmax(f, floor(w / beta / f) * f);
    } else if (oh * ow < (double)min_pixels) {
        double beta = sqrt((double)min_pixels / (h * w));
        oh = ceil(h * beta / f) * f;
        ow = ceil(w * beta / f) * f;
    }
    oh = fmax(f, oh); /* a side may round to 0 when min_pixels is 0 */
    ow = fmax(f, ow);
    if (oh > MAX_OUT_SIDE || ow > MAX_OUT_SIDE || oh * ow > (double)MAX_OUT_PIXELS) {
        return fail(err, OMNI_ERR_LIMIT, "resizing %lld x %lld pixels gives %.0f x %.0f, over the limit of %lld pixels", (long long)width,
                    (long long)height, ow, oh, (long long)MAX_OUT_PIXELS);
    }
    *out_height = (int64_t)oh;
    *out_width = (int64_t)ow;
    return OMNI_OK;
}

/* One axis: output i is the sum over k < count[i] of weights[i * taps + k] * input[first[i] + k], in fixed point. */
typedef struct axis {
    int64_t in, out;
    int taps;
    int bits; /* of the fraction */
    int64_t *first;
    int32_t *count;
    int16_t *weights;
} axis;

struct resizer {
    axis x, y;
    uint8_t *rows; /* [y.in, x.out, 3]: after the horizontal pass */
    int32_t *sums; /* [x.out * 3] */
};

/* Keys' cubic convolution kernel, a = -0.5. */
static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static void axis_free(axis *a) {
    free(a->first);
    free(a->count);
    free(a->weights);
}

static omni_status axis_init(axis *a, int64_t in, int64_t out, omni_error *err) {
    *a = (axis){.in = in, .out = out};
    double scale = (double)in / (double)out;
    double support = scale >= 1 ? 2 * scale : 2;
    a->taps = (int)ceil(support) * 2 + 1;
    size_t n = (size_t)out * (size_t)a->taps;
    double *w = calloc(n, sizeof *w);
    a->first = calloc((size_t)out, sizeof *a->first);
    a->count = calloc((size_t)out, sizeof *a->count);
    a->weights = calloc(n, sizeof *a->weights);
    if (!w || !a->first || !a->count || !a->weights) {
        free(w);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the weights of resizing %lld to %lld pixels", (long long)in, (long long)out);
    }
    double inverse = scale >= 1 ? 1 / scale : 1, largest = 0;
    for (int64_t i = 0; i < out; i++) {
        double centre = scale * ((double)i + 0.5), total = 0;
        int64_t begin = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        begin = begin < 0 ? 0 : begin;
        end = end > in ? in : end;
        int64_t count = end - begin;
        count = count < 0 ? 0 : count > a->taps ? a->taps : count;
        double *row = w + i * a->taps;
        for (int64_t k = 0; k < count; k++) {
            row[k] = cubic(((double)(k + begin) - centre + 0.5) * inverse);
            total += row[k];
        }
        for (int64_t k = 0; k < count && total != 0; k++) {
            row[k] /= total;
            largest = fmax(largest, row[k]);
        }
        a->first[i] = begin;
        a->count[i] = (int32_t)count;
    }
    /* as many fraction bits as keep the largest weight below 2^15 */
    while (a->bits < FRACTION_BITS && (int)(0.5 + largest * (1 << (a->bits + 1))) < 1 << 15) {
        a->bits++;
    }
    for (size_t i = 0; i < n; i++) {
        double v = w[i] * (1 << a->bits);
        a->weights[i] = (int16_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    free(w);
    return OMNI_OK;
}

omni_status resizer_create(int64_t height, int64_t width, int64_t out_height, int64_t out_width, resizer **out, omni_error *err) {
    *out = NULL;
    if (height < 1 || width < 1 || out_height < 1 || out_width < 1 || height > MAX_SIDE || width > MAX_SIDE || out_height > MAX_OUT_SIDE ||
        out_width > MAX_OUT_SIDE) {
        return fail(err, OMNI_ERR_ARGUMENT, "cannot resize %lld x %lld to %lld x %lld pixels", (long long)width, (long long)height,
                    (long long)out_width, (long long)out_height);
    }
    resizer *r = calloc(1, sizeof *r);
    if (!r) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for resizing");
    }
    omni_status status = axis_init(&r->x, width, out_width, err);
    if (status == OMNI_OK) {
        status = axis_init(&r->y, height, out_height, err);
    }
    if (status == OMNI_OK) {
        r->rows = malloc((size_t)height * (size_t)out_width * 3);
        r->sums = malloc((size_t)out_width * 3 * sizeof *r->sums);
        if (!r->rows || !r->sums) {
            status = fail(err, OMNI_ERR_MEMORY, "out of memory for resizing %lld x %lld pixels", (long long)width, (long long)height);
        }
    }
    if (status != OMNI_OK) {
        resizer_destroy(r);
        return status;
    }
    *out = r;
    return OMNI_OK;
}

void resizer_destroy(resizer *r) {
    if (r) {
        axis_free(&r->x);
        axis_free(&r->y);
        free(r->rows);
        free(r->sums);
        free(r);
    }
}

static inline uint8_t level(int32_t v, int bits) {
    v >>= bits; /* arithmetic: rounds down, as the reference's vector shift */
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void resize_row(const axis *a, const uint8_t *in, uint8_t *out) {
    int32_t half = 1 << (a->bits - 1);
    for (int64_t i = 0; i < a->out; i++) {
        const int16_t *w = a->weights + i * a->taps;
        const uint8_t *p = in + a->first[i] * 3;
        int32_t red = half, green = half, blue = half;
        for (int32_t k = 0; k < a->count[i]; k++, p += 3) {
            red += w[k] * p[0];
            green += w[k] * p[1];
            blue += w[k] * p[2];
        }
        out[i * 3] = level(red, a->bits);
        out[i * 3 + 1] = level(green, a->bits);
        out[i * 3 + 2] = level(blue, a->bits);
    }
}

void resizer_run(resizer *r, const uint8_t *in, uint8_t *out) {
    const axis *x = &r->x, *y = &r->y;
    size_t in_row = (size_t)x->in * 3, out_row = (size_t)x->out * 3;
    const uint8_t *rows = in;
    if (x->in != x->out) {
        for (int64_t i = 0; i < y->in; i++) {
            resize_row(x, in + (size_t)i * in_row, r->rows + (size_t)i * out_row);
        }
        rows = r->rows;
    }
    if (y->in == y->out) {
        memcpy(out, rows, (size_t)y->out * out_row);
        return;
    }
    for (int64_t i = 0; i < y->out; i++) {
        int32_t *restrict sums = r->sums;
        for (size_t c = 0; c < out_row; c++) {
            sums[c] = 1 << (y->bits - 1);
        }
        for (int32_t k = 0; k < y->count[i]; k++) {
            const uint8_t *restrict p = rows + (size_t)(y->first[i] + k) * out_row;
            int32_t w = y->weights[i * y->taps + k];
            for (size_t c = 0; c < out_row; c++) {
                sums[c] += w * p[c];
            }
        }
        uint8_t *q = out + (size_t)i * out_row;
        for (size_t c = 0; c < out_row; c++) {
            q[c] = level(sums[c], y->bits);
        }
    }
}
