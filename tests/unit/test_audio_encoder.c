/* Audio embeddings against transformers on a small checkpoint (tests/reference/make_audio_vectors.py). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cpu/cpu.h"
#include "gguf/safetensors.h"
#include "model/audio_encoder.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define AUDIO TEST_DATA "/audio/"

typedef struct fixture {
    safetensors *vectors;
    gguf *g;
    backend *b;
    audio_encoder *e;
} fixture;

static int set_up(void **state) {
    static fixture f;
    omni_error err;
    assert_int_equal(safetensors_open_file(AUDIO "vectors.safetensors", &f.vectors, &err), OMNI_OK);
    assert_int_equal(gguf_open(AUDIO "encoder.gguf", &f.g, &err), OMNI_OK);
    assert_int_equal(cpu_backend_create(2, &f.b, &err), OMNI_OK);
    assert_int_equal(audio_encoder_open(f.b, f.g, &f.e, &err), OMNI_OK);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    audio_encoder_close(f->e);
    cpu_backend_destroy(f->b);
    gguf_close(f->g);
    safetensors_close(f->vectors);
    return 0;
}

static int64_t all_rows(const audio_encoder *e, const mel_clip *clips, int n) {
    int64_t rows = 0;
    for (int i = 0; i < n; i++) {
        rows += audio_encoder_rows(e, clips[i].frames);
    }
    return rows;
}

/* Runs the clips; the caller frees the result. */
static float *embed_with(const fixture *f, const mel_clip *clips, int n, int64_t longest) {
    omni_error err;
    const size_t bytes = (size_t)(all_rows(f->e, clips, n) * audio_encoder_width(f->e)) * sizeof(float);
    void *embeds;
    float *host = malloc(bytes);
    assert_non_null(host);
    assert_int_equal(f->b->ops->alloc(f->b, bytes, &embeds, &err), OMNI_OK);
    assert_int_equal(audio_encoder_run(f->e, clips, n, longest, embeds, &err), OMNI_OK);
    f->b->ops->download(f->b, host, embeds, bytes);
    f->b->ops->release(f->b, embeds);
    return host;
}

static float *embed(const fixture *f, const mel_clip *clips, int n) {
    return embed_with(f, clips, n, 0);
}

static void compare(const fixture *f, const mel_clip *clips, int n, const char *name) {
    const st_tensor *want = safetensors_find(f->vectors, name);
    assert_non_null(want);
    assert_int_equal(want->shape[0], all_rows(f->e, clips, n));
    assert_int_equal(want->shape[1], audio_encoder_width(f->e));
    float *got = embed(f, clips, n);
    const float *expected = want->data;
    float worst = 0, largest = 0;
    for (int64_t i = 0; i < want->shape[0] * want->shape[1]; i++) {
        worst = fmaxf(worst, fabsf(got[i] - expected[i]));
        largest = fmaxf(largest, fabsf(expected[i]));
    }
    if (!(worst <= 1e-5f * largest)) {
        fail_msg("%s: largest difference %g, largest value %g", name, worst, largest);
    }
    free(got);
}

/* Clip of the features that the script makes up. */
static mel_clip made_up(int64_t frames) {
    mel_clip c = {.values = malloc((size_t)frames * 128 * sizeof(float)), .stored = frames, .frames = frames};
    assert_non_null(c.values);
    for (int64_t i = 0; i < frames * 128; i++) {
        c.values[i] = (float)((double)(uint32_t)((uint64_t)i * 2654435761u) / 2147483648.0 - 1);
    }
    return c;
}

static void test_config(void **state) {
    const fixture *f = *state;
    assert_int_equal(audio_encoder_width(f->e), 64);
    const mel_config *m = audio_encoder_mel(f->e);
    assert_true(m->rate == 16000 && m->n_fft == 400 && m->hop == 160 && m->bins == 128);
}

/* A sound alone, told the longest of its call, gives what it gives in the call. */
static void test_longest_elsewhere(void **state) {
    const fixture *f = *state;
    static const int64_t frames[][2] = {{37, 9}, {37, 90}, {9, 250}, {101, 8}};
    assert_int_equal(audio_encoder_longest(f->e), 100);
    int differ = 0;
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        mel_clip clips[2] = {made_up(frames[i][0]), made_up(frames[i][1])};
        const int64_t first = audio_encoder_rows(f->e, frames[i][0]) * audio_encoder_width(f->e);
        const int64_t second = audio_encoder_rows(f->e, frames[i][1]) * audio_encoder_width(f->e);
        float *together = embed(f, clips, 2);
        for (int k = 0; k < 2; k++) {
            const int64_t longest = frames[i][!k] < 100 ? frames[i][!k] : 100; /* beyond a chunk it does not matter */
            float *alone = embed_with(f, &clips[k], 1, longest), *unknown = embed(f, &clips[k], 1);
            const size_t bytes = (size_t)(k ? second : first) * sizeof(float);
            for (size_t j = 0; j < bytes / sizeof(float); j++) { /* behind another sound, attention adds in blocks that begin elsewhere */
                assert_true(fabsf(alone[j] - together[(k ? first : 0) + (int64_t)j]) <= (k ? 1e-5f : 0));
            }
            differ += memcmp(unknown, alone, bytes) != 0;
            free(alone), free(unknown);
        }
        free(together), free(clips[0].values), free(clips[1].values);
    }
    assert_true(differ >= 2); /* it does matter, below */
}

