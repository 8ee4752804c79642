/* Who runs: slots, cache blocks, and how they are given back. */
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"

void request_list_add(request_list *l, omni_request *r) {
    omni_request *before = l->newest;
    while (before && before->number > r->number) {
        before = before->older;
    }
    r->older = before;
    r->newer = before ? before->newer : l->oldest;
    *(r->older ? &r->older->newer : &l->oldest) = r;
    *(r->newer ? &r->newer->older : &l->newest) = r;
    l->count++;
}

void request_list_remove(request_list *l, omni_request *r) {
    *(r->older ? &r->older->newer : &l->oldest) = r->newer;
    *(r->newer ? &r->newer->older : &l->newest) = r->older;
    r->older = r->newer = NULL;
    l->count--;
}

void engine_count_running(omni_engine *e) {
    e->counters.running = e->running.count;
    e->counters.blocks_in_use = e->pool ? kv_pool_in_use(e->pool) : 0;
}

static int64_t blocks_for(int64_t rows) {
    return (rows + KV_BLOCK - 1) / KV_BLOCK;
}

/* Free blocks that r takes to hold rows rows in all. */
static int64_t blocks_missing(const omni_engine *e, const omni_request *r, int64_t rows) {
    const kv_seq *s = &r->seq;
    const bool copies = s->length % KV_BLOCK != 0 && rows > s->length && kv_pool_holders(e->pool, s->blocks[s->block_count - 1]) > 1;
    return blocks_for(rows) - s->block_count + copies;
}

void engine_release_blocks(omni_engine *e, omni_request *r) {
    if (!r->has_seq) {
        return;
    }
    if (!r->trace && e->params.prefix_cache) {
        prefix_cache_add_all(e->prefixes, &r->chain, &r->seq);
    }
    kv_seq_truncate(&r->seq, 0);
    r->chain.added = 0;
}

/* ---- the end ---- */

static void trace_ids(omni_request *r) {
    const int64_t n = r->prompt_rows + (int64_t)r->answer.count;
    int64_t *ids = malloc((size_t)n * sizeof *ids);
    float *positions = malloc((size_t)r->prompt_rows * 3 * sizeof *positions);
    if (ids && positions) {
        for (int64_t i = 0; i < n; i++) {
            ids[i] = i < r->prompt_rows ? r->rows.rows[i].id : r->answer.ids[i - r->prompt_rows];
        }
        for (int64_t i = 0; i < r->prompt_rows; i++) {
            for (int k = 0; k < 3; k++) {
                positions[k * r->prompt_rows + i] = r->rows.rows[i].position[k];
            }
        }
        trace_i64(r->trace, "sequences", 2, (int64_t[]){1, n}, ids);
        trace_f32(r->trace, "position_ids", 3, (int64_t[]){3, 1, r->prompt_rows}, positions);
    } else {
        trace_no_memory(r->trace);
    }
    free(ids);
    free(positions);
}

static void account(omni_request *r) {
    omni_result *to = &r->result;
    const double now = engine_now();
    to->answer_tokens = (int64_t)(r->speak_only ? r->said.count : r->answer.count);
    to->seconds_answer = now - (r->speak_only ? r->submitted : r->answering > 0 ? r->answering : now);
    to->seconds_first_text = r->receiver.first_text > 0 ? r->receiver.first_text - r->submitted : 0;
    to->seconds_first_audio = r->receiver.first_audio > 0 ? r->receiver.first_audio - r->submitted : 0;
    if (r->stream) {
        speech_account(r->stream, to);
    }
}

void engine_finish(omni_engine *e, omni_request *r, omni_status status, const omni_error *err) {
    backend *b = e->model->b;
    account(r);
    speech_close(r->stream);
    r->stream = NULL;
    engine_release_blocks(e, r);
    kv_seq_release(&r->seq);
    r->has_seq = false;
    sampler_close(&r->sampler, b);
    if (e->model->encoding && encoding_for(e->model->encoding) == r) { /* others who want that medium begin anew */
        encoding_free(e->model->encoding);
        e->model->encoding = NULL;
    }
    omni_error starved;
    if (r->events.starved && (status == OMNI_OK || status == OMNI_CANCELLED)) { /* else what is missing would pass for the receiver's wish */
        status = fail(&starved, OMNI_ERR_MEMORY, "out of memory for what was to be handed out");
        err = &starved;
    }
    r->status = status;
    if (status != OMNI_OK) {
        r->err = *err;
    }
    if (r->trace && status == OMNI_OK) {
        if (!r->speak_only) {
            trace_ids(r);
        }
        r->status = trace_finish(r->trace, &r->err);
    } else {
        trace_abandon(r->trace);
    }
    r->trace = NULL;
    if (status == OMNI_CANCELLED) {
        r->result.finish = OMNI_FINISH_CANCELLED;
    }
    request_list_remove(r->state == REQUEST_WAITING ? &e->waiting : &e->running, r);
    r->state = REQUEST_ENDED;
    pthread_mutex_lock(&e->lock);
    e->accepted--;
    engine_count_running(e);
    e->counters.ended++;
    e->counters.cancelled += status == OMNI_CANCELLED;
    e->counters.failed += r->status != OMNI_OK && status != OMNI_CANCELLED;
    pthread_mutex_unlock(&e->lock);
    events_end(&r->events, status == OMNI_CANCELLED);
    request_drop(r);
}

