/* Decoding beside the talker: the same samples as decoding in turn. */
#include <stdlib.h>
#include <string.h>

#include "engine/chunk_decoder.h"

#include "talker_vectors.h"

enum { FRAMES = 23, CHUNK = 5 };

static void test_same_samples(void **state) {
    omni_error err = {0};
    backend *b, *beside;
    code2wav *m;
    code2wav_runner *r;
    code2wav_stream *s;
    chunk_decoder *d;
    must(cpu_backend_create(2, &b, &err), &err);
    gguf *g = vectors_open("talker.gguf");
    must(code2wav_open(b, g, &m, &err), &err);
    must(code2wav_runner_create(m, NULL, CHUNK, &r, &err), &err);
    must(code2wav_stream_create(m, CHUNK, &s, &err), &err);
    const int groups = code2wav_groups(m);
    const int64_t up = code2wav_upsample(m);
    int32_t *codes = malloc(FRAMES * (size_t)groups * sizeof *codes);
    for (int i = 0; i < FRAMES * groups; i++) {
        codes[i] = i * 7919 % code2wav_codebook(m);
    }
    float *want = calloc((size_t)(FRAMES * up), sizeof *want), *got = calloc((size_t)(FRAMES * up), sizeof *got);
    int64_t n, made = 0;
    must(code2wav_push(r, s, codes, FRAMES, want, &n, &err), &err);

    must(b->create_beside(b, &beside, &err), &err);
    assert_non_null(beside);
    must(chunk_decoder_create(m, beside, CHUNK, CHUNK, &d, &err), &err);
    code2wav_stream_reset(s);
    chunk p;
    omni_status status;
    assert_false(chunk_decoder_take(d, true, &p, &status, &err)); /* nothing was started */
    for (int64_t i = 0; i < FRAMES; i += CHUNK) {
        chunk_decoder_start(d, s, codes + i * groups, FRAMES - i < CHUNK ? FRAMES - i : CHUNK);
        assert_true(chunk_decoder_busy(d));
        while (!chunk_decoder_take(d, i % 2 == 0, &p, &status, &err)) { /* by waiting and by asking */
        }
        assert_false(chunk_decoder_busy(d));
        must(status, &err);
        assert_memory_equal(p.codes, codes + i * groups, (size_t)(p.frames * groups) * sizeof *codes);
        memcpy(got + made, p.samples, (size_t)p.count * sizeof *got);
        made += p.count;
    }
    assert_int_equal(made, n);
    assert_memory_equal(got, want, (size_t)n * sizeof *got);

    codes[0] = code2wav_codebook(m); /* an error comes back from the other thread with its text */
    chunk_decoder_start(d, s, codes, 1);
    assert_true(chunk_decoder_take(d, true, &p, &status, &err));
    assert_int_equal(status, OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "group 0"));
    codes[0] = 0;
    chunk_decoder_start(d, s, codes, CHUNK); /* still under way, perhaps, when it is destroyed */
    chunk_decoder_destroy(d);
    code2wav_stream_destroy(s);
    code2wav_runner_destroy(r);
    code2wav_close(m);
    gguf_close(g);
    cpu_backend_destroy(b);
    free(codes), free(want), free(got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
