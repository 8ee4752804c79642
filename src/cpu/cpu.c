#include "cpu/cpu.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/backend.h"
#include "tensor/sample_token.h"

/* calloc takes large pieces as fresh zero pages, which cost nothing until they are used: a key/value cache for a long context
 * is asked for as a whole and filled as the conversation grows. What calloc gave stands in front of the aligned memory. */
static omni_status cpu_alloc(backend *b, size_t bytes, void **out, omni_error *err) {
    enum { ALIGN = 64 };
    *out = NULL;
    char *raw = bytes > SIZE_MAX - 2 * ALIGN ? NULL : calloc(1, bytes + 2 * ALIGN);
    if (!raw) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu bytes", bytes);
    }
    char *p = raw + 2 * ALIGN - (uintptr_t)raw % ALIGN;
    ((void **)p)[-1] = raw;
    *out = p;
    return OMNI_OK;
}

static void cpu_release(backend *b, void *memory) {
    if (memory) {
        free(((void **)memory)[-1]);
    }
}

static void cpu_copy(backend *b, void *to, const void *from, size_t bytes) {
    if (bytes > 0) {
        memmove(to, from, bytes);
    }
}

typedef struct sample_job {
    float *logits;
    int64_t vocab;
    const sample_row *params;
    int32_t *ids;
} sample_job;

static void sample_rows(void *arg, int64_t begin, int64_t end, int thread) {
    sample_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->ids[r] = sample_token(j->logits + r * j->vocab, j->vocab, &j->params[r]);
    }
}

static void cpu_sample(backend *b, float *logits, int64_t rows, int64_t vocab, const sample_row *params, int32_t *ids) {
    sample_job j = {logits, vocab, params, ids};
    pool_for(cpu_of(b)->pool, rows, cpu_grain(vocab * 4), sample_rows, &j);
}

static ops make_ops(void) {
    ops o = {.alloc = cpu_alloc, .release = cpu_release, .upload = cpu_copy, .download = cpu_copy, .copy = cpu_copy, .sample = cpu_sample};
    cpu_linear_ops(&o);
    cpu_packed_ops(&o);
    cpu_conv_ops(&o);
    cpu_elementwise_ops(&o);
    cpu_attention_ops(&o);
    cpu_moe_ops(&o);
    return o;
}

/* The backend and its table of operations live in one block. */
typedef struct cpu_whole {
    cpu_backend cpu;
    ops ops;
} cpu_whole;

static omni_status select_isa(cpu_kernels *k, omni_error *err) {
    const char *names[KERNEL_ISAS];
    int n = kernels_isas(names);
    const char *wanted = getenv("OMNI_CPU");
    if (!wanted || !*wanted) {
        wanted = kernels_best();
    }
    if (kernels_select(wanted, k)) {
        return OMNI_OK;
    }
    char list[64] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return fail(err, OMNI_ERR_ARGUMENT, "OMNI_CPU=%s: not an instruction set of this processor; it offers %s", wanted, list);
}

static void cpu_enter(backend *b) {
    pool_enter(cpu_of(b)->pool);
}

static void cpu_leave(backend *b) {
    pool_leave(cpu_of(b)->pool);
}

/* Threads of so many that one beside works on. */
static int threads_beside(int threads) {
    return (threads + 2) / 4;
}

/* A profile counts one backend, a collector of inputs sees one: then there is none beside. */
static omni_status cpu_create_beside(backend *b, backend **out, omni_error *err) {
    cpu_backend *c = cpu_of(b);
    const int threads = pool_threads(c->pool);
    pool *p;
    *out = NULL;
    if (threads < 2 || b->profile || c->collector) {
        return OMNI_OK;
    }
    TRY(pool_create_beside(c->pool, threads_beside(threads), &p, err));
    return cpu_backend_create_on(p, out, err);
}

static void cpu_give_way(backend *b, bool give) {
    pool *p = cpu_of(b)->pool;
    const int threads = pool_threads(p);
    pool_limit(p, give ? threads - threads_beside(threads) : threads);
}

static void cpu_collect_inputs(backend *b, const input_collector *collector) {
    cpu_of(b)->collector = collector;
}

omni_status cpu_backend_create(int threads, backend **out, omni_error *err) {
    pool *p;
    *out = NULL;
    TRY(pool_create(threads, &p, err));
    return cpu_backend_create_on(p, out, err);
}

omni_status cpu_backend_create_on(pool *p, backend **out, omni_error *err) {
    *out = NULL;
    cpu_whole *w = calloc(1, sizeof *w);
    if (!w) {
        pool_destroy(p);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the CPU backend");
    }
    cpu_backend *c = &w->cpu;
    c->pool = p;
    omni_status s = select_isa(&c->k, err);
    if (s == OMNI_OK) {
        void *memory;
        s = cpu_alloc(NULL, (size_t)pool_threads(c->pool) * CPU_SCRATCH, &memory, err);
        c->scratch = memory;
    }
    if (s == OMNI_OK) {
        void *memory;
        s = cpu_alloc(NULL, (size_t)CPU_INPUTS * sizeof *c->inputs, &memory, err);
        c->inputs = memory;
    }
    if (s != OMNI_OK) {
        cpu_backend_destroy(&c->base);
        return s;
    }
    w->ops = make_ops();
    int n = pool_threads(c->pool);
    snprintf(c->description, sizeof c->description, "%s, %d thread%s", c->k.name, n, n == 1 ? "" : "s");
    c->base = (backend){.ops = &w->ops,
                        .name = "cpu",
                        .description = c->description,
                        .prompt_rows = 512,
                        .batch_invariant = true,
                        .rounds_floats = c->k.packed[DTYPE_Q8_0] != NULL,
                        .enter = cpu_enter,
                        .leave = cpu_leave,
                        .create_beside = cpu_create_beside,
                        .give_way = cpu_give_way,
                        .collect_inputs = cpu_collect_inputs,
                        .destroy = cpu_backend_destroy};
    *out = &c->base;
    return OMNI_OK;
}

void cpu_backend_destroy(backend *b) {
    if (!b) {
        return;
    }
    cpu_backend *c = cpu_of(b);
    pool_destroy(c->pool);
    cpu_release(NULL, c->scratch);
    cpu_release(NULL, c->inputs);
    free(c); /* the first member of its cpu_whole */
}

void cpu_backend_keep_rows(backend *b, bool keep) {
    cpu_of(b)->keep_rows = keep;
    b->rounds_floats = !keep && cpu_of(b)->k.packed[DTYPE_Q8_0];
}

pool *cpu_backend_pool(backend *b) {
    return cpu_of(b)->pool;
}
