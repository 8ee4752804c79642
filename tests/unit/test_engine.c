/* What omni.h promises of an engine and its requests, one promise a test; test_engine_turns.c: who goes first; test_engine_mixed.c: everything at
 * once. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "mixed.h"
#include "scratch.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#include "asking.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- events ---- */

static void no_event_leaves_the_place_alone(void **state) {
    for (int started = 0; started < 2; started++) {
        omni_engine *e = make_engine(1, started);
        omni_request *first = ask(e, "Tell me of the sea.", answer(200)), *r = ask(e, "And of the ships.", answer(3)); /* which waits for the first */
        omni_event event, before;
        memset(&event, 0x5a, sizeof event);
        before = event;
        assert_false(omni_request_next(r, 0, &event));
        assert_memory_equal(&event, &before, sizeof event);
        omni_request_free(first);
        answered_as(r, NULL);
        omni_engine_destroy(e);
    }
}

/* ---- what is computed once ---- */

static void repeated_prompts(void **state) {
    enum { WORDS = 1200, TOKENS = 2000 }; /* at least, of so many words */
    omni_engine_params params = omni_engine_params_default();
    omni_engine *e;
    params.parallel = 2;
    params.context = 4096;
    must(omni_engine_create(model, &params, &e, &err));
    must(omni_engine_start(e, &err));
    omni_generate_params p = answer(2);
    p.owner = "anna";
    answered_as(ask_words(e, 1, WORDS, p), NULL);
    const omni_engine_counters first = omni_engine_count(e);
    assert_true(first.rows > TOKENS);
    answered_as(ask_words(e, 1, WORDS, p), NULL);
    const omni_engine_counters again = omni_engine_count(e);
    assert_true(again.rows - first.rows < 130);
    assert_true(again.cached_rows > TOKENS - 130);
    static const char *const others[] = {"bert", NULL, "", "anna "}; /* nothing of anna's is theirs */
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        p.owner = others[i];
        const omni_engine_counters before = omni_engine_count(e);
        mixed_answer a = answered(ask_words(e, 1, WORDS, p), NULL);
        assert_int_equal(a.result.cached_tokens, 0);
        mixed_answer_free(&a);
        assert_int_equal(omni_engine_count(e).rows - before.rows, first.rows);
    }
    omni_engine_destroy(e);
}

/* Nor are another owner's pictures known. */
static void embeddings_of_owners(void **state) {
    static const char *const owners[] = {"anna", "anna", "bert", NULL};
    static const uint64_t encoded[] = {1, 1, 2, 3};
    const uint64_t before = model->media_cache.encoded;
    omni_engine *e = make_engine(1, true);
    for (size_t i = 0; i < 4; i++) {
        omni_generate_params p = answer(1);
        p.owner = owners[i];
        omni_conversation *c = talk("What?", TEST_DATA "/media/image/baseline.jpg");
        answered_as(submit(e, c, p), NULL);
        omni_conversation_free(c);
        assert_int_equal(model->media_cache.encoded - before, encoded[i]);
    }
    omni_engine_destroy(e);
}

/* An engine that lets encoders have a unit now and then, with one who speaks to nobody and one who waits for a sound to be encoded. */
typedef struct beside {
    omni_engine *engine;
    omni_conversation *talker, *listener;
    omni_request *talks, *listens;
} beside;

static void forget_embeddings(void) {
    const size_t limit = model->media_cache.limit;
    model->media_cache.limit = 0;
    media_cache_trim(&model->media_cache, model->b);
    model->media_cache.limit = limit;
}

static beside begin_beside(void) {
    beside b;
    forget_embeddings();
    omni_engine_params p = omni_engine_params_default();
    const omni_part question = {.kind = OMNI_AUDIO, .path = MIXED_MODELS "/media/question.ogg"};
    p.parallel = 2;
    p.context = CONTEXT;
    p.prompt_seconds = 1e-9;
    must(omni_engine_create(model, &p, &b.engine, &err));
    b.talker = talk("Tell me of the sea.", NULL);
    b.listener = talk("What is said?", NULL);
    must(omni_conversation_add(b.listener, &(omni_message){OMNI_USER, &question, 1}, &err));
    b.talks = submit(b.engine, b.talker, answer(700));
    while (b.talks->answer.count == 0) {
        assert_true(omni_engine_step(b.engine));
    }
    b.listens = submit(b.engine, b.listener, answer(5));
    while (!model->encoding) {
        assert_true(omni_engine_step(b.engine));
    }
    return b;
}

