/* Decoding through the engine: what choosing tokens, scheduling and handing out cost beside the rows of bench_thinker.c. */
#include <stdio.h>

#include "bench/bench.h"
#include "engine/scheduler.h"

enum { MOST = 16, CONTEXT = 1024 };

typedef struct engine_bench {
    omni_engine *engine;
    omni_model *m;
    omni_request *requests[MOST];
    int count, steps;
} engine_bench;

static void free_requests(engine_bench *t) {
    for (int i = 0; i < t->count; i++) {
        omni_request_free(t->requests[i]);
        t->requests[i] = NULL;
    }
}

static omni_status submit(engine_bench *t, int i, omni_error *err) {
    omni_conversation *c;
    char text[64];
    snprintf(text, sizeof text, "Conversation number %d.", i);
    const omni_part part = {.kind = OMNI_TEXT, .text = text};
    omni_generate_params p = omni_generate_params_default();
    p.ignore_eos = true;
    p.seed = (uint64_t)i;
    TRY(omni_conversation_create(t->m, NULL, &c, err));
    omni_status status = omni_conversation_add(c, &(omni_message){OMNI_USER, &part, 1}, err);
    status = status == OMNI_OK ? omni_request_submit(t->engine, c, &p, &t->requests[i], err) : status;
    omni_conversation_free(c);
    return status;
}

static omni_status check(const engine_bench *t, omni_error *err) {
    for (int i = 0; i < t->count; i++) {
        if (events_ended(&t->requests[i]->events)) {
            return t->requests[i]->status == OMNI_OK ? fail(err, OMNI_ERR_LIMIT, "an answer ended before it was measured")
                                                     : fail(err, t->requests[i]->status, "%s", t->requests[i]->err.text);
        }
    }
    return OMNI_OK;
}

/* New conversations, of which each has its first token. */
static omni_status start_answers(void *arg, omni_error *err) {
    engine_bench *t = arg;
    free_requests(t);
    for (int i = 0; i < t->count; i++) {
        TRY(submit(t, i, err));
    }
    for (int i = 0; i < t->count; i++) {
        while (t->requests[i]->answer.count == 0) {
            omni_engine_step(t->engine);
            TRY(check(t, err));
        }
    }
    return OMNI_OK;
}

static omni_status go_on(void *arg, omni_error *err) {
    engine_bench *t = arg;
    for (int i = 0; i < t->steps; i++) {
        omni_engine_step(t->engine);
    }
    return check(t, err);
}

omni_status bench_engine(bench *x, const char *name, int conversations, int steps, omni_error *err) {
    const int64_t most = x->model->thinker->context;
    if (!bench_wants(x, name) || steps + 64 > (most < CONTEXT ? most : CONTEXT)) {
        return OMNI_OK;
    }
    engine_bench t = {.m = x->model, .count = conversations, .steps = steps};
    omni_engine_params p = omni_engine_params_default();
    p.parallel = conversations;
    p.context = most < CONTEXT ? 0 : CONTEXT;
    p.cache_type_k = x->params->cache_type_k;
    p.cache_type_v = x->params->cache_type_v;
    TRY(omni_engine_create(x->model, &p, &t.engine, err));
    const bench_work w = {start_answers, go_on, &t, (double)(steps * conversations)};
    omni_status status = bench_rate(x, name, "t/s", &w, err);
    free_requests(&t);
    omni_engine_destroy(t.engine);
    return status;
}
