/* Conversations through the public interface, on the tiny model that ships with the sources: what a session answers turn by turn, from its cache, is
 * bit for bit what a new session answers to the whole conversation; nothing that goes wrong on the way leaves a trace in it. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "dialogue.h"
#include "engine/media_load.h"
#include "engine/scheduler.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static omni_model *model;
static omni_error err;

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
    return 0;
}

static int tear_down(void **state) {
    omni_model_close(model);
    return 0;
}

/* What an answer gave, and how to go about it. */
typedef struct heard {
    char text[8192];
    size_t text_size;
    float *samples;
    size_t sample_count;
    int pieces, stop_after; /* stop_after: pieces of text after which the receiver has had enough; 0: never */
    dialogue *cancel;       /* cancelled as soon as the prompt is being read, or */
    bool cancel_early;      /* as soon as anything is told of */
    int seen;               /* pictures */
    omni_result result;
} heard;

static bool take_text(void *arg, const char *text, size_t size) {
    heard *h = arg;
    assert_true(h->text_size + size < sizeof h->text);
    memcpy(h->text + h->text_size, text, size);
    h->text_size += size;
    h->text[h->text_size] = 0;
    return ++h->pieces != h->stop_after;
}

static bool take_audio(void *arg, const float *samples, size_t count) {
    heard *h = arg;
    h->samples = realloc(h->samples, (h->sample_count + count) * sizeof *samples);
    assert_non_null(h->samples);
    memcpy(h->samples + h->sample_count, samples, count * sizeof *samples);
    h->sample_count += count;
    return true;
}

static bool take_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    heard *h = arg;
    h->seen += strcmp(what, "seeing") == 0;
    if (h->cancel && (strcmp(what, "reading") == 0 || h->cancel_early)) {
        omni_conversation_cancel(h->cancel->conversation);
    }
    return true;
}

static omni_generate_params asking(heard *h, int64_t tokens) {
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = true;
    p.ignore_eos = true;
    p.max_tokens = tokens;
    p.max_frames = 9;
    p.on_text = take_text;
    p.on_audio = take_audio;
    p.on_progress = take_progress;
    p.arg = h;
    return p;
}

static void forget(heard *h) {
    free(h->samples);
    *h = (heard){0};
}

static dialogue *start(const dialogue_params *p) {
    dialogue *s;
    must(dialogue_create(model, p, &s, &err));
    return s;
}

static void say(dialogue *s, omni_kind kind, const char *file, const char *text) {
    omni_part parts[] = {{.kind = kind, .path = file}, {.kind = OMNI_TEXT, .text = text}};
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts + !file, file ? 2 : 1}, &err));
}

static void answer(dialogue *s, heard *h, int64_t tokens, bool speak) {
    omni_generate_params p = asking(h, tokens);
    p.speak = speak;
    must(omni_generate(s->engine, s->conversation, &p, &h->result, &err));
}

/* The conversation of `from` without its last message, given to a new session as a whole. media(s, i) adds user message i. */
typedef void (*turn_maker)(dialogue *s, int turn);

static dialogue *retell_from(const dialogue *from, const dialogue_params *p, turn_maker make, int turn) {
    dialogue *s = start(p);
    for (size_t i = 0; i + 1 < from->conversation->chat.count; i++) {
        const chat_message *m = &from->conversation->chat.messages[i];
        if (m->role == CHAT_SYSTEM) {
            omni_part part = {.kind = OMNI_TEXT, .text = m->parts[0].text};
            must(omni_conversation_add(s->conversation, &(omni_message){OMNI_SYSTEM, &part, 1}, &err));
            continue;
        }
        if (m->role != CHAT_ASSISTANT) {
            make(s, turn++);
            continue;
        }
        chat_message *copy;
        must(chat_add_message(&s->conversation->chat, CHAT_ASSISTANT, &copy, &err));
        for (size_t k = 0; k < m->answer.count; k++) {
            must(token_list_push(&copy->answer, m->answer.ids[k], &err));
        }
    }
    return s;
}

static dialogue *retell(const dialogue *from, const dialogue_params *p, turn_maker make) {
    return retell_from(from, p, make, 0);
}

