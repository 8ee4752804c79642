/* One pass of the thinker over rows of many requests, and the tokens that it gives. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"

/* ---- how many rows ---- */

static bool wants_rows(omni_request *r) {
    return r->state == REQUEST_RUNNING && r->encoded && request_pending(r) > 0 && !events_full(&r->events);
}

/* Who else waits for this step. */
typedef struct waiters {
    bool any;     /* others wait for their next token, or their sound can be made */
    double slack; /* seconds until the first of their listeners runs out of sound; INFINITY: nobody listens */
} waiters;

static void count_waiter(waiters *c, omni_request *r) {
    if (wants_rows(r) && r->answer.count > 0 && request_pending(r) == 1) {
        c->any = true;
    }
    if (r->stream && speech_stream_active(r->stream)) {
        c->any = true;
        c->slack = fmin(c->slack, speech_stream_slack(r->stream));
    }
}

double engine_spare_seconds(omni_engine *e) {
    waiters others = {.slack = INFINITY};
    bool prompts = false, media = false;
    for (omni_request *r = e->running.oldest; r; r = r->newer) {
        count_waiter(&others, r);
        prompts |= wants_rows(r) && request_pending(r) > 1;
        media |= request_encodes(r);
    }
    for (omni_request *r = e->waiting.oldest; r; r = r->newer) { /* those whose blocks were taken away speak on */
        count_waiter(&others, r);
    }
    const bool both = prompts && media;
    if (!others.any && !both) {
        return INFINITY;
    }
    const double most = e->params.prompt_seconds;
    return fmin(most, fmax(most / 4, others.slack / 2)) / (both ? 2 : 1);
}

/* Rows of prompts in this pass. A step for which others wait must not take long: what prompts may have of its time is bounded, not their rows, and
 * saved up until it is enough for some rows, PATIENCE steps at most. Where a listener has run out of sound already the machine is too slow to make it
 * in time: prompts still get a quarter. */
static int64_t prompt_budget(omni_engine *e) {
    enum { FIRST_GUESS = 32, LEAST = 16, PATIENCE = 32 };
    const double share = engine_spare_seconds(e);
    if (share == INFINITY) {
        return e->params.batch;
    }
    if (e->seconds_a_row == 0) {
        return FIRST_GUESS;
    }
    const double most = e->params.prompt_seconds, least = LEAST * e->seconds_a_row;
    e->credit = fmin(e->credit + fmax(share, least / PATIENCE), least + most);
    return e->credit < least ? 0 : e->credit < e->params.batch * e->seconds_a_row ? (int64_t)(e->credit / e->seconds_a_row) : e->params.batch;
}

/* Sets r->chunk for all. Those who wait for a single row get it; the rest of the rows goes to the oldest. */
static void deal_rows(omni_engine *e, bool whole) {
    bool prompts = false;
    for (omni_request *r = e->running.oldest; r; r = r->newer) {
        const int64_t pending = wants_rows(r) ? request_pending(r) : 0;
        r->chunk = pending == 1;
        r->wanted = pending;
        prompts |= pending > 1;
    }
    if (!prompts) {
        e->credit = 0;
        return;
    }
    int64_t left = whole ? e->params.batch : prompt_budget(e);
    for (omni_request *r = e->running.oldest; r; r = r->newer) {
        if (r->wanted > 1) {
            r->chunk = r->wanted < left ? r->wanted : left;
            left -= r->chunk;
            e->credit -= (double)r->chunk * e->seconds_a_row;
        }
    }
    e->credit = fmax(e->credit, 0);
}

/* ---- rows into the pass ---- */

