/* Every function of omni.h with arguments that cannot be: an error with a text, or the documented nothing, never a crash; and handles, files and
 * conversations are as before. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "omni.h"

#include <cmocka.h>

#define MODELS TEST_DATA "/../../models"
#define THINKER MODELS "/tiny/qwen3-omni-f16.gguf"

static omni_model *model;
static omni_engine *engine;
static omni_conversation *conversation;
static omni_tokenizer *tokenizer;
static omni_error err;

static int set_up(void **state) {
    omni_model_params p = omni_model_params_default();
    p.model = THINKER;
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = 1;
    return omni_model_open(&p, &model, &err) || omni_engine_create(model, NULL, &engine, &err) ||
           omni_conversation_create(model, NULL, &conversation, &err) || omni_tokenizer_open(THINKER, &tokenizer, &err);
}

static int tear_down(void **state) {
    omni_tokenizer_close(tokenizer);
    omni_conversation_free(conversation);
    omni_engine_destroy(engine);
    omni_model_close(model);
    return 0;
}

/* The call is refused, says why, and with NULL for the error too. `call` uses e. */
#define REFUSED(call)                                                                                                                                \
    do {                                                                                                                                             \
        omni_error here = {0}, *e = &here;                                                                                                           \
        omni_status status = (call);                                                                                                                 \
        if (status >= OMNI_OK || status == OMNI_CANCELLED || here.text[0] == 0 || here.code != status) {                                             \
            fail_msg("line %d: %s: status %d, \"%s\"", __LINE__, #call, (int)status, here.text);                                                     \
        }                                                                                                                                            \
        e = NULL;                                                                                                                                    \
        assert_int_equal((call), status);                                                                                                            \
    } while (0)

static void models(void **state) {
    omni_model *m = (omni_model *)&m;
    omni_model_params zero = {0}, p = omni_model_params_default();
    const char *name;
    REFUSED(omni_model_open(NULL, &m, e));
    assert_null(m);
    REFUSED(omni_model_open(&zero, &m, e));
    p.model = THINKER;
    REFUSED(omni_model_open(&p, NULL, e));
    static const int threads[] = {-1, INT32_MIN, 100000, INT32_MAX};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        p.threads = threads[i];
        REFUSED(omni_model_open(&p, &m, e));
        assert_null(m);
    }
    p.threads = 1;
    p.scheduling.poll = -1;
    REFUSED(omni_model_open(&p, &m, e));
    p.scheduling.poll = 101;
    REFUSED(omni_model_open(&p, &m, e));
    p.scheduling = (omni_scheduling){.cpu_mask = ""};
    REFUSED(omni_model_open(&p, &m, e));
    p.scheduling = (omni_scheduling){.cpu_range = "9-0"};
    REFUSED(omni_model_open(&p, &m, e));
    p.scheduling = (omni_scheduling){0};
    p.model = "";
    REFUSED(omni_model_open(&p, &m, e));
    p.model = THINKER;
    p.mmproj = "/nowhere";
    REFUSED(omni_model_open(&p, &m, e));
    p.mmproj = NULL;
    p.talker = THINKER; /* of another kind */
    REFUSED(omni_model_open(&p, &m, e));
    omni_model_close(NULL);
    assert_int_equal(omni_model_voice_count(NULL), 0);
    assert_null(omni_model_voice(NULL, 0));
    assert_null(omni_model_voice(model, SIZE_MAX));
    assert_int_equal(omni_model_sample_rate(NULL), 0);
    assert_int_equal(omni_model_context(NULL), 0);
    assert_int_equal(omni_model_vocabulary(NULL), 0);
    REFUSED(omni_model_find_voice(NULL, NULL, &name, e));
    REFUSED(omni_model_find_voice(model, NULL, NULL, e));
    REFUSED(omni_model_find_voice(model, "", &name, e));
    REFUSED(omni_model_find_voice(model, "no such voice", &name, e));
}

