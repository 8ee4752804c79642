/* Encoded sound against its samples. The judge is the program ffmpeg, which decodes what came out. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "media/sound.h"
#include "media/sound_encoder.h"
#include "scratch.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { RATE = 24000, SAMPLES = 70001, TELEPHONE = 8000 };

static float samples[SAMPLES];
static omni_error err;

/* How each format is read again: ffmpeg's options for what has no header, and bounds that follow from the format. */
typedef struct expected {
    const char *name, *options;
    int rate;         /* of the decoded sound */
    bool lossless;    /* equal to the 16-bit samples */
    double snr;       /* dB at least, where the signal is aligned */
    int longest_lead; /* samples before the sound at most, without a header that tells them */
    int longest_tail; /* and behind it */
} expected;

static const expected all[] = {
    {"wav", "", RATE, true, 0, 0, 0},
    {"pcm16", "-f s16le -ar 24000 -ac 1", RATE, true, 0, 0, 0},
    {"pcm_f32", "-f f32le -ar 24000 -ac 1", RATE, false, 80, 0, 0},
    {"mulaw", "-f mulaw -ar 8000 -ac 1", TELEPHONE, false, 30, 0, 0},
    {"alaw", "-f alaw -ar 8000 -ac 1", TELEPHONE, false, 30, 0, 0},
    {"mp3", "", RATE, false, 18, 1105 + 529 + 576, 2 * 1152}, /* LAME's delay and a decoder's; frames of 576, of which MPEG-2 has one a granule */
    {"opus", "", RATE, false, 18, 0, 0},
    {"flac", "", RATE, true, 0, 0, 0},
    {"aac", "-f aac", RATE, false, 18, 2048, 2048},
};
enum { FORMATS = sizeof all / sizeof *all };

/* Syllables: harmonics of a voice's pitch that rise and fall, with pauses. */
static void make_samples(void) {
    uint32_t noise = 1;
    for (int i = 0; i < SAMPLES; i++) {
        const double t = (double)i / RATE, envelope = fmax(0, sin(2 * M_PI * 3 * t)) * 0.25;
        double x = 0;
        for (int h = 1; h <= 12; h++) {
            x += sin(2 * M_PI * 140 * h * t + h) / h;
        }
        noise = noise * 1664525 + 1013904223;
        samples[i] = (float)(envelope * x + ((double)(noise >> 8) / (1 << 24) - 0.5) * 0.002);
    }
}

/* ---- a sink that keeps everything ---- */

typedef struct memory {
    uint8_t *data;
    size_t size, furthest_write;
    bool went_back;
    int calls, fail_at; /* 0: never */
} memory;

static omni_status keep(void *arg, uint64_t at, const void *data, size_t size, omni_error *e) {
    memory *m = arg;
    if (++m->calls == m->fail_at) {
        *e = (omni_error){.code = OMNI_ERR_IO};
        strcpy(e->text, "no room on the moon");
        return OMNI_ERR_IO;
    }
    assert_true(at <= m->size);
    m->went_back |= at != m->size;
    if (at + size > m->size) {
        m->data = realloc(m->data, at + size);
        assert_non_null(m->data);
        m->size = at + size;
    }
    memcpy(m->data + at, data, size);
    return OMNI_OK;
}

/* In pieces of random size, seeded; 0: in one. */
static memory encode(const char *name, const float *x, size_t count, bool can_seek, unsigned seed) {
    memory m = {0};
    sound_encoder *e;
    assert_int_equal(sound_encoder_open(sound_format_named(name), RATE, &(sound_sink){keep, &m, can_seek}, &e, &err), OMNI_OK);
    for (size_t at = 0, n; at < count; at += n) {
        n = seed ? (size_t)(rand_r(&seed) % (at % 3 ? 7 : 5000)) : count;
        n = n < count - at ? n : count - at;
        assert_int_equal(sound_encoder_write(e, x + at, n, &err), OMNI_OK);
    }
    assert_int_equal(sound_encoder_finish(e, &err), OMNI_OK);
    assert_true(can_seek || !m.went_back);
    return m;
}

