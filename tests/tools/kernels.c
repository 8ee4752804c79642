/* Checks every version of every kernel against the plain C one on random shapes, and times them.
 *
 *   kernels [--bench] [--only NAME] [--rounds N] [-t THREADS]
 *
 * Without --bench only the check runs; the exit status says whether it passed. With -t 1 the times are the thread's own. An error is measured against
 * the size of what was added up, so that a bound holds whatever cancels. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"

static uint64_t state = 1;

static uint32_t random_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static int64_t pick(int64_t low, int64_t high) {
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}

static float uniform(float low, float high) {
    return low + (high - low) * (float)random_bits() * 0x1p-31f;
}

static float *numbers(int64_t n, float low, float high) {
    float *x = aligned_alloc(64, ((size_t)n * sizeof *x + 127) / 64 * 64);
    for (int64_t i = 0; i < n; i++) {
        x[i] = uniform(low, high);
    }
    return x;
}

/* A copy at an address that no vector is aligned to, so that kernels cannot count on alignment. */
static float *crooked(const float *x, int64_t n) {
    float *copy = (float *)aligned_alloc(64, ((size_t)n * sizeof *x + 191) / 64 * 64) + 1;
    memcpy(copy, x, (size_t)n * sizeof *x);
    return copy;
}

static void drop(float *p) {
    free(p - 1);
}

typedef struct check {
    const cpu_kernels *fast, *plain;
    double worst; /* error as a share of its bound */
} check;

static void compare(check *c, const float *got, const float *want, const float *size, int64_t n, double bound) {
    for (int64_t i = 0; i < n; i++) {
        double e = got[i] == want[i] ? 0 : fabs((double)got[i] - want[i]) / (bound * (size ? fabs((double)size[i]) : 1));
        if (!(e <= c->worst)) {
            c->worst = isnan(e) && !(isnan(got[i]) && isnan(want[i])) ? INFINITY : isnan(e) ? c->worst : e;
        }
    }
}

/* ---- linear ---- */

static void run_linear(const cpu_kernels *k, bool packed, dtype type, const linear_piece *p, int64_t rows, int64_t outs) {
    if (packed) {
        float *scratch = malloc(GEMM_SCRATCH * sizeof *scratch);
        k->gemm[type](p, rows, outs, scratch);
        free(scratch);
    } else {
        k->linear[type](p, rows, outs);
    }
}

