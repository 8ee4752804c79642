/* What omni.h promises of a call while it runs: callbacks end with the first false, a cancel is met by exactly one call, what is withheld is not
 * spoken, limits are told apart, every draw has a random number of its own, and two calls at once are refused. On the tiny model. */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dialogue.h"
#include "engine/scheduler.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static omni_model *open_model(int threads) {
    omni_model *m;
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = threads;
    must(omni_model_open(&p, &m, &err));
    return m;
}

static dialogue *open_session(omni_model *m) {
    dialogue *s;
    dialogue_params p = dialogue_params_default();
    p.engine.batch = 16;
    must(dialogue_create(m, &p, &s, &err));
    return s;
}

static void say(dialogue *s, const char *text) {
    omni_part part = {.kind = OMNI_TEXT, .text = text};
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, &part, 1}, &err));
}

enum { TEXT = 1, AUDIO = 2, PROGRESS = 4 };

typedef struct listener {
    char text[16384];
    size_t text_size, sample_count;
    float *samples;
    int calls[5];               /* of each kind */
    int no_from, no_at;         /* which kind returns false, at its how manyth call; 0: none */
    int cancel_from, cancel_at; /* and the same for omni_cancel */
    dialogue *session;
    bool speaks; /* cancel omni_speak */
    bool closed;
    int late; /* calls after that */
} listener;

static bool called(listener *l, int kind) {
    l->late += l->closed;
    l->calls[kind]++;
    if (kind == l->cancel_from && l->calls[kind] == l->cancel_at) {
        if (l->speaks) {
            omni_speak_cancel(l->session->engine);
        } else {
            omni_conversation_cancel(l->session->conversation);
        }
        l->closed = true;
    }
    if (kind == l->no_from && l->calls[kind] == l->no_at) {
        l->closed = true;
        return false;
    }
    return true;
}

static bool on_text(void *arg, const char *text, size_t size) {
    listener *l = arg;
    assert_true(l->text_size + size < sizeof l->text);
    memcpy(l->text + l->text_size, text, size);
    l->text_size += size;
    return called(l, TEXT);
}

static bool on_audio(void *arg, const float *samples, size_t count) {
    listener *l = arg;
    l->samples = realloc(l->samples, (l->sample_count + count) * sizeof *samples);
    assert_non_null(l->samples);
    memcpy(l->samples + l->sample_count, samples, count * sizeof *samples);
    l->sample_count += count;
    return called(l, AUDIO);
}

static bool on_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    return called(arg, PROGRESS);
}

static omni_generate_params asking(listener *l, int64_t tokens, int64_t frames) {
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = true;
    p.ignore_eos = true;
    p.max_tokens = tokens;
    p.max_frames = frames;
    p.speak = true;
    p.on_text = on_text;
    p.on_audio = on_audio;
    p.on_progress = on_progress;
    p.arg = l;
    return p;
}

static void forget(listener *l) {
    free(l->samples);
    *l = (listener){0};
}

/* ---- callbacks ---- */

