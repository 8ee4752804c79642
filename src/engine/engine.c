/* Making an engine and running it; the public calls on engines and requests. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "engine/calls.h"
#include "engine/scheduler.h"

enum {
    DEFAULT_CONTEXT = 8192,
    DEFAULT_QUEUE = 256,
    DEFAULT_HELD_TEXT = 1 << 16,
    MOST_PARALLEL = 1024,
};
static const double DEFAULT_PROMPT_SECONDS = 0.05, DEFAULT_HELD_SECONDS = 60;

omni_engine_params omni_engine_params_default(void) {
    return (omni_engine_params){.prefix_cache = true};
}

static bool is_amount(double x) {
    return x >= 0 && isfinite(x);
}

static omni_status check_params(const omni_model *m, omni_engine_params *p, omni_error *err) {
    const int64_t most = m->thinker->context;
    if (p->parallel < 0 || p->queue < 0 || p->context < 0 || p->cache_tokens < 0 || p->batch < 0 || !is_amount(p->prompt_seconds) ||
        !is_amount(p->held_seconds)) {
        return fail(err, OMNI_ERR_ARGUMENT, "engine parameters must be finite numbers of 0 or more");
    }
    if (p->parallel > MOST_PARALLEL) {
        return fail(err, OMNI_ERR_LIMIT, "%d requests at once asked for; at most %d are possible", p->parallel, MOST_PARALLEL);
    }
    if ((unsigned)p->cache_type_k > OMNI_CACHE_Q8_0 || (unsigned)p->cache_type_v > OMNI_CACHE_Q8_0) {
        return fail(err, OMNI_ERR_ARGUMENT, "cache types %d and %d: there are 0 to %d", (int)p->cache_type_k, (int)p->cache_type_v, OMNI_CACHE_Q8_0);
    }
    if (p->context > most) {
        return fail(err, OMNI_ERR_LIMIT, "a context of %lld tokens asked for; the model was made for %lld", (long long)p->context, (long long)most);
    }
    p->context = p->context ? p->context : most < DEFAULT_CONTEXT ? most : DEFAULT_CONTEXT;
    p->batch = p->batch ? p->batch : m->b->prompt_rows;
    p->batch = p->batch < p->context ? p->batch : (int)p->context;
    p->parallel = p->parallel ? p->parallel : 1;
    p->queue = p->queue ? p->queue : DEFAULT_QUEUE;
    p->prompt_seconds = p->prompt_seconds > 0 ? p->prompt_seconds : DEFAULT_PROMPT_SECONDS;
    p->held_text = p->held_text ? p->held_text : DEFAULT_HELD_TEXT;
    p->held_seconds = p->held_seconds > 0 ? p->held_seconds : DEFAULT_HELD_SECONDS;
    if (p->cache_tokens > 0 && p->cache_tokens < p->context) {
        return fail(err, OMNI_ERR_ARGUMENT, "a cache of %lld tokens is too small for a context of %lld", (long long)p->cache_tokens,
                    (long long)p->context);
    }
    if (p->cache_tokens == 0 && __builtin_mul_overflow(p->context, (int64_t)p->parallel, &p->cache_tokens)) {
        return fail(err, OMNI_ERR_LIMIT, "%d contexts of %lld tokens are too many", p->parallel, (long long)p->context);
    }
    return OMNI_OK;
}

static omni_status create(omni_engine *e, omni_error *err) {
    omni_model *m = e->model;
    const omni_engine_params *p = &e->params;
    if (m->thinker->embeddings_only) {
        return OMNI_OK; /* only speaks given texts */
    }
    const decoder_config *c = &m->thinker->config;
    const dtype k = engine_cache_type(p->cache_type_k), v = engine_cache_type(p->cache_type_v);
    const int64_t parallel = p->parallel, blocks = (p->context + KV_BLOCK - 1) / KV_BLOCK, rows = p->batch + parallel, width = c->width;
    TRY(kv_pool_create(m->b, k, v, c->layers, c->kv_heads, c->head_dim, p->cache_tokens, &e->pool, err));
    TRY(prefix_cache_create(e->pool, &e->prefixes, err));
    TRY(decoder_runner_create(m->b, c, &m->thinker->weights, e->pool, rows, parallel, parallel * (blocks + 1), &e->runner, err));
    TRY(m->b->ops->alloc(m->b, (size_t)parallel * (sizeof *e->sampled + sizeof(sample_logprobs)), (void **)&e->sampled, err));
    if (m->talker) {
        const int64_t slots = kv_pool_cache(e->pool)->blocks * KV_BLOCK;
        TRY(m->b->ops->alloc(m->b, (size_t)(slots * width) * sizeof *e->hidden, (void **)&e->hidden, err));
    }
    e->inputs = calloc((size_t)parallel, sizeof *e->inputs);
    e->stepping = calloc((size_t)parallel, sizeof *e->stepping);
    e->rows = calloc((size_t)rows, sizeof *e->rows);
    e->samples = calloc((size_t)parallel, sizeof *e->samples);
    e->ids = calloc((size_t)parallel, sizeof *e->ids + sizeof(sample_logprobs));
    e->found = calloc((size_t)blocks + 1, sizeof *e->found);
    e->row = calloc((size_t)(c->vocab > width ? c->vocab : width), sizeof *e->row);
    return e->inputs && e->stepping && e->rows && e->samples && e->ids && e->found && e->row
               ? OMNI_OK
               : fail(err, OMNI_ERR_MEMORY, "out of memory for %lld requests at once", (long long)parallel);
}

