/* POST /v1/completions: OpenAI's older form. The model knows conversations alone, so a prompt is asked as a user's message. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/chat.h"
#include "server/follow.h"

enum { MOST_ANSWERS = 128, DEFAULT_TOKENS = 16 };

static const param_rename renames[] = {{"messages", "prompt"}, {"top_logprobs", "logprobs"}, {"max_completion_tokens", "max_tokens"}, {NULL, NULL}};

typedef struct answer {
    bytes text;
    json_t *tokens;      /* of logprobs, not told yet */
    int64_t code_points; /* of text and of the tokens told */
} answer;

typedef struct call {
    server *s;
    exchange *x;
    chat_request *in; /* [prompts] */
    const json_t **prompts;
    int prompt_count, n, count; /* answers of a prompt, and of all */
    followed *followed;
    answer *answers;
    bool stream, include_usage, echo;
    char id[64];
    int64_t created;
} call;

/* ---- the request ---- */

static bool refuse(exchange *x, const char *param, const char *text) {
    reply_error(x, 400, param, "invalid_value", "\"%s\" %s", param, text);
    return false;
}

static bool is_given(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return v && !json_is_null(v);
}

/* What chat completions would be asked for one prompt. */
static json_t *as_chat(const json_t *root, const json_t *prompt) {
    static const char *const same[] = {
        "temperature",       "top_p",           "min_p",      "top_k", "seed",   "repetition_penalty", "stop",
        "repeat_penalty",    "logit_bias",      "max_tokens", "n",     "stream", "stream_options",     "presence_penalty",
        "frequency_penalty", "response_format", NULL};
    json_t *chat = json_pack("{s:[{s:s, s:O}]}", "messages", "role", "user", "content", prompt);
    for (const char *const *key = same; *key; key++) {
        if (is_given(root, *key)) {
            json_object_set(chat, *key, json_object_get(root, *key));
        }
    }
    if (!is_given(root, "max_tokens")) {
        json_object_set_new(chat, "max_tokens", json_integer(DEFAULT_TOKENS));
    }
    if (is_given(root, "logprobs")) {
        json_object_set_new(chat, "logprobs", json_true());
        json_object_set(chat, "top_logprobs", json_object_get(root, "logprobs"));
    }
    return chat;
}

static bool read_prompts(call *c, const json_t *root) {
    const json_t *prompt = json_object_get(root, "prompt");
    const size_t n = json_is_array(prompt) ? json_array_size(prompt) : 1;
    if (n == 0 || n > MOST_ANSWERS) {
        return refuse(c->x, "prompt", "must be a text, or a list of up to 128 of them");
    }
    c->prompts = calloc(n, sizeof *c->prompts);
    c->in = calloc(n, sizeof *c->in);
    if (!c->prompts || !c->in) {
        reply_error(c->x, 503, NULL, NULL, "out of memory");
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        c->prompts[i] = json_is_array(prompt) ? json_array_get(prompt, i) : prompt;
        if (!json_is_string(c->prompts[i])) {
            return refuse(c->x, "prompt", "must be a text, or a list of texts; tokens are not taken");
        }
    }
    for (; c->prompt_count < (int)n; c->prompt_count++) {
        json_t *chat = as_chat(root, c->prompts[c->prompt_count]);
        const bool good = chat && chat_request_read(c->s, c->x, chat, &c->in[c->prompt_count]);
        json_decref(chat);
        if (!good) {
            chat_request_free(&c->in[c->prompt_count]);
            return false;
        }
    }
    return true;
}

