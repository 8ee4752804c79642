/* Sound files of every kind against what librosa.load reads from them (tests/reference/make_audio_vectors.py). */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "gguf/safetensors.h"
#include "media/sound.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define AUDIO TEST_DATA "/audio/"

static const char *const files[] = {"s24.wav", "s16_22k.wav", "u8_8k.wav", "f32_11k.wav", "s24.flac", "a.mp3", "a.ogg",
                                    "a.opus",  "a.m4a",       "v.mp4",     "v.mov",       "v.webm",   "v.mkv"};
enum { FILES = sizeof files / sizeof *files, LOSSLESS = 5 };

static const char *path_of(const char *name, char path[512]) {
    snprintf(path, 512, AUDIO "%s", name);
    return path;
}

/* Lossless files equal bit for bit, others as near as two decoders of one stream are. */
static void test_equals_librosa(void **state) {
    omni_error err;
    safetensors *vectors;
    assert_int_equal(safetensors_open_file(AUDIO "sounds.safetensors", &vectors, &err), OMNI_OK);
    for (int f = 0; f < FILES; f++) {
        char path[512];
        const st_tensor *want = safetensors_find(vectors, files[f]);
        assert_non_null(want);
        sound s;
        assert_int_equal(sound_load(path_of(files[f], path), NULL, &s, &err), OMNI_OK);
        assert_int_equal(s.rate, 16000);
        const float *expected = want->data;
        float worst = 0;
        for (int64_t i = 0; i < s.count && i < want->shape[0]; i++) {
            worst = fmaxf(worst, fabsf(s.samples[i] - expected[i]));
        }
        if (s.count != want->shape[0] || !(worst <= (f < LOSSLESS ? 0 : 5e-5f))) {
            fail_msg("%s: %lld samples (librosa: %lld), largest difference %g", files[f], (long long)s.count, (long long)want->shape[0], worst);
        }
        sound_free(&s);
    }
    safetensors_close(vectors);
}

static void put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> 8 * i);
    }
}

/* A WAV file in memory: 16-bit samples i -> value(i), claimed bytes of data. */
static size_t make_wav(uint8_t *to, uint32_t rate, int channels, const int16_t *values, size_t n, uint32_t claimed) {
    memcpy(to, "RIFF....WAVEfmt ", 16);
    put32(to + 4, claimed > UINT32_MAX - 36 ? UINT32_MAX : claimed + 36);
    put32(to + 16, 16);
    put32(to + 20, 1 | (uint32_t)channels << 16);
    put32(to + 24, rate);
    put32(to + 28, rate * (uint32_t)channels * 2);
    put32(to + 32, (uint32_t)channels * 2 | 16u << 16);
    memcpy(to + 36, "data", 4);
    put32(to + 40, claimed);
    memcpy(to + 44, values, n * 2);
    return 44 + n * 2;
}

static void test_sixteen_bits_come_through_exactly(void **state) {
    static int16_t values[65536];
    static uint8_t wav[44 + 2 * 65536];
    for (int i = 0; i < 65536; i++) {
        values[i] = (int16_t)(i - 32768);
    }
    omni_error err;
    sound s;
    /* sizes as written, and as a pipe leaves them */
    const uint32_t claims[] = {2 * 65536, UINT32_MAX};
    for (int c = 0; c < 2; c++) {
        const size_t size = make_wav(wav, 16000, 1, values, 65536, claims[c]);
        assert_int_equal(sound_load_memory(wav, size, "all.wav", NULL, &s, &err), OMNI_OK);
        assert_int_equal(s.count, 65536);
        for (int i = 0; i < 65536; i++) {
            assert_true(s.samples[i] == (float)values[i] / 32768.0f);
        }
        sound_free(&s);
    }
}

static void test_channels_are_averaged_first(void **state) {
    int16_t values[6 * 500];
    uint8_t wav[44 + sizeof values];
    for (int i = 0; i < 6 * 500; i++) {
        values[i] = (int16_t)(i * 7919 % 60001 - 30000);
    }
    omni_error err;
    for (int channels = 1; channels <= 6; channels++) {
        const size_t size = make_wav(wav, 16000, channels, values, (size_t)channels * 500, (uint32_t)channels * 1000);
        sound s;
        assert_int_equal(sound_load_memory(wav, size, "some.wav", NULL, &s, &err), OMNI_OK);
        assert_int_equal(s.count, 500);
        for (int i = 0; i < 500; i++) {
            double mean = 0;
            for (int ch = 0; ch < channels; ch++) {
                mean += values[i * channels + ch] / 32768.0 / channels;
            }
            assert_true(fabs(s.samples[i] - mean) < 1e-6);
        }
        sound_free(&s);
    }
}