/* ---- giving way ---- */

/* r waits again, with all its rows to be computed; where its text is complete, the talker's share of them is all that is wanted, and is read now.
 * What it has said and the talker's side stay. */
static void preempt(omni_engine *e, omni_request *r) {
    omni_error err = {0};
    omni_status status = r->stream && speech_stream_reads(r->stream) ? speech_stream_read(r->stream, &err) : OMNI_OK;
    if (status != OMNI_OK) {
        engine_finish(e, r, status, &err);
        return;
    }
    engine_release_blocks(e, r);
    if (r->state == REQUEST_SPEAKING) {
        return;
    }
    request_list_remove(&e->running, r);
    r->state = REQUEST_WAITING;
    request_list_add(&e->waiting, r);
    pthread_mutex_lock(&e->lock);
    e->counters.preempted++;
    pthread_mutex_unlock(&e->lock);
}

/* Who gives blocks to r: one whose reader has not caught up, else the youngest. Those that are in the pass already, older ones with rows, are not
 * asked; r itself is the last. */
static omni_request *victim_for(const omni_engine *e, omni_request *r) {
    omni_request *v = e->running.newest;
    while (v && (v == r || v->seq.block_count == 0 || v->chunk > 0 || !events_full(&v->events))) {
        v = v->older;
    }
    if (v) {
        return v;
    }
    for (v = e->running.newest; v != r && v->seq.block_count == 0;) {
        v = v->older;
    }
    return v;
}

/* r forgets the rows that it shares in the block that would have to be copied; false: there is no such block. */
static bool leave_shared_block(omni_engine *e, omni_request *r) {
    kv_seq *s = &r->seq;
    if (s->length % KV_BLOCK == 0 || kv_pool_holders(e->pool, s->blocks[s->block_count - 1]) == 1) {
        return false;
    }
    kv_seq_truncate(s, s->length / KV_BLOCK * KV_BLOCK);
    if (r->answer.count == 0 && r->result.cached_tokens > s->length) {
        r->result.cached_tokens = s->length;
    }
    return true;
}

bool engine_make_room(omni_engine *e, omni_request *r, int64_t rows) {
    for (;;) {
        if (prefix_cache_make_room(e->prefixes, blocks_missing(e, r, r->seq.length + rows))) {
            return true;
        }
        if (leave_shared_block(e, r)) {
            if (r->media_count > 0) { /* those rows may be of media that have not been encoded */
                preempt(e, r);
                return false;
            }
            continue;
        }
        omni_request *victim = victim_for(e, r);
        if (victim == r && e->running.oldest == r) { /* nobody has anything to give back any more */
            omni_error err;
            omni_status status = fail(&err, OMNI_ERR_LIMIT, "%lld rows do not fit into a cache of %lld blocks of %d: enlarge it",
                                      (long long)(r->seq.length + rows), (long long)kv_pool_cache(e->pool)->blocks, KV_BLOCK);
            engine_finish(e, r, status, &err);
            return false;
        }
        const bool itself = victim == r;
        preempt(e, victim);
        if (itself) {
            return false;
        }
    }
}

/* ---- letting in ---- */

/* Blocks that those who run will still take for the rows that they have now, and one more for each whose context goes on behind them. */
static int64_t blocks_promised(const omni_engine *e) {
    int64_t n = 0;
    for (const omni_request *r = e->running.oldest; r; r = r->newer) {
        if (r->state == REQUEST_RUNNING) {
            const int64_t soon = blocks_missing(e, r, r->rows.n) + 1, most = blocks_missing(e, r, e->params.context);
            n += soon < most ? soon : most;
        }
    }
    return n;
}

