#include "engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/calls.h"
#include "engine/scheduler.h"

/* ---- what the callbacks of its params do: everything becomes an event ---- */

static bool push_text(void *arg, const char *text, size_t size) {
    return events_text(&((omni_request *)arg)->events, OMNI_EVENT_TEXT, text, size);
}

static bool push_reasoning(void *arg, const char *text, size_t size) {
    return events_text(&((omni_request *)arg)->events, OMNI_EVENT_REASONING, text, size);
}

static bool push_call(void *arg, const char *name, const char *arguments) {
    return events_call(&((omni_request *)arg)->events, name, arguments);
}

static bool push_token(void *arg, const omni_token *token, const omni_token *top, size_t top_count) {
    return events_token(&((omni_request *)arg)->events, token, top, top_count);
}

static bool push_audio(void *arg, const float *samples, size_t count) {
    return events_audio(&((omni_request *)arg)->events, samples, count);
}

/* ---- making one ---- */

/* Copies what *params points to and outlives the call. */
static omni_status copy_params(omni_request *r, const omni_generate_params *params, omni_error *err) {
    omni_generate_params *p = &r->params;
    *p = *params;
    p->stop = NULL;
    p->stop_count = 0;
    p->logit_bias = NULL;
    p->logit_bias_count = 0;
    p->voice = NULL;
    p->owner = NULL;   /* the chain of the rows knows it */
    p->trace = NULL;   /* r->trace */
    p->grammar = p->json_schema = p->tool_name = NULL; /* r->grammar */
    p->on_text = push_text;
    p->on_audio = push_audio;
    p->on_token = push_token;
    p->on_progress = NULL;
    p->on_reasoning = params->reasoning_apart ? push_reasoning : NULL;
    p->on_tool_call = params->tool_calls_apart ? push_call : NULL;
    p->arg = r;
    const size_t stops = r->speak_only ? 0 : params->stop_count; /* a given text is said as it is */
    char **stop = calloc(stops + 1, sizeof *stop);
    p->stop = (const char *const *)stop;
    bool ok = stop != NULL;
    for (size_t i = 0; ok && i < stops; i++) {
        stop[i] = strdup(params->stop[i]);
        ok = stop[i] != NULL;
        p->stop_count += ok;
    }
    p->voice = ok && params->voice ? strdup(params->voice) : NULL;
    if (!ok || (params->voice && !p->voice)) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a request");
    }
    omni_logit_bias *bias = NULL;
    TRY(sampler_merge_bias(params, &bias, &p->logit_bias_count, err));
    p->logit_bias = bias;
    return OMNI_OK;
}

static omni_status create(omni_engine *e, const omni_generate_params *params, bool speak_only, omni_request **out, omni_error *err) {
    omni_request *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a request");
    }
    r->e = e;
    r->speak_only = speak_only;
    atomic_init(&r->holders, 1);
    r->submitted = engine_now();
    const int64_t rate = e->model->code2wav ? code2wav_sample_rate(e->model->code2wav) : 0;
    omni_status status = events_init(&r->events, e->params.held_text, (int64_t)(fmin(e->params.held_seconds, 1e9) * (double)rate), err);
    if (status != OMNI_OK) {
        free(r);
        return status;
    }
    pthread_mutex_init(&r->asking, NULL);
    status = copy_params(r, params, err);
    if (status == OMNI_OK && params->trace) {
        status = trace_create(params->trace, &r->trace, err);
    }
    if (status != OMNI_OK) {
        request_drop(r);
        return status;
    }
    r->receiver = (receiver){.params = &r->params, .cancelled = &r->cancelled};
    *out = r;
    return OMNI_OK;
}

void request_drop(omni_request *r) {
    if (atomic_fetch_sub(&r->holders, 1) > 1) {
        return;
    }
    trace_abandon(r->trace);
    for (size_t i = 0; i < r->params.stop_count; i++) {
        free((char *)r->params.stop[i]);
    }
    free((char **)r->params.stop);
    free((char *)r->params.voice);
    free((omni_logit_bias *)r->params.logit_bias);
    token_grammar_drop(r->grammar);
    for (int32_t i = 0; i < r->media_count; i++) {
        media_item_drop(r->media[i]);
    }
    free(r->media);
    free(r->media_rows);
    free(r->contents);
    free(r->embedded);
    prompt_free(&r->rows);
    prefix_chain_free(&r->chain);
    token_list_free(&r->said);
    token_list_free(&r->answer);
    token_list_free(&r->spoken);
    output_close(&r->output);
    pthread_mutex_destroy(&r->asking);
    events_destroy(&r->events);
    free(r);
}

bool request_is_cancelled(const omni_request *r) {
    return atomic_load(&r->cancelled);
}

size_t request_answer_length(const omni_request *r) {
    const size_t n = r->answer.count;
    return n > 0 && tokenizer_is_end(r->e->model->tokenizer, r->answer.ids[n - 1]) ? n - 1 : n;
}

