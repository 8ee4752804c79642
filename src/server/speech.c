/* POST /v1/audio/speech: a text is said. What is asked:
 *   input            the text, 4096 characters at most
 *   voice            a name, or {"id": NAME}; the model's default; OpenAI's names stand for the model's
 *   response_format  mp3 (default), wav, pcm (16-bit, 24000 a second), opus, flac, aac
 *   speed            0.25 to 4; the pitch stays
 *   stream_format    audio (default): the file itself, as it is made; sse: events with pieces of it in base64
 *   seed             not OpenAI's: the same gives the same sound
 *   model, instructions   taken, and of no effect: one model is served, and its voices cannot be told how to speak */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/chat.h"
#include "server/follow.h"

enum { MOST_CHARACTERS = 4096 };

typedef struct speech {
    server *s;
    exchange *x;
    const char *text;
    char voice[64];
    omni_encoder_params format;
    bool sse;
    uint64_t seed;
    followed said;
    omni_encoder *encoder;
    bytes made; /* by the encoder, not sent yet */
    bool begun; /* the answer's head has been sent */
    omni_status status;
    omni_error err; /* of the encoder */
} speech;

static bool refuse(exchange *x, const char *param, const char *text) {
    reply_error(x, 400, param, "invalid_value", "\"%s\" %s", param, text);
    return false;
}

/* The value of a key, NULL where it is not given. */
static const json_t *field(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return json_is_null(v) ? NULL : v;
}

static bool read_format(speech *c, const json_t *root) {
    static const char *const names[][2] = {{"mp3", "mp3"}, {"wav", "wav"}, {"pcm", "pcm16"}, {"opus", "opus"}, {"flac", "flac"}, {"aac", "aac"}};
    const json_t *value = field(root, "response_format");
    const char *name = value ? json_string_value(value) : "mp3";
    c->format.format = NULL;
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        c->format.format = strcmp(names[i][0], name) == 0 ? names[i][1] : c->format.format;
    }
    return c->format.format || refuse(c->x, "response_format", "must be mp3, wav, pcm, opus, flac or aac");
}

static size_t characters(const char *text, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    return n;
}

static bool read_request(speech *c, const json_t *root) {
    const json_t *input = field(root, "input"), *speed = field(root, "speed"), *stream = field(root, "stream_format"), *seed = field(root, "seed");
    const json_t *instructions = field(root, "instructions"), *model = field(root, "model");
    const char *stream_name = json_string_value(stream);
    c->text = json_string_value(input);
    if (!c->text || json_string_length(input) == 0) {
        return refuse(c->x, "input", "must be the text to say");
    }
    if (strlen(c->text) < json_string_length(input)) {
        return refuse(c->x, "input", "may not hold \\u0000");
    }
    if (characters(c->text, json_string_length(input)) > MOST_CHARACTERS) {
        return refuse(c->x, "input", "may have 4096 characters: cut it at ends of sentences");
    }
    if ((model && !json_is_string(model)) || (instructions && !json_is_string(instructions))) {
        return refuse(c->x, model && !json_is_string(model) ? "model" : "instructions", "must be a text");
    }
    if (speed && (!json_is_number(speed) || !(json_number_value(speed) >= 0.25 && json_number_value(speed) <= 4))) {
        return refuse(c->x, "speed", "must be a number from 0.25 to 4");
    }
    if (stream && (!stream_name || (strcmp(stream_name, "audio") != 0 && strcmp(stream_name, "sse") != 0))) {
        return refuse(c->x, "stream_format", "must be audio or sse");
    }
    if (seed && (!json_is_integer(seed) || json_integer_value(seed) < 0)) {
        return refuse(c->x, "seed", "must be a whole number, 0 or more");
    }
    c->format.speed = speed ? json_number_value(speed) : 1;
    c->sse = stream_name && strcmp(stream_name, "sse") == 0;
    c->seed = (uint64_t)json_integer_value(seed);
    if (!seed && getrandom(&c->seed, sizeof c->seed, 0) != sizeof c->seed) {
        c->seed = (uint64_t)c->s->started;
    }
    return read_format(c, root) && read_voice(c->s, c->x, field(root, "voice"), "voice", c->voice);
}

/* ---- the answer ---- */

static bool keep_bytes(void *arg, const void *data, size_t size) {
    speech *c = arg;
    bytes_add(&c->made, data, size);
    return !c->made.failed;
}

