/* Answering: the prompt is read, tokens are sampled one by one, shown, spoken, and fed back. */
#include <stdlib.h>
#include <string.h>

#include "engine/calls.h"
#include "engine/generation.h"

static int32_t sample_token(generation *g) {
    backend *b = g->m->b;
    const int64_t vocab = g->m->thinker->config.vocab;
    const omni_sampling *p = &g->params->text;
    float *logits = decoder_logits(batch_decoder(g->s->batch));
    if (g->trace) {
        b->ops->download(b, g->row, logits, (size_t)vocab * sizeof *logits);
        trace_append(g->trace, "logits", g->row, 1, vocab);
    }
    sample_row row = {.greedy = p->greedy,
                      .temperature = p->temperature,
                      .top_k = p->top_k,
                      .top_p = p->top_p,
                      .min_p = p->min_p,
                      .repeat_penalty = p->repeat_penalty,
                      .seen = g->s->seen,
                      .suppress_from = (int32_t)vocab,
                      .suppress_keep = -1,
                      .seed = g->params->seed,
                      .stage = SAMPLE_THINKER,
                      .sequence = g->turn,
                      .step = (uint32_t)g->answer.count};
    int32_t id;
    b->ops->sample(b, logits, 1, vocab, &row, g->s->chosen);
    b->ops->download(b, &id, g->s->chosen, sizeof id);
    return id;
}

static omni_status begin_speech(generation *g, omni_error *err) {
    omni_session *s = g->s;
    TRY(session_speech(s, g->c.prompt.n, g->params, err));
    talker_prompt p = {.rows = g->c.prompt.rows,
                       .n = g->c.prompt.n,
                       .media = g->c.media,
                       .media_count = g->c.media_count,
                       .media_hidden = g->media_rows > 0 ? s->media_hidden : NULL};
    TRY(speech_begin(s->speech, &p, &g->receiver, g->turn, g->trace, err));
    g->speaking = true;
    return OMNI_OK;
}

/* Gives the talker what may be spoken by now. */
static omni_status push_spoken(generation *g, bool last, omni_error *err) {
    g->spoken.count = 0;
    TRY(output_spoken(&g->output, last, &g->spoken, err));
    return speech_push(g->s->speech, g->spoken.ids, (int64_t)g->spoken.count, err);
}

/* Samples, shows, speaks and feeds back until something ends the answer. */
static omni_status answer_loop(generation *g, omni_result *result, omni_error *err) {
    omni_session *s = g->s;
    int64_t most = g->params->max_tokens > 0 ? g->params->max_tokens : INT64_MAX;
    for (;;) {
        TRY(receiver_check(&g->receiver, err));
        int32_t id = sample_token(g);
        if (id < 0) {
            return fail(err, OMNI_ERR_FORMAT, "%s: the thinker computed NaN or infinite values (token %zu of the answer): its weights are damaged",
                        gguf_path(g->m->thinker_file), g->answer.count);
        }
        bool end = !g->params->ignore_eos && tokenizer_is_end(g->m->tokenizer, id);
        TRY(token_list_push(&g->answer, id, err));
        if (!end) {
            TRY(output_token(&g->output, id, err));
        }
        if (end || g->output.stopped) {
            result->finish = OMNI_FINISH_STOP;
            return OMNI_OK;
        }
        if ((int64_t)g->answer.count >= most || s->seq.length >= s->params.context) {
            result->finish = OMNI_FINISH_LENGTH;
            result->text_limit = (int64_t)g->answer.count >= most ? OMNI_LIMIT_MAX_TOKENS : OMNI_LIMIT_CONTEXT;
            if (g->speaking) { /* as the reference: the token behind which the answer is cut is not spoken */
                output_leave_out_last(&g->output);
            }
            return OMNI_OK;
        }
        if (g->speaking) {
            TRY(push_spoken(g, false, err));
            TRY(speech_run(s->speech, INT64_MAX, &g->speech_ended, err));
        }
        TRY(decode_step(g, id, err));
    }
}

static void trace_ids(generation *g) {
    const prompt *p = &g->c.prompt;
    int64_t n = p->n + (int64_t)g->answer.count;
    int64_t *ids = malloc((size_t)n * sizeof *ids);
    float *positions = malloc((size_t)p->n * 3 * sizeof *positions);
    if (ids && positions) {
        for (int64_t i = 0; i < n; i++) {
            ids[i] = i < p->n ? p->rows[i].id : g->answer.ids[i - p->n];
        }
        for (int64_t i = 0; i < p->n; i++) {
            for (int k = 0; k < 3; k++) {
                positions[k * p->n + i] = p->rows[i].position[k];
            }
        }
        trace_i64(g->trace, "sequences", 2, (int64_t[]){1, n}, ids);
        trace_f32(g->trace, "position_ids", 3, (int64_t[]){3, 1, p->n}, positions);
    }
    free(ids);
    free(positions);
}

