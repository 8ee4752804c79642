/* Answering: the prompt is read, tokens are drawn one by one, shown, spoken, and fed back. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "text/answer.h"

omni_generate_params omni_generate_params_default(void) {
    return (omni_generate_params){
        .text = {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repeat_penalty = 1},
        .speech = {.temperature = 0.9f, .top_k = 50, .top_p = 1, .repeat_penalty = 1.05f},
    };
}

void omni_cancel(omni_session *s) {
    atomic_store(&s->cancelled, true);
}

/* One call of omni_generate. */
typedef struct run {
    omni_session *s;
    omni_model *m;
    const omni_generate_params *params;
    trace *trace;
    conversation c;
    float *captured;    /* [batch, width] in the backend's memory: accepted hidden states of a pass, when traced */
    float *row;         /* [max(vocab, batch * width)] on the host, when traced */
    int64_t media_rows; /* of the prompt that are already read */

    token_list answer; /* every token drawn */
    token_stream stream;
    char *text; /* room for the text of one token */
    stop_matcher *stop;
    answer_parser *parser; /* NULL: on_text gets the answer as it is */
    float position[3];     /* of the last row read */
    bool speaking, speech_ended, stopped;
    double started, first_text;
} run;

static bool is_cancelled(const run *r) {
    return atomic_load(&r->s->cancelled);
}

static omni_status cancelled(omni_error *err) {
    return fail(err, OMNI_CANCELLED, "cancelled");
}

static omni_status check_sampling(const omni_sampling *p, const char *what, omni_error *err) {
    bool ok = p->repeat_penalty > 0 &&
              (p->greedy || (p->temperature > 0 && p->top_k >= 0 && p->top_p >= 0 && p->top_p <= 1 && p->min_p >= 0 && p->min_p <= 1));
    return ok ? OMNI_OK
              : fail(err, OMNI_ERR_ARGUMENT,
                     "%s: temperature and repeat penalty must be over 0, top-k 0 or more, top-p and min-p from 0 to 1 (greedy for temperature 0)",
                     what);
}

/* ---- the prompt ---- */

static bool same_row(const prompt_row *a, const prompt_row *b) {
    return a->id == b->id && a->class == b->class && a->media == b->media && a->media_row == b->media_row &&
           memcmp(a->position, b->position, sizeof a->position) == 0;
}

/* Rows of the prompt that are in the cache already. The last row is always read: its logits are wanted. */
static int64_t known_rows(const omni_session *s, const prompt *p) {
    int64_t n = 0;
    while (n < s->cached_count && n + 1 < p->n && same_row(&s->cached[n], &p->rows[n])) {
        n++;
    }
    return n;
}

static int64_t count_media_rows(const prompt_row *rows, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        count += rows[i].media >= 0;
    }
    return count;
}

/* Room for the hidden states of all media rows of the prompt; those already read keep theirs. */
static omni_status reserve_media_hidden(run *r, omni_error *err) {
    omni_session *s = r->s;
    int64_t need = count_media_rows(r->c.prompt.rows, r->c.prompt.n), width = r->m->thinker->config.width;
    if (!r->m->talker || need <= s->media_hidden_rows) {
        return OMNI_OK;
    }
    const ops *o = r->m->b->ops;
    float *larger;
    TRY(o->alloc(r->m->b, (size_t)(need * width) * sizeof *larger, (void **)&larger, err));
    if (s->media_hidden) {
        o->copy(r->m->b, larger, s->media_hidden, (size_t)(r->media_rows * width) * sizeof *larger);
        o->release(r->m->b, s->media_hidden);
    }
    s->media_hidden = larger;
    s->media_hidden_rows = need;
    return OMNI_OK;
}

static int capture_layer(const run *r) {
    return r->m->talker ? talker_get_config(r->m->talker)->accept_hidden_layer : 0;
}

static omni_status run_rows(run *r, const decoder_row *rows, int64_t n, bool logits, omni_error *err) {
    batch_input input = {&r->s->seq, rows, n, logits};
    batch_options options = {.logits = logits, .capture_layer = capture_layer(r), .deepstack_layers = r->m->thinker->deepstack_layers};
    TRY(batch_run(r->s->batch, &input, 1, &options, err));
    if (r->trace && r->m->talker) {
        int64_t width = r->m->thinker->config.width;
        r->m->b->ops->download(r->m->b, r->row, r->captured, (size_t)(n * width) * sizeof(float));
        trace_append(r->trace, "accept_hidden", r->row, n, width);
    }
    return OMNI_OK;
}