static void messages(void **state) {
    const omni_part text = {.kind = OMNI_TEXT, .text = "Hello"};
    const omni_part bad[] = {
        {.kind = OMNI_TEXT},
        {.kind = OMNI_IMAGE},
        {.kind = OMNI_AUDIO, .text = "text is no sound"},
        {.kind = (omni_kind)-1, .text = "x", .path = "x"},
        {.kind = (omni_kind)4, .text = "x", .path = "x"},
        {.kind = OMNI_IMAGE, .path = ""},
        {.kind = OMNI_IMAGE, .data = "", .size = 0},
        {.kind = OMNI_AUDIO, .data = "RIFF", .size = 4},
        {.kind = OMNI_VIDEO, .path = "/nowhere"},
    };
    REFUSED(omni_conversation_add(NULL, &(omni_message){OMNI_USER, &text, 1}, e));
    REFUSED(omni_conversation_add(conversation, NULL, e));
    REFUSED(omni_conversation_add(conversation, &(omni_message){OMNI_USER, NULL, 1}, e));
    REFUSED(omni_conversation_add(conversation, &(omni_message){OMNI_USER, NULL, SIZE_MAX}, e));
    REFUSED(omni_conversation_add(conversation, &(omni_message){(omni_role)-1, &text, 1}, e));
    REFUSED(omni_conversation_add(conversation, &(omni_message){(omni_role)4, &text, 1}, e));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        omni_part parts[] = {text, bad[i]};
        REFUSED(omni_conversation_add(conversation, &(omni_message){OMNI_USER, parts, 2}, e));
    }
    static const char *const json[] = {"", "{", "7", "null", "{}", "[7]", "[{}]", "[{\"role\": \"user\"}]", "\xff"};
    REFUSED(omni_conversation_add_json(NULL, "[]", 2, e));
    REFUSED(omni_conversation_add_json(conversation, NULL, 0, e));
    REFUSED(omni_conversation_add_json(conversation, NULL, 7, e));
    REFUSED(omni_conversation_set_tools(NULL, "[]", 2, e));
    REFUSED(omni_conversation_set_tools(conversation, NULL, 2, e));
    for (size_t i = 0; i < sizeof json / sizeof *json; i++) {
        REFUSED(omni_conversation_add_json(conversation, json[i], strlen(json[i]), e));
        REFUSED(omni_conversation_set_tools(conversation, json[i], strlen(json[i]), e));
    }
    omni_generate_params p = omni_generate_params_default();
    REFUSED(omni_generate(engine, conversation, &p, NULL, e)); /* nothing of that is in the conversation: it is empty */
}

