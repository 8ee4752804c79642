/* Which matrices are rounded to Q8_0 as they are loaded (weights_linear_like): a float one among quantised ones, whose rows are no whole blocks,
 * where the backend asks for it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "cpu/cpu.h"
#include "gguf/gguf.h"
#include "model/weights.h"
#include "scratch.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { IN = 40, WHOLE = 64, OUT = 16 };

static omni_error err;
static float values[WHOLE * OUT];

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static gguf *open_file(void) {
    gguf_writer *w;
    gguf *g;
    for (int i = 0; i < WHOLE * OUT; i++) {
        values[i] = (float)(i % 29 - 14) / 16;
    }
    must(gguf_writer_create(in_folder("m.gguf"), &w, &err));
    gguf_put_str(w, "general.architecture", "none");
    gguf_put_tensor(w, "short", DTYPE_F32, 2, (int64_t[]){IN, OUT});
    gguf_put_tensor(w, "whole", DTYPE_F32, 2, (int64_t[]){WHOLE, OUT});
    must(gguf_writer_begin(w, &err));
    must(gguf_writer_data(w, 0, 0, values, IN * OUT * sizeof *values, &err));
    must(gguf_writer_data(w, 1, 0, values, WHOLE * OUT * sizeof *values, &err));
    must(gguf_writer_finish(w, &err));
    must(gguf_open(in_folder("m.gguf"), &g, &err));
    return g;
}

static void float_matrices_among_quantised_ones(void **state) {
    static const struct {
        bool rounds;
        dtype like;
        const char *name;
        int64_t in;
        dtype want;
    } cases[] = {
        {true, DTYPE_Q8_0, "short", IN, DTYPE_Q8_0},   {true, DTYPE_Q4_K, "short", IN, DTYPE_Q8_0}, {true, DTYPE_F16, "short", IN, DTYPE_F32},
        {true, DTYPE_Q8_0, "whole", WHOLE, DTYPE_F32}, {false, DTYPE_Q8_0, "short", IN, DTYPE_F32},
    };
    gguf *g = open_file();
    backend *b;
    must(cpu_backend_create(1, &b, &err));
    assert_true(b->rounds_floats);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weights w;
        tensor t;
        float x[WHOLE], y[OUT];
        for (int k = 0; k < WHOLE; k++) {
            x[k] = (float)(k % 7 - 3);
        }
        b->rounds_floats = cases[i].rounds;
        weights_init(&w, b, g);
        must(weights_linear_like(&w, cases[i].like, &t, &err, cases[i].in, OUT, cases[i].name));
        assert_int_equal(t.type, cases[i].want);
        assert_int_equal(t.ne[0], cases[i].in);
        b->ops->linear(b, &t, NULL, x, 1, WHOLE, y, OUT);
        for (int o = 0; o < OUT; o++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < cases[i].in; k++) {
                sum += (double)x[k] * values[o * cases[i].in + k];
                size += fabs((double)x[k] * values[o * cases[i].in + k]);
            }
            assert_true(fabs(y[o] - sum) < (t.type == DTYPE_F32 ? 1e-5 : 1e-2) * size);
        }
        weights_free(&w);
    }
    cpu_backend_keep_rows(b, true);
    assert_false(b->rounds_floats);
    cpu_backend_destroy(b);
    gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(float_matrices_among_quantised_ones)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
