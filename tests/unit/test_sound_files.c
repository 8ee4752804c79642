/* Sound files by their bytes: every shape of PCM in WAV, files cut off anywhere, joined files. */
#define _GNU_SOURCE
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "media/sound.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define AUDIO TEST_DATA "/audio/"

enum { PCM = 1, FLOAT = 3, ALAW = 6, MULAW = 7, EXTENSIBLE = 0xfffe, FRAMES = 300, LARGEST = 1 << 16 };

static bool big_endian; /* RIFX instead of RIFF */

static void put(uint8_t **p, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        *(*p)++ = (uint8_t)(value >> 8 * (big_endian ? bytes - 1 - i : i));
    }
}

static void put_text(uint8_t **p, const char *text) {
    memcpy(*p, text, strlen(text));
    *p += strlen(text);
}

typedef struct shape {
    int code, width, valid, channels; /* valid: bits, in WAVE_FORMAT_EXTENSIBLE; 0: a plain header */
    uint32_t mask;
    bool chunks_before, chunks_after;
} shape;

/* The chunk "fmt " and, of some shapes, others before and after it. */
static void put_format(uint8_t **p, const shape *s) {
    if (s->chunks_before) {
        put_text(p, "LIST");
        put(p, 13, 4);
        put_text(p, "INFOISFT");
        put(p, 1, 4);
        put(p, 'x', 2); /* 13 bytes and one of padding */
    }
    put_text(p, "fmt ");
    put(p, s->valid ? 40 : 16, 4);
    put(p, s->valid ? EXTENSIBLE : (uint64_t)s->code, 2);
    put(p, (uint64_t)s->channels, 2);
    put(p, 16000, 4);
    put(p, (uint64_t)(16000 * s->channels * s->width), 4);
    put(p, (uint64_t)(s->channels * s->width), 2);
    put(p, (uint64_t)s->width * 8, 2);
    if (s->valid) {
        put(p, 22, 2);
        put(p, (uint64_t)s->valid, 2);
        put(p, s->mask, 4);
        put(p, (uint64_t)s->code, 4);
        put(p, 0x00100000, 4);
        put(p, 0x719b3800aa000080, 8);
    }
    if (s->chunks_after) {
        put_text(p, "junk");
        put(p, 3, 4);
        put(p, 0, 4);
    }
}

/* G.711. */
static int alaw(uint8_t code) {
    code ^= 0x55;
    const int exponent = code >> 4 & 7, mantissa = code & 15, magnitude = exponent ? (mantissa * 16 + 264) << (exponent - 1) : mantissa * 16 + 8;
    return code & 0x80 ? magnitude : -magnitude;
}

static int mulaw(uint8_t code) {
    code = (uint8_t)~code;
    const int magnitude = (((code & 15) * 8 + 132) << (code >> 4 & 7)) - 132;
    return code & 0x80 ? -magnitude : magnitude;
}

/* One sample's bytes as a number: integers are scaled by the width of their place, as libsndfile does. */
static double value_of(const shape *s, const uint8_t *at) {
    uint64_t bits = 0;
    for (int i = 0; i < s->width; i++) {
        bits |= (uint64_t)at[big_endian ? s->width - 1 - i : i] << 8 * i;
    }
    if (s->code == ALAW || s->code == MULAW) {
        return (s->code == ALAW ? alaw(at[0]) : mulaw(at[0])) / 32768.0;
    }
    if (s->code == FLOAT && s->width == 4) {
        const uint32_t narrow = (uint32_t)bits;
        float x;
        memcpy(&x, &narrow, 4);
        return x;
    }
    if (s->code == FLOAT) {
        double x;
        memcpy(&x, &bits, 8);
        return x;
    }
    if (s->width == 1) {
        return (at[0] - 128) / 128.0;
    }
    return (double)(int64_t)(bits << (64 - 8 * s->width)) / 9223372036854775808.0;
}

static void fill(const shape *s, uint8_t *data) {
    uint32_t random = 7;
    for (int i = 0; i < FRAMES * s->channels; i++) {
        for (int k = 0; k < s->width; k++) {
            random = random * 1664525u + 1013904223u;
            data[i * s->width + k] = (uint8_t)(random >> 24);
        }
        if (s->code == FLOAT) {
            const double x = (double)random / 4294967296.0 - 0.5;
            const float narrow = (float)x;
            uint64_t bits = 0;
            memcpy(&bits, s->width == 4 ? (const void *)&narrow : &x, (size_t)s->width);
            put(&(uint8_t *){data + i * s->width}, bits, s->width);
        }
    }
}

