/* Log-mel features against transformers' WhisperFeatureExtractor (tests/reference/make_audio_vectors.py). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/safetensors.h"
#include "media/mel.h"
#include "media/sound.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define AUDIO TEST_DATA "/audio/"

static const mel_config release = {.rate = 16000, .n_fft = 400, .hop = 160, .bins = 128};

typedef struct fixture {
    safetensors *vectors;
    sound speech;
} fixture;

static int set_up(void **state) {
    static fixture f;
    omni_error err;
    assert_int_equal(safetensors_open_file(AUDIO "vectors.safetensors", &f.vectors, &err), OMNI_OK);
    assert_int_equal(sound_load(AUDIO "speech16.wav", NULL, &f.speech, &err), OMNI_OK);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    safetensors_close(f->vectors);
    sound_free(&f->speech);
    return 0;
}

/* Compares n sounds under a config with the vector of that name, and the mask with mask_name unless NULL. */
static void compare(const fixture *f, const mel_config *config, const mel_sound *sounds, int n, const char *name, const char *mask_name) {
    omni_error err;
    mel *m;
    assert_int_equal(mel_create(config, &m, &err), OMNI_OK);
    mel_clip clips[4];
    int64_t frames;
    assert_int_equal(mel_run(m, sounds, n, 0, clips, &frames, &err), OMNI_OK);
    const st_tensor *want = safetensors_find(f->vectors, name);
    assert_non_null(want);
    assert_int_equal(want->shape[0], n);
    assert_int_equal(want->shape[1], config->bins);
    assert_int_equal(want->shape[2], frames);
    float *features = malloc((size_t)(n * config->bins * frames) * sizeof(float));
    int64_t *mask = malloc((size_t)(n * frames) * sizeof(int64_t));
    assert_true(features && mask);
    mel_features(m, clips, n, frames, features, mask);
    float worst = 0;
    for (int64_t i = 0; i < n * config->bins * frames; i++) {
        worst = fmaxf(worst, fabsf(features[i] - ((const float *)want->data)[i]));
    }
    if (!(worst < 1e-4f)) { /* the reference computes in float32: its own rounding is the larger part */
        fail_msg("%s: largest difference %g", name, worst);
    }
    if (mask_name) {
        const st_tensor *want_mask = safetensors_find(f->vectors, mask_name);
        assert_non_null(want_mask);
        for (int64_t i = 0; i < n * frames; i++) {
            assert_int_equal(mask[i], (int64_t)((const float *)want_mask->data)[i]);
        }
    }
    free(features);
    free(mask);
    mel_clips_free(clips, n);
    mel_free(m);
}

static void test_equals_the_reference(void **state) {
    const fixture *f = *state;
    const mel_sound pair[] = {{f->speech.samples, f->speech.count}, {f->speech.samples, 4961}};
    compare(f, &release, pair, 2, "pair.features", "pair.mask");
    compare(f, &release, pair + 1, 1, "alone.features", NULL);
}

/* Lengths at the edges of windows and hops, alone and together (tests/reference/make_mel_vectors.py). */
static void test_edges(void **state) {
    omni_error err;
    safetensors *edges;
    assert_int_equal(safetensors_open_file(AUDIO "edges.safetensors", &edges, &err), OMNI_OK);
    static const int calls[][4] = {{201},      {239},      {240},      {241},      {319},         {320},           {321},
                                   {399},      {400},      {401},      {479},      {480},         {481},           {639},
                                   {640},      {641},      {799},      {800},      {801},         {201, 1},        {400, 199},
                                   {199, 400}, {200, 401}, {400, 160}, {161, 401}, {481, 1, 320}, {640, 639, 641}, {1, 2, 3, 1000}};
    static float samples[4][1000];
    for (int which = 0; which < 4; which++) {
        for (int i = 0; i < 1000; i++) {
            samples[which][i] = (float)((i * (7919 + 2 * which) + 31) % 2003) / 2003.0f - 0.5f;
        }
    }
    for (size_t k = 0; k < sizeof calls / sizeof *calls; k++) {
        mel_sound sounds[4];
        char name[64], mask[80];
        int n = 0, used = 0;
        for (; n < 4 && calls[k][n] > 0; n++) {
            sounds[n] = (mel_sound){samples[n], calls[k][n]};
            used += snprintf(name + used, sizeof name - (size_t)used, n ? ",%d" : "%d", calls[k][n]);
        }
        snprintf(mask, sizeof mask, "%s.mask", name);
        compare(&(fixture){.vectors = edges}, &release, sounds, n, name, mask);
    }
    safetensors_close(edges);
}

