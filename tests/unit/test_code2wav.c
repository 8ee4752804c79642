/* Code2wav against the reference's one-pass waveform, and streaming against one pass. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/code2wav.h"

#include "talker_vectors.h"

typedef struct fixture {
    backend *b;
    gguf *g, *cases;
    code2wav *m;
} fixture;

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    omni_error err = {0};
    must(cpu_backend_create(2, &f->b, &err), &err);
    f->g = vectors_open("talker.gguf");
    f->cases = vectors_open("talker_vectors.gguf");
    must(code2wav_open(f->b, f->g, &f->m, &err), &err);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    code2wav_close(f->m);
    gguf_close(f->g);
    gguf_close(f->cases);
    cpu_backend_destroy(f->b);
    free(f);
    return 0;
}

/* Decodes codes in chunks of so many frames; returns the samples, *n of them. */
static float *decode(fixture *f, code2wav_runner *r, code2wav_stream *s, const int32_t *codes, int64_t frames, int64_t chunk, int64_t *n) {
    omni_error err = {0};
    const int groups = code2wav_groups(f->m);
    float *wav = malloc((size_t)(frames * code2wav_upsample(f->m)) * sizeof *wav + 1);
    *n = 0;
    for (int64_t i = 0; i < frames; i += chunk) {
        int64_t made;
        must(code2wav_push(r, s, codes + i * groups, frames - i < chunk ? frames - i : chunk, wav + *n, &made, &err), &err);
        *n += made;
    }
    return wav;
}

static void test_equals_reference(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const uint32_t cases = vectors_u32(f->cases, "cases"), stride = vectors_u32(f->cases, "wav_stride");
    int64_t compared = 0;
    float worst = 0;
    code2wav_runner *r;
    code2wav_stream *s;
    must(code2wav_runner_create(f->m, NULL, 16, &r, &err), &err);
    must(code2wav_stream_create(f->m, 16, &s, &err), &err);
    for (uint32_t i = 0; i < cases; i++) {
        const tensor *codes = vectors_case(f->cases, i, "codes"), *want = vectors_case(f->cases, i, "wav");
        if (!codes) {
            continue;
        }
        char key[64];
        snprintf(key, sizeof key, "case.%u.samples", i);
        const int64_t frames = codes->ne[1];
        int64_t n;
        code2wav_stream_reset(s);
        float *wav = decode(f, r, s, codes->data, frames, frames, &n);
        assert_int_equal(n, vectors_u32(f->cases, key));
        assert_int_equal(n, code2wav_length(f->m, frames));
        const float *w = want->data;
        for (int64_t k = 0; k < want->ne[0]; k++, compared++) {
            const float d = fabsf(w[k] - wav[k * stride]);
            worst = d > worst || d != d ? d : worst;
        }
        free(wav);
    }
    code2wav_stream_destroy(s);
    code2wav_runner_destroy(r);
    printf("%lld samples, largest difference from the reference %.2g\n", (long long)compared, (double)worst);
    assert_true(compared > 1000);
    assert_true(worst <= 3e-5f);
}