/* The file ends after `bytes` of its data, of which it claims to have `claimed`. */
static void check_shape(const shape *s, size_t bytes, uint32_t claimed) {
    static uint8_t file[LARGEST];
    uint8_t *p = file;
    put_text(&p, big_endian ? "RIFX" : "RIFF");
    put(&p, claimed == 0 || claimed == UINT32_MAX ? claimed : claimed + 100, 4);
    put_text(&p, "WAVE");
    put_format(&p, s);
    put_text(&p, "data");
    put(&p, claimed, 4);
    const size_t header = (size_t)(p - file);
    assert_true(header + FRAMES * (size_t)(s->channels * s->width) <= LARGEST);
    fill(s, p);
    omni_error err;
    sound got;
    const omni_status status = sound_load_memory(file, header + bytes, "shape.wav", NULL, &got, &err);
    const int64_t frames = (int64_t)bytes / (s->channels * s->width);
    if (status != OMNI_OK || got.count != frames) {
        fail_msg("code %d, %d bytes, %d valid, %d channels, %zu bytes of data: %lld samples instead of %lld: %s", s->code, s->width, s->valid,
                 s->channels, bytes, (long long)got.count, (long long)frames, status ? err.text : "no error");
    }
    for (int64_t i = 0; i < frames; i++) {
        double mean = 0;
        for (int c = 0; c < s->channels; c++) {
            mean += value_of(s, p + (i * s->channels + c) * s->width) / s->channels;
        }
        if (!(fabs(got.samples[i] - mean) < 1e-6)) {
            fail_msg("code %d, %d bytes, %d valid, %d channels, sample %lld: %.8f instead of %.8f", s->code, s->width, s->valid, s->channels,
                     (long long)i, (double)got.samples[i], mean);
        }
    }
    sound_free(&got);
}

static uint32_t whole(const shape *s) {
    return (uint32_t)(FRAMES * s->channels * s->width);
}

static void test_every_shape(void **state) {
    static const struct {
        int channels;
        uint32_t mask;
    } layouts[] = {{1, 4}, {1, 0}, {2, 3}, {2, 0}, {3, UINT32_MAX}, {6, 0x3f}};
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
        shape s = {.code = PCM, .channels = layouts[l].channels, .mask = layouts[l].mask};
        static const int widths[] = {1, 2, 3, 4};
        for (int w = 0; w < 4; w++) {
            s.width = widths[w];
            for (s.valid = 0; s.valid <= 8 * s.width; s.valid++) {
                check_shape(&s, whole(&s), whole(&s));
            }
        }
        s.code = FLOAT;
        for (s.width = 4; s.width <= 8; s.width += 4) {
            for (s.valid = 0; s.valid <= 8 * s.width; s.valid += 8) {
                check_shape(&s, whole(&s), whole(&s));
            }
        }
        s.width = 1;
        for (s.code = ALAW; s.code <= MULAW; s.code++) {
            for (s.valid = 0; s.valid <= 8; s.valid += 8) {
                check_shape(&s, whole(&s), whole(&s));
            }
        }
    }
}

/* RIFX: everything is big-endian. */
static void test_big_endian(void **state) {
    big_endian = true;
    for (int channels = 1; channels <= 6; channels++) {
        for (int width = 1; width <= 8; width = width < 4 ? width + 1 : width + 4) {
            const shape integers = {.code = PCM, .width = width, .channels = channels},
                        floats = {.code = FLOAT, .width = width, .channels = channels};
            if (width <= 4) {
                check_shape(&integers, whole(&integers), whole(&integers));
                check_shape(&integers, whole(&integers) - 1, whole(&integers));
            }
            if (width >= 4) {
                check_shape(&floats, whole(&floats), whole(&floats));
                check_shape(&floats, whole(&floats) - 1, whole(&floats));
            }
        }
    }
    big_endian = false;
}

