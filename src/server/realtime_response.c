#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "server/realtime.h"
#include "server/responses.h"

enum { STOP_WAIT_MS = 100 };

static const param_rename renames[] = {{"messages", "conversation"}, {"max_completion_tokens", "max_output_tokens"}, {NULL, NULL}};

/* ---- objects ---- */

static json_t *usage_object(const rt_response *a) {
    const omni_result *u = &a->f.result;
    const json_int_t in = u->prompt_tokens, out = u->answer_tokens, frames = u->frames;
    return json_pack("{s:I, s:I, s:I, s:{s:I, s:i, s:i, s:I, s:{s:I, s:i, s:i}}, s:{s:I, s:I}}", "total_tokens", in + out + frames, "input_tokens",
                     in, "output_tokens", out + frames, "input_token_details", "text_tokens", in, "audio_tokens", 0, "image_tokens", 0,
                     "cached_tokens", (json_int_t)u->cached_tokens, "cached_tokens_details", "text_tokens", (json_int_t)u->cached_tokens,
                     "audio_tokens", 0, "image_tokens", 0, "output_token_details", "text_tokens", out, "audio_tokens", frames);
}

/* status: "in_progress", "completed", "cancelled", "incomplete", "failed". */
static json_t *response_object(const rt_session *r, const rt_response *a, const char *status) {
    json_t *details = json_null(), *most = json_object_get(a->config.own, "max_output_tokens");
    const bool ended = strcmp(status, "in_progress") != 0;
    if (strcmp(status, "failed") == 0) {
        details = error_object(a->f.status, &a->f.err);
        json_object_del(json_object_get(details, "error"), "param");
        json_object_set_new(details, "type", json_string("failed"));
    } else if (a->cancelled || strcmp(status, "incomplete") == 0) {
        details = json_pack("{s:s, s:s}", "type", status, "reason", a->cancelled ? a->cancelled : "max_output_tokens");
    }
    json_t *o = json_pack("{s:s, s:s, s:s, s:o*, s:O, s:[s], s:O?, s:O}", "object", "realtime.response", "id", a->id, "status", status,
                          "status_details", details, "output", a->output, "output_modalities", a->config.spoken ? "audio" : "text",
                          "max_output_tokens", most, "metadata", a->metadata);
    json_object_set_new(o, "conversation_id", a->in_conversation ? json_string(r->conversation_id) : json_null());
    json_object_set_new(o, "usage", ended ? usage_object(a) : json_null());
    if (a->config.spoken) {
        json_object_set_new(o, "audio", json_pack("{s:{s:o*, s:s}}", "output", "format", rt_format_object(a->config.out), "voice", a->config.voice));
    }
    return o;
}

/* {"response_id", "item_id", "output_index", "content_index"} of the message. */
static json_t *place(const rt_response *a) {
    return json_pack("{s:s, s:s, s:i, s:i}", "response_id", a->id, "item_id", a->item->id, "output_index", a->message, "content_index", 0);
}

static json_t *with(json_t *fields, const char *key, json_t *value) {
    json_object_set_new(fields, key, value);
    return fields;
}

static void tell_item(rt_session *r, const rt_response *a, const char *type, int at, json_t *item) {
    rt_tell(r, type, json_pack("{s:s, s:i, s:O}", "response_id", a->id, "output_index", at, "item", item));
}

/* ---- what is said ---- */

/* The conversation has no room for an item, which is gone: it is told as ended, and the answer stops. told is taken. */
static void end_unkept(rt_session *r, rt_response *a, int at, json_t *told) {
    json_object_set_new(told, "status", json_string("incomplete"));
    tell_item(r, a, "response.output_item.done", at, told);
    json_array_set_new(a->output, (size_t)at, told);
    a->unkept = true;
    omni_request_cancel(a->f.request);
}

