#include "server/responses.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/chat.h"
#include "server/follow.h"

static const param_rename renames[] = {
    {"messages", "input"}, {"max_completion_tokens", "max_output_tokens"}, {"response_format", "text.format"}, {NULL, NULL}};

typedef enum item_kind { ITEM_NONE, ITEM_MESSAGE, ITEM_REASONING } item_kind;

typedef struct call {
    server *s;
    exchange *x;
    const json_t *root; /* of the request */
    chat_request in;
    followed f;
    json_t *output; /* items that are whole */
    item_kind open; /* the item that grows */
    char item_id[64];
    bytes text;     /* of it */
    json_t *tokens; /* of the message that grows, with logprobs */
    size_t told;    /* how many of them a delta has told */
    char id[64];
    int64_t created, events;
} call;

/* ---- objects ---- */

static json_t *as_given(const call *c, const char *key, json_t *otherwise) {
    json_t *v = json_object_get(c->root, key);
    if (v && !json_is_null(v)) {
        json_decref(otherwise);
        return json_incref(v);
    }
    return otherwise;
}

static json_t *usage_object(const call *c) {
    const omni_result *r = &c->f.result;
    return json_pack("{s:I, s:{s:I, s:i}, s:I, s:{s:i}, s:I}", "input_tokens", (json_int_t)r->prompt_tokens, "input_tokens_details", "cached_tokens",
                     (json_int_t)r->cached_tokens, "cache_write_tokens", 0, "output_tokens", (json_int_t)r->answer_tokens, "output_tokens_details",
                     "reasoning_tokens", 0, "total_tokens", (json_int_t)(r->prompt_tokens + r->answer_tokens));
}

/* 0.7 rather than the float nearest to it. */
static json_t *rounded(float v) {
    return json_real(round(1e6 * (double)v) / 1e6);
}

/* status: "in_progress", "completed", "incomplete" or "failed"; the last three once it has ended. */
static json_t *response_object(const call *c, const char *status) {
    const bool ended = strcmp(status, "in_progress") != 0, cut = strcmp(status, "incomplete") == 0, failed = strcmp(status, "failed") == 0;
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:s, s:O, s:b, s:b, s:n, s:s, s:n}", "id", c->id, "object", "response", "created_at",
                          (json_int_t)c->created, "status", status, "model", c->s->name, "output", c->output, "parallel_tool_calls", !c->in.one_call,
                          "store", false, "previous_response_id", "truncation", "disabled", "user");
    json_object_set_new(o, "error", failed ? json_pack("{s:s, s:s}", "code", "server_error", "message", c->f.err.text) : json_null());
    json_object_set_new(o, "incomplete_details", cut ? json_pack("{s:s}", "reason", "max_output_tokens") : json_null());
    json_object_set_new(o, "usage", ended && !failed ? usage_object(c) : json_null());
    json_object_set_new(o, "temperature", as_given(c, "temperature", rounded(c->in.params.text.temperature)));
    json_object_set_new(o, "top_p", as_given(c, "top_p", rounded(c->in.params.text.top_p)));
    json_object_set_new(o, "instructions", as_given(c, "instructions", json_null()));
    json_object_set_new(o, "max_output_tokens", as_given(c, "max_output_tokens", json_null()));
    json_object_set_new(o, "metadata", as_given(c, "metadata", json_object()));
    json_object_set_new(o, "text", as_given(c, "text", json_pack("{s:{s:s}}", "format", "type", "text")));
    json_object_set_new(o, "tools", as_given(c, "tools", json_array()));
    json_object_set_new(o, "tool_choice", as_given(c, "tool_choice", json_string("auto")));
    json_object_set_new(o, "reasoning", json_pack("{s:n, s:n}", "effort", "summary"));
    return o;
}

static json_t *text_part(const call *c, bool whole) {
    const char *type = c->open == ITEM_MESSAGE ? "output_text" : "reasoning_text";
    json_t *part = json_pack("{s:s, s:o*}", "type", type, "text", whole ? text_value(c->text.data, c->text.size) : json_string(""));
    if (c->open == ITEM_MESSAGE) {
        json_object_set_new(part, "annotations", json_array());
        json_object_set_new(part, "logprobs", whole ? json_incref(c->tokens) : json_array());
    }
    return part;
}

