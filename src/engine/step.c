/* The step: take what came in, retire what was cancelled, admit, encode a piece of a medium, one pass of the thinker, one step of speech, and hand
 * out. */
#include <math.h>

#include "engine/encoding.h"
#include "engine/scheduler.h"

static bool take_in(omni_engine *e) {
    pthread_mutex_lock(&e->lock);
    bool any = e->submitted.oldest != NULL;
    for (omni_request *r; (r = e->submitted.oldest);) {
        request_list_remove(&e->submitted, r);
        r->state = REQUEST_WAITING;
        request_list_add(&e->waiting, r);
    }
    pthread_mutex_unlock(&e->lock);
    return any;
}

static bool retire(omni_engine *e, request_list *l) {
    bool any = false;
    for (omni_request *r = l->oldest, *next; r; r = next) {
        next = r->newer;
        if (request_is_cancelled(r)) {
            omni_error err;
            omni_status status = fail(&err, OMNI_CANCELLED, "cancelled");
            engine_finish(e, r, status, &err);
            any = true;
        }
    }
    return any;
}

/* A card that failed in the middle of something has lost what everybody was computing. */
static bool fail_all(omni_engine *e) {
    omni_error err = {0};
    const omni_status status = backend_failure(e->model->b, &err);
    if (status == OMNI_OK) {
        return false;
    }
    request_list *const lists[] = {&e->waiting, &e->running};
    bool any = false;
    for (int i = 0; i < 2; i++) {
        for (omni_request *r = lists[i]->oldest, *next; r; r = next) {
            next = r->newer;
            engine_finish(e, r, status, &err);
            any = true;
        }
    }
    return any;
}

/* ---- media ---- */

/* The next medium of r whose embeddings are wanted for rows that are to be computed, or NULL; *done and *work count them. */
static media_item *next_medium(omni_request *r, size_t *done, size_t *work) {
    media_item *next = NULL;
    *done = *work = 0;
    int32_t last = -1;
    for (int64_t i = r->seq.length; i < r->prompt_rows; i++) {
        const int32_t k = r->rows.rows[i].media;
        if (k < 0 || k == last) {
            continue;
        }
        last = k;
        ++*work;
        *done += r->media[k]->embedded != NULL;
        next = next || r->media[k]->embedded ? next : r->media[k];
    }
    return next;
}

/* Units of m's embeddings, or of those that are under way: an encoder works on one medium at a time, whoever asked for it, also of another engine.
 * Others wait: for a share of the step's time, which is saved up until it is enough for a unit. */
static omni_status encode_some(omni_engine *e, omni_request *r, media_item *m, omni_error *err) {
    enum { SMALL_UNIT = 128, LARGE_UNIT = 1024, PATIENCE = 32 /* steps from one unit to the next, at most */ };
    omni_model *model = e->model;
    const double share = engine_spare_seconds(e), start = engine_now();
    const bool others = share < INFINITY;
    e->media_credit = others ? fmin(e->media_credit + share, e->params.prompt_seconds) : e->params.prompt_seconds;
    if (e->media_credit <= 0) {
        return OMNI_OK;
    }
    if (!model->encoding) {
        TRY(encoding_begin(&model->encoders, m, r, &model->encoding, err));
    }
    const bool its = encoding_item(model->encoding) == m;
    bool done = false;
    omni_status status;
    do {
        status = encoding_step(model->encoding, others ? SMALL_UNIT : LARGE_UNIT, &done, err);
        backend_wait(model->b); /* what is only queued would take its time from the pass */
    } while (status == OMNI_OK && !done && engine_now() - start < e->media_credit);
    if (done || status != OMNI_OK) {
        encoding_free(model->encoding);
        model->encoding = NULL;
    }
    const double took = engine_now() - start;
    e->media_credit = fmax(e->media_credit - took, others ? -PATIENCE * share : 0);
    r->result.seconds_media += took;
    return its ? status : OMNI_OK; /* who wants the other one will learn it */
}

