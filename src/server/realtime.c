#include "server/realtime.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"

enum { MOST_VALUES = 100000, SESSION_SECONDS = 24 * 3600, GOING_AWAY = 1001, TOO_LONG = 1000 };

int rt_rate(rt_format f) {
    return f == RT_PCM ? 24000 : 8000;
}

int rt_width(rt_format f) {
    return f == RT_PCM ? 2 : 1;
}

/* ---- events out ---- */

void rt_tell(rt_session *r, const char *type, json_t *fields) {
    char id[64];
    if (r->beta) {
        type = rt_beta_event(type, fields);
    }
    if (!type) {
        json_decref(fields);
        return;
    }
    server_id(r->s, "event_", id);
    json_t *event = json_pack("{s:s, s:s}", "type", type, "event_id", id);
    const bool whole = event && fields && json_object_update(event, fields) == 0;
    json_decref(fields);
    char *text = whole ? json_print(event, JSON_COMPACT) : NULL;
    json_decref(event);
    if (text) {
        websocket_send(r->x, text, strlen(text));
    } else {
        websocket_close(r->x, 1013, "out of memory"); /* rather than that an event is missing */
    }
    free(text);
}

static void tell_error(void *arg, json_t *error) {
    rt_session *r = arg;
    json_object_set_new(error, "event_id", r->event_id[0] ? json_string(r->event_id) : json_null());
    rt_tell(r, "error", json_pack("{s:o*}", "error", error));
}

bool rt_refuse(rt_session *r, const char *param, const char *code, const char *format, ...) {
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    reply_error(r->x, 400, param, code, "%s", text);
    return false;
}

bool rt_within_rate(rt_session *r, int *wait) {
    return auth_take(&r->s->keys, r->x->who, r->s->p.rate_limit, server_now(), wait);
}

/* ---- events in ---- */

static void update_session(rt_session *r, const json_t *event) {
    const json_t *session = json_object_get(event, "session");
    if (!json_is_object(session)) {
        rt_refuse(r, "session", "invalid_value", "\"session\" must be an object");
        return;
    }
    json_t *update = r->beta ? rt_beta_update(session) : json_incref((json_t *)session);
    const rt_config before = r->config; /* for its numbers alone */
    if (rt_config_update(r, &r->config, update, false)) {
        rt_sound_set(r, &before);
        rt_tell(r, "session.updated", json_pack("{s:o*}", "session", rt_session_object(r)));
    }
    json_decref(update);
}

static void commit(rt_session *r, const json_t *event) {
    rt_sound_commit(r);
}

static void clear(rt_session *r, const json_t *event) {
    rt_sound_clear(r);
    rt_tell(r, "input_audio_buffer.cleared", json_object());
}

static void take_event(rt_session *r, const json_t *event) {
    static const struct {
        const char *type;
        void (*take)(rt_session *r, const json_t *event);
    } events[] = {{"session.update", update_session},
                  {"transcription_session.update", update_session},
                  {"input_audio_buffer.append", rt_sound_append},
                  {"input_audio_buffer.commit", commit},
                  {"input_audio_buffer.clear", clear},
                  {"conversation.item.create", rt_item_create},
                  {"conversation.item.retrieve", rt_item_retrieve},
                  {"conversation.item.truncate", rt_item_truncate},
                  {"conversation.item.delete", rt_item_delete},
                  {"response.create", rt_response_create},
                  {"response.cancel", rt_response_cancel}};
    const json_t *type = json_object_get(event, "type"), *id = json_object_get(event, "event_id");
    const char *name = json_string_value(type);
    if (json_is_string(id)) {
        snprintf(r->event_id, sizeof r->event_id, "%.*s", (int)json_string_length(id) < 120 ? (int)json_string_length(id) : 0, json_string_value(id));
    }
    if (!json_is_object(event) || !name) {
        rt_refuse(r, "type", "missing_required_parameter", "an event must be an object with its \"type\"");
        return;
    }
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (strcmp(events[i].type, name) == 0) {
            events[i].take(r, event);
            return;
        }
    }
    rt_refuse(r, "type", "invalid_value", "an event of type \"%.60s\" is not known here", name);
}

