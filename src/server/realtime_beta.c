/* The beta's names and shapes: what clients of 2024 and 2025 send and expect. */
#include <string.h>

#include "server/realtime.h"

static const char *const names[][2] = {{"conversation.item.added", "conversation.item.created"},
                                       {"conversation.item.done", NULL},
                                       {"response.output_text.delta", "response.text.delta"},
                                       {"response.output_text.done", "response.text.done"},
                                       {"response.output_audio.delta", "response.audio.delta"},
                                       {"response.output_audio.done", "response.audio.done"},
                                       {"response.output_audio_transcript.delta", "response.audio_transcript.delta"},
                                       {"response.output_audio_transcript.done", "response.audio_transcript.done"}};

static const char *const formats[][2] = {{"audio/pcm", "pcm16"}, {"audio/pcmu", "g711_ulaw"}, {"audio/pcma", "g711_alaw"}};

static const char *as_name(const json_t *format) {
    const char *type = json_string_value(json_object_get(format, "type"));
    for (int i = 0; type && i < 3; i++) {
        if (strcmp(type, formats[i][0]) == 0) {
            return formats[i][1];
        }
    }
    return "pcm16";
}

static void move(json_t *to, const char *name, json_t *from, const char *key) {
    json_t *value = json_object_get(from, key);
    if (value) {
        json_object_set(to, name, value);
        json_object_del(from, key);
    }
}

/* Events only: a copy of an item, whose parts of the assistant have other types. */
static json_t *old_item(const json_t *item) {
    json_t *copy = json_deep_copy(item), *part;
    size_t i;
    json_array_foreach(json_object_get(copy, "content"), i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        if (type && strncmp(type, "output_", 7) == 0) {
            char name[24];
            snprintf(name, sizeof name, "%s", type + 7);
            json_object_set_new(part, "type", json_string(name));
        }
    }
    return copy;
}

static void old_modalities(json_t *o) {
    const char *first = json_string_value(json_array_get(json_object_get(o, "output_modalities"), 0));
    if (first) {
        json_object_set_new(o, "modalities", strcmp(first, "audio") == 0 ? json_pack("[s, s]", "audio", "text") : json_pack("[s]", "text"));
        json_object_del(o, "output_modalities");
    }
}

static void old_session(json_t *o) {
    json_t *audio = json_incref(json_object_get(o, "audio")), *in = json_object_get(audio, "input"), *out = json_object_get(audio, "output");
    old_modalities(o);
    json_object_del(o, "audio");
    json_object_del(o, "type");
    json_object_set_new(o, "input_audio_format", json_string(as_name(json_object_get(in, "format"))));
    move(o, "input_audio_transcription", in, "transcription");
    move(o, "turn_detection", in, "turn_detection");
    if (out) {
        json_object_set_new(o, "output_audio_format", json_string(as_name(json_object_get(out, "format"))));
        move(o, "voice", out, "voice");
        move(o, "speed", out, "speed");
        move(o, "max_response_output_tokens", o, "max_output_tokens");
    }
    json_decref(audio);
}

static void old_response(json_t *o) {
    json_t *out = json_object_get(json_object_get(o, "audio"), "output"), *items = json_array(), *item;
    size_t i;
    old_modalities(o);
    json_array_foreach(json_object_get(o, "output"), i, item) {
        json_array_append_new(items, old_item(item));
    }
    json_object_set_new(o, "output", items);
    if (out) {
        json_object_set_new(o, "output_audio_format", json_string(as_name(json_object_get(out, "format"))));
        move(o, "voice", out, "voice");
    }
    json_object_del(o, "audio");
}

const char *rt_beta_event(const char *type, json_t *fields) {
    json_t *item = json_object_get(fields, "item"), *session = json_object_get(fields, "session"), *response = json_object_get(fields, "response");
    if (item) {
        json_object_set_new(fields, "item", old_item(item));
    }
    if (session) {
        const char *kind = json_string_value(json_object_get(session, "type"));
        const bool transcribes = kind && strcmp(kind, "transcription") == 0;
        old_session(session);
        if (transcribes) {
            return strcmp(type, "session.created") == 0 ? "transcription_session.created" : "transcription_session.updated";
        }
    }
    if (response) {
        old_response(response);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i][0], type) == 0) {
            return names[i][1];
        }
    }
    return type;
}

/* ---- what the client sends ---- */

static void set_format(json_t *side, const json_t *name) {
    const char *old = json_string_value(name);
    for (int i = 0; old && i < 3; i++) {
        if (strcmp(old, formats[i][1]) == 0) {
            json_object_set_new(side, "format", json_pack("{s:s}", "type", formats[i][0]));
            return;
        }
    }
    if (name && !json_is_null(name)) {
        json_object_set(side, "format", (json_t *)name); /* wrong, which is told by the name of today's */
    }
}

json_t *rt_beta_update(const json_t *update) {
    if (!json_is_object(update)) {
        return json_incref((json_t *)update);
    }
    json_t *o = json_copy((json_t *)update), *in = json_object(), *out = json_object();
    json_object_del(o, "type");
    set_format(in, json_object_get(o, "input_audio_format"));
    set_format(out, json_object_get(o, "output_audio_format"));
    move(in, "transcription", o, "input_audio_transcription");
    move(in, "turn_detection", o, "turn_detection");
    move(out, "voice", o, "voice");
    move(out, "speed", o, "speed");
    move(o, "output_modalities", o, "modalities");
    move(o, "max_output_tokens", o, "max_response_output_tokens");
    json_object_set_new(o, "audio", json_pack("{s:o*, s:o*}", "input", in, "output", out));
    return o;
}
