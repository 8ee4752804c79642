/* Which matrices are rounded to Q8_0 as they are loaded: a float one among quantised ones, whose rows are no whole blocks (weights_linear_like),
 * and code2wav's convolutions (weights_place_rounded), where the backend asks for it. */
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

enum { CHANNELS = 40, TAPS = 3, OUTS = 18, ROWS = 150, DILATION = 9, PAST = (TAPS - 1) * DILATION };

/* y[row, o] of a dilated convolution of x, and the sum of the magnitudes of its products. */
static double convolved(const float *w, const float *x, int64_t row, int64_t o, int64_t dilation, double *size) {
    double sum = 0;
    *size = 0;
    for (int64_t k = 0; k < TAPS; k++) {
        for (int64_t c = 0; c < CHANNELS; c++) {
            const double product = (double)w[(o * TAPS + k) * CHANNELS + c] * x[(row + k * dilation) * CHANNELS + c];
            sum += product;
            *size += fabs(product);
        }
    }
    return sum;
}

/* Rounded convolutions of every dilation give about what the file's values give, a row at a time the same bits; others stay as they are. */
static void rounded_convolutions(void **state) {
    static float w[CHANNELS * TAPS * OUTS], x[(ROWS + PAST) * CHANNELS], y[ROWS * OUTS], one[OUTS];
    backend *b;
    must(cpu_backend_create(2, &b, &err));
    for (int i = 0; i < CHANNELS * TAPS * OUTS; i++) {
        w[i] = (float)(i % 31 - 15) / 16;
    }
    for (int i = 0; i < (ROWS + PAST) * CHANNELS; i++) {
        x[i] = (float)(i % 23 - 11) / (float)(1 + i / CHANNELS % 5);
    }
    gguf_writer *writer;
    gguf *g;
    must(gguf_writer_create(in_folder("c.gguf"), &writer, &err));
    gguf_put_str(writer, "general.architecture", "none");
    gguf_put_tensor(writer, "w", DTYPE_F32, 3, (int64_t[]){CHANNELS, TAPS, OUTS});
    must(gguf_writer_begin(writer, &err));
    must(gguf_writer_data(writer, 0, 0, w, sizeof w, &err));
    must(gguf_writer_finish(writer, &err));
    must(gguf_open(in_folder("c.gguf"), &g, &err));
    const dtype likes[] = {DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_F16, DTYPE_F32};
    for (int i = 0; i < 4; i++) {
        weights held;
        tensor t;
        weights_init(&held, b, g);
        must(weights_stored(&held, &t, &err, 3, (int64_t[]){CHANNELS, TAPS, OUTS}, "w"));
        must(weights_place_rounded(&held, likes[i], &t, &err));
        assert_int_equal(t.type, i < 2 ? DTYPE_Q8_0 : DTYPE_F32);
        assert_int_equal(t.ne[0], CHANNELS);
        for (int64_t dilation = 1; dilation <= DILATION; dilation++) {
            b->ops->conv1d(b, &t, NULL, x, ROWS, dilation, y);
            for (int64_t r = 0; r < ROWS; r++) {
                for (int64_t o = 0; o < OUTS; o++) {
                    double size, want = convolved(w, x, r, o, dilation, &size);
                    assert_true(fabs(y[r * OUTS + o] - want) < (i < 2 ? 1e-2 : 1e-5) * size);
                }
                b->ops->conv1d(b, &t, NULL, x + r * CHANNELS, 1, dilation, one);
                assert_memory_equal(one, y + r * OUTS, sizeof one);
            }
        }
        weights_free(&held);
    }
    cpu_backend_destroy(b);
    gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(float_matrices_among_quantised_ones), cmocka_unit_test(rounded_convolutions)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