static void answers(void **state) {
    const omni_part text = {.kind = OMNI_TEXT, .text = "Hello"};
    omni_generate_params fine = omni_generate_params_default(), zero = {0}, bad[64];
    fine.max_tokens = 2;
    fine.speak = true;
    fine.max_frames = 2;
    assert_int_equal(omni_conversation_add(conversation, &(omni_message){OMNI_USER, &text, 1}, &err), OMNI_OK);
    REFUSED(omni_generate(NULL, conversation, &fine, NULL, e));
    REFUSED(omni_generate(engine, NULL, &fine, NULL, e));
    REFUSED(omni_generate(engine, conversation, NULL, NULL, e));
    REFUSED(omni_generate(engine, conversation, &zero, NULL, e));
    REFUSED(omni_speak(NULL, "a", &fine, NULL, e));
    REFUSED(omni_speak(engine, NULL, &fine, NULL, e));
    REFUSED(omni_speak(engine, "a", NULL, NULL, e));
    REFUSED(omni_speak(engine, "a", &zero, NULL, e));
    REFUSED(omni_speak(engine, "", &fine, NULL, e));
    static const float odd[] = {NAN, INFINITY, -INFINITY, -1};
    static const omni_logit_bias outside[] = {{-1, 1}, {INT32_MAX, 1}, {INT32_MIN, 1}, {0, NAN}, {0, INFINITY}};
    static const char *const null_stop[] = {"a", NULL}, *const empty_stop[] = {""}, *const malformed_stop[] = {"\xff"};
    size_t n = 0, of_speech = 0;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        bad[k] = fine;
    }
    bad[n++].max_frames = -1;
    for (size_t i = 0; i < 4; i++) {
        bad[n++].speech.temperature = odd[i];
        bad[n++].speech.repeat_penalty = odd[i];
    }
    bad[n++].speech.top_p = NAN;
    bad[n++].speech.min_p = 1.5f;
    bad[n++].speech.top_k = -1;
    for (size_t i = 0; i < 3; i++) {
        bad[n++].speech.presence_penalty = odd[i];
        bad[n++].speech.frequency_penalty = odd[i];
    }
    bad[n++].voice = "no such voice";
    bad[n++].trace = "/nowhere/trace.safetensors";
    of_speech = n;
    for (size_t i = 0; i < 4; i++) {
        bad[n++].text.temperature = odd[i];
        bad[n++].text.repeat_penalty = odd[i];
    }
    bad[n++].text.top_k = INT32_MIN;
    for (size_t i = 0; i < 3; i++) {
        bad[n++].text.presence_penalty = odd[i];
        bad[n++].text.frequency_penalty = odd[i];
    }
    bad[n++].text.presence_penalty = 100.5f;
    bad[n++].text.frequency_penalty = -101;
    bad[n].logprobs = true;
    bad[n++].top_logprobs = -1;
    bad[n].logprobs = true;
    bad[n++].top_logprobs = 21;
    bad[n++].top_logprobs = 1; /* and no logprobs */
    bad[n++].logit_bias_count = 1;
    bad[n].logit_bias = outside;
    bad[n++].logit_bias_count = SIZE_MAX;
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        bad[n].logit_bias = outside + i;
        bad[n++].logit_bias_count = 1;
    }
    bad[n++].max_tokens = INT64_MIN;
    bad[n].stop_count = 1;
    bad[n++].stop = NULL;
    bad[n].stop_count = SIZE_MAX;
    bad[n++].stop = null_stop;
    bad[n].stop_count = 2;
    bad[n++].stop = null_stop;
    bad[n].stop_count = 1;
    bad[n++].stop = empty_stop;
    bad[n].stop_count = 1;
    bad[n++].stop = malformed_stop;
    assert_true(n <= sizeof bad / sizeof *bad);
    for (size_t i = 0; i < n; i++) {
        REFUSED(omni_generate(engine, conversation, &bad[i], NULL, e));
        if (i < of_speech) {
            REFUSED(omni_speak(engine, "Hello", &bad[i], NULL, e));
        }
    }
    assert_int_equal(omni_generate(engine, conversation, &fine, NULL, NULL), OMNI_OK); /* and without callbacks or results */
    assert_int_equal(omni_speak(engine, "Hello", &fine, NULL, NULL), OMNI_OK);
    assert_int_equal(omni_conversation_reset(conversation), OMNI_OK);
}

static void conversations(void **state) {
    omni_conversation *c = (omni_conversation *)&c;
    REFUSED(omni_conversation_create(NULL, NULL, &c, e));
    assert_null(c);
    REFUSED(omni_conversation_create(model, NULL, NULL, e));
    omni_conversation_params bad[13];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bad[i] = omni_conversation_params_default();
    }
    bad[0].context = -1;
    bad[1].context = INT64_MIN;
    bad[2].context = INT64_MAX;
    bad[3].fps = NAN;
    bad[4].fps = -1;
    bad[5].fps = INFINITY;
    bad[6].max_audio_seconds = NAN;
    bad[7].max_audio_seconds = -1;
    bad[8].max_audio_seconds = INFINITY;
    bad[9].max_video_frames = -1;
    bad[10].max_pixels = INT64_MIN;
    bad[11].max_media_memory = -1;
    bad[12].max_video_frames = INT32_MIN;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REFUSED(omni_conversation_create(model, &bad[i], &c, e));
        assert_null(c);
    }
    assert_int_equal(omni_conversation_create(model, NULL, &c, &err), OMNI_OK);
    const omni_part text = {.kind = OMNI_TEXT, .text = "Hello"}, nothing = {.kind = OMNI_TEXT};
    REFUSED(omni_conversation_add(NULL, &(omni_message){OMNI_USER, &text, 1}, e));
    REFUSED(omni_conversation_add(c, NULL, e));
    REFUSED(omni_conversation_add(c, &(omni_message){OMNI_USER, NULL, SIZE_MAX}, e));
    REFUSED(omni_conversation_add(c, &(omni_message){OMNI_USER, &nothing, 1}, e));
    REFUSED(omni_conversation_add(c, &(omni_message){(omni_role)7, &text, 1}, e));
    REFUSED(omni_conversation_add_json(NULL, "[]", 2, e));
    REFUSED(omni_conversation_add_json(c, NULL, 2, e));
    REFUSED(omni_conversation_add_json(c, "[7]", 3, e));
    REFUSED(omni_conversation_set_tools(NULL, "[]", 2, e));
    REFUSED(omni_conversation_set_tools(c, NULL, 2, e));
    REFUSED(omni_conversation_add_answer(NULL, NULL, e));
    REFUSED(omni_conversation_add_answer(c, NULL, e));
    assert_int_equal(omni_conversation_take_back(NULL), OMNI_ERR_ARGUMENT);
    assert_int_equal(omni_conversation_reset(NULL), OMNI_ERR_ARGUMENT);
    assert_int_equal(omni_conversation_take_back(c), OMNI_OK); /* of nothing */
    assert_int_equal(omni_conversation_reset(c), OMNI_OK);
    omni_conversation_cancel(NULL);
    assert_false(omni_conversation_cancel_withdraw(NULL));
    omni_speak_cancel(NULL);
    assert_false(omni_speak_cancel_withdraw(NULL));
    omni_conversation_free(NULL);
    omni_conversation_free(c);
}

