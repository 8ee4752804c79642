#include "server/chat.h"

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/text.h"
#include "server/wav.h"

/* One of the answers. */
typedef struct choice {
    omni_request *request;
    bool ended, begun; /* begun: its role has been told */
    omni_status status;
    omni_error err;
    omni_result result;
    bytes text, reasoning, sound; /* sound: what encoder made, or 16-bit samples */
    omni_encoder *encoder;        /* NULL: WAV, whose header comes before the samples once their number is known, 16-bit samples, or no sound */
    omni_status encoded;          /* what err says of it */
    json_t *calls, *tokens;       /* lists; tokens: those not told yet, in a stream */
    char audio_id[64];
    int64_t expires;
    double heard_until, stutter, seconds; /* of a listener who plays sound as it comes; its length */
} choice;

typedef struct call {
    server *s;
    exchange *x;
    chat_request in;
    choice *choices;
    sem_t came; /* posted by the engine when an event waits */
    char id[64];
    int64_t created;
    bool told_text, told_sound; /* to the metrics */
} call;

/* ---- objects ---- */

static json_t *token_object(const omni_token *t) {
    json_t *list = json_array();
    for (size_t i = 0; i < t->size; i++) {
        json_array_append_new(list, json_integer((unsigned char)t->bytes[i]));
    }
    return json_pack("{s:o*, s:f, s:o*}", "token", text_value(t->bytes, t->size), "logprob", (double)t->logprob, "bytes", list);
}

static json_t *logprob_object(const omni_event *e) {
    json_t *one = token_object(e->token), *top = json_array();
    for (size_t i = 0; i < e->top_count; i++) {
        json_array_append_new(top, token_object(&e->top[i]));
    }
    json_object_set_new(one, "top_logprobs", top);
    return one;
}

static json_t *usage_object(const call *c) {
    int64_t prompt = 0, cached = 0, answer = 0, frames = 0;
    for (int i = 0; i < c->in.n; i++) {
        const omni_result *r = &c->choices[i].result;
        prompt = r->prompt_tokens > prompt ? r->prompt_tokens : prompt;
        cached = i == 0 ? r->cached_tokens : cached; /* the others find what the first has computed */
        answer += r->answer_tokens;
        frames += r->frames;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I, s:i}, s:{s:I, s:i}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens", (json_int_t)answer,
                     "total_tokens", (json_int_t)(prompt + answer), "prompt_tokens_details", "cached_tokens", (json_int_t)cached, "audio_tokens", 0,
                     "completion_tokens_details", "audio_tokens", (json_int_t)frames, "reasoning_tokens", 0);
}

static const char *finish_of(const choice *h) {
    return json_array_size(h->calls) > 0 ? "tool_calls" : h->result.finish == OMNI_FINISH_LENGTH ? "length" : "stop";
}

/* ---- a stream ---- */

/* Writes an event; takes the value. False: the client is gone. */
static bool tell(call *c, json_t *value) {
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) {
        return true; /* without memory a piece is lost: the end will say that something failed */
    }
    bytes line = {0};
    bytes_add(&line, "data: ", 6);
    bytes_add(&line, text, strlen(text));
    bytes_add(&line, "\n\n", 2);
    const bool good = reply_write(c->x, line.data, line.size);
    bytes_free(&line);
    free(text);
    return good;
}

static json_t *chunk(const call *c, json_t *choices) {
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:o*}", "id", c->id, "object", "chat.completion.chunk", "created", (json_int_t)c->created, "model",
                          c->s->name, "choices", choices);
    if (c->in.include_usage) {
        json_object_set_new(o, "usage", json_null());
    }
    return o;
}

/* One delta of a choice; takes it. */
static void tell_delta(call *c, choice *h, json_t *delta, const char *finish) {
    if (!h->begun) {
        json_object_set_new(delta, "role", json_string("assistant"));
        h->begun = true;
    }
    json_t *logprobs =
        c->in.params.logprobs && json_array_size(h->tokens) > 0 ? json_pack("{s:O, s:n}", "content", h->tokens, "refusal") : json_null();
    if (!json_is_null(logprobs)) {
        json_decref(h->tokens);
        h->tokens = json_array();
    }
    tell(c, chunk(c, json_pack("[{s:i, s:o*, s:o*, s:s?}]", "index", (int)(h - c->choices), "delta", delta, "logprobs", logprobs, "finish_reason",
                               finish)));
}