static void take_message(rt_session *r, const websocket_message *m) {
    json_t *event = NULL;
    omni_error err = {0};
    r->event_id[0] = 0;
    if (json_parse(m->text, m->size, MOST_VALUES, JSON_REJECT_DUPLICATES, &event, &err) != OMNI_OK) {
        rt_refuse(r, NULL, "invalid_json", "the event cannot be read: %s", err.text);
    } else {
        take_event(r, event);
    }
    json_decref(event);
    r->event_id[0] = 0;
}

/* ---- the thread ---- */

static bool begin(rt_session *r) {
    server_id(r->s, "sess_", r->id);
    server_id(r->s, "conv_", r->conversation_id);
    r->expires = (int64_t)time(NULL) + SESSION_SECONDS;
    r->x->on_error = tell_error;
    r->x->on_error_arg = r;
    if (!rt_config_begin(r, r->x->socket->transcribes)) {
        return false;
    }
    rt_sound_set(r, NULL);
    rt_tell(r, "session.created", json_pack("{s:o*}", "session", rt_session_object(r)));
    if (r->beta) {
        rt_tell(r, "conversation.created", json_pack("{s:{s:s, s:s}}", "conversation", "id", r->conversation_id, "object", "realtime.conversation"));
    }
    return true;
}

static bool busy(const rt_session *r) {
    bool any = false;
    for (int i = 0; i < RT_RESPONSES; i++) {
        any |= r->responses[i] != NULL;
    }
    for (int i = 0; i < RT_HEARINGS; i++) {
        any |= r->hearings[i] != NULL;
    }
    return any;
}

/* Seconds until something is due. */
static double until_next(const rt_session *r) {
    const double now = server_now(), idle = r->idle_at > 0 ? r->idle_at - now : 3600, silent = r->silent_until > 0 ? r->silent_until - now : 3600;
    const double first = idle < silent ? idle : silent;
    return first > 0 ? first : 0;
}

static void run(rt_session *r) {
    while (!exchange_gone(r->x)) {
        const double now = server_now();
        if (atomic_load(&r->s->draining) && !busy(r)) {
            websocket_close(r->x, GOING_AWAY, "the server is shutting down");
            return;
        }
        if ((int64_t)time(NULL) >= r->expires) {
            websocket_close(r->x, TOO_LONG, "a session lasts a day");
            return;
        }
        if (r->idle_at > 0 && now >= r->idle_at) {
            rt_sound_idle(r);
        }
        if (r->silent_until > 0 && now >= r->silent_until) {
            rt_sound_judged(r, true);
        }
        websocket_message *m = websocket_wait(r->x, until_next(r));
        if (m) {
            take_message(r, m);
            free(m);
        }
        rt_responses_read(r);
        rt_hearings_read(r);
    }
}

static void end(rt_session *r) {
    rt_responses_free(r);
    rt_hearings_free(r);
    for (size_t i = 0; i < r->item_count; i++) {
        rt_item_free(r->items[i]);
    }
    free(r->items);
    omni_conversation_free(r->conversation);
    json_decref(r->asked_with);
    atomic_fetch_sub(&r->s->body_bytes, r->heard.capacity);
    bytes_free(&r->heard);
    voice_activity_free(r->detector);
    rt_config_free(&r->config);
    r->x->on_error = NULL;
    atomic_fetch_sub(&r->s->body_bytes, r->item_bytes);
}

void handle_realtime(server *s, exchange *x) {
    if (!x->socket) {
        reply_header(x, "Upgrade", "websocket");
        reply_error(x, 426, NULL, "upgrade_required", "/v1/realtime is a WebSocket");
        return;
    }
    rt_session *r = calloc(1, sizeof *r);
    if (!r) {
        websocket_close(x, 1013, "out of memory");
        return;
    }
    r->s = s;
    r->x = x;
    r->beta = x->socket->beta;
    if (begin(r)) {
        run(r);
    } else {
        websocket_close(x, 1013, "out of memory");
    }
    end(r);
    free(r);
}
