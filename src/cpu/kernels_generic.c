/* The plain C version of every kernel: the specification of the faster ones. */
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"
#include "tensor/blocks.h"

#define LINEAR(name, type, load)                                                                                                                     \
    static void name(const linear_piece *p, int64_t rows, int64_t outs) {                                                                            \
        for (int64_t r = 0; r < rows; r++) {                                                                                                         \
            const float *x = p->x + (p->index ? p->index[r] : r) * p->x_stride;                                                                      \
            for (int64_t o = 0; o < outs; o++) {                                                                                                     \
                const type *w = (const type *)((const char *)p->w + (size_t)o * p->w_stride);                                                        \
                float sum[8] = {0};                                                                                                                  \
                for (int64_t s = 0; s < p->segments; s++) {                                                                                          \
                    const float *xs = x + s * p->x_segment;                                                                                          \
                    const type *ws = w + s * p->n;                                                                                                   \
                    int64_t i = 0;                                                                                                                   \
                    for (; i + 8 <= p->n; i += 8) {                                                                                                  \
                        for (int j = 0; j < 8; j++) {                                                                                                \
                            sum[j] += xs[i + j] * load(ws[i + j]);                                                                                   \
                        }                                                                                                                            \
                    }                                                                                                                                \
                    for (int j = 0; i < p->n; i++, j++) {                                                                                            \
                        sum[j] += xs[i] * load(ws[i]);                                                                                               \
                    }                                                                                                                                \
                }                                                                                                                                    \
                float total = ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));                                     \
                p->y[r * p->y_stride + o] = p->bias ? total + p->bias[o] : total;                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

static inline float same(float x) {
    return x;
}

LINEAR(linear_f32, float, same)
LINEAR(linear_f16, uint16_t, f16_to_f32)
LINEAR(linear_bf16, uint16_t, bf16_to_f32)

#define GEMM(name, type, dtype, load)                                                                                                                \
    static void name(const linear_piece *p, int64_t rows, int64_t outs, float *scratch) {                                                            \
        for (int64_t r = 0; r < rows; r++) {                                                                                                         \
            const float *x = p->x + (p->index ? p->index[r] : r) * p->x_stride;                                                                      \
            for (int64_t o = 0; o < outs; o += PACK) {                                                                                               \
                const type *w = (const type *)((const char *)p->w + (size_t)(o / PACK) * p->w_stride);                                               \
                float sum[PACK] = {0}, part[PACK] = {0};                                                                                             \
                for (int64_t s = 0, at = 0; s < p->segments; s++) {                                                                                  \
                    for (int64_t i = 0; i < p->n; i++, w += PACK) {                                                                                  \
                        for (int j = 0; j < PACK; j++) {                                                                                             \
                            part[j] += x[s * p->x_segment + i] * load(w[j]);                                                                         \
                        }                                                                                                                            \
                        at++;                                                                                                                        \
                        for (int j = 0; j < PACK && (at % gemm_chain(dtype) == 0 || at == p->n * p->segments); j++) {                                \
                            sum[j] += part[j];                                                                                                       \
                            part[j] = 0;                                                                                                             \
                        }                                                                                                                            \
                    }                                                                                                                                \
                }                                                                                                                                    \
                for (int64_t j = o; j < outs && j < o + PACK; j++) {                                                                                 \
                    p->y[r * p->y_stride + j] = p->bias ? sum[j - o] + p->bias[j] : sum[j - o];                                                      \
                }                                                                                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

GEMM(gemm_f32, float, DTYPE_F32, same)
GEMM(gemm_f16, uint16_t, DTYPE_F16, f16_to_f32)
GEMM(gemm_bf16, uint16_t, DTYPE_BF16, bf16_to_f32)

enum { Q8_BLOCK = 32, Q8_BYTES = 34 };

static void linear_q8_0(const linear_piece *p, int64_t rows, int64_t outs) {
    int64_t blocks = p->n / Q8_BLOCK;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = p->x + (p->index ? p->index[r] : r) * p->x_stride;
        for (int64_t o = 0; o < outs; o++) {
            const uint8_t *w = (const uint8_t *)p->w + (size_t)o * p->w_stride;
            float sum[8] = {0};
            for (int64_t s = 0; s < p->segments; s++) {
                const float *xs = x + s * p->x_segment;
                for (int64_t b = 0; b < blocks; b++, w += Q8_BYTES, xs += Q8_BLOCK) {
                    uint16_t h;
                    memcpy(&h, w, sizeof h);
                    float d = f16_to_f32(h);
                    const int8_t *q = (const int8_t *)w + 2;
                    for (int i = 0; i < Q8_BLOCK; i++) {
                        sum[i & 7] += xs[i] * (d * (float)q[i]);
                    }
                }
            }
            float total = ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
            p->y[r * p->y_stride + o] = p->bias ? total + p->bias[o] : total;
        }
    }
}

static void from_f32(const void *in, float *out, int64_t n) {
    memcpy(out, in, (size_t)n * sizeof *out);
}

static void from_f16(const void *in, float *out, int64_t n) {
    const uint16_t *h = in;
    for (int64_t i = 0; i < n; i++) {
        out[i] = f16_to_f32(h[i]);
    }
}

static void from_bf16(const void *in, float *out, int64_t n) {
    const uint16_t *h = in;
    for (int64_t i = 0; i < n; i++) {
        out[i] = bf16_to_f32(h[i]);
    }
}

#define FROM_BLOCKS(name, type)                                                                                                                      \
    static void name(const void *in, float *out, int64_t n) {                                                                                        \
        dtype_to_f32(type, in, out, n);                                                                                                              \
    }

FROM_BLOCKS(from_q8_0, DTYPE_Q8_0)
FROM_BLOCKS(from_q4_0, DTYPE_Q4_0)
FROM_BLOCKS(from_q4_1, DTYPE_Q4_1)
FROM_BLOCKS(from_q5_0, DTYPE_Q5_0)
FROM_BLOCKS(from_q5_1, DTYPE_Q5_1)
FROM_BLOCKS(from_q2_k, DTYPE_Q2_K)
FROM_BLOCKS(from_q3_k, DTYPE_Q3_K)
FROM_BLOCKS(from_q4_k, DTYPE_Q4_K)
FROM_BLOCKS(from_q5_k, DTYPE_Q5_K)
FROM_BLOCKS(from_q6_k, DTYPE_Q6_K)
FROM_BLOCKS(from_iq4_nl, DTYPE_IQ4_NL)
FROM_BLOCKS(from_iq4_xs, DTYPE_IQ4_XS)
FROM_BLOCKS(from_mxfp4, DTYPE_MXFP4)

static void to_f16(const float *in, uint16_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = f16_from_f32(in[i]);
    }
}

static void rms_norm(const float *x, const float *w, float eps, int64_t width, float *y) {
    float sum[8] = {0};
    for (int64_t i = 0; i < width; i++) {
        sum[i & 7] += x[i] * x[i];
    }
    float total = ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
    float scale = 1.0f / sqrtf(total / (float)width + eps);
    for (int64_t i = 0; i < width; i++) {
        y[i] = w ? x[i] * scale * w[i] : x[i] * scale;
    }
}

static void layer_norm(const float *x, const float *w, const float *bias, float eps, int64_t width, float *y) {
    float sum[8] = {0};
    for (int64_t i = 0; i < width; i++) {
        sum[i & 7] += x[i];
    }
    float mean = (((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]))) / (float)width;
    float square[8] = {0};
    for (int64_t i = 0; i < width; i++) {
        square[i & 7] += (x[i] - mean) * (x[i] - mean);
    }
    float var = (((square[0] + square[4]) + (square[1] + square[5])) + ((square[2] + square[6]) + (square[3] + square[7]))) / (float)width;
    float scale = 1.0f / sqrtf(var + eps);
    for (int64_t i = 0; i < width; i++) {
        float v = (x[i] - mean) * scale;
        v = w ? v * w[i] : v;
        y[i] = bias ? v + bias[i] : v;
    }
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = a * cosine[j] - b * sine[j];
        x[j + half] = b * cosine[j] + a * sine[j];
    }
}