/* The message of an answer, in the conversation or beside it; NULL: it cannot be kept, and the answer fails. */
static rt_item *open_message(rt_session *r, rt_response *a) {
    rt_item *item = calloc(1, sizeof *item);
    if (!item) {
        a->unkept = true;
        omni_request_cancel(a->f.request);
        return NULL;
    }
    server_id(r->s, "item_", item->id);
    item->growing = true;
    item->spoken = a->config.spoken;
    item->told = json_pack("{s:s, s:s, s:s, s:s, s:s, s:[]}", "id", item->id, "object", "realtime.item", "type", "message", "status", "in_progress",
                           "role", "assistant", "content");
    item->asked = json_pack("{s:s, s:s, s:[]}", "type", "message", "role", "assistant", "content");
    a->message = (int)json_array_size(a->output);
    json_array_append_new(a->output, json_null());
    tell_item(r, a, "response.output_item.added", a->message, item->told);
    json_t *told = json_incref(item->told);
    if (a->in_conversation && !rt_item_insert(r, item, r->item_count)) {
        end_unkept(r, a, a->message, told);
        return NULL;
    }
    json_decref(told);
    a->item = item;
    rt_tell(
        r, "response.content_part.added",
        with(place(a), "part",
             a->config.spoken ? json_pack("{s:s, s:s}", "type", "audio", "transcript", "") : json_pack("{s:s, s:s}", "type", "text", "text", "")));
    return item;
}

static bool has_message(rt_session *r, rt_response *a) {
    return a->item || (!a->cancelled && !a->unkept && open_message(r, a));
}

static void close_message(rt_session *r, rt_response *a, const char *status) {
    rt_item *item = a->item;
    if (!item) {
        return;
    }
    const bool spoken = a->config.spoken;
    json_t *text = text_value(a->text.data, a->text.size);
    if (spoken) {
        rt_tell(r, "response.output_audio.done", place(a));
    }
    rt_tell(r, spoken ? "response.output_audio_transcript.done" : "response.output_text.done",
            with(place(a), spoken ? "transcript" : "text", json_incref(text)));
    rt_tell(r, "response.content_part.done",
            with(place(a), "part", json_pack("{s:s, s:O}", "type", spoken ? "audio" : "text", spoken ? "transcript" : "text", text)));
    json_array_append_new(json_object_get(item->told, "content"),
                          json_pack("{s:s, s:O}", "type", spoken ? "output_audio" : "output_text", spoken ? "transcript" : "text", text));
    json_array_append_new(json_object_get(item->asked, "content"), json_pack("{s:s, s:O}", "type", "output_text", "text", text));
    json_object_set_new(item->told, "status", json_string(status));
    item->growing = false;
    item->seconds = (double)a->sound_bytes / rt_width(a->config.out) / rt_rate(a->config.out);
    item->words = a->cancelled ? rt_seconds_of(a->text.data, a->text.size) / a->config.speed : 0; /* of what was not said any more */
    json_decref(text);
    if (a->in_conversation) {
        rt_item_weigh(r, item);
        rt_item_tell(r, item, "conversation.item.done");
    }
    tell_item(r, a, "response.output_item.done", a->message, item->told);
    json_array_set_new(a->output, (size_t)a->message, json_deep_copy(item->told));
    if (!a->in_conversation) {
        rt_item_free(item);
    }
    a->item = NULL;
}

static void take_text(rt_session *r, rt_response *a, const omni_event *e) {
    if (has_message(r, a)) {
        bytes_add(&a->text, e->text, e->size);
        rt_tell(r, a->config.spoken ? "response.output_audio_transcript.delta" : "response.output_text.delta",
                with(place(a), "delta", text_value(e->text, e->size)));
    }
}

static bool keep_bytes(void *arg, const void *data, size_t size) {
    rt_response *a = arg;
    bytes_add(&a->made, data, size);
    return !a->made.failed;
}

static void tell_sound(rt_session *r, rt_response *a) {
    if (a->made.size > 0 && has_message(r, a)) {
        a->sound_bytes += a->made.size;
        rt_tell(r, "response.output_audio.delta", with(place(a), "delta", base64_value(NULL, 0, a->made.data, a->made.size)));
    }
    a->made.size = 0;
}