static json_t *audio_delta(choice *h) {
    return json_pack("{s:s}", "id", h->audio_id);
}

/* ---- events ---- */

static void take_sound(call *c, choice *h, const omni_event *e) {
    const double now = server_now(), seconds = (double)e->count / omni_model_sample_rate(c->s->model);
    if (!c->told_sound) {
        c->told_sound = true;
        metrics_time(&c->s->metrics, TIMING_FIRST_AUDIO, now - c->x->began);
    }
    if (h->seconds > 0 && now > h->heard_until) {
        h->stutter += now - h->heard_until;
    }
    h->heard_until = (h->heard_until > now ? h->heard_until : now) + seconds;
    h->seconds += seconds;
    if (c->in.stream) {
        bytes piece = {0};
        bytes_add_pcm16(&piece, e->samples, e->count);
        json_t *audio = audio_delta(h);
        json_object_set_new(audio, "data", base64_value(NULL, 0, piece.data, piece.size));
        bytes_free(&piece);
        tell_delta(c, h, json_pack("{s:o*}", "audio", audio), NULL);
    } else if (h->encoder) {
        if (h->encoded == OMNI_OK && (h->encoded = omni_encoder_write(h->encoder, e->samples, e->count, &h->err)) != OMNI_OK) {
            omni_request_cancel(h->request);
        }
    } else {
        bytes_add_pcm16(&h->sound, e->samples, e->count);
    }
}

static void take_text(call *c, choice *h, const omni_event *e) {
    if (!c->told_text) {
        c->told_text = true;
        metrics_time(&c->s->metrics, TIMING_FIRST_TOKEN, server_now() - c->x->began);
    }
    const bool reasoning = e->kind == OMNI_EVENT_REASONING;
    bytes_add(reasoning ? &h->reasoning : &h->text, e->text, e->size);
    if (!c->in.stream) {
        return;
    }
    json_t *delta = json_pack("{s:o*}", reasoning ? "reasoning_content" : "content", text_value(e->text, e->size));
    if (c->in.spoken && !reasoning) {
        json_t *audio = audio_delta(h);
        json_object_set_new(audio, "transcript", text_value(e->text, e->size));
        json_object_set_new(delta, "audio", audio);
    }
    tell_delta(c, h, delta, NULL);
}

static void take_call(call *c, choice *h, const omni_event *e) {
    char id[64];
    server_id(c->s, "call_", id);
    json_t *one = json_pack("{s:s, s:s, s:{s:o*, s:o*}}", "id", id, "type", "function", "function", "name", text_value(e->name, strlen(e->name)),
                            "arguments", text_value(e->text, e->size));
    if (c->in.stream) {
        json_t *indexed = json_copy(one);
        json_object_set_new(indexed, "index", json_integer((json_int_t)json_array_size(h->calls)));
        tell_delta(c, h, json_pack("{s:[o*]}", "tool_calls", indexed), NULL);
    }
    json_array_append_new(h->calls, one);
    if (c->in.one_call) {
        omni_request_cancel(h->request);
    }
}

/* The whole answer of one choice has come. */
static void end_choice(call *c, choice *h, const omni_event *e) {
    h->ended = true;
    h->status = e->status;
    if (e->status == OMNI_CANCELLED && c->in.one_call && json_array_size(h->calls) > 0) {
        h->status = OMNI_OK;
    }
    if (e->error && h->encoded == OMNI_OK) {
        h->err = *e->error;
    }
    if (h->encoder && h->status == OMNI_OK) {
        h->encoded = omni_encoder_close(h->encoder, &h->err);
        h->encoder = NULL;
    }
    h->status = h->encoded != OMNI_OK ? h->encoded : h->status;
    if (e->result) {
        h->result = *e->result;
    }
    metrics_result(&c->s->metrics, &h->result, h->seconds);
    if (h->seconds > 0) {
        metrics_time(&c->s->metrics, TIMING_REAL_TIME_FACTOR, h->result.seconds_answer / h->seconds);
        metrics_time(&c->s->metrics, TIMING_STUTTER, h->stutter);
    }
    if (c->in.spoken && h->status == OMNI_OK) {
        transcripts_add(&c->s->transcripts, h->audio_id, c->x->owner, h->text.data ? h->text.data : "", h->text.size, &h->expires);
    }
    if (!c->in.stream) {
        return;
    }
    if (h->status != OMNI_OK) {
        tell(c, error_object(h->status, &h->err));
        return;
    }
    if (c->in.spoken) {
        json_t *audio = audio_delta(h);
        json_object_set_new(audio, "expires_at", json_integer(h->expires));
        tell_delta(c, h, json_pack("{s:o*}", "audio", audio), NULL);
    }
    tell_delta(c, h, json_object(), finish_of(h));
}

