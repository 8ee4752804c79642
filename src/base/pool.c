#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SPINS = 4000, MAX_THREADS = 512 };

typedef struct worker {
    pool *p;
    int index;
    pthread_t thread;
} worker;

struct pool {
    int threads;
    int limit;                   /* threads that take part in a job */
    worker *workers;             /* threads - 1 of them; index 0 is the caller */
    _Atomic uint64_t generation; /* counts jobs; a change wakes the workers */
    _Atomic int running;         /* workers still in the current job */
    _Atomic bool stop;
    pool_job job;
    void *arg;
    pthread_mutex_t mutex;
    pthread_cond_t wake, idle;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void *work(void *arg) {
    worker *w = arg;
    pool *p = w->p;
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&p->generation, memory_order_acquire) == seen; i++) {
            relax();
        }
        if (atomic_load_explicit(&p->generation, memory_order_acquire) == seen) {
            pthread_mutex_lock(&p->mutex);
            while (atomic_load_explicit(&p->generation, memory_order_acquire) == seen) {
                pthread_cond_wait(&p->wake, &p->mutex);
            }
            pthread_mutex_unlock(&p->mutex);
        }
        seen = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (atomic_load(&p->stop)) {
            return NULL;
        }
        if (w->index < p->limit) {
            p->job(p->arg, w->index, p->limit);
        }
        if (atomic_fetch_sub_explicit(&p->running, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->idle);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

static int usable_cores(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n;
}

/* Signals stay with the program's own threads: its handlers interrupt what these wait for. Faults belong to the thread that made them. */
static int start_thread(worker *w) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        sigdelset(&all, faults[i]);
    }
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e;
}

omni_status pool_create(int threads, pool **out, omni_error *err) {
    *out = NULL;
    if (threads < 0 || threads > MAX_THREADS) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d threads asked for; give 1 to %d, or 0 for one a core", threads, MAX_THREADS);
    }
    threads = threads == 0 ? usable_cores() : threads;
    pool *p = calloc(1, sizeof *p);
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!p || !workers) {
        free(p);
        free(workers);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %d threads", threads);
    }
    p->threads = 1;
    p->limit = threads;
    p->workers = workers;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->idle, NULL);
    for (int i = 1; i < threads; i++) {
        worker *w = &workers[i - 1];
        *w = (worker){.p = p, .index = i};
        int e = start_thread(w);
        if (e != 0) {
            pool_destroy(p);
            return fail(err, OMNI_ERR_MEMORY, "cannot start thread %d of %d: %s; give fewer with -t", i + 1, threads, strerror(e));
        }
        p->threads = i + 1;
    }
    *out = p;
    return OMNI_OK;
}

static void start(pool *p) {
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_release);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

void pool_destroy(pool *p) {
    if (!p) {
        return;
    }
    atomic_store(&p->stop, true);
    start(p);
    for (int i = 1; i < p->threads; i++) {
        pthread_join(p->workers[i - 1].thread, NULL);
    }
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->idle);
    free(p->workers);
    free(p);
}

int pool_threads(const pool *p) {
    return p->threads;
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
    atomic_store_explicit(&p->running, p->threads - 1, memory_order_release);
    start(p);
    job(arg, 0, p->limit);
    for (int i = 0; i < SPINS && atomic_load_explicit(&p->running, memory_order_acquire) != 0; i++) {
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
