/* Types, conversions and views. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"
#include "tensor/tensor.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* The value of a half by the definition of the format. */
static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent == 0 ? ldexp(fraction, -24) : exponent == 31 ? (fraction ? NAN : INFINITY) : ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -v : v;
}

static void halves_convert_exactly_and_return(void **state) {
    for (uint32_t h = 0; h < 65536; h++) {
        float x = f16_to_f32((uint16_t)h);
        double want = half_value((uint16_t)h);
        if (isnan(want)) {
            assert_true(isnan(x));
        } else {
            assert_true((double)x == want);
            assert_int_equal(signbit(x) != 0, h >> 15);
        }
        assert_int_equal(f16_from_f32(x), h);
    }
}

/* Between each pair of neighbours: the middle goes to the even one, anything beside it to the nearer one. */
static void rounding_to_half_is_to_nearest_even(void **state) {
    for (uint32_t h = 0; h < 0x7c00; h++) {
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            double low = half_value((uint16_t)h), high = h == 0x7bff ? 65536 : half_value((uint16_t)(h + 1));
            float middle = (float)((low + high) / 2); /* exact: one bit more than a half has */
            uint32_t even = h & 1 ? h + 1 : h, s = sign << 16;
            assert_int_equal(f16_from_f32(float_of(bits_of(middle) | s)), even | sign);
            assert_int_equal(f16_from_f32(float_of((bits_of(middle) - 1) | s)), h | sign);
            assert_int_equal(f16_from_f32(float_of((bits_of(middle) + 1) | s)), (h + 1) | sign);
        }
    }
    assert_int_equal(f16_from_f32(3e38f), 0x7c00);
    assert_int_equal(f16_from_f32(float_of(1)), 0);
    assert_true(isnan(f16_to_f32(f16_from_f32(float_of(0x7f800001))))); /* a payload that is lost must not leave an infinity */
}

static void bfloats_convert_exactly_and_return(void **state) {
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bf16_to_f32((uint16_t)h);
        assert_int_equal(bits_of(x), h << 16);
        uint16_t back = bf16_from_f32(x);
        if (isnan(x)) {
            assert_true(isnan(bf16_to_f32(back)));
            assert_int_equal(back >> 15, h >> 15);
        } else {
            assert_int_equal(back, h);
            if ((h & 0x7fff) < 0x7f80) {
                uint32_t u = h << 16;
                assert_int_equal(bf16_from_f32(float_of(u + 0x7fff)), h);
                assert_int_equal(bf16_from_f32(float_of(u + 0x8000)), h + (h & 1));
                assert_int_equal(bf16_from_f32(float_of(u + 0x8001)), h + 1);
            }
        }
    }
    assert_true(isnan(bf16_to_f32(bf16_from_f32(float_of(0x7f800001)))));
}

static void conversions_agree_with_the_gguf_package(void **state) {
    gguf *g = NULL;
    omni_error err;
    assert_int_equal(gguf_open(TEST_DATA "/gguf/q8_0.gguf", &g, &err), OMNI_OK);
    const tensor *values = gguf_tensor(g, "values"), *stored = gguf_tensor(g, "stored"), *read = gguf_tensor(g, "read");
    size_t n = values->size / 4;
    uint8_t *q = malloc(stored->size);
    float *x = malloc(n * sizeof *x);
    dtype_from_f32(DTYPE_Q8_0, values->data, q, (int64_t)n);
    assert_memory_equal(q, stored->data, stored->size);
    dtype_to_f32(DTYPE_Q8_0, stored->data, x, (int64_t)n);
    assert_memory_equal(x, read->data, read->size);

    const tensor *floats = gguf_tensor(g, "floats");
    n = floats->size / 4;
    dtype_from_f32(DTYPE_F16, floats->data, q, (int64_t)n);
    assert_memory_equal(q, gguf_tensor(g, "as_f16")->data, 2 * n);
    dtype_from_f32(DTYPE_BF16, floats->data, q, (int64_t)n);
    assert_memory_equal(q, gguf_tensor(g, "as_bf16")->data, 2 * n);
    free(x);
    free(q);
    gguf_close(g);
}

