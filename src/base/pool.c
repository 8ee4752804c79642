#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"

enum { MAX_THREADS = 512, SPINS_A_POLL = 80 };

/* One wakes each worker by itself, so that those beyond the limit notice nothing of a job. A cache line of its own: it spins on called. */
typedef struct worker {
    _Alignas(64) _Atomic uint64_t called; /* counts the jobs it takes part in; a change wakes it */
    _Atomic bool asleep;                  /* it waits for wake, or is about to */
    pool *p;
    int index;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
} worker;

struct pool {
    int threads;
    int limit;           /* threads that take part in a job */
    int spins;           /* before one who waits sleeps */
    worker *workers;     /* threads - 1 of them; index 0 is the caller */
    _Atomic int running; /* workers still in the current job */
    _Atomic bool stop;
    pool_job job;
    void *arg;
    pthread_mutex_t mutex;
    pthread_cond_t idle;

    bool pinned, strict;
    cpus cpus;   /* with pinned */
    cpus before; /* where thread 0 was when it entered */
    int entered;
    pthread_t inside; /* who has entered */
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits until it is called again and returns the new count. */
static uint64_t wait_for_call(worker *w, uint64_t seen) {
    for (int i = 0; i < w->p->spins && atomic_load_explicit(&w->called, memory_order_acquire) == seen; i++) {
        relax();
    }
    if (atomic_load_explicit(&w->called, memory_order_acquire) == seen) {
        pthread_mutex_lock(&w->mutex);
        /* Either the caller sees asleep, or this sees the call: both write first and read then, in one order for all. */
        atomic_store(&w->asleep, true);
        while (atomic_load(&w->called) == seen) {
            pthread_cond_wait(&w->wake, &w->mutex);
        }
        atomic_store(&w->asleep, false);
        pthread_mutex_unlock(&w->mutex);
    }
    return atomic_load_explicit(&w->called, memory_order_acquire);
}

static void call(worker *w) {
    atomic_fetch_add(&w->called, 1);
    if (atomic_load(&w->asleep)) {
        pthread_mutex_lock(&w->mutex);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
    }
}

static void *work(void *arg) {
    worker *w = arg;
    pool *p = w->p;
    uint64_t seen = 0;
    for (;;) {
        seen = wait_for_call(w, seen);
        if (atomic_load(&p->stop)) {
            return NULL;
        }
        p->job(p->arg, w->index, p->limit);
        if (atomic_fetch_sub_explicit(&p->running, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->idle);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

static cpus cpus_of_thread(const pool *p, int thread) {
    cpus own = {0};
    if (!p->strict) {
        return p->cpus;
    }
    cpus_add(&own, cpus_nth(&p->cpus, thread));
    return own;
}

/* cpus: NULL, or checked and enough. */
static omni_status create(const pool_params *params, pool **out, omni_error *err) {
    const int threads = params->threads;
    pool *p = calloc(1, sizeof *p);
    worker *workers = aligned_alloc(_Alignof(worker), (size_t)threads * sizeof *workers);
    if (!p || !workers) {
        free(p);
        free(workers);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %d threads", threads);
    }
    p->threads = 1;
    p->limit = threads;
    p->spins = SPINS_A_POLL * params->poll;
    p->workers = workers;
    p->pinned = params->cpus != NULL;
    p->strict = params->strict;
    if (p->pinned) {
        p->cpus = *params->cpus;
    }
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->idle, NULL);
    for (int i = 1; i < threads; i++) {
        worker *w = &workers[i - 1];
        *w = (worker){.p = p, .index = i};
        pthread_mutex_init(&w->mutex, NULL);
        pthread_cond_init(&w->wake, NULL);
        int e = thread_start(&w->thread, work, w);
        if (e != 0) {
            pthread_mutex_destroy(&w->mutex);
            pthread_cond_destroy(&w->wake);
            pool_destroy(p);
            return fail(err, OMNI_ERR_MEMORY, "cannot start thread %d of %d: %s; give fewer with -t", i + 1, threads, strerror(e));
        }
        p->threads = i + 1;
        const cpus own = cpus_of_thread(p, i);
        e = p->pinned ? cpus_keep_thread(w->thread, &own) : 0;
        if (e != 0) {
            char list[160];
            pool_destroy(p);
            return fail(err, OMNI_ERR_ARGUMENT, "cannot keep thread %d on CPU %s: %s", i + 1, cpus_text(&own, list, sizeof list), strerror(e));
        }
    }
    *out = p;
    return OMNI_OK;
}

omni_status pool_create_with(const pool_params *params, pool **out, omni_error *err) {
    pool_params own = *params;
    cpus usable;
    *out = NULL;
    if (own.threads < 0 || own.threads > MAX_THREADS) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d threads asked for; give 1 to %d, or 0 for one a core", own.threads, MAX_THREADS);
    }
    if (own.poll < 0 || own.poll > 100) {
        return fail(err, OMNI_ERR_ARGUMENT, "polling of %d asked for; give 0 (threads sleep at once) to 100", own.poll);
    }
    cpus_usable(&usable);
    const cpus *all = own.cpus ? own.cpus : &usable;
    const int count = cpus_count(all);
    if (own.threads == 0) {
        own.threads = count < MAX_THREADS ? count : MAX_THREADS;
    }
    if (own.strict) {
        own.cpus = all;
    }
    if (own.cpus) {
        TRY(cpus_check(own.cpus, err));
    }
    if (own.strict && own.threads > count) {
        char list[160];
        return fail(
            err, OMNI_ERR_ARGUMENT,
            "%d threads, each to be on a CPU of its own, but the CPUs are %s: name more of them, or give fewer threads (-t) or --cpu-strict 0",
            own.threads, cpus_text(all, list, sizeof list));
    }
    return create(&own, out, err);
}

omni_status pool_create(int threads, pool **out, omni_error *err) {
    return pool_create_with(&(pool_params){.threads = threads, .poll = POOL_POLL}, out, err);
}

/* The calling thread may be kept on one CPU now: the check of pool_create_with would not let the others be used. */
omni_status pool_create_beside(const pool *p, int threads, pool **out, omni_error *err) {
    *out = NULL;
    if (threads < 1 || threads > p->threads) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d of %d threads cannot be taken over", threads, p->threads);
    }
    cpus last = p->cpus;
    if (p->pinned && p->strict) {
        last = (cpus){0};
        for (int i = p->threads - threads; i < p->threads; i++) {
            cpus_add(&last, cpus_nth(&p->cpus, i));
        }
    }
    const pool_params params = {threads, p->pinned ? &last : NULL, p->strict, p->spins / SPINS_A_POLL};
    return create(&params, out, err);
}

/* The workers of threads 1 to threads - 1. */
static void call_workers(pool *p, int threads) {
    for (int i = 1; i < threads; i++) {
        call(&p->workers[i - 1]);
    }
}

void pool_destroy(pool *p) {
    if (!p) {
        return;
    }
    atomic_store(&p->stop, true);
    call_workers(p, p->threads);
    for (int i = 1; i < p->threads; i++) {
        worker *w = &p->workers[i - 1];
        pthread_join(w->thread, NULL);
        pthread_mutex_destroy(&w->mutex);
        pthread_cond_destroy(&w->wake);
    }
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->idle);
    free(p->workers);
    free(p);
}