/* packed: groups of 16 outputs side by side, and now and then more rows and inputs than one step of the kernel takes. */
static void check_linear(check *c, dtype type, bool packed) {
    int64_t block = dtype_find(type)->block, n = block == 1 ? pick(1, 150) : block * pick(1, 6), segments = pick(0, 2) ? 1 : pick(2, 4);
    n = packed && pick(0, 9) == 0 ? GEMM_INPUTS + pick(-5, 300) : n;
    int64_t rows = packed ? pick(0, 9) ? pick(1, 40) : GEMM_ROWS + pick(-5, 30) : pick(1, 11), outs = pick(1, packed ? 90 : 14),
            x_segment = n + pick(0, 9), x_stride = pick(0, 1) ? pick(1, n) : n * segments + pick(0, 20);
    int64_t y_stride = outs + pick(0, 3), held = rows + 1, in = n * segments, span = x_stride * held + x_segment * segments + n;
    float *wf = numbers(outs * in, -1, 1), *x0 = numbers(span, -1, 1), *x = crooked(x0, span), *bias = numbers(outs, -1, 1);
    size_t row = dtype_row_bytes(type, in);
    char *w = malloc(row * (size_t)outs);
    for (int64_t o = 0; o < outs; o++) {
        dtype_from_f32(type, wf + o * in, w + (size_t)o * row, in);
        dtype_to_f32(type, w + (size_t)o * row, wf + o * in, in);
    }
    char *groups = malloc((size_t)((outs + PACK - 1) / PACK) * row * PACK);
    for (int64_t o = 0; packed && o < outs; o += PACK) {
        packed_pack(type, w + (size_t)o * row, (int)(outs - o < PACK ? outs - o : PACK), in, groups + (size_t)o * row);
    }
    int32_t *index = malloc((size_t)rows * sizeof *index);
    for (int i = 0; i < rows; i++) {
        index[i] = (int32_t)pick(0, held - 1);
    }
    linear_piece p = {.w = packed ? groups : w,
                      .w_stride = packed ? row * PACK : row,
                      .bias = pick(0, 1) ? bias : NULL,
                      .x = x,
                      .x_stride = x_stride,
                      .index = pick(0, 1) ? index : NULL};
    p.n = n;
    p.segments = segments;
    p.x_segment = x_segment;
    p.y_stride = y_stride;
    float *got = numbers(rows * y_stride, 7, 7), *want = numbers(rows * y_stride, 7, 7), *size = numbers(rows * y_stride, 1, 1);
    p.y = got;
    run_linear(c->fast, packed, type, &p, rows, outs);
    p.y = want;
    run_linear(c->plain, packed, type, &p, rows, outs);
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = x + (p.index ? p.index[r] : r) * x_stride;
        for (int64_t o = 0; o < outs; o++) {
            double sum = 0, exact = 0;
            for (int64_t s = 0; s < segments; s++) {
                for (int64_t i = 0; i < n; i++) {
                    double v = (double)xr[s * x_segment + i] * wf[o * in + s * n + i];
                    sum += fabs(v);
                    exact += v;
                }
            }
            size[r * y_stride + o] = (float)sum + (p.bias ? fabsf(bias[o]) : 0);
            want[r * y_stride + o] = c->fast == c->plain ? (float)(exact + (p.bias ? (double)bias[o] : 0)) : want[r * y_stride + o];
        }
    }
    compare(c, got, want, size, rows * y_stride, 1e-6);
    /* A row must not depend on what else the call covers. */
    float one[PACK];
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < outs; o += packed ? PACK : 1) {
            const int64_t m = !packed ? 1 : outs - o < PACK ? outs - o : PACK;
            linear_piece q = p;
            q.w = (const char *)p.w + (size_t)o * row;
            q.bias = p.bias ? p.bias + o : NULL;
            q.x = x + (p.index ? p.index[r] : r) * x_stride;
            q.index = NULL;
            q.y = one;
            run_linear(c->fast, packed, type, &q, 1, m);
            c->worst = memcmp(one, &got[r * y_stride + o], (size_t)m * sizeof *one) == 0 ? c->worst : INFINITY;
        }
    }
    free(groups), free(index);
    free(wf), free(x0), drop(x), free(bias), free(w), free(got), free(want), free(size);
}

static void check_gemm_f32(check *c) {
    check_linear(c, DTYPE_F32, true);
}

static void check_linear_f32(check *c) {
    check_linear(c, DTYPE_F32, false);
}

static void check_gemm_f16(check *c) {
    check_linear(c, DTYPE_F16, true);
}

static void check_linear_f16(check *c) {
    check_linear(c, DTYPE_F16, false);
}

static void check_gemm_bf16(check *c) {
    check_linear(c, DTYPE_BF16, true);
}

static void check_linear_bf16(check *c) {
    check_linear(c, DTYPE_BF16, false);
}

static void check_linear_q8_0(check *c) {
    check_linear(c, DTYPE_Q8_0, false);
}

static void check_convert(check *c) {
    const dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
    for (int t = 0; t < 3; t++) {
        int64_t n = types[t] == DTYPE_Q8_0 ? 32 * pick(1, 9) : pick(1, 100);
        float *x = numbers(n, -100, 100), *got = numbers(n, 0, 0), *want = numbers(n, 0, 0);
        char *w = malloc(dtype_row_bytes(types[t], n));
        x[0] = pick(0, 3) ? x[0] : 1e-7f; /* a subnormal half */
        dtype_from_f32(types[t], x, w, n);
        c->fast->to_f32[types[t]](w, got, n);
        dtype_to_f32(types[t], w, want, n);
        c->worst = memcmp(got, want, (size_t)n * sizeof *got) == 0 ? c->worst : INFINITY;
        if (types[t] == DTYPE_F16) {
            c->fast->to_f16(x, (uint16_t *)got, n);
            c->worst = memcmp(got, w, (size_t)n * 2) == 0 ? c->worst : INFINITY;
        }
        free(x), free(got), free(want), free(w);
    }
}