static void nothing_comes_after_false(void **state) {
    static const int kinds[] = {TEXT, AUDIO, PROGRESS};
    for (int threads = 1; threads <= 4; threads *= 2) {
        omni_model *m = open_model(threads);
        for (int i = 0; i < 6; i++) {
            for (int at = 1; at <= 4; at++) {
                const int kind = kinds[i % 3];
                const bool cancel = i >= 3;
                dialogue *s = open_session(m);
                listener l = {.session = s};
                l.no_from = cancel ? 0 : kind;
                l.cancel_from = cancel ? kind : 0;
                l.no_at = l.cancel_at = at;
                omni_result r;
                omni_generate_params p = asking(&l, 30, 60);
                say(s, "Tell me a long story about the sea and about all the ships that ever sailed on it, please.");
                must(omni_generate(s->engine, s->conversation, &p, &r, &err));
                assert_true(at <= 2 ? l.closed : l.closed || l.calls[kind] < at);
                assert_int_equal(l.late, 0);
                assert_int_equal(r.finish, l.closed ? OMNI_FINISH_CANCELLED : OMNI_FINISH_LENGTH);
                if (kind == AUDIO && at == 1) { /* the first piece is one frame; at most one more is under way */
                    assert_true(r.frames <= 2);
                }
                assert_int_equal(r.samples, l.sample_count);
                forget(&l);
                if (kind == AUDIO) {
                    l = (listener){
                        .session = s, .speaks = true, .no_from = cancel ? 0 : kind, .cancel_from = cancel ? kind : 0, .no_at = at, .cancel_at = at};
                    p = asking(&l, 0, 60);
                    must(omni_speak(s->engine, "A long text, which takes a while to be said to its end, and then some more of it.", &p, &r, &err));
                    assert_true(at <= 2 ? l.closed : l.closed || l.calls[kind] < at);
                    assert_int_equal(l.late, 0);
                    assert_int_equal(r.finish, l.closed ? OMNI_FINISH_CANCELLED : OMNI_FINISH_STOP);
                    assert_int_equal(r.samples, l.sample_count);
                    if (at == 1) {
                        assert_true(r.frames <= 2);
                    }
                    forget(&l);
                }
                dialogue_destroy(s);
            }
        }
        omni_model_close(m);
    }
}

static void a_cancel_is_met_once(void **state) {
    omni_model *m = open_model(2);
    dialogue *s = open_session(m);
    listener l = {0};
    omni_result r;
    omni_generate_params p = asking(&l, 4, 4);
    say(s, "Hello");
    for (int i = 0; i < 2; i++) { /* before a call: that one is cancelled, having done nothing, the one after is not */
        if (i) {
            omni_speak_cancel(s->engine);
        } else {
            omni_conversation_cancel(s->conversation);
        }
        must(i ? omni_speak(s->engine, "Hello", &p, &r, &err) : omni_generate(s->engine, s->conversation, &p, &r, &err));
        assert_int_equal(r.finish, OMNI_FINISH_CANCELLED);
        assert_int_equal(r.prompt_tokens + r.answer_tokens + r.frames, 0);
        assert_int_equal(l.calls[TEXT] + l.calls[AUDIO] + l.calls[PROGRESS], 0);
        assert_int_equal(s->conversation->chat.count, 1);
    }
    omni_conversation_cancel(s->conversation);
    assert_true(omni_conversation_cancel_withdraw(s->conversation));
    assert_false(omni_conversation_cancel_withdraw(s->conversation));
    omni_speak_cancel(s->engine);
    assert_true(omni_speak_cancel_withdraw(s->engine));
    assert_false(omni_speak_cancel_withdraw(s->engine));
    must(omni_generate(s->engine, s->conversation, &p, &r, &err));
    assert_int_equal(r.finish, OMNI_FINISH_LENGTH);
    assert_int_equal(r.answer_tokens, 4);
    forget(&l);
    l = (listener){.session = s, .cancel_from = TEXT, .cancel_at = 2};
    say(s, "And on");
    p = asking(&l, 30, 4);
    must(omni_generate(s->engine, s->conversation, &p, &r, &err)); /* during a call: it is forgotten with that call */
    assert_int_equal(r.finish, OMNI_FINISH_CANCELLED);
    assert_true(r.answer_tokens < 30);
    forget(&l);
    must(omni_speak(s->engine, "Hello", &p, &r, &err));
    assert_int_equal(r.finish, OMNI_FINISH_STOP);
    assert_false(omni_conversation_cancel_withdraw(s->conversation));
    forget(&l);
    dialogue_destroy(s);
    omni_model_close(m);
}