static void test_length_is_rounded_up(void **state) {
    int16_t values[1001] = {0};
    uint8_t wav[44 + sizeof values];
    omni_error err;
    sound s;
    const uint32_t rates[] = {8000, 11025, 22050, 44100, 48000, 96000};
    for (int r = 0; r < 6; r++) {
        const size_t size = make_wav(wav, rates[r], 1, values, 1001, 2002);
        assert_int_equal(sound_load_memory(wav, size, "some.wav", NULL, &s, &err), OMNI_OK);
        assert_int_equal(s.count, (int64_t)ceil(1001 * (16000.0 / rates[r])));
        sound_free(&s);
    }
    /* and another rate can be asked for */
    const size_t size = make_wav(wav, 16000, 1, values, 1001, 2002);
    assert_int_equal(sound_load_memory(wav, size, "some.wav", &(sound_options){.rate = 24000}, &s, &err), OMNI_OK);
    assert_int_equal(s.rate, 24000);
    assert_int_equal(s.count, 1502);
    sound_free(&s);
}

static void test_limits_say_which(void **state) {
    int16_t values[16000] = {0};
    static uint8_t wav[44 + sizeof values];
    const size_t size = make_wav(wav, 16000, 1, values, 16000, 32000);
    omni_error err;
    sound s;
    assert_int_equal(sound_load_memory(wav, size, "one.wav", &(sound_options){.max_seconds = 1}, &s, &err), OMNI_OK);
    sound_free(&s);
    assert_int_equal(sound_load_memory(wav, size, "one.wav", &(sound_options){.max_seconds = 0.99}, &s, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "one.wav"));
    assert_non_null(strstr(err.text, "0.99 seconds"));
    assert_int_equal(sound_load_memory(wav, size, "one.wav", &(sound_options){.max_bytes = 32043}, &s, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "32043"));
    assert_null(s.samples);
}

/* Sounds of one message share a budget; what fails gives its memory back. */
static void test_budget_of_a_message(void **state) {
    int16_t values[16000] = {0};
    static uint8_t wav[44 + sizeof values];
    const size_t size = make_wav(wav, 16000, 1, values, 16000, 32000);
    omni_error err;
    budget b;
    budget_init(&b, &(budget_limits){.audio_seconds = 1});
    sound first, second;
    assert_int_equal(sound_load_memory(wav, size, "one.wav", &(sound_options){.budget = &b}, &first, &err), OMNI_OK);
    const int64_t held = b.held;
    assert_true(held >= 16000 * (int64_t)sizeof(float));
    assert_int_equal(sound_load_memory(wav, size, "two.wav", &(sound_options){.budget = &b}, &second, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "two.wav"));
    assert_non_null(strstr(err.text, "--max-audio-seconds"));
    assert_int_equal(b.held, held);
    sound_free(&first);
    budget_init(&b, &(budget_limits){.memory = 60000});
    assert_int_equal(sound_load_memory(wav, size, "one.wav", &(sound_options){.budget = &b}, &first, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "--max-media-memory"));
    assert_int_equal(b.held, 0);
}

