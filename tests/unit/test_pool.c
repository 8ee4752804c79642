/* Threads: how many take part, on which CPUs each of them runs, what is put back afterwards, and how long one without work spins.
 * Holds on any machine: the CPUs are chosen among those that the test itself may use. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/pool.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { MOST = 4 };

static omni_error err;
static cpus usable; /* when the test began */

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static pool *start(pool_params params) {
    pool *p;
    must(pool_create_with(&params, &p, &err));
    return p;
}

static cpus here(void) {
    cpus now;
    cpus_usable(&now);
    return now;
}

static cpus only(int cpu) {
    cpus s = {0};
    cpus_add(&s, cpu);
    return s;
}

static void assert_cpus(const cpus *got, const cpus *want) {
    char a[256], b[256];
    assert_string_equal(cpus_text(got, a, sizeof a), cpus_text(want, b, sizeof b));
    assert_memory_equal(got, want, sizeof *got);
}

/* ---- sets ---- */

static void test_parse(void **state) {
    static const struct {
        const char *mask, *range, *text;
    } good[] = {
        {"1", NULL, "0"},
        {"0x5", NULL, "0, 2"},
        {"0XfF", NULL, "0-7"},
        {"F0", NULL, "4-7"},
        {"0001", NULL, "0"},
        {NULL, "0-0", "0"},
        {NULL, "3-7", "3-7"},
        {NULL, "007-008", "7-8"},
        {"1", "2-3", "0, 2-3"},
        {"3", "1-2", "0-2"},
        {NULL, NULL, ""},
        {"e000000000000000", NULL, "61-63"},
        {"10000000000000000", NULL, "64"},
        {"c000000000000000000000000", "0-8191", "0-8191"},
        {NULL, "8191-8191", "8191"},
    };
    static const struct {
        const char *mask, *range, *say;
    } bad[] = {
        {"", NULL, "no CPU in it"},
        {"0", NULL, "no CPU in it"},
        {"0x", NULL, "no CPU in it"},
        {"0000", "1-2", "no CPU in it"},
        {"g", NULL, "\"g\" is not"},
        {"0x1z", NULL, "\"z\" is not"},
        {"-1", NULL, "\"-\" is not"},
        {" 1", NULL, "\" \" is not"},
        {"1,2", NULL, "\",\" is not"},
        {"0x0x1", NULL, "\"x\" is not"},
        {NULL, "", "LO-HI"},
        {NULL, "3", "LO-HI"},
        {NULL, "-3", "LO-HI"},
        {NULL, "3-", "LO-HI"},
        {NULL, "-", "LO-HI"},
        {NULL, "1-2-3", "LO-HI"},
        {NULL, "a-b", "LO-HI"},
        {NULL, "1 -2", "LO-HI"},
        {NULL, "+1-2", "LO-HI"},
        {NULL, "0x1-0x2", "LO-HI"},
        {NULL, "3-2", "backwards"},
        {NULL, "0-8192", "more than 8192"},
        {NULL, "0-99999999999999999999", "more than 8192"},
        {"1", "2-1", "backwards"},
    };
    cpus s;
    char text[256];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        must(cpus_parse(good[i].mask, good[i].range, &s, &err));
        assert_string_equal(cpus_text(&s, text, sizeof text), good[i].text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(cpus_parse(bad[i].mask, bad[i].range, &s, &err), OMNI_ERR_ARGUMENT);
        if (!strstr(err.text, bad[i].say) || !strstr(err.text, strcmp(bad[i].say, "no CPU in it") ? "CPU " : "CPU mask")) {
            fail_msg("%s: no \"%s\"", err.text, bad[i].say);
        }
    }
    char mask[2051] = {0}; /* the last CPU of all; then one more */
    memset(mask, '0', 2049);
    mask[1] = '8';
    must(cpus_parse(mask, NULL, &s, &err));
    assert_int_equal(cpus_nth(&s, 0), CPUS_MOST - 1);
    assert_int_equal(cpus_nth(&s, 1), -1);
    mask[0] = '1';
    assert_int_equal(cpus_parse(mask, NULL, &s, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "names CPU 8192"));
}