static void engines(void **state) {
    omni_engine *x = (omni_engine *)&x;
    REFUSED(omni_engine_create(NULL, NULL, &x, e));
    assert_null(x);
    REFUSED(omni_engine_create(model, NULL, NULL, e));
    omni_engine_params bad[18], odd[6];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bad[i] = omni_engine_params_default();
    }
    bad[0].parallel = -1;
    bad[1].parallel = INT32_MIN;
    bad[2].parallel = INT32_MAX;
    bad[3].queue = -1;
    bad[4].context = -1;
    bad[5].context = INT64_MAX;
    bad[6].cache_tokens = -1;
    bad[7].cache_tokens = INT64_MAX;
    bad[8].cache_tokens = 1; /* less than a context */
    bad[9].batch = -1;
    bad[10].prompt_seconds = NAN;
    bad[11].prompt_seconds = -1;
    bad[12].prompt_seconds = INFINITY;
    bad[13].held_seconds = NAN;
    bad[14].held_seconds = -1;
    bad[15].held_seconds = INFINITY;
    bad[16].cache_type_k = (omni_cache_type)-1;
    bad[17].cache_type_v = (omni_cache_type)3;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REFUSED(omni_engine_create(model, &bad[i], &x, e));
        assert_null(x);
    }
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) { /* odd, and possible */
        odd[i] = omni_engine_params_default();
    }
    odd[0].queue = INT32_MAX;
    odd[1].held_seconds = odd[1].prompt_seconds = 1e308;
    odd[1].held_text = SIZE_MAX;
    odd[2].parallel = 1024;
    odd[2].context = 1;
    odd[3].batch = INT32_MAX;
    odd[4].prompt_seconds = odd[4].held_seconds = 1e-300;
    odd[4].held_text = 1;
    odd[5].batch = 1;
    omni_generate_params p = omni_generate_params_default();
    p.speak = true;
    p.max_frames = 2;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        omni_request *r;
        omni_event event = {0};
        assert_int_equal(omni_engine_create(model, &odd[i], &x, &err), OMNI_OK);
        assert_int_equal(omni_request_speak(x, "Hello", &p, &r, &err), OMNI_OK);
        while (!omni_request_next(r, -1, &event) || event.kind != OMNI_EVENT_DONE) {
        }
        assert_int_equal(event.status, OMNI_OK);
        omni_request_free(r);
        omni_engine_destroy(x);
    }
    REFUSED(omni_engine_start(NULL, e));
    assert_false(omni_engine_step(NULL));
    assert_int_equal(omni_engine_context(NULL), 0);
    assert_int_equal(omni_engine_count(NULL).submitted, 0);
    omni_engine_forget(NULL);
    omni_engine_destroy(NULL);
}