/* Prompt rows [first, first + n): into the cache, hidden states of media rows into media_hidden. */
static omni_status read_piece(run *r, int64_t first, int64_t n, omni_error *err) {
    omni_session *s = r->s;
    const prompt *p = &r->c.prompt;
    const int64_t width = r->m->thinker->config.width;
    float *captured = r->trace && r->m->talker ? r->captured : NULL;
    TRY(thinker_rows(r->m->thinker, p, first, n, r->c.inputs, r->c.media_count, captured, s->rows, err));
    for (int64_t i = 0, k = r->media_rows; !captured && r->m->talker && i < n; i++) {
        s->rows[i].captured = p->rows[first + i].media >= 0 ? s->media_hidden + k++ * width : NULL;
    }
    TRY(run_rows(r, s->rows, n, first + n == p->n, err));
    for (int64_t i = 0; i < n; i++) {
        if (p->rows[first + i].media >= 0) {
            if (captured) {
                r->m->b->ops->copy(r->m->b, s->media_hidden + r->media_rows * width, captured + i * width, (size_t)width * sizeof *captured);
            }
            r->media_rows++;
        }
    }
    memcpy(s->cached + first, p->rows + first, (size_t)n * sizeof *s->cached);
    s->cached_count = first + n;
    return OMNI_OK;
}

static omni_status read_prompt(run *r, omni_result *result, omni_error *err) {
    omni_session *s = r->s;
    const prompt *p = &r->c.prompt;
    int64_t known = r->trace ? 0 : known_rows(s, p); /* a trace holds every row */
    r->media_rows = count_media_rows(p->rows, known);
    TRY(reserve_media_hidden(r, err));
    s->cached_count = known;
    kv_seq_truncate(&s->seq, known);
    result->prompt_tokens = p->n;
    result->cached_tokens = known;
    for (int64_t first = known; first < p->n;) {
        int64_t n = p->n - first < s->params.batch ? p->n - first : s->params.batch;
        TRY(read_piece(r, first, n, err));
        first += n;
        bool go_on =
            !r->params->on_progress || r->params->on_progress(r->params->arg, "reading", (uint64_t)(first - known), (uint64_t)(p->n - known));
        if (!go_on || is_cancelled(r)) {
            return cancelled(err);
        }
    }
    memcpy(r->position, p->rows[p->n - 1].position, sizeof r->position);
    return OMNI_OK;
}

/* ---- the answer ---- */

static int32_t draw(run *r) {
    backend *b = r->m->b;
    const int64_t vocab = r->m->thinker->config.vocab;
    const omni_sampling *p = &r->params->text;
    float *logits = decoder_logits(batch_decoder(r->s->batch));
    if (r->trace) {
        b->ops->download(b, r->row, logits, (size_t)vocab * sizeof *logits);
        trace_append(r->trace, "logits", r->row, 1, vocab);
    }
    sample_row row = {.greedy = p->greedy,
                      .temperature = p->temperature,
                      .top_k = p->top_k,
                      .top_p = p->top_p,
                      .min_p = p->min_p,
                      .repeat_penalty = p->repeat_penalty,
                      .seen = r->s->seen,
                      .suppress_from = (int32_t)vocab,
                      .suppress_keep = -1,
                      .seed = r->params->seed,
                      .step = r->answer.count};
    int32_t id;
    b->ops->sample(b, logits, 1, vocab, &row, r->s->chosen);
    b->ops->download(b, &id, r->s->chosen, sizeof id);
    return id;
}

/* The callbacks, whose first call is timed. */

static void note_first_text(run *r) {
    r->first_text = r->first_text == 0 ? engine_now() : r->first_text;
}

static bool tell_text(void *arg, const char *text, size_t size) {
    run *r = arg;
    note_first_text(r);
    return !r->params->on_text || r->params->on_text(r->params->arg, text, size);
}

static bool tell_reasoning(void *arg, const char *text, size_t size) {
    run *r = arg;
    note_first_text(r);
    return r->params->on_reasoning(r->params->arg, text, size);
}

static bool tell_call(void *arg, const char *name, const char *arguments) {
    run *r = arg;
    note_first_text(r);
    return r->params->on_tool_call(r->params->arg, name, arguments);
}

static omni_status open_parser(run *r, omni_error *err) {
    const omni_generate_params *p = r->params;
    if (!p->on_reasoning && !p->on_tool_call) {
        return OMNI_OK;
    }
    const answer_events events = {tell_text, p->on_reasoning ? tell_reasoning : NULL, p->on_tool_call ? tell_call : NULL, r};
    return answer_create(&events, false, &r->parser, err);
}