/* Takes the blocks for r's chunk. The hidden states of rows in a block that is copied, because others hold it too, go along. */
static omni_status extend(omni_engine *e, omni_request *r, omni_error *err) {
    const int64_t shared = r->seq.length % KV_BLOCK ? r->seq.block_count - 1 : -1;
    const int32_t before = shared >= 0 ? r->seq.blocks[shared] : -1;
    TRY(kv_seq_extend(&r->seq, r->chunk, NULL, err));
    if (e->hidden && shared >= 0 && r->seq.blocks[shared] != before) {
        const int64_t block = KV_BLOCK * (int64_t)e->model->thinker->config.width;
        e->model->b->ops->copy(e->model->b, e->hidden + r->seq.blocks[shared] * block, e->hidden + before * block, (size_t)block * sizeof *e->hidden);
    }
    return OMNI_OK;
}

static omni_status fill_rows(omni_engine *e, omni_request *r, decoder_row *rows, omni_error *err) {
    const int64_t first = r->seq.length - r->chunk, width = e->model->thinker->config.width;
    TRY(thinker_rows(e->model->thinker, &r->rows, first, r->chunk, r->embedded, r->media_count, NULL, rows, err));
    for (int64_t i = 0; e->hidden && i < r->chunk; i++) {
        if (r->trace || r->rows.rows[first + i].media >= 0) {
            rows[i].captured = e->hidden + kv_seq_slot(&r->seq, first + i) * width;
        }
    }
    return OMNI_OK;
}

/* The inputs of the pass; how many rows in all. From the oldest to the youngest: who has to give blocks back is never in the pass yet. */
static int64_t gather(omni_engine *e, int *count) {
    int64_t rows = 0;
    *count = 0;
    for (omni_request *r = e->running.oldest, *next; r; r = next) {
        next = r->newer;
        if (r->chunk == 0) {
            continue;
        }
        omni_error err = {0};
        if (!engine_make_room(e, r, r->chunk)) {
            next = NULL; /* those behind r had given theirs back before, and r was the last */
            continue;
        }
        next = r->newer; /* younger ones may have gone */
        omni_status status = extend(e, r, &err);
        status = status == OMNI_OK ? fill_rows(e, r, e->rows + rows, &err) : status;
        if (status != OMNI_OK) {
            engine_finish(e, r, status, &err);
            continue;
        }
        e->inputs[*count] = (runner_input){.seq = &r->seq, .rows = e->rows + rows, .n = r->chunk, .outputs = request_pending(r) == 0};
        e->stepping[(*count)++] = r;
        rows += r->chunk;
    }
    return rows;
}

/* ---- tokens out ---- */

static omni_status open_stream(omni_engine *e, omni_request *r, omni_error *err) {
    int32_t *hidden_row = NULL, n = 0;
    if (r->media_count > 0) {
        hidden_row = malloc((size_t)r->prompt_rows * sizeof *hidden_row);
        if (!hidden_row) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory");
        }
        for (int64_t i = 0; i < r->prompt_rows; i++) {
            if (r->rows.rows[i].media >= 0) {
                hidden_row[n++] = kv_seq_slot(&r->seq, i);
            }
        }
    }
    const talker_prompt p = {.rows = r->rows.rows,
                             .n = r->prompt_rows,
                             .media = r->media_rows,
                             .media_count = r->media_count,
                             .media_hidden = n > 0 ? e->hidden : NULL,
                             .media_hidden_row = hidden_row};
    omni_status status = speech_open(e->speech, &p, &r->receiver, r->turn, r->trace, &r->stream, err);
    free(hidden_row);
    return status;
}

/* The prompt has been read: what the answer needs. */
static omni_status begin_answer(omni_engine *e, omni_request *r, omni_error *err) {
    TRY(sampler_open(&r->sampler, e->model->b, e->model->thinker->config.vocab, &r->params, r->grammar != NULL, r->rows.rows, r->prompt_rows, err));
    r->answering = engine_now();
    r->result.seconds_prompt = r->answering - r->admitted - r->result.seconds_media;
    TRY(output_open(&r->output, e->model->tokenizer, &r->receiver, r->params.speak, err));
    r->output_open = true;
    return r->params.speak ? open_stream(e, r, err) : OMNI_OK;
}