static void requests(void **state) {
    omni_engine *x;
    omni_conversation *c, *foreign;
    omni_request *r = (omni_request *)&r;
    omni_event event;
    omni_model *other;
    omni_model_params mp = omni_model_params_default();
    mp.model = THINKER;
    mp.threads = 1;
    assert_int_equal(omni_model_open(&mp, &other, &err), OMNI_OK);
    assert_int_equal(omni_engine_create(model, NULL, &x, &err), OMNI_OK);
    assert_int_equal(omni_conversation_create(model, NULL, &c, &err), OMNI_OK);
    assert_int_equal(omni_conversation_create(other, NULL, &foreign, &err), OMNI_OK);
    omni_generate_params fine = omni_generate_params_default(), zero = {0}, bad = fine;
    fine.max_tokens = 2;
    REFUSED(omni_request_submit(x, c, &fine, &r, e)); /* an empty conversation */
    assert_null(r);
    const omni_part text = {.kind = OMNI_TEXT, .text = "Hello"};
    assert_int_equal(omni_conversation_add(c, &(omni_message){OMNI_USER, &text, 1}, &err), OMNI_OK);
    assert_int_equal(omni_conversation_add(foreign, &(omni_message){OMNI_USER, &text, 1}, &err), OMNI_OK);
    REFUSED(omni_request_submit(NULL, c, &fine, &r, e));
    REFUSED(omni_request_submit(x, NULL, &fine, &r, e));
    REFUSED(omni_request_submit(x, c, NULL, &r, e));
    REFUSED(omni_request_submit(x, c, &fine, NULL, e));
    REFUSED(omni_request_submit(x, c, &zero, &r, e));
    REFUSED(omni_request_submit(x, foreign, &fine, &r, e));
    bad.stop_count = SIZE_MAX;
    REFUSED(omni_request_submit(x, c, &bad, &r, e));
    bad = fine;
    bad.trace = "/nowhere/trace.safetensors";
    REFUSED(omni_request_submit(x, c, &bad, &r, e));
    REFUSED(omni_request_speak(NULL, "Hello", &fine, &r, e));
    REFUSED(omni_request_speak(x, NULL, &fine, &r, e));
    REFUSED(omni_request_speak(x, "", &fine, &r, e));
    REFUSED(omni_request_speak(x, "Hello", NULL, &r, e));
    REFUSED(omni_request_speak(x, "Hello", &fine, NULL, e));
    REFUSED(omni_request_speak(x, "Hello", &bad, &r, e));
    assert_null(r);
    assert_int_equal(omni_engine_count(x).submitted, 0);

    assert_int_equal(omni_request_submit(x, c, &fine, &r, &err), OMNI_OK);
    assert_false(omni_request_next(NULL, 0, &event));
    assert_false(omni_request_next(r, 0, NULL));
    omni_request_set_wakeup(NULL, NULL, NULL);
    omni_request_set_wakeup(r, NULL, NULL);
    omni_request_cancel(NULL);
    omni_request_free(NULL);
    while (!omni_request_next(r, -1, &event) || event.kind != OMNI_EVENT_DONE) {
    }
    assert_int_equal(event.status, OMNI_OK);
    REFUSED(omni_conversation_add_answer(foreign, r, e));
    omni_request_free(r);
    omni_conversation_free(c);
    omni_conversation_free(foreign);
    omni_engine_destroy(x);
    omni_model_close(other);

    mp.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf"; /* without the thinker's layers: only given texts */
    mp.embeddings_only = true;
    assert_int_equal(omni_model_open(&mp, &other, &err), OMNI_OK);
    assert_int_equal(omni_engine_create(other, NULL, &x, &err), OMNI_OK);
    assert_int_equal(omni_conversation_create(other, NULL, &c, &err), OMNI_OK);
    assert_int_equal(omni_conversation_add(c, &(omni_message){OMNI_USER, &text, 1}, &err), OMNI_OK);
    REFUSED(omni_request_submit(x, c, &fine, &r, e));
    omni_engine_forget(x);
    omni_conversation_free(c);
    omni_engine_destroy(x);
    omni_model_close(other);
}

static bool take = true;

static bool take_bytes(void *arg, const void *data, size_t size) {
    return take;
}