static inline float silu(float x) {
    return x / (1.0f + expf(-x));
}

static void activate(activation a, const float *x, int64_t n, float *y) {
    switch (a) {
    case ACT_NONE:
        if (y != x) {
            memmove(y, x, (size_t)n * sizeof *y);
        }
        break;
    case ACT_SILU:
        for (int64_t i = 0; i < n; i++) {
            y[i] = silu(x[i]);
        }
        break;
    case ACT_GELU:
        for (int64_t i = 0; i < n; i++) {
            y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
        }
        break;
    case ACT_GELU_TANH:
        for (int64_t i = 0; i < n; i++) {
            float v = x[i];
            y[i] = 0.5f * v * (1.0f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
        }
        break;
    }
}

static void silu_mul(const float *gate, const float *up, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = silu(gate[i]) * up[i];
    }
}

static void add(const float *x, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void add_product(const float *x, const float *scale, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += scale[i] * x[i];
    }
}

static void add_multiple(const float *x, float scale, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += scale * x[i];
    }
}

static void snake_beta(const float *x, const float *a, const float *inv_b, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) {
        float s = sinf(a[i] * x[i]);
        y[i] = x[i] + s * s * inv_b[i];
    }
}

static void depthwise(const float *x, const float *w, const float *bias, int64_t kernel, int64_t width, float *y) {
    for (int64_t c = 0; c < width; c++) {
        float sum = bias ? bias[c] : 0.0f;
        for (int64_t k = 0; k < kernel; k++) {
            sum += x[k * width + c] * w[k * width + c];
        }
        y[c] = sum;
    }
}

