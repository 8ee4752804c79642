#define _GNU_SOURCE
#include "bench/limits.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "cpu/kernels.h"

enum { BLOCK = 256 << 20, PASSES = 5, ROUNDS = 1 << 18, MAX_THREADS = 512 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct test {
    cpu_kernels k; /* of the processor's best instruction set, whatever the backend was told to use */
    const float *block;
    int64_t values;          /* a thread's part: a multiple of 64 */
    float sums[MAX_THREADS]; /* kept so that the work is not left out */
} test;

static void read_part(void *arg, int thread, int threads) {
    test *t = arg;
    t->sums[thread] += t->k.probe_memory(t->block + thread * t->values, t->values);
}

static void multiply_part(void *arg, int thread, int threads) {
    test *t = arg;
    t->sums[thread] += t->k.probe_arithmetic(ROUNDS);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median_rate(pool *p, pool_job job, test *t, double work) {
    double rates[PASSES];
    for (int i = 0; i < PASSES; i++) {
        double start = now();
        pool_run(p, job, t);
        rates[i] = work / (now() - start);
    }
    qsort(rates, PASSES, sizeof *rates, by_value);
    return rates[PASSES / 2];
}

omni_status limits_measure(pool *p, limits *out, omni_error *err) {
    const int threads = pool_threads(p);
    test *t = calloc(1, sizeof *t);
    void *block = t ? mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
    if (block == MAP_FAILED) {
        free(t);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the test of the memory's speed (%d bytes)", BLOCK);
    }
#ifdef MADV_HUGEPAGE
    madvise(block, BLOCK, MADV_HUGEPAGE);
#endif
    memset(block, 0, BLOCK); /* pages of its own, and numbers that add up fast */
    const char *names[KERNEL_ISAS];
    int isas = kernels_isas(names);
    kernels_select(names[isas - 1], &t->k);
    t->block = block;
    t->values = BLOCK / 4 / threads & ~(int64_t)1023;
    out->read = median_rate(p, read_part, t, 4.0 * (double)t->values * threads);
    out->fma = median_rate(p, multiply_part, t, (double)ROUNDS * PROBE_FLOPS(t->k.lanes) * threads);
    munmap(block, BLOCK);
    free(t);
    return OMNI_OK;
}

omni_status limits_measure_device(backend *b, limits *out, omni_error *err) {
    enum { BYTES = 256 << 20, TIMES = 5, COPIES = 4 };
    void *from = NULL, *to = NULL;
    double best = 0;
    omni_status status = b->ops->alloc(b, BYTES, &from, err);
    if (status == OMNI_OK) {
        status = b->ops->alloc(b, BYTES, &to, err);
    }
    for (int i = 0; status == OMNI_OK && i < TIMES; i++) {
        backend_wait(b);
        const double start = now();
        for (int k = 0; k < COPIES; k++) {
            b->ops->copy(b, to, from, BYTES);
        }
        backend_wait(b);
        const double rate = 2.0 * BYTES * COPIES / (now() - start);
        best = rate > best ? rate : best;
    }
    b->ops->release(b, from);
    b->ops->release(b, to);
    *out = (limits){.read = best};
    return status == OMNI_OK ? backend_failure(b, err) : status;
}