static void files_and_tools(void **state) {
    char path[] = "/tmp/api-arguments-XXXXXX.wav", *text = path;
    int file = mkstemps(path, 4);
    assert_true(file >= 0);
    close(file);
    omni_sound *sound = (omni_sound *)path;
    REFUSED(omni_sound_open(NULL, 24000, &sound, e));
    assert_null(sound);
    REFUSED(omni_sound_open(path, 24000, NULL, e));
    REFUSED(omni_sound_open(path, 0, &sound, e));
    REFUSED(omni_sound_open(path, INT32_MIN, &sound, e));
    REFUSED(omni_sound_open("", 24000, &sound, e));
    REFUSED(omni_sound_open("/tmp/sound.unknown", 24000, &sound, e));
    REFUSED(omni_sound_check(NULL, e));
    REFUSED(omni_sound_check("/nowhere/a.wav", e));
    REFUSED(omni_sound_write(NULL, (float[]){0}, 1, e));
    assert_int_equal(omni_sound_open(path, 24000, &sound, &err), OMNI_OK);
    REFUSED(omni_sound_write(sound, NULL, 1, e));
    assert_int_equal(omni_sound_write(sound, NULL, 0, &err), OMNI_OK);
    assert_int_equal(omni_sound_close(sound, &err), OMNI_OK);
    assert_int_equal(omni_sound_close(NULL, &err), OMNI_OK);
    omni_encoder *encoder = (omni_encoder *)path;
    omni_encoder_params params = omni_encoder_params_default();
    REFUSED(omni_encoder_open(&params, &encoder, e)); /* no callback */
    assert_null(encoder);
    params.write = take_bytes;
    REFUSED(omni_encoder_open(NULL, &encoder, e));
    REFUSED(omni_encoder_open(&params, NULL, e));
    params.sample_rate = 0;
    REFUSED(omni_encoder_open(&params, &encoder, e));
    params.sample_rate = 24000;
    params.format = NULL;
    REFUSED(omni_encoder_open(&params, &encoder, e));
    params.format = "mp4";
    REFUSED(omni_encoder_open(&params, &encoder, e));
    params.format = "flac";
    params.speed = 5;
    REFUSED(omni_encoder_open(&params, &encoder, e));
    params.speed = -1;
    REFUSED(omni_encoder_open(&params, &encoder, e));
    params.speed = 2;
    assert_null(omni_sound_type("mp4"));
    assert_null(omni_sound_type(NULL));
    assert_string_equal(omni_sound_type("flac"), "audio/flac");
    REFUSED(omni_encoder_write(NULL, (float[]){0}, 1, e));
    assert_int_equal(omni_encoder_open(&params, &encoder, &err), OMNI_OK);
    REFUSED(omni_encoder_write(encoder, NULL, 1, e));
    assert_int_equal(omni_encoder_write(encoder, NULL, 0, &err), OMNI_OK);
    assert_int_equal(omni_encoder_close(encoder, &err), OMNI_OK);
    assert_int_equal(omni_encoder_close(NULL, &err), OMNI_OK);
    omni_encoder_free(NULL);
    take = false;
    assert_int_equal(omni_encoder_open(&params, &encoder, &err), OMNI_CANCELLED);
    take = true;
    unlink(path);

    REFUSED(omni_describe(NULL, false, &text, e));
    assert_null(text);
    REFUSED(omni_describe(THINKER, false, NULL, e));
    REFUSED(omni_describe("/nowhere", true, &text, e));

    omni_tokenizer *none = (omni_tokenizer *)path;
    int32_t *ids;
    size_t count;
    REFUSED(omni_tokenizer_open(NULL, &none, e));
    assert_null(none);
    REFUSED(omni_tokenizer_open(THINKER, NULL, e));
    REFUSED(omni_tokenize(NULL, "a", 1, false, &ids, &count, e));
    REFUSED(omni_tokenize(tokenizer, NULL, 1, false, &ids, &count, e));
    REFUSED(omni_tokenize(tokenizer, "a", 1, false, NULL, &count, e));
    REFUSED(omni_tokenize(tokenizer, "a", 1, false, &ids, NULL, e));
    assert_int_equal(omni_tokenize(tokenizer, NULL, 0, false, &ids, &count, &err), OMNI_OK);
    assert_int_equal(count, 0);
    omni_free(ids);
    assert_null(omni_token_bytes(NULL, 0, &count));
    assert_int_equal(count, 0);
    static const int32_t odd[] = {-1, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        omni_token_bytes(tokenizer, odd[i], &count);
        assert_int_equal(count, 0);
        omni_token_bytes(tokenizer, odd[i], NULL);
    }
    omni_tokenizer_close(NULL);
    omni_free(NULL);
}

