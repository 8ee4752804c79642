#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/realtime.h"
#include "server/responses.h"
#include "server/transcribe.h"

/* Kept as they are given and read when an answer is asked for; those behind NULL in the list of OpenAI's are chat completions' own. */
static const char *const kept[] = {"instructions",
                                   "tools",
                                   "tool_choice",
                                   "max_output_tokens",
                                   "parallel_tool_calls",
                                   "temperature",
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
                                   "include",
                                   "tracing",
                                   "truncation",
                                   "prompt",
                                   NULL};

static const json_t *field(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

static bool is_null(const json_t *object, const char *key) {
    return json_is_null(json_object_get(object, key));
}

bool rt_config_copy(rt_config *to, const rt_config *from) {
    *to = *from;
    to->transcription = json_incref(from->transcription);
    to->own = json_copy(from->own);
    return to->own != NULL;
}

void rt_config_free(rt_config *c) {
    json_decref(c->transcription);
    json_decref(c->own);
    *c = (rt_config){0};
}

bool rt_config_begin(rt_session *r, bool transcribes) {
    const bool voices = omni_model_voice_count(r->s->model) > 0;
    r->config = (rt_config){.transcribes = transcribes,
                            .spoken = voices && !transcribes,
                            .speed = 1,
                            .turns = RT_TURNS_SERVER_VAD,
                            .threshold = 0.5,
                            .padding_ms = 300,
                            .silence_ms = 500,
                            .create_response = !transcribes,
                            .interrupt_response = !transcribes,
                            .eagerness = "auto"};
    const char *voice = NULL;
    if (voices && omni_model_find_voice(r->s->model, NULL, &voice, NULL) == OMNI_OK) {
        snprintf(r->config.voice, sizeof r->config.voice, "%s", voice);
    }
    r->config.transcription = transcribes ? json_pack("{s:s}", "model", r->s->name) : NULL;
    r->config.own = json_pack("{s:s, s:[], s:s, s:s}", "instructions", "", "tools", "tool_choice", "auto", "max_output_tokens", "inf");
    return r->config.own != NULL;
}

/* ---- reading ---- */

/* Of what is read: "session" or "response", and what lies under it. */
typedef struct reading {
    rt_session *r;
    const char *at;
} reading;

static bool wrong(const reading *g, const char *name, const char *text) {
    char param[96];
    snprintf(param, sizeof param, "%s.%s", g->at, name);
    return rt_refuse(g->r, param, "invalid_value", "\"%s\" %s", param, text);
}

static bool read_flag(const reading *g, const json_t *object, const char *key, const char *name, bool *out) {
    const json_t *v = field(object, key);
    *out = v ? json_is_true(v) : *out;
    return !v || json_is_boolean(v) || wrong(g, name, "must be true or false");
}

static bool read_ms(const reading *g, const json_t *object, const char *key, const char *name, int least, int most, int *out) {
    const json_t *v = field(object, key);
    if (v && (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > most)) {
        char text[80];
        snprintf(text, sizeof text, "must be a whole number of milliseconds from %d to %d", least, most);
        return wrong(g, name, text);
    }
    *out = v ? (int)json_integer_value(v) : *out;
    return true;
}

static bool read_format(const reading *g, const json_t *side, const char *name, rt_format *out) {
    static const char *const types[] = {"audio/pcm", "audio/pcmu", "audio/pcma"};
    const json_t *format = field(side, "format"), *given = field(format, "rate");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!format) {
        return true;
    }
    for (int i = 0; type && i < 3; i++) {
        if (strcmp(type, types[i]) == 0) {
            *out = (rt_format)i;
            return !given || (json_is_integer(given) && json_integer_value(given) == rt_rate(*out)) ||
                   wrong(g, name, "must have its own rate: 24000 of audio/pcm, 8000 of audio/pcmu and audio/pcma");
        }
    }
    return wrong(g, name, "must be {\"type\": \"audio/pcm\"}, audio/pcmu or audio/pcma");
}

