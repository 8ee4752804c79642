/* Choice of frames against qwen-omni-utils, decoded frames against PyAV, NumPy arrays, damage and limits. */
#define _GNU_SOURCE /* memmem */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "media/video.h"
#include "media/video_source.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { LIMIT = 1 << 20, PATH = 512 };

/* Sizes that need no resizing: multiples of 32, any number of pixels. */
static const patch_params PARAMS = {
    .patch = 16, .merge = 2, .temporal = 2, .min_pixels = 0, .max_pixels = 1 << 20, .mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}};

static void samples_as_the_reference(void **state) {
    char *data;
    size_t size;
    omni_error err;
    int cases = 0, used;
    long long total, low, high, want, sum, last[3];
    double rate, fps;
    assert_int_equal(file_read(TEST_DATA "/vision/video_sample.txt", LIMIT, &data, &size, &err), OMNI_OK);
    for (char *p = data; sscanf(p, "%lld %lf %lf %lld %lld %lld %lld %lld %lld %lld%n", &total, &rate, &fps, &low, &high, &want, &sum, &last[0],
                                &last[1], &last[2], &used) == 10;
         p += used) {
        int32_t indices[768];
        video_options o = {.fps = fps, .min_frames = low, .max_frames = high};
        int64_t n = video_sample(total, rate, &o, indices);
        assert_int_equal(n, want);
        long long got = 0;
        for (int64_t i = 0; i < n; i++) {
            got += (i + 1) * indices[i];
        }
        assert_int_equal(got, sum);
        assert_int_equal(indices[n - 1], last[2]);
        assert_int_equal(indices[n - 2], last[1]);
        cases++;
    }
    free(data);
    assert_in_range(cases, 100, 120);
}

/* Level of channel c at (x, y) of sampled frame f. */
static uint8_t level(const patch_set *s, int f, int y, int x, int c) {
    int P = s->patch, py = y / P, px = x / P;
    int64_t block = (int64_t)(py / 2) * (s->w / 2) + px / 2, patch = (int64_t)(f / 2) * s->h * s->w + block * 4 + py % 2 * 2 + px % 2;
    return s->levels[((patch * 3 + c) * 2 + f % 2) * P * P + (y % P) * P + x % P];
}

static void frames_equal_pyav(void **state) {
    static const char *const names[] = {"sound.mp4", "vp9.webm", "vp8-hidden.webm", "full-chroma.mkv"};
    static const int32_t indices[] = {0, 6, 12, 17, 23, 29};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH];
        omni_error err;
        video v;
        file_map file;
        npy_video want;
        snprintf(path, sizeof path, TEST_DATA "/media/video/%s", names[i]);
        if (video_open(path, &PARAMS, NULL, &v, &err) != OMNI_OK) {
            fail_msg("%s", err.text);
        }
        strcat(path, ".npy");
        assert_int_equal(file_map_open(path, &file, &err), OMNI_OK);
        assert_int_equal(npy_parse(file.data, file.size, path, &want, &err), OMNI_OK);
        assert_int_equal(v.frames, want.frames);
        assert_int_equal(v.file_frames, 30);
        assert_memory_equal(v.indices, indices, sizeof indices);
        assert_float_equal(v.file_fps, 10, 0.01);
        assert_float_equal(v.sample_fps, 2, 0.01);
        assert_float_equal(v.seconds_per_group, 1, 1e-9);
        assert_float_equal(v.duration, 3, 0.01);
        assert_int_equal(v.patches.t, 3);
        assert_int_equal(v.patches.h, 4);
        assert_int_equal(v.patches.w, 4);
        int worst = 0;
        int64_t differing = 0;
        for (int f = 0; f < (int)want.frames; f++) {
            for (int y = 0; y < want.height; y++) {
                for (int x = 0; x < want.width; x++) {
                    for (int c = 0; c < 3; c++) {
                        int d = abs(level(&v.patches, f, 2 * y, 2 * x, c) - want.values[((f * want.height + y) * want.width + x) * 3 + c]);
                        worst = d > worst ? d : worst;
                        differing += d > 0;
                    }
                }
            }
        }
        /* PyAV brings a later FFmpeg, whose conversion rounds a little differently */
        if (worst > 3 || differing > want.frames * want.height * want.width * 3 / 2) {
            fail_msg("%s: %d levels off, %lld values differ", names[i], worst, (long long)differing);
        }
        file_map_close(&file);
        video_free(&v);
    }
}

