/* Whose turn it is in an engine: slow readers, long prompts, and who gives cache blocks to whom. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "mixed.h"
#include "scratch.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#include "asking.h"

/* ---- who goes first ---- */

static void slow_readers(void **state) {
    omni_generate_params p = answer(30), spoken = answer(30);
    spoken.speak = true;
    spoken.max_frames = 30;
    mixed_answer text = alone("Tell me of the sea.", NULL, p), heard = alone("Tell me of the sea.", NULL, spoken), other = alone_words(3, 200, p);
    for (int parallel = 1; parallel < 4; parallel++) {
        for (int started = 0; started < 2; started++) {
            omni_engine *e;
            omni_engine_params ep = omni_engine_params_default();
            ep.parallel = parallel;
            ep.context = CONTEXT;
            ep.held_text = 10;
            ep.held_seconds = 0.2;
            must(omni_engine_create(model, &ep, &e, &err));
            if (started) {
                must(omni_engine_start(e, &err));
            }
            omni_request *slow = ask(e, "Tell me of the sea.", parallel == 2 ? spoken : p);
            while (!events_full(&slow->events)) {
                omni_engine_step(e); /* nothing when it has been started */
            }
            e->seconds_a_row = parallel == 3 ? 10 : e->seconds_a_row; /* a prompt of a slow machine waits for nobody who does not go on */
            answered_as(ask_words(e, 3, 200, p), &other);
            assert_true(slow->answer.count < 30);
            answered_as(slow, parallel == 2 ? &heard : &text);
            omni_engine_destroy(e);
        }
    }
    mixed_answer_free(&text);
    mixed_answer_free(&heard);
    mixed_answer_free(&other);
}

/* Prompts and those who have been let in before share the steps, whatever a row costs. */
static void long_prompts(void **state) {
    static const double row_costs[] = {1e-6, 1e-3, 1};
    for (size_t i = 0; i < 3; i++) {
        for (int speaks = 0; speaks < 2; speaks++) {
            omni_engine *e = make_engine(2, false);
            omni_generate_params p = answer(speaks ? 500 : 0);
            p.speak = speaks;
            omni_request *talks = ask(e, "Tell me of the sea.", p);
            while (talks->answer.count < 3) {
                omni_engine_step(e);
            }
            omni_request *reads = ask_words(e, 4, 400, answer(1));
            assert_true(reads->prompt_rows > 600);
            int steps = 0;
            for (; !events_ended(&reads->events); steps++) {
                const size_t before = talks->answer.count;
                e->seconds_a_row = row_costs[i];
                omni_engine_step(e);
                if (steps > 0 && talks->state == REQUEST_RUNNING) {
                    assert_int_equal(talks->answer.count, before + 1); /* the one is not held up */
                }
                assert_true(events_ended(&reads->events) || reads->seq.length >= 16 * (steps / 40)); /* nor the other */
                assert_true(reads->chunk <= 16 + 0.05 / row_costs[i] || talks->state != REQUEST_RUNNING);
            }
            omni_request_free(talks);
            answered_as(reads, NULL);
            omni_engine_destroy(e);
        }
    }
}

/* ---- who gives way ---- */

/* All are let in, and then grow until there is room for half of them: who has to go comes back, and nobody hears of it. */
static void outgrowing_the_cache(void **state) {
    enum { N = 8 };
    mixed_answer expected[N];
    omni_generate_params p[N];
    for (int i = 0; i < N; i++) {
        p[i] = answer(150);
        p[i].speak = i % 2;
        p[i].max_frames = 40;
        expected[i] = alone_words((uint64_t)i, 15, p[i]);
    }
    for (int started = 0; started < 2; started++) {
        omni_engine *e;
        omni_engine_params ep = omni_engine_params_default();
        ep.parallel = N;
        ep.context = ep.cache_tokens = CONTEXT;
        must(omni_engine_create(model, &ep, &e, &err));
        if (started) {
            must(omni_engine_start(e, &err));
        }
        omni_request *r[N];
        for (int i = 0; i < N; i++) {
            r[i] = ask_words(e, (uint64_t)i, 15, p[i]);
        }
        for (int i = N; i-- > 0;) {
            answered_as(r[i], &expected[i]);
        }
        const omni_engine_counters n = omni_engine_count(e);
        assert_true(n.preempted > 0);
        assert_true(n.prompt_rows < N * 64); /* each was admitted once as far as this is concerned */
        omni_engine_destroy(e);
    }
    for (int i = 0; i < N; i++) {
        mixed_answer_free(&expected[i]);
    }
}