/* Pictures that were encoded when the cancel came are not encoded again. */
static void what_is_encoded_stays_so(void **state) {
    omni_model *m = open_model(2);
    dialogue *s = open_session(m);
    omni_part parts[4];
    for (int i = 0; i < 3; i++) {
        parts[i] = (omni_part){.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"};
    }
    parts[3] = (omni_part){.kind = OMNI_TEXT, .text = "What?"};
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts, 4}, &err));
    listener l = {.session = s, .cancel_from = PROGRESS, .cancel_at = 2};
    omni_generate_params p = asking(&l, 4, 4);
    p.speak = false;
    omni_result r;
    must(omni_generate(s->engine, s->conversation, &p, &r, &err));
    assert_int_equal(r.finish, OMNI_FINISH_CANCELLED);
    const medium *media = s->conversation->media;
    const embeddings *first = media[0].item->embedded, *second = media[1].item->embedded;
    assert_non_null(first);
    assert_ptr_equal(first, second); /* the same content */
    assert_null(media[2].item->embedded);
    forget(&l);
    must(omni_generate(s->engine, s->conversation, &p, &r, &err));
    assert_int_equal(r.finish, OMNI_FINISH_LENGTH);
    assert_ptr_equal(media[0].item->embedded, first);
    assert_ptr_equal(media[2].item->embedded, first);
    assert_int_equal(m->media_cache.encoded, 1);
    listener whole = {0};
    dialogue *other = open_session(m);
    must(omni_conversation_add(other->conversation, &(omni_message){OMNI_USER, parts, 4}, &err));
    omni_generate_params q = asking(&whole, 4, 4);
    q.speak = false;
    must(omni_generate(other->engine, other->conversation, &q, &r, &err));
    assert_string_equal(l.text, whole.text);
    forget(&l);
    forget(&whole);
    dialogue_destroy(s);
    dialogue_destroy(other);
    omni_model_close(m);
}

/* ---- stop strings and limits ---- */

/* Two tokens, the first at `from` or later, whose text is whole characters and begins nowhere earlier in the answer; returns the index. */
static size_t find_pair(const omni_model *m, const token_list *ids, size_t from, char *pair, size_t room) {
    for (size_t n = from; n + 1 < ids->count; n++) {
        char *before, *two;
        size_t before_size, size;
        must(tokenizer_decode(m->tokenizer, ids->ids, n, false, &before, &before_size, &err));
        must(tokenizer_decode(m->tokenizer, ids->ids + n, 2, false, &two, &size, &err));
        size_t one;
        tokenizer_piece(m->tokenizer, ids->ids[n], &one);
        bool good = size > one && one > 0 && size < room && memchr(two, 0, size) == NULL && !memchr(two, '<', size) && !memchr(two, '\n', size);
        for (size_t i = 0; i < size; i++) {
            good = good && (unsigned char)two[i] < 0x80;
        }
        for (size_t k = 0; good && k < before_size; k++) { /* nor does the text before end in its beginning */
            const size_t left = before_size - k;
            good = memcmp(before + k, two, left < size ? left : size) != 0;
        }
        if (good) {
            memcpy(pair, two, size);
            pair[size] = 0;
        }
        free(before);
        free(two);
        if (good) {
            return n;
        }
    }
    fail_msg("no such pair of tokens in the answer");
    return 0;
}

/* Tokens up to a stop string of two tokens sound as those of an answer cut just behind the first of these two, which is not spoken. */
static void a_stop_string_is_not_spoken(void **state) {
    for (int threads = 1; threads <= 2; threads++) {
        omni_model *m = open_model(threads);
        listener all = {0}, cut = {0}, stopped = {0};
        omni_result r;
        dialogue *s = open_session(m);
        say(s, "Tell me a story.");
        omni_generate_params p = asking(&all, 60, 1);
        p.text.greedy = false;
        p.text.temperature = 5; /* anything but the same token over and over */
        p.text.top_k = 0;
        p.text.top_p = 1;
        must(omni_generate(s->engine, s->conversation, &p, &r, &err));
        char pair[256];
        const size_t n = find_pair(m, &s->conversation->chat.messages[1].answer, 3, pair, sizeof pair);
        omni_conversation_take_back(s->conversation);
        p.max_tokens = (int64_t)n + 1;
        p.max_frames = 60;
        p.arg = &cut;
        must(omni_generate(s->engine, s->conversation, &p, &r, &err));
        assert_int_equal(r.answer_tokens, n + 1);
        assert_int_equal(r.text_limit, OMNI_LIMIT_MAX_TOKENS);
        omni_conversation_take_back(s->conversation);
        const char *stop[] = {pair};
        p.stop = stop;
        p.stop_count = 1;
        p.max_tokens = 60;
        p.arg = &stopped;
        must(omni_generate(s->engine, s->conversation, &p, &r, &err));
        assert_int_equal(r.finish, OMNI_FINISH_STOP);
        assert_int_equal(r.text_limit, OMNI_LIMIT_NONE);
        assert_int_equal(r.answer_tokens, n + 2);
        assert_true(stopped.sample_count > 0);
        assert_int_equal(stopped.sample_count, cut.sample_count);
        assert_memory_equal(stopped.samples, cut.samples, cut.sample_count * sizeof *cut.samples);
        forget(&all);
        forget(&cut);
        forget(&stopped);
        dialogue_destroy(s);
        omni_model_close(m);
    }
}

