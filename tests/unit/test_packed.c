/* Repacked weights through the operations that take them: every type, every instruction set, one row and many, one thread and three. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "tensor/blocks.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static const dtype TYPES[] = {DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,   DTYPE_Q5_1,   DTYPE_Q8_0,  DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K,
                              DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4, DTYPE_F32,  DTYPE_F16,  DTYPE_BF16};
enum { N_TYPES = sizeof TYPES / sizeof *TYPES };

static uint32_t seed = 1;

static uint32_t bits(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static float *numbers(int64_t n) {
    float *x = malloc(sizeof *x * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)bits() * 0x1p-23f - 1;
    }
    return x;
}

/* A matrix of random codes whose scales make values of about 1. */
static tensor random_matrix(dtype type, int64_t in, int64_t outs, int64_t experts) {
    const int at[DTYPE_COUNT][2] = {
        [DTYPE_Q4_1] = {0, 2},    [DTYPE_Q5_1] = {0, 2},    [DTYPE_Q2_K] = {80, 82}, [DTYPE_Q3_K] = {108, -1}, [DTYPE_Q4_K] = {0, 2},
        [DTYPE_Q5_K] = {0, 2},    [DTYPE_Q6_K] = {208, -1}, [DTYPE_Q4_0] = {0, -1},  [DTYPE_Q5_0] = {0, -1},   [DTYPE_Q8_0] = {0, -1},
        [DTYPE_IQ4_NL] = {0, -1}, [DTYPE_IQ4_XS] = {0, -1}, [DTYPE_MXFP4] = {-1, -1}};
    const dtype_info *info = dtype_find((uint32_t)type);
    tensor t = {.name = "w", .type = type, .n_dims = experts > 1 ? 3 : 2, .ne = {in, outs, experts, 1}};
    t.size = dtype_row_bytes(type, in) * (size_t)(outs * experts);
    uint8_t *w = malloc(t.size);
    t.data = w;
    if (info->block == 1) {
        float *values = numbers(in * outs * experts);
        dtype_from_f32(type, values, w, in * outs * experts);
        free(values);
        return t;
    }
    for (size_t i = 0; i < t.size; i++) {
        w[i] = (uint8_t)bits();
    }
    for (size_t i = 0; i < t.size; i += info->bytes) {
        for (int j = 0; j < 2 && at[type][j] >= 0; j++) {
            uint16_t h = f16_from_f32((float)(bits() % 100 + 1) * (info->block == QK ? 1e-3f : 3e-5f));
            memcpy(w + i + at[type][j], &h, sizeof h);
        }
        if (type == DTYPE_MXFP4) {
            w[i] = (uint8_t)(124 + bits() % 3);
        }
    }
    return t;
}

typedef struct two {
    backend *one, *three;
} two;

static two backends(const char *isa) {
    two b;
    omni_error err;
    setenv("OMNI_CPU", isa, 1);
    assert_int_equal(cpu_backend_create(1, &b.one, &err), OMNI_OK);
    assert_int_equal(cpu_backend_create(3, &b.three, &err), OMNI_OK);
    unsetenv("OMNI_CPU");
    return b;
}

static void release(two b) {
    cpu_backend_destroy(b.one);
    cpu_backend_destroy(b.three);
}

/* What `done` has said: ranges that follow on each other. */
static void ranges(void *arg, size_t begin, size_t end) {
    size_t *at = arg;
    assert_int_equal(*at, begin);
    assert_true(end > begin);
    *at = end;
}

static tensor pack(backend *b, const tensor *t) {
    tensor p = *t;
    size_t size = b->ops->packed_size(b, WEIGHT_LINEAR, t), read = 0;
    void *memory;
    omni_error err;
    assert_true(size > 0 && (double)size <= 1.05 * (double)t->size * (double)((t->ne[1] + 15) / 16 * 16) / (double)t->ne[1]);
    assert_int_equal(b->ops->alloc(b, size, &memory, &err), OMNI_OK);
    b->ops->pack(b, WEIGHT_LINEAR, &p, memory, ranges, &read);
    assert_int_equal(read, t->size);
    assert_true(p.packed && p.size == size && p.data == memory);
    assert_int_equal(b->ops->packed_size(b, WEIGHT_LINEAR, &p), 0);
    return p;
}

static void drop(backend *b, tensor *t) {
    b->ops->release(b, (void *)(uintptr_t)t->data);
}

/* The largest error that inputs, where rounded to 8 bits, can make in a sum, and a little for adding up. */
static float bound(dtype type, const float *w, const float *x, int64_t n) {
    double e = 1e-6;
    for (int64_t i = 0; i < n; i += 32) {
        double largest = 0, weights = 0, sum = 0;
        for (int64_t j = i; j < i + 32; j++) {
            largest = fabs((double)x[j]) > largest ? fabs((double)x[j]) : largest;
            weights += fabs((double)w[j]);
            sum += fabs((double)w[j] * x[j]);
        }
        e += (packed_floats(type) ? 0 : 0.501 * largest / 127 * weights) + 1e-5 * sum;
    }
    return (float)e;
}

