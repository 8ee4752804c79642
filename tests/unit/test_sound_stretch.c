/* Another speed: the length follows, the pitch stays, whatever pieces the sound comes in. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "media/sound_stretch.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { RATE = 24000, SAMPLES = 3 * RATE, PITCH = 440 };

static float samples[SAMPLES];
static omni_error err;

typedef struct taken {
    float *samples;
    size_t count;
    bool refuse;
} taken;

static omni_status take(void *arg, const float *x, size_t count, omni_error *e) {
    taken *t = arg;
    if (t->refuse) {
        *e = (omni_error){.code = OMNI_ERR_IO};
        strcpy(e->text, "no");
        return OMNI_ERR_IO;
    }
    t->samples = realloc(t->samples, (t->count + count) * sizeof *x);
    assert_non_null(t->samples);
    memcpy(t->samples + t->count, x, count * sizeof *x);
    t->count += count;
    return OMNI_OK;
}

static taken stretch(double speed, unsigned seed) {
    taken t = {0};
    sound_stretch *s;
    assert_int_equal(sound_stretch_open(RATE, speed, &(sound_taker){take, &t}, &s, &err), OMNI_OK);
    for (size_t at = 0, n; at < SAMPLES; at += n) {
        n = seed ? (size_t)(rand_r(&seed) % (at % 3 ? 7 : 5000)) : SAMPLES;
        n = n < SAMPLES - at ? n : SAMPLES - at;
        assert_int_equal(sound_stretch_write(s, samples + at, n, &err), OMNI_OK);
    }
    assert_int_equal(sound_stretch_flush(s, &err), OMNI_OK);
    sound_stretch_free(s);
    return t;
}

/* How strong a tone is, on average over stretches of 50 ms: a Hann window and one term of a Fourier sum. Longer ones would ask for a steady phase. */
static double strength(const taken *t, double pitch) {
    enum { WINDOW = RATE / 20 };
    double sum = 0;
    int windows = 0;
    for (size_t from = t->count / 8; from + WINDOW <= t->count * 7 / 8; from += WINDOW, windows++) {
        double re = 0, im = 0;
        for (int i = 0; i < WINDOW; i++) {
            const double x = t->samples[from + (size_t)i] * (1 - cos(2 * M_PI * i / WINDOW));
            re += x * cos(2 * M_PI * pitch * i / RATE);
            im += x * sin(2 * M_PI * pitch * i / RATE);
        }
        sum += sqrt(re * re + im * im) * 2 / WINDOW;
    }
    assert_true(windows > 5);
    return sum / windows;
}

static const double speeds[] = {0.25, 0.3, 0.5, 0.8, 1.25, 2, 3.1, 4};
enum { SPEEDS = sizeof speeds / sizeof *speeds };

static void test_length_and_pitch(void **state) {
    for (int i = 0; i < SPEEDS; i++) {
        taken t = stretch(speeds[i], 0);
        const double expected = SAMPLES / speeds[i];
        if (fabs((double)t.count - expected) > 0.1 * RATE) {
            fail_msg("at speed %g: %zu samples, not %.0f", speeds[i], t.count, expected);
        }
        const double there = strength(&t, PITCH), moved = strength(&t, PITCH * speeds[i]);
        if (there < 0.4 || moved > 0.05) { /* of a tone of 0.5 */
            fail_msg("at speed %g: the tone has %g, its place at another pitch %g", speeds[i], there, moved);
        }
        for (size_t k = 0; k < t.count; k++) {
            assert_true(fabsf(t.samples[k]) < 0.6f);
        }
        free(t.samples);
    }
}

static void test_pieces(void **state) {
    for (int i = 0; i < SPEEDS; i++) {
        for (unsigned seed = 1; seed <= 3; seed++) {
            taken whole = stretch(speeds[i], 0), pieces = stretch(speeds[i], seed);
            assert_int_equal(whole.count, pieces.count);
            assert_memory_equal(whole.samples, pieces.samples, whole.count * sizeof(float));
            free(whole.samples);
            free(pieces.samples);
        }
    }
}

/* Sound comes out while it goes in: after a second, all but a tenth of one. */
static void test_at_once(void **state) {
    for (int i = 0; i < SPEEDS; i++) {
        taken t = {0};
        sound_stretch *s;
        assert_int_equal(sound_stretch_open(RATE, speeds[i], &(sound_taker){take, &t}, &s, &err), OMNI_OK);
        assert_int_equal(sound_stretch_write(s, samples, RATE, &err), OMNI_OK);
        if ((double)t.count * speeds[i] < 0.75 * RATE) {
            fail_msg("at speed %g: %zu samples", speeds[i], t.count);
        }
        sound_stretch_free(s);
        free(t.samples);
    }
}

static void test_edges(void **state) {
    taken t = {0};
    sound_stretch *s;
    static const double bad[] = {0, -1, 0.249, 4.001, INFINITY, NAN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sound_stretch_open(RATE, bad[i], &(sound_taker){take, &t}, &s, &err), OMNI_ERR_ARGUMENT);
        assert_null(s);
        assert_non_null(strstr(err.text, "speed"));
    }
    assert_int_equal(sound_stretch_open(0, 2, &(sound_taker){take, &t}, &s, &err), OMNI_ERR_ARGUMENT);
    for (int n = 0; n < 3; n++) { /* next to nothing */
        assert_int_equal(sound_stretch_open(RATE, 0.25, &(sound_taker){take, &t}, &s, &err), OMNI_OK);
        assert_int_equal(sound_stretch_write(s, samples, (size_t)n, &err), OMNI_OK);
        assert_int_equal(sound_stretch_flush(s, &err), OMNI_OK);
        sound_stretch_free(s);
    }
    assert_true(t.count < 100);
    t.refuse = true;
    assert_int_equal(sound_stretch_open(RATE, 2, &(sound_taker){take, &t}, &s, &err), OMNI_OK);
    assert_int_equal(sound_stretch_write(s, samples, RATE, &err), OMNI_ERR_IO);
    assert_string_equal(err.text, "no");
    sound_stretch_free(s);
    sound_stretch_free(NULL);
    free(t.samples);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_length_and_pitch), cmocka_unit_test(test_pieces), cmocka_unit_test(test_at_once),
                                       cmocka_unit_test(test_edges)};
    for (int i = 0; i < SAMPLES; i++) {
        samples[i] = (float)(0.5 * sin(2 * M_PI * PITCH * i / RATE));
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