static void limits_are_told_apart(void **state) {
    omni_model *m = open_model(2);
    dialogue *s;
    dialogue_params q = dialogue_params_default();
    dialogue_set_context(&q, 64);
    must(dialogue_create(m, &q, &s, &err));
    say(s, "Hi");
    listener l = {0};
    omni_result r;
    omni_generate_params p = asking(&l, 5, 2);
    must(omni_generate(s->engine, s->conversation, &p, &r, &err));
    assert_int_equal(r.text_limit, OMNI_LIMIT_MAX_TOKENS);
    assert_int_equal(r.speech_limit, OMNI_LIMIT_MAX_FRAMES);
    assert_true(r.speech_cut);
    assert_int_equal(r.frames, 2);
    omni_conversation_take_back(s->conversation);
    p.max_tokens = 0;
    p.speak = false;
    must(omni_generate(s->engine, s->conversation, &p, &r, &err));
    assert_int_equal(r.finish, OMNI_FINISH_LENGTH);
    assert_int_equal(r.text_limit, OMNI_LIMIT_CONTEXT);
    assert_int_equal(r.speech_limit, OMNI_LIMIT_NONE);
    assert_false(r.speech_cut);
    forget(&l);
    dialogue_destroy(s);
    omni_model_close(m);
}

/* ---- random numbers ---- */

typedef struct drawn {
    sample_row rows[8192];
    size_t count;
    const ops *inner;
} drawn;

static drawn spied;

static void spy(backend *b, float *logits, int64_t rows, int64_t vocab, const sample_row *params, int32_t *ids) {
    for (int64_t i = 0; i < rows && spied.count < sizeof spied.rows / sizeof *spied.rows; i++) {
        spied.rows[spied.count++] = params[i];
    }
    spied.inner->sample(b, logits, rows, vocab, params, ids);
}

/* Two turns with speech, sampled: returns the text and sound of both. */
static void two_turns(omni_model *m, uint64_t seed, listener *l) {
    dialogue *s = open_session(m);
    for (int turn = 0; turn < 2; turn++) {
        omni_generate_params p = asking(l, 24, 24);
        p.text.greedy = p.speech.greedy = false;
        p.seed = seed;
        say(s, turn ? "Go on." : "Tell me something.");
        must(omni_generate(s->engine, s->conversation, &p, NULL, &err));
    }
    dialogue_destroy(s);
}

static void every_draw_has_a_number_of_its_own(void **state) {
    omni_model *m = open_model(2);
    ops watched = *m->b->ops;
    watched.sample = spy;
    spied.inner = m->b->ops;
    m->b->ops = &watched;
    listener a = {0}, b = {0}, c = {0};
    two_turns(m, 7, &a);
    const size_t count = spied.count;
    assert_true(count > 24 * 2);
    int stages[3] = {0};
    for (size_t i = 0; i < count; i++) {
        stages[spied.rows[i].stage]++;
        for (size_t k = 0; k < i; k++) {
            const sample_row *x = &spied.rows[i], *y = &spied.rows[k];
            if (x->stage == y->stage && x->sequence == y->sequence && x->step == y->step && x->code == y->code) {
                fail_msg("draws %zu and %zu share stage %d, sequence %d, step %d, code %d", k, i, (int)x->stage, (int)x->sequence, (int)x->step,
                         (int)x->code);
            }
        }
    }
    assert_true(stages[SAMPLE_THINKER] == 48 && stages[SAMPLE_TALKER] > 0 && stages[SAMPLE_PREDICTOR] > stages[SAMPLE_TALKER]);
    two_turns(m, 7, &b); /* the same seed: the same answers, to the bit */
    two_turns(m, 8, &c);
    assert_string_equal(a.text, b.text);
    assert_int_equal(a.sample_count, b.sample_count);
    assert_memory_equal(a.samples, b.samples, a.sample_count * sizeof *a.samples);
    assert_true(strcmp(a.text, c.text) != 0);
    forget(&a);
    forget(&b);
    forget(&c);
    m->b->ops = spied.inner;
    omni_model_close(m);
}

