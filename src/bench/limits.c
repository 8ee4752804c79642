#define _GNU_SOURCE
#include "bench/limits.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { BLOCK = 256 << 20, PASSES = 5, ROUNDS = 400000, MAX_THREADS = 512 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- reading: sums of 64-bit words, four at a time in the widest registers, so that only memory can be the limit ---- */

typedef uint64_t (*read_function)(const uint64_t *p, size_t words);
typedef float (*fma_function)(int64_t rounds); /* returns something that depends on every step */

#define READ_BODY(bytes)                                                                                                                             \
    typedef uint64_t vector __attribute__((vector_size(bytes)));                                                                                     \
    const vector *v = (const vector *)(const void *)p;                                                                                               \
    vector a = {0}, b = {0}, c = {0}, d = {0};                                                                                                       \
    for (size_t i = 0; i + 4 <= words * 8 / (bytes); i += 4) {                                                                                       \
        a += v[i];                                                                                                                                   \
        b += v[i + 1];                                                                                                                               \
        c += v[i + 2];                                                                                                                               \
        d += v[i + 3];                                                                                                                               \
    }                                                                                                                                                \
    a += b + c + d;                                                                                                                                  \
    uint64_t sum = 0;                                                                                                                                \
    for (size_t i = 0; i < (bytes) / 8; i++) {                                                                                                       \
        sum += a[i];                                                                                                                                 \
    }                                                                                                                                                \
    return sum;

static uint64_t read_plain(const uint64_t *p, size_t words) {
    READ_BODY(16)
}

/* Ten independent chains: enough to keep two units of latency 4 or 5 busy. */
enum { CHAINS = 10 };

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_avx2(const uint64_t *p, size_t words) {
    READ_BODY(32)
}

__attribute__((target("avx512f"))) static uint64_t read_avx512(const uint64_t *p, size_t words) {
    READ_BODY(64)
}

__attribute__((target("avx2,fma"))) static float fma_avx2(int64_t rounds) {
    __m256 x[CHAINS], a = _mm256_set1_ps(0.999F), b = _mm256_set1_ps(0.001F);
    for (int i = 0; i < CHAINS; i++) {
        x[i] = _mm256_set1_ps((float)i);
    }
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++) {
            x[i] = _mm256_fmadd_ps(x[i], a, b);
        }
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) {
        sum += _mm256_cvtss_f32(x[i]);
    }
    return sum;
}

__attribute__((target("avx512f"))) static float fma_avx512(int64_t rounds) {
    __m512 x[CHAINS], a = _mm512_set1_ps(0.999F), b = _mm512_set1_ps(0.001F);
    for (int i = 0; i < CHAINS; i++) {
        x[i] = _mm512_set1_ps((float)i);
    }
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++) {
            x[i] = _mm512_fmadd_ps(x[i], a, b);
        }
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) {
        sum += _mm512_cvtss_f32(x[i]);
    }
    return sum;
}
#elif defined(__aarch64__)
static float fma_neon(int64_t rounds) {
    float32x4_t x[CHAINS], a = vdupq_n_f32(0.999F), b = vdupq_n_f32(0.001F);
    for (int i = 0; i < CHAINS; i++) {
        x[i] = vdupq_n_f32((float)i);
    }
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; i++) {
            x[i] = vfmaq_f32(b, x[i], a);
        }
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) {
        sum += vgetq_lane_f32(x[i], 0);
    }
    return sum;
}
#endif

static float fma_plain(int64_t rounds) {
    float x[CHAINS];
    for (int i = 0; i < CHAINS; i++) {
        x[i] = (float)i;
    }
    for (int64_t r = 0; r < rounds; r++) {
        for (int i = 0; i < CHAINS; i++) {
            x[i] = x[i] * 0.999F + 0.001F;
        }
    }
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) {
        sum += x[i];
    }
    return sum;
}

typedef struct test {
    read_function read;
    fma_function fma;
    int lanes; /* floats a register of fma */
    const uint64_t *block;
    uint64_t sums[MAX_THREADS]; /* written so that the work is not left out */
    float values[MAX_THREADS];
} test;

static void choose(test *t) {
    t->read = read_plain;
    t->fma = fma_plain;
    t->lanes = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        t->read = read_avx512;
        t->fma = fma_avx512;
        t->lanes = 16;
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        t->read = read_avx2;
        t->fma = fma_avx2;
        t->lanes = 8;
    }
#elif defined(__aarch64__)
    t->fma = fma_neon;
    t->lanes = 4;
#endif
}

static void read_part(void *arg, int thread, int threads) {
    test *t = arg;
    size_t words = BLOCK / 8 / (size_t)threads & ~(size_t)31;
    t->sums[thread] += t->read(t->block + (size_t)thread * words, words);
}

static void fma_part(void *arg, int thread, int threads) {
    test *t = arg;
    t->values[thread] += t->fma(ROUNDS);
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
    test *t = calloc(1, sizeof *t);
    void *block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!t || block == MAP_FAILED) {
        free(t);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the test of the memory's speed (%d bytes)", BLOCK);
    }
#ifdef MADV_HUGEPAGE
    madvise(block, BLOCK, MADV_HUGEPAGE);
#endif
    memset(block, 1, BLOCK);
    choose(t);
    t->block = block;
    int threads = pool_threads(p);
    out->read = median_rate(p, read_part, t, (double)(BLOCK / 8 / (size_t)threads & ~(size_t)31) * 8 * threads);
    out->fma = median_rate(p, fma_part, t, 2.0 * ROUNDS * CHAINS * t->lanes * threads);
    munmap(block, BLOCK);
    free(t);
    return OMNI_OK;
}