static void assert_same(const dialogue *a, const dialogue *b, const heard *x, const heard *y) {
    assert_string_equal(x->text, y->text);
    assert_int_equal(x->result.prompt_tokens, y->result.prompt_tokens);
    assert_int_equal(x->result.answer_tokens, y->result.answer_tokens);
    assert_memory_equal(decoder_logits(decoder_runner_decoder(a->engine->runner)), decoder_logits(decoder_runner_decoder(b->engine->runner)),
                        (size_t)model->thinker->config.vocab * sizeof(float));
    assert_int_equal(x->result.frames, y->result.frames);
    assert_int_equal(x->sample_count, y->sample_count);
    if (x->sample_count > 0) {
        assert_memory_equal(x->samples, y->samples, x->sample_count * sizeof *x->samples);
    }
}

static void media_turn(dialogue *s, int turn) {
    static const struct {
        omni_kind kind;
        const char *file, *text;
    } turns[] = {
        {OMNI_IMAGE, MODELS "/media/picture.jpg", "What is in this picture?"},
        {OMNI_AUDIO, MODELS "/media/question.ogg", "And what is asked here?"},
        {OMNI_TEXT, NULL, "Say both again, please."},
        {OMNI_IMAGE, MODELS "/media/picture.jpg", "Is it still the same?"},
    };
    say(s, turns[turn].kind, turns[turn].file, turns[turn].text);
}

static void check_turns(const dialogue_params *incremental, const dialogue_params *whole) {
    dialogue *s = start(incremental);
    for (int turn = 0; turn < 4; turn++) {
        heard x = {0}, y = {0};
        media_turn(s, turn);
        answer(s, &x, 5 + 4 * turn, true);
        assert_true(turn == 0 ? x.result.cached_tokens == 0 : x.result.cached_tokens > 0);
        assert_true(x.sample_count > 0);
        dialogue *again = retell(s, whole, media_turn);
        answer(again, &y, 5 + 4 * turn, true);
        assert_int_equal(y.result.cached_tokens, 0);
        assert_same(s, again, &x, &y);
        dialogue_destroy(again);
        forget(&x);
        forget(&y);
    }
    dialogue_destroy(s);
}

static void turn_by_turn_is_the_whole(void **state) {
    dialogue_params p = dialogue_params_default();
    check_turns(&p, &p);
}

static void half_precision_cache_and_small_batches(void **state) {
    dialogue_params p = dialogue_params_default(), other = p;
    p.engine.cache_type_k = p.engine.cache_type_v = other.engine.cache_type_k = other.engine.cache_type_v = OMNI_CACHE_F16;
    dialogue_set_context(&p, 2048);
    dialogue_set_context(&other, 2048);
    p.engine.batch = 7;
    other.engine.batch = 64;
    check_turns(&p, &other);
}

static void text_turn(dialogue *s, int turn) {
    static const char *const texts[] = {"Tell me a long story about the sea.", "Go on.", "And how does it end?"};
    say(s, OMNI_TEXT, NULL, texts[turn]);
}

static void goes_on_after_a_cancelled_answer(void **state) {
    dialogue *s = start(NULL);
    heard x = {0}, y = {0};
    text_turn(s, 0);
    x.stop_after = 4;
    answer(s, &x, 30, true);
    assert_int_equal(x.result.finish, OMNI_FINISH_CANCELLED);
    assert_int_equal(s->conversation->chat.count, 2);
    assert_true(s->conversation->chat.messages[1].answer.count > 0 && s->conversation->chat.messages[1].answer.count < 30);
    forget(&x);
    text_turn(s, 1);
    answer(s, &x, 12, true);
    assert_true(x.result.cached_tokens > 0);
    dialogue *again = retell(s, NULL, text_turn);
    answer(again, &y, 12, true);
    assert_same(s, again, &x, &y);
    dialogue_destroy(again);
    dialogue_destroy(s);
    forget(&x);
    forget(&y);
}

