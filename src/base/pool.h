/* A pool of worker threads that run one job at a time, all threads on the same job.
 * The calling thread is thread 0 and takes part. Workers spin briefly between jobs, then sleep.
 *
 * Threads may be kept on chosen CPUs. Workers are from the start to the end. Thread 0 belongs to the caller, who may come from another thread
 * the next time, and whose new threads inherit its CPUs: it is kept on its own only between pool_enter and pool_leave. */
#ifndef OMNI_BASE_POOL_H
#define OMNI_BASE_POOL_H

#include <stdint.h>

#include "base/cpus.h"
#include "base/error.h"

typedef struct pool pool;

enum { POOL_POLL = 50 };

typedef struct pool_params {
    int threads;      /* in all, the caller included; 0: one for each of the CPUs */
    const cpus *cpus; /* where they run; NULL: those that the calling thread may use now, wherever the system puts each thread */
    bool strict;      /* thread i on the CPU of cpus with i smaller ones, alone; else every thread on any of cpus */
    int poll;         /* 0 to 100: who waits spins 80 times as many pauses before it sleeps; POOL_POLL unless asked */
} pool_params;

/* OMNI_ERR_ARGUMENT: more threads than CPUs under strict, CPUs that are not there or not allowed (cpus_check), numbers out of range. */
omni_status pool_create_with(const pool_params *params, pool **out, omni_error *err);

/* Threads that run wherever the system puts them. */
omni_status pool_create(int threads, pool **out, omni_error *err);
/* A second pool that takes over from the last so many threads of p, once p is limited to the others: on their CPUs, as patient. */
omni_status pool_create_beside(const pool *p, int threads, pool **out, omni_error *err);
void pool_destroy(pool *p);
int pool_threads(const pool *p);
/* Keeps the calling thread where thread 0 belongs, and puts it back where it was. In pairs, which may be nested, both from the thread that
 * runs the jobs between them; not from two threads at the same moment. Nothing happens when the pool has no CPUs of its own, or another thread is
 * inside. */
void pool_enter(pool *p);
void pool_leave(pool *p);
/* Later jobs use only so many of the threads, at least 1, and neither wake the others nor wait for them; pool_threads is as before. Not while
 * a job runs. */
void pool_limit(pool *p, int threads);

/* Calls job(arg, thread, threads) once on every thread and returns when all have finished. */
typedef void (*pool_job)(void *arg, int thread, int threads);
void pool_run(pool *p, pool_job job, void *arg);

/* Calls body(arg, begin, end, thread) over [0, n) in pieces of at most grain, handed out as threads become free.
 * Runs on the calling thread alone when n <= grain. thread < pool_threads() selects per-thread scratch. */
typedef void (*pool_body)(void *arg, int64_t begin, int64_t end, int thread);
void pool_for(pool *p, int64_t n, int64_t grain, pool_body body, void *arg);

#endif