/* ---- packed weights ---- */

/* Rows of random codes and scales, the F16 numbers among them of a sensible size. */
static void random_blocks(dtype type, uint8_t *out, size_t bytes) {
    const int at[DTYPE_COUNT][2] = {
        [DTYPE_Q4_0] = {0, -1},   [DTYPE_Q4_1] = {0, 2},    [DTYPE_Q5_0] = {0, -1},  [DTYPE_Q5_1] = {0, 2}, [DTYPE_Q8_0] = {0, -1},
        [DTYPE_Q2_K] = {80, 82},  [DTYPE_Q3_K] = {108, -1}, [DTYPE_Q4_K] = {0, 2},   [DTYPE_Q5_K] = {0, 2}, [DTYPE_Q6_K] = {208, -1},
        [DTYPE_IQ4_NL] = {0, -1}, [DTYPE_IQ4_XS] = {0, -1}, [DTYPE_MXFP4] = {-1, -1}};
    size_t block = dtype_find(type)->bytes;
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (uint8_t)random_bits();
    }
    for (size_t i = 0; i < bytes; i += block) {
        for (int j = 0; j < 2 && at[type][j] >= 0; j++) {
            uint16_t h = f16_from_f32(uniform(j ? -1 : -0.1f, 0.5f));
            memcpy(out + i + at[type][j], &h, sizeof h);
        }
        if (type == DTYPE_MXFP4) {
            out[i] = (uint8_t)pick(0, 3) ? (uint8_t)pick(120, 130) : (uint8_t)pick(0, 2);
        }
    }
}

/* The kernel for many rows takes any number: it is tried from two on, and must give the bits that the other gives for each row alone. */
static void run_packed(const cpu_kernels *k, dtype type, const packed_piece *p, int64_t rows, int64_t outs) {
    const bool many = k->packed_many[type] && rows > 1;
    (many ? k->packed_many : k->packed)[type](p, rows, outs);
}