/* Several sounds, also longer than a group, in units of so many rows: the bits of one call. */
static void test_units(void **state) {
    const fixture *f = *state;
    static const int64_t rows[] = {0, 1, 5, 104, 300, 1 << 20};
    const mel_clip clips[] = {made_up(37), made_up(8250), made_up(900)};
    const int n = 3;
    const size_t bytes = (size_t)all_rows(f->e, clips, n) * (size_t)audio_encoder_width(f->e) * sizeof(float);
    float *whole = embed(f, clips, n), *got = malloc(bytes);
    void *embeds;
    omni_error err;
    assert_non_null(got);
    assert_int_equal(f->b->ops->alloc(f->b, bytes, &embeds, &err), OMNI_OK);
    memset(got, 0x55, bytes);
    int units = 0;
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        const int before = units;
        f->b->ops->upload(f->b, embeds, got, bytes);
        assert_int_equal(audio_encoder_begin(f->e, clips, n, 0, embeds, &err), OMNI_OK);
        for (units = 1; audio_encoder_step(f->e, rows[k]); units++) {
        }
        assert_false(audio_encoder_step(f->e, rows[k]));
        assert_true(k < 2 || units < before); /* larger ones, fewer of them */
        f->b->ops->download(f->b, got, embeds, bytes);
        assert_memory_equal(got, whole, bytes);
        memset(got, 0x55, bytes);
    }
    assert_int_equal(audio_encoder_begin(f->e, clips, n, 0, embeds, &err), OMNI_OK);
    for (int i = 0; i < 20; i++) { /* what was left in the middle does not matter to the next */
        assert_true(audio_encoder_step(f->e, 5));
    }
    float *again = embed(f, clips, n);
    assert_memory_equal(again, whole, bytes);
    f->b->ops->release(f->b, embeds);
    free(whole), free(got), free(again);
    for (int i = 0; i < n; i++) {
        free(clips[i].values);
    }
}

/* transformers' _get_feat_extract_output_lengths, written down for some lengths */
static void test_rows(void **state) {
    const fixture *f = *state;
    const int64_t want[][2] = {{1, 1},    {8, 1},    {9, 2},    {5, 1},     {97, 13},   {99, 13},   {100, 13},
                               {101, 14}, {200, 26}, {205, 27}, {799, 104}, {800, 104}, {801, 105}, {3000, 390}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_int_equal(audio_encoder_rows(f->e, want[i][0]), want[i][1]);
    }
}

static void test_features_of_speech(void **state) {
    const fixture *f = *state;
    const st_tensor *features = safetensors_find(f->vectors, "pair.features"), *mask = safetensors_find(f->vectors, "pair.mask");
    assert_true(features && mask);
    const int64_t frames = features->shape[2];
    mel_clip clips[2];
    for (int k = 0; k < 2; k++) {
        clips[k] = (mel_clip){.values = malloc((size_t)frames * 128 * sizeof(float)), .stored = frames};
        assert_non_null(clips[k].values);
        for (int64_t t = 0; t < frames; t++) {
            clips[k].frames += ((const float *)mask->data)[k * frames + t] != 0;
            for (int j = 0; j < 128; j++) {
                clips[k].values[t * 128 + j] = ((const float *)features->data)[(k * 128 + j) * frames + t];
            }
        }
    }
    compare(f, clips, 2, "pair.embeds");
    free(clips[0].values);
    free(clips[1].values);
}

static void test_windows_and_several_sounds(void **state) {
    const fixture *f = *state;
    mel_clip clips[] = {made_up(930), made_up(205), made_up(100)};
    compare(f, clips, 3, "windows.embeds");
    for (int i = 0; i < 3; i++) {
        free(clips[i].values);
    }
    /* no whole chunk in the call: all are padded to 99 frames */
    mel_clip small[] = {made_up(7), made_up(99), made_up(31)};
    compare(f, small, 3, "short.embeds");
    for (int i = 0; i < 3; i++) {
        free(small[i].values);
    }
}

/* A call longer than what passes through the layers at once: its sounds have the values that they have in small calls, but for the
 * rounding of sums over attended positions, which are cut at other places. */