static void take_sound(rt_session *r, rt_response *a, const omni_event *e) {
    omni_error err = {0};
    if (a->encoder && omni_encoder_write(a->encoder, e->samples, e->count, &err) != OMNI_OK) {
        omni_encoder_free(a->encoder);
        a->encoder = NULL;
        omni_request_cancel(a->f.request);
    }
    tell_sound(r, a);
}

/* A call comes whole: its events follow one another. */
static void take_call(rt_session *r, rt_response *a, const omni_event *e) {
    rt_item *item = a->unkept ? NULL : calloc(1, sizeof *item);
    char call_id[64];
    if (!item) {
        a->unkept = true;
        omni_request_cancel(a->f.request);
        return;
    }
    server_id(r->s, "item_", item->id);
    server_id(r->s, "call_", call_id);
    json_t *arguments = text_value(e->text, e->size), *name = text_value(e->name, strlen(e->name));
    item->told = json_pack("{s:s, s:s, s:s, s:s, s:s, s:O, s:s}", "id", item->id, "object", "realtime.item", "type", "function_call", "status",
                           "in_progress", "call_id", call_id, "name", name, "arguments", "");
    item->asked = json_pack("{s:s, s:s, s:O, s:O}", "type", "function_call", "call_id", call_id, "name", name, "arguments", arguments);
    const int at = (int)json_array_size(a->output);
    json_t *where = json_pack("{s:s, s:s, s:i, s:s}", "response_id", a->id, "item_id", item->id, "output_index", at, "call_id", call_id);
    tell_item(r, a, "response.output_item.added", at, item->told);
    item->growing = true;
    json_t *told = json_incref(item->told);
    if (!a->in_conversation || rt_item_insert(r, item, r->item_count)) {
        rt_tell(r, "response.function_call_arguments.delta", with(json_copy(where), "delta", json_incref(arguments)));
        rt_tell(r, "response.function_call_arguments.done",
                with(with(json_copy(where), "arguments", json_incref(arguments)), "name", json_incref(name)));
        json_object_set(item->told, "arguments", arguments);
        json_object_set_new(item->told, "status", json_string("completed"));
        item->growing = false;
        if (a->in_conversation) {
            rt_item_tell(r, item, "conversation.item.done");
        }
        tell_item(r, a, "response.output_item.done", at, item->told);
        json_array_append(a->output, told);
        json_decref(told);
        if (!a->in_conversation) {
            rt_item_free(item);
        }
    } else {
        json_array_append_new(a->output, json_null());
        end_unkept(r, a, at, told);
    }
    json_decref(where);
    json_decref(arguments);
    json_decref(name);
    if (a->in.one_call) {
        omni_request_cancel(a->f.request);
    }
}

/* ---- the end ---- */

static void free_response(rt_response *a) {
    omni_request_free(a->f.request);
    omni_conversation_free(a->conversation);
    omni_encoder_free(a->encoder);
    rt_config_free(&a->config);
    json_decref(a->metadata);
    json_decref(a->output);
    bytes_free(&a->text);
    bytes_free(&a->made);
    free(a);
}

static void forget(rt_session *r, rt_response *a) {
    for (int i = 0; i < RT_RESPONSES; i++) {
        r->responses[i] = r->responses[i] == a ? NULL : r->responses[i];
    }
    if (a->item && !a->in_conversation) {
        rt_item_free(a->item);
    }
    free_response(a);
}