static void end_beside(beside *b) {
    omni_request_free(b->talks);
    omni_request_free(b->listens);
    omni_conversation_free(b->talker);
    omni_conversation_free(b->listener);
    omni_engine_destroy(b->engine);
    assert_null(model->encoding);
}

/* While a sound is encoded others get their tokens, one a step. */
static void encoding_in_units(void **state) {
    beside b = begin_beside();
    const size_t before = b.talks->answer.count;
    size_t steps = 0;
    for (; model->encoding; steps++) {
        assert_true(omni_engine_step(b.engine));
        assert_true(b.talks->answer.count == before + steps + 1 || b.talks->state != REQUEST_RUNNING);
    }
    assert_true(steps > 40); /* a unit is less than a layer, and not every step has one */
    omni_request_cancel(b.talks);
    mixed_answer a = mixed_read(b.listens);
    assert_int_equal(a.status, OMNI_OK);
    omni_engine *other = make_engine(1, false);
    answered_as(submit(other, b.listener, answer(5)), &a);
    omni_engine_destroy(other);
    mixed_answer_free(&a);
    end_beside(&b);
}

/* What is being encoded for nobody is given up; another engine's work on the way is done first. */
static void encoding_given_up(void **state) {
    beside b = begin_beside();
    const uint64_t encoded = model->media_cache.encoded;
    omni_engine *other = make_engine(1, false);
    omni_conversation *c = talk("What?", TEST_DATA "/media/image/baseline.jpg");
    mixed_answer seen = answered(submit(other, c, answer(4)), NULL);
    assert_int_equal(model->media_cache.encoded - encoded, 2); /* the sound too */
    assert_null(model->encoding);
    omni_conversation_free(c);
    omni_request_cancel(b.talks);
    mixed_answer heard = mixed_read(b.listens);
    assert_int_equal(heard.status, OMNI_OK);
    end_beside(&b);
    mixed_answer_free(&seen);
    mixed_answer_free(&heard);
    omni_engine_destroy(other);
    beside again = begin_beside();
    omni_request_cancel(again.listens);
    for (int i = 0; i < 2; i++) {
        omni_engine_step(again.engine);
    }
    assert_null(model->encoding);
    omni_request_free(again.listens);
    again.listens = submit(again.engine, again.listener, answer(5)); /* the same medium, begun anew */
    omni_request_cancel(again.talks);
    mixed_answer a = mixed_read(again.listens);
    assert_int_equal(a.status, OMNI_OK);
    mixed_answer_free(&a);
    end_beside(&again);
}

static void next_turns(void **state) {
    for (int started = 0; started < 2; started++) {
        omni_engine *e = make_engine(2, started);
        omni_conversation *c = talk("Tell me of the sea and of the ships.", NULL);
        omni_request *r = submit(e, c, answer(9));
        assert_int_equal(omni_conversation_add_answer(c, r, &err), OMNI_ERR_ARGUMENT); /* not yet */
        mixed_answer a = mixed_read(r);
        must(omni_conversation_add_answer(c, r, &err));
        const omni_part more = {.kind = OMNI_TEXT, .text = "And more?"};
        must(omni_conversation_add(c, &(omni_message){OMNI_USER, &more, 1}, &err));
        omni_request *next = submit(e, c, answer(3));
        mixed_answer b = answered(next, NULL);
        assert_int_equal(b.result.cached_tokens, a.result.prompt_tokens + a.result.answer_tokens - 1); /* the last token was not fed back */
        omni_engine *other = make_engine(1, false);
        answered_as(submit(other, c, answer(3)), &b); /* all of it anew */
        omni_engine_destroy(other);
        omni_request_free(r);
        mixed_answer_free(&a);
        mixed_answer_free(&b);
        /* What is no answer is not taken for one. */
        omni_generate_params p = answer(1);
        p.max_frames = 1;
        p.stop_count = 7; /* without any: a given text has no use of them */
        must(omni_request_speak(e, "Hello", &p, &r, &err));
        a = mixed_read(r);
        assert_true(a.sample_count > 0);
        assert_int_equal(omni_conversation_add_answer(c, r, &err), OMNI_ERR_ARGUMENT);
        omni_request_free(r);
        mixed_answer_free(&a);
        r = submit(e, c, answer(1));
        omni_request_cancel(r);
        a = mixed_read(r);
        const size_t messages = c->chat.count;
        if (r->answer.count == 0) {
            must(omni_conversation_add_answer(c, r, &err)); /* nothing was said */
            assert_int_equal(c->chat.count, messages);
        }
        omni_request_free(r);
        mixed_answer_free(&a);
        omni_conversation_free(c);
        omni_engine_destroy(e);
    }
}