static bool read_turns(const reading *g, const json_t *input, rt_config *c) {
    const json_t *turns = field(input, "turn_detection"), *threshold = field(turns, "threshold");
    const char *type = json_string_value(json_object_get(turns, "type")), *eager = json_string_value(json_object_get(turns, "eagerness"));
    if (is_null(input, "turn_detection") || (type && strcmp(type, "none") == 0)) {
        c->turns = RT_TURNS_NONE;
        return true;
    }
    if (!turns) {
        return true;
    }
    const bool by_pause = !type || strcmp(type, "server_vad") == 0;
    if (!json_is_object(turns) || (!by_pause && strcmp(type, "semantic_vad") != 0)) {
        return wrong(g, "audio.input.turn_detection", "must be null or {\"type\": \"server_vad\"}, semantic_vad or none");
    }
    c->turns = by_pause ? RT_TURNS_SERVER_VAD : RT_TURNS_SEMANTIC_VAD;
    c->threshold = 0.5;
    c->padding_ms = 300;
    c->silence_ms = 500;
    c->idle_ms = 0;
    c->create_response = c->interrupt_response = !c->transcribes;
    snprintf(c->eagerness, sizeof c->eagerness, "auto");
    if (threshold && (!json_is_number(threshold) || !(json_number_value(threshold) >= 0 && json_number_value(threshold) <= 1))) {
        return wrong(g, "audio.input.turn_detection.threshold", "must be a number from 0 to 1");
    }
    c->threshold = threshold ? json_number_value(threshold) : c->threshold;
    if (field(turns, "eagerness") &&
        (!eager || (strcmp(eager, "low") != 0 && strcmp(eager, "medium") != 0 && strcmp(eager, "high") != 0 && strcmp(eager, "auto") != 0))) {
        return wrong(g, "audio.input.turn_detection.eagerness", "must be low, medium, high or auto");
    }
    if (eager) {
        snprintf(c->eagerness, sizeof c->eagerness, "%s", eager);
    }
    return read_ms(g, turns, "prefix_padding_ms", "audio.input.turn_detection.prefix_padding_ms", 0, 5000, &c->padding_ms) &&
           read_ms(g, turns, "silence_duration_ms", "audio.input.turn_detection.silence_duration_ms", 10, 60000, &c->silence_ms) &&
           read_ms(g, turns, "idle_timeout_ms", "audio.input.turn_detection.idle_timeout_ms", 100, 600000, &c->idle_ms) &&
           read_flag(g, turns, "create_response", "audio.input.turn_detection.create_response", &c->create_response) &&
           read_flag(g, turns, "interrupt_response", "audio.input.turn_detection.interrupt_response", &c->interrupt_response);
}

static bool read_input(const reading *g, const json_t *input, rt_config *c) {
    const json_t *words = field(input, "transcription"), *hint = field(words, "prompt"), *language = field(words, "language");
    if (input && !json_is_object(input)) {
        return wrong(g, "audio.input", "must be an object");
    }
    if (words && !json_is_object(words)) {
        return wrong(g, "audio.input.transcription", "must be an object or null");
    }
    if (language && (!json_is_string(language) || !transcribe_language(json_string_value(language)))) {
        char text[700];
        snprintf(text, sizeof text, "must be a language that the model hears: %s", transcribe_languages());
        return wrong(g, "audio.input.transcription.language", text);
    }
    if (hint && !json_is_string(hint)) {
        return wrong(g, "audio.input.transcription.prompt", "must be a text");
    }
    if (words || is_null(input, "transcription")) {
        json_decref(c->transcription);
        c->transcription = words ? json_incref((json_t *)words) : NULL;
    }
    return read_format(g, input, "audio.input.format", &c->in) && read_turns(g, input, c);
}

static bool read_output(const reading *g, const json_t *output, rt_config *c) {
    const json_t *voice = field(output, "voice"), *speed = field(output, "speed");
    char param[96];
    if (output && !json_is_object(output)) {
        return wrong(g, "audio.output", "must be an object");
    }
    snprintf(param, sizeof param, "%s.audio.output.voice", g->at);
    if (voice && !read_voice(g->r->s, g->r->x, voice, param, c->voice)) {
        return false;
    }
    if (speed && (!json_is_number(speed) || !(json_number_value(speed) >= 0.25 && json_number_value(speed) <= 4))) {
        return wrong(g, "audio.output.speed", "must be a number from 0.25 to 4");
    }
    c->speed = speed ? json_number_value(speed) : c->speed;
    return read_format(g, output, "audio.output.format", &c->out);
}

static bool read_modalities(const reading *g, const json_t *list, rt_config *c) {
    size_t i;
    json_t *one;
    if (!list) {
        return true;
    }
    c->spoken = false;
    bool good = json_is_array(list) && json_array_size(list) > 0;
    json_array_foreach(list, i, one) {
        const char *name = json_string_value(one);
        good &= name && (strcmp(name, "text") == 0 || strcmp(name, "audio") == 0);
        c->spoken |= name && strcmp(name, "audio") == 0;
    }
    if (!good) {
        return wrong(g, "output_modalities", "must be [\"audio\"] or [\"text\"]");
    }
    return !c->spoken || omni_model_voice_count(g->r->s->model) > 0 ||
           wrong(g, "output_modalities", "cannot have \"audio\": this server has no talker (--talker)");
}

double rt_retention(const json_t *set) {
    enum { USUAL = 80 }; /* percent: what is left out makes the rest be read again, so room is made for more than one answer */
    const json_t *truncation = field(set, "truncation"), *ratio = json_object_get(truncation, "retention_ratio");
    const char *name = json_string_value(json_is_object(truncation) ? json_object_get(truncation, "type") : truncation);
    if (!truncation || (json_is_string(truncation) && strcmp(name, "auto") == 0)) {
        return USUAL / 100.0;
    }
    if (json_is_string(truncation) && strcmp(name, "disabled") == 0) {
        return 0;
    }
    const bool good =
        name && strcmp(name, "retention_ratio") == 0 && json_is_number(ratio) && json_number_value(ratio) > 0 && json_number_value(ratio) <= 1;
    return good ? json_number_value(ratio) : -1;
}