/* ---- two calls at once ---- */

typedef struct intruder {
    dialogue *running, *other;
    omni_model *model;
    omni_status session_calls[6], other_answer, other_add, other_speak;
    omni_error why;
    int64_t context;
} intruder;

static void *intrude(void *arg) {
    intruder *x = arg;
    omni_part part = {.kind = OMNI_TEXT, .text = "Hello?"};
    const omni_message message = {OMNI_USER, &part, 1};
    omni_generate_params p = omni_generate_params_default();
    p.max_tokens = 3;
    x->session_calls[0] = omni_generate(x->running->engine, x->running->conversation, &p, NULL, &x->why);
    x->session_calls[1] = omni_conversation_add(x->running->conversation, &message, NULL);
    x->session_calls[2] = omni_conversation_add_json(x->running->conversation, "[]", 2, NULL);
    x->session_calls[3] = omni_conversation_set_tools(x->running->conversation, "[]", 2, NULL);
    x->session_calls[4] = dialogue_reset(x->running);
    x->session_calls[5] = omni_conversation_take_back(x->running->conversation);
    x->other_add = omni_conversation_add(x->other->conversation, &message, NULL);
    x->other_answer = omni_generate(x->other->engine, x->other->conversation, &p, NULL, NULL);
    x->other_speak = omni_speak(x->other->engine, "Hello", &p, NULL, NULL);
    dialogue *made = NULL;
    if (dialogue_create(x->model, NULL, &made, NULL) == OMNI_OK) { /* needs no computing */
        dialogue_destroy(made);
    }
    return NULL;
}

static bool let_them_in(void *arg, const char *text, size_t size) {
    intruder *x = arg;
    pthread_t thread;
    if (x->other_add == 1) {
        intrude(x); /* from the callback itself, then from another thread */
        assert_int_equal(x->session_calls[0], OMNI_ERR_BUSY);
        assert_int_equal(omni_conversation_take_back(x->other->conversation), OMNI_OK);
        assert_int_equal(omni_conversation_take_back(x->other->conversation), OMNI_OK);
        pthread_create(&thread, NULL, intrude, x);
        pthread_join(thread, NULL);
    }
    return true;
}

static void two_calls_at_once_are_refused(void **state) {
    omni_model *m = open_model(2);
    intruder x = {.running = open_session(m), .other = open_session(m), .model = m, .other_add = 1};
    listener alone = {0}, l = {0};
    dialogue *s = open_session(m);
    say(s, "Tell me a story.");
    omni_generate_params p = asking(&alone, 8, 8);
    must(omni_generate(s->engine, s->conversation, &p, NULL, &err));
    say(x.running, "Tell me a story.");
    p = asking(&l, 8, 8);
    p.on_text = let_them_in;
    p.on_audio = NULL;
    p.on_progress = NULL;
    p.arg = &x;
    must(omni_generate(x.running->engine, x.running->conversation, &p, NULL, &err));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(x.session_calls[i], OMNI_ERR_BUSY);
    }
    assert_int_equal(x.other_add, OMNI_OK);
    assert_int_equal(x.other_answer, OMNI_OK); /* another session is no hindrance */
    assert_int_equal(x.other_speak, OMNI_OK);
    assert_non_null(strstr(x.why.text, "conversation"));
    assert_int_equal(x.why.code, OMNI_ERR_BUSY);
    const token_list *a = &s->conversation->chat.messages[1].answer, *b = &x.running->conversation->chat.messages[1].answer;
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->ids, b->ids, a->count * sizeof *a->ids);
    must(omni_generate(x.other->engine, x.other->conversation, &p, NULL, &err)); /* and afterwards it goes on */
    forget(&alone);
    forget(&l);
    dialogue_destroy(s);
    dialogue_destroy(x.running);
    dialogue_destroy(x.other);
    omni_model_close(m);
}