/* Rows of a picture that were found computed do not need it; later ones do. */
static void pictures_that_were_not_needed(void **state) {
    static const char picture[] = TEST_DATA "/media/image/baseline.jpg";
    mixed_answer expected = alone("What?", picture, answer(5));
    omni_engine *e = make_engine(1, false);
    omni_conversation *first = talk("What?", picture), *second = talk("What?", picture);
    answered_as(submit(e, first, answer(5)), &expected);
    answered_as(submit(e, second, answer(5)), &expected);
    assert_null(second->media[0].item->embedded);
    omni_conversation_free(first);
    omni_engine_forget(e);
    model->media_cache.limit = 0; /* the next that is encoded makes all others go */
    mixed_answer other = alone("What?", MIXED_MODELS "/media/picture.jpg", answer(5));
    assert_memory_not_equal(other.tokens, expected.tokens, 5 * sizeof *other.tokens);
    model->media_cache.limit = 256 << 20;
    const uint64_t encoded = model->media_cache.encoded;
    answered_as(submit(e, second, answer(5)), &expected);
    assert_int_equal(model->media_cache.encoded, encoded + 1);
    omni_conversation_free(second);
    omni_engine_destroy(e);
    mixed_answer_free(&expected);
    mixed_answer_free(&other);
}

/* ---- limits ---- */

static void full_queues(void **state) {
    omni_engine *e;
    omni_engine_params p = omni_engine_params_default();
    p.queue = 2;
    must(omni_engine_create(model, &p, &e, &err));
    omni_request *held[3], *refused = (omni_request *)e;
    for (int i = 0; i < 3; i++) {
        held[i] = ask(e, "Hello", answer(2));
    }
    omni_conversation *c = talk("Hello", NULL);
    const omni_generate_params g = answer(2);
    assert_int_equal(omni_request_submit(e, c, &g, &refused, &err), OMNI_ERR_BUSY);
    assert_null(refused);
    assert_int_equal(omni_request_speak(e, "Hello", &g, &refused, &err), OMNI_ERR_BUSY);
    assert_int_equal(omni_engine_count(e).refused, 2);
    omni_request_free(held[1]);
    assert_true(omni_engine_step(e) || omni_engine_count(e).waiting_or_running < 3);
    held[1] = submit(e, c, g);
    for (int i = 0; i < 3; i++) {
        answered_as(held[i], NULL);
    }
    assert_false(omni_engine_step(e));
    const omni_engine_counters n = omni_engine_count(e);
    assert_int_equal(n.submitted, 4);
    assert_int_equal(n.ended, 4);
    assert_int_equal(n.cancelled, 1);
    omni_conversation_free(c);
    omni_engine_destroy(e);
}

/* One runs and two wait; blocks in use are those that are neither free nor only kept by the prefix cache. */
static void counts_who_runs(void **state) {
    omni_engine *e;
    omni_engine_params p = omni_engine_params_default();
    p.parallel = 1;
    must(omni_engine_create(model, &p, &e, &err));
    omni_request *asked[3];
    for (int i = 0; i < 3; i++) {
        asked[i] = ask(e, "Hello", answer(2));
    }
    assert_int_equal(omni_engine_count(e).running, 0);
    assert_true(omni_engine_step(e));
    omni_engine_counters n = omni_engine_count(e);
    assert_int_equal(n.running, 1);
    assert_int_equal(n.waiting_or_running, 3);
    assert_int_equal(n.blocks, kv_pool_cache(e->pool)->blocks);
    assert_int_equal(n.block_tokens, KV_BLOCK);
    assert_in_range(n.blocks_in_use, 1, n.blocks - 1);
    while (omni_engine_step(e)) {
        n = omni_engine_count(e);
        assert_in_range(n.running, 0, 1);
        assert_int_equal(n.blocks_in_use, n.blocks - kv_pool_free(e->pool) - prefix_cache_idle(e->prefixes));
    }
    assert_int_equal(n.ended, 3);
    assert_int_equal(n.running, 0);
    assert_int_equal(n.blocks_in_use, 0);
    for (int i = 0; i < 3; i++) {
        answered_as(asked[i], NULL);
    }
    omni_engine_destroy(e);
}