omni_status request_append(omni_request *r, int32_t token, omni_error *err) {
    if (r->rows.n == r->rows_room) {
        const int64_t room = r->rows.n + r->rows.n / 2 + 64;
        prompt_row *rows = realloc(r->rows.rows, (size_t)room * sizeof *rows);
        if (!rows) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for %lld rows", (long long)room);
        }
        r->rows.rows = rows;
        r->rows_room = room;
    }
    const float *last = r->rows.rows[r->rows.n - 1].position;
    prompt_row *row = &r->rows.rows[r->rows.n];
    *row = (prompt_row){.id = token, .class = ROW_TEXT, .media = -1, .position = {last[0] + 1.0f, last[1] + 1.0f, last[2] + 1.0f}};
    TRY(prefix_chain_add(&r->chain, row, 1, NULL, err));
    r->rows.n++;
    return OMNI_OK;
}

/* ---- what it reads ---- */

static omni_status hold_media(omni_request *r, omni_conversation *c, const char *owner, omni_error *err) {
    const encoders *enc = &c->model->encoders;
    const size_t n = c->media_count;
    r->media = calloc(n + 1, sizeof *r->media);
    r->media_rows = calloc(n + 1, sizeof *r->media_rows);
    r->contents = calloc(n + 1, sizeof *r->contents);
    r->embedded = calloc(n + 1, sizeof *r->embedded);
    if (!r->media || !r->media_rows || !r->contents || !r->embedded) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu media", n);
    }
    TRY(media_items_take(enc, &c->model->media_cache, owner, c->media, n, err));
    for (size_t i = 0; i < n; i++) {
        r->media[i] = media_item_hold(c->media[i].item);
        r->media_count++;
        r->media_rows[i] = media_item_prompt(enc, r->media[i]);
        r->contents[i] = r->media[i]->content;
    }
    return OMNI_OK;
}

/* The laid-out ids with a marker for every medium (model/positions.h); the caller frees *out. */
static omni_status mark_media(const chat_prompt *laid, int32_t **out, int64_t *count, omni_error *err) {
    int32_t *ids = malloc((laid->ids.count + laid->media_count + 1) * sizeof *ids);
    if (!ids) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a prompt of %zu tokens", laid->ids.count);
    }
    int64_t n = 0;
    for (size_t i = 0; i < laid->count; i++) {
        const chat_segment *s = &laid->segments[i];
        if (s->kind != CHAT_TEXT) {
            ids[n++] = prompt_mark((int32_t)s->index);
            continue;
        }
        for (size_t k = 0; k < s->count; k++) {
            ids[n++] = laid->ids.ids[s->begin + k];
        }
    }
    *out = ids;
    *count = n;
    return OMNI_OK;
}

/* What cannot fit is refused before anything is computed. */
static omni_status check_room(const omni_request *r, const chat_prompt *laid, omni_error *err) {
    const omni_model *m = r->e->model;
    int64_t rows = (int64_t)laid->ids.count;
    for (int32_t i = 0; i < r->media_count; i++) {
        const prompt_media *p = &r->media_rows[i];
        rows += prompt_visual_rows(&m->thinker->markup, p) + (p->audio_rows > 0 ? p->audio_rows : 0);
    }
    return rows <= r->e->params.context
               ? OMNI_OK
               : fail(err, OMNI_ERR_LIMIT,
                      "the conversation needs %lld tokens, media included, and the context is %lld: give a larger one (-c) or start anew",
                      (long long)rows, (long long)r->e->params.context);
}

/* The conversation as rows, and their names. */
static omni_status lay_out(omni_request *r, omni_conversation *c, const char *owner, omni_error *err) {
    const omni_model *m = c->model;
    chat_prompt laid = {0};
    int32_t *ids = NULL;
    int64_t count = 0;
    omni_status status = hold_media(r, c, owner, err);
    if (status == OMNI_OK) {
        status = chat_render(&c->chat, m->tokenizer, true, (size_t)r->e->params.context, &laid, err);
    }
    if (status == OMNI_OK) {
        status = check_room(r, &laid, err);
    }
    if (status == OMNI_OK) {
        status = mark_media(&laid, &ids, &count, err);
    }
    if (status == OMNI_OK) {
        status = prompt_expand(&m->thinker->markup, ids, count, r->media_rows, r->media_count, r->e->params.context, &r->rows, err);
    }
    free(ids);
    chat_prompt_free(&laid);
    TRY(status);
    r->prompt_rows = r->rows_room = r->rows.n;
    TRY(prefix_chain_init(r->e->prefixes, owner, &r->chain, err));
    return prefix_chain_add(&r->chain, r->rows.rows, r->rows.n, r->contents, err);
}