static void linear_is_right_and_alike_for_any_rows_and_threads(void **state) {
    enum { IN = 512, OUT = 83, ROWS = 75 };
    const char *isas[KERNEL_ISAS];
    int n = kernels_isas(isas);
    float *x = numbers(ROWS * IN), *bias = numbers(OUT), *row = malloc(sizeof *row * IN);
    float *y = malloc(sizeof *y * ROWS * OUT), *alone = malloc(sizeof *y * ROWS * OUT);
    for (int l = 0; l < n; l++) {
        two b = backends(isas[l]);
        for (int i = 0; i < N_TYPES; i++) {
            tensor w = random_matrix(TYPES[i], IN, OUT, 1), p = pack(b.three, &w);
            b.three->ops->linear(b.three, &p, bias, x, ROWS, IN, y, OUT);
            for (int r = 0; r < ROWS; r++) {
                b.one->ops->linear(b.one, &p, bias, x + r * IN, 1, IN, alone + r * OUT, OUT);
            }
            assert_memory_equal(y, alone, sizeof *y * ROWS * OUT);
            for (int o = 0; o < OUT; o++) {
                dtype_to_f32(TYPES[i], tensor_row(&w, o), row, IN);
                for (int r = 0; r < ROWS; r += 7) {
                    double want = bias[o];
                    for (int k = 0; k < IN; k++) {
                        want += (double)row[k] * x[r * IN + k];
                    }
                    assert_true(fabs(want - y[r * OUT + o]) <= bound(TYPES[i], row, x + r * IN, IN));
                }
            }
            drop(b.three, &p);
            free((void *)(uintptr_t)w.data);
        }
        release(b);
    }
    free(x), free(bias), free(row), free(y), free(alone);
}

/* More rows than the buffer for quantised inputs holds at once. */
static void linear_takes_more_inputs_than_its_buffer_holds(void **state) {
    enum { IN = 1 << 16, OUT = 16, ROWS = 70 };
    const char *isas[KERNEL_ISAS];
    two b = backends(isas[kernels_isas(isas) - 1]);
    tensor w = random_matrix(DTYPE_Q8_0, IN, OUT, 1), p = pack(b.three, &w);
    float *x = numbers(IN + ROWS), *y = malloc(sizeof *y * ROWS * OUT), one[OUT];
    b.three->ops->linear(b.three, &p, NULL, x, ROWS, 1, y, OUT); /* rows overlap */
    for (int r = 0; r < ROWS; r += 23) {
        b.one->ops->linear(b.one, &p, NULL, x + r, 1, IN, one, OUT);
        assert_memory_equal(one, y + r * OUT, sizeof one);
    }
    drop(b.three, &p);
    free((void *)(uintptr_t)w.data);
    free(x), free(y);
    release(b);
}

/* A packed matrix may take fewer inputs than its blocks hold: what follows them in memory does not count. */
static void the_last_block_may_be_part_of_one(void **state) {
    enum { IN = 96, PART = 75, OUT = 40, ROWS = 9 };
    const char *isas[KERNEL_ISAS];
    int n = kernels_isas(isas);
    float *x = numbers(ROWS * PART), *zeros = calloc(ROWS * IN, sizeof *zeros), got[ROWS * OUT], want[ROWS * OUT];
    for (int r = 0; r < ROWS; r++) {
        memcpy(zeros + r * IN, x + r * PART, sizeof *x * PART);
    }
    for (int l = 0; l < n; l++) {
        two b = backends(isas[l]);
        tensor w = random_matrix(DTYPE_Q8_0, IN, OUT, 1), p = pack(b.three, &w);
        b.three->ops->linear(b.three, &p, NULL, zeros, ROWS, IN, want, OUT);
        p.ne[0] = PART;
        b.three->ops->linear(b.three, &p, NULL, x, ROWS, PART, got, OUT);
        assert_memory_equal(got, want, sizeof want);
        drop(b.three, &p);
        free((void *)(uintptr_t)w.data);
        release(b);
    }
    free(x), free(zeros);
}

/* y = sum of weights[j] * down(silu(gate x) * up x), by linear on the experts' slices. */
static void mixture_of(backend *b, const tensor *m, const float *x, const int32_t *ids, const float *weights, int used, float *y) {
    int64_t in = m[0].ne[0], ffn = m[0].ne[1];
    float *gate = malloc(sizeof *gate * (size_t)ffn), *up = malloc(sizeof *up * (size_t)ffn), *out = malloc(sizeof *out * (size_t)in);
    memset(y, 0, sizeof *y * (size_t)in);
    for (int j = 0; j < used; j++) {
        tensor e[3];
        for (int k = 0; k < 3; k++) {
            e[k] = tensor_slice(&m[k], ids[j]);
        }
        b->ops->linear(b, &e[0], NULL, x, 1, in, gate, ffn);
        b->ops->linear(b, &e[1], NULL, x, 1, in, up, ffn);
        b->ops->silu_mul(b, gate, up, ffn, gate);
        b->ops->linear(b, &e[2], NULL, gate, 1, ffn, out, in);
        for (int64_t i = 0; i < in; i++) {
            y[i] += weights[j] * out[i];
        }
    }
    free(gate), free(up), free(out);
}