/* Rows from a file may lie at any address. */
static void rows_convert_at_any_address(void **state) {
    static const dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
    float in[96], out[96];
    uint8_t bytes[96 * 4 + 8];
    for (int i = 0; i < 96; i++) {
        in[i] = (float)(i - 40) * 0.25f; /* exact in all but Q8_0 */
    }
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (int shift = 0; shift < 4; shift++) {
            dtype_from_f32(types[t], in, bytes + shift, 96);
            dtype_to_f32(types[t], bytes + shift, out, 96);
            for (int i = 0; i < 96; i++) {
                assert_true(fabsf(in[i] - out[i]) <= (types[t] == DTYPE_Q8_0 ? 0.06f : 0));
            }
        }
    }
}

static void a_block_with_a_nan_or_infinity_reads_as_nan(void **state) {
    float x[64], y[64];
    uint8_t q[68];
    for (int bad = 0; bad < 2; bad++) {
        for (int i = 0; i < 64; i++) {
            x[i] = 1;
        }
        x[5] = bad ? NAN : -INFINITY;
        dtype_from_f32(DTYPE_Q8_0, x, q, 64);
        dtype_to_f32(DTYPE_Q8_0, q, y, 64);
        assert_true(isnan(y[0]) && isnan(y[5]) && isnan(y[31]));
        assert_true(fabsf(y[32] - 1) < 1e-3f);
    }
}

static void types_are_found_by_number_and_name(void **state) {
    dtype type;
    assert_string_equal(dtype_find(DTYPE_Q8_0)->name, "Q8_0");
    assert_null(dtype_find(4));
    assert_null(dtype_find(DTYPE_COUNT));
    assert_null(dtype_find(UINT32_MAX));
    assert_true(dtype_by_name("q8_0", &type) && type == DTYPE_Q8_0);
    assert_true(dtype_by_name("bF16", &type) && type == DTYPE_BF16);
    assert_false(dtype_by_name("q8", &type) || dtype_by_name("", &type));
    assert_true(dtype_computable(DTYPE_F16) && dtype_computable(DTYPE_Q4_K) && !dtype_computable(DTYPE_IQ2_S) && !dtype_computable(5));
    assert_int_equal(dtype_row_bytes(DTYPE_Q8_0, 96), 102);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_K, 512), 288);
    float x[2] = {0, 0};
    dtype_to_f32(DTYPE_IQ2_S, "", x, 2);
    assert_true(isnan(x[0]) && isnan(x[1]));
}

static void a_slice_is_one_expert(void **state) {
    uint8_t bytes[3 * 2 * 34] = {0};
    tensor t = {.name = "experts", .type = DTYPE_Q8_0, .n_dims = 3, .ne = {32, 2, 3, 1}, .size = sizeof bytes, .data = bytes};
    for (int i = 0; i < 3; i++) {
        tensor s = tensor_slice(&t, i);
        assert_ptr_equal(s.data, bytes + i * 68);
        assert_int_equal(s.size, 68);
        assert_int_equal(s.n_dims, 2);
        assert_int_equal(tensor_rows(&s), 2);
        assert_ptr_equal(tensor_row(&s, 1), bytes + i * 68 + 34);
    }
    assert_int_equal(tensor_rows(&t), 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_convert_exactly_and_return),  cmocka_unit_test(rounding_to_half_is_to_nearest_even),
        cmocka_unit_test(bfloats_convert_exactly_and_return), cmocka_unit_test(conversions_agree_with_the_gguf_package),
        cmocka_unit_test(rows_convert_at_any_address),        cmocka_unit_test(a_block_with_a_nan_or_infinity_reads_as_nan),
        cmocka_unit_test(types_are_found_by_number_and_name), cmocka_unit_test(a_slice_is_one_expert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
