/* Normalisation, rotation and elementwise kernels on vectors. */
#ifndef OMNI_CPU_SIMD_ROWS_H
#define OMNI_CPU_SIMD_ROWS_H

#include <math.h>

#include "cpu/kernels.h"

/* y = f(x, ...) by element: `expression` in terms of A(pointer), which loads that pointer's values at i. */
#define MAP(n, y, expression)                                                                                                                        \
    do {                                                                                                                                             \
        int64_t i = 0;                                                                                                                               \
        const int64_t n_ = (n);                                                                                                                      \
        for (; i + LANES <= n_; i += LANES) {                                                                                                        \
            const int64_t take = LANES;                                                                                                              \
            vf_store((y) + i, expression);                                                                                                           \
            (void)take;                                                                                                                              \
        }                                                                                                                                            \
        if (i < n_) {                                                                                                                                \
            const int64_t take = n_ - i;                                                                                                             \
            vf_store_part((y) + i, expression, take);                                                                                                \
        }                                                                                                                                            \
    } while (0)
#define A(pointer) (take == LANES ? vf_load((pointer) + i) : vf_load_part((pointer) + i, take))

static void simd_rms_norm(const float *x, const float *w, float eps, int64_t width, float *y) {
    vf sum = vf_set(0.0f);
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES) {
        vf v = vf_load(x + j);
        sum = vf_fma(v, v, sum);
    }
    if (j < width) {
        vf v = vf_load_part(x + j, width - j);
        sum = vf_fma(v, v, sum);
    }
    const vf scale = vf_set(1.0f / sqrtf(vf_sum(sum) / (float)width + eps));
    if (w) {
        MAP(width, y, vf_mul(vf_mul(A(x), scale), A(w)));
    } else {
        MAP(width, y, vf_mul(A(x), scale));
    }
}

static void simd_layer_norm(const float *x, const float *w, const float *bias, float eps, int64_t width, float *y) {
    vf sum = vf_set(0.0f);
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES) {
        sum = vf_add(sum, vf_load(x + j));
    }
    const int64_t rest = width - j;
    if (rest > 0) {
        sum = vf_add(sum, vf_load_part(x + j, rest));
    }
    const vf mean = vf_set(vf_sum(sum) / (float)width);
    vf square = vf_set(0.0f);
    for (j = 0; j + LANES <= width; j += LANES) {
        vf d = vf_sub(vf_load(x + j), mean);
        square = vf_fma(d, d, square);
    }
    if (rest > 0) {
        /* The lanes behind the end must add nothing, so they get the mean. */
        float t[LANES];
        vf_store(t, mean);
        memcpy(t, x + j, (size_t)rest * sizeof *t);
        vf d = vf_sub(vf_load(t), mean);
        square = vf_fma(d, d, square);
    }
    const vf scale = vf_set(1.0f / sqrtf(vf_sum(square) / (float)width + eps));
    if (w && bias) {
        MAP(width, y, vf_add(vf_mul(vf_mul(vf_sub(A(x), mean), scale), A(w)), A(bias)));
    } else if (w) {
        MAP(width, y, vf_mul(vf_mul(vf_sub(A(x), mean), scale), A(w)));
    } else {
        MAP(width, y, vf_mul(vf_sub(A(x), mean), scale));
        if (bias) {
            MAP(width, y, vf_add(A(y), A(bias)));
        }
    }
}

static void simd_rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    float *z = x + half;
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        vf a = vf_load(x + i), b = vf_load(z + i), c = vf_load(cosine + i), s = vf_load(sine + i);
        vf_store(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)));
        vf_store(z + i, vf_add(vf_mul(b, c), vf_mul(a, s)));
    }
    if (i < half) {
        const int64_t n = half - i;
        vf a = vf_load_part(x + i, n), b = vf_load_part(z + i, n), c = vf_load_part(cosine + i, n), s = vf_load_part(sine + i, n);
        vf_store_part(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)), n);
        vf_store_part(z + i, vf_add(vf_mul(b, c), vf_mul(a, s)), n);
    }
}

static void simd_activate(activation a, const float *x, int64_t n, float *y) {
    switch (a) {
    case ACT_NONE:
        if (y != x) {
            memmove(y, x, (size_t)n * sizeof *y);
        }
        break;
    case ACT_SILU:
        MAP(n, y, vf_silu(A(x)));
        break;
    case ACT_GELU:
        MAP(n, y, vf_gelu(A(x)));
        break;
    case ACT_GELU_TANH:
        MAP(n, y, vf_gelu_tanh(A(x)));
        break;
    }
}

static void simd_silu_mul(const float *gate, const float *up, int64_t n, float *y) {
    MAP(n, y, vf_mul(vf_silu(A(gate)), A(up)));
}

static void simd_add(const float *x, int64_t n, float *y) {
    MAP(n, y, vf_add(A(y), A(x)));
}

static void simd_add_product(const float *x, const float *scale, int64_t n, float *y) {
    MAP(n, y, vf_fma(A(scale), A(x), A(y)));
}

static void simd_add_multiple(const float *x, float scale, int64_t n, float *y) {
    const vf s = vf_set(scale);
    MAP(n, y, vf_fma(s, A(x), A(y)));
}

/* Lanes beyond SINE_LIMIT, and those that are no number, go to sinf: the whole vector does, which is rare. */
SIMD vf snake(vf x, vf a, vf inv_b) {
    vf angle = vf_mul(a, x);
    vf squared;
    if (vf_all_less(vf_abs(angle), vf_set(SINE_LIMIT))) {
        squared = vf_sine_squared(angle);
    } else {
        float t[LANES];
        vf_store(t, angle);
        for (int j = 0; j < LANES; j++) {
            t[j] = sinf(t[j]);
        }
        squared = vf_mul(vf_load(t), vf_load(t));
    }
    return vf_fma(squared, inv_b, x);
}

static void simd_snake_beta(const float *x, const float *a, const float *inv_b, int64_t n, float *y) {
    MAP(n, y, snake(A(x), A(a), A(inv_b)));
}

static void simd_depthwise(const float *x, const float *w, const float *bias, int64_t kernel, int64_t width, float *y) {
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) {
        vf sum = bias ? vf_load(bias + c) : vf_set(0.0f);
        for (int64_t k = 0; k < kernel; k++) {
            sum = vf_fma(vf_load(x + k * width + c), vf_load(w + k * width + c), sum);
        }
        vf_store(y + c, sum);
    }
    if (c < width) {
        const int64_t n = width - c;
        vf sum = bias ? vf_load_part(bias + c, n) : vf_set(0.0f);
        for (int64_t k = 0; k < kernel; k++) {
            sum = vf_fma(vf_load_part(x + k * width + c, n), vf_load_part(w + k * width + c, n), sum);
        }
        vf_store_part(y + c, sum, n);
    }
}

#endif
