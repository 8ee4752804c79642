/* Cutting sounds at pauses: a voice that is made here, so that the right places are known. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "media/speech_segments.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { RATE = 16000 };

/* A voice at 120 Hz that comes and goes four times a second, from `from` to `to`. */
static void speak(float *samples, double from, double to) {
    for (int64_t i = (int64_t)(from * RATE); i < (int64_t)(to * RATE); i++) {
        const double t = (double)i / RATE;
        double value = 0;
        for (int h = 1; h <= 20; h++) {
            value += sin(2 * 3.14159265358979 * 120 * h * t + h * h) / h;
        }
        samples[i] += (float)(0.1 * value * (0.6 + 0.4 * sin(2 * 3.14159265358979 * 4 * t)));
    }
}

static float *quiet(double seconds) {
    const int64_t count = (int64_t)(seconds * RATE);
    float *samples = calloc((size_t)count, sizeof *samples);
    assert_non_null(samples);
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525 + 1013904223;
        samples[i] = 1e-4f * ((float)(state >> 8) / (1 << 23) - 1);
    }
    return samples;
}

static speech_segments find(const float *samples, double seconds, const speech_segments_params *p) {
    speech_segments s;
    omni_error err;
    assert_int_equal(speech_segments_find(samples, (int64_t)(seconds * RATE), RATE, p, NULL, &s, &err), OMNI_OK);
    int64_t at = 0;
    for (size_t i = 0; i < s.count; i++) {
        assert_true(s.list[i].from >= at && s.list[i].to > s.list[i].from && s.list[i].to <= (int64_t)(seconds * RATE));
        assert_true((double)(s.list[i].to - s.list[i].from) <= p->max_seconds * RATE);
        at = s.list[i].to;
    }
    return s;
}

static bool about(const speech_segment *s, double from, double to) {
    return fabs((double)s->from / RATE - from) < 0.35 && fabs((double)s->to / RATE - to) < 0.35 && s->heard;
}

static void test_pauses(void **state) {
    (void)state;
    speech_segments_params p = speech_segments_params_default();
    float *samples = quiet(20);
    speak(samples, 2, 4);
    speak(samples, 4.6, 6); /* a short pause */
    speak(samples, 9, 11);
    speak(samples, 17, 20); /* to the end */
    speech_segments s = find(samples, 20, &p);
    assert_int_equal(s.count, 3);
    assert_true(about(&s.list[0], 2, 6) && about(&s.list[1], 9, 11) && about(&s.list[2], 17, 20));
    speech_segments_free(&s);
    p.pause_ms = 400;
    s = find(samples, 20, &p);
    assert_int_equal(s.count, 4);
    assert_true(about(&s.list[0], 2, 4) && about(&s.list[1], 4.6, 6));
    speech_segments_free(&s);
    p.pause_ms = 5000;
    s = find(samples, 20, &p);
    assert_int_equal(s.count, 2);
    assert_true(about(&s.list[0], 2, 11));
    speech_segments_free(&s);
    p.max_seconds = 5; /* then the pauses are taken that there are */
    s = find(samples, 20, &p);
    assert_int_equal(s.count, 3);
    assert_true(about(&s.list[0], 2, 6) && about(&s.list[1], 9, 11));
    speech_segments_free(&s);
    free(samples);
}

/* Speech without a pause of 300 ms is cut where it is quietest. */
static void test_no_pause(void **state) {
    (void)state;
    speech_segments_params p = speech_segments_params_default();
    float *samples = quiet(70);
    speak(samples, 1, 27);
    speak(samples, 27.15, 69);
    const speech_segments s = find(samples, 70, &p);
    assert_int_equal(s.count, 3);
    assert_true(about(&s.list[0], 1, 27.07) && s.list[1].from == s.list[0].to && s.list[2].from == s.list[1].to &&
                about(&s.list[2], (double)s.list[2].from / RATE, 69));
    assert_true(s.list[0].to >= (int64_t)(27 * RATE) && s.list[0].to <= (int64_t)(27.15 * RATE));
    speech_segments_free(&(speech_segments){.list = s.list});
    free(samples);
}

static void test_nothing(void **state) {
    (void)state;
    speech_segments_params p = speech_segments_params_default();
    float *samples = quiet(31);
    speech_segments s = find(samples, 29.5, &p);
    assert_int_equal(s.count, 1); /* the model may hear what the detector does not */
    assert_true(s.list[0].from == 0 && s.list[0].to == (int64_t)(29.5 * RATE) && !s.list[0].heard);
    speech_segments_free(&s);
    s = find(samples, 31, &p);
    assert_int_equal(s.count, 0);
    speech_segments_free(&s);
    s = find(samples, 0, &p);
    assert_int_equal(s.count, 0);
    speech_segments_free(&s);
    free(samples);
}

static void test_refused(void **state) {
    (void)state;
    float samples[RATE] = {0};
    omni_error err;
    speech_segments s;
    _Atomic bool stop = true;
    speech_segments_params p = speech_segments_params_default();
    assert_int_equal(speech_segments_find(samples, RATE, RATE, &p, &stop, &s, &err), OMNI_CANCELLED);
    assert_int_equal(speech_segments_find(samples, RATE, 8000, &p, NULL, &s, &err), OMNI_ERR_ARGUMENT);
    p.max_seconds = 0.5;
    assert_int_equal(speech_segments_find(samples, RATE, RATE, &p, NULL, &s, &err), OMNI_ERR_ARGUMENT);
    p = speech_segments_params_default();
    p.pause_ms = 5;
    assert_int_equal(speech_segments_find(samples, RATE, RATE, &p, NULL, &s, &err), OMNI_ERR_ARGUMENT);
    p.pause_ms = 1000;
    p.threshold = NAN;
    assert_int_equal(speech_segments_find(samples, RATE, RATE, &p, NULL, &s, &err), OMNI_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pauses), cmocka_unit_test(test_no_pause), cmocka_unit_test(test_nothing),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
