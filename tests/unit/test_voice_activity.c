/* Voice activity: the places of a voice between pauses, noise and clicks that are none, pieces of any size, parameters. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "media/sound.h"
#include "media/voice_activity.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const double PI = 3.14159265358979323846;

enum { SECONDS = 8, MOST = 64 };

typedef struct told {
    voice_activity_event events[MOST];
    int n;
} told;

static void note(void *context, const voice_activity_event *event) {
    told *t = context;
    assert_true(t->n < MOST);
    t->events[t->n++] = *event;
}

static voice_activity *detector(int rate) {
    const voice_activity_params params = {.rate = rate, .threshold = 0.5, .padding_ms = 100, .silence_ms = 500};
    voice_activity *v = NULL;
    omni_error err;
    assert_int_equal(voice_activity_new(&params, &v, &err), OMNI_OK);
    return v;
}

/* Uniform noise in [-1, 1). */
static float noise(uint32_t *state) {
    *state = *state * 1664525 + 1013904223;
    return (float)(*state >> 8) / (1 << 23) - 1;
}

/* A voice at 120 Hz that comes and goes four times a second, from 2 s to 3.5 s and from 5.5 s to 7 s, in white noise,
 * 50 Hz hum with its harmonics, and clicks of 2.5 ms three times a second. */
static float *voice_in_noise(int rate, float voice, float hiss, float hum, float clicks) {
    float *samples = malloc(sizeof(float) * SECONDS * (size_t)rate);
    assert_non_null(samples);
    uint32_t state = 1;
    for (int i = 0; i < SECONDS * rate; i++) {
        const double t = (double)i / rate;
        double value = 0;
        if ((t >= 2 && t < 3.5) || (t >= 5.5 && t < 7)) {
            for (int h = 1; h <= 20; h++) {
                value += sin(2 * PI * 120 * h * t + h * h) / h;
            }
            value *= 0.6 + 0.4 * sin(2 * PI * 4 * t);
        }
        double humming = 0;
        for (int h = 1; h <= 8; h++) {
            humming += sin(2 * PI * 50 * h * t + h) / h;
        }
        const bool click = i % (rate / 3) < rate / 400;
        samples[i] = voice * (float)value + hiss * noise(&state) + hum * (float)humming + (click ? clicks * noise(&state) : 0);
    }
    return samples;
}

static void assert_near(int64_t position, double seconds, int rate, double tolerance) {
    if (!(fabs((double)position / rate - seconds) <= tolerance)) {
        fail_msg("at %.3f s, not within %.2f s of %.3f s", (double)position / rate, tolerance, seconds);
    }
}

static void finds_voice(void **test_state) {
    (void)test_state;
    /* What is with the voice, whose power is about 0.35 times the square of its amplitude: nothing; noise (power: a third of its amplitude's square)
     * 20 and 10 dB below it, hum 20 and 10 dB below it, clicks louder than it. */
    static const float with[][3] = {{0, 0, 0}, {0.02F, 0, 0}, {0.06F, 0, 0}, {0, 0.013F, 0}, {0, 0.04F, 0}, {0.001F, 0, 0.8F}};
    for (int rate = 16000; rate <= 24000; rate += 8000) {
        for (size_t k = 0; k < sizeof with / sizeof *with; k++) {
            float *samples = voice_in_noise(rate, 0.2F, with[k][0], with[k][1], with[k][2]);
            voice_activity *v = detector(rate);
            told t = {.n = 0};
            voice_activity_push(v, samples, (size_t)(SECONDS * rate), note, &t);
            assert_int_equal(t.n, 4);
            static const double places[] = {1.9, 3.5, 5.4, 7}; /* beginnings less the padding */
            for (int i = 0; i < 4; i++) {
                assert_int_equal(t.events[i].kind, i % 2 ? SPEECH_STOPPED : SPEECH_STARTED);
                assert_near(t.events[i].position, places[i], rate, 0.1);
                assert_near(t.events[i].decided, i % 2 ? places[i] + 0.5 : places[i] + 0.25, rate, 0.15);
            }
            voice_activity_free(v);
            free(samples);
        }
    }
}