static void end_response(rt_session *r, rt_response *a) {
    const bool called = a->f.status == OMNI_CANCELLED && a->in.one_call && json_array_size(a->output) > 0;
    if (called || a->cancelled) {
        a->f.status = OMNI_OK;
    }
    if (a->encoder && !a->cancelled) {
        omni_encoder_close(a->encoder, NULL);
        a->encoder = NULL;
        tell_sound(r, a);
    }
    if (a->f.status == OMNI_OK && !a->cancelled && json_array_size(a->output) == 0) {
        has_message(r, a); /* an answer without a word is still a message */
    }
    if (a->unkept && !a->cancelled) {
        a->f.status = fail(&a->f.err, OMNI_ERR_LIMIT, "the conversation has no room for the answer: delete some of its items");
    }
    const bool failed = a->f.status != OMNI_OK, cut = a->f.result.finish == OMNI_FINISH_LENGTH;
    const char *status = a->cancelled ? "cancelled" : failed ? "failed" : cut ? "incomplete" : "completed";
    close_message(r, a, strcmp(status, "completed") == 0 ? status : "incomplete");
    rt_tell(r, "response.done", json_pack("{s:o*}", "response", response_object(r, a, status)));
    const bool ours = a->in_conversation;
    const double left = a->f.heard_until - server_now();
    if (ours && !a->cancelled && r->config.turns == RT_TURNS_SERVER_VAD && r->config.idle_ms > 0 && !r->speaking) {
        r->idle_at = server_now() + (left > 0 ? left : 0) + 1e-3 * r->config.idle_ms;
    }
    const bool unread =
        ours && json_array_size(a->output) == 0; /* it was stopped before its media were encoded, perhaps: they are not kept decoded */
    forget(r, a);
    if (unread) {
        rt_items_forget(r);
    }
    if (ours && r->answer_when_free) {
        r->answer_when_free = false;
        rt_response_begin(r);
    }
}

void rt_response_stop(rt_session *r, rt_response *a, const char *why) {
    omni_event e;
    a->cancelled = why;
    omni_request_cancel(a->f.request);
    const double until = server_now() + 1e-3 * STOP_WAIT_MS;
    while (!a->f.ended && server_now() < until) { /* it ends with the engine's next step, and says then what it has cost */
        if (!follow_next(r->s, r->x, &a->f, &e)) {
            websocket_pause(r->x, until - server_now());
        }
    }
    end_response(r, a);
}

rt_response *rt_response_active(const rt_session *r) {
    for (int i = 0; i < RT_RESPONSES; i++) {
        if (r->responses[i] && r->responses[i]->in_conversation) {
            return r->responses[i];
        }
    }
    return NULL;
}

static void read_response(rt_session *r, rt_response *a) {
    omni_event e;
    while (websocket_has_room(r->x) && follow_next(r->s, r->x, &a->f, &e)) {
        if (e.kind == OMNI_EVENT_TEXT) {
            take_text(r, a, &e);
        } else if (e.kind == OMNI_EVENT_AUDIO) {
            take_sound(r, a, &e);
        } else if (e.kind == OMNI_EVENT_TOOL_CALL) {
            take_call(r, a, &e);
        } else if (a->f.ended) {
            end_response(r, a);
            return;
        }
    }
}

void rt_responses_read(rt_session *r) {
    for (int i = 0; i < RT_RESPONSES; i++) {
        if (r->responses[i]) {
            read_response(r, r->responses[i]);
        }
    }
}

void rt_responses_free(rt_session *r) {
    for (int i = 0; i < RT_RESPONSES; i++) {
        if (r->responses[i]) {
            forget(r, r->responses[i]);
        }
    }
}

/* ---- the beginning ---- */