/* Sends what the encoder has made. False: the client is gone. */
static bool send_made(speech *c) {
    if (!c->begun) {
        c->begun = true;
        reply_begin(c->x, 200, c->sse ? "text/event-stream; charset=utf-8" : omni_sound_type(c->format.format));
    }
    bool good = true;
    if (c->made.size > 0 && c->sse) {
        send_event(c->x, NULL, json_pack("{s:s, s:o*}", "type", "speech.audio.delta", "audio", base64_value(NULL, 0, c->made.data, c->made.size)));
        good = !exchange_gone(c->x);
    } else if (c->made.size > 0) {
        good = reply_write(c->x, c->made.data, c->made.size);
    }
    c->made.size = 0;
    return good;
}

static void begin(void *arg) {
    /* The head waits for the first sound: until then an error can be answered as one. */
}

static void take(void *arg, int i, const omni_event *e) {
    speech *c = arg;
    if (e->kind != OMNI_EVENT_AUDIO || c->status != OMNI_OK) {
        return;
    }
    c->status = omni_encoder_write(c->encoder, e->samples, e->count, &c->err);
    if (c->status != OMNI_OK || !send_made(c)) {
        omni_request_cancel(c->said.request);
    }
}

static void ended(void *arg, int i) {
}

static void fail_speech(speech *c, omni_status status, const omni_error *err) {
    if (!c->begun) {
        answer_error(c->x, status, err);
    } else if (c->sse) {
        send_event(c->x, NULL, error_object(status, err));
        reply_end(c->x);
    } else {
        reply_cut(c->x);
    }
}

static void end_speech(speech *c) {
    if (c->said.status == OMNI_OK && c->status == OMNI_OK) {
        c->status = omni_encoder_close(c->encoder, &c->err);
        c->encoder = NULL;
    }
    if (c->said.status != OMNI_OK || c->status != OMNI_OK) {
        const bool encoder = c->status != OMNI_OK; /* which then had the request cancelled */
        fail_speech(c, encoder ? c->status : c->said.status, encoder ? &c->err : &c->said.err);
        return;
    }
    send_made(c);
    if (c->sse) {
        const omni_result *r = &c->said.result;
        send_event(c->x, NULL,
                   json_pack("{s:s, s:{s:I, s:I, s:I}}", "type", "speech.audio.done", "usage", "input_tokens", (json_int_t)r->answer_tokens,
                             "output_tokens", (json_int_t)r->frames, "total_tokens", (json_int_t)(r->answer_tokens + r->frames)));
    }
    reply_end(c->x);
}

void handle_speech(server *s, exchange *x) {
    speech c = {.s = s, .x = x, .format = omni_encoder_params_default()};
    omni_error err = {0};
    json_t *root = request_object(x);
    if (root && omni_model_voice_count(s->model) == 0) {
        reply_error(x, 400, NULL, "not_supported", "this server cannot speak: it was started without a talker (--talker)");
    } else if (root && read_request(&c, root)) {
        c.format.sample_rate = omni_model_sample_rate(s->model);
        c.format.write = keep_bytes;
        c.format.arg = &c;
        c.said = (followed){.text = c.text, .params = omni_generate_params_default()};
        c.said.params.seed = c.seed;
        c.said.params.voice = c.voice[0] ? c.voice : NULL;
        c.said.params.owner = x->owner[0] ? x->owner : NULL;
        omni_status status = omni_encoder_open(&c.format, &c.encoder, &err);
        status = status != OMNI_OK ? status : follow_all(s, x, &c.said, 1, &(follow_calls){begin, take, ended, &c}, &err);
        if (status != OMNI_OK) {
            answer_error(x, status, &err);
        } else {
            end_speech(&c);
        }
    }
    omni_encoder_free(c.encoder);
    bytes_free(&c.made);
    json_decref(root);
}

/* ---- what there is ---- */

/* {"object": "list", "data": [...], "models": [{"id", "name"}]}: `models` is what Open WebUI reads. Without a talker both lists are empty. */
void handle_audio_models(server *s, exchange *x) {
    json_t *data = json_array(), *models = json_array();
    if (omni_model_voice_count(s->model) > 0) {
        json_array_append_new(data, json_pack("{s:s, s:s, s:s, s:I, s:s}", "id", s->name, "name", s->name, "object", "model", "created",
                                              (json_int_t)s->started, "owned_by", "omni"));
        json_array_append_new(models, json_pack("{s:s, s:s}", "id", s->name, "name", s->name));
    }
    answer_json(x, 200, json_pack("{s:s, s:o*, s:o*}", "object", "list", "data", data, "models", models));
}