static void contexts_and_lengths(void **state) {
    for (int started = 0; started < 2; started++) {
        omni_engine *e;
        omni_engine_params p = omni_engine_params_default();
        p.parallel = 3;
        p.context = 50;
        must(omni_engine_create(model, &p, &e, &err));
        if (started) {
            must(omni_engine_start(e, &err));
        }
        assert_int_equal(omni_engine_context(e), 50);
        omni_request *to_the_end[3], *r;
        for (int i = 0; i < 3; i++) {
            to_the_end[i] = ask(e, "Hello", answer(0));
        }
        mixed_answer a = answered(ask(e, "Hello", answer(3)), NULL);
        assert_int_equal(a.result.answer_tokens, 3);
        assert_int_equal(a.result.finish, OMNI_FINISH_LENGTH);
        assert_int_equal(a.result.text_limit, OMNI_LIMIT_MAX_TOKENS);
        mixed_answer_free(&a);
        for (int i = 0; i < 3; i++) {
            a = answered(to_the_end[i], NULL);
            assert_int_equal(a.result.prompt_tokens + a.result.answer_tokens - 1, 50);
            assert_int_equal(a.result.finish, OMNI_FINISH_LENGTH);
            assert_int_equal(a.result.text_limit, OMNI_LIMIT_CONTEXT);
            mixed_answer_free(&a);
        }
        char *text = mixed_text(1, 60);
        omni_conversation *c = talk(text, NULL);
        const omni_generate_params g = answer(1);
        assert_int_equal(omni_request_submit(e, c, &g, &r, &err), OMNI_ERR_LIMIT);
        assert_null(r);
        free(text);
        omni_conversation_free(c);
        omni_engine_destroy(e);
    }
}

/* ---- events ---- */

static void waiting_for_events(void **state) {
    for (int started = 0; started < 2; started++) {
        omni_engine *e = make_engine(1, started);
        omni_event event;
        pthread_mutex_lock(&model->computing); /* nothing comes for now */
        omni_request *r = ask(e, "Hello", answer(2));
        if (started) {
            static const double timeouts[] = {0, 0.05, NAN, 1e-12};
            for (size_t i = 0; i < sizeof timeouts / sizeof *timeouts; i++) {
                const double start = now();
                assert_false(omni_request_next(r, timeouts[i], &event));
                assert_true(i != 1 || now() - start >= 0.05);
                assert_true(now() - start < 5);
            }
        }
        pthread_mutex_unlock(&model->computing);
        int texts = 0;
        while (!omni_request_next(r, started ? 1e300 : 1, &event) || event.kind != OMNI_EVENT_DONE) {
            texts += event.kind == OMNI_EVENT_TEXT;
        }
        assert_true(texts > 0);
        for (int i = 0; i < 3; i++) { /* for ever */
            assert_true(omni_request_next(r, i - 1, &event));
            assert_int_equal(event.kind, OMNI_EVENT_DONE);
            assert_int_equal(event.status, OMNI_OK);
            assert_int_equal(event.result->answer_tokens, 2);
        }
        omni_request_cancel(r); /* too late to mean anything */
        assert_true(omni_request_next(r, 0, &event));
        assert_int_equal(event.status, OMNI_OK);
        omni_request_free(r);
        omni_engine_destroy(e);
    }
}

static _Atomic int woken;

static void wake(void *arg) {
    woken++;
    assert_int_equal(write(*(int *)arg, "!", 1), 1);
}

static void wakeups(void **state) {
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    for (int late = 0; late < 2; late++) {
        omni_engine *e = make_engine(1, true);
        pthread_mutex_lock(&model->computing);
        omni_request *r = ask(e, "Hello", answer(3));
        woken = 0;
        if (!late) {
            omni_request_set_wakeup(r, wake, &ends[1]);
            assert_int_equal(woken, 0);
        }
        pthread_mutex_unlock(&model->computing);
        while (late && omni_engine_count(e).waiting_or_running > 0) {
        }
        if (late) { /* all has come: it is told so */
            while (!events_ended(&r->events)) {
            }
            omni_request_set_wakeup(r, wake, &ends[1]);
            assert_int_equal(woken, 1);
        }
        omni_event event = {0};
        int rounds = 0;
        while (event.kind != OMNI_EVENT_DONE) { /* as an event loop does: nothing is asked for before the pipe has a byte */
            assert_int_equal(read(ends[0], &byte, 1), 1);
            rounds++;
            while (omni_request_next(r, 0, &event) && event.kind != OMNI_EVENT_DONE) {
            }
        }
        assert_true(rounds <= woken);
        omni_request_free(r); /* from here on nobody is woken */
        const int before = woken;
        omni_engine_destroy(e);
        assert_int_equal(woken, before);
        for (; rounds < before; rounds++) {
            assert_int_equal(read(ends[0], &byte, 1), 1);
        }
    }
    close(ends[0]);
    close(ends[1]);
}