static void test_chunks_join(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    enum { FRAMES = 310 };
    const int groups = code2wav_groups(f->m);
    int32_t *codes = malloc((size_t)(FRAMES * groups) * sizeof *codes);
    uint32_t x = 1;
    for (int i = 0; i < FRAMES * groups; i++) {
        x = x * 1664525u + 1013904223u;
        codes[i] = (int32_t)((x >> 8) % (uint32_t)code2wav_codebook(f->m));
    }
    int64_t whole_n;
    code2wav_runner *r;
    code2wav_stream *s;
    must(code2wav_runner_create(f->m, NULL, FRAMES, &r, &err), &err);
    must(code2wav_stream_create(f->m, FRAMES, &s, &err), &err);
    float *whole = decode(f, r, s, codes, FRAMES, FRAMES, &whole_n);
    assert_int_equal(whole_n, code2wav_length(f->m, FRAMES));
    float largest = 0;
    for (int64_t i = 0; i < whole_n; i++) {
        largest = fmaxf(largest, fabsf(whole[i]));
    }
    assert_true(largest > 0.1f);

    static const int chunks[] = {1, 2, 7, 50, 300};
    for (int k = 0; k < 10; k++) {
        const int chunk = chunks[k % 5];
        if (k >= 5) { /* the same pushes cut inside by a state made for smaller chunks */
            code2wav_stream_destroy(s);
            code2wav_runner_destroy(r);
            must(code2wav_runner_create(f->m, NULL, 3, &r, &err), &err);
            must(code2wav_stream_create(f->m, 3, &s, &err), &err);
        }
        code2wav_stream_reset(s);
        int64_t n;
        float *wav = decode(f, r, s, codes, FRAMES, chunk, &n);
        assert_int_equal(n, whole_n);
        assert_memory_equal(wav, whole, (size_t)n * sizeof *wav); /* bit for bit: rows do not depend on their neighbours */
        free(wav);
    }
    code2wav_stream_destroy(s);
    code2wav_runner_destroy(r);
    free(whole);
    free(codes);
}

/* Two streams that take turns on one runner, and then on another: each gives what it gives alone. */
static void test_streams_take_turns(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    enum { FRAMES = 20, CHUNK = 3 };
    const int groups = code2wav_groups(f->m);
    const int64_t up = code2wav_upsample(f->m);
    code2wav_runner *runners[2];
    code2wav_stream *streams[2];
    int32_t *codes = malloc((size_t)(2 * FRAMES * groups) * sizeof *codes);
    for (int i = 0; i < 2 * FRAMES * groups; i++) {
        codes[i] = i * 7919 % code2wav_codebook(f->m);
    }
    float *alone[2], *got[2];
    int64_t want[2], n[2] = {0};
    for (int k = 0; k < 2; k++) {
        must(code2wav_runner_create(f->m, NULL, CHUNK, &runners[k], &err), &err);
        must(code2wav_stream_create(f->m, CHUNK, &streams[k], &err), &err);
        alone[k] = decode(f, runners[0], streams[k], codes + k * FRAMES * groups, FRAMES, FRAMES, &want[k]);
        got[k] = malloc((size_t)(FRAMES * up) * sizeof **got);
        code2wav_stream_reset(streams[k]);
    }
    for (int i = 0; i < FRAMES; i++) {
        for (int k = 0; k < 2; k++) {
            int64_t made;
            must(code2wav_push(runners[(i + k) / 5 % 2], streams[k], codes + (k * FRAMES + i) * groups, 1, got[k] + n[k], &made, &err), &err);
            n[k] += made;
        }
    }
    for (int k = 0; k < 2; k++) {
        assert_int_equal(n[k], want[k]);
        assert_memory_equal(got[k], alone[k], (size_t)n[k] * sizeof **got);
        code2wav_stream_destroy(streams[k]);
        code2wav_runner_destroy(runners[k]);
        free(alone[k]), free(got[k]);
    }
    free(codes);
}

static void test_samples_come_early(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    code2wav_runner *r;
    code2wav_stream *s;
    must(code2wav_runner_create(f->m, NULL, 4, &r, &err), &err);
    must(code2wav_stream_create(f->m, 4, &s, &err), &err);
    int32_t *codes = calloc((size_t)code2wav_groups(f->m), sizeof *codes);
    float *wav = malloc((size_t)code2wav_upsample(f->m) * sizeof *wav);
    int64_t total = 0;
    for (int64_t frame = 1; frame <= 6; frame++) { /* after so many frames exactly the reference's length for them is out */
        int64_t n;
        must(code2wav_push(r, s, codes, 1, wav, &n, &err), &err);
        total += n;
        assert_int_equal(total, code2wav_length(f->m, frame));
    }
    free(wav);
    free(codes);
    code2wav_stream_destroy(s);
    code2wav_runner_destroy(r);
}

