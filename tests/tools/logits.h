/* Logits of every position of a token sequence under a thinker's file, and how far two such sets are apart. */
#ifndef TESTS_LOGITS_H
#define TESTS_LOGITS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

typedef struct reader {
    omni_model *model;
    kv_pool *pool;
    kv_seq seq;
    decoder_runner *runner;
    decoder_row *rows;
    int64_t most, vocab;
} reader;

static void reader_close(reader *r) {
    decoder_runner_destroy(r->runner);
    kv_seq_release(&r->seq);
    kv_pool_destroy(r->pool);
    free(r->rows);
    omni_model_close(r->model);
    *r = (reader){0};
}

/* most: longest sequence. no_repack: matrices become float32, so that only the weights differ from the file's. */
static omni_status reader_open(reader *r, const char *path, bool no_repack, int64_t most, omni_error *err) {
    omni_model_params p = omni_model_params_default();
    p.model = path;
    p.no_repack = no_repack;
    *r = (reader){.most = most};
    TRY(omni_model_open(&p, &r->model, err));
    const thinker *t = r->model->thinker;
    const decoder_config *c = &t->config;
    r->vocab = c->vocab;
    r->rows = calloc((size_t)most, sizeof *r->rows);
    TRY(kv_pool_create(r->model->b, DTYPE_F32, DTYPE_F32, c->layers, c->kv_heads, c->head_dim, most, &r->pool, err));
    TRY(decoder_runner_create(r->model->b, c, &t->weights, r->pool, most, most, kv_pool_cache(r->pool)->blocks, &r->runner, err));
    return kv_seq_init(r->pool, most, &r->seq, err);
}

/* *logits: [n, vocab], the caller's to free. */
static omni_status reader_read(reader *r, const int32_t *ids, int64_t n, float **logits, omni_error *err) {
    size_t bytes = (size_t)(n * r->vocab) * sizeof **logits;
    for (int64_t i = 0; i < n; i++) {
        const float p = (float)i;
        r->rows[i] = (decoder_row){.token = ids[i], .position = {p, p, p}};
    }
    kv_seq_truncate(&r->seq, 0);
    const runner_input in = {&r->seq, r->rows, n, n};
    const runner_options o = {.logits = true};
    TRY(decoder_runner_run(r->runner, &in, 1, &o, err));
    *logits = malloc(bytes);
    backend *b = r->model->b;
    b->ops->download(b, *logits, decoder_logits(decoder_runner_decoder(r->runner)), bytes);
    return OMNI_OK;
}

static void random_ids(int32_t *ids, int64_t n, int64_t vocab, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((seed >> 33) % (uint64_t)vocab);
    }
}

/* Added up over rows; start with zeros. */
typedef struct distance {
    int64_t rows, same_choice;
    double kl, largest_kl;         /* nats, of the exact distribution from the other */
    double squares, exact_squares; /* of the differences, of the exact logits */
} distance;

static void distance_add(distance *d, const float *exact, const float *got, int64_t rows, int64_t vocab) {
    for (int64_t r = 0; r < rows; r++, exact += vocab, got += vocab) {
        double sum[2] = {0}, kl = 0;
        int64_t best[2] = {0};
        for (int64_t i = 0; i < vocab; i++) {
            best[0] = exact[i] > exact[best[0]] ? i : best[0];
            best[1] = got[i] > got[best[1]] ? i : best[1];
        }
        for (int64_t i = 0; i < vocab; i++) {
            const double e = (double)got[i] - exact[i];
            sum[0] += exp((double)exact[i] - exact[best[0]]);
            sum[1] += exp((double)got[i] - got[best[1]]);
            d->squares += e * e;
            d->exact_squares += (double)exact[i] * exact[i];
        }
        for (int64_t i = 0; i < vocab; i++) {
            const double p = (double)exact[i] - exact[best[0]] - log(sum[0]), q = (double)got[i] - got[best[1]] - log(sum[1]);
            kl += exp(p) * (p - q);
        }
        d->rows++;
        d->same_choice += best[0] == best[1];
        d->kl += kl;
        d->largest_kl = kl > d->largest_kl ? kl : d->largest_kl;
    }
}

/* Root mean square of the differences over that of the exact logits. The largest difference would tell less: in a mixture of experts, one
 * row whose router was near a tie can be far off. */
static inline double distance_error(const distance *d) {
    return sqrt(d->squares / d->exact_squares);
}

#endif