static void experts(backend *one, backend *three, dtype type, dtype down_type, bool pack_gate, bool pack_down) {
    enum { EXPERTS = 5, USED = 2, ROWS = 150 };
    int64_t in = dtype_find((uint32_t)type)->block == QK ? 96 : 256, ffn = dtype_find((uint32_t)down_type)->block == QK ? 288 : 512;
    tensor m[3] = {random_matrix(type, in, ffn, EXPERTS), random_matrix(type, in, ffn, EXPERTS), random_matrix(down_type, ffn, in, EXPERTS)}, p[3];
    for (int k = 0; k < 3; k++) {
        p[k] = (k < 2 ? pack_gate : pack_down) ? pack(three, &m[k]) : m[k];
    }
    float *x = numbers(ROWS * in), *y = malloc(sizeof *y * (size_t)(ROWS * in)), *want = malloc(sizeof *want * (size_t)in), weights[ROWS * USED];
    int32_t ids[ROWS * USED];
    for (int i = 0; i < ROWS * USED; i++) {
        ids[i] = (int32_t)(i % USED ? (ids[i - 1] + 1 + bits() % (EXPERTS - 1)) % EXPERTS : bits() % EXPERTS);
        weights[i] = (float)bits() * 0x1p-24f;
    }
    float *scratch = malloc(sizeof *scratch * three->ops->moe_scratch(three, ROWS, USED, in, ffn));
    three->ops->moe(three, &p[0], &p[1], &p[2], x, ROWS, ids, weights, USED, scratch, y);
    for (int r = 0; r < ROWS; r++) {
        const float *got = y + r * in;
        one->ops->moe(one, &p[0], &p[1], &p[2], x + r * in, 1, ids + r * USED, weights + r * USED, USED, scratch, want);
        assert_memory_equal(got, want, sizeof *want * (size_t)in);
        if (r % 10 == 0) {
            mixture_of(one, p, x + r * in, ids + r * USED, weights + r * USED, USED, want);
            float largest = 0;
            for (int64_t i = 0; i < in; i++) {
                largest = fabsf(want[i]) > largest ? fabsf(want[i]) : largest;
            }
            for (int64_t i = 0; i < in; i++) {
                assert_true(fabsf(got[i] - want[i]) <= 1e-5f * largest);
            }
        }
    }
    for (int k = 0; k < 3; k++) {
        if (p[k].packed) {
            drop(three, &p[k]);
        }
        free((void *)(uintptr_t)m[k].data);
    }
    free(x), free(y), free(want), free(scratch);
}

static void mixtures_are_right_whatever_is_packed(void **state) {
    const char *isas[KERNEL_ISAS];
    int n = kernels_isas(isas);
    for (int l = 0; l < n; l++) {
        two b = backends(isas[l]);
        experts(b.one, b.three, DTYPE_Q8_0, DTYPE_Q8_0, true, true);
        experts(b.one, b.three, DTYPE_Q4_K, DTYPE_Q6_K, true, true);
        experts(b.one, b.three, DTYPE_Q4_K, DTYPE_Q8_0, true, false);
        experts(b.one, b.three, DTYPE_Q5_1, DTYPE_Q4_K, false, true);
        experts(b.one, b.three, DTYPE_F16, DTYPE_F16, true, true);
        experts(b.one, b.three, DTYPE_BF16, DTYPE_Q8_0, true, true);
        experts(b.one, b.three, DTYPE_Q8_0, DTYPE_F32, true, true);
        release(b);
    }
}

static void only_what_can_be_packed_is(void **state) {
    const char *isas[KERNEL_ISAS];
    two b = backends(isas[kernels_isas(isas) - 1]);
    const ops *o = b.one->ops;
    tensor t = {.type = DTYPE_Q4_K, .n_dims = 2, .ne = {256, 64, 1, 1}};
    assert_true(o->packed_size(b.one, WEIGHT_LINEAR, &t) > 0);
    cpu_backend_keep_rows(b.one, true);
    assert_int_equal(o->packed_size(b.one, WEIGHT_LINEAR, &t), 0);
    cpu_backend_keep_rows(b.one, false);
    t.ne[1] = 1; /* a gate of one output would grow sixteenfold */
    assert_int_equal(o->packed_size(b.one, WEIGHT_LINEAR, &t), 0);
    t.ne[1] = 64;
    t.type = DTYPE_I32;
    assert_int_equal(o->packed_size(b.one, WEIGHT_LINEAR, &t), 0);
    release(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_right_and_alike_for_any_rows_and_threads),
        cmocka_unit_test(linear_takes_more_inputs_than_its_buffer_holds),
        cmocka_unit_test(the_last_block_may_be_part_of_one),
        cmocka_unit_test(mixtures_are_right_whatever_is_packed),
        cmocka_unit_test(only_what_can_be_packed_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