static bool read_kept(const reading *g, const json_t *update, rt_config *c) {
    const json_t *instructions = field(update, "instructions"), *tools = field(update, "tools"), *most = field(update, "max_output_tokens");
    const char *inf = json_string_value(most);
    if (instructions && !json_is_string(instructions)) {
        return wrong(g, "instructions", "must be a text");
    }
    if (most && !(inf && strcmp(inf, "inf") == 0) && !(json_is_integer(most) && json_integer_value(most) >= 1)) {
        return wrong(g, "max_output_tokens", "must be a whole number, 1 or more, or \"inf\"");
    }
    if (field(update, "truncation") && !(rt_retention(update) >= 0)) {
        return wrong(g, "truncation", "must be \"auto\", \"disabled\" or {\"type\": \"retention_ratio\", \"retention_ratio\": 0 to 1}");
    }
    if (tools) {
        json_t *chat = json_object(); /* for the check alone */
        const bool good = responses_read_tools(g->r->x, update, chat);
        json_decref(chat);
        if (!good) {
            return false;
        }
    }
    for (const char *const *key = kept; *key; key++) {
        if (field(update, *key) && json_object_set(c->own, *key, json_object_get(update, *key)) != 0) {
            return wrong(g, *key, "cannot be kept: out of memory");
        }
    }
    return true;
}

bool rt_config_update(rt_session *r, rt_config *c, const json_t *update, bool answer) {
    const reading g = {.r = r, .at = answer ? "response" : "session"};
    const json_t *audio = field(update, "audio");
    const char *type = json_string_value(json_object_get(update, "type"));
    rt_config next;
    if (!answer && field(update, "type") && (!type || strcmp(type, c->transcribes ? "transcription" : "realtime") != 0)) {
        return wrong(&g, "type",
                     c->transcribes ? "must be transcription: the session was opened with intent=transcription"
                                    : "must be realtime: ?intent=transcription opens the other");
    }
    if (audio && !json_is_object(audio)) {
        return wrong(&g, "audio", "must be an object");
    }
    if (!rt_config_copy(&next, c)) {
        rt_config_free(&next);
        return rt_refuse(r, NULL, NULL, "out of memory");
    }
    if (!read_modalities(&g, field(update, "output_modalities"), &next) || (!answer && !read_input(&g, field(audio, "input"), &next)) ||
        !read_output(&g, field(audio, "output"), &next) || !read_kept(&g, update, &next)) {
        rt_config_free(&next);
        return false;
    }
    if (rt_weight(next.own) + rt_weight(next.transcription) > RT_CONFIG_BYTES) {
        rt_config_free(&next);
        return rt_refuse(r, g.at, "invalid_value", "\"%s\" may be set to %d MiB of instructions, tools and whatever else", g.at,
                         RT_CONFIG_BYTES >> 20);
    }
    rt_config_free(c);
    *c = next;
    return true;
}

/* ---- telling ---- */

json_t *rt_format_object(rt_format f) {
    return f == RT_PCM ? json_pack("{s:s, s:i}", "type", "audio/pcm", "rate", 24000)
                       : json_pack("{s:s}", "type", f == RT_PCMU ? "audio/pcmu" : "audio/pcma");
}

static json_t *turns_object(const rt_config *c) {
    if (c->turns == RT_TURNS_NONE) {
        return json_null();
    }
    if (c->turns == RT_TURNS_SEMANTIC_VAD) {
        return json_pack("{s:s, s:s, s:b, s:b}", "type", "semantic_vad", "eagerness", c->eagerness, "create_response", c->create_response,
                         "interrupt_response", c->interrupt_response);
    }
    return json_pack("{s:s, s:f, s:i, s:i, s:o*, s:b, s:b}", "type", "server_vad", "threshold", c->threshold, "prefix_padding_ms", c->padding_ms,
                     "silence_duration_ms", c->silence_ms, "idle_timeout_ms", c->idle_ms > 0 ? json_integer(c->idle_ms) : json_null(),
                     "create_response", c->create_response, "interrupt_response", c->interrupt_response);
}

json_t *rt_session_object(const rt_session *r) {
    const rt_config *c = &r->config;
    json_t *input = json_pack("{s:o*, s:o*, s:n, s:o*}", "format", rt_format_object(c->in), "transcription",
                              c->transcription ? json_incref(c->transcription) : json_null(), "noise_reduction", "turn_detection", turns_object(c));
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:I, s:{s:o*}}", "type", c->transcribes ? "transcription" : "realtime", "object",
                          c->transcribes ? "realtime.transcription_session" : "realtime.session", "id", r->id, "model", r->s->name, "expires_at",
                          (json_int_t)r->expires, "audio", "input", input);
    if (!c->transcribes) {
        json_t *output = json_pack("{s:o*, s:s, s:f}", "format", rt_format_object(c->out), "voice", c->voice, "speed", c->speed);
        json_object_set_new(json_object_get(o, "audio"), "output", output);
        json_object_set_new(o, "output_modalities", json_pack("[s]", c->spoken ? "audio" : "text"));
        json_object_update_missing(o, c->own);
    } else if (field(c->own, "include")) {
        json_object_set(o, "include", json_object_get(c->own, "include"));
    }
    return o;
}