int pool_threads(const pool *p) {
    return p->threads;
}

void pool_enter(pool *p) {
    if (!p->pinned) {
        return;
    }
    if (p->entered == 0) {
        const cpus own = cpus_of_thread(p, 0);
        p->inside = pthread_self();
        cpus_usable(&p->before);
        cpus_keep_thread(pthread_self(), &own); /* should these CPUs be gone by now, it works elsewhere */
    }
    p->entered += pthread_equal(p->inside, pthread_self()) != 0;
}

void pool_leave(pool *p) {
    if (p->pinned && p->entered > 0 && pthread_equal(p->inside, pthread_self()) && --p->entered == 0) {
        cpus_keep_thread(pthread_self(), &p->before);
    }
}

void pool_limit(pool *p, int threads) {
    p->limit = threads < 1 ? 1 : threads < p->threads ? threads : p->threads;
}

void pool_run(pool *p, pool_job job, void *arg) {
    if (p->limit == 1) {
        job(arg, 0, 1);
        return;
    }
    p->job = job;
    p->arg = arg;
    atomic_store_explicit(&p->running, p->limit - 1, memory_order_release);
    call_workers(p, p->limit);
    job(arg, 0, p->limit);
    for (int i = 0; i < p->spins && atomic_load_explicit(&p->running, memory_order_acquire) != 0; i++) {
        relax();
    }
    if (atomic_load_explicit(&p->running, memory_order_acquire) != 0) {
        pthread_mutex_lock(&p->mutex);
        while (atomic_load_explicit(&p->running, memory_order_acquire) != 0) {
            pthread_cond_wait(&p->idle, &p->mutex);
        }
        pthread_mutex_unlock(&p->mutex);
    }
}

typedef struct range {
    _Atomic int64_t next;
    int64_t n, grain;
    pool_body body;
    void *arg;
} range;

static void take_pieces(void *arg, int thread, int threads) {
    (void)threads;
    range *r = arg;
    for (;;) {
        int64_t begin = atomic_fetch_add_explicit(&r->next, r->grain, memory_order_relaxed);
        if (begin >= r->n) {
            return;
        }
        int64_t end = begin + r->grain < r->n ? begin + r->grain : r->n;
        r->body(r->arg, begin, end, thread);
    }
}

void pool_for(pool *p, int64_t n, int64_t grain, pool_body body, void *arg) {
    if (n <= 0) {
        return;
    }
    if (p->limit == 1 || n <= grain) {
        body(arg, 0, n, 0);
        return;
    }
    range r = {.n = n, .grain = grain < 1 ? 1 : grain, .body = body, .arg = arg};
    pool_run(p, take_pieces, &r);
}