/* The answer becomes a message of the conversation. */
static omni_status keep_answer(generation *g, omni_error *err) {
    chat_message *m;
    TRY(chat_add_message(&g->s->chat, CHAT_ASSISTANT, &m, err));
    for (size_t i = 0; i < g->answer.count; i++) {
        bool end = i + 1 == g->answer.count && tokenizer_is_end(g->m->tokenizer, g->answer.ids[i]);
        if (!end) {
            TRY(token_list_push(&m->answer, g->answer.ids[i], err));
        }
    }
    return OMNI_OK;
}

/* Which tokens the conversation has had, for the repetition penalty. */
static omni_status mark_seen(generation *g, omni_error *err) {
    const size_t vocab = (size_t)g->m->thinker->config.vocab;
    uint8_t *seen = calloc(vocab, 1);
    if (!seen) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (int64_t i = 0; i < g->c.prompt.n; i++) {
        seen[g->c.prompt.rows[i].id] = 1;
    }
    g->m->b->ops->upload(g->m->b, g->s->seen, seen, vocab);
    free(seen);
    return OMNI_OK;
}

/* Text and speech to their ends. Nothing more is made once nobody listens. */
static omni_status answer(generation *g, omni_result *result, omni_error *err) {
    omni_status status = answer_loop(g, result, err);
    if (status == OMNI_OK) {
        status = output_finish(&g->output, err);
    }
    if (g->speaking && status == OMNI_OK) {
        status = push_spoken(g, true, err);
    }
    if (g->speaking) {
        status = status == OMNI_OK ? speech_finish(g->s->speech, err) : status;
        if (status != OMNI_OK) {
            speech_abandon(g->s->speech);
        }
        speech_account(g->s->speech, result);
    }
    return status;
}

static omni_status prepare_trace(generation *g, omni_error *err) {
    const int64_t width = g->m->thinker->config.width, vocab = g->m->thinker->config.vocab, rows = g->s->params.batch;
    if (!g->trace) {
        return OMNI_OK;
    }
    g->row = malloc((size_t)(width * rows > vocab ? width * rows : vocab) * sizeof *g->row);
    if (!g->row) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
    }
    return g->m->b->ops->alloc(g->m->b, (size_t)(width * rows) * sizeof(float), (void **)&g->captured, err);
}

static omni_status generate(generation *g, omni_result *result, omni_error *err) {
    omni_session *s = g->s;
    TRY(receiver_check(&g->receiver, err));
    TRY(conversation_prepare(s, &g->receiver, g->trace, &g->c, err));
    result->seconds_media = engine_now() - g->started;
    TRY(prepare_trace(g, err));
    TRY(output_open(&g->output, g->m->tokenizer, &g->receiver, g->params->speak, err));
    double prompt_start = engine_now();
    TRY(prefill(g, result, err));
    TRY(mark_seen(g, err));
    double answer_start = engine_now();
    result->seconds_prompt = answer_start - prompt_start;
    if (g->params->speak) {
        TRY(begin_speech(g, err));
    }
    omni_status status = answer(g, result, err);
    const receiver *r = &g->receiver;
    result->seconds_answer = engine_now() - answer_start;
    result->seconds_first_text = r->first_text > 0 ? r->first_text - g->started : 0;
    result->seconds_first_audio = r->first_audio > 0 ? r->first_audio - g->started : 0;
    result->answer_tokens = (int64_t)g->answer.count;
    if (g->trace) {
        trace_ids(g);
    }
    if (status == OMNI_OK || status == OMNI_CANCELLED) {
        TRY(keep_answer(g, err));
    }
    return status;
}

static void release(generation *g) {
    if (g->captured) {
        g->m->b->ops->release(g->m->b, g->captured);
    }
    conversation_free(&g->c);
    token_list_free(&g->answer);
    token_list_free(&g->spoken);
    output_close(&g->output);
    free(g->row);
}

static omni_status run(omni_session *s, const omni_generate_params *params, omni_result *result, omni_error *err) {
    if (!s->batch) {
        return fail(err, OMNI_ERR_ARGUMENT, "the model was opened for speaking given texts only");
    }
    if (s->chat.count == 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "the conversation is empty: add a message first");
    }
    TRY(check_generate_params(s->model, params, true, err));
    generation g = {.s = s,
                    .m = s->model,
                    .params = params,
                    .receiver = {.params = params, .cancelled = &s->cancelled},
                    .turn = s->chat.count,
                    .started = engine_now()};
    if (params->trace) {
        TRY(trace_create(params->trace, &g.trace, err));
    }
    omni_status status = generate(&g, result, err);
    if (status == OMNI_OK) {
        status = trace_finish(g.trace, err);
    } else {
        trace_abandon(g.trace);
    }
    if (status != OMNI_OK && status != OMNI_CANCELLED) { /* a trace that could not be written, say */
        chat_truncate(&s->chat, (size_t)g.turn);
    }
    release(&g);
    return status;
}

omni_status omni_generate(omni_session *s, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    if (!s || !params) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_generate needs a session and params");
    }
    TRY(session_enter_model(s, err));
    omni_status status = run(s, params, result, err);
    session_leave_model(s);
    if (status == OMNI_CANCELLED) {
        result->finish = OMNI_FINISH_CANCELLED;
        status = OMNI_OK;
    }
    return status;
}