/* The rows that are known already become r's, and there is room for the rest; false: not now. */
static bool give_blocks(omni_engine *e, omni_request *r, omni_status *status, omni_error *err) {
    if (!r->has_seq) {
        *status = kv_seq_init(e->pool, e->params.context, &r->seq, err);
        if (*status != OMNI_OK) {
            return false;
        }
        r->has_seq = true;
    }
    int64_t found = 0;
    if (!r->trace && e->params.prefix_cache) { /* a trace holds every row. The last row is always computed: its logits are wanted */
        found = prefix_cache_find(e->prefixes, &r->chain, r->rows.n - 1, e->found);
        kv_seq_adopt(&r->seq, e->found, found);
        r->chain.added = found / KV_BLOCK;
    }
    while (!prefix_cache_make_room(e->prefixes, blocks_missing(e, r, r->rows.n) + blocks_promised(e))) {
        if (leave_shared_block(e, r)) {
            found = r->seq.length;
            continue;
        }
        if (e->running.count == 0) {
            *status = fail(err, OMNI_ERR_LIMIT, "%lld rows do not fit into a cache of %lld blocks of %d: enlarge it", (long long)r->rows.n,
                           (long long)kv_pool_cache(e->pool)->blocks, KV_BLOCK);
        }
        kv_seq_truncate(&r->seq, 0);
        r->chain.added = 0;
        return false;
    }
    if (r->admitted == 0) { /* what it finds later, when its blocks were taken away, is its own */
        r->result.prompt_tokens = r->prompt_rows;
        r->result.cached_tokens = found;
        pthread_mutex_lock(&e->lock);
        e->counters.prompt_rows += (uint64_t)r->prompt_rows;
        e->counters.cached_rows += (uint64_t)found;
        pthread_mutex_unlock(&e->lock);
    }
    return true;
}

/* Working memory for speech, made when the first one speaks. */
static omni_status need_speech(omni_engine *e, omni_error *err) {
    enum { OPENING = 16 }; /* the talker's own rows before the first frame */
    if (e->speech) {
        return OMNI_OK;
    }
    omni_model *m = e->model;
    return speech_create(m->b, m->talker, m->code2wav, e->params.parallel, e->params.context + OPENING + SPEECH_DEFAULT_FRAMES, &e->speech, err);
}

/* A given text goes to the talker as a whole, behind an opening without a conversation. */
static omni_status begin_given_text(omni_engine *e, omni_request *r, omni_error *err) {
    const talker_prompt p = {.rows = r->rows.rows, .n = r->rows.n};
    TRY(speech_open(e->speech, &p, &r->receiver, r->turn, r->trace, &r->stream, err));
    TRY(speech_push(r->stream, r->said.ids, (int64_t)r->said.count, err));
    speech_finish_text(r->stream);
    return OMNI_OK;
}

/* Its reader has not caught up, and it can wait as well without a slot. One that speaks stays: there are as many utterances as slots. */
static bool is_parked(omni_request *r) {
    return !r->params.speak && events_full(&r->events);
}

/* A slot for someone who waits; false: all are in use. */
static bool need_slot(omni_engine *e) {
    omni_request *r = e->running.newest;
    while (e->running.count >= e->params.parallel && r && !is_parked(r)) {
        r = r->older;
    }
    if (e->running.count >= e->params.parallel && r) {
        preempt(e, r);
    }
    return e->running.count < e->params.parallel;
}

void engine_admit(omni_engine *e) {
    for (;;) {
        omni_request *r = e->waiting.oldest;
        while (r && is_parked(r)) {
            r = r->newer;
        }
        if (!r || !need_slot(e)) {
            return;
        }
        omni_error err = {0};
        omni_status status = r->params.speak ? need_speech(e, &err) : OMNI_OK;
        if (status == OMNI_OK && r->speak_only) {
            status = begin_given_text(e, r, &err);
        } else if (status == OMNI_OK && !give_blocks(e, r, &status, &err) && status == OMNI_OK) {
            return; /* the oldest first: no smaller one overtakes it */
        }
        if (status != OMNI_OK) {
            engine_finish(e, r, status, &err);
            continue;
        }
        request_list_remove(&e->waiting, r);
        r->state = r->speak_only ? REQUEST_SPEAKING : REQUEST_RUNNING;
        r->encoded = r->media_count == 0;
        request_list_add(&e->running, r);
        r->admitted = r->admitted > 0 ? r->admitted : engine_now();
    }
}