static omni_request *to_cancel;

static void on_signal(int number) {
    omni_request_cancel(to_cancel);
}

static void cancelled_by_a_signal(void **state) {
    signal(SIGUSR1, on_signal);
    for (int started = 0; started < 2; started++) {
        omni_engine *e = make_engine(2, started);
        omni_generate_params p = answer(0);
        p.speak = true;
        omni_event event;
        to_cancel = ask(e, "Tell me of the sea.", p);
        omni_request *other = ask(e, "Hello", answer(4));
        while (!omni_request_next(to_cancel, -1, &event) || event.kind != OMNI_EVENT_TEXT) {
        }
        raise(SIGUSR1);
        mixed_answer a = mixed_read(to_cancel);
        assert_int_equal(a.size + a.sample_count, 0); /* nothing but the end */
        assert_int_equal(a.status, OMNI_CANCELLED);
        assert_int_equal(a.result.finish, OMNI_FINISH_CANCELLED);
        mixed_answer_free(&a);
        answered_as(other, NULL);
        omni_request_free(to_cancel);
        assert_int_equal(omni_engine_count(e).cancelled, 1);
        omni_engine_destroy(e);
    }
    signal(SIGUSR1, SIG_DFL);
}

static void progress(void **state) {
    omni_engine *e = make_engine(1, false);
    omni_conversation *c = talk("What?", TEST_DATA "/media/image/baseline.jpg");
    const omni_part said = {.kind = OMNI_AUDIO, .path = MIXED_MODELS "/media/question.ogg"};
    must(omni_conversation_add(c, &(omni_message){OMNI_USER, &said, 1}, &err));
    omni_generate_params p = answer(1);
    p.owner = "somebody new";
    omni_request *r = submit(e, c, p);
    bool told[3] = {0};
    uint64_t done = 0;
    for (omni_event event = {0}; event.kind != OMNI_EVENT_DONE;) {
        omni_engine_step(e);
        if (omni_request_next(r, 0, &event) && event.kind == OMNI_EVENT_PROGRESS) {
            static const char *const names[] = {"seeing", "hearing", "reading"};
            int i = 0;
            while (i < 3 && strcmp(event.name, names[i]) != 0) {
                i++;
            }
            assert_true(i < 3);
            told[i] = true;
            assert_true(event.done > 0 && event.done <= event.total);
            assert_int_equal(i < 2 ? event.total : 2, 2);
            done = i == 2 ? event.done : done;
        }
    }
    assert_true(told[0] && told[2]); /* the last medium's is followed by the first of reading in the same step */
    assert_int_equal(done, r->result.prompt_tokens);
    omni_request_free(r);
    omni_conversation_free(c);
    omni_engine_destroy(e);
}

/* ---- the end ---- */

static void ends(void **state) {
    for (int started = 0; started < 2; started++) {
        omni_engine *e = make_engine(2, started);
        assert_int_equal(started ? omni_engine_start(e, &err) : OMNI_ERR_ARGUMENT, OMNI_ERR_ARGUMENT); /* once */
        omni_generate_params p = answer(0);
        p.speak = true;
        for (int i = 0; i < 5; i++) { /* freed, and still running in the middle of whatever it is */
            omni_request *r = ask_words(e, (uint64_t)i, 100, p);
            for (int k = 0; k < 3 * i; k++) {
                omni_engine_step(e);
            }
            omni_event event;
            omni_request_next(r, started ? 0.01 * i : 0, &event);
            omni_request_free(r);
        }
        omni_engine_destroy(e);
        for (const embeddings *x = model->media_cache.oldest; x; x = x->newer) {
            assert_int_equal(x->holders, 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_event_leaves_the_place_alone),
        cmocka_unit_test(repeated_prompts),
        cmocka_unit_test(embeddings_of_owners),
        cmocka_unit_test(encoding_in_units),
        cmocka_unit_test(encoding_given_up),
        cmocka_unit_test(next_turns),
        cmocka_unit_test(pictures_that_were_not_needed),
        cmocka_unit_test(full_queues),
        cmocka_unit_test(counts_who_runs),
        cmocka_unit_test(contexts_and_lengths),
        cmocka_unit_test(waiting_for_events),
        cmocka_unit_test(wakeups),
        cmocka_unit_test(cancelled_by_a_signal),
        cmocka_unit_test(progress),
        cmocka_unit_test(ends),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