static void test_bad_code_leaves_stream(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const int groups = code2wav_groups(f->m);
    int32_t *codes = calloc((size_t)(2 * groups), sizeof *codes);
    float *a = malloc((size_t)(4 * code2wav_upsample(f->m)) * sizeof *a), *b = malloc((size_t)(4 * code2wav_upsample(f->m)) * sizeof *b);
    code2wav_runner *r;
    code2wav_stream *s;
    int64_t n, before, after;
    must(code2wav_runner_create(f->m, NULL, 2, &r, &err), &err);
    must(code2wav_stream_create(f->m, 2, &s, &err), &err);
    must(code2wav_push(r, s, codes, 2, a, &before, &err), &err);
    must(code2wav_push(r, s, codes, 2, a + before, &n, &err), &err);
    n += before;

    code2wav_stream_reset(s);
    must(code2wav_push(r, s, codes, 2, b, &before, &err), &err);
    codes[groups + 1] = code2wav_codebook(f->m);
    assert_int_equal(code2wav_push(r, s, codes, 2, b + before, &after, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "frame 1, group 1"));
    codes[groups + 1] = -1;
    assert_int_equal(code2wav_push(r, s, codes, 2, b + before, &after, &err), OMNI_ERR_ARGUMENT);
    codes[groups + 1] = 0;
    must(code2wav_push(r, s, codes, 2, b + before, &after, &err), &err);
    assert_int_equal(before + after, n);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    code2wav_stream_destroy(s);
    code2wav_runner_destroy(r);
    free(codes);
    free(a);
    free(b);
}

/* The last bias of a model moves every sample: what goes beyond 1 becomes 1, but what is not finite is an error, which a clamp would hide. */
static void test_samples_are_clamped_when_finite(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const tensor *bias = gguf_tensor(f->g, "code2wav.conv_out.bias");
    assert_non_null(bias);
    assert_int_equal(bias->size, sizeof(float));
    const size_t size = gguf_file_size(f->g), at = gguf_tensor_offset(f->g, bias);
    FILE *file = fopen(gguf_path(f->g), "rb");
    assert_non_null(file);
    uint8_t *data = aligned_alloc(64, (size + 63) / 64 * 64);
    assert_int_equal(fread(data, 1, size, file), size);
    fclose(file);
    static const struct { float bias, want; /* want 0: an error */ } cases[] = {{100, 1}, {-100, -1}, {INFINITY, 0}, {-INFINITY, 0}, {NAN, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf *g;
        code2wav *m;
        code2wav_runner *r;
        code2wav_stream *s;
        memcpy(data + at, &cases[i].bias, sizeof cases[i].bias);
        must(gguf_open_memory(data, size, "bias", &g, &err), &err);
        must(code2wav_open(f->b, g, &m, &err), &err);
        must(code2wav_runner_create(m, NULL, 4, &r, &err), &err);
        must(code2wav_stream_create(m, 4, &s, &err), &err);
        int32_t codes[4 * 32] = {0};
        assert_true(code2wav_groups(m) <= 32);
        float *wav = calloc((size_t)(4 * code2wav_upsample(m)) + 1, sizeof *wav);
        int64_t n = 0;
        const omni_status status = code2wav_push(r, s, codes, 4, wav, &n, &err);
        if (cases[i].want == 0) {
            assert_int_equal(status, OMNI_ERR_FORMAT);
            assert_non_null(strstr(err.text, "infinite"));
        } else {
            must(status, &err);
            assert_true(n > 0);
            for (int64_t k = 0; k < n; k++) {
                assert_true(wav[k] == cases[i].want);
            }
        }
        free(wav);
        code2wav_stream_destroy(s);
        code2wav_runner_destroy(r);
        code2wav_close(m);
        gguf_close(g);
    }
    free(data);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        vectors_dir = argv[1];
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_reference),       cmocka_unit_test(test_chunks_join),
        cmocka_unit_test(test_streams_take_turns),     cmocka_unit_test(test_samples_come_early),
        cmocka_unit_test(test_bad_code_leaves_stream), cmocka_unit_test(test_samples_are_clamped_when_finite),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