/* ---- ffmpeg ---- */

static void put(const char *name, const memory *m) {
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(m->data, 1, m->size, f), m->size);
    assert_int_equal(fclose(f), 0);
}

/* 16-bit samples that ffmpeg makes of it; the caller's to free(). */
static int16_t *decode(const memory *m, const expected *x, size_t *count) {
    put("encoded", m);
    char *command, *data;
    assert_true(asprintf(&command, "ffmpeg -nostdin -v error -y %s -i %s -f s16le -ac 1 -ar %d %s", x->options, in_folder("encoded"), x->rate,
                         in_folder("decoded")) > 0);
    assert_int_equal(system(command), 0);
    free(command);
    size_t size;
    assert_int_equal(file_read(in_folder("decoded"), 1 << 26, &data, &size, &err), OMNI_OK);
    unlink(in_folder("encoded"));
    unlink(in_folder("decoded"));
    *count = size / 2;
    return (int16_t *)(void *)data;
}

/* What the decoded sound should be: the samples, at its rate. */
static int16_t *reference(int rate, size_t *count) {
    memory m = encode("pcm16", samples, SAMPLES, false, 0);
    expected x = all[1];
    x.rate = rate; /* ffmpeg resamples */
    int16_t *r = decode(&m, &x, count);
    free(m.data);
    return r;
}

/* Signal to noise in dB when the reference begins at lead. */
static double snr_at(const int16_t *x, size_t count, const int16_t *ref, size_t ref_count, size_t lead) {
    double signal = 1e-9, noise = 1e-9;
    for (size_t i = 0; i < ref_count; i++) {
        const double r = ref[i], d = (i + lead < count ? x[i + lead] : 0) - r;
        signal += r * r;
        noise += d * d;
    }
    return 10 * log10(signal / noise);
}

static void check_decoded(const expected *x, const memory *m, bool header_tells) {
    size_t count, ref_count;
    int16_t *got = decode(m, x, &count), *ref = reference(x->rate, &ref_count);
    if (x->lossless) {
        assert_int_equal(count, SAMPLES);
        for (int i = 0; i < SAMPLES; i++) {
            assert_int_equal(got[i], sound_sample_16(samples[i]));
        }
    } else {
        const int lead = header_tells ? 0 : x->longest_lead, tail = header_tells ? 0 : x->longest_tail;
        double best = -100;
        for (int at = 0; at <= lead; at++) {
            best = fmax(best, snr_at(got, count, ref, ref_count, (size_t)at));
        }
        if (best < x->snr || count + 1 < ref_count || count > ref_count + (size_t)(lead + tail) + 1) {
            fail_msg("%s: %zu samples of %zu, %.1f dB", x->name, count, ref_count, best);
        }
    }
    free(got);
    free(ref);
}

/* ---- tests ---- */

/* Of the headers those of MP3 files alone tell the codec's delay; Ogg's pages tell it in a stream, too. */
static void test_decoded_again(void **state) {
    for (int i = 0; i < FORMATS; i++) {
        memory stream = encode(all[i].name, samples, SAMPLES, false, 0), file = encode(all[i].name, samples, SAMPLES, true, 0);
        check_decoded(&all[i], &stream, false);
        check_decoded(&all[i], &file, strcmp(all[i].name, "mp3") == 0);
        free(stream.data);
        free(file.data);
    }
}

static void test_pieces(void **state) {
    for (int i = 0; i < FORMATS; i++) {
        for (unsigned seed = 1; seed <= 6; seed++) {
            const bool can_seek = seed & 1;
            memory whole = encode(all[i].name, samples, SAMPLES, can_seek, 0), pieces = encode(all[i].name, samples, SAMPLES, can_seek, seed);
            assert_int_equal(whole.size, pieces.size);
            assert_memory_equal(whole.data, pieces.data, whole.size);
            free(whole.data);
            free(pieces.data);
        }
    }
}