static void turns_upright(void **state) {
    omni_error err;
    video up, turned;
    assert_int_equal(video_open(TEST_DATA "/media/video/upright.mov", &PARAMS, NULL, &up, &err), OMNI_OK);
    assert_int_equal(video_open(TEST_DATA "/media/video/turned.mov", &PARAMS, NULL, &turned, &err), OMNI_OK);
    assert_int_equal(up.width, 96);
    assert_int_equal(up.height, 64);
    assert_int_equal(turned.width, 64);
    assert_int_equal(turned.height, 96);
    for (int y = 0; y < 64; y++) {
        for (int x = 0; x < 96; x++) {
            /* shown turned counterclockwise: the upper right corner comes to the upper left */
            assert_int_equal(level(&turned.patches, 1, 95 - x, y, 1), level(&up.patches, 1, y, x, 1));
        }
    }
    video_free(&up);
    video_free(&turned);
}

/* All turns and reflections that a display matrix can ask for, as the ffmpeg program shows them. */
static void shows_as_the_matrix_says(void **state) {
    char *data, *cases;
    size_t size, cases_size;
    omni_error err;
    video up;
    int n = 0, used, m[4], transpose, rows, columns;
    assert_int_equal(file_read(TEST_DATA "/media/video/upright.mov", LIMIT, &data, &size, &err), OMNI_OK);
    assert_int_equal(file_read(TEST_DATA "/media/video/matrices.txt", LIMIT, &cases, &cases_size, &err), OMNI_OK);
    assert_int_equal(video_open_memory(data, size, "upright", &PARAMS, NULL, &up, &err), OMNI_OK);
    char *header = memmem(data, size, "tkhd", 4);
    assert_non_null(header);
    for (const char *p = cases; sscanf(p, "%d %d %d %d %d %d %d%n", &m[0], &m[1], &m[2], &m[3], &transpose, &rows, &columns, &used) == 7;
         p += used, n++) {
        static const int places[4] = {0, 1, 3, 4}; /* of nine 32-bit numbers, big-endian */
        for (int i = 0; i < 4; i++) {
            for (int k = 0; k < 4; k++) {
                header[44 + places[i] * 4 + k] = (char)((uint32_t)m[i] >> (24 - 8 * k));
            }
        }
        video v;
        assert_int_equal(video_open_memory(data, size, "shown", &PARAMS, NULL, &v, &err), OMNI_OK);
        assert_int_equal(v.width, transpose ? 64 : 96);
        assert_int_equal(v.height, transpose ? 96 : 64);
        for (int y = 0; y < v.height; y++) {
            for (int x = 0; x < v.width; x++) {
                const int stored_y = transpose ? x : y, stored_x = transpose ? y : x;
                assert_int_equal(level(&v.patches, 1, y, x, 1),
                                 level(&up.patches, 1, rows ? 63 - stored_y : stored_y, columns ? 95 - stored_x : stored_x, 1));
            }
        }
        video_free(&v);
    }
    assert_int_equal(n, 16);
    video_free(&up);
    free(cases);
    free(data);
}

/* Angles that are no quarters of a circle are rounded to the nearest, as torchcodec does. */
static void turns_by_quarters(void **state) {
    static const struct {
        double angle; /* clockwise */
        int quarters;
    } cases[] = {{10, 0},  {-10, 0}, {44.9, 0}, {45.1, 1}, {80, 1},  {100, 1}, {134, 1}, {136, 2},
                 {170, 2}, {190, 2}, {224, 2},  {226, 3},  {271, 3}, {-50, 3}, {316, 0}};
    char *data;
    size_t size;
    omni_error err;
    video up;
    assert_int_equal(file_read(TEST_DATA "/media/video/upright.mov", LIMIT, &data, &size, &err), OMNI_OK);
    assert_int_equal(video_open_memory(data, size, "upright", &PARAMS, NULL, &up, &err), OMNI_OK);
    char *header = memmem(data, size, "tkhd", 4);
    assert_non_null(header);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const double radians = cases[k].angle * 3.14159265358979 / 180, c = cos(radians) * 65536, s = sin(radians) * 65536;
        const int32_t values[4] = {(int32_t)c, (int32_t)s, (int32_t)-s, (int32_t)c};
        static const int places[4] = {0, 1, 3, 4};
        for (int i = 0; i < 16; i++) {
            header[44 + places[i / 4] * 4 + i % 4] = (char)((uint32_t)values[i / 4] >> (24 - 8 * (i % 4)));
        }
        video v;
        assert_int_equal(video_open_memory(data, size, "shown", &PARAMS, NULL, &v, &err), OMNI_OK);
        assert_int_equal(v.width, cases[k].quarters % 2 ? 64 : 96);
        for (int y = 0; y < v.height; y++) {
            for (int x = 0; x < v.width; x++) {
                int stored_y = y, stored_x = x, w = v.width, h = v.height;
                for (int q = 0; q < cases[k].quarters; q++) { /* undo one clockwise turn */
                    const int before_y = w - 1 - stored_x, before_x = stored_y, was = w;
                    stored_y = before_y;
                    stored_x = before_x;
                    w = h;
                    h = was;
                }
                assert_int_equal(level(&v.patches, 1, y, x, 1), level(&up.patches, 1, stored_y, stored_x, 1));
            }
        }
        video_free(&v);
    }
    video_free(&up);
    free(data);
}

