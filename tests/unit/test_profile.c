/* The profile counts what passes through a backend, changes no result, and leaves the backend as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "tensor/profile.h"

#include <cmocka.h>

static void test_counts(void **state) {
    enum { IN = 64, OUT = 16, ROWS = 3 };
    omni_error err = {0};
    backend *b;
    assert_int_equal(cpu_backend_create(1, &b, &err), OMNI_OK);
    const ops *own = b->ops;
    float weights[OUT * IN], x[ROWS * IN], plain[ROWS * OUT], noted[ROWS * OUT];
    for (int i = 0; i < OUT * IN; i++) {
        weights[i] = (float)(i % 7) - 3;
    }
    for (int i = 0; i < ROWS * IN; i++) {
        x[i] = (float)(i % 5) - 2;
    }
    tensor w = {.name = "blk.3.attn_q.weight", .type = DTYPE_F32, .n_dims = 2, .ne = {IN, OUT, 1, 1}, .size = sizeof weights, .data = weights};
    tensor other = w;
    other.name = "blk.17.attn_q.weight";
    b->ops->linear(b, &w, NULL, x, ROWS, IN, plain, OUT);
    assert_int_equal(profile_install(b, &err), OMNI_OK);
    b->ops->linear(b, &w, NULL, x, ROWS, IN, noted, OUT);
    b->ops->linear(b, &other, NULL, x, ROWS, IN, noted, OUT);
    assert_memory_equal(plain, noted, sizeof plain);
    profile_pause(b);
    assert_ptr_equal(b->ops, own);
    b->ops->linear(b, &w, NULL, x, ROWS, IN, noted, OUT);
    profile_resume(b);

    profile_entry total = profile_total(b->profile);
    assert_int_equal(total.calls, 2);
    assert_true(total.flops == 2.0 * 2 * ROWS * IN * OUT);
    assert_true(total.bytes == 2.0 * (sizeof weights + 4 * ROWS * (IN + OUT)));
    assert_true(total.seconds > 0);
    char *text = profile_text(b->profile);
    assert_non_null(strstr(text, "linear blk.attn_q ")); /* layers are counted together */
    assert_null(strstr(text, "blk.17"));
    free(text);
    profile_clear(b->profile);
    assert_int_equal(profile_total(b->profile).calls, 0);
    profile_remove(b);
    assert_ptr_equal(b->ops, own);
    assert_null(b->profile);
    cpu_backend_destroy(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