static void goes_on_after_a_cancelled_prompt(void **state) {
    dialogue_params p = dialogue_params_default();
    p.engine.batch = 16;
    dialogue *s = start(&p), *plain = start(&p);
    heard x = {.cancel = s}, y = {0};
    media_turn(s, 0);
    answer(s, &x, 8, true);
    assert_int_equal(x.result.finish, OMNI_FINISH_CANCELLED);
    assert_int_equal(x.text_size, 0);
    assert_int_equal(s->conversation->chat.count, 1);
    forget(&x);
    answer(s, &x, 8, true);
    assert_int_equal(x.result.finish, OMNI_FINISH_LENGTH);
    assert_int_equal(x.result.cached_tokens, 16);
    media_turn(plain, 0);
    answer(plain, &y, 8, true);
    assert_same(s, plain, &x, &y);
    dialogue_destroy(s);
    dialogue_destroy(plain);
    forget(&x);
    forget(&y);
}

static void a_cancel_stops_the_encoders(void **state) {
    dialogue *s = start(NULL);
    heard h = {.cancel = s, .cancel_early = true};
    media_turn(s, 0);
    media_turn(s, 3);
    answer(s, &h, 8, false);
    assert_int_equal(h.result.finish, OMNI_FINISH_CANCELLED);
    assert_int_equal(h.seen, 1);
    forget(&h);
    answer(s, &h, 8, false);
    assert_int_equal(h.result.answer_tokens, 8);
    dialogue_destroy(s);
    forget(&h);
}

static void reset_is_a_fresh_start(void **state) {
    dialogue *s = start(NULL), *fresh = start(NULL);
    heard x = {0}, y = {0};
    media_turn(s, 1);
    answer(s, &x, 8, true);
    forget(&x);
    dialogue_reset(s);
    media_turn(s, 0);
    answer(s, &x, 8, true);
    assert_int_equal(x.result.cached_tokens, 0);
    media_turn(fresh, 0);
    answer(fresh, &y, 8, true);
    assert_same(s, fresh, &x, &y);
    dialogue_destroy(s);
    dialogue_destroy(fresh);
    forget(&x);
    forget(&y);
}

static void what_is_taken_back_leaves_nothing(void **state) {
    dialogue *s = start(NULL), *fresh = start(NULL);
    heard x = {0}, y = {0};
    omni_conversation_take_back(s->conversation); /* nothing there */
    media_turn(s, 1);
    answer(s, &x, 8, false);
    forget(&x);
    omni_conversation_take_back(s->conversation);
    omni_conversation_take_back(s->conversation);
    assert_int_equal(s->conversation->chat.count, 0);
    assert_int_equal(s->conversation->media_count, 0);
    media_turn(s, 0);
    answer(s, &x, 8, false);
    media_turn(fresh, 0);
    answer(fresh, &y, 8, false);
    assert_same(s, fresh, &x, &y);
    dialogue_destroy(s);
    dialogue_destroy(fresh);
    forget(&x);
    forget(&y);
}

/* Pictures, a sound and texts: what is left after the oldest exchanges have gone is answered as if nothing else had ever been said. */
static void what_is_dropped_leaves_nothing(void **state) {
    dialogue_params p = dialogue_params_default();
    omni_part part = {.kind = OMNI_TEXT, .text = "You are a patient teacher who answers in short sentences."};
    for (int drops = 1; drops < 4; drops++) {
        dialogue *s = start(&p);
        heard x = {0}, y = {0};
        int64_t system_tokens, before, after;
        must(omni_conversation_add(s->conversation, &(omni_message){OMNI_SYSTEM, &part, 1}, &err));
        must(omni_conversation_prompt_tokens(s->conversation, &system_tokens, &err));
        assert_int_equal(omni_conversation_drop_oldest(s->conversation), 0);
        for (int turn = 0; turn < 3; turn++) {
            media_turn(s, turn);
            answer(s, &x, 6, false);
            forget(&x);
        }
        media_turn(s, 3);
        must(omni_conversation_prompt_tokens(s->conversation, &before, &err));
        for (int i = 0; i < drops; i++) {
            assert_int_equal(omni_conversation_drop_oldest(s->conversation), 2);
        }
        assert_int_equal(s->conversation->chat.count, 8 - 2 * drops);
        assert_int_equal(s->conversation->chat.messages[0].role, CHAT_SYSTEM);
        must(omni_conversation_prompt_tokens(s->conversation, &after, &err));
        assert_true(after < before);
        answer(s, &x, 12, true);
        dialogue *fresh = retell_from(s, &p, media_turn, drops);
        answer(fresh, &y, 12, true);
        assert_same(s, fresh, &x, &y);
        assert_int_equal(y.result.prompt_tokens, after); /* the picture had been encoded */
        for (int i = drops; i < 3; i++) {
            assert_int_equal(omni_conversation_drop_oldest(s->conversation), 2);
        }
        assert_int_equal(omni_conversation_drop_oldest(s->conversation), 0); /* the last exchange stays */
        assert_int_equal(s->conversation->chat.count, 3);
        dialogue_destroy(s);
        dialogue_destroy(fresh);
        forget(&x);
        forget(&y);
    }
}