static void test_groups(void **state) {
    const fixture *f = *state;
    enum { N = 90 };
    mel_clip clips[N];
    for (int i = 0; i < N; i++) {
        clips[i] = made_up(i == 40 ? 9111 : 100 + i * 13 % 300);
    }
    float *all = embed(f, clips, N);
    int64_t row = 0;
    for (int i = 0; i < N; i++) {
        float *one = embed(f, clips + i, 1);
        const int64_t rows = audio_encoder_rows(f->e, clips[i].frames), n = rows * audio_encoder_width(f->e);
        const float *there = all + row * audio_encoder_width(f->e);
        float worst = 0, largest = 0;
        for (int64_t k = 0; k < n; k++) {
            worst = fmaxf(worst, fabsf(one[k] - there[k]));
            largest = fmaxf(largest, fabsf(one[k]));
        }
        assert_true(worst <= 2e-6f * largest);
        row += rows;
        free(one);
    }
    free(all);
    for (int i = 0; i < N; i++) {
        free(clips[i].values);
    }
}

static void test_refusals(void **state) {
    const fixture *f = *state;
    omni_error err;
    float none[1], value[128] = {0};
    assert_int_equal(audio_encoder_run(f->e, &(mel_clip){.values = value, .stored = 1, .frames = 0}, 1, 0, none, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(audio_encoder_run(f->e, &(mel_clip){.values = value, .stored = 1, .frames = 2}, 1, 0, none, &err), OMNI_ERR_ARGUMENT);
}

static const ops *real;
static int allocations, refused_after; /* how many alloc gave; it refuses from the n-th on */

static omni_status meagre_alloc(backend *b, size_t bytes, void **out, omni_error *err) {
    *out = NULL;
    if (allocations >= refused_after) {
        return OMNI_ERR_MEMORY;
    }
    allocations++;
    return real->alloc(b, bytes, out, err);
}

/* A run that finds no memory can be tried again, and does not get its memory a second time. */
static void test_retry_takes_no_more_memory(void **state) {
    const fixture *f = *state;
    omni_error err;
    audio_encoder *fresh[2];
    float *value = calloc(400 * 128, sizeof *value), *embeds;
    const mel_clip clip = {.values = value, .stored = 400, .frames = 400};
    void *memory;
    int needed = 0;
    assert_int_equal(f->b->ops->alloc(f->b, (size_t)(audio_encoder_rows(f->e, 400) * audio_encoder_width(f->e)) * sizeof(float), &memory, &err),
                     OMNI_OK);
    embeds = memory;
    ops meagre = *f->b->ops;
    meagre.alloc = meagre_alloc;
    real = f->b->ops;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(audio_encoder_open(f->b, f->g, &fresh[i], &err), OMNI_OK);
        f->b->ops = &meagre;
        allocations = 0;
        for (int tries = 0; i == 1 && tries < 2 * needed; tries++) { /* the second one gets it piece by piece */
            refused_after = tries / 2;
            assert_int_equal(audio_encoder_run(fresh[i], &clip, 1, 0, embeds, &err), OMNI_ERR_MEMORY);
        }
        refused_after = 1000;
        assert_int_equal(audio_encoder_run(fresh[i], &clip, 1, 0, embeds, &err), OMNI_OK);
        assert_true(i == 0 || allocations == needed);
        needed = allocations;
        f->b->ops = real;
        audio_encoder_close(fresh[i]);
    }
    assert_true(needed > 0);
    real->release(f->b, embeds);
    free(value);
}

/* Every single byte of the keys and tensor list changed: an encoder or an error, no fault. */
static void test_damaged_file(void **state) {
    const fixture *f = *state;
    omni_error err;
    char *data;
    size_t size;
    assert_int_equal(file_read(AUDIO "encoder.gguf", 1 << 20, &data, &size, &err), OMNI_OK);
    int opened = 0, refused = 0;
    for (size_t at = 0; at < 3600; at++) {
        const char old = data[at];
        data[at] = (char)(old ^ (1 << at % 8));
        gguf *g = NULL;
        audio_encoder *e = NULL;
        omni_status status = gguf_open_memory(data, size, "damaged.gguf", &g, &err);
        if (status == OMNI_OK) {
            status = audio_encoder_open(f->b, g, &e, &err);
            opened += status == OMNI_OK;
            refused += status != OMNI_OK;
            assert_true((status == OMNI_OK) == (e != NULL));
            assert_true(status == OMNI_OK || strstr(err.text, "damaged.gguf"));
            audio_encoder_close(e);
            gguf_close(g);
        }
        data[at] = old;
    }
    assert_true(opened > 10 && refused > 500);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_longest_elsewhere),
        cmocka_unit_test(test_features_of_speech),
        cmocka_unit_test(test_windows_and_several_sounds),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_retry_takes_no_more_memory),
        cmocka_unit_test(test_damaged_file),
    };
    return cmocka_run_group_tests_name("audio_encoder", tests, set_up, tear_down);
}