static void long_work(void **state) {
    char folder[] = "/tmp/api-arguments-XXXXXX", out[64];
    assert_non_null(mkdtemp(folder));
    snprintf(out, sizeof out, "%s/out.gguf", folder);
    omni_convert_params c = omni_convert_params_default();
    REFUSED(omni_convert(NULL, NULL, e));
    REFUSED(omni_convert(&c, NULL, e));
    c.checkpoint = "/nowhere";
    REFUSED(omni_convert(&c, NULL, e));
    c.out_dir = folder;
    REFUSED(omni_convert(&c, NULL, e));
    c.checkpoint = MODELS;
    c.threads = -1;
    REFUSED(omni_convert(&c, NULL, e));
    c.threads = 0;
    c.parts = 8;
    REFUSED(omni_convert(&c, NULL, e));
    c.parts = 0;
    c.type = "no such type";
    REFUSED(omni_convert(&c, NULL, e));

    omni_quantize_params q = omni_quantize_params_default();
    REFUSED(omni_quantize(NULL, NULL, e));
    REFUSED(omni_quantize(&q, NULL, e));
    q.input = THINKER;
    q.output = out;
    REFUSED(omni_quantize(&q, NULL, e));
    q.type = "no such type";
    REFUSED(omni_quantize(&q, NULL, e));
    q.type = "q8_0";
    q.threads = -1;
    REFUSED(omni_quantize(&q, NULL, e));
    q.threads = 1;
    q.imatrix = THINKER;
    REFUSED(omni_quantize(&q, NULL, e));

    omni_imatrix_params i = omni_imatrix_params_default();
    REFUSED(omni_imatrix(NULL, NULL, e));
    REFUSED(omni_imatrix(&i, NULL, e));
    i.model.model = THINKER;
    i.output = out;
    REFUSED(omni_imatrix(&i, NULL, e));
    i.media_count = 1;
    REFUSED(omni_imatrix(&i, NULL, e));
    i.media_count = 0;
    i.text = "/nowhere";
    REFUSED(omni_imatrix(&i, NULL, e));
    i.text = MODELS "/tiny/qwen3-omni-f16.gguf";
    i.max_pieces = -1;
    REFUSED(omni_imatrix(&i, NULL, e));
    i.max_pieces = 1;
    i.piece_bytes = SIZE_MAX;
    REFUSED(omni_imatrix(&i, NULL, e));
    i.piece_bytes = 1;
    REFUSED(omni_imatrix(&i, NULL, e));

    omni_synth_params s = omni_synth_params_default();
    REFUSED(omni_synth(NULL, NULL, e));
    REFUSED(omni_synth(&s, NULL, e));
    s.path = out;
    s.part = 3;
    REFUSED(omni_synth(&s, NULL, e));
    s.part = 0;
    s.layers = -1;
    REFUSED(omni_synth(&s, NULL, e));
    s.layers = INT32_MAX;
    REFUSED(omni_synth(&s, NULL, e));
    s.layers = 1;
    s.threads = -1;
    REFUSED(omni_synth(&s, NULL, e));
    s.threads = 1;
    s.type = "no such type";
    REFUSED(omni_synth(&s, NULL, e));

    omni_bench_params b = omni_bench_params_default();
    REFUSED(omni_bench(NULL, e));
    REFUSED(omni_bench(&b, e));
    b.model = THINKER;
    b.only = "pp8";
    omni_bench_params bad[10];
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        bad[k] = b;
    }
    bad[0].repetitions = -1;
    bad[1].repetitions = INT32_MAX;
    bad[2].max_seconds = NAN;
    bad[3].max_seconds = -1;
    bad[4].generate = -1;
    bad[5].threads = -1;
    bad[6].layers = -1;
    bad[7].parts = 32;
    bad[8].cache_type_k = (omni_cache_type)3;
    bad[9].scheduling.poll = 1000;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        REFUSED(omni_bench(&bad[k], e));
    }
    assert_int_equal(access(out, F_OK), -1);
    assert_int_equal(rmdir(folder), 0); /* nothing was left in it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models),          cmocka_unit_test(engines),       cmocka_unit_test(conversations), cmocka_unit_test(messages),
        cmocka_unit_test(answers),         cmocka_unit_test(conversations), cmocka_unit_test(engines),       cmocka_unit_test(requests),
        cmocka_unit_test(files_and_tools), cmocka_unit_test(long_work),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