/* Pixels that decoding takes. */
static double pixels_of(const char *data, size_t size, const video_options *given, video *v) {
    omni_error err;
    budget b;
    budget_init(&b, NULL);
    video_options o = *given;
    o.budget = &b;
    if (video_open_memory(data, size, "groups", &PARAMS, &o, v, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return (double)atomic_load(&b.frames);
}

/* 40 frames in groups of 6, each a key frame with its followers; then the same where all claim to be key frames: what does not come as
 * promised is decoded as a whole. */
static void decodes_what_is_needed(void **state) {
    static const video_options choices[] = {{.fps = 10}, {.fps = 1}, {.fps = 0.5, .from = 1.7, .to = 3.2}};
    char *data;
    size_t size;
    omni_error err;
    assert_int_equal(file_read(TEST_DATA "/media/video/groups.mp4", LIMIT, &data, &size, &err), OMNI_OK);
    char *lying = malloc(size);
    assert_non_null(lying);
    memcpy(lying, data, size);
    char *keys = memmem(lying, size, "stss", 4); /* the list of key frames */
    assert_non_null(keys);
    memcpy(keys, "free", 4);
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        video all, some, lied;
        const double whole = pixels_of(data, size, &(video_options){.fps = 10, .frames = 40}, &all);
        const double part = pixels_of(data, size, &choices[i], &some);
        pixels_of(lying, size, &choices[i], &lied);
        assert_int_equal(some.file_frames, 40);
        assert_int_equal(lied.frames, some.frames);
        for (int f = 0; f < (int)some.frames; f++) {
            assert_int_equal(lied.indices[f], some.indices[f]);
            for (int y = 0; y < 64; y++) {
                for (int x = 0; x < 64; x++) {
                    assert_int_equal(level(&some.patches, f, y, x, 1), level(&all.patches, some.indices[f], y, x, 1));
                    assert_int_equal(level(&lied.patches, f, y, x, 1), level(&all.patches, some.indices[f], y, x, 1));
                }
            }
        }
        assert_true(i == 0 || part < whole / 2);
        video_free(&all);
        video_free(&some);
        video_free(&lied);
    }
    free(lying);
    free(data);
}

/* What cannot seek is read into memory: a named pipe, and a device that never ends only as far as the budget goes. */
static void reads_a_pipe(void **state) {
    omni_error err;
    video file, piped;
    budget b;
    char folder[] = "/tmp/omni-test-video-XXXXXX", path[64];
    const char *stored = TEST_DATA "/media/video/sound.mp4";
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    const pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        execlp("cp", "cp", "--", stored, path, (char *)NULL);
        _exit(1);
    }
    assert_int_equal(video_open(stored, &PARAMS, NULL, &file, &err), OMNI_OK);
    if (video_open(path, &PARAMS, NULL, &piped, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    int status;
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(patch_count(&file.patches), patch_count(&piped.patches));
    assert_memory_equal(file.patches.levels, piped.patches.levels, (size_t)(patch_count(&file.patches) * patch_width(&PARAMS)));
    video_free(&file);
    video_free(&piped);
    budget_init(&b, &(budget_limits){.memory = 1 << 20});
    assert_int_equal(video_open("/dev/zero", &PARAMS, &(video_options){.budget = &b}, &piped, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "--max-media-memory"));
    /* nobody writes: waiting ends when it is told to */
    _Atomic bool stop = true;
    budget_init(&b, NULL);
    b.stop = &stop;
    assert_int_equal(video_open(path, &PARAMS, &(video_options){.budget = &b}, &piped, &err), OMNI_CANCELLED);
    assert_int_equal(atomic_load(&b.held), 0);
    unlink(path);
    rmdir(folder);
}

static void one_frame_is_enough(void **state) {
    omni_error err;
    video v;
    assert_int_equal(video_open(TEST_DATA "/media/video/one.mp4", &PARAMS, NULL, &v, &err), OMNI_OK);
    assert_int_equal(v.frames, 1);
    assert_int_equal(v.patches.t, 1);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(level(&v.patches, 0, i, i, 2), level(&v.patches, 1, i, i, 2));
    }
    video_free(&v);
}

/* Writes a file for one test. */
static const char *write_file(const void *data, size_t size) {
    static char path[] = "/tmp/omni-test-video-XXXXXX.npy";
    static char pattern[sizeof path];
    memcpy(pattern, path, sizeof path);
    int fd = mkstemps(pattern, 4);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    close(fd);
    return pattern;
}

static size_t make_npy(uint8_t *out, int version, const char *header, size_t values) {
    size_t n = strlen(header), at = version == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)version;
    out[7] = 0;
    out[8] = (uint8_t)n;
    out[9] = (uint8_t)(n >> 8);
    if (version > 1) {
        out[10] = out[11] = 0;
    }
    memcpy(out + at, header, n);
    for (size_t i = 0; i < values; i++) {
        out[at + n + i] = (uint8_t)(i * 7);
    }
    return at + n + values;
}