static void test_orders_and_sizes(void **state) {
    for (int i = 0; i < 8; i++) {
        const shape s = {
            .code = PCM, .width = i & 1 ? 4 : 2, .valid = i & 1 ? 24 : 0, .channels = 2, .mask = 3, .chunks_before = i & 2, .chunks_after = i & 4};
        check_shape(&s, whole(&s), whole(&s));
        check_shape(&s, whole(&s), 0); /* as a pipe leaves them */
        check_shape(&s, whole(&s), UINT32_MAX);
        check_shape(&s, whole(&s), 0x7ffff000);
    }
}

/* Cut in the middle of a sample: what is whole before it counts. */
static void test_cut_anywhere(void **state) {
    static const shape shapes[] = {{PCM, 1, 0, 2, 0, 0, 0},  {PCM, 2, 0, 1, 0, 0, 0},     {PCM, 2, 0, 3, 0, 0, 0},   {PCM, 3, 24, 2, 3, 0, 0},
                                   {PCM, 4, 24, 2, 3, 0, 0}, {PCM, 4, 32, 6, 0x3f, 0, 0}, {FLOAT, 4, 0, 2, 0, 0, 0}, {FLOAT, 8, 64, 2, 3, 0, 0},
                                   {ALAW, 1, 0, 2, 0, 0, 0}, {MULAW, 1, 8, 3, 7, 0, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int block = shapes[i].channels * shapes[i].width;
        for (int cut = 1; cut <= 2 * block; cut++) {
            check_shape(&shapes[i], whole(&shapes[i]) - (size_t)cut, whole(&shapes[i]));
            check_shape(&shapes[i], whole(&shapes[i]) - (size_t)cut, UINT32_MAX);
        }
        check_shape(&shapes[i], (size_t)block, whole(&shapes[i]));
    }
}

/* Sun's format: big-endian PCM of any width behind 24 bytes. */
static void test_cut_au(void **state) {
    static const uint8_t encodings[] = {[1] = 2, [2] = 3, [3] = 4, [4] = 5};
    for (int width = 1; width <= 4; width++) {
        for (int cut = 0; cut <= 2 * width; cut++) {
            uint8_t file[24 + 100 * 8] = {'.', 's', 'n', 'd', 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, encodings[width], 0, 0, 0x3e, 0x80, 0, 0, 0, 2};
            const int bytes = 100 * 2 * width;
            file[10] = (uint8_t)(bytes >> 8);
            file[11] = (uint8_t)bytes;
            for (int i = 0; i < 200; i++) { /* both channels: i / 2 - 50, in the highest byte */
                file[24 + i * width] = (uint8_t)(i / 2 - 50);
            }
            omni_error err;
            sound s;
            assert_int_equal(sound_load_memory(file, (size_t)(24 + bytes - cut), "cut.au", NULL, &s, &err), OMNI_OK);
            assert_int_equal(s.count, (bytes - cut) / (2 * width));
            for (int64_t i = 0; i < s.count; i++) {
                assert_true(s.samples[i] == (float)(i - 50) / 128);
            }
            sound_free(&s);
        }
    }
}

/* A FLAC file of two frames, of 4608 samples and 684: cut off inside the second, the first remains; a wrong bit is damage. */
static void test_cut_flac(void **state) {
    enum { FIRST = 4608, BOTH = 5292, SECOND_BYTES = 672 };
    omni_error err;
    char *data;
    size_t size;
    assert_int_equal(file_read(AUDIO "s24.flac", 1 << 20, &data, &size, &err), OMNI_OK);
    const sound_options native = {.rate = 44100};
    sound all, s;
    assert_int_equal(sound_load_memory(data, size, "a.flac", &native, &all, &err), OMNI_OK);
    assert_int_equal(all.count, BOTH);
    for (size_t cut = 1; cut < SECOND_BYTES - 16; cut += 13) { /* less of a frame than its header is none */
        assert_int_equal(sound_load_memory(data, size - cut, "cut.flac", &native, &s, &err), OMNI_OK);
        assert_int_equal(s.count, FIRST);
        assert_memory_equal(s.samples, all.samples, FIRST * sizeof(float));
        sound_free(&s);
    }
    for (size_t at = 1; at < 4000; at += at == 2 ? SECOND_BYTES : at < 2 ? 1 : 57) { /* the last checksum, then the whole first frame */
        data[size - at] ^= 4;
        assert_int_equal(sound_load_memory(data, size, "bad.flac", &native, &s, &err), OMNI_ERR_FORMAT);
        data[size - at] ^= 4;
    }
    sound_free(&all);
    free(data);
}

/* An index that claims more samples than the file has bytes costs little. */
static void test_claimed_index(void **state) {
    omni_error err;
    char *data;
    size_t size;
    assert_int_equal(file_read(AUDIO "a.m4a", 1 << 20, &data, &size, &err), OMNI_OK);
    uint8_t *sizes = memmem(data, size, "stsz", 4), *chunks = memmem(data, size, "stsc", 4);
    assert_true(sizes && chunks);
    memcpy(sizes + 8, "\0\0\0\1\4\0\0\0", 8); /* 67,108,864 samples of one byte */
    memcpy(chunks + 8, "\0\0\0\1", 4);        /* all */
    memcpy(chunks + 16, "\4\0\0\0", 4);       /* in the first chunk */
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    sound s;
    assert_int_equal(sound_load_memory(data, size, "index.m4a", NULL, &s, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "--max-media-memory"));
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 400000); /* KiB; its entries would take 1.6 GB */
    free(data);
}