/* The item that grows: in_progress and empty, or as it has become. */
static json_t *item_object(const call *c, const char *status) {
    const bool whole = strcmp(status, "in_progress") != 0;
    json_t *content = json_array();
    if (whole) {
        json_array_append_new(content, text_part(c, true));
    }
    return c->open == ITEM_MESSAGE
               ? json_pack("{s:s, s:s, s:s, s:s, s:o*}", "id", c->item_id, "type", "message", "role", "assistant", "status", status, "content",
                           content)
               : json_pack("{s:s, s:s, s:s, s:[], s:o*}", "id", c->item_id, "type", "reasoning", "status", status, "summary", "content", content);
}

/* ---- events ---- */

static void tell(call *c, const char *type, json_t *fields) {
    if (!c->in.stream) {
        json_decref(fields);
        return;
    }
    json_object_set_new(fields, "type", json_string(type));
    json_object_set_new(fields, "sequence_number", json_integer((json_int_t)c->events++));
    send_event(c->x, type, fields);
}

static int output_index(const call *c) {
    return (int)json_array_size(c->output);
}

/* {"item_id", "output_index", "content_index"} of the item that grows. */
static json_t *place(const call *c) {
    return json_pack("{s:s, s:i, s:i}", "item_id", c->item_id, "output_index", output_index(c), "content_index", 0);
}

static void open_item(call *c, item_kind kind) {
    c->open = kind;
    c->text.size = 0;
    server_id(c->s, kind == ITEM_MESSAGE ? "msg_" : "rs_", c->item_id);
    tell(c, "response.output_item.added", json_pack("{s:i, s:o*}", "output_index", output_index(c), "item", item_object(c, "in_progress")));
    json_t *at = place(c);
    json_object_set_new(at, "part", text_part(c, false));
    tell(c, "response.content_part.added", at);
}

static void close_item(call *c, const char *status) {
    if (c->open == ITEM_NONE) {
        return;
    }
    json_t *done = place(c), *part = place(c);
    json_object_set_new(done, "text", text_value(c->text.data, c->text.size));
    if (c->open == ITEM_MESSAGE) {
        json_object_set(done, "logprobs", c->tokens);
    }
    tell(c, c->open == ITEM_MESSAGE ? "response.output_text.done" : "response.reasoning_text.done", done);
    json_object_set_new(part, "part", text_part(c, true));
    tell(c, "response.content_part.done", part);
    json_t *item = item_object(c, status);
    tell(c, "response.output_item.done", json_pack("{s:i, s:O}", "output_index", output_index(c), "item", item));
    json_array_append_new(c->output, item);
    /* A token is told before the text it adds to: after thoughts, the last one is the message's first. */
    json_t *next = json_array();
    if (c->open == ITEM_REASONING && json_array_size(c->tokens) > 0) {
        json_array_append(next, json_array_get(c->tokens, json_array_size(c->tokens) - 1));
    }
    json_decref(c->tokens);
    c->tokens = next;
    c->told = 0;
    c->open = ITEM_NONE;
}

static void take_text(call *c, const omni_event *e) {
    const item_kind kind = e->kind == OMNI_EVENT_REASONING ? ITEM_REASONING : ITEM_MESSAGE;
    if (c->open != kind) {
        close_item(c, "completed");
        open_item(c, kind);
    }
    bytes_add(&c->text, e->text, e->size);
    json_t *delta = place(c);
    json_object_set_new(delta, "delta", text_value(e->text, e->size));
    if (kind == ITEM_MESSAGE) {
        json_t *list = json_array();
        for (; c->told < json_array_size(c->tokens); c->told++) {
            json_array_append(list, json_array_get(c->tokens, c->told));
        }
        json_object_set_new(delta, "logprobs", list);
    }
    tell(c, kind == ITEM_MESSAGE ? "response.output_text.delta" : "response.reasoning_text.delta", delta);
}

static json_t *call_item(const char *id, const char *call_id, const omni_event *e, bool whole) {
    return json_pack("{s:s, s:s, s:s, s:o*, s:o*, s:s}", "id", id, "type", "function_call", "call_id", call_id, "name",
                     text_value(e->name, strlen(e->name)), "arguments", whole ? text_value(e->text, e->size) : json_string(""), "status",
                     whole ? "completed" : "in_progress");
}