static void reads_numpy(void **state) {
    static const struct {
        const char *header;
        size_t values;
        omni_status status;
    } cases[] = {
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 32, 64, 3), }      \n", 18432, OMNI_OK},
        {"{\"shape\":(3,32,64,3,),\"fortran_order\":False,\"descr\":\"u1\"}", 18432, OMNI_OK},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 32, 64, 3), }", 18431, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (3, 32, 64, 3), }", 18432, OMNI_ERR_UNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 32, 64, 3), }", 18432 * 4, OMNI_ERR_UNSUPPORTED},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (32, 64, 3), }", 18432, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 32, 64, 4), }", 24576, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (0, 32, 64, 3), }", 0, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 32, 64, 3), }", 100, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2147483647, 2147483647, 2147483647, 3), }", 100, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 32, 64, 3)", 18432, OMNI_ERR_FORMAT},
        {"{'descr': '|u1', 'shape': (3, 32, 64, 3), }", 18432, OMNI_ERR_FORMAT},
        {"", 0, OMNI_ERR_FORMAT},
    };
    uint8_t *data = malloc(100000);
    assert_non_null(data);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int version = 1; version <= 3; version++) {
            size_t size = make_npy(data, version, cases[i].header, cases[i].values);
            const char *path = write_file(data, size);
            omni_error err = {0};
            video v;
            omni_status status = video_open(path, &PARAMS, &(video_options){.fps = 4}, &v, &err);
            unlink(path);
            assert_int_equal(status, cases[i].status);
            if (status == OMNI_OK) {
                assert_true(v.sampled);
                assert_int_equal(v.frames, 3);
                assert_int_equal(v.patches.t, 2);
                assert_float_equal(v.seconds_per_group, 0.5, 1e-9);
                assert_int_equal(level(&v.patches, 2, 3, 5, 1), (uint8_t)((2 * 6144 + (3 * 64 + 5) * 3 + 1) * 7));
                assert_int_equal(level(&v.patches, 3, 3, 5, 1), level(&v.patches, 2, 3, 5, 1));
                video_free(&v);
            } else {
                assert_non_null(strstr(err.text, path));
            }
        }
    }
    make_npy(data, 4, cases[0].header, 10);
    npy_video a;
    assert_int_equal(npy_parse(data, 200, "x", &a, NULL), OMNI_ERR_UNSUPPORTED);
    free(data);
}

