#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "media/sound.h"
#include "media/sound_encoder.h"
#include "media/sound_file.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char folder[] = "/tmp/omni-test-sound-file-XXXXXX";
static char path[256];

static const char *in_folder(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int set_up(void **state) {
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    return rmdir(folder); /* which fails when a test leaves something behind */
}

static uint32_t get32(const char *p) {
    const uint8_t *b = (const uint8_t *)p;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void test_samples(void **state) {
    assert_int_equal(sound_sample_16(0), 0);
    assert_int_equal(sound_sample_16(1), 32767);
    assert_int_equal(sound_sample_16(-1), -32767);
    assert_int_equal(sound_sample_16(1.5f), 32767);
    assert_int_equal(sound_sample_16(-1.5f), -32768);
    assert_int_equal(sound_sample_16(INFINITY), 32767);
    assert_int_equal(sound_sample_16(-INFINITY), -32768);
    assert_int_equal(sound_sample_16(NAN), 0);
    assert_int_equal(sound_sample_16(0.4f / 32767), 0);
    assert_int_equal(sound_sample_16(0.6f / 32767), 1);
    assert_int_equal(sound_sample_16(-0.6f / 32767), -1);
    for (int i = -32767; i <= 32767; i++) {
        assert_int_equal(sound_sample_16((float)i / 32767), i);
    }
}

/* Pieces of several sizes; the file appears only when finished and reads back as it was written. */
static void test_wav_file(void **state) {
    enum { N = 10007 };
    static float x[N];
    for (int i = 0; i < N; i++) {
        x[i] = sinf((float)i * 0.05f) * 1.1f;
    }
    omni_error err;
    sound_file *w;
    assert_int_equal(sound_file_open(in_folder("a.wav"), 24000, &w, &err), OMNI_OK);
    for (int at = 0, n = 1; at < N; at += n, n = n * 3 + 1) {
        assert_int_equal(sound_file_write(w, x + at, (size_t)(N - at < n ? N - at : n), &err), OMNI_OK);
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_int_equal(sound_file_finish(w, &err), OMNI_OK);
    char *data;
    size_t size;
    assert_int_equal(file_read(path, 1 << 20, &data, &size, &err), OMNI_OK);
    assert_int_equal(size, 44 + 2 * N);
    assert_int_equal(get32(data + 4), size - 8);
    assert_int_equal(get32(data + 24), 24000);
    assert_int_equal(get32(data + 28), 48000);
    assert_int_equal(get32(data + 40), 2 * N);
    free(data);
    sound s;
    assert_int_equal(sound_load(path, &(sound_options){.rate = 24000}, &s, &err), OMNI_OK);
    assert_int_equal(s.count, N);
    for (int i = 0; i < N; i++) {
        assert_true(s.samples[i] == (float)sound_sample_16(x[i]) / 32768.0f);
    }
    sound_free(&s);
    assert_int_equal(unlink(path), 0);
}

static void test_ended_at_once(void **state) {
    omni_error err;
    sound_file *w;
    assert_int_equal(sound_file_open(in_folder("none.wav"), 24000, &w, &err), OMNI_OK);
    assert_int_equal(sound_file_finish(w, &err), OMNI_OK);
    char *data;
    size_t size;
    assert_int_equal(file_read(path, 1 << 20, &data, &size, &err), OMNI_OK);
    assert_int_equal(size, 44);
    assert_int_equal(get32(data + 4), 36);
    assert_int_equal(get32(data + 40), 0);
    free(data);
    assert_int_equal(unlink(path), 0);
}

static void test_raw_file(void **state) {
    omni_error err;
    sound_file *w;
    assert_int_equal(sound_file_open(in_folder("a.PCM"), 24000, &w, &err), OMNI_OK);
    assert_int_equal(sound_file_write(w, (float[]){0, 1, -1}, 3, &err), OMNI_OK);
    assert_int_equal(sound_file_finish(w, &err), OMNI_OK);
    char *data;
    size_t size;
    assert_int_equal(file_read(path, 1 << 20, &data, &size, &err), OMNI_OK);
    assert_int_equal(size, 6);
    assert_memory_equal(data, "\0\0\xff\x7f\x01\x80", 6);
    free(data);
    assert_int_equal(unlink(path), 0);
}

static void test_abandoned(void **state) {
    omni_error err;
    assert_int_equal(sound_file_check(in_folder("gone.wav"), &err), OMNI_OK);
    assert_int_equal(sound_file_check(in_folder("gone.mp4"), &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(sound_file_check(in_folder("none/gone.wav"), &err), OMNI_ERR_IO);
    assert_int_equal(sound_file_check("-", &err), OMNI_OK);
    sound_file *w;
    assert_int_equal(sound_file_open(in_folder("gone.wav"), 24000, &w, &err), OMNI_OK);
    assert_int_equal(sound_file_write(w, (float[]){0, 1, -1}, 3, &err), OMNI_OK);
    sound_file_abandon(w);
    sound_file_abandon(NULL);
    assert_int_equal(access(path, F_OK), -1); /* tear_down sees whether anything else is left */
}

/* What fails last must not look like success, nor leave anything behind (which tear_down would see). */
static void test_the_last_write_fails(void **state) {
    omni_error err;
    sound_file *w;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(sound_file_open(in_folder("full.wav"), 24000, &w, &err), OMNI_OK);
    assert_int_equal(sound_file_write(w, (float[]){0, 1, -1}, 3, &err), OMNI_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){20, before.rlim_max}), 0); /* in the middle of the header */
    const omni_status status = sound_file_finish(w, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, OMNI_ERR_IO);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_the_name_is_taken_meanwhile(void **state) {
    omni_error err;
    sound_file *w;
    assert_int_equal(sound_file_open(in_folder("taken.wav"), 24000, &w, &err), OMNI_OK);
    assert_int_equal(sound_file_write(w, (float[]){0, 1, -1}, 3, &err), OMNI_OK);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(sound_file_finish(w, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "taken.wav"));
    assert_int_equal(rmdir(path), 0);
}

static void test_stream(void **state) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    const int old = dup(STDOUT_FILENO);
    dup2(ends[1], STDOUT_FILENO);
    close(ends[1]);
    omni_error err;
    sound_file *w;
    const omni_status opened = sound_file_open("-", 24000, &w, &err);
    char data[64];
    const ssize_t header = opened == OMNI_OK ? read(ends[0], data, 44) : -1; /* there before the first sample */
    const omni_status written = opened == OMNI_OK ? sound_file_write(w, (float[]){0.5f, -1}, 2, &err) : opened;
    const ssize_t body = written == OMNI_OK ? read(ends[0], data + 44, 20) : -1;
    const omni_status finished = opened == OMNI_OK ? sound_file_finish(w, &err) : opened;
    dup2(old, STDOUT_FILENO);
    close(old);
    close(ends[0]);
    assert_int_equal(opened, OMNI_OK);
    assert_int_equal(written, OMNI_OK);
    assert_int_equal(finished, OMNI_OK);
    assert_int_equal(header, 44);
    assert_int_equal(body, 4);
    assert_int_equal(get32(data + 4), UINT32_MAX);
    assert_int_equal(get32(data + 40), UINT32_MAX);
    sound s;
    assert_int_equal(sound_load_memory(data, 48, "stream", &(sound_options){.rate = 24000}, &s, &err), OMNI_OK);
    assert_int_equal(s.count, 2);
    assert_true(s.samples[0] == 16384.0f / 32768 && s.samples[1] == -32767.0f / 32768);
    sound_free(&s);
}

static void test_refusals(void **state) {
    omni_error err;
    sound_file *w;
    assert_int_equal(sound_file_open(in_folder("a.mp4"), 24000, &w, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, ".wav"));
    assert_int_equal(sound_file_open(in_folder("wav"), 24000, &w, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(sound_file_open(in_folder("a.wav"), 0, &w, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(sound_file_open("/nowhere/a.wav", 24000, &w, &err), OMNI_ERR_IO);
    assert_null(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_wav_file),
        cmocka_unit_test(test_ended_at_once),
        cmocka_unit_test(test_raw_file),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_the_last_write_fails),
        cmocka_unit_test(test_the_name_is_taken_meanwhile),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("sound_file", tests, set_up, tear_down);
}