static void the_last_role_is_told(void **state) {
    dialogue_params p = dialogue_params_default();
    dialogue *s = start(&p);
    omni_role role;
    heard h = {0};
    assert_false(omni_conversation_last_role(s->conversation, &role));
    text_turn(s, 0);
    assert_true(omni_conversation_last_role(s->conversation, &role) && role == OMNI_USER);
    answer(s, &h, 3, false);
    assert_true(omni_conversation_last_role(s->conversation, &role) && role == OMNI_ASSISTANT);
    omni_conversation_take_back(s->conversation);
    assert_true(omni_conversation_last_role(s->conversation, &role) && role == OMNI_USER);
    dialogue_destroy(s);
    forget(&h);
}

static void a_full_context_ends_the_answer(void **state) {
    dialogue_params p = dialogue_params_default();
    dialogue_set_context(&p, 64);
    dialogue *s = start(&p);
    heard h = {0};
    text_turn(s, 0);
    answer(s, &h, 1000, false);
    assert_int_equal(h.result.finish, OMNI_FINISH_LENGTH);
    assert_int_equal(h.result.prompt_tokens + h.result.answer_tokens - 1, 64); /* the last token takes no row */
    forget(&h);
    text_turn(s, 1);
    omni_generate_params g = asking(&h, 5);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(omni_generate(s->engine, s->conversation, &g, &h.result, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "64"));
        assert_int_equal(s->conversation->chat.count, 3);
    }
    dialogue_reset(s);
    text_turn(s, 1);
    answer(s, &h, 5, false);
    assert_int_equal(h.result.answer_tokens, 5);
    dialogue_destroy(s);
    forget(&h);
}

static void what_does_not_fit_is_not_encoded(void **state) {
    dialogue_params p = dialogue_params_default();
    dialogue_set_context(&p, 100);
    dialogue *s = start(&p);
    heard h = {0};
    const uint64_t before = model->media_cache.encoded;
    media_turn(s, 0);
    media_turn(s, 3);
    omni_generate_params g = asking(&h, 5);
    assert_int_equal(omni_generate(s->engine, s->conversation, &g, &h.result, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "100"));
    assert_int_equal(model->media_cache.encoded, before);
    dialogue_destroy(s);
}

/* What cannot fit whatever else there is, is refused before it is decoded, and so is the second of two that fit alone. */
static void what_does_not_fit_is_not_decoded(void **state) {
    const omni_part parts[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                               {.kind = OMNI_TEXT, .text = "What is it?"},
                               {.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"}};
    for (int64_t context = 48; context <= 100; context += 52) {
        dialogue_params p = dialogue_params_default();
        dialogue_set_context(&p, context);
        dialogue *s = start(&p);
        assert_int_equal(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts, 3}, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "picture.jpg"));
        assert_non_null(strstr(err.text, "-c"));
        assert_int_equal(s->conversation->chat.count, 0);
        assert_int_equal(s->conversation->media_count, 0);
        if (context == 100) {
            must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts, 2}, &err));
        }
        dialogue_destroy(s);
    }
    /* a sound is decoded no further than it can fit */
    dialogue_params p = dialogue_params_default();
    dialogue_set_context(&p, 8);
    dialogue *s = start(&p);
    const omni_part part = {.kind = OMNI_AUDIO, .path = MODELS "/media/question.ogg"};
    assert_int_equal(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, &part, 1}, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "question.ogg"));
    assert_non_null(strstr(err.text, "-c"));
    dialogue_destroy(s);
}