/* What chat completions would be asked, without messages. NULL: an error has been told. */
static json_t *chat_of(rt_session *r, const rt_config *c) {
    static const char *const same[] = {"temperature",
                                       "top_p",
                                       "top_k",
                                       "min_p",
                                       "seed",
                                       "repetition_penalty",
                                       "repeat_penalty",
                                       "presence_penalty",
                                       "frequency_penalty",
                                       "logit_bias",
                                       "stop",
                                       "parallel_tool_calls",
                                       NULL};
    json_t *chat = json_object(), *most = json_object_get(c->own, "max_output_tokens");
    for (const char *const *key = same; *key; key++) {
        json_object_set(chat, *key, json_object_get(c->own, *key));
    }
    if (json_is_integer(most)) {
        json_object_set(chat, "max_completion_tokens", most);
    }
    json_object_set_new(chat, "modalities", json_pack(c->spoken ? "[s, s]" : "[s]", "text", "audio"));
    json_object_set_new(chat, "audio", json_pack(c->voice[0] ? "{s:s, s:s}" : "{s:s}", "format", "pcm16", "voice", c->voice));
    if (!responses_read_tools(r->x, c->own, chat)) {
        json_decref(chat);
        return NULL;
    }
    return chat;
}

static void add_instructions(json_t *messages, const rt_config *c) {
    const json_t *instructions = json_object_get(c->own, "instructions");
    if (json_string_length(instructions) > 0) {
        json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "system", "content", instructions));
    }
}

static bool says_something(const rt_item *item) {
    const json_t *content = json_object_get(item->asked, "content");
    return !content ||
           (json_array_size(content) > 0 && (!item->spoken || json_string_length(json_object_get(json_array_get(content, 0), "text")) > 0));
}

/* Asks with what the session's conversation does not have yet, or with all of it where that has changed. */
static bool ask_conversation(rt_session *r, rt_response *a, json_t *chat) {
    json_t *choice = json_object_get(chat, "tool_choice");
    const bool none = choice && json_is_string(choice) && strcmp(json_string_value(choice), "none") == 0;
    json_t *set = json_pack("{s:O?, s:O?}", "instructions", json_object_get(a->config.own, "instructions"), "tools",
                            none ? NULL : json_object_get(chat, "tools"));
    json_t *messages = json_array();
    bool good = true, fresh = !r->conversation || !json_equal(set, r->asked_with);
    for (size_t i = r->asked; !fresh && i < r->item_count; i++) {
        good = good && (!says_something(r->items[i]) || responses_add_item(r->x, messages, r->items[i]->asked, i));
    }
    fresh |= json_array_size(messages) == 0;
    if (fresh) {
        omni_conversation_free(r->conversation);
        r->conversation = NULL;
        r->asked = 0;
        json_array_clear(messages);
        add_instructions(messages, &a->config);
        for (size_t i = 0; good && i < r->item_count; i++) {
            good = !says_something(r->items[i]) || responses_add_item(r->x, messages, r->items[i]->asked, i);
        }
    }
    const bool tools = !none && json_array_size(json_object_get(chat, "tools")) > 0;
    if (!fresh) {
        json_object_del(chat, "tools"); /* the conversation has them */
    }
    if (good && json_array_size(messages) == 0) {
        good = rt_refuse(r, "conversation", "conversation_empty", "the conversation is empty: there is nothing to answer");
    }
    json_object_set_new(chat, "messages", messages);
    good = good && chat_request_add(r->s, r->x, chat, r->conversation, &a->in);
    a->in.params.tool_calls_apart = tools;
    if (good && a->in.conversation) {
        r->conversation = a->in.conversation;
        a->in.conversation = NULL;
        json_decref(r->asked_with);
        r->asked_with = json_incref(set);
    }
    chat_request_free(&a->in); /* what an error left */
    a->in.conversation = NULL;
    r->asked = good ? r->item_count : r->asked;
    a->f.conversation = r->conversation;
    json_decref(set);
    return good;
}

/* Where the conversation leaves no room for an answer its oldest exchanges are left out of what the model reads; its items stay. The next answer that
 * asks with all of it anew leaves them out again. What does not fit even so is refused later. */