/* After a second of sound all but the codec's delay has come out: what came until then decodes to 0.8 seconds at least. */
static void test_at_once(void **state) {
    for (int i = 0; i < FORMATS; i++) {
        memory m = {0};
        sound_encoder *e;
        assert_int_equal(sound_encoder_open(sound_format_named(all[i].name), RATE, &(sound_sink){keep, &m, false}, &e, &err), OMNI_OK);
        for (int at = 0; at < RATE; at += 1920) {
            assert_int_equal(sound_encoder_write(e, samples + at, at + 1920 < RATE ? 1920 : RATE - (size_t)at, &err), OMNI_OK);
        }
        size_t count;
        free(decode(&m, &all[i], &count));
        if ((double)count < 0.8 * all[i].rate) {
            fail_msg("%s: %zu samples of a second have come", all[i].name, count);
        }
        sound_encoder_abandon(e);
        free(m.data);
    }
}

/* The sizes that a file's header has. */
static void test_headers_of_files(void **state) {
    memory m = encode("flac", samples, SAMPLES, true, 0);
    assert_true(m.went_back);
    uint64_t packed = 0; /* STREAMINFO: 36 bits of samples end at byte 26, then the MD5 sum */
    for (int i = 18; i < 26; i++) {
        packed = packed << 8 | m.data[i];
    }
    assert_int_equal(packed & 0xfffffffff, SAMPLES);
    free(m.data);
    m = encode("mp3", samples, SAMPLES, true, 0);
    assert_non_null(memmem(m.data, 200 < m.size ? 200 : m.size, "Info", 4)); /* the header of a constant bit rate */
    free(m.data);
}

static void test_nothing_said(void **state) {
    for (int i = 0; i < FORMATS; i++) {
        for (int can_seek = 0; can_seek < 2; can_seek++) {
            memory m = encode(all[i].name, samples, 0, can_seek, 0);
            free(m.data);
        }
    }
}

/* Each write of the sink fails once, in turn: its error comes back as it was, and nothing more is written. */
static void test_failing_sink(void **state) {
    for (int i = 0; i < FORMATS; i++) {
        int failures = 0;
        for (int fail_at = 1;; fail_at++) {
            memory m = {.fail_at = fail_at};
            sound_encoder *e = NULL;
            err = (omni_error){0};
            omni_status status = sound_encoder_open(sound_format_named(all[i].name), RATE, &(sound_sink){keep, &m, true}, &e, &err);
            for (int at = 0; at < 8000 && status == OMNI_OK; at += 1000) {
                status = sound_encoder_write(e, samples + at, 1000, &err);
            }
            if (status != OMNI_OK && e) {
                omni_error later;
                const bool wav = strcmp(all[i].name, "wav") == 0;
                assert_int_equal(sound_encoder_write(e, samples, 1000, &later), OMNI_ERR_ARGUMENT);
                assert_int_equal(m.calls, fail_at);
                assert_int_equal(sound_encoder_finish(e, &later), OMNI_OK);
                assert_int_equal(m.calls, fail_at + wav);
            } else if (status == OMNI_OK) {
                status = sound_encoder_finish(e, &err);
            }
            free(m.data);
            if (m.calls < fail_at) {
                assert_int_equal(status, OMNI_OK);
                break;
            }
            failures++;
            assert_int_equal(status, OMNI_ERR_IO);
            assert_string_equal(err.text, "no room on the moon");
        }
        assert_true(failures >= 2);
    }
}

