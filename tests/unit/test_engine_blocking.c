/* omni_generate and omni_speak from several threads on one engine, and their cancelling. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "mixed.h"
#include "scratch.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#include "asking.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct asker {
    omni_engine *engine;
    omni_conversation *conversation;
    const char *said; /* NULL: the conversation is answered */
    char text[4096];
    size_t size, samples;
    omni_result result;
    omni_status status, inside;
    int64_t tokens;
    bool cancels;
} asker;

static bool hear_text(void *arg, const char *text, size_t size) {
    asker *a = arg;
    assert_true(a->size + size < sizeof a->text);
    memcpy(a->text + a->size, text, size);
    a->size += size;
    if (a->inside == OMNI_OK) { /* once: an answer of the same engine cannot be waited for here */
        omni_conversation *c = talk("Hello?", NULL);
        const omni_generate_params p = answer(1);
        a->inside = omni_generate(a->engine, c, &p, NULL, NULL);
        omni_conversation_free(c);
    }
    if (a->cancels) {
        omni_conversation_cancel(a->conversation);
    }
    return true;
}

static bool hear_samples(void *arg, const float *samples, size_t count) {
    asker *a = arg;
    a->samples += count;
    if (a->cancels) {
        omni_speak_cancel(a->engine);
    }
    return true;
}

static void *wait_for_answer(void *arg) {
    asker *a = arg;
    omni_generate_params p = answer(a->tokens);
    p.max_frames = 30;
    p.on_text = hear_text;
    p.on_audio = hear_samples;
    p.arg = a;
    a->status = a->said ? omni_speak(a->engine, a->said, &p, &a->result, NULL) : omni_generate(a->engine, a->conversation, &p, &a->result, NULL);
    return NULL;
}

/* omni_generate and omni_speak from several threads on one engine, with and without a thread of its own: each as alone; who is cancelled, alone is.
 */
static void blocking_calls_share_an_engine(void **state) {
    enum { CALLS = 6 };
    for (int started = 0; started < 2; started++) {
        omni_engine *e = make_engine(3, started);
        asker all[CALLS] = {0}, alone[CALLS] = {0};
        pthread_t threads[CALLS];
        for (int i = 0; i < CALLS; i++) {
            char text[32];
            snprintf(text, sizeof text, "Question number %d", i);
            all[i] = (asker){.engine = e,
                             .said = i % 3 == 2 ? "Words to say" : NULL,
                             .conversation = talk(text, NULL),
                             .cancels = i == 4,
                             .tokens = i == 4 ? 900 : 12};
            alone[i] = all[i];
            alone[i].cancels = false;
            alone[i].engine = make_engine(1, false);
            wait_for_answer(&alone[i]);
            omni_engine_destroy(alone[i].engine);
            if (!alone[i].said) {
                must(omni_conversation_take_back(all[i].conversation));
            }
        }
        for (int i = 0; i < CALLS; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, wait_for_answer, &all[i]), 0);
        }
        for (int i = 0; i < CALLS; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(all[i].status, OMNI_OK);
            assert_int_equal(all[i].result.finish == OMNI_FINISH_CANCELLED, i == 4);
            assert_int_equal(all[i].samples, alone[i].samples);
            assert_true(i == 4 ? all[i].size < alone[i].size : all[i].size == alone[i].size);
            assert_memory_equal(all[i].text, alone[i].text, all[i].size);
            if (!all[i].said) {
                assert_int_equal(all[i].inside, OMNI_ERR_BUSY);
            }
            omni_role role;
            assert_true(omni_conversation_last_role(all[i].conversation, &role));
            assert_int_equal(role, all[i].said ? OMNI_USER : OMNI_ASSISTANT);
            assert_false(omni_conversation_cancel_withdraw(all[i].conversation));
            omni_conversation_free(all[i].conversation);
        }
        omni_engine_destroy(e);
    }
}

/* A cancel ends a call that waits for its turn behind a request that nobody reads. */
static void *cancel_both_soon(void *arg) {
    const asker *a = arg;
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    if (a->said) {
        omni_speak_cancel(a->engine);
    } else {
        omni_conversation_cancel(a->conversation);
    }
    return NULL;
}

static void a_waiting_call_can_be_cancelled(void **state) {
    for (int k = 0; k < 4; k++) {
        omni_engine *e;
        omni_engine_params q = omni_engine_params_default();
        q.context = CONTEXT;
        q.held_seconds = 0.01;
        must(omni_engine_create(model, &q, &e, &err));
        if (k % 2) {
            must(omni_engine_start(e, &err));
        }
        omni_generate_params p = answer(3);
        p.speak = true; /* so that it keeps its place */
        p.ignore_eos = true;
        omni_request *unread = ask(e, "Tell me of the sea.", p);
        asker a = {.engine = e, .said = k / 2 ? "Words" : NULL, .tokens = 3, .conversation = talk("Hello", NULL)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, cancel_both_soon, &a), 0);
        const double start = now();
        wait_for_answer(&a);
        assert_true(now() - start < 30);
        pthread_join(thread, NULL);
        assert_int_equal(a.status, OMNI_OK);
        assert_int_equal(a.result.finish, OMNI_FINISH_CANCELLED);
        assert_int_equal(a.size + a.samples, 0);
        assert_false(omni_speak_cancel_withdraw(e));
        omni_conversation_free(a.conversation);
        omni_request_free(unread);
        omni_engine_destroy(e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocking_calls_share_an_engine),
        cmocka_unit_test(a_waiting_call_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