static omni_status hand_over(run *r, const char *text, size_t size, omni_error *err) {
    if (!text) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the answer");
    }
    if (r->parser) {
        return answer_push(r->parser, text, size, err);
    }
    return size == 0 || tell_text(r, text, size) ? OMNI_OK : cancelled(err);
}

/* Shows what a token completes; r->stopped once a stop string has come. OMNI_CANCELLED: the receiver wants no more. */
static omni_status show(run *r, int32_t id, omni_error *err) {
    size_t size = token_stream_push(&r->stream, r->m->tokenizer, id, r->text);
    const char *text = r->text;
    if (r->stop) {
        r->stopped = stop_push(r->stop, r->text, size, &text, &size);
    }
    return hand_over(r, text, size, err);
}

/* What was held back. */
static omni_status show_rest(run *r, omni_error *err) {
    size_t size = r->stopped ? 0 : token_stream_flush(&r->stream, r->text);
    const char *text = r->text;
    if (r->stop && !r->stopped) {
        r->stopped = stop_push(r->stop, r->text, size, &text, &size);
        TRY(hand_over(r, text, size, err));
        stop_flush(r->stop, &text, &size);
    }
    TRY(hand_over(r, text, size, err));
    return r->parser ? answer_finish(r->parser, err) : OMNI_OK;
}

static omni_status feed(run *r, int32_t id, omni_error *err) {
    omni_session *s = r->s;
    decoder_row row = thinker_next_row(id, r->position);
    row.captured = r->trace && r->m->talker ? r->captured : NULL;
    TRY(run_rows(r, &row, 1, true, err));
    s->cached[s->cached_count++] =
        (prompt_row){.id = id, .class = ROW_TEXT, .media = -1, .position = {r->position[0], r->position[1], r->position[2]}};
    return OMNI_OK;
}

/* Working memory for an utterance after so many prompt rows: what is there, or a larger one. */
static omni_status reserve_speech(omni_session *s, int64_t rows, const omni_generate_params *params, omni_error *err) {
    enum { OPENING = 16 }; /* the talker's own rows before the first frame */
    int64_t frames = params->max_frames > 0 ? params->max_frames : SPEECH_DEFAULT_FRAMES, most = talker_get_config(s->model->talker)->context_length;
    int64_t positions = rows + OPENING + (frames < most ? frames : most);
    if (s->speech && speech_fits(s->speech, positions)) {
        return OMNI_OK;
    }
    speech_destroy(s->speech);
    s->speech = NULL;
    return speech_create(s->model->b, s->model->talker, s->model->code2wav, positions, &s->speech, err);
}

static omni_status begin_speech(run *r, omni_error *err) {
    omni_session *s = r->s;
    TRY(reserve_speech(s, r->c.prompt.n, r->params, err));
    talker_prompt p = {.rows = r->c.prompt.rows,
                       .n = r->c.prompt.n,
                       .media = r->c.media,
                       .media_count = r->c.media_count,
                       .media_hidden = r->media_rows > 0 ? s->media_hidden : NULL};
    TRY(speech_begin(s->speech, &p, r->params, r->trace, err));
    r->speaking = true;
    return OMNI_OK;
}

/* Draws, shows, speaks and feeds back until something ends the answer. */
static omni_status answer_loop(run *r, omni_finish *finish, omni_error *err) {
    omni_session *s = r->s;
    int64_t most = r->params->max_tokens > 0 ? r->params->max_tokens : INT64_MAX;
    for (;;) {
        if (is_cancelled(r)) {
            return cancelled(err);
        }
        int32_t id = draw(r);
        if (id < 0) {
            return fail(err, OMNI_ERR_FORMAT, "%s: the thinker computed NaN or infinite values (token %llu of the answer): its weights are damaged",
                        gguf_path(r->m->thinker_file), (unsigned long long)r->answer.count);
        }
        bool end = !r->params->ignore_eos && tokenizer_is_end(r->m->tokenizer, id);
        TRY(token_list_push(&r->answer, id, err));
        if (!end) {
            TRY(show(r, id, err));
        }
        if (end || r->stopped) {
            *finish = OMNI_FINISH_STOP;
            return OMNI_OK;
        }
        if ((int64_t)r->answer.count >= most || s->seq.length >= s->params.context) {
            *finish = OMNI_FINISH_LENGTH;
            return OMNI_OK;
        }
        if (r->speaking) {
            TRY(speech_push(s->speech, &id, 1, err));
            TRY(speech_run(s->speech, INT64_MAX, &r->speech_ended, err));
        }
        TRY(feed(r, id, err));
    }
}