/* Values that no loudspeaker plays: decoded sound is finite and loud. */
static void test_wild_samples(void **state) {
    static float wild[4800];
    for (int i = 0; i < 4800; i++) {
        wild[i] = (float[]){NAN, INFINITY, -INFINITY, 3e38f, -5, 1e-40f, 0.5f}[i % 7];
    }
    for (int i = 0; i < FORMATS; i++) {
        memory m = encode(all[i].name, wild, 4800, false, 0);
        size_t count;
        free(decode(&m, &all[i], &count));
        assert_true(count >= (size_t)(4800 * all[i].rate / RATE));
        free(m.data);
    }
}

static void test_rates(void **state) {
    memory m = {0};
    sound_encoder *e;
    static const int odd[] = {7999, 24001, 192000};
    for (int i = 0; i < FORMATS; i++) {
        const sound_format *f = sound_format_named(all[i].name);
        assert_int_equal(sound_encoder_open(f, 0, &(sound_sink){keep, &m, false}, &e, &err), OMNI_ERR_ARGUMENT);
        assert_int_equal(sound_encoder_open(f, -1, &(sound_sink){keep, &m, false}, &e, &err), OMNI_ERR_ARGUMENT);
        for (int r = 0; r < 3; r++) {
            m.size = 0;
            assert_int_equal(sound_encoder_open(f, odd[r], &(sound_sink){keep, &m, false}, &e, &err), OMNI_OK);
            assert_int_equal(sound_encoder_write(e, samples, 24000, &err), OMNI_OK);
            assert_int_equal(sound_encoder_finish(e, &err), OMNI_OK);
        }
    }
    free(m.data);
}

static void test_names(void **state) {
    static const char *const names[][2] = {{"a.WAV", "wav"},      {"b/a.pcm", "pcm16"}, {"a.raw", "pcm16"}, {"a.f32", "pcm_f32"},
                                           {"a.ul", "mulaw"},     {"a.alaw", "alaw"},   {"a.Mp3", "mp3"},   {"a.opus", "opus"},
                                           {"x.wav.ogg", "opus"}, {"a.oga", "opus"},    {"a.flac", "flac"}, {"a.aac", "aac"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_string_equal(sound_format_name(sound_format_of_path(names[i][0])), names[i][1]);
    }
    static const char *const none[] = {"", "a", "a.", "wav", "a.wa", "a.wavx", "a.wav/b", "a.m4a", ".", "a.raw.", "a.pcm.raw."};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        assert_null(sound_format_of_path(none[i]));
    }
    assert_null(sound_format_named("MP3"));
    assert_null(sound_format_named(""));
    assert_string_equal(sound_format_type(sound_format_named("mp3")), "audio/mpeg");
    assert_string_equal(sound_format_type(sound_format_named("opus")), "audio/ogg");
}

/* An FFmpeg that was built without an encoder. */
static const char *missing;
const void *__real_avcodec_find_encoder_by_name(const char *name);
const void *__wrap_avcodec_find_encoder_by_name(const char *name);
const void *__wrap_avcodec_find_encoder_by_name(const char *name) {
    return missing && strcmp(name, missing) == 0 ? NULL : __real_avcodec_find_encoder_by_name(name);
}

static void test_missing_encoder(void **state) {
    memory m = {0};
    sound_encoder *e;
    missing = "libmp3lame";
    assert_int_equal(sound_format_check(sound_format_named("mp3"), &err), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "LAME"));
    assert_int_equal(sound_encoder_open(sound_format_named("mp3"), RATE, &(sound_sink){keep, &m, false}, &e, &err), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "libmp3lame"));
    assert_null(e);
    assert_int_equal(sound_format_check(sound_format_named("opus"), &err), OMNI_OK);
    assert_int_equal(m.calls, 0);
    missing = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoded_again),    cmocka_unit_test(test_pieces),       cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_headers_of_files), cmocka_unit_test(test_nothing_said), cmocka_unit_test(test_failing_sink),
        cmocka_unit_test(test_wild_samples),     cmocka_unit_test(test_rates),        cmocka_unit_test(test_names),
        cmocka_unit_test(test_missing_encoder),
    };
    make_samples();
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
