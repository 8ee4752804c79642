/* A request's fields: those of the server are read here, those of the library are handed on, the rest is ignored as OpenAI's clients expect. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/chat.h"
#include "server/fetch.h"
#include "server/text.h"

enum { MOST_ANSWERS = 128 };

static bool given(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v);
}

static bool among(const char *const *names, const char *key) {
    while (*names && strcmp(*names, key) != 0) {
        names++;
    }
    return *names != NULL;
}

/* Leaves only the keys that something here knows. */
static void keep(json_t *object, const char *const *names) {
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, key, value) {
        if (!among(names, key) || json_is_null(value)) {
            json_object_del(object, key);
        }
    }
}

/* ---- messages ---- */

static void clean_part(json_t *part) {
    static const char *const keys[] = {"type",      "text",    "image_url",      "video_url",  "audio_url",   "input_audio",  "url",
                                       "fps",       "nframes", "min_frames",     "max_frames", "video_start", "video_end",    "audio_start",
                                       "audio_end", "detail",  "min_pixels",     "max_pixels", "image",       "total_pixels", "resized_width",
                                       "audio",     "video",   "resized_height", NULL},
                             *const inner[] = {"url", "detail", "data", "format", NULL};
    const char *type = json_string_value(json_object_get(part, "type"));
    if (type && strcmp(type, "refusal") == 0 && json_is_string(json_object_get(part, "refusal"))) {
        json_object_set(part, "text", json_object_get(part, "refusal"));
        json_object_set_new(part, "type", json_string("text"));
    }
    keep(part, keys);
    const char *key;
    json_t *value;
    json_object_foreach(part, key, value) {
        if (json_is_object(value)) {
            keep(value, inner);
        }
    }
}

/* {"audio": {"id"}} of an assistant's message: its words. */
static bool recall(server *s, exchange *x, json_t *message, size_t index) {
    const json_t *audio = json_object_get(message, "audio");
    const char *id = json_string_value(json_object_get(audio, "id"));
    char where[64];
    snprintf(where, sizeof where, "messages[%zu].audio.id", index);
    char *text = id ? transcripts_find(&s->transcripts, id, x->owner) : NULL;
    if (!text) {
        reply_error(x, 400, where, "audio_not_found", "%s: nothing of that id was said here in the last hour", where);
        return false;
    }
    if (!given(message, "content")) {
        json_object_set_new(message, "content", json_string(text));
    }
    free(text);
    return true;
}

static bool clean_messages(server *s, exchange *x, json_t *messages) {
    static const char *const common[] = {"role", "content", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", NULL},
                             *const tool[] = {"role", "content", "tool_call_id", "name", NULL};
    size_t i;
    json_t *m;
    json_array_foreach(messages, i, m) {
        if (!json_is_object(m)) {
            continue; /* the library says what is wrong */
        }
        if (given(m, "audio") && !recall(s, x, m, i)) {
            return false;
        }
        const char *role = json_string_value(json_object_get(m, "role"));
        keep(m, role && strcmp(role, "tool") == 0 ? tool : common);
        json_t *content = json_object_get(m, "content");
        size_t k;
        json_t *part;
        json_array_foreach(content, k, part) {
            if (json_is_object(part)) {
                clean_part(part);
            }
        }
    }
    return true;
}

/* ---- the server's own fields ---- */

static bool refuse(exchange *x, const char *param, const char *text) {
    reply_error(x, 400, param, "invalid_value", "\"%s\" %s", param, text);
    return false;
}

static bool read_flag(exchange *x, const json_t *root, const char *key, bool *out) {
    if (!given(root, key)) {
        return true;
    }
    const json_t *v = json_object_get(root, key);
    *out = json_is_true(v);
    return json_is_boolean(v) || refuse(x, key, "must be true or false");
}

/* OpenAI's own voices, which some of its clients know alone, stand for the model's, one after the other. NULL: name is none of them. */
static const char *stand_in(const server *s, const char *name) {
    static const char *const names[] = {"alloy", "ash",  "ballad", "cedar", "coral",   "echo", "fable",
                                        "marin", "nova", "onyx",   "sage",  "shimmer", "verse"};
    const size_t voices = omni_model_voice_count(s->model);
    for (size_t i = 0; voices > 0 && i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            return omni_model_voice(s->model, i % voices);
        }
    }
    return NULL;
}

bool read_voice(server *s, exchange *x, const json_t *voice, const char *param, char out[64]) {
    const char *name = json_string_value(json_is_object(voice) ? json_object_get(voice, "id") : voice), *known = NULL;
    omni_error err = {0};
    out[0] = 0;
    if (voice && !name) {
        return refuse(x, param, "must be the name of a voice");
    }
    if (name && omni_model_find_voice(s->model, name, &known, &err) != OMNI_OK && !(known = stand_in(s, name))) {
        reply_error(x, 400, param, "invalid_value", "%s", err.text);
        return false;
    }
    snprintf(out, 64, "%s", known ? known : "");
    return true;
}

