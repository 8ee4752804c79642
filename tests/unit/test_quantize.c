/* The quantisers: errors beside those of llama.cpp on the same matrices (stored by tests/reference/compare_quantisers.py), values
 * that the formats hold exactly, values that they cannot hold, and the same bits from every instruction set. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"
#include "tensor/blocks.h"
#include "tensor/quantize.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static const dtype TYPES[] = {DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K};
static const char *const NAMES[] = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"};
enum { N_TYPES = sizeof TYPES / sizeof *TYPES };

/* As the comparison: sqrt(sum w (x - y)^2 / sum w x^2). */
static double error_of(dtype type, const float *x, const float *importance, int64_t rows, int64_t width) {
    size_t row = dtype_row_bytes(type, width);
    uint8_t *q = malloc(row + 1);
    float *y = malloc((size_t)width * sizeof *y);
    double above = 0, below = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = x + r * width;
        dtype_from_f32_weighted(type, xr, importance, q + 1, width); /* any address */
        dtype_to_f32(type, q + 1, y, width);
        for (int64_t i = 0; i < width; i++) {
            double w = importance ? importance[i] : 1;
            above += w * ((double)xr[i] - y[i]) * ((double)xr[i] - y[i]);
            below += w * (double)xr[i] * xr[i];
        }
    }
    free(q);
    free(y);
    return sqrt(above / below);
}

static void errors_are_no_larger_than_the_peers(void **state) {
    gguf *g = NULL;
    omni_error err;
    assert_int_equal(gguf_open(TEST_DATA "/gguf/quantise.gguf", &g, &err), OMNI_OK);
    const tensor *importance = gguf_tensor(g, "importance");
    const char *const matrices[] = {"normal", "heavy"};
    for (int m = 0; m < 2; m++) {
        const tensor *t = gguf_tensor(g, matrices[m]);
        int64_t rows = t->ne[1], width = t->ne[0];
        float *x = malloc((size_t)(rows * width) * sizeof *x);
        dtype_to_f32(t->type, t->data, x, rows * width);
        for (int i = 0; i < N_TYPES; i++) {
            for (int weighted = 0; weighted < 2; weighted++) {
                char key[64];
                float peer;
                snprintf(key, sizeof key, "peer.%s.%s%s", NAMES[i], matrices[m], weighted ? ".weighted" : "");
                assert_int_equal(gguf_need_f32(g, key, &peer, &err), OMNI_OK);
                double ours = error_of(TYPES[i], x, weighted ? importance->data : NULL, rows, width);
                if (!(ours <= peer * (TYPES[i] == DTYPE_Q8_0 ? 1.000001 : 1))) {
                    fail_msg("%s: %.6f, the peer's %.6f", key, ours, peer);
                }
            }
        }
        free(x);
    }
    gguf_close(g);
}

static uint32_t next(uint32_t *seed) {
    return *seed = *seed * 1664525 + 1013904223;
}

static void random_values(float *x, int n, uint32_t seed, float scale) {
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            sum += (float)(next(&seed) >> 8) * 0x1p-24f - 0.5f;
        }
        x[i] = sum * scale;
    }
}

/* Quantising once more what a format holds already loses little beside the first time; zeros stay zeros. */
static void exact_values_survive(void **state) {
    enum { N = 4096 };
    float x[N], held[N];
    uint8_t q[N * 4];
    random_values(x, N, 5, 1);
    for (int i = 0; i < N_TYPES; i++) {
        dtype_from_f32(TYPES[i], x, q, N);
        dtype_to_f32(TYPES[i], q, held, N);
        double first = error_of(TYPES[i], x, NULL, 1, N), again = error_of(TYPES[i], held, NULL, 1, N);
        assert_true(again <= 0.3 * first);
    }
    memset(x, 0, sizeof x);
    float y[N];
    for (int i = 0; i < N_TYPES; i++) {
        dtype_from_f32(TYPES[i], x, q, N);
        dtype_to_f32(TYPES[i], q, y, N);
        for (int j = 0; j < N; j++) {
            assert_true(y[j] == 0);
        }
    }
}

