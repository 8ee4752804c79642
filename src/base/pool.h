/* A pool of worker threads that run one job at a time, all threads on the same job.
 * The calling thread is thread 0 and takes part. Workers spin briefly between jobs, then sleep. */
#ifndef OMNI_BASE_POOL_H
#define OMNI_BASE_POOL_H

#include <stdint.h>

#include "base/error.h"

typedef struct pool pool;

/* threads: how many in all, the caller included; 0 takes the number of cores this process may use. */
omni_status pool_create(int threads, pool **out, omni_error *err);
void pool_destroy(pool *p);
int pool_threads(const pool *p);
/* Later jobs use only so many of the threads, at least 1; pool_threads is as before. Not while a job runs. */
void pool_limit(pool *p, int threads);

/* Calls job(arg, thread, threads) once on every thread and returns when all have finished. */
typedef void (*pool_job)(void *arg, int thread, int threads);
void pool_run(pool *p, pool_job job, void *arg);

/* Calls body(arg, begin, end, thread) over [0, n) in pieces of at most grain, handed out as threads become free.
 * Runs on the calling thread alone when n <= grain. thread < pool_threads() selects per-thread scratch. */
typedef void (*pool_body)(void *arg, int64_t begin, int64_t end, int thread);
void pool_for(pool *p, int64_t n, int64_t grain, pool_body body, void *arg);

#endif
