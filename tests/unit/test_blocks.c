/* Block formats: what they hold, and that operations take weights of every one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "gguf/gguf.h"
#include "tensor/blocks.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static const dtype TYPES[] = {DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,   DTYPE_Q8_0,   DTYPE_Q2_K, DTYPE_Q3_K,
                              DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4};
enum { N_TYPES = sizeof TYPES / sizeof *TYPES };

static gguf *vectors;

static const tensor *vector_of(dtype type, const char *what) {
    char name[32];
    snprintf(name, sizeof name, "%s.%s", dtype_find((uint32_t)type)->name, what);
    const tensor *t = gguf_tensor(vectors, name);
    assert_non_null(t);
    return t;
}

static void blocks_read_bit_for_bit_as_in_the_gguf_package(void **state) {
    for (int i = 0; i < N_TYPES; i++) {
        const tensor *stored = vector_of(TYPES[i], "stored"), *read = vector_of(TYPES[i], "read");
        assert_int_equal(stored->type, TYPES[i]);
        assert_true(dtype_computable((uint32_t)TYPES[i]));
        size_t n = read->size / sizeof(float);
        assert_int_equal(n, (size_t)(stored->ne[0] * stored->ne[1]));
        /* Blocks may lie at any address. */
        uint8_t *bytes = malloc(stored->size + 1);
        float *x = malloc(read->size);
        memcpy(bytes + 1, stored->data, stored->size);
        dtype_to_f32(TYPES[i], bytes + 1, x, (int64_t)n);
        assert_memory_equal(x, read->data, read->size);
        free(bytes);
        free(x);
    }
}

static void scales_and_minima_are_the_packed_ones(void **state) {
    /* Packed by the layout's description, group by group. */
    uint8_t packed[12] = {0};
    for (int g = 0; g < 8; g++) {
        int scale = 7 * g + 5, min = 63 - 6 * g;
        if (g < 4) {
            packed[g] |= (uint8_t)scale;
            packed[g + 4] |= (uint8_t)min;
        } else {
            packed[g + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
            packed[g - 4] |= (uint8_t)(scale >> 4 << 6);
            packed[g] |= (uint8_t)(min >> 4 << 6);
        }
    }
    for (int g = 0; g < 8; g++) {
        uint8_t scale, min;
        block_scale_min(packed, g, &scale, &min);
        assert_int_equal(scale, 7 * g + 5);
        assert_int_equal(min, 63 - 6 * g);
    }
    assert_true(block_mxfp4_scale(0) == ldexpf(1, -128) && block_mxfp4_scale(1) == ldexpf(1, -127) && block_mxfp4_scale(255) == ldexpf(1, 127));
}

/* A linear map, an embedding and a mixture give what the same weights give as float32. */
static void operations_take_every_type(void **state) {
    enum { ROWS = 20 };
    const char *isas[KERNEL_ISAS];
    int n_isas = kernels_isas(isas);
    for (int isa = 0; isa < n_isas; isa++) {
        setenv("OMNI_CPU", isas[isa], 1);
        backend *b;
        omni_error err;
        assert_int_equal(cpu_backend_create(2, &b, &err), OMNI_OK);
        for (int i = 0; i < N_TYPES; i++) {
            tensor w = *vector_of(TYPES[i], "stored");
            tensor exact = *vector_of(TYPES[i], "read");
            int64_t in = w.ne[0], outs = w.ne[1];
            float *x = malloc(sizeof *x * ROWS * (size_t)in), y[ROWS * 3], want[ROWS * 3];
            for (int64_t k = 0; k < ROWS * in; k++) {
                x[k] = (float)((k * 37) % 101 - 50) * 0.02f;
            }
            for (int64_t rows = 1; rows <= ROWS; rows += ROWS - 1) {
                b->ops->linear(b, &exact, NULL, x, rows, in, want, outs);
                b->ops->linear(b, &w, NULL, x, rows, in, y, outs);
                for (int64_t o = 0; o < outs; o++) {
                    /* MXFP4's random exponents reach 2^127: compared by the size of the terms */
                    float size = 0;
                    for (int64_t k = 0; k < in; k++) {
                        size += fabsf(((const float *)exact.data)[o * in + k]) / 1024;
                    }
                    for (int64_t r = 0; r < rows; r++) {
                        float difference = fabsf(y[r * outs + o] - want[r * outs + o]) / 1024;
                        assert_true(difference <= 2e-2f * size || !isfinite(want[r * outs + o]));
                    }
                }
            }
            const int32_t ids[] = {2, 0, 1};
            b->ops->embed(b, &w, ids, 3, x);
            for (int r = 0; r < 3; r++) {
                assert_memory_equal(x + r * in, (const float *)exact.data + ids[r] * in, sizeof *x * (size_t)in);
            }
            free(x);
        }
        cpu_backend_destroy(b);
    }
    unsetenv("OMNI_CPU");
}

/* A row longer than a thread's scratch is added up in spans, alike for any number of rows. */
static void rows_longer_than_the_scratch_are_taken(void **state) {
    enum { IN = 1 << 19, ROWS = 9 };
    backend *b;
    omni_error err;
    setenv("OMNI_CPU", "generic", 1);
    assert_int_equal(cpu_backend_create(2, &b, &err), OMNI_OK);
    block_q4_k *blocks = calloc(IN / QK_K, sizeof *blocks);
    for (int i = 0; i < IN / QK_K; i++) {
        blocks[i].d = f16_from_f32(0.5f);
        memset(blocks[i].scales, 1, 4);
        memset(blocks[i].qs, 0x13, sizeof blocks[i].qs);
    }
    float *x = malloc(sizeof *x * (IN + ROWS)), y[ROWS], one;
    double want = 0;
    for (int i = 0; i < IN + ROWS; i++) {
        x[i] = (float)(i % 7 - 3);
    }
    for (int i = 0; i < IN; i++) {
        int group = i % QK_K / 32;
        want += group < 4 ? x[i] * 0.5 * (group & 1 ? 1 : 3) : 0;
    }
    tensor w = {.name = "w", .type = DTYPE_Q4_K, .n_dims = 2, .ne = {IN, 1, 1, 1}, .size = sizeof *blocks * (IN / QK_K), .data = blocks};
    const float bias = 2;
    b->ops->linear(b, &w, &bias, x, ROWS, 1, y, 1);
    assert_true(fabs(y[0] - 2 - want) < 1e-3 * IN);
    for (int r = 0; r < ROWS; r++) {
        b->ops->linear(b, &w, &bias, x + r, 1, 1, &one, 1);
        assert_memory_equal(&one, &y[r], sizeof one);
    }
    free(x);
    free(blocks);
    cpu_backend_destroy(b);
    unsetenv("OMNI_CPU");
}

int main(void) {
    omni_error err;
    if (gguf_open(TEST_DATA "/gguf/blocks.gguf", &vectors, &err) != OMNI_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_read_bit_for_bit_as_in_the_gguf_package),
        cmocka_unit_test(scales_and_minima_are_the_packed_ones),
        cmocka_unit_test(operations_take_every_type),
        cmocka_unit_test(rows_longer_than_the_scratch_are_taken),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gguf_close(vectors);
    return failed;
}