static void take_event(call *c, choice *h, const omni_event *e) {
    switch (e->kind) {
    case OMNI_EVENT_TEXT:
    case OMNI_EVENT_REASONING:
        take_text(c, h, e);
        break;
    case OMNI_EVENT_TOOL_CALL:
        take_call(c, h, e);
        break;
    case OMNI_EVENT_AUDIO:
        take_sound(c, h, e);
        break;
    case OMNI_EVENT_TOKEN:
        json_array_append_new(h->tokens, logprob_object(e));
        break;
    case OMNI_EVENT_PROGRESS:
        break;
    case OMNI_EVENT_DONE:
        end_choice(c, h, e);
        break;
    }
}

/* ---- the call ---- */

static void event_waits(void *arg) {
    sem_post(arg);
}

static void cancel_all(void *arg) {
    call *c = arg;
    for (int i = 0; i < c->in.n; i++) {
        if (c->choices[i].request) {
            omni_request_cancel(c->choices[i].request);
        }
    }
}

/* Submits all; on an error none is left. */
static omni_status submit_all(call *c, omni_error *err) {
    for (int i = 0; i < c->in.n; i++) {
        omni_generate_params p = c->in.params;
        p.seed += (uint64_t)i;
        const omni_status status = omni_request_submit(c->s->engine, c->in.conversation, &p, &c->choices[i].request, err);
        if (status != OMNI_OK) {
            return status;
        }
        omni_request_set_wakeup(c->choices[i].request, event_waits, &c->came);
    }
    return OMNI_OK;
}

static bool keep_bytes(void *arg, const void *data, size_t size) {
    bytes *b = arg;
    bytes_add(b, data, size);
    return !b->failed;
}

/* For formats that samples do not go into as they are. */
static omni_status open_encoders(call *c, omni_error *err) {
    omni_encoder_params p = {.format = c->in.sound_format, .sample_rate = omni_model_sample_rate(c->s->model), .write = keep_bytes};
    const bool needed = c->in.spoken && strcmp(p.format, "wav") != 0 && strcmp(p.format, "pcm16") != 0;
    omni_status status = OMNI_OK;
    for (int i = 0; needed && status == OMNI_OK && i < c->in.n; i++) {
        p.arg = &c->choices[i].sound;
        status = omni_encoder_open(&p, &c->choices[i].encoder, err);
    }
    return status;
}

static void read_all(call *c) {
    int live = c->in.n;
    while (live > 0) {
        while (sem_wait(&c->came) != 0) {
        }
        for (int i = 0; i < c->in.n; i++) {
            choice *h = &c->choices[i];
            omni_event e;
            while (!h->ended && omni_request_next(h->request, 0, &e)) {
                take_event(c, h, &e);
                live -= h->ended;
            }
        }
    }
}

static json_t *audio_object(const call *c, const choice *h) {
    unsigned char head[WAV_HEAD];
    wav_head(head, WAV_PCM, omni_model_sample_rate(c->s->model), 1, 2, (uint32_t)h->sound.size);
    return json_pack("{s:s, s:o*, s:I, s:o*}", "id", h->audio_id, "data",
                     base64_value(head, strcmp(c->in.sound_format, "wav") == 0 ? sizeof head : 0, h->sound.data, h->sound.size), "expires_at",
                     (json_int_t)h->expires, "transcript", text_value(h->text.data, h->text.size));
}

