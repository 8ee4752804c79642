/* Prefill, decode at a depth, and batches. Token ids are random, and nothing is sampled from the logits, which are computed: as llama-bench does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

enum { MAX_BATCH = 32, BATCH_STEPS = 16 };

typedef struct thinker_bench {
    omni_model *m;
    kv_pool *pool;
    decoder_runner *runner;
    kv_seq seq[MAX_BATCH];
    decoder_row *rows; /* [longest prompt] */
    int sequences;     /* of this row */
    int64_t depth, prompt, steps;
    uint32_t state;
} thinker_bench;

static decoder_row row_at(thinker_bench *t, int64_t position) {
    float p = (float)position;
    return (decoder_row){.token = (int32_t)(bench_random(&t->state) % (uint32_t)t->m->thinker->config.vocab), .position = {p, p, p}};
}

/* Every sequence back to the depth that it is measured at. */
static omni_status rewind_all(void *arg, omni_error *err) {
    thinker_bench *t = arg;
    for (int i = 0; i < t->sequences; i++) {
        kv_seq_truncate(&t->seq[i], t->depth);
    }
    return OMNI_OK;
}

static omni_status read_prompt(void *arg, omni_error *err) {
    thinker_bench *t = arg;
    for (int64_t i = 0; i < t->prompt; i++) {
        t->rows[i] = row_at(t, t->depth + i);
    }
    runner_input in = {&t->seq[0], t->rows, t->prompt, 1};
    runner_options o = {.logits = true};
    return decoder_runner_run(t->runner, &in, 1, &o, err);
}

static omni_status decode(void *arg, omni_error *err) {
    thinker_bench *t = arg;
    runner_input in[MAX_BATCH];
    runner_options o = {.logits = true};
    for (int64_t step = 0; step < t->steps; step++) {
        for (int i = 0; i < t->sequences; i++) {
            t->rows[i] = row_at(t, t->depth + step);
            in[i] = (runner_input){&t->seq[i], &t->rows[i], 1, 1};
        }
        TRY(decoder_runner_run(t->runner, in, t->sequences, &o, err));
    }
    return OMNI_OK;
}

/* Keys and values of the first depth positions: noise, because computing them would take hours and reading them takes the same time. */
static omni_status fill_cache(thinker_bench *t, int64_t depth, omni_error *err) {
    const kv_cache *c = kv_pool_cache(t->pool);
    backend *b = t->m->b;
    const int64_t values = (int64_t)c->kv_heads * KV_BLOCK * c->head_dim;
    float *stored = NULL;
    int32_t *slots = NULL;
    TRY(kv_seq_extend(&t->seq[0], depth, NULL, err));
    float *noise = malloc((size_t)values * sizeof *noise);
    omni_status status = noise ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    status = status == OMNI_OK ? b->ops->alloc(b, (size_t)values * sizeof *stored, (void **)&stored, err) : status;
    status = status == OMNI_OK ? b->ops->alloc(b, KV_BLOCK * sizeof *slots, (void **)&slots, err) : status;
    for (int64_t i = 0; status == OMNI_OK && i < t->seq[0].block_count; i++) {
        int32_t host[KV_BLOCK];
        for (int j = 0; j < KV_BLOCK; j++) {
            host[j] = t->seq[0].blocks[i] * KV_BLOCK + j;
        }
        bench_noise(noise, values, (uint32_t)i);
        b->ops->upload(b, slots, host, sizeof host);
        b->ops->upload(b, stored, noise, (size_t)values * sizeof *noise);
        for (int layer = 0; layer < c->layers; layer++) {
            b->ops->kv_write(b, c, layer, slots, stored, stored, KV_BLOCK);
        }
    }
    free(noise);
    b->ops->release(b, stored);
    b->ops->release(b, slots);
    return status;
}

/* Working memory for the given numbers; room: cached positions of all sequences. */
static omni_status open_memory(bench *x, thinker_bench *t, int64_t room, int64_t longest, omni_error *err) {
    const thinker *th = t->m->thinker;
    const decoder_config *c = &th->config;
    const dtype k = engine_cache_type(x->params->cache_type_k), v = engine_cache_type(x->params->cache_type_v);
    TRY(kv_pool_create(t->m->b, k, v, c->layers, c->kv_heads, c->head_dim, room, &t->pool, err));
    int64_t blocks = kv_pool_cache(t->pool)->blocks, rows = x->params->batch ? x->params->batch : t->m->b->prompt_rows;
    rows = rows < MAX_BATCH ? MAX_BATCH : rows;
    TRY(decoder_runner_create(t->m->b, c, &th->weights, t->pool, longest < rows ? longest : rows, MAX_BATCH, blocks, &t->runner, err));
    for (int i = 0; i < t->sequences; i++) {
        TRY(kv_seq_init(t->pool, room, &t->seq[i], err));
    }
    t->rows = calloc((size_t)longest, sizeof *t->rows);
    return t->rows ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
}

static void close_memory(thinker_bench *t) {
    decoder_runner_destroy(t->runner);
    for (int i = 0; i < MAX_BATCH; i++) {
        kv_seq_release(&t->seq[i]);
    }
    kv_pool_destroy(t->pool);
    free(t->rows);
}

/* One row of the table: prompt tokens, or steps of a number of sequences, each at a depth. */
static omni_status measure(bench *x, const char *name, int sequences, int64_t depth, int64_t tokens, int64_t steps, omni_error *err) {
    int64_t length = depth + (tokens > steps ? tokens : steps), limit = x->model->thinker->context;
    if (!bench_wants(x, name) || length > limit) {
        return OMNI_OK;
    }
    thinker_bench t = {.m = x->model, .sequences = sequences, .depth = depth, .prompt = tokens, .steps = steps, .state = 1};
    int64_t blocks = (length + KV_BLOCK - 1) / KV_BLOCK, longest = tokens > MAX_BATCH ? tokens : MAX_BATCH;
    omni_status status = open_memory(x, &t, sequences * blocks * KV_BLOCK, longest, err);
    if (status == OMNI_OK && depth > 0) {
        status = fill_cache(&t, depth, err);
    }
    if (status == OMNI_OK) {
        bench_work w = {rewind_all, tokens ? read_prompt : decode, &t, (double)(tokens ? tokens : steps * sequences)};
        status = bench_rate(x, name, "t/s", &w, err);
    }
    close_memory(&t);
    return status;
}

omni_status bench_thinker(bench *x, omni_error *err) {
    static const int64_t prompts[] = {64, 512, 4096}, depths[] = {0, 4096, 32768};
    static const int batches[] = {2, 4, 8, 16, 32};
    char name[64];
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "pp%lld", (long long)prompts[i]);
        TRY(measure(x, name, 1, 0, prompts[i], 0, err));
    }
    for (size_t i = 0; i < 3; i++) {
        int n = snprintf(name, sizeof name, "tg%d", x->generate);
        if (depths[i]) {
            snprintf(name + n, sizeof name - (size_t)n, " @ d%lld", (long long)depths[i]);
        }
        TRY(measure(x, name, 1, depths[i], 0, x->generate, err));
    }
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        snprintf(name, sizeof name, "tg%d b%d", BATCH_STEPS, batches[i]);
        TRY(measure(x, name, batches[i], 0, 0, BATCH_STEPS, err));
    }
    snprintf(name, sizeof name, "engine tg%d", x->generate);
    TRY(bench_engine(x, name, 1, x->generate, err));
    snprintf(name, sizeof name, "engine tg%d b8", BATCH_STEPS);
    return bench_engine(x, name, 8, BATCH_STEPS, err);
}
