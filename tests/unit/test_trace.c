/* Traces: their tensors by name, shape and value are what the callbacks and the conversation got; a run that fails leaves no file. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dialogue.h"
#include "engine/scheduler.h"
#include "gguf/safetensors.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static omni_model *model;
static omni_error err;
static char folder[] = "/tmp/trace-test-XXXXXX", path[64];

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = 2;
    must(omni_model_open(&p, &model, &err));
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/run.safetensors", folder);
    return 0;
}

static int tear_down(void **state) {
    omni_model_close(model);
    return rmdir(folder);
}

typedef struct listener {
    float *samples;
    size_t count;
    int left; /* pieces of sound before it has had enough; 0: never */
} listener;

static bool on_audio(void *arg, const float *samples, size_t count) {
    listener *l = arg;
    l->samples = realloc(l->samples, (l->count + count) * sizeof *samples);
    assert_non_null(l->samples);
    memcpy(l->samples + l->count, samples, count * sizeof *samples);
    l->count += count;
    return l->left == 0 || --l->left > 0;
}

static omni_generate_params tracing(listener *l) {
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = p.ignore_eos = p.speak = true;
    p.max_tokens = 7;
    p.max_frames = 20;
    p.on_audio = on_audio;
    p.arg = l;
    p.trace = path;
    return p;
}

static dialogue *asked(void) {
    dialogue *s;
    omni_part parts[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                         {.kind = OMNI_AUDIO, .path = MODELS "/media/question.ogg"},
                         {.kind = OMNI_TEXT, .text = "What is this?"}};
    must(dialogue_create(model, NULL, &s, &err));
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts, 3}, &err));
    return s;
}

static const st_tensor *tensor_of(const safetensors *f, const char *name, dtype type, int dims, const int64_t *shape) {
    const st_tensor *t = safetensors_find(f, name);
    if (!t) {
        fail_msg("no tensor %s", name);
    }
    assert_int_equal(t->type, type);
    assert_int_equal(t->n_dims, dims);
    for (int i = 0; i < dims; i++) {
        assert_int_equal(t->shape[i], shape[i]);
    }
    return t;
}

static float f32_at(const st_tensor *t, int64_t i) {
    float x;
    memcpy(&x, (const char *)t->data + (size_t)i * sizeof x, sizeof x);
    return x;
}

static int64_t i64_at(const st_tensor *t, int64_t i) {
    int64_t x;
    memcpy(&x, (const char *)t->data + (size_t)i * sizeof x, sizeof x);
    return x;
}

static void assert_finite(const st_tensor *t) {
    bool any = false;
    for (int64_t i = 0; i < (int64_t)(t->size / sizeof(float)); i++) {
        const float x = f32_at(t, i);
        assert_true(x > -1e6f && x < 1e6f);
        any = any || x != 0;
    }
    assert_true(any);
}

static void assert_sound(const safetensors *f, const listener *l, const omni_result *r) {
    const int groups = talker_get_config(model->talker)->groups;
    const st_tensor *codes = tensor_of(f, "codes", DTYPE_I64, 3, (int64_t[]){1, groups, r->frames});
    for (int64_t i = 0; i < groups * r->frames; i++) {
        assert_true(i64_at(codes, i) >= 0 && i64_at(codes, i) < code2wav_codebook(model->code2wav));
    }
    assert_int_equal(r->samples, l->count);
    const st_tensor *wav = tensor_of(f, "wav", DTYPE_F32, 1, (int64_t[]){r->samples});
    assert_memory_equal(wav->data, l->samples, l->count * sizeof(float));
    /* The codes sound as the samples do. */
    code2wav_runner *runner;
    code2wav_stream *stream;
    int32_t *frames = malloc((size_t)(groups * r->frames + 1) * sizeof *frames);
    float *again = malloc((size_t)(r->frames * code2wav_upsample(model->code2wav) + 1) * sizeof *again);
    int64_t made;
    for (int64_t k = 0; k < r->frames; k++) {
        for (int g = 0; g < groups; g++) {
            frames[k * groups + g] = (int32_t)i64_at(codes, g * r->frames + k);
        }
    }
    must(code2wav_runner_create(model->code2wav, NULL, 8, &runner, &err));
    must(code2wav_stream_create(model->code2wav, 8, &stream, &err));
    must(code2wav_push(runner, stream, frames, r->frames, again, &made, &err));
    assert_int_equal(made, r->samples);
    assert_memory_equal(again, l->samples, l->count * sizeof(float));
    code2wav_runner_destroy(runner);
    code2wav_stream_destroy(stream);
    free(frames);
    free(again);
}