/* The engine moves on until r has said so many tokens, or has ended its text. */
static void step_to(omni_engine *e, const omni_request *r, size_t tokens) {
    while (r->answer.count < tokens && r->state < REQUEST_SPEAKING) {
        omni_engine_step(e);
    }
}

/* Makes the youngest ones give blocks to r. */
static void need_blocks(omni_engine *e, omni_request *r, int64_t blocks) {
    pthread_mutex_lock(&model->computing);
    engine_make_room(e, r, blocks * KV_BLOCK);
    pthread_mutex_unlock(&model->computing);
}

static void giving_way_while_it_speaks(void **state) {
    omni_generate_params p = answer(4);
    p.speak = true;
    p.max_frames = 20;
    mixed_answer expected = alone_words(5, 250, p);
    omni_engine *e = make_engine(2, false);
    omni_request *old = ask(e, "Hello", answer(60)), *young = ask_words(e, 5, 250, p);
    step_to(e, young, 4);
    assert_int_equal(young->state, REQUEST_SPEAKING);
    assert_true(young->seq.block_count > 5); /* the talker has not read them yet */
    need_blocks(e, old, kv_pool_cache(e->pool)->blocks - 2);
    assert_int_equal(young->seq.block_count, 0);
    answered_as(young, &expected);
    answered_as(old, NULL);
    mixed_answer_free(&expected);
    omni_engine_destroy(e);
}

/* One that has nothing yet takes nothing from those before it: they may be in the pass. */
static void giving_way_to_nobody_younger(void **state) {
    mixed_answer expected = alone_words(6, 100, answer(8)), late = alone_words(7, 100, answer(8));
    omni_engine *e = make_engine(2, false);
    omni_request *old = ask_words(e, 6, 100, answer(8));
    step_to(e, old, 3);
    omni_request *young = ask_words(e, 7, 100, answer(8));
    pthread_mutex_lock(&model->computing);
    pthread_mutex_lock(&e->lock);
    request_list_remove(&e->submitted, young);
    pthread_mutex_unlock(&e->lock);
    request_list_add(&e->waiting, young);
    engine_admit(e);
    pthread_mutex_unlock(&model->computing);
    assert_int_equal(young->state, REQUEST_RUNNING);
    const int64_t length = old->seq.length;
    need_blocks(e, young, kv_pool_cache(e->pool)->blocks);
    assert_int_equal(old->seq.length, length);
    assert_int_equal(young->state, REQUEST_WAITING);
    answered_as(old, &expected);
    answered_as(young, &late);
    mixed_answer_free(&expected);
    mixed_answer_free(&late);
    omni_engine_destroy(e);
}

/* Its trace has everything once, in order. */
static void traced_giving_way(void **state) {
    char *paths[2], *texts[2];
    size_t sizes[2];
    for (int way = 0; way < 2; way++) {
        paths[way] = in_folder(way ? "way.safetensors" : "alone.safetensors");
        omni_generate_params p = answer(6);
        p.trace = paths[way];
        omni_engine *e = make_engine(2, false);
        omni_request *old = way ? ask(e, "Hello", answer(40)) : NULL, *r = ask_words(e, 8, 70, p);
        if (way) {
            step_to(e, r, 3);
            need_blocks(e, old, kv_pool_cache(e->pool)->blocks - 1);
            assert_int_equal(r->state, REQUEST_WAITING);
        }
        mixed_answer a = answered(r, NULL);
        assert_int_equal(a.result.cached_tokens, 0);
        mixed_answer_free(&a);
        omni_request_free(old);
        omni_engine_destroy(e);
        must(file_read(paths[way], 1 << 26, &texts[way], &sizes[way], &err));
    }
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(texts[0], texts[1], sizes[0]);
    for (int way = 0; way < 2; way++) {
        free(texts[way]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_readers),
        cmocka_unit_test(long_prompts),
        cmocka_unit_test(outgrowing_the_cache),
        cmocka_unit_test(giving_way_while_it_speaks),
        cmocka_unit_test(giving_way_to_nobody_younger),
        cmocka_unit_test(traced_giving_way),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