/* Gives the talker what may be spoken by now. */
static omni_status push_spoken(omni_request *r, bool last, omni_error *err) {
    r->spoken.count = 0;
    TRY(output_spoken(&r->output, last, &r->spoken, err));
    return speech_push(r->stream, r->spoken.ids, (int64_t)r->spoken.count, err);
}

/* The text is complete. */
static omni_status end_text(omni_engine *e, omni_request *r, omni_error *err) {
    TRY(output_finish(&r->output, err));
    if (!r->stream) {
        engine_finish(e, r, OMNI_OK, NULL);
        return OMNI_OK;
    }
    TRY(push_spoken(r, true, err));
    speech_finish_text(r->stream);
    r->state = REQUEST_SPEAKING;
    return OMNI_OK;
}

/* p: with params.logprobs; else NULL. */
static omni_status take_token(omni_engine *e, omni_request *r, int32_t id, const sample_logprobs *p, omni_error *err) {
    const int64_t most = r->params.max_tokens > 0 ? r->params.max_tokens : INT64_MAX;
    const bool end = !r->params.ignore_eos && tokenizer_is_end(e->model->tokenizer, id);
    if (id == SAMPLE_NONE) {
        return fail(err, OMNI_ERR_ARGUMENT, "no token is allowed as number %zu of the answer: mask, grammar and logit bias leave none of the %lld",
                    r->answer.count + 1, (long long)e->model->thinker->config.vocab);
    }
    if (id < 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: the thinker computed NaN or infinite values (token %zu of the answer): its weights are damaged",
                    gguf_path(e->model->thinker_file), r->answer.count);
    }
    TRY(token_list_push(&r->answer, id, err));
    if (!end) {
        TRY(output_token(&r->output, id, p, err));
    }
    if (end || r->output.stopped) {
        r->result.finish = OMNI_FINISH_STOP;
        return end_text(e, r, err);
    }
    if ((int64_t)r->answer.count >= most || r->seq.length >= e->params.context) {
        r->result.finish = OMNI_FINISH_LENGTH;
        r->result.text_limit = (int64_t)r->answer.count >= most ? OMNI_LIMIT_MAX_TOKENS : OMNI_LIMIT_CONTEXT;
        if (r->stream) { /* as the reference: the token behind which the answer is cut is not spoken */
            output_leave_out_last(&r->output);
        }
        return end_text(e, r, err);
    }
    if (r->stream) {
        TRY(push_spoken(r, false, err));
    }
    return request_append(r, id, err);
}

/* Before a token of r is sampled. */
static omni_status prepare_draw(omni_engine *e, omni_request *r, omni_error *err) {
    omni_status status = r->output_open ? OMNI_OK : begin_answer(e, r, err);
    if (status == OMNI_OK && (r->params.mask || r->grammar)) {
        pthread_mutex_lock(&r->asking);
        status = request_is_cancelled(r) ? fail(err, OMNI_CANCELLED, "cancelled") : OMNI_OK;
        if (status == OMNI_OK) {
            status = sampler_ask_mask(&r->sampler, e->model->b, e->model->thinker->config.vocab, &r->params, r->grammar ? &r->matcher : NULL,
                                      r->answer.ids, r->answer.count, err);
        }
        pthread_mutex_unlock(&r->asking);
    }
    return status;
}