/* What FFmpeg's own program decodes from a file: the mean of its two channels. */
static float *ffmpeg_decodes(const char *path, int64_t *count) {
    char command[512];
    snprintf(command, sizeof command, "ffmpeg -v quiet -nostdin -i %s -map 0:a:0 -f f32le -", path);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    enum { MOST = 1 << 18 };
    float *pairs = malloc(MOST * 2 * sizeof *pairs);
    assert_non_null(pairs);
    *count = (int64_t)fread(pairs, 2 * sizeof *pairs, MOST, f);
    pclose(f);
    for (int64_t i = 0; i < *count; i++) {
        pairs[i] = (pairs[2 * i] + pairs[2 * i + 1]) / 2;
    }
    return pairs;
}

/* Files joined end to end, and cut ones, give the samples that FFmpeg gives. */
static void test_as_ffmpeg(void **state) {
    if (system("command -v ffmpeg >/dev/null") != 0) {
        skip();
    }
    static const struct {
        const char *name;
        int rate, copies, percent; /* of the file, of the last copy */
    } cases[] = {{"a.ogg", 44100, 2, 100}, {"a.ogg", 44100, 3, 100}, {"a.opus", 48000, 2, 100}, {"a.opus", 48000, 3, 100}, {"a.mp3", 44100, 2, 100},
                 {"a.mp3", 44100, 1, 60},  {"a.mp3", 44100, 1, 100}, {"a.m4a", 44100, 1, 100},  {"v.webm", 48000, 1, 100}, {"v.mkv", 44100, 1, 100},
                 {"v.webm", 48000, 1, 70}, {"v.mkv", 44100, 1, 80},  {"v.mov", 44100, 1, 100},  {"s24.wav", 44100, 1, 77}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char path[] = "/tmp/omni-test-sound-XXXXXX", name[256], *data;
        size_t size;
        omni_error err;
        snprintf(name, sizeof name, AUDIO "%s", cases[k].name);
        assert_int_equal(file_read(name, 1 << 20, &data, &size, &err), OMNI_OK);
        const int fd = mkstemp(path);
        assert_true(fd >= 0);
        for (int i = 0; i < cases[k].copies; i++) {
            const size_t n = i == cases[k].copies - 1 ? size * (size_t)cases[k].percent / 100 : size;
            assert_int_equal(write(fd, data, n), n);
        }
        close(fd);
        free(data);
        sound s;
        if (sound_load(path, &(sound_options){.rate = cases[k].rate}, &s, &err) != OMNI_OK) {
            unlink(path);
            fail_msg("%d x %s, %d %%: %s", cases[k].copies, cases[k].name, cases[k].percent, err.text);
        }
        int64_t count;
        float *want = ffmpeg_decodes(path, &count), worst = 0;
        unlink(path);
        for (int64_t i = 0; i < count && i < s.count; i++) {
            worst = fmaxf(worst, fabsf(s.samples[i] - want[i]));
        }
        if (s.count != count || count == 0 || !(worst < (cases[k].rate == 48000 ? 2e-3f : 1e-4f))) { /* Opus: another decoder */
            fail_msg("%d x %s, %d %%: %lld samples, FFmpeg %lld, largest difference %g", cases[k].copies, cases[k].name, cases[k].percent,
                     (long long)s.count, (long long)count, worst);
        }
        free(want);
        sound_free(&s);
    }
}