/* The rows of an opening without a conversation. */
static omni_status lay_out_opening(omni_request *r, omni_error *err) {
    static const char layout[] = "<|im_start|>assistant\n";
    token_list ids = {0};
    omni_status status = tokenizer_encode(r->e->model->tokenizer, TOKENIZE_MARKUP, layout, sizeof layout - 1, &ids, err);
    r->rows.rows = calloc(ids.count + 1, sizeof *r->rows.rows);
    if (status == OMNI_OK && !r->rows.rows) {
        status = fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; status == OMNI_OK && i < ids.count; i++) {
        r->rows.rows[i] = (prompt_row){.id = ids.ids[i], .class = ROW_TEXT, .media = -1, .position = {(float)i, (float)i, (float)i}};
    }
    r->rows.n = r->prompt_rows = (int64_t)ids.count;
    token_list_free(&ids);
    return status;
}

/* The grammar that its answer shall follow. */
static omni_status constrain(omni_request *r, const omni_conversation *c, const omni_generate_params *params, omni_error *err) {
    omni_model *m = r->e->model;
    TRY(constraint_open(&m->constraints, m->tokenizer, m->thinker->config.vocab, &c->chat, params, &r->grammar, err));
    if (r->grammar) {
        token_matcher_init(&r->matcher, r->grammar, m->tokenizer, m->reasons);
    }
    return OMNI_OK;
}

/* ---- handing it in ---- */

/* Counts r in, or without one only looks whether there is room, so that what is refused costs little. */
static omni_status hand_in(omni_engine *e, omni_request *r, omni_error *err) {
    const int64_t most = (int64_t)e->params.parallel + e->params.queue;
    pthread_mutex_lock(&e->lock);
    const bool closing = e->closing, room = !closing && e->accepted < most;
    if (room && r) {
        atomic_fetch_add(&r->holders, 1);
        r->number = e->counters.submitted++;
        e->accepted++;
        request_list_add(&e->submitted, r);
    }
    e->counters.refused += !room;
    pthread_mutex_unlock(&e->lock);
    if (!room) {
        return closing ? fail(err, OMNI_ERR_BUSY, "the engine is being closed")
                       : fail(err, OMNI_ERR_BUSY, "the queue is full: %lld requests are being answered or wait", (long long)most);
    }
    if (r) {
        sem_post(&e->wake);
    }
    return OMNI_OK;
}

omni_status request_submit(omni_engine *e, omni_conversation *c, const omni_generate_params *params, omni_request **out, omni_error *err) {
    *out = NULL;
    if (!e->runner) {
        return fail(err, OMNI_ERR_ARGUMENT, "the model was opened for speaking given texts only");
    }
    if (c->chat.count == 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "the conversation is empty: add a message first");
    }
    TRY(check_generate_params(e->model, params, true, err));
    TRY(hand_in(e, NULL, err));
    omni_request *r;
    TRY(create(e, params, false, &r, err));
    r->turn = c->chat.count;
    omni_status status = constrain(r, c, params, err);
    status = status == OMNI_OK ? lay_out(r, c, params->owner, err) : status;
    status = status == OMNI_OK ? hand_in(e, r, err) : status;
    if (status != OMNI_OK) {
        request_drop(r);
        return status;
    }
    *out = r;
    return OMNI_OK;
}

/* Tokens of a text to be said; one that the talker could not say to its end is refused, if it can be told before it is tokenised. */
static omni_status tokenize_said(omni_request *r, const char *text, omni_error *err) {
    const omni_model *m = r->e->model;
    const size_t most = (size_t)talker_get_config(m->talker)->context_length, size = strlen(text), least = tokenizer_least(m->tokenizer, size);
    if (least > most) {
        return fail(err, OMNI_ERR_LIMIT, "%zu bytes of text to say are at least %zu tokens, and the talker's context is %zu", size, least, most);
    }
    TRY(tokenizer_encode(m->tokenizer, TOKENIZE_PLAIN, text, size, &r->said, err));
    return r->said.count <= most ? OMNI_OK
                                 : fail(err, OMNI_ERR_LIMIT, "the text to say has %zu tokens, and the talker's context is %zu", r->said.count, most);
}

omni_status request_speak(omni_engine *e, const char *text, const omni_generate_params *params, omni_request **out, omni_error *err) {
    *out = NULL;
    omni_generate_params p = *params;
    p.speak = true;
    p.stop_count = p.logit_bias_count = 0; /* what concerns text alone is not looked at */
    p.mask = NULL;
    p.grammar = p.json_schema = NULL;
    p.tool_choice = OMNI_TOOLS_AUTO;
    p.logprobs = false;
    TRY(check_generate_params(e->model, &p, false, err));
    if (!*text) {
        return fail(err, OMNI_ERR_ARGUMENT, "there is no text to say");
    }
    TRY(hand_in(e, NULL, err));
    omni_request *r;
    TRY(create(e, &p, true, &r, err));
    omni_status status = lay_out_opening(r, err);
    if (status == OMNI_OK) {
        status = tokenize_said(r, text, err);
    }
    status = status == OMNI_OK ? hand_in(e, r, err) : status;
    if (status != OMNI_OK) {
        request_drop(r);
        return status;
    }
    *out = r;
    return OMNI_OK;
}
