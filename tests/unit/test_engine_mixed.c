/* Requests of every kind at once: whatever others ask at the same time, however small the cache, however slowly their answers are read, each is
 * answered bit for bit as by an engine that has nothing else to do; and everything is given back. */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "mixed.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { ASKS = 48, WORDS = 320, CONTEXT = 1024, THREADS = 12 };

static omni_model *model;
static omni_error err;
static mixed_ask asks[ASKS];
static mixed_answer alone[ASKS];

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
    int64_t shortest = CONTEXT, longest = 0, samples = 0;
    for (uint64_t i = 0; i < ASKS; i++) {
        asks[i] = mixed_make(i, WORDS);
        must(mixed_alone(model, &asks[i], CONTEXT, &alone[i], &err));
        const omni_result *r = &alone[i].result;
        shortest = r->prompt_tokens > 0 && r->prompt_tokens < shortest ? r->prompt_tokens : shortest;
        longest = r->prompt_tokens > longest ? r->prompt_tokens : longest;
        samples += r->samples;
    }
    if (shortest > 60 || longest < 600 || samples == 0) {
        fail_msg("these requests are too much alike: prompts of %d to %d tokens, %d samples", (int)shortest, (int)longest, (int)samples);
    }
    return 0;
}

static int tear_down(void **state) {
    for (int i = 0; i < ASKS; i++) {
        mixed_free(&asks[i]);
        mixed_answer_free(&alone[i]);
    }
    omni_model_close(model);
    return 0;
}