static void make_room(rt_session *r, const rt_response *a) {
    const double share = rt_retention(a->config.own);
    const int64_t context = omni_engine_context(r->s->engine), quarter = context / 4, most = a->in.params.max_tokens;
    const int64_t room = most > 0 && most < quarter ? most : quarter;
    int64_t tokens = 0;
    bool full = false;
    while (share > 0) {
        const omni_status status = omni_conversation_prompt_tokens(r->conversation, &tokens, NULL);
        full |= status == OMNI_ERR_LIMIT || tokens + room > context;
        if (!full || (status == OMNI_OK && tokens + room <= (int64_t)(share * (double)context)) ||
            omni_conversation_drop_oldest(r->conversation) == 0) {
            return;
        }
    }
}

/* Asks with items of its own: given ones, or references to the conversation's. */
static bool ask_apart(rt_session *r, rt_response *a, json_t *chat, const json_t *input) {
    json_t *messages = json_array();
    bool good = true;
    size_t i, at;
    json_t *one;
    if (json_object_set_new(chat, "messages", messages) != 0) {
        return rt_refuse(r, NULL, NULL, "out of memory");
    }
    add_instructions(messages, &a->config);
    json_array_foreach(input, i, one) {
        const char *type = json_string_value(json_object_get(one, "type")), *id = json_string_value(json_object_get(one, "id"));
        const bool reference = type && strcmp(type, "item_reference") == 0;
        rt_item *item = reference ? rt_item_find(r, id, &at) : rt_item_read(r, one);
        if (reference && !item) {
            good = rt_refuse(r, "response.input", "item_not_found", "the conversation has no item \"%.63s\"", id ? id : "");
        }
        good = good && item && (!says_something(item) || responses_add_item(r->x, messages, item->asked, i));
        if (!reference) {
            rt_item_free(item);
        }
        if (!good) {
            return false;
        }
    }
    if (json_array_size(messages) == 0) {
        return rt_refuse(r, "response.input", "conversation_empty", "there is nothing to answer");
    }
    good = chat_request_read(r->s, r->x, chat, &a->in);
    a->conversation = a->f.conversation = a->in.conversation;
    a->in.conversation = NULL;
    return good;
}

static bool submit(rt_session *r, rt_response *a, const json_t *input) {
    omni_error err = {0};
    json_t *chat = chat_of(r, &a->config);
    bool good = chat && (input ? ask_apart(r, a, chat, input) : ask_conversation(r, a, chat));
    if (good && a->config.spoken) {
        const char *const formats[] = {"pcm16", "mulaw", "alaw"};
        const omni_encoder_params p = {.format = formats[a->config.out],
                                       .sample_rate = omni_model_sample_rate(r->s->model),
                                       .speed = a->config.speed,
                                       .write = keep_bytes,
                                       .arg = a};
        const omni_status status = omni_encoder_open(&p, &a->encoder, &err);
        if (status != OMNI_OK) {
            answer_error(r->x, status, &err);
            good = false;
        }
    }
    if (good && !input) {
        make_room(r, a);
    }
    if (good) {
        a->f.params = a->in.params;
        a->f.began = server_now();
        const omni_status status = follow_submit(r->s, r->x, &a->f, websocket_wake, r->x, &err);
        if (status != OMNI_OK) {
            answer_error(r->x, status, &err);
            good = false;
        }
    }
    if (!good && !input) {
        rt_items_forget(r); /* media that nobody is going to encode would lie there decoded */
    }
    json_decref(chat);
    return good;
}

/* config is taken. */
static void begin(rt_session *r, rt_config *config, bool in_conversation, json_t *metadata, const json_t *input) {
    int at = 0, wait;
    if (!rt_within_rate(r, &wait)) {
        reply_error(r->x, 429, NULL, "rate_limit_exceeded", "more than %d requests a minute (--rate-limit); again in %d s", r->s->p.rate_limit, wait);
        rt_config_free(config);
        return;
    }
    while (at < RT_RESPONSES && r->responses[at]) {
        at++;
    }
    rt_response *a = at < RT_RESPONSES ? calloc(1, sizeof *a) : NULL;
    if (!a) {
        rt_refuse(r, "response", at < RT_RESPONSES ? NULL : "too_many_responses", at < RT_RESPONSES ? "out of memory" : "%d responses run already",
                  RT_RESPONSES);
        rt_config_free(config);
        return;
    }
    a->config = *config;
    a->in_conversation = in_conversation;
    a->message = -1;
    a->output = json_array();
    a->metadata = metadata ? json_incref(metadata) : json_null();
    server_id(r->s, "resp_", a->id);
    r->idle_at = 0;
    r->x->renames = renames;
    const bool good = submit(r, a, input);
    r->x->renames = NULL;
    if (!good) {
        free_response(a);
        return;
    }
    r->responses[at] = a;
    rt_tell(r, "response.created", json_pack("{s:o*}", "response", response_object(r, a, "in_progress")));
}

