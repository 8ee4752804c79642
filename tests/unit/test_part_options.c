/* What the options of a message's part make of sizes, frames and sounds, against qwen-omni-utils and librosa (tests/reference/make_part_options.py).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "media/size_request.h"
#include "media/sound.h"
#include "media/video.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { LIMIT = 1 << 20, FACTOR = 32 };

static char *read_vectors(const char *path) {
    char *data;
    size_t size;
    omni_error err;
    assert_int_equal(file_read(path, LIMIT, &data, &size, &err), OMNI_OK);
    return data;
}

static void sizes_as_the_reference(void **state) {
    char *data = read_vectors(TEST_DATA "/vision/part_options.txt"), kind[8];
    long long frames, h, w, low, high, total, rh, rw, want_h, want_w;
    int cases = 0, used;
    for (char *p = data; sscanf(p, "%7s %lld %lld %lld %lld %lld %lld %lld %lld %lld %lld%n", kind, &frames, &h, &w, &low, &high, &total, &rh, &rw,
                                &want_h, &want_w, &used) == 11;
         p += used, cases++) {
        const size_request r = {strcmp(kind, "video") == 0, low, high, total, rh, rw};
        int64_t got_h = 0, got_w = 0;
        omni_error err = {0};
        const omni_status status = size_requested(&r, frames, h, w, FACTOR, INT64_MAX / 4, &got_h, &got_w, &err);
        if (want_h == 0) {
            assert_int_not_equal(status, OMNI_OK);
            continue;
        }
        assert_int_equal(status, OMNI_OK);
        assert_int_equal(got_h, want_h);
        assert_int_equal(got_w, want_w);
    }
    free(data);
    assert_int_equal(cases, 300);
}

static void frames_as_the_reference(void **state) {
    char *data = read_vectors(TEST_DATA "/vision/part_frames.txt");
    long long total, frames, low, high, want, sum, last[2];
    double rate, fps, from, to;
    int cases = 0, used;
    for (char *p = data; sscanf(p, "%lld %lf %lf %lld %lld %lld %lf %lf %lld %lld %lld %lld%n", &total, &rate, &fps, &frames, &low, &high, &from, &to,
                                &want, &sum, &last[0], &last[1], &used) == 12;
         p += used, cases++) {
        const video_options o = {.fps = fps, .frames = frames, .min_frames = low, .max_frames = high, .from = from, .to = to};
        int32_t indices[1024];
        int64_t n = 0, among = 0;
        long long got = 0;
        omni_error err = {0};
        const omni_status status = video_choose("a video", total, rate, &o, indices, &n, &among, &err);
        if (want == 0) {
            assert_int_not_equal(status, OMNI_OK);
            continue;
        }
        assert_int_equal(status, OMNI_OK);
        assert_int_equal(n, want);
        for (int64_t i = 0; i < n; i++) {
            got += (i + 1) * indices[i];
        }
        assert_int_equal(got, sum);
        assert_int_equal(indices[n - 2], last[0]);
        assert_int_equal(indices[n - 1], last[1]);
    }
    free(data);
    assert_int_equal(cases, 400);
}

static void stretches_as_the_reference(void **state) {
    char *data = read_vectors(TEST_DATA "/audio/stretches.txt"), name[64], path[512];
    double start, end, v[4], sum;
    long long count;
    int cases = 0, used;
    for (char *p = data;
         sscanf(p, "%63s %lf %lf %lld %lf %lf %lf %lf %lf%n", name, &start, &end, &count, &v[0], &v[1], &v[2], &v[3], &sum, &used) == 9;
         p += used, cases++) {
        snprintf(path, sizeof path, TEST_DATA "/audio/%s", name);
        const sound_options o = {.start = start, .duration = end > 0 ? end - start : 0};
        sound s;
        omni_error err = {0};
        assert_int_equal(sound_load(path, &o, &s, &err), OMNI_OK);
        assert_int_equal(s.count, count);
        const int64_t at[] = {0, count / 3, count / 2, count - 1};
        for (int i = 0; i < 4; i++) {
            assert_true(fabs(s.samples[at[i]] - v[i]) < 2e-4);
        }
        double got = 0;
        for (int64_t i = 0; i < s.count; i++) {
            got += fabs((double)s.samples[i]);
        }
        assert_true(fabs(got - sum) < 1e-3 * sum + 1e-3);
        sound_free(&s);
    }
    free(data);
    assert_int_equal(cases, 35);
}

static void stretches_outside(void **state) {
    sound s;
    omni_error err = {0};
    assert_int_equal(sound_load(TEST_DATA "/audio/speech16.wav", &(sound_options){.start = 1e6}, &s, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "speech16.wav: no sound is within the stretch"));
    /* what is left out does not count: a short stretch of a sound that is too long by itself */
    assert_int_equal(sound_load(TEST_DATA "/audio/speech16.wav", &(sound_options){.max_seconds = 0.2}, &s, &err), OMNI_ERR_LIMIT);
    assert_int_equal(sound_load(TEST_DATA "/audio/speech16.wav", &(sound_options){.max_seconds = 0.2, .start = 0.3, .duration = 0.1}, &s, &err),
                     OMNI_OK);
    assert_int_equal(s.count, 1600);
    sound_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes_as_the_reference), cmocka_unit_test(frames_as_the_reference),
                                       cmocka_unit_test(stretches_as_the_reference), cmocka_unit_test(stretches_outside)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