/* A token for each request whose rows are complete now. */
static void sample_tokens(omni_engine *e, int count) {
    backend *b = e->model->b;
    const int64_t vocab = e->model->thinker->config.vocab;
    float *logits = decoder_logits(decoder_runner_decoder(e->runner));
    int n = 0;
    for (int i = 0; i < count; i++) {
        omni_request *r = e->stepping[i];
        omni_error err = {0};
        if (e->inputs[i].outputs == 0) {
            continue;
        }
        omni_status status = prepare_draw(e, r, &err);
        if (r->trace) {
            b->ops->download(b, e->row, logits + n * vocab, (size_t)vocab * sizeof *logits);
            trace_append(r->trace, "logits", e->row, 1, vocab);
        }
        e->samples[n] = sampler_row(&r->sampler, vocab, &r->params, r->turn, r->answer.count);
        if (status != OMNI_OK) { /* its row is sampled all the same, for nobody */
            engine_finish(e, r, status, &err);
            e->samples[n] = (sample_row){.greedy = true, .repeat_penalty = 1, .suppress_from = (int32_t)vocab, .suppress_keep = -1};
            r = NULL;
        }
        e->stepping[n++] = r;
    }
    if (n == 0) {
        return;
    }
    size_t wanted = 0;
    for (int i = 0; i < n; i++) {
        if (e->stepping[i] && e->stepping[i]->params.logprobs) {
            e->samples[i].logprobs = (sample_logprobs *)(void *)(e->sampled + n) + wanted++;
        }
    }
    b->ops->sample(b, logits, n, vocab, e->samples, e->sampled);
    b->ops->download(b, e->ids, e->sampled, (size_t)n * sizeof *e->ids + wanted * sizeof(sample_logprobs));
    if (backend_failure(b, NULL) != OMNI_OK) {
        return; /* the step tells everybody */
    }
    const sample_logprobs *next = (const sample_logprobs *)(const void *)(e->ids + n);
    for (int i = 0; i < n; i++) {
        omni_error err = {0};
        const sample_logprobs *p = e->samples[i].logprobs ? next++ : NULL;
        omni_status status = e->stepping[i] ? take_token(e, e->stepping[i], e->ids[i], p, &err) : OMNI_OK;
        if (status != OMNI_OK) {
            engine_finish(e, e->stepping[i], status, &err);
        }
    }
}

/* Rows that are computed again, since their blocks were taken away, are there already. */
static void trace_hidden(omni_engine *e, omni_request *r) {
    const int64_t width = e->model->thinker->config.width;
    for (; e->hidden && r->traced < r->seq.length; r->traced++) {
        e->model->b->ops->download(e->model->b, e->row, e->hidden + kv_seq_slot(&r->seq, r->traced) * width, (size_t)width * sizeof(float));
        trace_append(r->trace, "accept_hidden", e->row, 1, width);
    }
}

bool engine_pass(omni_engine *e, bool whole) {
    deal_rows(e, whole);
    int count;
    const int64_t rows = gather(e, &count);
    if (count == 0) {
        return false;
    }
    const omni_model *m = e->model;
    const runner_options options = {.logits = true,
                                    .extended = true,
                                    .capture_layer = m->talker ? talker_get_config(m->talker)->accept_hidden_layer : 0,
                                    .deepstack_layers = m->thinker->deepstack_layers};
    omni_error err = {0};
    const double start = engine_now();
    omni_status status = decoder_runner_run(e->runner, e->inputs, count, &options, &err);
    pthread_mutex_lock(&e->lock); /* before anyone is told that he has his answer */
    e->counters.steps++;
    e->counters.rows += (uint64_t)rows;
    pthread_mutex_unlock(&e->lock);
    for (int i = 0; i < count; i++) {
        omni_request *r = e->stepping[i];
        if (status != OMNI_OK) {
            kv_seq_truncate(&r->seq, 0); /* nobody knows what its blocks hold */
            engine_finish(e, r, status, &err);
            continue;
        }
        if (r->trace) {
            trace_hidden(e, r);
        } else if (e->params.prefix_cache) {
            prefix_cache_add(e->prefixes, &r->chain, &r->seq);
        }
        if (r->answer.count == 0) {
            const int64_t known = r->result.cached_tokens;
            const int64_t done = r->seq.length > known ? r->seq.length - known : 0; /* it may have lost what was known */
            events_progress(&r->events, "reading", (uint64_t)done, (uint64_t)(r->prompt_rows - known));
        }
    }
    if (status == OMNI_OK) {
        sample_tokens(e, count);
    }
    if (rows >= 2 * (int64_t)count + 8) { /* mostly prompts */
        const double seconds = (engine_now() - start) / (double)rows;
        e->seconds_a_row = e->seconds_a_row == 0 ? seconds : 0.75 * e->seconds_a_row + 0.25 * seconds;
    }
    return true;
}