static bool read_sound(server *s, exchange *x, const json_t *root, chat_request *out) {
    const json_t *list = json_object_get(root, "modalities"), *audio = json_object_get(root, "audio");
    size_t i;
    json_t *one;
    if (given(root, "modalities") && (!json_is_array(list) || json_array_size(list) == 0)) {
        return refuse(x, "modalities", "must be a list of \"text\" and \"audio\"");
    }
    json_array_foreach(list, i, one) {
        const char *name = json_string_value(one);
        if (!name || (strcmp(name, "text") != 0 && strcmp(name, "audio") != 0)) {
            return refuse(x, "modalities", "must be a list of \"text\" and \"audio\"");
        }
        out->spoken |= strcmp(name, "audio") == 0;
    }
    if (out->spoken && omni_model_voice_count(s->model) == 0) {
        return refuse(x, "modalities", "cannot have \"audio\": this server has no talker (--talker)");
    }
    if (!out->spoken || !given(root, "audio")) {
        return true;
    }
    const json_t *voice = given(audio, "voice") ? json_object_get(audio, "voice") : NULL, *format = json_object_get(audio, "format");
    if (!json_is_object(audio)) {
        return refuse(x, "audio", "must be an object with \"voice\" and \"format\"");
    }
    if (!read_voice(s, x, voice, "audio.voice", out->voice)) {
        return false;
    }
    static const char *const formats[] = {"wav", "mp3", "flac", "opus", "aac", "pcm16", NULL};
    const char *f = json_string_value(format), *const *known = formats;
    while (f && *known && strcmp(*known, f) != 0) {
        known++;
    }
    if (given(audio, "format") && (!f || !*known)) {
        return refuse(x, "audio.format", "must be wav, mp3, flac, opus, aac or pcm16");
    }
    if (out->stream && f && strcmp(f, "pcm16") != 0) {
        return refuse(x, "audio.format", "must be pcm16 in a stream");
    }
    out->sound_format = f ? *known : out->sound_format;
    return true;
}

/* What the library does not do: without calls the model need not read of tools, and an answer ends behind its only call. */
static bool read_tools(exchange *x, json_t *root, chat_request *out) {
    const char *choice = json_string_value(json_object_get(root, "tool_choice"));
    bool parallel = true;
    if (choice && strcmp(choice, "none") == 0) {
        json_object_del(root, "tools");
        json_object_del(root, "tool_choice");
    }
    if (!read_flag(x, root, "parallel_tool_calls", &parallel)) {
        return false;
    }
    out->one_call = !parallel;
    return true;
}

static bool read_own(server *s, exchange *x, json_t *root, chat_request *out) {
    if (!read_flag(x, root, "stream", &out->stream) || !read_flag(x, json_object_get(root, "stream_options"), "include_usage", &out->include_usage)) {
        return false;
    }
    const json_t *n = json_object_get(root, "n");
    if (given(root, "n")) {
        if (!json_is_integer(n) || json_integer_value(n) < 1 || json_integer_value(n) > MOST_ANSWERS) {
            return refuse(x, "n", "must be a whole number from 1 to 128");
        }
        out->n = (int)json_integer_value(n);
    }
    return read_sound(s, x, root, out) && read_tools(x, root, out);
}

static void cancel_loading(void *conversation) {
    omni_conversation_cancel(conversation);
}

bool chat_request_read(server *s, exchange *x, json_t *root, chat_request *out) {
    return chat_request_add(s, x, root, NULL, out);
}

bool chat_request_add(server *s, exchange *x, json_t *root, omni_conversation *conversation, chat_request *out) {
    /* clang-format off */
    static const char *const library[] = {
        "messages", "tools", "fps", "use_audio_in_video", "temperature", "top_p", "min_p", "top_k", "seed", "repetition_penalty", "repeat_penalty",
        "presence_penalty", "frequency_penalty", "stop", "logit_bias", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens",
        "response_format", "grammar", "json_schema", "tool_choice", "parallel_tool_calls", NULL};
    /* clang-format on */
    *out = (chat_request){.n = 1, .sound_format = "wav", .params = omni_generate_params_default()};
    json_t *messages = json_object_get(root, "messages");
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return refuse(x, "messages", "must be a list of messages, one at least");
    }
    if (!read_own(s, x, root, out) || !clean_messages(s, x, messages) || !fetch_messages(x, messages)) {
        return false;
    }
    const bool tools = json_array_size(json_object_get(root, "tools")) > 0;
    keep(root, library);
    omni_error err = {0};
    omni_status status = OMNI_OK;
    if (!conversation) {
        status = omni_conversation_create(s->model, &s->p.media, &out->conversation, &err);
        conversation = out->conversation;
    }
    if (getrandom(&out->params.seed, sizeof out->params.seed, 0) != sizeof out->params.seed) {
        out->params.seed = (uint64_t)s->started;
    }
    char *text = status == OMNI_OK ? json_dumps(root, JSON_COMPACT) : NULL;
    if (status == OMNI_OK && !text) {
        reply_error(x, 503, NULL, NULL, "out of memory");
        return false;
    }
    if (status == OMNI_OK) {
        exchange_on_gone(x, cancel_loading, conversation);
        status = omni_conversation_add_request(conversation, text, strlen(text), &out->params, &err);
        exchange_on_gone(x, NULL, NULL);
    }
    free(text);
    if (status != OMNI_OK) {
        answer_error(x, status, &err);
        return false;
    }
    omni_generate_params *p = &out->params;
    p->owner = x->owner[0] ? x->owner : NULL;
    p->speak = out->spoken;
    p->voice = out->voice[0] ? out->voice : NULL;
    p->reasoning_apart = true;
    p->tool_calls_apart = tools;
    return true;
}

void chat_request_free(chat_request *r) {
    omni_conversation_free(r->conversation);
}