/* Silence, steady noise from the first sample on, noise that sets in, clicks twice a second. */
static void leaves_alone_what_is_no_voice(void **test_state) {
    (void)test_state;
    const int rate = 16000;
    float *samples = malloc(sizeof(float) * SECONDS * (size_t)rate);
    assert_non_null(samples);
    for (int kind = 0; kind < 4; kind++) {
        uint32_t state = 2;
        for (int i = 0; i < SECONDS * rate; i++) {
            const float value = noise(&state);
            samples[i] = kind == 0   ? 0
                         : kind == 1 ? 0.1F * value
                         : kind == 2 ? (i < 3 * rate ? 0.001F : 0.2F) * value
                                     : (i % (rate / 2) < 32 ? 0.9F : 0.001F) * value;
        }
        voice_activity *v = detector(rate);
        told t = {.n = 0};
        voice_activity_push(v, samples, (size_t)(SECONDS * rate), note, &t);
        assert_int_equal(t.n, 0);
        voice_activity_free(v);
    }
    free(samples);
}

/* The question is 1.82 s long; ffmpeg -af silencedetect=n=-40dB:d=0.1 hears silence from 1.51 s on. */
static void finds_speech_of_a_file(void **test_state) {
    (void)test_state;
    sound s;
    omni_error err;
    const sound_options options = {.rate = 16000};
    assert_int_equal(sound_load(TEST_DATA "/../../models/media/question.ogg", &options, &s, &err), OMNI_OK);
    voice_activity *v = detector(16000);
    told t = {.n = 0};
    voice_activity_push(v, s.samples, (size_t)s.count, note, &t);
    const float silence[16000] = {0};
    voice_activity_push(v, silence, 16000, note, &t);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.events[0].kind, SPEECH_STARTED);
    assert_int_equal(t.events[0].position, 0);
    assert_int_equal(t.events[1].kind, SPEECH_STOPPED);
    assert_near(t.events[1].position, 1.514, 16000, 0.1);
    voice_activity_free(v);
    sound_free(&s);
}

static void pieces_do_not_matter(void **test_state) {
    (void)test_state;
    const int rate = 24000, n = SECONDS * rate;
    float *samples = voice_in_noise(rate, 0.2F, 0.06F, 0, 0);
    samples[100] = NAN;
    samples[200] = INFINITY;
    samples[300] = -1e30F;
    voice_activity *v = detector(rate);
    told whole = {.n = 0};
    voice_activity_push(v, samples, (size_t)n, note, &whole);
    assert_int_equal(whole.n, 4);
    static const int sizes[] = {1, 7, 239, 240, 241, 4800, 100000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        voice_activity_reset(v);
        told t = {.n = 0};
        for (int i = 0; i < n; i += sizes[k]) {
            voice_activity_push(v, samples + i, (size_t)(i + sizes[k] < n ? sizes[k] : n - i), note, &t);
        }
        assert_int_equal(t.n, whole.n);
        for (int i = 0; i < t.n; i++) {
            assert_int_equal(t.events[i].kind, whole.events[i].kind);
            assert_int_equal(t.events[i].position, whole.events[i].position);
            assert_int_equal(t.events[i].decided, whole.events[i].decided);
        }
    }
    voice_activity_free(v);
    free(samples);
}

static void refuses_parameters(void **test_state) {
    (void)test_state;
    static const voice_activity_params wrong[] = {{8000, 0.5, 0, 500},   {16000, -0.1, 0, 500},    {16000, 1.1, 0, 500}, {16000, NAN, 0, 500},
                                                  {16000, 0.5, -1, 500}, {16000, 0.5, 60001, 500}, {16000, 0.5, 0, 9},   {16000, 0.5, 0, 60001}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        voice_activity *v = NULL;
        omni_error err;
        assert_int_equal(voice_activity_new(&wrong[i], &v, &err), OMNI_ERR_ARGUMENT);
        assert_null(v);
    }
    voice_activity_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_voice),
        cmocka_unit_test(leaves_alone_what_is_no_voice),
        cmocka_unit_test(finds_speech_of_a_file),
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(refuses_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