static void states_limits(void **state) {
    omni_error err;
    video v;
    const char *path = TEST_DATA "/media/video/sound.mp4";
    assert_int_equal(video_open(path, &PARAMS, &(video_options){.file_frames = 20}, &v, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "20 frames"));
    budget b;
    budget_init(&b, &(budget_limits){.pixels = 1000});
    assert_int_equal(video_open(path, &PARAMS, &(video_options){.budget = &b}, &v, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "--max-pixels (now 1000)"));
    assert_int_equal(atomic_load(&b.held), 0);
    budget_init(&b, &(budget_limits){.memory = 20000});
    assert_int_equal(video_open(path, &PARAMS, &(video_options){.budget = &b}, &v, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "--max-media-memory"));
    assert_int_equal(atomic_load(&b.held), 0);
    assert_int_equal(video_open(path, &PARAMS, &(video_options){.seconds = 2.5}, &v, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "3.0 seconds, over the limit of 2.5 seconds"));
    assert_int_equal(video_open(path, &PARAMS, &(video_options){.fps = -1}, &v, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(video_open(TEST_DATA "/media/video/none.mp4", &PARAMS, NULL, &v, &err), OMNI_ERR_IO);
    assert_int_equal(video_open(TEST_DATA "/vision/resize.bin", &PARAMS, NULL, &v, &err), OMNI_ERR_FORMAT);
    /* more frames than the budget allows at their size: each gets smaller, but no smaller than the least */
    patch_params p = PARAMS;
    p.min_pixels = 32 * 32;
    assert_int_equal(video_open(path, &p, &(video_options){.total_tokens = 6}, &v, &err), OMNI_OK);
    assert_int_equal(v.patches.h, 2);
    assert_int_equal(v.patches.w, 2);
    video_free(&v);
}

static void memory_equals_file(void **state) {
    static const char *const names[] = {"sound.mp4", "vp9.webm", "sound.mp4.npy"};
    omni_error err;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH], *data;
        size_t size;
        video a, b;
        patch_params p = PARAMS;
        p.min_pixels = 1024;
        snprintf(path, sizeof path, TEST_DATA "/media/video/%s", names[i]);
        assert_int_equal(file_read(path, LIMIT, &data, &size, &err), OMNI_OK);
        assert_int_equal(video_open(path, &p, NULL, &a, &err), OMNI_OK);
        assert_int_equal(video_open_memory(data, size, "sent", &p, NULL, &b, &err), OMNI_OK);
        assert_int_equal(a.patches.t, b.patches.t);
        assert_memory_equal(a.patches.levels, b.patches.levels, (size_t)(patch_count(&a.patches) * patch_width(&p)));
        video_free(&a);
        video_free(&b);
        assert_int_equal(video_open_memory(data, size / 2, "sent", &p, NULL, &b, &err) == OMNI_OK, i == 1);
        video_free(&b);
        free(data);
    }
    assert_int_equal(video_open_memory(NULL, 0, "sent", &PARAMS, NULL, &(video){0}, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "sent"));
}

static void survives_damage(void **state) {
    static const char *const names[] = {"sound.mp4", "vp9.webm", "full-chroma.mkv", "turned.mov"};
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH], *data;
        size_t size;
        omni_error err;
        snprintf(path, sizeof path, TEST_DATA "/media/video/%s", names[i]);
        assert_int_equal(file_read(path, LIMIT, &data, &size, &err), OMNI_OK);
        char *copy = malloc(size);
        assert_non_null(copy);
        for (int k = 0; k < 40; k++) {
            random = random * 1664525 + 1013904223;
            memcpy(copy, data, size);
            copy[(random >> 8) % size] ^= (char)(1 << (random & 7));
            size_t n = k % 2 ? size : (random >> 4) % size;
            char file[] = "/tmp/omni-test-video-XXXXXX";
            int fd = mkstemp(file);
            assert_true(fd >= 0);
            assert_int_equal(write(fd, copy, n), (ssize_t)n);
            close(fd);
            video v;
            budget b;
            budget_init(&b, NULL);
            if (video_open(file, &PARAMS, &(video_options){.budget = &b, .file_frames = 1000}, &v, &err) == OMNI_OK) {
                assert_in_range(v.frames, 1, 768);
                video_free(&v);
            } else {
                assert_non_null(strstr(err.text, file));
            }
            unlink(file);
        }
        free(copy);
        free(data);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_as_the_reference),
        cmocka_unit_test(frames_equal_pyav),
        cmocka_unit_test(turns_upright),
        cmocka_unit_test(shows_as_the_matrix_says),
        cmocka_unit_test(turns_by_quarters),
        cmocka_unit_test(decodes_what_is_needed),
        cmocka_unit_test(reads_a_pipe),
        cmocka_unit_test(one_frame_is_enough),
        cmocka_unit_test(reads_numpy),
        cmocka_unit_test(states_limits),
        cmocka_unit_test(memory_equals_file),
        cmocka_unit_test(survives_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
