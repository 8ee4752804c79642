/* What the model itself makes of what was heard: its words (input_audio_transcription), and whether the speaker has ended (semantic_vad). Each is a
 * question of its own beside the conversation, about the sound alone. */
#include <stdlib.h>
#include <string.h>

#include "server/realtime.h"
#include "server/transcribe.h"

enum { WORDS_AT_LEAST = 64, WORDS_A_SECOND = 12 };

static const char asks_end[] =
    "Has the speaker of this audio finished what they wanted to say, so that it is time to answer? A sentence that breaks off, a word that is drawn "
    "out or a thought that clearly goes on means no. Answer yes or no.";

static void keep_error(void *arg, json_t *error) {
    json_t **kept = arg;
    json_decref(*kept);
    *kept = error;
}

static void tell_failed(rt_session *r, const char *item_id, json_t *error) {
    rt_tell(r, "conversation.item.input_audio_transcription.failed",
            json_pack("{s:s, s:i, s:o*}", "item_id", item_id, "content_index", 0, "error", error));
}

static void forget(rt_session *r, rt_hearing *h) {
    for (int i = 0; i < RT_HEARINGS; i++) {
        r->hearings[i] = r->hearings[i] == h ? NULL : r->hearings[i];
    }
    omni_request_free(h->f.request);
    chat_request_free(&h->in);
    bytes_free(&h->text);
    json_decref(h->tokens);
    free(h);
}

/* Asks about a sound; takes chat, which has all but the messages. False: it is not asked, and *error says why, NULL without memory. */
static bool ask(rt_session *r, rt_hearing *h, json_t *chat, const json_t *sound, const char *question, json_t **error) {
    *error = NULL;
    omni_error err = {0};
    void (*const on_error)(void *arg, json_t *error) = r->x->on_error;
    json_object_set_new(chat, "messages", /* without memory there are none, which is told */
                        json_pack("[{s:s, s:[O, {s:s, s:s}]}]", "role", "user", "content", sound, "type", "text", "text", question));
    json_object_set_new(chat, "temperature", json_integer(0));
    r->x->on_error = keep_error;
    r->x->on_error_arg = error;
    bool good = chat_request_read(r->s, r->x, chat, &h->in);
    r->x->on_error = on_error;
    r->x->on_error_arg = r;
    json_decref(chat);
    if (good) {
        h->f.conversation = h->in.conversation;
        h->f.params = h->in.params;
        h->f.began = server_now();
        const omni_status status = follow_submit(r->s, r->x, &h->f, websocket_wake, r->x, &err);
        good = status == OMNI_OK;
        if (!good) {
            json_t *outer = error_object(status, &err);
            *error = json_incref(json_object_get(outer, "error"));
            json_decref(outer);
        }
    }
    return good;
}

static rt_hearing *place_for_one(rt_session *r) {
    for (int i = 0; i < RT_HEARINGS; i++) {
        if (!r->hearings[i]) {
            r->hearings[i] = calloc(1, sizeof(rt_hearing));
            if (r->hearings[i]) {
                r->hearings[i]->tokens = json_array();
            }
            return r->hearings[i];
        }
    }
    return NULL;
}

void rt_transcribe(rt_session *r, const char *item_id) {
    size_t at;
    const rt_item *item = rt_item_find(r, item_id, &at);
    if (!r->config.transcription || !item) {
        return;
    }
    int wait;
    if (!rt_within_rate(r, &wait)) {
        tell_failed(r, item_id,
                    json_pack("{s:s, s:s, s:s, s:n}", "type", "rate_limit_error", "code", "rate_limit_exceeded", "message",
                              "more requests a minute than --rate-limit allows", "param"));
        return;
    }
    rt_hearing *h = place_for_one(r);
    if (!h) {
        tell_failed(r, item_id,
                    json_pack("{s:s, s:s, s:s, s:n}", "type", "server_error", "code", "overloaded", "message",
                              "too much that was said before waits to be transcribed", "param"));
        return;
    }
    snprintf(h->item_id, sizeof h->item_id, "%s", item_id);
    const json_t *sound = json_array_get(json_object_get(item->asked, "content"), 0);
    const char *language = json_string_value(json_object_get(r->config.transcription, "language"));
    char *question = transcribe_question(language ? transcribe_language(language) : NULL, false,
                                         json_string_value(json_object_get(r->config.transcription, "prompt")));
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(r->config.own, "include"), i, one) {
        const char *name = json_string_value(one);
        h->logprobs |= name && strcmp(name, "item.input_audio_transcription.logprobs") == 0;
    }
    json_t *chat =
        json_pack("{s:I, s:b}", "max_completion_tokens", (json_int_t)(WORDS_AT_LEAST + WORDS_A_SECOND * item->seconds), "logprobs", h->logprobs);
    json_t *error;
    const bool asked = ask(r, h, chat, sound, question, &error);
    free(question);
    if (!asked) {
        tell_failed(r, item_id, error);
        forget(r, h);
    }
}