static json_t *message_object(const call *c, const choice *h) {
    const bool calls = json_array_size(h->calls) > 0;
    json_t *m = json_pack("{s:s, s:o*, s:n}", "role", "assistant", "content",
                          calls && h->text.size == 0 ? json_null() : text_value(h->text.data, h->text.size), "refusal");
    if (h->reasoning.size > 0) {
        json_object_set_new(m, "reasoning_content", text_value(h->reasoning.data, h->reasoning.size));
    }
    if (calls) {
        json_object_set(m, "tool_calls", h->calls);
    }
    if (c->in.spoken) {
        json_object_set_new(m, "audio", audio_object(c, h));
    }
    return m;
}

static void answer_whole(call *c) {
    json_t *list = json_array();
    for (int i = 0; i < c->in.n; i++) {
        choice *h = &c->choices[i];
        if (h->status != OMNI_OK) {
            json_decref(list);
            answer_error(c->x, h->status, &h->err);
            return;
        }
        json_t *logprobs = c->in.params.logprobs ? json_pack("{s:O, s:n}", "content", h->tokens, "refusal") : json_null();
        json_array_append_new(list, json_pack("{s:i, s:o*, s:o*, s:s}", "index", i, "message", message_object(c, h), "logprobs", logprobs,
                                              "finish_reason", finish_of(h)));
    }
    answer_json(c->x, 200,
                json_pack("{s:s, s:s, s:I, s:s, s:o*, s:o*}", "id", c->id, "object", "chat.completion", "created", (json_int_t)c->created, "model",
                          c->s->name, "choices", list, "usage", usage_object(c)));
}

static void end_stream(call *c) {
    if (c->in.include_usage) {
        json_t *last = chunk(c, json_array());
        json_object_set_new(last, "usage", usage_object(c));
        tell(c, last);
    }
    reply_write(c->x, "data: [DONE]\n\n", 14);
    reply_end(c->x);
}

static void answer(call *c) {
    omni_error err = {0};
    omni_status status = open_encoders(c, &err);
    status = status != OMNI_OK ? status : submit_all(c, &err);
    exchange_on_gone(c->x, cancel_all, c);
    if (status == OMNI_OK) {
        if (c->in.stream) {
            reply_begin(c->x, 200, "text/event-stream; charset=utf-8");
        }
        read_all(c);
    }
    exchange_on_gone(c->x, NULL, NULL);
    for (int i = 0; i < c->in.n; i++) {
        omni_request_free(c->choices[i].request);
        const omni_result *r = &c->choices[i].result;
        const bool first = i == 0; /* all have the same prompt */
        exchange_count(c->x, first ? r->prompt_tokens : 0, first ? r->cached_tokens : 0, r->answer_tokens);
    }
    if (status != OMNI_OK) {
        answer_error(c->x, status, &err);
    } else if (c->in.stream) {
        end_stream(c);
    } else {
        answer_whole(c);
    }
}

void handle_chat(server *s, exchange *x) {
    call c = {.s = s, .x = x, .created = (int64_t)time(NULL)};
    json_t *root = request_object(x);
    const bool good = root && chat_request_read(s, x, root, &c.in);
    json_decref(root);
    if (good && (c.choices = calloc((size_t)c.in.n, sizeof *c.choices))) {
        server_id(s, "chatcmpl-", c.id);
        sem_init(&c.came, 0, 0);
        for (int i = 0; i < c.in.n; i++) {
            c.choices[i].calls = json_array();
            c.choices[i].tokens = json_array();
            server_id(s, "audio_", c.choices[i].audio_id);
        }
        answer(&c);
        for (int i = 0; i < c.in.n; i++) {
            choice *h = &c.choices[i];
            bytes_free(&h->text);
            bytes_free(&h->reasoning);
            bytes_free(&h->sound);
            omni_encoder_free(h->encoder);
            json_decref(h->calls);
            json_decref(h->tokens);
        }
        free(c.choices);
        sem_destroy(&c.came);
    } else if (good) {
        reply_error(x, 503, NULL, NULL, "out of memory");
    }
    if (root) {
        chat_request_free(&c.in);
    }
}