static void test_text(void **state) {
    cpus s = {0};
    for (int i = 0; i < CPUS_MOST; i += 2) {
        cpus_add(&s, i);
    }
    assert_int_equal(cpus_count(&s), CPUS_MOST / 2);
    assert_int_equal(cpus_nth(&s, 100), 200);
    char text[40];
    cpus_text(&s, text, sizeof text);
    assert_memory_equal(text, "0, 2, 4, ", 9);
    assert_string_equal(text + strlen(text) - 5, ", ...");
}

/* ---- where threads run ---- */

typedef struct places {
    cpus of[MOST];
    _Atomic int count;
} places;

static void note_place(void *arg, int thread, int threads) {
    places *x = arg;
    assert_true(thread < MOST);
    cpus_usable(&x->of[thread]);
    atomic_fetch_add(&x->count, 1);
}

static places places_of(pool *p) {
    places x = {0};
    pool_run(p, note_place, &x);
    assert_int_equal(x.count, pool_threads(p));
    return x;
}

static int some(void) {
    const int n = cpus_count(&usable);
    return n < MOST ? n : MOST;
}

static void test_strict(void **state) {
    const int n = some();
    cpus chosen = {0}; /* the last ones: not where the threads would be anyway */
    for (int i = 0; i < n; i++) {
        cpus_add(&chosen, cpus_nth(&usable, cpus_count(&usable) - n + i));
    }
    pool *p = start((pool_params){.cpus = &chosen, .strict = true, .poll = POOL_POLL});
    assert_int_equal(pool_threads(p), n);
    cpus now = here();
    assert_cpus(&now, &usable); /* creating it leaves the caller alone */
    for (int round = 0; round < 3; round++) {
        places x = places_of(p);
        assert_cpus(&x.of[0], &usable);
        pool_enter(p);
        pool_enter(p);
        for (int inside = 0; inside < 2; inside++) {
            x = places_of(p);
            for (int i = 0; i < n; i++) {
                const cpus want = only(cpus_nth(&chosen, i));
                assert_cpus(&x.of[i], &want);
            }
            pool_leave(p); /* the first of two changes nothing */
        }
        now = here();
        assert_cpus(&now, &usable);
    }
    pool_destroy(p);
    p = start((pool_params){.threads = 1, .cpus = &chosen, .strict = true}); /* fewer threads than CPUs */
    pool_enter(p);
    const places x = places_of(p);
    const cpus want = only(cpus_nth(&chosen, 0));
    assert_cpus(&x.of[0], &want);
    pool_leave(p);
    pool_destroy(p);
}

static void test_shared_cpus(void **state) {
    const cpus last = only(cpus_nth(&usable, cpus_count(&usable) - 1));
    pool *p = start((pool_params){.threads = 3, .cpus = &last, .poll = POOL_POLL});
    pool_enter(p);
    const places x = places_of(p);
    pool_leave(p);
    for (int i = 0; i < 3; i++) {
        assert_cpus(&x.of[i], &last);
    }
    cpus now = here();
    assert_cpus(&now, &usable);
    pool_destroy(p);
    p = start((pool_params){.cpus = &last});
    assert_int_equal(pool_threads(p), 1);
    pool_destroy(p);
}

static void test_unpinned(void **state) {
    pool *p;
    must(pool_create(3, &p, &err));
    pool_enter(p);
    const places x = places_of(p);
    pool_leave(p);
    for (int i = 0; i < 3; i++) {
        assert_cpus(&x.of[i], &usable);
    }
    pool_destroy(p);
    must(pool_create(0, &p, &err));
    assert_int_equal(pool_threads(p), cpus_count(&usable) < 512 ? cpus_count(&usable) : 512);
    pool_destroy(p);
    p = start((pool_params){.strict = true, .threads = some()}); /* strict alone: one of all the CPUs each */
    pool_enter(p);
    const places y = places_of(p);
    pool_leave(p);
    for (int i = 0; i < some(); i++) {
        const cpus want = only(cpus_nth(&usable, i));
        assert_cpus(&y.of[i], &want);
    }
    pool_destroy(p);
}