static void extremes_are_taken(void **state) {
    enum { N = 256 };
    float x[N], y[N];
    uint8_t q[N * 4];
    const float sizes[] = {1e-45f, 1e-38f, 1e-20f, 1e-9f, 1e-6f, 1, 1e4f, 1e9f, 3e38f};
    for (int i = 0; i < N_TYPES; i++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int shape = 0; shape < 4; shape++) {
                for (int j = 0; j < N; j++) {
                    /* both signs; one sign; one value; all alike */
                    x[j] = shape == 0 ? (j % 7 - 3) / 3.0f : shape == 1 ? (float)(j % 5 + 1) / -5 : shape == 2 ? (float)(j % 32 == 9) : 1;
                    x[j] *= sizes[s];
                }
                dtype_from_f32(TYPES[i], x, q, N);
                dtype_to_f32(TYPES[i], q, y, N);
                for (int j = 0; j < N && sizes[s] < 1e6f; j++) {
                    assert_true(fabsf(y[j] - x[j]) <= 0.07f * sizes[s] + 1e-6f);
                }
                for (int j = 0; j < N && TYPES[i] != DTYPE_Q8_0; j++) {
                    assert_true(isfinite(y[j])); /* the largest scale stands for what is too large */
                }
            }
        }
        for (int bad = 0; bad < 2; bad++) {
            random_values(x, N, 3, 1);
            x[40] = bad ? NAN : -INFINITY;
            dtype_from_f32(TYPES[i], x, q, N);
            dtype_to_f32(TYPES[i], q, y, N);
            assert_true(isnan(y[33]) && isnan(y[40]) && isnan(y[63]));
        }
    }
}

/* Columns that matter more are kept better; senseless importance is borne. */
static void importance_is_followed(void **state) {
    enum { N = 256, ROWS = 20 };
    float x[N * ROWS], importance[N], zero[N] = {0}, odd[N];
    random_values(x, N * ROWS, 7, 1);
    for (int i = 0; i < N; i++) {
        importance[i] = i % 8 == 3 ? 100 : 1e-3f;
        odd[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? -1 : INFINITY;
    }
    for (int i = 0; i < N_TYPES; i++) {
        if (TYPES[i] == DTYPE_Q8_0) {
            continue;
        }
        double plain = 0, weighted = 0;
        size_t row = dtype_row_bytes(TYPES[i], N);
        uint8_t q[N * 4], p[N * 4];
        for (int r = 0; r < ROWS; r++) {
            float y[N], z[N];
            dtype_from_f32(TYPES[i], x + r * N, q, N);
            dtype_to_f32(TYPES[i], q, y, N);
            dtype_from_f32_weighted(TYPES[i], x + r * N, importance, p, N);
            dtype_to_f32(TYPES[i], p, z, N);
            for (int j = 3; j < N; j += 8) {
                plain += pow(x[r * N + j] - y[j], 2);
                weighted += pow(x[r * N + j] - z[j], 2);
            }
        }
        assert_true(weighted < 0.6 * plain);
        quantize_row(TYPES[i], x, NULL, q, N);
        quantize_row(TYPES[i], x, zero, p, N);
        assert_memory_equal(q, p, row);
        assert_true(quantize_row(TYPES[i], x, odd, p, N));
    }
}

static void every_instruction_set_gives_the_same_bits(void **state) {
    enum { N = 4096 };
    float *x = malloc(N * sizeof *x), *importance = malloc(N * sizeof *x);
    uint8_t *q = malloc(N * 4), *p = malloc(N * 4);
    random_values(x, N, 1, 2);
    random_values(importance, N, 2, 1);
    for (int i = 0; i < N; i++) {
        importance[i] = fabsf(importance[i]);
        x[i] *= i % 61 ? 1 : 30;
    }
    for (int i = 0; i < N_TYPES; i++) {
        for (int weighted = 0; weighted < 2 && TYPES[i] != DTYPE_Q8_0; weighted++) {
            const float *w = weighted ? importance : NULL;
            size_t bytes = dtype_row_bytes(TYPES[i], N);
            assert_true(quantize_row_generic(TYPES[i], x, w, q, N));
            assert_true(quantize_row(TYPES[i], x, w, p, N));
            assert_memory_equal(q, p, bytes);
#if defined(__x86_64__)
            if (__builtin_cpu_supports("avx2")) {
                assert_true(quantize_row_avx2(TYPES[i], x, w, p, N));
                assert_memory_equal(q, p, bytes);
            }
#endif
        }
    }
    assert_false(quantize_row(DTYPE_Q2_K, x, NULL, q, N));
    assert_false(dtype_writable(DTYPE_Q2_K) || dtype_writable(5));
    assert_true(dtype_writable(DTYPE_Q4_K) && dtype_writable(DTYPE_BF16));
    free(x);
    free(importance);
    free(q);
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_no_larger_than_the_peers),
        cmocka_unit_test(exact_values_survive),
        cmocka_unit_test(extremes_are_taken),
        cmocka_unit_test(importance_is_followed),
        cmocka_unit_test(every_instruction_set_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