static void test_other_windows(void **state) {
    const fixture *f = *state;
    const mel_sound alone = {f->speech.samples, 4961};
    /* 399 = 3 * 7 * 19 and 264 = 8 * 3 * 11: every kind of step of the transform */
    compare(f, &(mel_config){.rate = 16000, .n_fft = 399, .hop = 200, .bins = 40}, &alone, 1, "odd.features", NULL);
    compare(f, &(mel_config){.rate = 16000, .n_fft = 264, .hop = 132, .bins = 20}, &alone, 1, "even.features", NULL);
}

/* The power of a cosine in the middle of bin k of a Hann window is known: every window length must find it there. One mel filter
 * per config would hide it, so a direct sum over the definition is compared instead. */
static void test_any_window_length(void **state) {
    for (int n_fft = 2; n_fft < 140; n_fft++) {
        const mel_config config = {.rate = 16000, .n_fft = n_fft, .hop = n_fft, .bins = 7};
        omni_error err;
        mel *m;
        assert_int_equal(mel_create(&config, &m, &err), OMNI_OK);
        float x[140 * 3];
        for (int i = 0; i < 3 * n_fft; i++) {
            x[i] = (float)((i * 7919 + 31) % 1009) / 1009.0f - 0.4f;
        }
        mel_clip clip;
        int64_t frames;
        assert_int_equal(mel_run(m, &(mel_sound){x, 3 * n_fft}, 1, 0, &clip, &frames, &err), OMNI_OK);
        assert_int_equal(frames, 3);
        /* frame 1 covers n_fft - n_fft / 2 .. : no reflection */
        double largest = -10, mine[7];
        for (int64_t t = 0; t < frames; t++) {
            double power[71];
            for (int k = 0; k <= n_fft / 2; k++) {
                double re = 0, im = 0;
                for (int i = 0; i < n_fft; i++) {
                    int64_t at = t * n_fft - n_fft / 2 + i;
                    at = at < 0 ? -at : at;
                    at = at >= 3 * n_fft ? 2 * (3 * n_fft - 1) - at : at;
                    const double a = 2 * M_PI * k * i / n_fft, w = (float)(0.5 - 0.5 * cos(2 * M_PI * i / n_fft));
                    re += x[at] * w * cos(a);
                    im -= x[at] * w * sin(a);
                }
                power[k] = re * re + im * im;
            }
            for (int j = 0; j < 7; j++) {
                double edge[3], sum = 0;
                for (int e = 0; e < 3; e++) {
                    const double top = 15 + log(8.0) * 27 / log(6.4), mels = top * (j + e) / 8;
                    edge[e] = mels < 15 ? 200 * mels / 3 : 1000 * exp(log(6.4) / 27 * (mels - 15));
                }
                for (int k = 0; k <= n_fft / 2; k++) {
                    const double hertz = 8000.0 * k / (n_fft / 2);
                    const double up = (hertz - edge[0]) / (edge[1] - edge[0]), down = (edge[2] - hertz) / (edge[2] - edge[1]);
                    sum += fmax(0, fmin(up, down)) * 2 / (edge[2] - edge[0]) * power[k];
                }
                const double value = log10(fmax(sum, 1e-10));
                largest = fmax(largest, value);
                if (t == 1) {
                    mine[j] = value;
                }
            }
        }
        for (int j = 0; j < 7; j++) {
            const double want = (fmax(mine[j], largest - 8) + 4) / 4;
            if (!(fabs(clip.values[config.bins + j] - want) < 2e-6)) {
                fail_msg("window of %d, bin %d: %.8f, by definition %.8f", n_fft, j, (double)clip.values[config.bins + j], want);
            }
        }
        mel_clips_free(&clip, 1);
        mel_free(m);
    }
}

static void test_silence(void **state) {
    static const float zeros[1000];
    omni_error err;
    mel *m;
    assert_int_equal(mel_create(&release, &m, &err), OMNI_OK);
    mel_clip clip;
    int64_t frames;
    assert_int_equal(mel_run(m, &(mel_sound){zeros, 1000}, 1, 0, &clip, &frames, &err), OMNI_OK);
    assert_int_equal(frames, 6);
    for (int i = 0; i < 6 * 128; i++) {
        assert_true(clip.values[i] == -1.5f);
    }
    mel_clips_free(&clip, 1);
    mel_free(m);
}