#define ATTEND_KEYS(name, type, load)                                                                                                                \
    static void name(const attention_state *s, const attention_span *span, attention_scores *w) {                                                    \
        for (int h = span->from; h < span->to; h++) {                                                                                                \
            for (int64_t t = 0; t < span->n; t++) {                                                                                                  \
                const type *k = (const type *)span->k + t * span->k_stride;                                                                          \
                float dot = 0;                                                                                                                       \
                for (int i = 0; i < s->head_dim; i++) {                                                                                              \
                    dot += s->q[h][i] * load(k, i);                                                                                                  \
                }                                                                                                                                    \
                w->p[h][t] = dot * s->scale;                                                                                                         \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

#define ATTEND_VALUES(name, type, load)                                                                                                              \
    static void name(attention_state *s, const attention_span *span, const attention_scores *w) {                                                    \
        for (int h = span->from; h < span->to; h++) {                                                                                                \
            for (int i = 0; i < s->head_dim; i++) {                                                                                                  \
                float sum = s->acc[h][i] * w->shrink[h];                                                                                             \
                for (int64_t t = 0; t < span->n; t++) {                                                                                              \
                    sum += w->p[h][t] * load((const type *)span->v + t * span->v_stride, i);                                                         \
                }                                                                                                                                    \
                s->acc[h][i] = sum;                                                                                                                  \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

static void attend_weights(attention_state *s, const attention_span *span, attention_scores *w) {
    for (int h = span->from; h < span->to; h++) {
        float *p = w->p[h], max = s->max[h];
        for (int64_t t = 0; t < span->n; t++) {
            max = p[t] > max ? p[t] : max;
        }
        float sum = 0;
        for (int64_t t = 0; t < span->n; t++) {
            p[t] = expf(p[t] - max);
            sum += p[t];
        }
        w->shrink[h] = s->max[h] == max ? 1.0f : expf(s->max[h] - max);
        s->sum[h] = s->sum[h] * w->shrink[h] + sum;
        s->max[h] = max;
    }
}

static float f32_at(const float *row, int i) {
    return row[i];
}

static float f16_at(const uint16_t *row, int i) {
    return f16_to_f32(row[i]);
}

static float q8_0_at(const block_q8_0 *row, int i) {
    return f16_to_f32(row[i / QK].d) * (float)row[i / QK].qs[i % QK];
}

ATTEND_KEYS(attend_keys_f32, float, f32_at)
ATTEND_KEYS(attend_keys_f16, uint16_t, f16_at)
ATTEND_VALUES(attend_values_f32, float, f32_at)
ATTEND_VALUES(attend_values_f16, uint16_t, f16_at)
ATTEND_VALUES(attend_values_q8_0, block_q8_0, q8_0_at)

static inline float bf16(float x) {
    return bf16_to_f32(bf16_from_f32(x));
}

static inline __attribute__((always_inline)) void tile(const attention_tile *t, bool rounded) {
    const float scale = rounded ? t->scale * 1.44269504f : t->scale; /* powers of two then, as faster versions take */
    for (int64_t r = 0; r < t->rows; r++) {
        const float *q = t->q + r * t->q_stride;
        float *y = t->y + r * t->y_stride, max = -INFINITY, sum = 0;
        memset(y, 0, (size_t)t->head_dim * sizeof *y);
        for (int64_t p = t->first[r]; p < t->end[r]; p++) {
            const float *k = t->k + p * t->kv_stride, *v = t->v + p * t->kv_stride;
            float score = 0;
            for (int d = 0; d < t->head_dim; d++) {
                score += rounded ? bf16(q[d] * scale) * bf16(k[d]) : q[d] * k[d];
            }
            score *= rounded ? 1 : scale;
            const float next = score > max ? score : max, shrink = max == next ? 1.0f : rounded ? exp2f(max - next) : expf(max - next);
            const float e = rounded ? exp2f(score - next) : expf(score - next);
            sum = sum * shrink + e;
            for (int d = 0; d < t->head_dim; d++) {
                y[d] = y[d] * shrink + (rounded ? bf16(e) * bf16(v[d]) : e * v[d]);
            }
            max = next;
        }
        for (int d = 0; d < t->head_dim; d++) {
            y[d] *= sum == 0 ? 0.0f : 1.0f / sum;
        }
    }
}

static void attend_tile(const attention_tile *t, float *scratch) {
    tile(t, false);
}

static void attend_tile_bf16(const attention_tile *t, float *scratch) {
    tile(t, true);
}

static float probe_arithmetic(int64_t rounds) {
    float acc[PROBE_SUMS], sum = 0;
    for (int j = 0; j < PROBE_SUMS; j++) {
        acc[j] = (float)j;
    }
    for (int64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < PROBE_SUMS; j++) {
            acc[j] = acc[j] * 0.999f + 0.001f;
        }
    }
    for (int j = 0; j < PROBE_SUMS; j++) {
        sum += acc[j];
    }
    return sum;
}

static float probe_memory(const float *x, int64_t n) {
    float sum[8] = {0};
    for (int64_t i = 0; i < n; i++) {
        sum[i & 7] += x[i];
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

void kernels_generic(cpu_kernels *k) {
    *k = (cpu_kernels){
        .name = "generic",
        .linear = {[DTYPE_F32] = linear_f32, [DTYPE_F16] = linear_f16, [DTYPE_BF16] = linear_bf16, [DTYPE_Q8_0] = linear_q8_0},
        .gemm = {[DTYPE_F32] = gemm_f32, [DTYPE_F16] = gemm_f16, [DTYPE_BF16] = gemm_bf16},
        .convert_rows = {[DTYPE_F16] = 2, [DTYPE_BF16] = 8, [DTYPE_Q8_0] = 2},
        .to_f32 =
            {
                [DTYPE_F32] = from_f32,
                [DTYPE_F16] = from_f16,
                [DTYPE_BF16] = from_bf16,
                [DTYPE_Q8_0] = from_q8_0,
                [DTYPE_Q4_0] = from_q4_0,
                [DTYPE_Q4_1] = from_q4_1,
                [DTYPE_Q5_0] = from_q5_0,
                [DTYPE_Q5_1] = from_q5_1,
                [DTYPE_Q2_K] = from_q2_k,
                [DTYPE_Q3_K] = from_q3_k,
                [DTYPE_Q4_K] = from_q4_k,
                [DTYPE_Q5_K] = from_q5_k,
                [DTYPE_Q6_K] = from_q6_k,
                [DTYPE_IQ4_NL] = from_iq4_nl,
                [DTYPE_IQ4_XS] = from_iq4_xs,
                [DTYPE_MXFP4] = from_mxfp4,
            },
        .to_f16 = to_f16,
        .rms_norm = rms_norm,
        .layer_norm = layer_norm,
        .rotate = rotate,
        .activate = activate,
        .silu_mul = silu_mul,
        .add = add,
        .add_product = add_product,
        .add_multiple = add_multiple,
        .snake_beta = snake_beta,
        .depthwise = depthwise,
        .attend_keys = {[DTYPE_F32] = attend_keys_f32, [DTYPE_F16] = attend_keys_f16},
        .attend_weights = attend_weights,
        .attend_values = {[DTYPE_F32] = attend_values_f32, [DTYPE_F16] = attend_values_f16, [DTYPE_Q8_0] = attend_values_q8_0},
        .attend_tile = attend_tile,
        .attend_tile_bf16 = attend_tile_bf16,
        .lanes = 1,
        .probe_arithmetic = probe_arithmetic,
        .probe_memory = probe_memory,
    };
}