static void check_packed(check *c, dtype type) {
    enum { MOST_ROWS = 90 };
    const int block = dtype_find(type)->block;
    int64_t n = block * pick(1, block > 32 ? 4 : 21), rows = pick(0, 3) ? pick(1, 21) : pick(22, MOST_ROWS), outs = pick(1, 50);
    int64_t held = MOST_ROWS + 1, y_stride = outs + pick(0, 3);
    int64_t blocks = n / PACK_BLOCK, x_stride = blocks + pick(0, 2);
    size_t row = dtype_row_bytes(type, n);
    uint8_t *raw = malloc(row * (size_t)outs), *w = aligned_alloc(64, (packed_bytes(type, n, outs) + 63) / 64 * 64);
    float *wf = numbers(outs * n, 0, 0), *x = numbers(held * x_stride * PACK_BLOCK, -2, 2), *bias = numbers(outs, -1, 1);
    float *got = numbers(rows * y_stride, 7, 7), *want = numbers(rows * y_stride, 7, 7), *size = numbers(rows * y_stride, 1, 1);
    packed_input *q = malloc(sizeof *q * (size_t)(held * x_stride));
    int32_t index[MOST_ROWS];
    random_blocks(type, raw, row * (size_t)outs);
    for (int64_t o = 0; o < outs; o++) {
        dtype_to_f32(type, raw + (size_t)o * row, wf + o * n, n);
        if (o % PACK == 0) {
            packed_pack(type, raw + (size_t)o * row, (int)(outs - o < PACK ? outs - o : PACK), n,
                        w + (size_t)(o / PACK) * packed_group_bytes(type, n));
        }
    }
    for (int i = 0; i < MOST_ROWS; i++) {
        index[i] = (int32_t)pick(0, held - 1);
    }
    c->fast->quantise(x, held * x_stride * PACK_BLOCK, q);
    packed_piece p = {.w = w, .w_stride = packed_group_bytes(type, n), .bias = pick(0, 1) ? bias : NULL, .x = q, .x_stride = x_stride, .n = n};
    p.index = pick(0, 1) ? index : NULL;
    p.y_stride = y_stride;
    p.y = got;
    run_packed(c->fast, type, &p, rows, outs);
    p.y = want;
    run_packed(c->plain, type, &p, rows, outs);
    for (int64_t r = 0; r < rows; r++) {
        const packed_input *xr = q + (p.index ? p.index[r] : r) * x_stride;
        for (int64_t o = 0; o < outs; o++) {
            double sum = 0, exact = p.bias ? (double)bias[o] : 0;
            for (int64_t i = 0; i < n; i++) {
                double v = (double)xr[i / PACK_BLOCK].scale * xr[i / PACK_BLOCK].q[i % PACK_BLOCK];
                sum += fabs(v) * fabs((double)wf[o * n + i]);
                exact += v * wf[o * n + i];
            }
            /* A minimum is taken from a sum whose parts may be far larger than what is left. */
            size[r * y_stride + o] = (float)(sum + 0.2 * (double)n);
            want[r * y_stride + o] = c->fast == c->plain ? (float)exact : want[r * y_stride + o];
        }
    }
    compare(c, got, want, size, rows * y_stride, 3e-7);
    for (int64_t r = 0; r < rows; r++) {
        float alone[50];
        packed_piece one = p;
        one.x = q + (p.index ? p.index[r] : r) * x_stride;
        one.index = NULL;
        one.y = alone;
        run_packed(c->fast, type, &one, 1, outs);
        c->worst = memcmp(alone, got + r * y_stride, (size_t)outs * sizeof *alone) == 0 ? c->worst : INFINITY;
    }
    free(raw), free(w), free(wf), free(x), free(bias), free(got), free(want), free(size), free(q);
}

#define CHECK_PACKED(type, name, ...)                                                                                                                \
    static void check_packed_##name(check *c) {                                                                                                      \
        check_packed(c, type);                                                                                                                       \
    }
PACKED_FORMATS(CHECK_PACKED)

static void check_quantise(check *c) {
    int64_t blocks = pick(1, 9), n = blocks * PACK_BLOCK;
    const float reach[] = {0, 1e-35f, 1e-29f, 1, 1e30f};
    float most = reach[pick(0, 4)], *x0 = numbers(n, -most, most), *x = crooked(x0, n);
    packed_input *got = calloc((size_t)blocks, sizeof *got), *want = calloc((size_t)blocks, sizeof *want);
    const float odd[] = {NAN, INFINITY, -INFINITY};
    if (pick(0, 2) == 0) {
        x[pick(0, n - 1)] = odd[pick(0, 2)];
    }
    c->fast->quantise(x, n, got);
    c->plain->quantise(x, n, want);
    for (int64_t i = 0; i < blocks; i++) {
        bool both = isnan(got[i].scale) && isnan(want[i].scale) && isnan(got[i].total);
        bool same = memcmp(&got[i], &want[i], sizeof *got) == 0 || (both && memcmp(got[i].sum, want[i].sum, 8 + PACK_BLOCK) == 0);
        c->worst = same ? c->worst : INFINITY;
        for (int j = 0; same && !both && j < PACK_BLOCK; j++) {
            float v = x[i * PACK_BLOCK + j], e = fabsf(v - got[i].scale * got[i].q[j]);
            c->worst = e <= 0.501f * got[i].scale + PACK_LEAST ? c->worst : INFINITY;
        }
    }
    free(x0), drop(x), free(got), free(want);
}

/* ---- rows ---- */