/* A file in a scratch folder, made by FFmpeg's own program from half a second of pictures and sound; false where it lacks an encoder. */
static bool ffmpeg_makes(const char *path, const char *how) {
    char command[1024];
    snprintf(command, sizeof command,
             "ffmpeg -v quiet -nostdin -y -f lavfi -i testsrc=size=64x64:rate=25:duration=0.5 -f lavfi -i "
             "'aevalsrc=0.4*sin(2000*t)|0.3*sin(3000*t):s=48000:d=0.5' %s %s",
             how, path);
    return system(command) == 0;
}

/* Whatever the container of a video, its sound is read, as FFmpeg reads it. */
static void test_sound_of_videos(void **state) {
    if (system("command -v ffmpeg >/dev/null") != 0) {
        skip();
    }
    static const struct {
        const char *name, *how;
    } cases[] = {{"v.flv", "-c:v flv -c:a pcm_s16le -ar 44100"},
                 {"v.asf", "-c:v mpeg4 -c:a wmav2"},
                 {"v.mpg", "-c:v mpeg1video -c:a mp2"},
                 {"v.mxf", "-c:v mpeg2video -c:a pcm_s16le"},
                 {"v.ts", "-c:v mpeg2video -c:a ac3"},
                 {"v.avi", "-c:v mpeg4 -c:a pcm_s16le"},
                 {"v.3gp", "-c:v mpeg4 -c:a aac"},
                 {"v.nut", "-c:v mpeg4 -c:a flac"},
                 {"v.mov", "-c:v mpeg4 -c:a alac"}};
    char folder[] = "/tmp/omni-test-sound-XXXXXX";
    assert_non_null(mkdtemp(folder));
    int made = 0;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", folder, cases[k].name);
        if (!ffmpeg_makes(path, cases[k].how)) {
            unlink(path);
            continue;
        }
        made++;
        omni_error err;
        sound s;
        const int rate = strcmp(cases[k].name, "v.flv") == 0 ? 44100 : 48000;
        if (sound_load(path, &(sound_options){.rate = rate}, &s, &err) != OMNI_OK) {
            fail_msg("%s", err.text);
        }
        int64_t count;
        float *want = ffmpeg_decodes(path, &count), worst = 0;
        for (int64_t i = 0; i < count && i < s.count; i++) {
            worst = fmaxf(worst, fabsf(s.samples[i] - want[i]));
        }
        if (s.count != count || count == 0 || !(worst < 1e-4f)) {
            fail_msg("%s: %lld samples, FFmpeg %lld, largest difference %g", cases[k].name, (long long)s.count, (long long)count, worst);
        }
        free(want);
        sound_free(&s);
        unlink(path);
    }
    rmdir(folder);
    assert_true(made > 5);
}

/* Lossless encodings that take far longer to decode than their bytes suggest are refused, whatever container they come in. */
static void test_costly_encodings(void **state) {
    char folder[] = "/tmp/omni-test-sound-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.mka", folder);
    const bool made = ffmpeg_makes(path, "-map 1:a -c:a truehd -strict -2");
    omni_error err;
    sound s;
    const omni_status status = made ? sound_load(path, NULL, &s, &err) : OMNI_OK;
    unlink(path);
    rmdir(folder);
    if (!made) {
        skip();
    }
    assert_int_equal(status, OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "truehd"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape),      cmocka_unit_test(test_big_endian), cmocka_unit_test(test_orders_and_sizes),
        cmocka_unit_test(test_cut_anywhere),     cmocka_unit_test(test_cut_au),     cmocka_unit_test(test_cut_flac),
        cmocka_unit_test(test_claimed_index),    cmocka_unit_test(test_as_ffmpeg),  cmocka_unit_test(test_sound_of_videos),
        cmocka_unit_test(test_costly_encodings),
    };
    return cmocka_run_group_tests_name("sound_files", tests, NULL, NULL);
}