/* Goes on with a medium of the oldest request that needs one. */
static bool encode(omni_engine *e) {
    omni_request *r = e->running.oldest;
    while (r && !request_encodes(r)) {
        r = r->newer;
    }
    if (!r) {
        return false;
    }
    omni_error err = {0};
    omni_status status = OMNI_OK;
    size_t done, work;
    media_item *m = next_medium(r, &done, &work);
    if (m && !media_item_is_encoded(m)) {
        status = encode_some(e, r, m, &err);
    }
    if (m && m->embedded) {
        if (!r->trace) {
            media_item_forget(m);
        }
        events_progress(&r->events, m->kind == PROMPT_AUDIO ? "hearing" : "seeing", done + 1, work);
    }
    if (status == OMNI_OK && !next_medium(r, &done, &work)) {
        status = r->trace ? media_items_trace(&e->model->encoders, r->media, (size_t)r->media_count, r->trace, &err) : OMNI_OK;
        for (int32_t i = 0; i < r->media_count; i++) {
            media_item_forget(r->media[i]);
            r->embedded[i] = media_item_embedded(r->media[i], e->model->thinker->config.width);
        }
        r->encoded = true;
    }
    if (status != OMNI_OK) {
        engine_finish(e, r, status, &err);
    }
    return true;
}

/* ---- speech ---- */

static void hold_streams(omni_engine *e) {
    for (omni_request *r = e->running.oldest; r; r = r->newer) {
        if (r->stream) {
            speech_hold(r->stream, events_full(&r->events));
        }
    }
    for (omni_request *r = e->waiting.oldest; r; r = r->newer) { /* those whose blocks were taken away speak on */
        if (r->stream) {
            speech_hold(r->stream, events_full(&r->events));
        }
    }
}

/* What has become of the utterances. */
static bool settle_streams(omni_engine *e, request_list *l) {
    bool any = false;
    for (omni_request *r = l->oldest, *next; r; r = next) {
        next = r->newer;
        omni_status status;
        omni_error err = {0};
        if (!r->stream) {
            continue;
        }
        if (speech_done(r->stream, &status, &err) && (status != OMNI_OK || r->state == REQUEST_SPEAKING)) {
            engine_finish(e, r, status, &err);
            any = true;
        } else if (r->state == REQUEST_SPEAKING && r->seq.length > 0 && !speech_stream_reads(r->stream)) {
            engine_release_blocks(e, r); /* the talker has read what it needs of them */
        }
    }
    return any;
}

static bool speak(omni_engine *e) {
    enum { TALKER_ROWS = 64 };
    if (!e->speech) {
        return false;
    }
    hold_streams(e);
    bool did = speech_step(e->speech, e->running.count > 1 ? TALKER_ROWS : INT64_MAX);
    did |= settle_streams(e, &e->running);
    did |= settle_streams(e, &e->waiting);
    return did;
}

static void count_running(omni_engine *e) {
    pthread_mutex_lock(&e->lock);
    engine_count_running(e);
    pthread_mutex_unlock(&e->lock);
}

bool engine_step(omni_engine *e) {
    const uint64_t ended = e->counters.ended, preempted = e->counters.preempted; /* only the step counts these */
    bool did = take_in(e);
    did |= retire(e, &e->waiting);
    did |= retire(e, &e->running);
    did |= fail_all(e);
    engine_admit(e);
    count_running(e);
    did |= encode(e);
    if (e->runner) {
        did |= engine_pass(e, false);
    }
    did |= fail_all(e);
    did |= speak(e);
    if (!did && e->speech && speech_wait(e->speech)) { /* nothing to compute here until those samples are there */
        settle_streams(e, &e->running);
        settle_streams(e, &e->waiting);
        did = true;
    }
    if (!did && e->runner) {
        did = engine_pass(e, true);
    }
    count_running(e);
    return did || e->counters.ended != ended || e->counters.preempted != preempted; /* there is room for others now */
}