static void limits_of_media_are_settings(void **state) {
    const omni_part parts[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"}, {.kind = OMNI_AUDIO, .path = MODELS "/media/question.ogg"}};
    const struct {
        omni_conversation_params params;
        size_t part;
        const char *flag;
    } cases[] = {
        {{.max_pixels = 1000}, 0, "--max-pixels"},
        {{.max_media_memory = 10000}, 0, "--max-media-memory"},
        {{.max_media_memory = 10000}, 1, "--max-media-memory"},
        {{.max_audio_seconds = 0.1}, 1, "--max-audio-seconds"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dialogue *s = start(&(dialogue_params){cases[i].params, omni_engine_params_default()});
        assert_int_equal(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, &parts[cases[i].part], 1}, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, cases[i].flag));
        assert_non_null(strstr(err.text, strrchr(parts[cases[i].part].path, '/')));
        dialogue_destroy(s);
    }
}

static void *cancel_soon(void *arg) {
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    omni_conversation_cancel(arg);
    return NULL;
}

/* A pipe that nobody writes to: omni_cancel, from another thread, ends the waiting and leaves the conversation as it was. */
static void adding_media_can_be_cancelled(void **state) {
    static const omni_kind kinds[] = {OMNI_IMAGE, OMNI_AUDIO, OMNI_VIDEO};
    char folder[] = "/tmp/omni-test-session-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    dialogue *s = start(NULL);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const omni_part part = {.kind = kinds[i], .path = path};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, cancel_soon, s->conversation), 0);
        assert_int_equal(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, &part, 1}, &err), OMNI_CANCELLED);
        pthread_join(thread, NULL);
        assert_int_equal(s->conversation->chat.count, 0);
        assert_int_equal(s->conversation->media_count, 0);
    }
    dialogue_destroy(s);
    unlink(path);
    rmdir(folder);
}