static void test_errors_name_the_file(void **state) {
    omni_error err;
    sound s;
    assert_int_equal(sound_load("/nowhere/a.wav", NULL, &s, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "/nowhere/a.wav"));
    assert_int_equal(sound_load(AUDIO, NULL, &s, &err), OMNI_ERR_IO);
    assert_int_equal(sound_load(AUDIO "silent.mp4", NULL, &s, &err), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no sound"));
    assert_int_equal(sound_load(AUDIO "sounds.safetensors", NULL, &s, &err), OMNI_ERR_FORMAT);
    assert_int_equal(sound_load_memory("", 0, "none", NULL, &s, &err), OMNI_ERR_FORMAT);
    int16_t none = 0;
    uint8_t wav[46];
    assert_int_equal(sound_load_memory(wav, make_wav(wav, 16000, 1, &none, 0, 0), "none.wav", NULL, &s, &err), OMNI_ERR_FORMAT);
    /* a playlist must not lead anywhere */
    const char list[] = "ffconcat version 1.0\nfile " AUDIO "s24.wav\n";
    assert_int_equal(sound_load_memory(list, sizeof list, "list", NULL, &s, &err), OMNI_ERR_FORMAT);
}

/* Silent frames of MPEG 2 layer III, 8 kbit/s: four at 24000 samples a second, four at 22050, and so on. */
static void test_changes_of_the_rate(void **state) {
    enum { MOST = 1001 };
    static uint8_t mp3[MOST * 4 * 26];
    for (int count = 8; count <= MOST; count += MOST - 8) {
        size_t size = 0;
        for (int i = 0; i < 4 * count; i++) {
            const bool slower = i / 4 % 2;
            memcpy(mp3 + size, (const uint8_t[]){0xff, 0xf3, slower ? 0x10 : 0x14, 0xc0}, 4);
            size += slower ? 26 : 24;
        }
        omni_error err;
        sound s;
        const omni_status status = sound_load_memory(mp3, size, "rates.mp3", NULL, &s, &err);
        if (count == 8) {
            assert_int_equal(status, OMNI_OK);
            assert_in_range(s.count, 12 * 576 * 16000 / 24000, 32 * 576 * 16000 / 22050 + 8);
            sound_free(&s);
        } else { /* a filter for each would take hours */
            assert_int_equal(status, OMNI_ERR_LIMIT);
            assert_non_null(strstr(err.text, "changes of the rate"));
        }
    }
}

static void test_not_a_number_is_refused(void **state) {
    omni_error err;
    char *data;
    size_t size;
    assert_int_equal(file_read(AUDIO "f32_11k.wav", 1 << 20, &data, &size, &err), OMNI_OK);
    const float nan = NAN;
    memcpy(data + size - 400, &nan, sizeof nan);
    sound s;
    assert_int_equal(sound_load_memory(data, size, "nan.wav", NULL, &s, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "finite"));
    free(data);
}

static void test_damaged_flac_is_refused(void **state) {
    omni_error err;
    char *data;
    size_t size;
    assert_int_equal(file_read(AUDIO "s24.flac", 1 << 20, &data, &size, &err), OMNI_OK);
    data[size - size / 4] ^= 0x10;
    sound s;
    assert_int_equal(sound_load_memory(data, size, "bad.flac", NULL, &s, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "bad.flac"));
    free(data);
}

/* Any damage: an error with a text, or a sound; never silence about why (and under a sanitizer: no other fault). libav and
 * this code print nothing. */
static void test_damage(void **state) {
    fflush(stderr);
    char log_path[] = "/tmp/omni-test-sound-XXXXXX";
    const int log = mkstemp(log_path), old = dup(STDERR_FILENO);
    assert_true(log >= 0 && old >= 0);
    dup2(log, STDERR_FILENO);
    uint32_t random = 12345;
    int errors = 0;
    for (int f = 0; f < FILES; f++) {
        char path[512], *data;
        size_t size;
        omni_error err;
        assert_int_equal(file_read(path_of(files[f], path), 1 << 20, &data, &size, &err), OMNI_OK);
        char *copy = malloc(size);
        assert_non_null(copy);
        for (int round = 0; round < 40; round++) {
            random = random * 1664525u + 1013904223u;
            memcpy(copy, data, size);
            size_t used = size;
            if (round % 2) {
                copy[(random >> 8) % size] ^= (char)(1 << (random & 7));
                copy[(random >> 4) % (size < 256 ? size : 256)] ^= (char)(random >> 24);
            } else {
                used = (random >> 8) % size;
            }
            sound s;
            err.text[0] = 0;
            const omni_status status = sound_load_memory(copy, used, files[f], &(sound_options){.max_seconds = 20}, &s, &err);
            if (status == OMNI_OK) {
                assert_true(s.count > 0);
            } else {
                errors++;
                assert_null(s.samples);
                assert_int_equal(err.code, status);
                assert_non_null(strstr(err.text, files[f]));
            }
            sound_free(&s);
        }
        free(copy);
        free(data);
    }
    dup2(old, STDERR_FILENO);
    close(old);
    struct stat st;
    assert_int_equal(fstat(log, &st), 0);
    assert_int_equal(st.st_size, 0);
    close(log);
    unlink(log_path);
    assert_true(errors > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_librosa),
        cmocka_unit_test(test_sixteen_bits_come_through_exactly),
        cmocka_unit_test(test_channels_are_averaged_first),
        cmocka_unit_test(test_length_is_rounded_up),
        cmocka_unit_test(test_limits_say_which),
        cmocka_unit_test(test_budget_of_a_message),
        cmocka_unit_test(test_errors_name_the_file),
        cmocka_unit_test(test_changes_of_the_rate),
        cmocka_unit_test(test_not_a_number_is_refused),
        cmocka_unit_test(test_damaged_flac_is_refused),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests_name("sound", tests, NULL, NULL);
}