static void test_frame_counts(void **state) {
    static const float zeros[1000];
    omni_error err;
    mel *m;
    assert_int_equal(mel_create(&release, &m, &err), OMNI_OK);
    assert_int_equal(mel_shortest(m), 201);
    mel_clip clips[3];
    int64_t frames;
    /* alone, a last partial hop is lost; beside a longer sound it counts */
    const mel_sound three[] = {{zeros, 999}, {zeros, 481}, {zeros, 1}};
    assert_int_equal(mel_run(m, three, 3, 0, clips, &frames, &err), OMNI_OK);
    assert_int_equal(frames, 6);
    assert_int_equal(clips[0].frames, 6);
    assert_int_equal(clips[1].frames, 4);
    assert_int_equal(clips[2].frames, 1);
    mel_clips_free(clips, 3);
    assert_int_equal(mel_run(m, three + 1, 1, 0, clips, &frames, &err), OMNI_OK);
    assert_int_equal(clips[0].frames, 3);
    mel_clips_free(clips, 1);
    mel_free(m);
}

/* A sound alone, told how long the longest of its call was, gives the bits that it gives in that call; from some length on it does not matter. */
static void test_longest_elsewhere(void **state) {
    enum { N = 6 };
    static const int64_t counts[N] = {4000, 3999, 3700, 481, 160, 1};
    static float samples[4000];
    omni_error err;
    mel *m;
    for (int i = 0; i < 4000; i++) {
        samples[i] = (float)((uint32_t)i * 2654435761u >> 16) / 65536.0f - 0.5f;
    }
    assert_int_equal(mel_create(&release, &m, &err), OMNI_OK);
    mel_sound sounds[N];
    mel_clip together[N], alone;
    int64_t frames, own;
    for (int i = 0; i < N; i++) {
        sounds[i] = (mel_sound){samples, counts[i]};
    }
    assert_int_equal(mel_run(m, sounds, N, 0, together, &frames, &err), OMNI_OK);
    for (int i = 0; i < N; i++) {
        const int64_t enough = mel_longest(m, counts[i]);
        for (int way = 0; way < 2; way++) {
            if (way == 1 && enough > 4000) {
                continue; /* the call's longest is not that long */
            }
            assert_int_equal(mel_run(m, &sounds[i], 1, way ? enough : 4000, &alone, &own, &err), OMNI_OK);
            assert_int_equal(mel_frames(m, counts[i], way ? enough : 4000), alone.frames);
            assert_int_equal(alone.frames, together[i].frames);
            assert_true(alone.rest == together[i].rest);
            const int64_t both = alone.stored < together[i].stored ? alone.stored : together[i].stored;
            assert_true(both >= alone.frames);
            assert_memory_equal(alone.values, together[i].values, (size_t)(both * release.bins) * sizeof(float));
            mel_clips_free(&alone, 1);
        }
    }
    mel_clips_free(together, N);
    mel_free(m);
}

static void test_refusals(void **state) {
    static const float zeros[300];
    omni_error err;
    mel *m;
    assert_int_equal(mel_create(&release, &m, &err), OMNI_OK);
    mel_clip clips[2];
    int64_t frames;
    assert_int_equal(mel_run(m, &(mel_sound){zeros, 200}, 1, 0, clips, &frames, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "201"));
    assert_int_equal(mel_run(m, (mel_sound[]){{zeros, 300}, {zeros, 0}}, 2, 0, clips, &frames, &err), OMNI_ERR_ARGUMENT);
    assert_null(clips[0].values);
    mel_free(m);
    const mel_config wrong[] = {{16000, 1, 1, 8},     {16000, 400, 0, 8}, {16000, 400, 401, 8},
                                {16000, 400, 160, 0}, {0, 400, 160, 8},   {16000, 1 << 20, 160, 8}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(mel_create(&wrong[i], &m, &err), OMNI_ERR_FORMAT);
        assert_null(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_reference), cmocka_unit_test(test_edges),    cmocka_unit_test(test_other_windows),
        cmocka_unit_test(test_any_window_length),    cmocka_unit_test(test_silence),  cmocka_unit_test(test_frame_counts),
        cmocka_unit_test(test_longest_elsewhere),    cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("mel", tests, set_up, tear_down);
}