void rt_response_begin(rt_session *r) {
    rt_config config;
    if (rt_response_active(r)) {
        r->answer_when_free = true;
    } else if (!r->config.transcribes) {
        if (rt_config_copy(&config, &r->config)) {
            begin(r, &config, true, NULL, NULL);
        } else {
            rt_config_free(&config);
            rt_refuse(r, NULL, NULL, "out of memory");
        }
    }
}

void rt_response_create(rt_session *r, const json_t *event) {
    const json_t *given = json_object_get(event, "response");
    const char *where = json_string_value(json_object_get(given, "conversation"));
    const bool apart = where && strcmp(where, "none") == 0;
    json_t *metadata = json_object_get(given, "metadata"), *input = json_object_get(given, "input");
    rt_config config;
    if (given && !json_is_object(given) && !json_is_null(given)) {
        rt_refuse(r, "response", "invalid_value", "\"response\" must be an object");
    } else if (r->config.transcribes) {
        rt_refuse(r, "type", "invalid_value", "a session of transcription answers nothing");
    } else if (where && !apart && strcmp(where, "auto") != 0) {
        rt_refuse(r, "response.conversation", "invalid_value", "\"response.conversation\" must be auto or none");
    } else if (input && !json_is_null(input) && !json_is_array(input)) {
        rt_refuse(r, "response.input", "invalid_value", "\"response.input\" must be a list of items");
    } else if (metadata && !json_is_null(metadata) && !json_is_object(metadata)) {
        rt_refuse(r, "response.metadata", "invalid_value", "\"response.metadata\" must be an object");
    } else if (rt_weight(metadata) > RT_CONFIG_BYTES) {
        rt_refuse(r, "response.metadata", "invalid_value", "\"response.metadata\" may have %d MiB", RT_CONFIG_BYTES >> 20);
    } else if (!apart && rt_response_active(r)) {
        rt_refuse(r, "response", "conversation_already_has_active_response", "the conversation has an active response, %s: wait for response.done",
                  rt_response_active(r)->id);
    } else if (!rt_config_copy(&config, &r->config)) {
        rt_config_free(&config);
        rt_refuse(r, NULL, NULL, "out of memory");
    } else {
        json_t *update = r->beta ? rt_beta_update(given) : json_incref((json_t *)given);
        if (!json_is_object(update) || rt_config_update(r, &config, update, true)) {
            begin(r, &config, !apart, json_is_object(metadata) ? metadata : NULL, json_is_array(input) ? input : NULL);
        } else {
            rt_config_free(&config);
        }
        json_decref(update);
    }
}

void rt_response_cancel(rt_session *r, const json_t *event) {
    const json_t *id = json_object_get(event, "response_id");
    rt_response *a = rt_response_active(r);
    if (json_is_string(id)) {
        a = NULL;
        for (int i = 0; i < RT_RESPONSES; i++) {
            a = r->responses[i] && strcmp(r->responses[i]->id, json_string_value(id)) == 0 ? r->responses[i] : a;
        }
    }
    if (!a) {
        rt_refuse(r, json_is_string(id) ? "response_id" : NULL, "response_cancel_not_active", "there is no active response to cancel");
        return;
    }
    r->answer_when_free = false;
    rt_response_stop(r, a, "client_cancelled");
}