/* Threads that all want to answer at the same time: each gets the right answer or is told that it came too early. */
typedef struct rival {
    dialogue *session;
    const token_list *want;
    int answers, busy, wrong;
} rival;

static void *compete(void *arg) {
    rival *x = arg;
    for (int i = 0; i < 400 && x->answers < 3; i++) {
        omni_generate_params p = omni_generate_params_default();
        p.text.greedy = p.ignore_eos = true;
        p.max_tokens = 6;
        const omni_status status = omni_generate(x->session->engine, x->session->conversation, &p, NULL, NULL);
        if (status == OMNI_OK) {
            const token_list *got = &x->session->conversation->chat.messages[1].answer;
            x->answers++;
            x->wrong += got->count != x->want->count || memcmp(got->ids, x->want->ids, got->count * sizeof *got->ids) != 0;
            x->wrong += omni_conversation_take_back(x->session->conversation) != OMNI_OK;
        } else {
            x->busy++;
            x->wrong += status != OMNI_ERR_BUSY;
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        }
    }
    return NULL;
}

static void rivals_get_right_answers_or_none(void **state) {
    omni_model *m = open_model(2);
    dialogue *first = open_session(m);
    say(first, "Who is it?");
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.ignore_eos = true;
    p.max_tokens = 6;
    must(omni_generate(first->engine, first->conversation, &p, NULL, &err));
    rival all[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        all[i] = (rival){.session = open_session(m), .want = &first->conversation->chat.messages[1].answer};
        say(all[i].session, "Who is it?");
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, compete, &all[i]), 0);
    }
    int answers = 0;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(all[i].wrong, 0);
        answers += all[i].answers;
        dialogue_destroy(all[i].session);
    }
    assert_true(answers >= 3);
    dialogue_destroy(first);
    omni_model_close(m);
}

/* ---- signals ---- */

/* Threads of this process that would take a SIGINT. */
static int takers(void) {
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    assert_non_null(tasks);
    for (const struct dirent *d; (d = readdir(tasks));) {
        char name[300], line[256];
        snprintf(name, sizeof name, "/proc/self/task/%s/status", d->d_name);
        FILE *f = d->d_name[0] == '.' ? NULL : fopen(name, "r");
        while (f && fgets(line, sizeof line, f)) {
            unsigned long long blocked;
            count += sscanf(line, "SigBlk: %llx", &blocked) == 1 && !(blocked >> (SIGINT - 1) & 1);
        }
        if (f) {
            fclose(f);
        }
    }
    closedir(tasks);
    return count;
}

/* The pool's workers, the thread that decodes speech and its pool leave signals to the thread that called. */
static void signals_stay_with_the_program(void **state) {
    const int before = takers();
    omni_model *m = open_model(4);
    dialogue *s = open_session(m);
    listener l = {0};
    omni_generate_params p = asking(&l, 0, 20);
    must(omni_speak(s->engine, "Hello, how are you today?", &p, NULL, &err));
    assert_int_equal(takers(), before);
    forget(&l);
    dialogue_destroy(s);
    omni_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_comes_after_false),     cmocka_unit_test(a_cancel_is_met_once),
        cmocka_unit_test(what_is_encoded_stays_so),      cmocka_unit_test(a_stop_string_is_not_spoken),
        cmocka_unit_test(limits_are_told_apart),         cmocka_unit_test(every_draw_has_a_number_of_its_own),
        cmocka_unit_test(two_calls_at_once_are_refused), cmocka_unit_test(rivals_get_right_answers_or_none),
        cmocka_unit_test(signals_stay_with_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
