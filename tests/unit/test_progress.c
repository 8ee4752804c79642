/* What long work tells of its progress: done of total, never back within a stage, at the end all of it; false ends the work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "omni.h"

#include "scratch.h"

#include "convert_checkpoint.h"
#include "dialogue.h"

#include <cmocka.h>

#define MODELS TEST_DATA "/../../models"

typedef struct told {
    char what[64];
    uint64_t done, total;
    bool gaps;                /* calls may be left out: events replace one another */
    int calls, stages, after; /* after: calls that are answered with true; -1: all */
} told;

/* A stage ends when what it is called changes; then, and at the end, all of it must have been done. */
static void ends(const told *t) {
    if (t->calls > 0) {
        assert_int_equal(t->done, t->total);
    }
}

static bool take(void *arg, const char *what, uint64_t done, uint64_t total) {
    told *t = arg;
    assert_true(total > 0);
    assert_true(done <= total);
    const bool shared = t->calls > 0 && total == t->total && done >= t->done; /* seeing and hearing have one amount of work */
    if (t->calls == 0 || strcmp(what, t->what) != 0) {
        if (!shared && !t->gaps) {
            ends(t);
        }
        snprintf(t->what, sizeof t->what, "%s", what);
        t->stages++;
    } else {
        assert_int_equal(total, t->total);
        assert_true(done >= t->done);
    }
    t->done = done;
    t->total = total;
    t->calls++;
    return t->after < 0 || t->calls <= t->after;
}

static char out_path[600];
static const char *out(const char *name) {
    snprintf(out_path, sizeof out_path, "%s/%s", folder, name);
    return out_path;
}

static omni_status run_convert(told *t, omni_error *err) {
    omni_convert_params p = omni_convert_params_default();
    p.checkpoint = p.out_dir = folder;
    p.progress = take;
    p.progress_arg = t;
    return omni_convert(&p, NULL, err);
}

static omni_status run_quantize(told *t, omni_error *err) {
    omni_quantize_params p = omni_quantize_params_default();
    p.input = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.output = out("q.gguf");
    p.type = "q8_0";
    p.progress = take;
    p.progress_arg = t;
    return omni_quantize(&p, NULL, err);
}

static omni_status run_synth(told *t, omni_error *err) {
    omni_synth_params p = omni_synth_params_default();
    p.path = out("s.gguf");
    p.part = OMNI_PART_MMPROJ;
    p.type = "q4_0";
    p.progress = take;
    p.progress_arg = t;
    return omni_synth(&p, NULL, err);
}

static omni_status run_imatrix(told *t, omni_error *err) {
    FILE *f = fopen(out("corpus.txt"), "w");
    for (int i = 0; i < 400; i++) {
        fprintf(f, "word %d ", i);
    }
    fclose(f);
    char corpus[600];
    snprintf(corpus, sizeof corpus, "%s", out("corpus.txt"));
    omni_imatrix_params p = omni_imatrix_params_default();
    p.model.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.text = corpus;
    p.piece_bytes = 512;
    p.output = out("i.gguf");
    p.progress = take;
    p.progress_arg = t;
    return omni_imatrix(&p, NULL, err);
}

static omni_status open_model(told *t, omni_model **model, omni_error *err) {
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = 2;
    if (t) {
        p.progress = take;
        p.progress_arg = t;
    }
    return omni_model_open(&p, model, err);
}

static omni_status run_open(told *t, omni_error *err) {
    omni_model *model = NULL;
    omni_status status = open_model(t, &model, err);
    omni_model_close(model);
    return status;
}

static void check(omni_status (*work)(told *, omni_error *)) {
    omni_error err = {0};
    told t = {.after = -1};
    assert_int_equal(work(&t, &err), OMNI_OK);
    assert_true(t.calls > 0);
    ends(&t);
    told stopped = {.after = 0};
    assert_int_equal(work(&stopped, &err), OMNI_CANCELLED);
}

static void conversion(void **state) {
    write_checkpoint(false, NULL);
    check(run_convert);
}

static void quantisation(void **state) {
    check(run_quantize);
}

static void random_files(void **state) {
    check(run_synth);
}

static void importance(void **state) {
    check(run_imatrix);
}

static void opening(void **state) {
    check(run_open);
}

/* Pictures and sounds are seen and heard, then the prompt is read in chunks. */
static void answering(void **state) {
    omni_error err = {0};
    omni_model *model;
    dialogue *session;
    told t = {.after = -1, .gaps = true};
    assert_int_equal(open_model(NULL, &model, &err), OMNI_OK);
    dialogue_params sp = dialogue_params_default();
    sp.engine.batch = 16;
    assert_int_equal(dialogue_create(model, &sp, &session, &err), OMNI_OK);
    const omni_part parts[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                               {.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                               {.kind = OMNI_AUDIO, .path = MODELS "/media/question.ogg"},
                               {.kind = OMNI_TEXT, .text = "What is this? One more time: what is this?"}};
    assert_int_equal(omni_conversation_add(session->conversation, &(omni_message){OMNI_USER, parts, 4}, &err), OMNI_OK);
    omni_generate_params g = omni_generate_params_default();
    g.max_tokens = 2;
    g.on_progress = take;
    g.arg = &t;
    assert_int_equal(omni_generate(session->engine, session->conversation, &g, NULL, &err), OMNI_OK);
    assert_true(t.stages >= 2);
    ends(&t);
    dialogue_destroy(session);
    omni_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(conversion), cmocka_unit_test(quantisation), cmocka_unit_test(random_files),
                                       cmocka_unit_test(importance), cmocka_unit_test(opening),      cmocka_unit_test(answering)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