static int count_entries(const char *path) {
    DIR *d = opendir(path);
    assert_non_null(d);
    int n = 0;
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

static void pause_for(uint64_t microseconds) {
    const struct timespec t = {.tv_nsec = (long)microseconds * 1000};
    nanosleep(&t, NULL);
}

/* What a thread does with its share of the requests: every THREADSth from first on. */
typedef struct asker {
    pthread_t thread;
    omni_engine *engine;
    bool quietly; /* reads all to the end, at once */
    int first;
    uint64_t random;
    int asked, read, differ; /* differ: 1 + the first whose answer is another one */
    const char *what;
} asker;

static void compare(asker *x, int i, const mixed_answer *a) {
    const char *what = mixed_difference(a, &alone[i]);
    if (what && !x->what) {
        x->what = what;
        x->differ = i + 1;
    }
    x->read++;
}

/* Reads until something has come that a cancel can follow. */
static void read_some(asker *x, omni_request *r, int events) {
    omni_event event;
    mixed_answer a = {0};
    bool more = true;
    for (int i = 0; more && i < events; i++) {
        more = !omni_request_next(r, -1, &event) || mixed_take(&a, r, &event);
    }
    mixed_answer_free(&a);
}

static void ask(asker *x, int i) {
    omni_request *r;
    omni_error e;
    x->asked++;
    if (mixed_submit(x->engine, model, &asks[i], &r, &e) != OMNI_OK) {
        x->what = "submitting";
        x->differ = i + 1;
        return;
    }
    const uint64_t way = x->quietly ? 7 : mixed_below(&x->random, 8);
    if (way == 0) { /* before it begins, perhaps */
        omni_request_cancel(r);
    } else if (way == 1) {
        read_some(x, r, 1 + (int)mixed_below(&x->random, 5));
        omni_request_cancel(r);
        mixed_answer a = mixed_read(r);
        if (a.size || a.sample_count || (a.status != OMNI_CANCELLED && a.status != OMNI_OK)) {
            x->what = "events after a cancel";
            x->differ = i + 1;
        }
        mixed_answer_free(&a);
    } else if (way == 2) { /* gone without a word */
        pause_for(mixed_below(&x->random, 20000));
    } else {
        mixed_answer a = {0};
        omni_event event;
        const bool slowly = way == 3;
        while (!omni_request_next(r, slowly ? 0.001 : -1, &event) || mixed_take(&a, r, &event)) {
            if (slowly) {
                pause_for(3000);
            }
        }
        compare(x, i, &a);
        mixed_answer_free(&a);
    }
    omni_request_free(r);
}

static void *work(void *arg) {
    asker *x = arg;
    for (int i = x->first; i < ASKS; i += THREADS) {
        pause_for(mixed_below(&x->random, 2000));
        ask(x, i);
    }
    return NULL;
}

static void engine_is_empty(omni_engine *e) {
    const omni_engine_counters n = omni_engine_count(e);
    assert_int_equal(n.waiting_or_running, 0);
    assert_int_equal(n.submitted, n.ended);
    assert_int_equal(n.running, 0);
    assert_int_equal(n.blocks_in_use, 0);
    assert_int_equal(e->submitted.count + e->waiting.count + e->running.count, 0);
    assert_int_equal(kv_pool_free(e->pool) + prefix_cache_idle(e->prefixes), kv_pool_cache(e->pool)->blocks);
    omni_engine_forget(e);
    assert_int_equal(kv_pool_free(e->pool), kv_pool_cache(e->pool)->blocks);
    for (const embeddings *x = model->media_cache.oldest; x; x = x->newer) {
        assert_int_equal(x->holders, 0);
    }
}

static void wait_until_empty(omni_engine *e) {
    while (omni_engine_count(e).waiting_or_running > 0) { /* those that were freed end with the next step */
        pause_for(1000);
    }
}

static omni_engine_counters run(omni_engine_params p, bool threaded, bool quietly, uint64_t seed) {
    const int threads = count_entries("/proc/self/task"), files = count_entries("/proc/self/fd");
    omni_engine *e;
    p.context = CONTEXT;
    must(omni_engine_create(model, &p, &e, &err));
    if (threaded) {
        must(omni_engine_start(e, &err));
    }
    asker askers[THREADS];
    int asked = 0, read = 0;
    for (int i = 0; i < THREADS; i++) {
        askers[i] = (asker){.engine = e, .quietly = quietly, .first = i, .random = seed * THREADS + (uint64_t)i + 1};
        assert_int_equal(pthread_create(&askers[i].thread, NULL, work, &askers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(askers[i].thread, NULL);
        if (askers[i].what) {
            fail_msg("parallel %d, cache %d, seed %d: request %d: %s", p.parallel, (int)p.cache_tokens, (int)seed, askers[i].differ - 1,
                     askers[i].what);
        }
        asked += askers[i].asked;
        read += askers[i].read;
    }
    wait_until_empty(e);
    engine_is_empty(e);
    const omni_engine_counters n = omni_engine_count(e);
    assert_int_equal(n.submitted, ASKS);
    assert_int_equal(asked, ASKS);
    assert_int_equal(n.failed + n.refused, 0);
    assert_true(n.cancelled <= (uint64_t)(asked - read));
    assert_true(n.cached_rows <= n.prompt_rows);
    omni_engine_destroy(e);
    assert_int_equal(count_entries("/proc/self/task"), threads);
    assert_int_equal(count_entries("/proc/self/fd"), files);
    return n;
}

static omni_engine_params engine_params(int parallel, int64_t cache_tokens) {
    omni_engine_params p = omni_engine_params_default();
    p.parallel = parallel;
    p.cache_tokens = cache_tokens;
    return p;
}

static void together(void **state) {
    for (int parallel = 1; parallel <= 8; parallel += parallel < 3 ? 2 : 5) {
        const omni_engine_counters n = run(engine_params(parallel, 0), true, true, 1);
        assert_true(n.cached_rows > 0);
        uint64_t rows = 0;
        for (int i = 0; i < ASKS; i++) {
            const omni_result *r = &alone[i].result;
            rows += asks[i].given ? 0 : (uint64_t)(r->prompt_tokens + r->answer_tokens - 1);
        }
        if (n.preempted == 0) { /* every row of every request was found or computed once */
            assert_int_equal(n.rows, rows - n.cached_rows);
        }
    }
}

static void in_a_small_cache(void **state) {
    omni_engine_params p = engine_params(8, CONTEXT);
    p.batch = 100;
    run(p, true, true, 1);
}

static void cancelled_and_slow(void **state) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        omni_engine_params p = engine_params(3, seed % 2 ? CONTEXT : 0);
        p.held_text = 4;
        p.held_seconds = 0.1;
        run(p, true, false, seed);
    }
}

/* No thread of the engine's own: who waits computes, for all. */
static void without_a_thread(void **state) {
    run(engine_params(3, CONTEXT), false, true, 1);
    run(engine_params(2, 0), false, false, 2);
}

static void without_a_prefix_cache(void **state) {
    omni_engine_params p = engine_params(5, 2 * CONTEXT);
    p.prefix_cache = false;
    assert_int_equal(run(p, true, true, 1).cached_rows, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(together),         cmocka_unit_test(in_a_small_cache),       cmocka_unit_test(cancelled_and_slow),
        cmocka_unit_test(without_a_thread), cmocka_unit_test(without_a_prefix_cache),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