static bool read_request(call *c, const json_t *root) {
    const json_t *echo = json_object_get(root, "echo"), *best = json_object_get(root, "best_of"), *logprobs = json_object_get(root, "logprobs");
    if (is_given(root, "suffix") && json_string_length(json_object_get(root, "suffix")) > 0) {
        return refuse(c->x, "suffix", "cannot act: the model does not fill in");
    }
    if (is_given(root, "echo") && !json_is_boolean(echo)) {
        return refuse(c->x, "echo", "must be true or false");
    }
    if (is_given(root, "logprobs") && (!json_is_integer(logprobs) || json_integer_value(logprobs) < 0 || json_integer_value(logprobs) > 20)) {
        return refuse(c->x, "logprobs", "must be a whole number from 0 to 20");
    }
    if (json_is_true(echo) && is_given(root, "logprobs")) {
        return refuse(c->x, "echo", "cannot act beside logprobs: those of the prompt are not known");
    }
    if (!read_prompts(c, root)) {
        return false;
    }
    c->n = c->in[0].n;
    c->count = c->n * c->prompt_count;
    c->stream = c->in[0].stream;
    c->include_usage = c->in[0].include_usage;
    c->echo = json_is_true(echo);
    if (is_given(root, "best_of") && (!json_is_integer(best) || json_integer_value(best) != c->n)) {
        return refuse(c->x, "best_of", "must be as n: all answers are given");
    }
    return c->count <= MOST_ANSWERS || refuse(c->x, "n", "times the number of prompts may be 128");
}

/* ---- the answer ---- */

static int64_t code_points(const char *text, size_t size) {
    int64_t n = 0;
    for (size_t i = 0; i < size; i++) {
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    return n;
}

/* {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of the tokens that have not been told; null without logprobs. */
static json_t *take_logprobs(const call *c, answer *a) {
    if (!c->in[0].params.logprobs || json_array_size(a->tokens) == 0) {
        return json_null();
    }
    json_t *tokens = json_array(), *values = json_array(), *tops = json_array(), *offsets = json_array();
    size_t i, k;
    json_t *one, *alternative;
    json_array_foreach(a->tokens, i, one) {
        json_t *text = json_object_get(one, "token"), *top = json_object();
        json_array_append(tokens, text);
        json_array_append(values, json_object_get(one, "logprob"));
        json_array_append_new(offsets, json_integer((json_int_t)a->code_points));
        a->code_points += code_points(json_string_value(text), json_string_length(text));
        json_array_foreach(json_object_get(one, "top_logprobs"), k, alternative) {
            json_object_set(top, json_string_value(json_object_get(alternative, "token")), json_object_get(alternative, "logprob"));
        }
        json_array_append_new(tops, top);
    }
    json_array_clear(a->tokens);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops, "text_offset", offsets);
}

static json_t *choice_object(call *c, int i, json_t *text, const char *finish) {
    return json_pack("{s:i, s:o*, s:o*, s:s?}", "index", i, "text", text, "logprobs", take_logprobs(c, &c->answers[i]), "finish_reason", finish);
}

static json_t *usage_object(const call *c) {
    int64_t prompt = 0, cached = 0, tokens = 0;
    for (int i = 0; i < c->count; i++) {
        const omni_result *r = &c->followed[i].result;
        prompt += i % c->n == 0 ? r->prompt_tokens : 0; /* a prompt counts once */
        cached += i % c->n == 0 ? r->cached_tokens : 0;
        tokens += r->answer_tokens;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens", (json_int_t)tokens, "total_tokens",
                     (json_int_t)(prompt + tokens), "prompt_tokens_details", "cached_tokens", (json_int_t)cached);
}

static json_t *whole_object(const call *c, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:o*}", "id", c->id, "object", "text_completion", "created", (json_int_t)c->created, "model", c->s->name,
                     "choices", choices);
}

static void begin(void *arg) {
    call *c = arg;
    if (c->stream) {
        reply_begin(c->x, 200, "text/event-stream; charset=utf-8");
    }
    for (int i = 0; c->echo && i < c->count; i++) {
        const json_t *prompt = c->prompts[i / c->n];
        bytes_add(&c->answers[i].text, json_string_value(prompt), json_string_length(prompt));
        if (c->stream) {
            send_event(c->x, NULL, whole_object(c, json_pack("[o*]", choice_object(c, i, json_incref((json_t *)prompt), NULL))));
        }
    }
}