/* What is still to be said once the text is complete. */
static omni_status say_rest(speech *s, const _Atomic bool *stop, omni_error *err) {
    bool ended = false;
    speech_finish_text(s);
    while (!ended) {
        if (atomic_load(stop)) {
            return cancelled(err);
        }
        TRY(speech_run(s, 1, &ended, err));
    }
    return OMNI_OK;
}

static void trace_ids(run *r, omni_error *err) {
    const prompt *p = &r->c.prompt;
    int64_t n = p->n + (int64_t)r->answer.count;
    int64_t *ids = malloc((size_t)n * sizeof *ids);
    float *positions = malloc((size_t)p->n * 3 * sizeof *positions);
    if (ids && positions) {
        for (int64_t i = 0; i < n; i++) {
            ids[i] = i < p->n ? p->rows[i].id : r->answer.ids[i - p->n];
        }
        for (int64_t i = 0; i < p->n; i++) {
            for (int k = 0; k < 3; k++) {
                positions[k * p->n + i] = p->rows[i].position[k];
            }
        }
        trace_i64(r->trace, "sequences", 2, (int64_t[]){1, n}, ids);
        trace_f32(r->trace, "position_ids", 3, (int64_t[]){3, 1, p->n}, positions);
    }
    free(ids);
    free(positions);
}

/* The answer becomes a message of the conversation. */
static omni_status keep_answer(run *r, omni_error *err) {
    chat_message *m;
    TRY(chat_add_message(&r->s->chat, CHAT_ASSISTANT, &m, err));
    for (size_t i = 0; i < r->answer.count; i++) {
        bool end = i + 1 == r->answer.count && tokenizer_is_end(r->m->tokenizer, r->answer.ids[i]);
        if (!end) {
            TRY(token_list_push(&m->answer, r->answer.ids[i], err));
        }
    }
    return OMNI_OK;
}

static omni_status run_all(run *r, omni_result *result, omni_error *err) {
    omni_session *s = r->s;
    const omni_generate_params *p = r->params;
    const int64_t width = r->m->thinker->config.width, vocab = r->m->thinker->config.vocab;
    TRY(conversation_prepare(s, p, r->trace, &r->c, err));
    result->seconds_media = engine_now() - r->started;
    if (r->trace) {
        int64_t most = width * s->params.batch > vocab ? width * s->params.batch : vocab;
        r->row = malloc((size_t)most * sizeof *r->row);
        if (!r->row) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
        }
        TRY(r->m->b->ops->alloc(r->m->b, (size_t)(width * s->params.batch) * sizeof(float), (void **)&r->captured, err));
    }
    r->text = malloc(token_stream_room(r->m->tokenizer) + 16);
    if (!r->text) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    if (p->stop_count > 0) {
        TRY(stop_create(p->stop, p->stop_count, &r->stop, err));
    }
    TRY(open_parser(r, err));
    double prompt_start = engine_now();
    TRY(read_prompt(r, result, err));
    memset(s->seen, 0, (size_t)vocab);
    for (int64_t i = 0; i < r->c.prompt.n; i++) {
        s->seen[r->c.prompt.rows[i].id] = 1;
    }
    result->seconds_prompt = engine_now() - prompt_start;
    double answer_start = engine_now();
    if (p->speak) {
        TRY(begin_speech(r, err));
    }
    omni_status status = answer_loop(r, &result->finish, err);
    if (status == OMNI_OK) {
        status = show_rest(r, err);
    }
    if (status == OMNI_OK) {
        status = r->speaking && !r->speech_ended ? say_rest(s->speech, &s->cancelled, err) : OMNI_OK;
    }
    if (r->speaking && (status == OMNI_OK || status == OMNI_CANCELLED)) {
        omni_status last = speech_end(s->speech, err);
        status = status == OMNI_OK ? last : status;
        double first_audio;
        speech_account(s->speech, result, &first_audio);
        result->seconds_first_audio = first_audio > 0 ? first_audio - r->started : 0;
    } else if (r->speaking) {
        speech_abandon(s->speech);
    }
    result->seconds_answer = engine_now() - answer_start;
    result->seconds_first_text = r->first_text > 0 ? r->first_text - r->started : 0;
    result->answer_tokens = (int64_t)r->answer.count;
    if (r->trace) {
        trace_ids(r, err);
    }
    if (status == OMNI_OK || status == OMNI_CANCELLED) {
        TRY(keep_answer(r, err));
    }
    return status;
}