typedef struct row_arrays {
    int64_t n;
    float *x, *a, *b, *got, *want, *size;
} row_arrays;

static row_arrays row_make(float low, float high) {
    row_arrays r = {.n = pick(1, 200)};
    float *x = numbers(r.n, low, high), *a = numbers(r.n, -1, 1), *b = numbers(r.n, -1, 1);
    r.x = crooked(x, r.n);
    r.a = crooked(a, r.n);
    r.b = crooked(b, r.n);
    r.got = crooked(b, r.n);
    r.want = crooked(b, r.n);
    r.size = crooked(x, r.n);
    free(x), free(a), free(b);
    return r;
}

static void row_end(check *c, row_arrays *r, double bound) {
    compare(c, r->got, r->want, r->size, r->n, bound);
    drop(r->x), drop(r->a), drop(r->b), drop(r->got), drop(r->want), drop(r->size);
}

static void sizes(row_arrays *r, float least) {
    for (int64_t i = 0; i < r->n; i++) {
        r->size[i] = fabsf(r->x[i]) + least;
    }
}

static void check_rms_norm(check *c) {
    row_arrays r = row_make(-5, 5);
    const float *w = pick(0, 1) ? r.a : NULL;
    sizes(&r, 1e-2f);
    c->fast->rms_norm(r.x, w, 1e-6f, r.n, r.got);
    c->plain->rms_norm(r.x, w, 1e-6f, r.n, r.want);
    row_end(c, &r, 1e-6);
}

static void check_layer_norm(check *c) {
    row_arrays r = row_make(-5, 7);
    const float *w = pick(0, 3) ? r.a : NULL, *bias = pick(0, 1) ? r.b : NULL;
    sizes(&r, 2);
    c->fast->layer_norm(r.x, w, bias, 1e-3f, r.n, r.got);
    c->plain->layer_norm(r.x, w, bias, 1e-3f, r.n, r.want);
    row_end(c, &r, r.n < 4 ? 1e-5 : 2e-6);
}

static void check_rotate(check *c) {
    row_arrays r = row_make(-5, 5);
    int64_t half = r.n / 2;
    memcpy(r.want, r.got, (size_t)r.n * sizeof *r.got);
    sizes(&r, 5);
    c->fast->rotate(r.got, r.a, r.b, half);
    c->plain->rotate(r.want, r.a, r.b, half);
    row_end(c, &r, 1e-7);
}

static void check_activation(check *c, activation a, double bound) {
    const float reach[] = {1, 10, 1000};
    float most = reach[pick(0, 2)];
    row_arrays r = row_make(-most, most);
    sizes(&r, 0.1f);
    c->fast->activate(a, r.x, r.n, r.got);
    c->plain->activate(a, r.x, r.n, r.want);
    row_end(c, &r, bound);
}

static void check_silu(check *c) {
    check_activation(c, ACT_SILU, 3e-7);
}

static void check_gelu(check *c) {
    check_activation(c, ACT_GELU, 3e-7);
}

static void check_gelu_tanh(check *c) {
    check_activation(c, ACT_GELU_TANH, 3e-7);
}

static void check_silu_mul(check *c) {
    row_arrays r = row_make(-20, 20);
    sizes(&r, 0.1f);
    c->fast->silu_mul(r.x, r.a, r.n, r.got);
    c->plain->silu_mul(r.x, r.a, r.n, r.want);
    row_end(c, &r, 3e-7);
}

static void check_snake_beta(check *c) {
    const float reach[] = {1, 300, 20000};
    float most = reach[pick(0, 2)];
    row_arrays r = row_make(-most, most);
    for (int64_t i = 0; i < r.n; i++) {
        r.size[i] = 1 + 0.4f * fabsf(r.x[i]); /* what is added is rounded with x */
        r.b[i] = fabsf(r.b[i]);
    }
    c->fast->snake_beta(r.x, r.a, r.b, r.n, r.got);
    c->plain->snake_beta(r.x, r.a, r.b, r.n, r.want);
    row_end(c, &r, 4e-7);
}

