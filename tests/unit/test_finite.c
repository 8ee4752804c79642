/* The search for values that are not finite, against a look at every decoded value. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the others */
#include <cmocka.h>

#include "tensor/finite.h"

enum { N = 5120 };

static uint32_t state = 1;

static uint8_t random_byte(void) {
    state = state * 1664525U + 1013904223U;
    return (uint8_t)(state >> 24);
}

static int64_t first_by_looking(dtype type, const void *in, int64_t n) {
    static float values[N];
    dtype_to_f32(type, in, values, n);
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            return i;
        }
    }
    return -1;
}

/* Random bytes, which have such values in every type now and then, at any address, of any length. */
static void every_type(__attribute__((unused)) void **unused) {
    static uint8_t bytes[N * 4 + 8];
    for (uint32_t type = 0; type < DTYPE_COUNT; type++) {
        if (!dtype_computable(type)) {
            continue;
        }
        const dtype_info *info = dtype_find(type);
        int found = 0, rounds = 0;
        for (; rounds < 400; rounds++) {
            const int64_t n = (1 + random_byte() % (N / info->block)) * info->block;
            uint8_t *at = bytes + rounds % 8;
            for (size_t i = 0; i < (size_t)(n / info->block) * info->bytes; i++) {
                at[i] = rounds % 4 ? random_byte() & 0x3b : random_byte(); /* the former has none: the highest bit of exponents is not set */
            }
            if (rounds % 4 == 2) { /* one block that may have */
                const size_t block = (size_t)(random_byte() % (n / info->block)) * info->bytes;
                for (size_t i = 0; i < info->bytes; i++) {
                    at[block + i] = random_byte() | 0x7c;
                }
            }
            const int64_t want = first_by_looking((dtype)type, at, n);
            assert_int_equal(find_not_finite((dtype)type, at, n), want);
            found += want >= 0;
        }
        if (found <= 30 || found >= rounds - 50) {
            fail_msg("%s: %d of %d rounds", info->name, found, rounds);
        }
    }
}

static void every_place(__attribute__((unused)) void **unused) {
    static float x[1600];
    static double d[16];
    for (int i = 0; i < 1600; i++) {
        x[i] = i % 2 ? 3.4028234e38F : -1e-45F;
    }
    assert_int_equal(find_not_finite(DTYPE_F32, x, 1600), -1);
    assert_int_equal(find_not_finite(DTYPE_F32, x, 0), -1);
    for (int i = 0; i < 1600; i++) {
        const float kept = x[i];
        x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
        assert_int_equal(find_not_finite(DTYPE_F32, x, 1600), i);
        assert_int_equal(find_not_finite(DTYPE_F32, x, i), -1);
        x[i] = kept;
    }
    d[7] = NAN;
    assert_int_equal(find_not_finite(DTYPE_F64, d, 16), 7);
    assert_int_equal(find_not_finite(DTYPE_F64, d, 7), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_type), cmocka_unit_test(every_place)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