static void a_trace_holds_what_happened(void **state) {
    dialogue *s = asked();
    listener l = {0};
    omni_result r;
    omni_generate_params p = tracing(&l), untraced = p;
    omni_request *same; /* reads the same rows */
    untraced.trace = NULL;
    must(omni_request_submit(s->engine, s->conversation, &untraced, &same, &err));
    omni_request_cancel(same);
    must(omni_generate(s->engine, s->conversation, &p, &r, &err));
    assert_true(r.frames > 0 && r.samples > 0);
    const prompt_row *rows = same->rows.rows;
    safetensors *f;
    must(safetensors_open_file(path, &f, &err));
    const int64_t read = r.prompt_tokens, answer = r.answer_tokens, vocab = model->thinker->config.vocab, width = model->thinker->config.width;
    const st_tensor *ids = tensor_of(f, "sequences", DTYPE_I64, 2, (int64_t[]){1, read + answer});
    const token_list *said = &s->conversation->chat.messages[1].answer;
    assert_int_equal(said->count, answer);
    for (int64_t i = 0; i < read; i++) {
        assert_int_equal(i64_at(ids, i), rows[i].id);
    }
    const st_tensor *positions = tensor_of(f, "position_ids", DTYPE_F32, 3, (int64_t[]){3, 1, read});
    for (int64_t i = 0; i < 3 * read; i++) {
        assert_true(f32_at(positions, i) == rows[i % read].position[i / read]);
    }
    const st_tensor *logits = tensor_of(f, "logits", DTYPE_F32, 3, (int64_t[]){1, answer, vocab});
    for (int64_t k = 0; k < answer; k++) { /* greedy: the largest is what was said */
        int64_t best = 0;
        for (int64_t i = 1; i < vocab; i++) {
            best = f32_at(logits, k * vocab + i) > f32_at(logits, k * vocab + best) ? i : best;
        }
        assert_int_equal(best, said->ids[k]);
        assert_int_equal(i64_at(ids, read + k), said->ids[k]);
    }
    assert_finite(tensor_of(f, "accept_hidden", DTYPE_F32, 3, (int64_t[]){1, read + answer - 1, width}));
    const medium *media = s->conversation->media;
    assert_finite(tensor_of(f, "image_embeds", DTYPE_F32, 2, (int64_t[]){media[0].item->embedded->visual_rows, width}));
    const st_tensor *heard = tensor_of(f, "audio_embeds", DTYPE_F32, 2, (int64_t[]){media[1].item->embedded->audio_rows, width});
    assert_memory_equal(heard->data, media[1].item->embedded->audio, heard->size); /* this backend's memory is the host's */
    assert_sound(f, &l, &r);
    safetensors_close(f);
    omni_request_free(same);
    /* A second run replaces it; speaking a text has the sound's tensors alone. */
    free(l.samples);
    l = (listener){0};
    must(omni_speak(s->engine, "Hello", &p, &r, &err));
    must(safetensors_open_file(path, &f, &err));
    assert_sound(f, &l, &r);
    assert_int_equal(safetensors_count(f), 2);
    safetensors_close(f);
    free(l.samples);
    unlink(path);
    dialogue_destroy(s);
}

static void assert_untouched(void) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 3);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0); /* nothing else is in it */
    assert_int_equal(mkdir(folder, 0700), 0);
}

static void put_former(void) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("old", f);
    fclose(f);
}

static void what_fails_leaves_no_trace(void **state) {
    for (int kind = 0; kind < 4; kind++) {
        dialogue *s = asked();
        listener l = {0};
        omni_result r;
        omni_generate_params p = tracing(&l);
        struct rlimit limit, small = {100, 100};
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
        small.rlim_max = limit.rlim_max;
        put_former();
        if (kind == 0) { /* the disk is full */
            signal(SIGXFSZ, SIG_IGN);
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
            omni_status status = omni_generate(s->engine, s->conversation, &p, &r, &err);
            omni_status spoken = omni_speak(s->engine, "Hello", &p, &r, NULL);
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
            assert_int_equal(status, OMNI_ERR_IO);
            assert_int_equal(spoken, OMNI_ERR_IO);
            assert_non_null(strstr(err.text, path));
            assert_int_equal(s->conversation->chat.count, 1);
        } else if (kind == 1) { /* the listener has had enough */
            l.left = 1;
            must(omni_generate(s->engine, s->conversation, &p, &r, &err));
            assert_int_equal(r.finish, OMNI_FINISH_CANCELLED);
        } else if (kind == 2) { /* an argument is wrong */
            p.voice = "nobody";
            assert_int_equal(omni_generate(s->engine, s->conversation, &p, &r, &err), OMNI_ERR_ARGUMENT);
            assert_int_equal(omni_speak(s->engine, "Hello", &p, &r, &err), OMNI_ERR_ARGUMENT);
        } else { /* cancelled before it began */
            omni_conversation_cancel(s->conversation);
            must(omni_generate(s->engine, s->conversation, &p, &r, &err));
            assert_int_equal(r.finish, OMNI_FINISH_CANCELLED);
        }
        assert_untouched();
        free(l.samples);
        dialogue_destroy(s);
    }
    dialogue *s = asked();
    omni_generate_params p = tracing(&(listener){0});
    p.trace = "/nowhere/trace.safetensors";
    assert_int_equal(omni_generate(s->engine, s->conversation, &p, NULL, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "/nowhere"));
    dialogue_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trace_holds_what_happened),
        cmocka_unit_test(what_fails_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