static void check_sums(check *c) {
    row_arrays r = row_make(-3, 3);
    for (int64_t i = 0; i < r.n; i++) {
        r.size[i] = 10;
    }
    if (r.n > 0 && pick(0, 3) == 0) {
        r.x[pick(0, r.n - 1)] = NAN;
    }
    const cpu_kernels *k[] = {c->fast, c->plain};
    for (int i = 0; i < 2; i++) {
        float *y = i == 0 ? r.got : r.want;
        k[i]->add(r.x, r.n, y);
        k[i]->add_product(r.x, r.a, r.n, y);
        k[i]->add_multiple(r.x, 0.37f, r.n, y);
    }
    row_end(c, &r, 1e-7);
}

static void check_depthwise(check *c) {
    int64_t kernel = pick(1, 8), width = pick(1, 70);
    float *x = numbers(kernel * width, -1, 1), *w = numbers(kernel * width, -1, 1), *bias = numbers(width, -1, 1);
    float *got = numbers(width, 0, 0), *want = numbers(width, 0, 0);
    const float *with = pick(0, 1) ? bias : NULL;
    c->fast->depthwise(x, w, with, kernel, width, got);
    c->plain->depthwise(x, w, with, kernel, width, want);
    compare(c, got, want, NULL, width, 1e-6);
    free(x), free(w), free(bias), free(got), free(want);
}

/* ---- attention ---- */

/* Values n at a time as a cache holds them. */
static void *cached(const check *c, dtype type, const float *x, int64_t n) {
    void *y = malloc(dtype_row_bytes(type, n));
    if (type == DTYPE_F16) {
        c->plain->to_f16(x, y, n);
    } else {
        dtype_from_f32(type, x, y, n);
    }
    return y;
}

static void check_attention(check *c, dtype k_type, dtype v_type) {
    const bool blocks = v_type == DTYPE_Q8_0;
    int64_t dim = blocks ? 32 * pick(1, 5) : pick(1, 140), stride = dim + (blocks ? 32 * pick(0, 1) : pick(0, 5));
    int heads = (int)pick(1, 5);
    float *q = numbers(heads * dim, -2, 2), *k = numbers(ATTENTION_SPAN * stride, -2, 2), *v = numbers(ATTENTION_SPAN * stride, -1, 1);
    const bool bad = pick(0, 9) == 0; /* a NaN in a key: it reaches the result when the key is among those of a call */
    k[pick(0, ATTENTION_SPAN - 1) * stride + pick(0, dim - 1)] = bad ? NAN : 0.5f;
    void *ks = cached(c, k_type, k, ATTENTION_SPAN * stride), *vs = cached(c, v_type, v, ATTENTION_SPAN * stride);
    float *acc[2];
    attention_state s[2];
    attention_span span = {.k = ks, .v = vs, .k_stride = stride, .v_stride = blocks ? stride / 32 : stride, .to = heads};
    int64_t pieces[3] = {pick(1, ATTENTION_SPAN), pick(1, ATTENTION_SPAN), pick(1, 5)};
    for (int i = 0; i < 2; i++) {
        acc[i] = numbers(heads * dim, 0, 0);
        s[i] = (attention_state){.head_dim = (int)dim, .scale = 0.2f};
        for (int h = 0; h < heads; h++) {
            s[i].q[h] = q + h * dim;
            s[i].acc[h] = acc[i] + h * dim;
            s[i].max[h] = -INFINITY;
        }
        const cpu_kernels *kernels = i == 0 ? c->fast : c->plain;
        for (int p = 0; p < 3; p++) {
            attention_scores w;
            span.n = pieces[p];
            kernels->attend_keys[k_type](&s[i], &span, &w);
            kernels->attend_weights(&s[i], &span, &w);
            kernels->attend_values[v_type](&s[i], &span, &w);
        }
        for (int h = 0; h < heads; h++) {
            for (int64_t d = 0; d < dim; d++) {
                acc[i][h * dim + d] /= s[i].sum[h];
            }
        }
    }
    compare(c, acc[0], acc[1], NULL, heads * dim, 1e-5);
    free(q), free(k), free(v), free(ks), free(vs), free(acc[0]), free(acc[1]);
}