static omni_status check_params(const omni_session *s, const omni_generate_params *p, bool text, omni_error *err) {
    if (p->max_tokens < 0 || p->max_frames < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "max_tokens and max_frames must not be negative");
    }
    if (text) {
        TRY(check_sampling(&p->text, "text sampling", err));
    }
    if (p->speak) {
        if (!s->model->talker) {
            return fail(err, OMNI_ERR_ARGUMENT, "speech needs a talker file (--talker)");
        }
        TRY(check_sampling(&p->speech, "speech sampling", err));
        size_t voice;
        TRY(talker_find_voice(s->model->talker, p->voice, &voice, err));
    }
    return OMNI_OK;
}

omni_status omni_generate(omni_session *s, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    atomic_store(&s->cancelled, false);
    if (!s->batch) {
        return fail(err, OMNI_ERR_ARGUMENT, "the model was opened for speaking given texts only");
    }
    if (s->chat.count == 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "the conversation is empty: add a message first");
    }
    TRY(check_params(s, params, true, err));
    run r = {.s = s, .m = s->model, .params = params, .started = engine_now()};
    if (params->trace) {
        TRY(trace_create(params->trace, &r.trace, err));
    }
    pool_enter(cpu_backend_pool(r.m->b));
    omni_status status = run_all(&r, result, err);
    pool_leave(cpu_backend_pool(r.m->b));
    if (status == OMNI_OK) {
        status = trace_finish(r.trace, err);
    } else {
        trace_abandon(r.trace);
    }
    if (status == OMNI_CANCELLED) {
        result->finish = OMNI_FINISH_CANCELLED;
        status = OMNI_OK;
    }
    if (r.captured) {
        r.m->b->ops->release(r.m->b, r.captured);
    }
    conversation_free(&r.c);
    token_list_free(&r.answer);
    stop_destroy(r.stop);
    answer_destroy(r.parser);
    free(r.row);
    free(r.text);
    return status;
}

/* ---- speaking a given text ---- */

static omni_status speak(omni_session *s, const char *text, const omni_generate_params *params, trace *t, omni_result *result, omni_error *err) {
    omni_model *m = s->model;
    double started = engine_now();
    token_list opening = {0}, ids = {0};
    static const char layout[] = "<|im_start|>assistant\n";
    omni_status status = tokenizer_encode(m->tokenizer, TOKENIZE_MARKUP, layout, sizeof layout - 1, &opening, err);
    if (status == OMNI_OK) {
        status = tokenizer_encode(m->tokenizer, TOKENIZE_PLAIN, text, strlen(text), &ids, err);
    }
    if (status == OMNI_OK) {
        status = reserve_speech(s, (int64_t)opening.count, params, err);
    }
    prompt_row *rows = calloc(opening.count + 1, sizeof *rows);
    if (status == OMNI_OK && !rows) {
        status = fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; status == OMNI_OK && i < opening.count; i++) {
        rows[i] = (prompt_row){.id = opening.ids[i], .class = ROW_TEXT, .media = -1, .position = {(float)i, (float)i, (float)i}};
    }
    if (status == OMNI_OK) {
        talker_prompt p = {.rows = rows, .n = (int64_t)opening.count};
        status = speech_begin(s->speech, &p, params, t, err);
    }
    if (status == OMNI_OK) {
        status = speech_push(s->speech, ids.ids, (int64_t)ids.count, err);
    }
    if (status == OMNI_OK) {
        status = say_rest(s->speech, &s->cancelled, err);
        if (status == OMNI_OK || status == OMNI_CANCELLED) {
            omni_status last = speech_end(s->speech, err);
            status = status == OMNI_OK ? last : status;
        }
        double first_audio;
        speech_account(s->speech, result, &first_audio);
        result->seconds_first_audio = first_audio > 0 ? first_audio - started : 0;
        result->seconds_answer = engine_now() - started;
        result->answer_tokens = (int64_t)ids.count;
    }
    free(rows);
    token_list_free(&opening);
    token_list_free(&ids);
    return status;
}

omni_status omni_speak(omni_session *s, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    atomic_store(&s->cancelled, false);
    omni_generate_params p = *params;
    p.speak = true;
    TRY(check_params(s, &p, false, err));
    if (!*text) {
        return fail(err, OMNI_ERR_ARGUMENT, "there is no text to say");
    }
    trace *t = NULL;
    if (p.trace) {
        TRY(trace_create(p.trace, &t, err));
    }
    pool_enter(cpu_backend_pool(s->model->b));
    omni_status status = speak(s, text, &p, t, result, err);
    pool_leave(cpu_backend_pool(s->model->b));
    if (status == OMNI_OK) {
        return trace_finish(t, err);
    }
    trace_abandon(t);
    if (status == OMNI_CANCELLED) {
        result->finish = OMNI_FINISH_CANCELLED;
        return OMNI_OK;
    }
    return status;
}