/* The same medium again is a copy of what was decoded: as file, as bytes, and a part that differs is none. */
static void repeated_media_are_decoded_once(void **state) {
    char *bytes;
    size_t size;
    must(file_read(MODELS "/media/picture.jpg", 1 << 20, &bytes, &size, &err));
    char *again = malloc(size), *other = malloc(size);
    assert_true(again && other);
    memcpy(again, bytes, size);
    memcpy(other, bytes, size);
    other[size - 200] ^= 1;
    const omni_part parts[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                               {.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                               {.kind = OMNI_IMAGE, .data = bytes, .size = size},
                               {.kind = OMNI_IMAGE, .data = again, .size = size},
                               {.kind = OMNI_IMAGE, .data = other, .size = size}};
    dialogue *s = start(NULL);
    media_loading l;
    media_loading_begin(&l, s->conversation);
    int64_t pixels[5];
    for (size_t i = 0; i < 5; i++) {
        must(media_loading_add(&l, s->conversation, parts[i].kind, parts[i].path, parts[i].data, parts[i].size, NULL, &err));
        pixels[i] = l.budget.pixels;
    }
    assert_true(pixels[0] > 0 && pixels[1] == pixels[0] && pixels[2] == 2 * pixels[0] && pixels[3] == pixels[2] && pixels[4] == 3 * pixels[0]);
    assert_int_equal(l.budget.rows, 5 * medium_least_rows(&s->conversation->model->encoders, &s->conversation->media[0]));
    const patch_set *p = &s->conversation->media[0].patches;
    const size_t n = (size_t)patch_count(p) * 3 * (size_t)(p->temporal * p->patch * p->patch);
    for (size_t i = 1; i < 4; i++) {
        assert_memory_equal(p->levels, s->conversation->media[i].patches.levels, n);
    }
    assert_true(memcmp(p->levels, s->conversation->media[4].patches.levels, n) != 0);
    media_loading_end(&l);
    dialogue_destroy(s);
    free(bytes);
    free(again);
    free(other);
}

static void stop_strings(void **state) {
    dialogue *s = start(NULL);
    heard all = {0}, h = {0};
    text_turn(s, 0);
    answer(s, &all, 40, false);
    assert_true(all.text_size > 8);
    size_t at = all.text_size / 2;
    while (((unsigned char)all.text[at] & 0xC0) == 0x80) {
        at++;
    }
    char wanted[5] = {0};
    memcpy(wanted, all.text + at, 4); /* may end inside a character: stop strings are bytes */
    const char *stop[] = {"does not occur in it", wanted};
    dialogue_reset(s);
    text_turn(s, 0);
    omni_generate_params p = asking(&h, 40);
    p.stop = stop;
    p.stop_count = 2;
    must(omni_generate(s->engine, s->conversation, &p, &h.result, &err));
    assert_int_equal(h.result.finish, OMNI_FINISH_STOP);
    assert_int_equal(h.text_size, strstr(all.text, wanted) - all.text);
    assert_memory_equal(h.text, all.text, h.text_size);
    dialogue_destroy(s);
    forget(&all);
    forget(&h);
}

static bool take_markup(void *arg, const char *text, size_t size) {
    return take_text(arg, text, size);
}

static bool take_call(void *arg, const char *name, const char *arguments) {
    return true;
}

/* An answer without markup is the same text to those who listen for markup. */
static void listening_for_markup(void **state) {
    dialogue *s = start(NULL);
    heard plain = {0}, h = {0};
    text_turn(s, 0);
    answer(s, &plain, 40, false);
    dialogue_reset(s);
    text_turn(s, 0);
    omni_generate_params p = asking(&h, 40);
    p.on_reasoning = take_markup;
    p.on_tool_call = take_call;
    must(omni_generate(s->engine, s->conversation, &p, &h.result, &err));
    assert_string_equal(h.text, plain.text);
    dialogue_destroy(s);
    forget(&plain);
    forget(&h);
}

static void many_sessions_of_one_model(void **state) {
    enum { SESSIONS = 20, TURNS = 2 };
    dialogue *all[SESSIONS];
    heard first[SESSIONS][TURNS] = {0};
    dialogue_params p = dialogue_params_default();
    dialogue_set_context(&p, 512);
    for (int pass = 0; pass < 2; pass++) { /* one by one, then in turns */
        for (int i = 0; i < SESSIONS; i++) {
            all[i] = start(&p);
        }
        for (int k = 0; k < SESSIONS * TURNS; k++) {
            int i = pass == 0 ? k / TURNS : k % SESSIONS, turn = pass == 0 ? k % TURNS : k / SESSIONS;
            char text[64];
            snprintf(text, sizeof text, "%.*s %d", 5 + i, "Question about many different things", i);
            heard h = {0};
            say(all[i], i % 5 == 4 ? OMNI_IMAGE : OMNI_TEXT, i % 5 == 4 ? MODELS "/media/picture.jpg" : NULL, text);
            answer(all[i], &h, 4 + i % 3, i % 7 == 0);
            if (pass == 0) {
                first[i][turn] = h;
                continue;
            }
            assert_string_equal(h.text, first[i][turn].text);
            assert_int_equal(h.sample_count, first[i][turn].sample_count);
            if (h.sample_count > 0) {
                assert_memory_equal(h.samples, first[i][turn].samples, h.sample_count * sizeof *h.samples);
            }
            forget(&h);
            forget(&first[i][turn]);
        }
        for (int i = 0; i < SESSIONS; i++) {
            dialogue_destroy(all[i]);
        }
    }
}

static void a_given_text_leaves_the_conversation_alone(void **state) {
    dialogue *s = start(NULL), *plain = start(NULL);
    heard x = {0}, y = {0}, spoken[2] = {0};
    text_turn(s, 0);
    answer(s, &x, 6, true);
    forget(&x);
    omni_generate_params p = asking(&spoken[0], 0);
    must(omni_speak(s->engine, "Something else entirely.", &p, &spoken[0].result, &err));
    text_turn(s, 1);
    answer(s, &x, 6, true);
    text_turn(plain, 0);
    answer(plain, &y, 6, true);
    forget(&y);
    text_turn(plain, 1);
    answer(plain, &y, 6, true);
    assert_same(s, plain, &x, &y);
    p.arg = &spoken[1];
    must(omni_speak(s->engine, "Something else entirely.", &p, &spoken[1].result, &err));
    assert_true(spoken[0].sample_count > 0);
    assert_int_equal(spoken[0].sample_count, spoken[1].sample_count);
    assert_memory_equal(spoken[0].samples, spoken[1].samples, spoken[0].sample_count * sizeof(float));
    dialogue_destroy(s);
    dialogue_destroy(plain);
    forget(&x);
    forget(&y);
    forget(&spoken[0]);
    forget(&spoken[1]);
}

static void what_fails_leaves_nothing_behind(void **state) {
    static const char bad[] =
        "{\"fps\": 9, \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}], \"messages\": [{\"role\": \"user\", \"content\": "
        "[{\"type\": \"image\", \"path\": \"" MODELS "/media/picture.jpg\"}, {\"type\": \"image\", \"path\": \"/nowhere.png\"}]}]}";
    dialogue *s = start(NULL), *plain = start(NULL);
    heard x = {0}, y = {0};
    omni_part parts[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"}, {.kind = OMNI_AUDIO, .path = "/nowhere.wav"}};
    media_turn(s, 0);
    assert_int_not_equal(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts, 2}, &err), OMNI_OK);
    assert_int_not_equal(omni_conversation_add_json(s->conversation, bad, sizeof bad - 1, &err), OMNI_OK);
    assert_int_equal(s->conversation->chat.count, 1);
    assert_int_equal(s->conversation->chat.tool_count, 0);
    assert_int_equal(s->conversation->media_count, 1);
    assert_true(s->conversation->params.fps != 9);
    answer(s, &x, 8, true);
    media_turn(plain, 0);
    answer(plain, &y, 8, true);
    assert_same(s, plain, &x, &y);
    dialogue_destroy(s);
    dialogue_destroy(plain);
    forget(&x);
    forget(&y);
}