/* What no row's range holds must not reach it, NaN least of all; and no row may depend on those it shares a call with. */
static void check_attention_tile(check *c) {
    const int64_t dim = pick(1, 150), stride = dim + pick(0, 5), positions = pick(1, 300), rows = pick(1, pick(0, 9) ? 40 : 150);
    float *q = numbers(rows * stride, -2, 2), *k = numbers(positions * stride, -2, 2), *v = numbers(positions * stride, -1, 1);
    float *y[4], *one = numbers(dim, 5, 6), *scratch = numbers(attention_tile_scratch(rows, dim), 0, 1);
    int32_t *first = malloc((size_t)rows * sizeof *first), *end = malloc((size_t)rows * sizeof *end);
    for (int64_t r = 0; r < rows; r++) { /* runs of rows with one range, as in a window */
        const bool same = r > 0 && pick(0, 9) > 0;
        first[r] = same ? first[r - 1] : (int32_t)pick(0, positions - 1);
        end[r] = same ? end[r - 1] : (int32_t)pick(0, 9) == 0 ? first[r] : (int32_t)pick(first[r] + 1, positions);
    }
    const int64_t bad = pick(0, 3) ? -1 : pick(0, positions - 1);
    if (bad >= 0) {
        k[bad * stride + pick(0, dim - 1)] = NAN;
        v[pick(0, positions - 1) * stride + pick(0, dim - 1)] = pick(0, 1) ? NAN : -INFINITY;
    }
    attention_tile t = {q, k, v, stride, stride, dim, first, end, rows, (int)dim, 0.2f, NULL};
    for (int i = 0; i < 4; i++) {
        y[i] = t.y = numbers(rows * dim, 5, 6);
        const cpu_kernels *kernels = i % 2 ? c->plain : c->fast;
        (i < 2 ? kernels->attend_tile : kernels->attend_tile_bf16)(&t, scratch);
    }
    for (int64_t r = 0; r < rows; r++) { /* a NaN key must reach all of a row that sees it */
        for (int64_t i = r * dim; first[r] <= bad && bad < end[r] && i < (r + 1) * dim; i++) {
            c->worst = isnan(y[0][i]) && isnan(y[1][i]) && isnan(y[2][i]) && isnan(y[3][i]) ? c->worst : INFINITY;
        }
    }
    compare(c, y[0], y[1], NULL, rows * dim, 1e-5);
    /* Where both round, differently rounded probabilities are left; where one is exact, the rounded inputs. */
    compare(c, y[2], y[3], NULL, rows * dim, c->fast->attend_tile_bf16 == c->fast->attend_tile ? 2e-2 : 4e-3);
    for (int i = 0; i < 4; i++) {
        const int64_t r = pick(0, rows - 1);
        const attention_tile alone = {q + r * stride, k, v, stride, stride, dim, first + r, end + r, 1, (int)dim, 0.2f, one};
        (i % 2 ? c->fast->attend_tile : c->fast->attend_tile_bf16)(&alone, scratch);
        const float *want = y[i % 2 ? 0 : 2] + r * dim;
        for (int64_t d = 0; d < dim; d++) {
            c->worst = one[d] == want[d] || (isnan(want[d]) && isnan(one[d])) ? c->worst : INFINITY;
        }
    }
    free(q), free(k), free(v), free(y[0]), free(y[1]), free(y[2]), free(y[3]), free(one), free(scratch), free(first), free(end);
}

static void check_attention_f32(check *c) {
    check_attention(c, DTYPE_F32, DTYPE_F32);
}

static void check_attention_f16(check *c) {
    check_attention(c, DTYPE_F16, DTYPE_F16);
}