/* A call comes whole: its events follow one another. */
static void take_call(call *c, const omni_event *e) {
    char id[64], call_id[64];
    close_item(c, "completed");
    server_id(c->s, "fc_", id);
    server_id(c->s, "call_", call_id);
    const int at = output_index(c);
    tell(c, "response.output_item.added", json_pack("{s:i, s:o*}", "output_index", at, "item", call_item(id, call_id, e, false)));
    tell(c, "response.function_call_arguments.delta",
         json_pack("{s:s, s:i, s:o*}", "item_id", id, "output_index", at, "delta", text_value(e->text, e->size)));
    tell(c, "response.function_call_arguments.done",
         json_pack("{s:s, s:i, s:o*, s:o*}", "item_id", id, "output_index", at, "arguments", text_value(e->text, e->size), "name",
                   text_value(e->name, strlen(e->name))));
    json_t *item = call_item(id, call_id, e, true);
    tell(c, "response.output_item.done", json_pack("{s:i, s:O}", "output_index", at, "item", item));
    json_array_append_new(c->output, item);
    if (c->in.one_call) {
        omni_request_cancel(c->f.request);
    }
}

static void begin(void *arg) {
    call *c = arg;
    if (c->in.stream) {
        reply_begin(c->x, 200, "text/event-stream; charset=utf-8");
        tell(c, "response.created", json_pack("{s:o*}", "response", response_object(c, "in_progress")));
        tell(c, "response.in_progress", json_pack("{s:o*}", "response", response_object(c, "in_progress")));
    }
}

static void take(void *arg, int i, const omni_event *e) {
    call *c = arg;
    if (e->kind == OMNI_EVENT_TOKEN) {
        json_array_append_new(c->tokens, token_logprobs(e));
    } else if (e->kind == OMNI_EVENT_TEXT || e->kind == OMNI_EVENT_REASONING) {
        take_text(c, e);
    } else if (e->kind == OMNI_EVENT_TOOL_CALL) {
        take_call(c, e);
    }
}

static void ended(void *arg, int i) {
    call *c = arg;
    if (c->f.status == OMNI_CANCELLED && c->in.one_call && json_array_size(c->output) > 0) {
        c->f.status = OMNI_OK; /* after the one call that was allowed */
    }
    if (c->f.status == OMNI_OK && c->open == ITEM_NONE && json_array_size(c->output) == 0) {
        open_item(c, ITEM_MESSAGE); /* an answer without a word is still a message */
    }
    const bool cut = c->f.result.finish == OMNI_FINISH_LENGTH;
    close_item(c, cut || c->f.status != OMNI_OK ? "incomplete" : "completed");
    const char *status = c->f.status != OMNI_OK ? "failed" : cut ? "incomplete" : "completed";
    char type[64];
    snprintf(type, sizeof type, "response.%s", status);
    tell(c, type, json_pack("{s:o*}", "response", response_object(c, status)));
}

static void answer(call *c) {
    const follow_calls calls = {.begin = begin, .take = take, .ended = ended, .arg = c};
    omni_error err = {0};
    c->f = (followed){.conversation = c->in.conversation, .params = c->in.params};
    const omni_status status = follow_all(c->s, c->x, &c->f, 1, &calls, &err);
    if (status != OMNI_OK) {
        answer_error(c->x, status, &err);
    } else if (c->in.stream) {
        reply_end(c->x);
    } else if (c->f.status != OMNI_OK) {
        answer_error(c->x, c->f.status, &c->f.err);
    } else {
        answer_json(c->x, 200, response_object(c, c->f.result.finish == OMNI_FINISH_LENGTH ? "incomplete" : "completed"));
    }
}

void handle_responses(server *s, exchange *x) {
    call c = {.s = s, .x = x, .created = (int64_t)time(NULL)};
    json_t *root = request_object(x), *chat = root ? responses_as_chat(x, root) : NULL;
    x->renames = renames;
    c.root = root;
    c.output = json_array();
    c.tokens = json_array();
    server_id(s, "resp_", c.id);
    if (chat && chat_request_read(s, x, chat, &c.in)) {
        answer(&c);
    }
    chat_request_free(&c.in);
    bytes_free(&c.text);
    json_decref(c.output);
    json_decref(c.tokens);
    json_decref(chat);
    json_decref(root);
}