bool rt_judge(rt_session *r, json_t *sound) {
    rt_hearing *h = place_for_one(r);
    if (!h) {
        return false;
    }
    h->judges = true;
    json_t *error;
    const bool asked =
        ask(r, h, json_pack("{s:i, s:s}", "max_completion_tokens", 4, "grammar", "root ::= \"yes\" | \"no\""), sound, asks_end, &error);
    json_decref(error);
    if (!asked) {
        forget(r, h);
    }
    return asked;
}

void rt_judge_forget(rt_session *r) {
    for (int i = 0; i < RT_HEARINGS; i++) {
        if (r->hearings[i] && r->hearings[i]->judges) {
            forget(r, r->hearings[i]);
        }
    }
}

static void take(rt_session *r, rt_hearing *h, const omni_event *e) {
    if (e->kind == OMNI_EVENT_TOKEN) {
        json_t *token = token_logprobs(e);
        json_object_del(token, "top_logprobs");
        json_array_append_new(h->tokens, token);
    } else if (e->kind == OMNI_EVENT_TEXT) {
        bytes_add(&h->text, e->text, e->size);
        if (!h->judges) {
            json_t *delta = json_pack("{s:s, s:i, s:o*}", "item_id", h->item_id, "content_index", 0, "delta", text_value(e->text, e->size));
            if (h->logprobs) {
                json_t *list = json_array();
                for (; h->told < json_array_size(h->tokens); h->told++) {
                    json_array_append(list, json_array_get(h->tokens, h->told));
                }
                json_object_set_new(delta, "logprobs", list);
            }
            rt_tell(r, "conversation.item.input_audio_transcription.delta", delta);
        }
    }
}

static void end_transcript(rt_session *r, rt_hearing *h) {
    const omni_result *u = &h->f.result;
    size_t at;
    if (h->f.status != OMNI_OK) {
        json_t *outer = error_object(h->f.status, &h->f.err);
        tell_failed(r, h->item_id, json_incref(json_object_get(outer, "error")));
        json_decref(outer);
        return;
    }
    json_t *text = text_value(h->text.data, h->text.size);
    rt_item *item = rt_item_find(r, h->item_id, &at);
    if (item) {
        json_object_set(json_array_get(json_object_get(item->told, "content"), 0), "transcript", text);
        rt_item_weigh(r, item);
    }
    json_t *usage = json_pack("{s:s, s:I, s:I, s:I}", "type", "tokens", "input_tokens", (json_int_t)u->prompt_tokens, "output_tokens",
                              (json_int_t)u->answer_tokens, "total_tokens", (json_int_t)(u->prompt_tokens + u->answer_tokens));
    json_t *fields = json_pack("{s:s, s:i, s:o*, s:o*}", "item_id", h->item_id, "content_index", 0, "transcript", text, "usage", usage);
    json_object_set_new(fields, "logprobs", h->logprobs ? json_incref(h->tokens) : json_null());
    rt_tell(r, "conversation.item.input_audio_transcription.completed", fields);
}

static void read_one(rt_session *r, rt_hearing *h) {
    omni_event e;
    while (websocket_has_room(r->x) && follow_next(r->s, r->x, &h->f, &e)) {
        if (!h->f.ended) {
            take(r, h, &e);
            continue;
        }
        if (h->judges) {
            const bool over = h->f.status != OMNI_OK || (h->text.size > 0 && h->text.data[0] == 'y');
            forget(r, h);
            rt_sound_judged(r, over);
        } else {
            end_transcript(r, h);
            forget(r, h);
        }
        return;
    }
}

void rt_hearings_read(rt_session *r) {
    for (int i = 0; i < RT_HEARINGS; i++) {
        if (r->hearings[i]) {
            read_one(r, r->hearings[i]);
        }
    }
}

void rt_hearings_free(rt_session *r) {
    for (int i = 0; i < RT_HEARINGS; i++) {
        if (r->hearings[i]) {
            forget(r, r->hearings[i]);
        }
    }
}
