/* The timing half of the kernel tool: operations at the sizes of the released model, against the machine's measured limits. */
#ifndef OMNI_TOOLS_BENCH_H
#define OMNI_TOOLS_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/backend.h"
#include "cpu/cpu.h"

/* With one thread the clock counts that thread's own time, which a busy machine disturbs less. */
static clockid_t bench_clock = CLOCK_MONOTONIC;

static inline double bench_now(void) {
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench {
    backend *b;
    const char *isa, *only;
    double flops, bytes; /* measured limits a second, all threads */
    float *memory;       /* BENCH_FLOATS values */
    float *x, *y, *z;    /* BENCH_ROOM values each */
} bench;

enum { BENCH_FLOATS = 48 << 20, BENCH_ROOM = 8 << 20 };

/* The best of several runs: other work on the machine only ever makes one longer. */
#define BENCH_TIME(seconds, statement)                                                                                                               \
    do {                                                                                                                                             \
        double begin_ = bench_now();                                                                                                                 \
        (seconds) = 1e9;                                                                                                                             \
        for (int run_ = 0; run_ < 200 && (run_ < 3 || bench_now() - begin_ < 0.25); run_++) {                                                        \
            double t_ = bench_now();                                                                                                                 \
            statement;                                                                                                                               \
            t_ = bench_now() - t_;                                                                                                                   \
            (seconds) = t_ < (seconds) ? t_ : (seconds);                                                                                             \
        }                                                                                                                                            \
    } while (0)

static inline void bench_print(const bench *m, const char *name, double seconds, double flops, double bytes) {
    printf("%-8s %-34s %10.1f us", m->isa, name, seconds * 1e6);
    if (flops > 0) {
        printf(" %8.1f GFLOP/s (%3.0f%%)", flops / seconds * 1e-9, 100 * flops / seconds / m->flops);
    } else {
        printf("%25s", "");
    }
    if (bytes > 0) {
        printf(" %7.1f GB/s (%3.0f%%)", bytes / seconds * 1e-9, 100 * bytes / seconds / m->bytes);
    }
    printf("\n");
    fflush(stdout);
}

static inline bool bench_wanted(const bench *m, const char *name) {
    return !m->only || strstr(name, m->only);
}

/* As operations find weights once a model is open: packed where the backend packs them. The bits do as both. */
static inline tensor bench_weights(const bench *m, dtype type, int64_t in, int64_t outs, int64_t experts, bool packed) {
    tensor w = {.type = type, .ne = {in, outs, experts, 1}, .size = dtype_row_bytes(type, in) * (size_t)(outs * experts), .data = m->memory};
    size_t size = packed ? m->b->ops->packed_size(m->b, experts > 1 ? WEIGHT_EXPERTS : WEIGHT_LINEAR, &w) : 0;
    w.packed = size > 0;
    w.size = size ? size : w.size;
    return w;
}

/* rows x in times weights of one type. A single row reads memory that no cache holds; many rows reuse one matrix. */
static inline void bench_linear(bench *m, dtype type, bool packed, int64_t rows, int64_t in, int64_t outs) {
    char name[64];
    snprintf(name, sizeof name, "linear %s%s %lld x %lld x %lld", packed ? "packed " : "", dtype_find(type)->name, (long long)rows, (long long)in,
             (long long)outs);
    if (!bench_wanted(m, name)) {
        return;
    }
    tensor w = bench_weights(m, type, in, outs, 1, packed);
    double bytes = (double)w.size, seconds;
    int64_t copies = (int64_t)(BENCH_FLOATS * 4.0 / bytes), at = 0;
    BENCH_TIME(seconds, {
        w.data = (char *)m->memory + (size_t)at * w.size;
        at = rows < 16 && at + 1 < copies ? at + 1 : 0;
        m->b->ops->linear(m->b, &w, NULL, m->x, rows, in, m->y, outs);
    });
    bench_print(m, name, seconds, 2.0 * (double)rows * (double)in * (double)outs, rows < 16 ? bytes : 0);
}

static inline void bench_experts(bench *m, dtype type, bool packed, int64_t rows) {
    enum { WIDTH = 2048, FFN = 768, EXPERTS = 32, USED = 8 };
    char name[64];
    snprintf(name, sizeof name, "moe %s%s %lld rows, 8 of 2048 x 768", packed ? "packed " : "", dtype_find(type)->name, (long long)rows);
    if (!bench_wanted(m, name) || rows > 256) {
        return;
    }
    static int32_t ids[256 * USED];
    static float weights[256 * USED];
    tensor gate = bench_weights(m, type, WIDTH, FFN, EXPERTS, packed), down = bench_weights(m, type, FFN, WIDTH, EXPERTS, packed);
    double seconds, expert = (double)gate.size / EXPERTS;
    tensor up = gate;
    int turn = 0;
    /* gate and up share their bytes beyond the first half when all do not fit; what counts is that they are read. */
    up.data = (char *)m->memory + (size_t)(expert * EXPERTS / 2);
    down.data = (char *)m->memory + (size_t)(expert * EXPERTS / 4);
    float *scratch = malloc(m->b->ops->moe_scratch(m->b, rows, USED, WIDTH, FFN) * sizeof *scratch);
    BENCH_TIME(seconds, {
        for (int64_t i = 0; i < rows * USED; i++) {
            ids[i] = (int32_t)((i / USED * 5 + i % USED * 4 + turn) % (EXPERTS / 2));
            weights[i] = 0.125f;
        }
        turn++;
        m->b->ops->moe(m->b, &gate, &up, &down, m->x, rows, ids, weights, USED, scratch, m->y);
    });
    free(scratch);
    bench_print(m, name, seconds, 2.0 * 3 * WIDTH * FFN * USED * (double)rows, rows == 1 ? 3 * expert * USED : 0);
}

static inline void bench_attention(bench *m, dtype type, int64_t rows, int positions) {
    enum { HEADS = 32, KV = 4, DIM = 128 };
    char name[64];
    snprintf(name, sizeof name, "attention %s %lld rows, %d positions", dtype_find(type)->name, (long long)rows, positions);
    if (!bench_wanted(m, name)) {
        return;
    }
    kv_cache cache = {.k_type = type, .v_type = type, .layers = 1, .kv_heads = KV, .head_dim = DIM, .blocks = positions / KV_BLOCK, .k = m->memory};
    cache.v = m->memory + (size_t)positions * KV * DIM;
    static int32_t table[1024];
    static attention_row at[1024];
    for (int i = 0; i < positions / KV_BLOCK; i++) {
        table[i] = i;
    }
    for (int i = 0; i < rows; i++) {
        at[i] = (attention_row){0, 0, positions - (int)rows + i + 1};
    }
    double seconds, seen = (double)rows * (positions - (double)rows / 2);
    BENCH_TIME(seconds, m->b->ops->attention(m->b, &cache, 0, table, at, m->x, rows, HEADS, 0.1f, m->y));
    bench_print(m, name, seconds, 4.0 * seen * HEADS * DIM, rows == 1 ? 2.0 * positions * KV * (double)dtype_row_bytes(type, DIM) : 0);
}

static inline void bench_dense(bench *m, int64_t rows, int heads, int dim, bool bf16) {
    char name[64];
    snprintf(name, sizeof name, "attention_dense %s%lld, %d x %d", bf16 ? "bf16 " : "", (long long)rows, heads, dim);
    if (!bench_wanted(m, name) || rows > 2048) {
        return;
    }
    static int32_t first[2048], end[2048];
    for (int i = 0; i < rows; i++) {
        end[i] = (int32_t)rows;
    }
    int64_t n = (int64_t)heads * dim;
    double seconds;
    BENCH_TIME(seconds, m->b->ops->attention_dense(m->b, m->x, n, m->y, m->z, n, first, end, rows, heads, heads, dim, 0.1f, bf16, m->memory));
    bench_print(m, name, seconds, 4.0 * (double)rows * (double)rows * (double)n, 0);
}

static inline void bench_conv1d(bench *m, int64_t rows, int64_t in, int64_t kernel, int64_t out, int64_t dilation) {
    char name[64];
    snprintf(name, sizeof name, "conv1d %lld, %lld x %lld x %lld, dil %lld", (long long)rows, (long long)in, (long long)kernel, (long long)out,
             (long long)dilation);
    if (!bench_wanted(m, name)) {
        return;
    }
    tensor w = {.type = DTYPE_F16, .ne = {in, kernel, out, 1}, .data = m->memory};
    double seconds;
    BENCH_TIME(seconds, m->b->ops->conv1d(m->b, &w, NULL, m->x, rows, dilation, m->y));
    bench_print(m, name, seconds, 2.0 * (double)(rows * in * kernel * out), 0);
}

static inline void bench_conv2d(bench *m, int64_t in, int64_t height, int64_t width, int64_t out) {
    char name[64];
    snprintf(name, sizeof name, "conv2d %lld x %lld, %lld to %lld", (long long)height, (long long)width, (long long)in, (long long)out);
    if (!bench_wanted(m, name)) {
        return;
    }
    tensor w = {.type = DTYPE_F16, .ne = {in, 3, 3, out}, .data = m->memory};
    double seconds;
    BENCH_TIME(seconds, m->b->ops->conv2d_3x3_s2(m->b, &w, NULL, m->x, 1, height, width, m->y));
    bench_print(m, name, seconds, 2.0 * 9 * (double)(in * out * ((height + 1) / 2) * ((width + 1) / 2)), 0);
}

#define BENCH_ROWS(title, call, moved)                                                                                                               \
    if (bench_wanted(m, title)) {                                                                                                                    \
        BENCH_TIME(seconds, call);                                                                                                                   \
        bench_print(m, title, seconds, 0, (moved)*4.0);                                                                                              \
    }

static inline void bench_rows(bench *m) {
    const ops *o = m->b->ops;
    double seconds;
    const int64_t rows = 64, width = 2048, n = rows * width;
    BENCH_ROWS("rms_norm 1 x 2048", o->rms_norm(m->b, m->x, m->z, 1e-6f, 1, width, m->y), 2.0 * width)
    BENCH_ROWS("rms_norm 64 x 2048", o->rms_norm(m->b, m->x, m->z, 1e-6f, rows, width, m->y), 2.0 * n)
    BENCH_ROWS("layer_norm 64 x 2048", o->layer_norm(m->b, m->x, m->z, m->z, 1e-6f, rows, width, m->y), 2.0 * n)
    BENCH_ROWS("head_norm_rope 64 x 16 x 128", o->head_norm_rope(m->b, m->y, rows, width, 16, 128, m->z, 1e-6f, m->x, m->x), 2.0 * n)
    BENCH_ROWS("silu_mul 131072", o->silu_mul(m->b, m->x, m->z, n, m->y), 3.0 * n)
    BENCH_ROWS("gelu 131072", o->activate(m->b, ACT_GELU, m->x, n, m->y), 2.0 * n)
    BENCH_ROWS("gelu_tanh 131072", o->activate(m->b, ACT_GELU_TANH, m->x, n, m->y), 2.0 * n)
    BENCH_ROWS("snake_beta 64 x 2048", o->snake_beta(m->b, m->x, m->z, m->z, rows, width, m->y), 2.0 * n)
    BENCH_ROWS("depthwise 64 x 7 x 1024", o->conv1d_depthwise(m->b, &(tensor){.ne = {1024, 7, 1, 1}, .data = m->z}, NULL, m->x, rows, m->y),
               2.0 * rows * 1024)
    static int32_t ids[64 * 8];
    static float weights[64 * 8];
    BENCH_ROWS("route 64 x 128", o->route(m->b, m->x, rows, 128, 8, true, ids, weights), 64.0 * 128)
    sample_row greedy = {.greedy = true, .suppress_from = 1 << 30, .repeat_penalty = 1}, warm = greedy;
    warm.greedy = false;
    warm.temperature = 0.9f;
    warm.top_k = 50;
    warm.top_p = 0.8f;
    BENCH_ROWS("sample greedy 152064", o->sample(m->b, m->x, 1, 152064, &greedy, ids), 152064.0)
    BENCH_ROWS("sample top-k top-p 152064", o->sample(m->b, m->y, 1, 152064, &warm, ids), 152064.0)
}

typedef struct bench_probe {
    const cpu_kernels *k;
    const float *memory;
    float sum;
} bench_probe;

static inline void bench_arithmetic(void *arg, int thread, int threads) {
    bench_probe *p = arg;
    volatile float sum = p->k->probe_arithmetic(1 << 20);
    (void)sum;
}

static inline void bench_memory(void *arg, int thread, int threads) {
    bench_probe *p = arg;
    int64_t n = BENCH_FLOATS / threads / 64 * 64;
    volatile float sum = p->k->probe_memory(p->memory + thread * n, n);
    (void)sum;
}

static inline void bench_all(const char *only, int threads) {
    const char *names[KERNEL_ISAS];
    int isas = kernels_isas(names);
    bench m = {.only = only};
    bench_clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    m.memory = aligned_alloc(64, sizeof(float) * (size_t)BENCH_FLOATS);
    m.x = aligned_alloc(64, sizeof(float) * BENCH_ROOM);
    m.y = aligned_alloc(64, sizeof(float) * BENCH_ROOM);
    m.z = aligned_alloc(64, sizeof(float) * BENCH_ROOM);
    if (!m.memory || !m.x || !m.y || !m.z) {
        fprintf(stderr, "out of memory\n");
        return;
    }
    /* Bits that are small finite numbers in every type. */
    uint64_t bits = 1;
    for (int64_t i = 0; i < BENCH_FLOATS; i++) {
        bits = bits * 6364136223846793005u + 1442695040888963407u;
        ((uint32_t *)m.memory)[i] = (uint32_t)(bits >> 32) & 0x9fff9fffu;
    }
    for (int64_t i = 0; i < BENCH_ROOM; i++) {
        m.x[i] = (float)(i % 1999) * 1e-3f - 1;
        m.y[i] = (float)(i % 1777) * 1e-3f - 0.9f;
        m.z[i] = (float)(i % 997) * 1e-3f;
    }
    for (int l = isas; l-- > 0;) {
        omni_error err;
        setenv("OMNI_CPU", names[l], 1);
        if (cpu_backend_create(threads, &m.b, &err) != OMNI_OK) {
            fprintf(stderr, "%s\n", err.text);
            return;
        }
        m.isa = names[l];
        int n = pool_threads(cpu_backend_pool(m.b));
        bench_probe probe = {.k = &cpu_of(m.b)->k, .memory = m.memory};
        double seconds;
        BENCH_TIME(seconds, pool_run(cpu_backend_pool(m.b), bench_arithmetic, &probe));
        m.flops = (double)n * (1 << 20) * PROBE_FLOPS(probe.k->lanes) / seconds;
        BENCH_TIME(seconds, pool_run(cpu_backend_pool(m.b), bench_memory, &probe));
        m.bytes = BENCH_FLOATS * 4.0 / seconds;
        printf("\n%s: limits %.1f GFLOP/s, %.1f GB/s\n", m.b->description, m.flops * 1e-9, m.bytes * 1e-9);
        const dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q4_0,
                               DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q3_K, DTYPE_Q2_K, DTYPE_IQ4_XS};
        const int64_t rows[] = {1, 4, 8, 16, 64, 256};
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            const bool packed = t > 3;
            for (int r = 0; r < (l == 0 ? 2 : 6); r++) {
                bench_linear(&m, types[t], packed, rows[r], 2048, 4096);
            }
            bench_experts(&m, types[t], packed, 1);
            if (l > 0) {
                bench_experts(&m, types[t], packed, 128);
            }
        }
        bench_attention(&m, DTYPE_F32, 1, 4096);
        bench_attention(&m, DTYPE_F16, 1, 4096);
        bench_attention(&m, DTYPE_Q8_0, 1, 4096);
        bench_attention(&m, DTYPE_F32, 64, 1024);
        bench_attention(&m, DTYPE_F16, 64, 1024);
        for (int bf16 = 0; bf16 < 2; bf16++) {
            bench_dense(&m, l > 0 ? 1024 : 128, 16, 72, bf16);
        }
        bench_conv1d(&m, 200, 768, 7, 768, 1);
        bench_conv1d(&m, 1000, 96, 7, 96, 9);
        bench_conv2d(&m, 1, 128, 100, 480);
        bench_conv2d(&m, 480, 64, 50, 480);
        bench_rows(&m);
        cpu_backend_destroy(m.b);
    }
    free(m.memory);
    free(m.x);
    free(m.y);
    free(m.z);
}

#endif