omni_status omni_engine_create(omni_model *model, const omni_engine_params *params, omni_engine **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!model || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_engine_create needs a model and a place for the engine");
    }
    omni_engine_params p = params ? *params : omni_engine_params_default();
    TRY(check_params(model, &p, err));
    omni_engine *e = calloc(1, sizeof *e);
    if (!e) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for an engine");
    }
    e->model = model;
    e->params = p;
    pthread_mutex_init(&e->lock, NULL);
    sem_init(&e->wake, 0, 0);
    omni_status status = create(e, err);
    if (status != OMNI_OK) {
        omni_engine_destroy(e);
        return status;
    }
    *out = e;
    return OMNI_OK;
}

/* ---- running ---- */

/* One step, with the model for itself. */
static bool step(omni_engine *e) {
    omni_model *m = e->model;
    pthread_mutex_lock(&m->computing);
    backend_enter(m->b);
    bool did = engine_step(e);
    backend_leave(m->b);
    pthread_mutex_unlock(&m->computing);
    return did;
}

static bool is_closing(omni_engine *e) {
    pthread_mutex_lock(&e->lock);
    bool closing = e->closing;
    pthread_mutex_unlock(&e->lock);
    return closing;
}

static void *work(void *arg) {
    omni_engine *e = arg;
    while (!is_closing(e)) {
        while (sem_trywait(&e->wake) == 0) { /* what was posted until now is met by this step */
        }
        if (!step(e)) {
            while (sem_wait(&e->wake) != 0 && errno == EINTR) {
            }
        }
    }
    return NULL;
}

omni_status omni_engine_start(omni_engine *e, omni_error *err) {
    if (!e || atomic_exchange(&e->threaded, true)) {
        return fail(err, OMNI_ERR_ARGUMENT, e ? "the engine runs already" : "omni_engine_start needs an engine");
    }
    const int status = thread_start(&e->thread, work, e);
    if (status != 0) {
        e->threaded = false;
        return fail(err, OMNI_ERR_MEMORY, "cannot start the engine's thread: %s", strerror(status));
    }
    return OMNI_OK;
}

bool omni_engine_step(omni_engine *e) {
    return e && !e->threaded && step(e);
}

/* Every request that has not ended ends as cancelled. The model is held. */
static void end_all(omni_engine *e) {
    request_list *const lists[] = {&e->submitted, &e->waiting, &e->running};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (omni_request *r = lists[i]->oldest; r; r = r->newer) {
            atomic_store(&r->cancelled, true);
        }
    }
    engine_step(e);
}