/* Every caller is kept and put back, not the one who created the pool. */
static void *another_caller(void *arg) {
    static cpus wrong;
    pool *p = arg;
    const cpus before = here(), want = only(cpus_nth(&usable, 0));
    pool_enter(p);
    const places x = places_of(p);
    pool_leave(p);
    const cpus after = here();
    const bool ok = memcmp(&x.of[0], &want, sizeof want) == 0 && memcmp(&before, &after, sizeof after) == 0;
    return ok ? NULL : &wrong;
}

static void test_another_caller(void **state) {
    pool *p = start((pool_params){.threads = some(), .strict = true});
    pthread_t t;
    void *wrong;
    assert_int_equal(pthread_create(&t, NULL, another_caller, p), 0);
    assert_int_equal(pthread_join(t, &wrong), 0);
    assert_null(wrong);
    cpus now = here();
    assert_cpus(&now, &usable);
    pool_destroy(p);
}

static void test_beside(void **state) {
    const int n = some();
    pool *p = start((pool_params){.threads = n, .strict = true, .poll = 7}), *q;
    pool_enter(p);
    const cpus first = only(cpus_nth(&usable, 0));
    for (int k = 1; k <= n; k++) {
        must(pool_create_beside(p, k, &q, &err)); /* from a thread that may use one CPU now */
        assert_int_equal(pool_threads(q), k);
        pool_enter(q);
        const places x = places_of(q);
        for (int i = 0; i < k; i++) {
            const cpus want = only(cpus_nth(&usable, n - k + i));
            assert_cpus(&x.of[i], &want);
        }
        pool_leave(q);
        pool_destroy(q);
        const cpus now = here();
        assert_cpus(&now, &first);
    }
    assert_int_equal(pool_create_beside(p, n + 1, &q, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(pool_create_beside(p, 0, &q, &err), OMNI_ERR_ARGUMENT);
    pool_leave(p);
    pool_destroy(p);
    must(pool_create(2, &p, &err));
    must(pool_create_beside(p, 2, &q, &err));
    const places x = places_of(q);
    assert_cpus(&x.of[1], &usable);
    pool_destroy(q);
    pool_destroy(p);
}

static void refused(pool_params params, const char *say) {
    pool *p = (pool *)&params;
    err = (omni_error){0};
    assert_int_equal(pool_create_with(&params, &p, &err), OMNI_ERR_ARGUMENT);
    assert_null(p);
    if (!strstr(err.text, say)) {
        fail_msg("%s: no \"%s\"", err.text, say);
    }
}

static void test_refusals(void **state) {
    char list[160], say[256];
    refused((pool_params){.threads = -1}, "1 to 512");
    refused((pool_params){.threads = 513}, "1 to 512");
    refused((pool_params){.threads = 1, .poll = -1}, "0 (threads sleep at once) to 100");
    refused((pool_params){.threads = 1, .poll = 101}, "to 100");
    const cpus none = only(CPUS_MOST - 1), one = only(cpus_nth(&usable, 0));
    snprintf(say, sizeof say, "there is no CPU 8191 on this machine: it has %ld; this process may use %s", sysconf(_SC_NPROCESSORS_CONF),
             cpus_text(&usable, list, sizeof list));
    refused((pool_params){.threads = 1, .cpus = &none}, say);
    refused((pool_params){.threads = 2, .cpus = &one, .strict = true}, "2 threads, each to be on a CPU of its own");
    refused((pool_params){.threads = cpus_count(&usable) + 1, .strict = true}, "--cpu-strict 0");
    if (cpus_count(&usable) < 2) {
        return; /* there is nothing to take away */
    }
    const cpus other = only(cpus_nth(&usable, 1));
    assert_int_equal(cpus_keep_thread(pthread_self(), &one), 0);
    snprintf(say, sizeof say, "CPU %d is not among those that this process may use, which are %d:", cpus_nth(&other, 0), cpus_nth(&one, 0));
    refused((pool_params){.cpus = &other}, say);
    pool *p;
    must(pool_create(0, &p, &err));
    assert_int_equal(pool_threads(p), 1);
    pool_destroy(p);
    assert_int_equal(cpus_keep_thread(pthread_self(), &usable), 0);
}

/* ---- waiting ---- */

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void note_time(void *arg, int thread, int threads) {
    if (thread == 1) {
        *(double *)arg = cpu_seconds();
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* CPU time that a worker takes between two jobs 10 ms apart: the spinning, the median of some rounds. */
static double idle_time(int poll) {
    enum { ROUNDS = 21 };
    double before, after, spent[ROUNDS];
    pool *p = start((pool_params){.threads = 2, .poll = poll});
    for (int i = 0; i < ROUNDS; i++) {
        pool_run(p, note_time, &before);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        pool_run(p, note_time, &after);
        spent[i] = after - before;
    }
    pool_destroy(p);
    qsort(spent, ROUNDS, sizeof *spent, by_value);
    return spent[ROUNDS / 2];
}

/* CPU time of so many spins, the least of some tries: the wait for work cannot take less. */
static double spin_time(int poll) {
    double least = 1;
    for (int i = 0; i < 100; i++) {
        const double from = cpu_seconds();
        for (int k = 0; k < 80 * poll; k++) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
        const double took = cpu_seconds() - from;
        least = took < least ? took : least;
    }
    return least;
}

/* Bounds that hold on a busy machine too: CPU time does not count the time of others, and sleeping at once takes none for spinning. */
static void test_poll(void **state) {
    const double none = idle_time(0), full = idle_time(100), spin = spin_time(100);
    print_message("a worker without work takes %.0f us at poll 0, %.0f at 100, whose spins take %.0f\n", 1e6 * none, 1e6 * full, 1e6 * spin);
    assert_true(full > 0.8 * spin);
    assert_true(full - none > 0.4 * spin);
}

typedef struct seen {
    _Atomic int jobs, pieces, highest;
} seen;

static void note_job(void *arg, int thread, int threads) {
    seen *s = arg;
    atomic_fetch_add(&s->jobs, 1);
}

static void note_piece(void *arg, int64_t begin, int64_t end, int thread) {
    seen *s = arg;
    atomic_fetch_add(&s->pieces, (int)(end - begin));
    if (thread > atomic_load(&s->highest)) {
        atomic_store(&s->highest, thread);
    }
}

static void test_limit(void **state) {
    static const int polls[] = {POOL_POLL, 0}, limits[] = {3, 2, 1, 2, 9, 0}, expected[] = {3, 2, 1, 2, 3, 1};
    for (int i = 0; i < 12; i++) {
        pool *p = start((pool_params){.threads = 3, .poll = polls[i / 6]});
        for (int j = 0; j <= i % 6; j++) {
            pool_limit(p, limits[j]);
            assert_int_equal(pool_threads(p), 3);
            for (int k = 0; k < 100; k++) {
                seen s = {0}, one = {0};
                pool_for(p, 100, 1, note_piece, &s);
                assert_int_equal(s.pieces, 100);
                assert_true(s.highest < expected[j]);
                pool_run(p, note_job, &one);
                assert_int_equal(one.jobs, expected[j]);
            }
        }
        pool_destroy(p);
    }
}

enum { WIDE = 8, LIMITED_JOBS = 2000 };

/* How often each thread has gone to sleep so far, as the system counts it. */
static void note_sleeps(void *arg, int thread, int threads) {
    struct rusage used;
    getrusage(RUSAGE_THREAD, &used);
    ((long *)arg)[thread] = used.ru_nvcsw;
}

static void nothing(void *arg, int thread, int threads) {
}

/* Threads beyond the limit sleep through limited jobs: one that a job woke, or waited for, would have gone to sleep again after it. */
static void test_left_out_threads_sleep(void **state) {
    static const int polls[] = {0, POOL_POLL};
    for (int i = 0; i < 2; i++) {
        pool *p = start((pool_params){.threads = WIDE, .poll = polls[i]});
        for (int limit = 1; limit < WIDE; limit += 3) {
            long before[WIDE], after[WIDE];
            pool_limit(p, WIDE);
            pool_run(p, note_sleeps, before);
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* all asleep, whatever their patience */
            pool_limit(p, limit);
            for (int k = 0; k < LIMITED_JOBS; k++) {
                pool_run(p, nothing, NULL);
                if (polls[i] > 0 && k % 100 == 0) {
                    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* patient ones would be asleep again */
                }
            }
            pool_limit(p, WIDE);
            pool_run(p, note_sleeps, after);
            for (int k = limit; k < WIDE; k++) {
                if (after[k] - before[k] > 3) {
                    fail_msg("poll %d, limit %d: thread %d slept %ld times during %d jobs that were none of its own", polls[i], limit, k,
                             after[k] - before[k], LIMITED_JOBS);
                }
            }
        }
        pool_destroy(p);
    }
}

static double wall_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Printed, not judged: what limited jobs cost beside those of a pool of that size. */
static void show_limited_cost(void **state) {
    enum { ROUNDS = 15, JOBS = 200 };
    double limited[ROUNDS], small[ROUNDS];
    pool *p = start((pool_params){.threads = WIDE, .poll = POOL_POLL}), *q = start((pool_params){.threads = 2, .poll = POOL_POLL});
    pool_limit(p, 2);
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < 2; k++) {
            const double from = wall_seconds();
            for (int j = 0; j < JOBS; j++) {
                seen s = {0};
                pool_for(k ? p : q, 64, 1, note_piece, &s);
            }
            (k ? limited : small)[i] = (wall_seconds() - from) / JOBS;
        }
    }
    pool_destroy(p);
    pool_destroy(q);
    qsort(limited, ROUNDS, sizeof *limited, by_value);
    qsort(small, ROUNDS, sizeof *small, by_value);
    const double ratio = limited[ROUNDS / 2] / small[ROUNDS / 2];
    print_message("a job of 2 of 8 threads takes %.2f us, of a pool of 2 threads %.2f us: %.2f of it, at most 1.15 wanted: %s\n",
                  1e6 * limited[ROUNDS / 2], 1e6 * small[ROUNDS / 2], ratio, ratio <= 1.15 ? "holds" : "DOES NOT HOLD (on an idle machine?)");
}

/* Threads of the library leave the program's signals to the program. */
static void note_mask(void *arg, int thread, int threads) {
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    ((int *)arg)[thread] = sigismember(&now, SIGINT) + 2 * sigismember(&now, SIGSEGV);
}

static void test_signals(void **state) {
    int masks[3] = {-1, -1, -1};
    pool *p = start((pool_params){.threads = 3, .poll = 0});
    pool_run(p, note_mask, masks);
    pool_destroy(p);
    assert_int_equal(masks[0], 0);
    assert_int_equal(masks[1], 1);
    assert_int_equal(masks[2], 1);
}

int main(void) {
    cpus_usable(&usable);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_shared_cpus),
        cmocka_unit_test(test_unpinned),
        cmocka_unit_test(test_another_caller),
        cmocka_unit_test(test_beside),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_poll),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_left_out_threads_sleep),
        cmocka_unit_test(show_limited_cost),
        cmocka_unit_test(test_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