static void check_attention_q8_0(check *c) {
    check_attention(c, DTYPE_F32, DTYPE_Q8_0);
}

static const struct {
    const char *name;
    void (*run)(check *);
} checks[] = {
    {"linear f32", check_linear_f32},
    {"linear f16", check_linear_f16},
    {"linear bf16", check_linear_bf16},
    {"linear q8_0", check_linear_q8_0},
    {"gemm f32", check_gemm_f32},
    {"gemm f16", check_gemm_f16},
    {"gemm bf16", check_gemm_bf16},
    {"convert", check_convert},
    {"quantise", check_quantise},
#define PACKED_CHECK(type, name, ...) {"packed " #name, check_packed_##name},
    PACKED_FORMATS(PACKED_CHECK){"rms_norm", check_rms_norm},
    {"layer_norm", check_layer_norm},
    {"rotate", check_rotate},
    {"silu", check_silu},
    {"gelu", check_gelu},
    {"gelu_tanh", check_gelu_tanh},
    {"silu_mul", check_silu_mul},
    {"snake_beta", check_snake_beta},
    {"sums", check_sums},
    {"depthwise", check_depthwise},
    {"attention f32", check_attention_f32},
    {"attention f16", check_attention_f16},
    {"attention q8_0", check_attention_q8_0},
    {"attention tile", check_attention_tile},
};

static int check_isa(const char *name, const cpu_kernels *fast, const cpu_kernels *plain, const char *only, int rounds) {
    int failures = 0;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (only && !strstr(checks[i].name, only)) {
            continue;
        }
        check c = {.fast = fast, .plain = plain};
        for (int round = 0; round < rounds; round++) {
            checks[i].run(&c);
        }
        bool good = c.worst <= 1;
        failures += !good;
        printf("%-10s %-14s %s, error up to %.2f of its bound\n", name, checks[i].name, good ? "good" : "WRONG", c.worst);
    }
    return failures;
}

#if defined(__x86_64__)
/* Kernels for instructions that this processor may lack (tests/tools/emulated). */
void packed_avxvnni_evex(cpu_kernels *k);
void packed_amx_emulated(cpu_kernels *k);
void attention_amx_emulated(cpu_kernels *k);
#endif

static int check_all(const char *only, int rounds) {
    int failures = 0;
    const char *names[KERNEL_ISAS];
    int isas = kernels_isas(names);
    cpu_kernels plain, fast;
    kernels_select("generic", &plain);
    for (int l = 0; l < isas; l++) {
        kernels_select(names[l], &fast);
        failures += check_isa(names[l], l == 0 ? &plain : &fast, &plain, only, rounds);
    }
#if defined(__x86_64__)
    if (kernels_select("avx512vnni", &fast) && !kernels_select("avxvnni", &fast)) {
        kernels_select("avx2", &fast);
        packed_avxvnni_evex(&fast);
        failures += check_isa("avxvnni*", &fast, &plain, only ? only : "packed", rounds);
    }
    if (kernels_select("avx512bf16", &fast)) {
        packed_amx_emulated(&fast);
        attention_amx_emulated(&fast);
        failures += check_isa("amx*", &fast, &plain, only ? only : "packed", rounds / 4); /* slow */
        failures += only ? 0 : check_isa("amx*", &fast, &plain, "attention tile", rounds);
    }
#endif
    return failures;
}

int main(int argc, char **argv) {
    const char *only = NULL;
    int rounds = 200, threads = 0;
    bool timed = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            timed = true;
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            only = argv[++i];
        } else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
            rounds = atoi(argv[++i]);
        } else if (strcmp(argv[i], "-t") == 0 && i + 1 < argc) {
            threads = atoi(argv[++i]);
        } else {
            fprintf(stderr, "usage: kernels [--bench] [--only NAME] [--rounds N] [-t THREADS]\n");
            return 2;
        }
    }
    int failures = check_all(only, rounds);
    if (timed && failures == 0) {
        bench_all(only, threads);
    }
    return failures != 0;
}
