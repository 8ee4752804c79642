/* Asking an engine on the tiny model: set-up and tear-down of a cmocka group, and the steps from a text to an answer. Include after cmocka.h. */
#ifndef OMNI_TESTS_ASKING_H
#define OMNI_TESTS_ASKING_H

enum { CONTEXT = 1024 };

static omni_model *model;
static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    omni_model_params p = omni_model_params_default();
    p.model = MIXED_MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MIXED_MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MIXED_MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = 2;
    must(omni_model_open(&p, &model, &err));
    return make_folder(state);
}

static int tear_down(void **state) {
    omni_model_close(model);
    return remove_folder(state);
}

static omni_engine *make_engine(int parallel, bool started) {
    omni_engine *e;
    omni_engine_params p = omni_engine_params_default();
    p.parallel = parallel;
    p.context = CONTEXT;
    must(omni_engine_create(model, &p, &e, &err));
    if (started) {
        must(omni_engine_start(e, &err));
    }
    return e;
}

static omni_conversation *talk(const char *text, const char *picture) {
    omni_conversation *c;
    const omni_part parts[] = {{.kind = OMNI_TEXT, .text = text}, {.kind = OMNI_IMAGE, .path = picture}};
    must(omni_conversation_create(model, NULL, &c, &err));
    must(omni_conversation_add(c, &(omni_message){OMNI_USER, parts, picture ? 2 : 1}, &err));
    return c;
}

static omni_generate_params answer(int64_t tokens) {
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = p.ignore_eos = true;
    p.max_tokens = tokens;
    return p;
}

static omni_request *submit(omni_engine *e, omni_conversation *c, omni_generate_params p) {
    omni_request *r;
    must(omni_request_submit(e, c, &p, &r, &err));
    return r;
}

__attribute__((unused)) static omni_request *ask(omni_engine *e, const char *text, omni_generate_params p) {
    omni_conversation *c = talk(text, NULL);
    omni_request *r = submit(e, c, p);
    omni_conversation_free(c);
    return r;
}

__attribute__((unused)) static omni_request *ask_words(omni_engine *e, uint64_t seed, uint64_t words, omni_generate_params p) {
    char *text = mixed_text(seed, words);
    omni_request *r = ask(e, text, p);
    free(text);
    return r;
}

/* Its answer, which is as an engine of its own gives it. */
static mixed_answer answered(omni_request *r, const mixed_answer *expected) {
    mixed_answer a = mixed_read(r);
    if (a.status != OMNI_OK) {
        fail_msg("%s", a.err.text);
    }
    if (expected) {
        const char *what = mixed_difference(&a, expected);
        if (what) {
            fail_msg("another one alone: %s", what);
        }
    }
    omni_request_free(r);
    return a;
}

__attribute__((unused)) static void answered_as(omni_request *r, const mixed_answer *expected) {
    mixed_answer a = answered(r, expected);
    mixed_answer_free(&a);
}

__attribute__((unused)) static mixed_answer alone(const char *text, const char *picture, omni_generate_params p) {
    omni_engine *e = make_engine(1, false);
    omni_conversation *c = talk(text, picture);
    mixed_answer a = answered(submit(e, c, p), NULL);
    omni_conversation_free(c);
    omni_engine_destroy(e);
    return a;
}

__attribute__((unused)) static mixed_answer alone_words(uint64_t seed, uint64_t words, omni_generate_params p) {
    char *text = mixed_text(seed, words);
    mixed_answer a = alone(text, NULL, p);
    free(text);
    return a;
}

#endif