static void absurd_parameters(void **state) {
    dialogue *s = start(NULL);
    heard h = {0};
    text_turn(s, 0);
    omni_generate_params p = asking(&h, 3);
    p.speak = true;
    p.max_frames = INT64_MAX;
    h.stop_after = 2;
    must(omni_generate(s->engine, s->conversation, &p, &h.result, &err));
    p.text.temperature = NAN;
    p.text.greedy = false;
    assert_int_equal(omni_generate(s->engine, s->conversation, &p, &h.result, &err), OMNI_ERR_ARGUMENT);
    dialogue_destroy(s);
    dialogue_params q = dialogue_params_default();
    q.conversation.fps = NAN;
    assert_int_equal(dialogue_create(model, &q, &s, &err), OMNI_ERR_ARGUMENT);
    q = dialogue_params_default();
    q.conversation.max_audio_seconds = NAN;
    assert_int_equal(dialogue_create(model, &q, &s, &err), OMNI_ERR_ARGUMENT);
    q = dialogue_params_default();
    dialogue_set_context(&q, INT64_MAX);
    assert_int_equal(dialogue_create(model, &q, &s, &err), OMNI_ERR_LIMIT);
    forget(&h);
}

/* Where the calling thread is while the library tells it something. */
typedef struct place {
    cpus first; /* what it should be */
    int calls;
    bool elsewhere;
} place;

static void look(place *x) {
    cpus now;
    cpus_usable(&now);
    x->calls++;
    x->elsewhere |= memcmp(&now, &x->first, sizeof now) != 0;
}

static bool look_at_text(void *arg, const char *text, size_t size) {
    look(arg);
    return true;
}

static bool look_at_audio(void *arg, const float *samples, size_t count) {
    look(arg);
    return true;
}

static bool look_at_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    look(arg);
    return true;
}

static bool look_at_row(void *arg, const omni_bench_row *row) {
    look(arg);
    return true;
}