void omni_engine_destroy(omni_engine *e) {
    if (!e) {
        return;
    }
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_mutex_unlock(&e->lock);
    if (e->threaded) {
        sem_post(&e->wake);
        pthread_join(e->thread, NULL);
    }
    pthread_mutex_lock(&e->model->computing); /* other engines of the model go on */
    if (e->accepted > 0) {
        end_all(e);
    }
    backend *b = e->model->b;
    speech_destroy(e->speech);
    pthread_mutex_unlock(&e->model->computing);
    decoder_runner_destroy(e->runner);
    prefix_cache_destroy(e->prefixes);
    kv_pool_destroy(e->pool);
    void *const memory[] = {e->sampled, e->hidden};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        if (memory[i]) {
            b->ops->release(b, memory[i]);
        }
    }
    free(e->inputs);
    free(e->stepping);
    free(e->rows);
    free(e->samples);
    free(e->ids);
    free(e->found);
    free(e->row);
    sem_destroy(&e->wake);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

void omni_engine_forget(omni_engine *e) {
    if (e && e->prefixes) {
        pthread_mutex_lock(&e->model->computing);
        prefix_cache_clear(e->prefixes);
        pthread_mutex_unlock(&e->model->computing);
    }
}

int64_t omni_engine_context(const omni_engine *e) {
    return e ? e->params.context : 0;
}

omni_engine_counters omni_engine_count(omni_engine *e) {
    if (!e) {
        return (omni_engine_counters){0};
    }
    pthread_mutex_lock(&e->lock);
    omni_engine_counters n = e->counters;
    n.waiting_or_running = e->accepted;
    pthread_mutex_unlock(&e->lock);
    n.blocks = e->pool ? kv_pool_cache(e->pool)->blocks : 0;
    n.block_tokens = KV_BLOCK;
    return n;
}

/* ---- requests ---- */

omni_status omni_request_submit(omni_engine *e, omni_conversation *c, const omni_generate_params *params, omni_request **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!e || !c || !params || !out || c->model != e->model) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "omni_request_submit needs an engine, a conversation of the same model, parameters and a place for the request");
    }
    TRY(conversation_enter(c, err));
    omni_status status = request_submit(e, c, params, out, err);
    conversation_leave(c);
    return status;
}

omni_status omni_request_speak(omni_engine *e, const char *text, const omni_generate_params *params, omni_request **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!e || !text || !params || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_request_speak needs an engine, a text, parameters and a place for the request");
    }
    return request_speak(e, text, params, out, err);
}

bool omni_request_next(omni_request *r, double timeout, omni_event *event) {
    if (!r || !event) {
        return false;
    }
    omni_engine *e = r->e;
    omni_event next = {.kind = OMNI_EVENT_TEXT};
    const double until = engine_now() + timeout;
    bool got = events_next(&r->events, e->threaded ? timeout : 0, &next);
    while ((!got && !e->threaded && (timeout < 0 || engine_now() < until)) || (got && next.kind != OMNI_EVENT_DONE && request_is_cancelled(r))) {
        if (e->threaded) { /* nothing but the end is of interest */
            got = events_next(&r->events, timeout, &next);
        } else { /* the engine is moved on from here. Nothing to do: it is others who must read or cancel */
            got = events_next(&r->events, step(e) ? 0 : 0.001, &next);
        }
    }
    if (!got) {
        return false;
    }
    *event = next;
    if (event->kind == OMNI_EVENT_DONE) {
        event->result = &r->result;
        event->status = r->status;
        event->error = &r->err;
    } else if (e->threaded) {
        sem_post(&e->wake); /* there may be room again */
    }
    return true;
}

void omni_request_set_wakeup(omni_request *r, void (*wakeup)(void *arg), void *arg) {
    if (r) {
        events_set_wakeup(&r->events, wakeup, arg);
    }
}

void omni_request_cancel(omni_request *r) {
    if (r) {
        atomic_store(&r->cancelled, true);
        sem_post(&r->e->wake);
    }
}

void omni_request_free(omni_request *r) {
    if (!r) {
        return;
    }
    omni_request_cancel(r);
    while (!r->e->threaded && !events_ended(&r->events) && step(r->e)) { /* its blocks are free when this returns */
    }
    events_set_wakeup(&r->events, NULL, NULL);
    pthread_mutex_lock(&r->asking); /* the mask's arg is the caller's again when this returns */
    pthread_mutex_unlock(&r->asking);
    request_drop(r);
}