static void take(void *arg, int i, const omni_event *e) {
    call *c = arg;
    answer *a = &c->answers[i];
    if (e->kind == OMNI_EVENT_TOKEN) {
        json_array_append_new(a->tokens, token_logprobs(e));
    } else if (e->kind == OMNI_EVENT_TEXT && c->stream) {
        send_event(c->x, NULL, whole_object(c, json_pack("[o*]", choice_object(c, i, text_value(e->text, e->size), NULL))));
    } else if (e->kind == OMNI_EVENT_TEXT) {
        bytes_add(&a->text, e->text, e->size);
    }
}

static const char *finish_of(const followed *f) {
    return f->result.finish == OMNI_FINISH_LENGTH ? "length" : "stop";
}

static void ended(void *arg, int i) {
    call *c = arg;
    const followed *f = &c->followed[i];
    if (c->stream && f->status != OMNI_OK) {
        send_event(c->x, NULL, error_object(f->status, &f->err));
    } else if (c->stream) {
        send_event(c->x, NULL, whole_object(c, json_pack("[o*]", choice_object(c, i, json_string(""), finish_of(f)))));
    }
}

static void end_stream(call *c) {
    if (c->include_usage) {
        json_t *last = whole_object(c, json_array());
        json_object_set_new(last, "usage", usage_object(c));
        send_event(c->x, NULL, last);
    }
    reply_write(c->x, "data: [DONE]\n\n", 14);
    reply_end(c->x);
}

static void answer_whole(call *c) {
    json_t *list = json_array();
    for (int i = 0; i < c->count; i++) {
        const followed *f = &c->followed[i];
        if (f->status != OMNI_OK) {
            json_decref(list);
            answer_error(c->x, f->status, &f->err);
            return;
        }
        json_array_append_new(list, choice_object(c, i, text_value(c->answers[i].text.data, c->answers[i].text.size), finish_of(f)));
    }
    json_t *whole = whole_object(c, list);
    json_object_set_new(whole, "usage", usage_object(c));
    answer_json(c->x, 200, whole);
}

static void answer_all(call *c) {
    c->answers = calloc((size_t)c->count, sizeof *c->answers);
    c->followed = calloc((size_t)c->count, sizeof *c->followed);
    if (!c->answers || !c->followed) {
        reply_error(c->x, 503, NULL, NULL, "out of memory");
        return;
    }
    for (int i = 0; i < c->count; i++) {
        c->answers[i].tokens = json_array();
        c->followed[i] = (followed){.conversation = c->in[i / c->n].conversation, .params = c->in[i / c->n].params};
        c->followed[i].params.seed += (uint64_t)(i % c->n);
        c->followed[i].params.reasoning_apart = c->followed[i].params.tool_calls_apart = false; /* all of it is text */
    }
    const follow_calls calls = {.begin = begin, .take = take, .ended = ended, .arg = c};
    omni_error err = {0};
    const omni_status status = follow_all(c->s, c->x, c->followed, c->count, &calls, &err);
    if (status != OMNI_OK) {
        answer_error(c->x, status, &err);
    } else if (c->stream) {
        end_stream(c);
    } else {
        answer_whole(c);
    }
    for (int i = 0; i < c->count; i++) {
        bytes_free(&c->answers[i].text);
        json_decref(c->answers[i].tokens);
    }
}

void handle_completions(server *s, exchange *x) {
    call c = {.s = s, .x = x, .created = (int64_t)time(NULL)};
    json_t *root = request_object(x);
    x->renames = renames;
    server_id(s, "cmpl-", c.id);
    if (root && read_request(&c, root)) {
        answer_all(&c);
    }
    for (int i = 0; i < c.prompt_count; i++) {
        chat_request_free(&c.in[i]);
    }
    free(c.answers);
    free(c.followed);
    free(c.in);
    free(c.prompts);
    json_decref(root);
}