static void back_from(place *x, const cpus *before) {
    cpus now;
    cpus_usable(&now);
    assert_memory_equal(&now, before, sizeof now);
    assert_true(x->calls > 0 && !x->elsewhere);
    x->calls = 0;
}

static void the_caller_works_on_its_cpu_and_comes_back(void **state) {
    cpus before;
    place x = {0};
    char range[32];
    cpus_usable(&before);
    const int count = cpus_count(&before), last = cpus_nth(&before, count - 1);
    cpus_add(&x.first, cpus_nth(&before, 0));
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = count < 2 ? 1 : 2; /* with two, speech is decoded on a thread of its own */
    p.scheduling.cpu_strict = true;
    p.progress = look_at_progress;
    p.progress_arg = &x;
    omni_model *pinned, *none;
    dialogue *s;
    must(omni_model_open(&p, &pinned, &err));
    back_from(&x, &before);
    must(dialogue_create(pinned, NULL, &s, &err));
    say(s, OMNI_TEXT, NULL, "Where are you?");
    heard free_run = {0};
    dialogue *other = start(NULL);
    say(other, OMNI_TEXT, NULL, "Where are you?");
    answer(other, &free_run, 6, false);
    dialogue_destroy(other);

    omni_generate_params g = asking(&(heard){0}, 6);
    g.speak = true;
    g.on_text = look_at_text;
    g.on_audio = look_at_audio;
    g.on_progress = look_at_progress;
    g.arg = &x;
    g.max_frames = 20;
    must(omni_generate(s->engine, s->conversation, &g, NULL, &err));
    back_from(&x, &before);
    must(omni_speak(s->engine, "Here.", &g, NULL, &err));
    back_from(&x, &before);
    heard h = {0};
    dialogue_reset(s);
    say(s, OMNI_TEXT, NULL, "Where are you?");
    answer(s, &h, 6, false);
    assert_string_equal(h.text, free_run.text); /* the same as wherever else */
    forget(&h);
    forget(&free_run);
    dialogue_destroy(s);
    omni_model_close(pinned);

    omni_bench_params b = omni_bench_params_default();
    assert_int_equal(b.scheduling.poll, 50);
    b.model = p.model;
    b.only = "pp64";
    b.threads = 1;
    snprintf(range, sizeof range, "%d-%d", last, last);
    b.scheduling.cpu_range = range;
    x.first = (cpus){0};
    cpus_add(&x.first, last);
    b.on_row = look_at_row;
    b.arg = &x;
    must(omni_bench(&b, &err));
    back_from(&x, &before);

    p.scheduling.cpu_mask = "";
    assert_int_equal(omni_model_open(&p, &none, &err), OMNI_ERR_ARGUMENT);
    assert_null(none);
    assert_non_null(strstr(err.text, "CPU mask"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turn_by_turn_is_the_whole),
        cmocka_unit_test(half_precision_cache_and_small_batches),
        cmocka_unit_test(goes_on_after_a_cancelled_answer),
        cmocka_unit_test(goes_on_after_a_cancelled_prompt),
        cmocka_unit_test(a_cancel_stops_the_encoders),
        cmocka_unit_test(reset_is_a_fresh_start),
        cmocka_unit_test(what_is_taken_back_leaves_nothing),
        cmocka_unit_test(what_is_dropped_leaves_nothing),
        cmocka_unit_test(the_last_role_is_told),
        cmocka_unit_test(a_full_context_ends_the_answer),
        cmocka_unit_test(what_does_not_fit_is_not_encoded),
        cmocka_unit_test(what_does_not_fit_is_not_decoded),
        cmocka_unit_test(limits_of_media_are_settings),
        cmocka_unit_test(repeated_media_are_decoded_once),
        cmocka_unit_test(adding_media_can_be_cancelled),
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(listening_for_markup),
        cmocka_unit_test(many_sessions_of_one_model),
        cmocka_unit_test(a_given_text_leaves_the_conversation_alone),
        cmocka_unit_test(what_fails_leaves_nothing_behind),
        cmocka_unit_test(absurd_parameters),
        cmocka_unit_test(the_caller_works_on_its_cpu_and_comes_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
