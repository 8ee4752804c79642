#define _GNU_SOURCE
#include "server/wyoming.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/utf8.h"
#include "server/follow.h"
#include "server/transcribe.h"
#include "server/wav.h"
#include "server/wyoming_frame.h"

enum {
    READ_BYTES = 64 << 10,
    CHUNK_BYTES = 16 << 10, /* of sound, in an event */
    MOST_TEXT = 64 << 10,   /* that may wait to be said */
    MOST_SENTENCE = 4000,   /* bytes of text that are said at once */
    LEAST_SENTENCE = 12,    /* "Dr. " ends none */
    LOWEST_RATE = 4000,
    HIGHEST_RATE = 192000,
    MOST_CHANNELS = 8,
    BACKLOG = 64,
    LINGER_SECONDS = 5,
};

/* One connection. */
typedef struct client {
    struct client *next;
    wyoming *w;
    int fd;
    char who[OWNER_SIZE]; /* its address */
    exchange *x;          /* what it waits for; w->lock, as is */
    bool gone;            /* it has left */
    bool failed;          /* nothing more can be written, or an error has been told: the connection ends */

    char *in; /* in_size bytes read, of which those up to in_at have been taken */
    size_t in_at, in_size, in_room;
    struct {
        bool begun;
        int rate, width, channels;
        bytes samples;        /* behind room for the head of a WAV file */
        const char *language; /* in English; NULL: not known */
        char code[32];        /* as the client calls it */
        bytes context;
    } heard;
    struct {
        bool streaming; /* between synthesize-start and -stop */
        bool begun;     /* audio-start has been sent */
        bool held;      /* the server's end waits for the rest of it: it is in server.wyoming_running */
        bytes text;
        char voice[64];
    } said;
} client;

struct wyoming {
    server *s;
    int fd, wake; /* wake: readable when connections have come or gone, or all is to end */
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows, and what of clients says so */
    pthread_cond_t left;
    client *clients;
    int count;
    bool closing;
};

/* ---- events out ---- */

static void send_all(client *c, const char *data, size_t size) {
    while (size > 0 && !c->failed) {
        const ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
        c->failed = n <= 0 && errno != EINTR;
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

/* A speech is one thing, of however many sentences: from its first one to its end the server's own end waits for it. */
static void hold_speech(client *c, bool hold) {
    if (hold != c->said.held) {
        c->said.held = hold;
        atomic_fetch_add(&c->w->s->wyoming_running, hold ? 1 : -1);
    }
}

/* Takes data, which may be NULL. */
static void tell(client *c, const char *type, json_t *data, const void *payload, size_t payload_size) {
    size_t size;
    char *head = wyoming_write(type, data, payload_size, &size);
    if (head) {
        send_all(c, head, size);
        send_all(c, payload, payload_size);
    }
    c->failed |= !head;
    free(head);
}

/* The connection ends with it. */
static void tell_error(client *c, const char *code, const char *text) {
    tell(c, "error", json_pack("{s:o*, s:s}", "text", text_value(text, strlen(text)), "code", code), NULL, 0);
    c->failed = true;
}

static const char *code_of(omni_status status) {
    return status == OMNI_ERR_BUSY                              ? "queue-full"
           : status == OMNI_ERR_LIMIT                           ? "limit-exceeded"
           : status == OMNI_CANCELLED                           ? "cancelled"
           : status == OMNI_ERR_MEMORY || status == OMNI_ERR_IO ? "server-error"
                                                                : "invalid-request";
}

/* ---- what there is ---- */

static json_t *artifact(const char *name, const char *description) {
    return json_pack("{s:s, s:{s:s, s:s}, s:b, s:s, s:s}", "name", name, "attribution", "name", "omni", "url", "https://github.com/QwenLM/Qwen3-Omni",
                     "installed", 1, "description", description, "version", omni_version());
}

static json_t *with(json_t *object, const char *key, json_t *value) {
    json_object_set_new(object, key, value);
    return object;
}

static json_t *asr_programs(const server *s) {
    json_t *languages = json_array();
    for (size_t i = 0; transcribe_language_code(i); i++) {
        json_array_append_new(languages, json_string(transcribe_language_code(i)));
    }
    json_t *program = artifact("omni", "Qwen3-Omni writes down what it hears"),
           *model = with(artifact(s->name, "the model itself"), "languages", languages);
    with(program, "models", json_pack("[o*]", model));
    with(program, "supports_transcript_streaming", json_true());
    return json_pack("[o*]", program);
}

static json_t *tts_programs(const server *s) {
    static const char *const codes[] = {"en", "zh", "fr", "de", "ru", "it", "es", "pt", "ja", "ko"}; /* that the talker speaks */
    json_t *voices = json_array();
    for (size_t i = 0; i < omni_model_voice_count(s->model); i++) {
        json_t *languages = json_array();
        for (size_t k = 0; k < sizeof codes / sizeof *codes; k++) {
            json_array_append_new(languages, json_string(codes[k]));
        }
        const char *name = omni_model_voice(s->model, i);
        json_array_append_new(voices, with(artifact(name, name), "languages", languages));
    }
    if (json_array_size(voices) == 0) {
        return voices;
    }
    json_t *program = with(artifact("omni", "Qwen3-Omni's voices"), "voices", voices);
    with(program, "supports_synthesize_streaming", json_true());
    return json_pack("[o*]", program);
}

static void describe(client *c) {
    const server *s = c->w->s;
    tell(c, "info",
         json_pack("{s:o*, s:o*, s:[], s:[], s:[], s:[], s:[]}", "asr", asr_programs(s), "tts", tts_programs(s), "handle", "intent", "wake", "mic",
                   "snd"),
         NULL, 0);
}

/* ---- requests ---- */

/* What a client asks for is an exchange like any other, so that the log and the metrics know it and it can be cancelled; what is answered is sent
 * here. goes_on: a further sentence of a speech that is being heard, which neither limits nor the server's end cut. NULL: an error has been told. */
static exchange *begin_request(client *c, const char *what, bool goes_on) {
    server *s = c->w->s;
    int wait;
    if (!goes_on && atomic_load(&s->draining)) {
        tell_error(c, "shutting-down", "the server is shutting down");
        return NULL;
    }
    if (!goes_on && !auth_take(&s->keys, c->who, s->p.rate_limit, server_now(), &wait)) {
        tell_error(c, "rate-limit-exceeded", "more requests a minute than --rate-limit lets an address make");
        return NULL;
    }
    exchange *x = exchange_create(s);
    if (!x) {
        tell_error(c, "server-error", "out of memory");
        return NULL;
    }
    snprintf(x->method, sizeof x->method, "WYOMING");
    snprintf(x->path, sizeof x->path, "%s", what);
    snprintf(x->owner, sizeof x->owner, "wyoming"); /* it finds nothing of what keys have asked */
    metrics_begin(&s->metrics);
    atomic_fetch_add(&s->wyoming_running, 1);
    pthread_mutex_lock(&c->w->lock);
    c->x = x;
    if (c->gone) {
        exchange_lost(x);
    }
    pthread_mutex_unlock(&c->w->lock);
    return x;
}

static void end_request(client *c, exchange *x, omni_status status, const omni_error *err) {
    server *s = c->w->s;
    const bool gone = exchange_gone(x) || c->failed;
    pthread_mutex_lock(&c->w->lock);
    c->x = NULL;
    pthread_mutex_unlock(&c->w->lock);
    if (status != OMNI_OK && !gone) {
        tell_error(c, code_of(status), err->text);
    }
    pthread_mutex_lock(&x->lock);
    x->status = status == OMNI_OK ? 200 : status == OMNI_ERR_BUSY ? 429 : status == OMNI_ERR_MEMORY ? 503 : 400;
    x->ended = !gone;
    const int told = x->status;
    log_request(&s->log, x, server_now() - x->began);
    pthread_mutex_unlock(&x->lock);
    metrics_end(&s->metrics, told, gone, server_now() - x->began);
    atomic_fetch_sub(&s->wyoming_running, 1);
    exchange_release(x);
}

/* ---- hearing ---- */

static void forget_sound(client *c) {
    atomic_fetch_sub(&c->w->s->body_bytes, c->heard.samples.size);
    bytes_free(&c->heard.samples);
    c->heard.begun = false;
}

static bool add_sound(client *c, const void *data, size_t size) {
    server *s = c->w->s;
    if (c->heard.samples.size + size > s->p.max_body || c->heard.samples.size + size > UINT32_MAX / 2) {
        tell_error(c, "limit-exceeded", "more sound than a request may have (--max-body)");
        return false;
    }
    if (atomic_fetch_add(&s->body_bytes, size) + size > s->p.max_bodies) {
        atomic_fetch_sub(&s->body_bytes, size);
        tell_error(c, "overloaded", "too much is being received at once");
        return false;
    }
    const size_t before = c->heard.samples.size;
    bytes_add(&c->heard.samples, data, size);
    if (c->heard.samples.failed) {
        atomic_fetch_sub(&s->body_bytes, size - (c->heard.samples.size - before));
        tell_error(c, "server-error", "out of memory");
        return false;
    }
    return true;
}

static void take_audio_start(client *c, const json_t *data) {
    static const unsigned char head[WAV_HEAD] = {0};
    const json_int_t hertz = json_integer_value(json_object_get(data, "rate")), width = json_integer_value(json_object_get(data, "width"));
    const json_int_t channels = json_integer_value(json_object_get(data, "channels"));
    if (hertz < LOWEST_RATE || hertz > HIGHEST_RATE || width < 2 || width > 4 || channels < 1 || channels > MOST_CHANNELS) {
        tell_error(c, "invalid-request", "sound must have a \"rate\" of 4000 to 192000, a \"width\" of 2 to 4 bytes and 1 to 8 \"channels\"");
        return;
    }
    forget_sound(c);
    c->heard.begun = add_sound(c, head, sizeof head);
    c->heard.rate = (int)hertz;
    c->heard.width = (int)width;
    c->heard.channels = (int)channels;
}

static void take_audio_chunk(client *c, const wyoming_frame *f) {
    if (!c->heard.begun) {
        take_audio_start(c, f->data);
    }
    if (!c->failed) {
        add_sound(c, f->payload, f->payload_size);
    }
}

static void add_terms(bytes *to, const json_t *list) {
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one) {
        if (json_is_string(one) && json_string_length(one) > 0) {
            bytes_add(to, ", ", to->size > 0 ? 2 : 0);
            bytes_add(to, json_string_value(one), json_string_length(one));
        }
    }
}

static void take_transcribe(client *c, const json_t *data) {
    const json_t *language = json_object_get(data, "language");
    const char *code = json_string_value(language);
    forget_sound(c);
    bytes_free(&c->heard.context);
    c->heard.language = NULL;
    c->heard.code[0] = 0;
    if (code && code[0]) {
        c->heard.language = transcribe_language(code);
        if (!c->heard.language || strlen(code) >= sizeof c->heard.code) {
            char text[400];
            snprintf(text, sizeof text, "\"language\" must be one that the model hears: %s", transcribe_languages());
            tell_error(c, "invalid-request", text);
            return;
        }
        snprintf(c->heard.code, sizeof c->heard.code, "%s", code);
    }
    add_terms(&c->heard.context, json_object_get(data, "transcript_names"));
    add_terms(&c->heard.context, json_object_get(data, "transcript_terms"));
    bytes_add(&c->heard.context, "", c->heard.context.size > 0);
}

static json_t *language_of(const client *c) {
    return c->heard.code[0] ? json_pack("{s:s}", "language", c->heard.code) : json_object();
}

static void tell_text(void *arg, const char *text, size_t size) {
    client *c = arg;
    tell(c, "transcript-chunk", json_pack("{s:o*}", "text", text_value(text, size)), NULL, 0);
    if (c->failed) {
        exchange_lost(c->x); /* only this thread sets it */
    }
}

static void transcribe_sound(client *c) {
    server *s = c->w->s;
    if (!c->heard.begun) {
        return; /* as after audio-stop twice */
    }
    exchange *x = begin_request(c, "transcribe", false);
    transcribe_params p = transcribe_params_default();
    transcription out = {0};
    omni_error err = {0};
    omni_status status = OMNI_OK;
    if (x) {
        const size_t size = c->heard.samples.size - WAV_HEAD, block = (size_t)(c->heard.width * c->heard.channels);
        p.language = c->heard.language;
        p.context = c->heard.context.failed ? NULL : c->heard.context.data;
        wav_head((unsigned char *)c->heard.samples.data, WAV_PCM, c->heard.rate, c->heard.channels, c->heard.width, (uint32_t)(size - size % block));
        tell(c, "transcript-start", language_of(c), NULL, 0);
        if (size >= block) {
            status =
                transcribe(s, x, c->heard.samples.data, c->heard.samples.size, &p, &(transcribe_events){.text = tell_text, .arg = c}, &out, &err);
        }
        if (status == OMNI_OK) {
            json_t *data = language_of(c);
            tell(c, "transcript", with(data, "text", text_value(out.text.data, out.text.size)), NULL, 0);
            tell(c, "transcript-stop", NULL, NULL, 0);
        }
        end_request(c, x, status, &err);
    }
    transcription_free(&out);
    forget_sound(c);
}

/* ---- speaking ---- */

typedef struct saying {
    client *c;
    followed f;
    bytes samples;
} saying;

static json_t *sound_format(const client *c) {
    return json_pack("{s:i, s:i, s:i}", "rate", omni_model_sample_rate(c->w->s->model), "width", 2, "channels", 1);
}

static void begin_sound(client *c) {
    if (!c->said.begun) {
        c->said.begun = true;
        hold_speech(c, true);
        tell(c, "audio-start", sound_format(c), NULL, 0);
    }
}

static void begin(void *arg) {
}

static void take(void *arg, int i, const omni_event *e) {
    saying *y = arg;
    client *c = y->c;
    if (e->kind != OMNI_EVENT_AUDIO) {
        return;
    }
    begin_sound(c);
    y->samples.size = 0;
    bytes_add_pcm16(&y->samples, e->samples, e->count);
    c->failed |= y->samples.failed;
    for (size_t at = 0; at < y->samples.size && !c->failed; at += CHUNK_BYTES) {
        tell(c, "audio-chunk", sound_format(c), y->samples.data + at, y->samples.size - at < CHUNK_BYTES ? y->samples.size - at : CHUNK_BYTES);
    }
    if (c->failed) {
        omni_request_cancel(y->f.request);
    }
}

static void ended(void *arg, int i) {
}

static bool has_words(const char *text) {
    return text[strspn(text, " \t\r\n\v\f")] != 0;
}

/* Says size bytes of the text that waits, which it takes from it. */
static void say(client *c, size_t size) {
    char *text = strndup(c->said.text.data, size);
    memmove(c->said.text.data, c->said.text.data + size, c->said.text.size - size);
    c->said.text.size -= size;
    exchange *x = text && has_words(text) ? begin_request(c, "synthesize", c->said.begun) : NULL;
    if (x) {
        omni_error err = {0};
        saying y = {.c = c, .f = {.text = text, .params = omni_generate_params_default()}};
        y.f.params.voice = c->said.voice[0] ? c->said.voice : NULL;
        y.f.params.owner = x->owner;
        omni_status status = follow_all(c->w->s, x, &y.f, 1, &(follow_calls){begin, take, ended, &y}, &err);
        if (status == OMNI_OK && y.f.status != OMNI_OK) {
            status = y.f.status;
            err = y.f.err;
        }
        end_request(c, x, status, &err);
        bytes_free(&y.samples);
    }
    c->failed |= !text;
    free(text);
}

/* Where the first sentence of the text that waits ends; 0: not yet. */
static size_t sentence(const bytes *text) {
    static const char *const wide[] = {"。", "！", "？"};
    size_t space = 0;
    for (size_t i = 0; i < text->size; i++) {
        const char ch = text->data[i];
        const bool more = i + 1 < text->size, blank = more && strchr(" \t\r\n", text->data[i + 1]) && text->data[i + 1];
        if (i + 1 >= LEAST_SENTENCE && ((ch == '\n') || (blank && (ch == '.' || ch == '!' || ch == '?')))) {
            return i + 1;
        }
        for (size_t k = 0; k < sizeof wide / sizeof *wide; k++) {
            if (i + 3 <= text->size && memcmp(text->data + i, wide[k], 3) == 0) {
                return i + 3;
            }
        }
        space = ch == ' ' && i < MOST_SENTENCE ? i + 1 : space;
        if (i + 1 >= MOST_SENTENCE) {
            return space > 0 ? space : utf8_complete(text->data, MOST_SENTENCE);
        }
    }
    return 0;
}

static bool add_text(client *c, const json_t *data) {
    const json_t *text = json_object_get(data, "text");
    if (!json_is_string(text) || strlen(json_string_value(text)) != json_string_length(text)) {
        tell_error(c, "invalid-request", "\"text\" must be the text to say");
        return false;
    }
    if (c->said.text.size + json_string_length(text) > MOST_TEXT) {
        tell_error(c, "limit-exceeded", "more text than may wait to be said");
        return false;
    }
    bytes_add(&c->said.text, json_string_value(text), json_string_length(text));
    c->failed |= c->said.text.failed;
    return !c->failed;
}

static bool take_voice(client *c, const json_t *data) {
    const json_t *voice = json_object_get(data, "voice"), *format = json_object_get(data, "text_format");
    const char *name = json_string_value(json_object_get(voice, "name")), *known = NULL;
    omni_error err = {0};
    c->said.voice[0] = 0;
    c->said.text.size = 0;
    c->said.begun = false;
    hold_speech(c, false);
    if (omni_model_voice_count(c->w->s->model) == 0) {
        tell_error(c, "not-supported", "this server cannot speak: it was started without a talker (--talker)");
        return false;
    }
    if (json_is_string(format) && strcmp(json_string_value(format), "text") != 0) {
        tell_error(c, "not-supported", "\"text_format\" must be text");
        return false;
    }
    if (name && omni_model_find_voice(c->w->s->model, name, &known, &err) != OMNI_OK) {
        tell_error(c, "invalid-request", err.text);
        return false;
    }
    snprintf(c->said.voice, sizeof c->said.voice, "%s", known ? known : "");
    return true;
}

/* All that waits, and the end of the sound. */
static void say_rest(client *c) {
    while (!c->failed && c->said.text.size > 0) {
        const size_t n = c->said.text.size > MOST_SENTENCE ? sentence(&c->said.text) : c->said.text.size;
        say(c, n);
    }
    if (!c->failed) {
        begin_sound(c);
        tell(c, "audio-stop", NULL, NULL, 0);
        c->said.begun = false;
        hold_speech(c, false);
    }
}

static void take_synthesize(client *c, const json_t *data) {
    if (!c->said.streaming && take_voice(c, data) &&
        add_text(c, data)) { /* while streaming it repeats what has come, for servers that do not stream */
        say_rest(c);
    }
}

static void take_synthesize_chunk(client *c, const json_t *data) {
    if (!c->said.streaming || !add_text(c, data)) {
        return;
    }
    for (size_t n; !c->failed && (n = sentence(&c->said.text)) > 0;) {
        say(c, n);
    }
}

static void take_synthesize_stop(client *c) {
    if (c->said.streaming) {
        c->said.streaming = false;
        say_rest(c);
        tell(c, "synthesize-stopped", NULL, NULL, 0);
    }
}

/* ---- events in ---- */

static void take_event(client *c, const wyoming_frame *f) {
    const char *type = f->type;
    if (strcmp(type, "describe") == 0) {
        describe(c);
    } else if (strcmp(type, "ping") == 0) {
        json_t *text = json_object_get(f->data, "text");
        tell(c, "pong", json_pack("{s:O}", "text", json_is_string(text) ? text : json_null()), NULL, 0);
    } else if (strcmp(type, "transcribe") == 0) {
        take_transcribe(c, f->data);
    } else if (strcmp(type, "audio-start") == 0) {
        take_audio_start(c, f->data);
    } else if (strcmp(type, "audio-chunk") == 0) {
        take_audio_chunk(c, f);
    } else if (strcmp(type, "audio-stop") == 0) {
        transcribe_sound(c);
    } else if (strcmp(type, "synthesize") == 0) {
        take_synthesize(c, f->data);
    } else if (strcmp(type, "synthesize-start") == 0) {
        c->said.streaming = take_voice(c, f->data);
    } else if (strcmp(type, "synthesize-chunk") == 0) {
        take_synthesize_chunk(c, f->data);
    } else if (strcmp(type, "synthesize-stop") == 0) {
        take_synthesize_stop(c);
    }
}

/* More bytes into c->in. False: there are none. */
static bool receive(client *c) {
    c->in_size -= c->in_at;
    if (c->in_at > 0) {
        memmove(c->in, c->in + c->in_at, c->in_size);
        c->in_at = 0;
    }
    if (c->in_room - c->in_size < READ_BYTES) {
        char *grown = realloc(c->in, c->in_room + 2 * READ_BYTES);
        if (!grown) {
            return false;
        }
        c->in = grown;
        c->in_room += 2 * READ_BYTES;
    }
    ssize_t n;
    do {
        n = recv(c->fd, c->in + c->in_size, c->in_room - c->in_size, 0);
    } while (n < 0 && errno == EINTR);
    c->in_size += n > 0 ? (size_t)n : 0;
    return n > 0;
}

static void serve_client(client *c) {
    size_t need = 1;
    while (!c->failed) {
        wyoming_frame f;
        omni_error err = {0};
        if (c->in_size - c->in_at < need) {
            if (!receive(c)) {
                return;
            }
            continue;
        }
        const omni_status status = wyoming_read(c->in + c->in_at, c->in_size - c->in_at, &f, &need, &err);
        if (status != OMNI_OK) {
            tell_error(c, code_of(status), err.text);
        } else if (f.size > 0) {
            take_event(c, &f);
            json_decref(f.data);
            c->in_at += f.size;
            need = 1;
        }
    }
}

/* ---- connections ---- */

static void free_client(client *c) {
    forget_sound(c);
    bytes_free(&c->heard.context);
    bytes_free(&c->said.text);
    free(c->in);
    close(c->fd);
    free(c);
}

/* Reads what the client still sends, for a while: closing earlier could lose the error that it has been told. */
static void linger(client *c) {
    const struct timeval wait = {.tv_sec = 1};
    const double end = server_now() + LINGER_SECONDS;
    char lost[READ_BYTES / 8];
    shutdown(c->fd, SHUT_WR);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    while (server_now() < end && recv(c->fd, lost, sizeof lost, 0) > 0) {
    }
}

static void *run_client(void *arg) {
    client *c = arg;
    wyoming *w = c->w;
    serve_client(c);
    hold_speech(c, false);
    if (c->failed) {
        linger(c);
    }
    pthread_mutex_lock(&w->lock);
    for (client **p = &w->clients; *p; p = &(*p)->next) {
        if (*p == c) {
            *p = c->next;
            break;
        }
    }
    pthread_mutex_unlock(&w->lock);
    shutdown(c->fd, SHUT_RDWR);
    free_client(c);
    pthread_mutex_lock(&w->lock);
    w->count--;
    pthread_cond_signal(&w->left);
    eventfd_write(w->wake, 1);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Whether one more connection of an address may come, those that have just left not counted; with w->lock held. */
static bool has_place(const wyoming *w, const char *who) {
    int same = 0;
    for (const client *c = w->clients; c; c = c->next) {
        same += !c->gone && strcmp(c->who, who) == 0;
    }
    return w->count < WYOMING_CLIENTS && same < WYOMING_OF_AN_ADDRESS;
}

/* With w->lock held. */
static bool start_client(wyoming *w, int fd, const char *who) {
    client *c = calloc(1, sizeof *c);
    pthread_t thread;
    pthread_attr_t detached;
    if (!c) {
        return false;
    }
    *c = (client){.w = w, .fd = fd, .next = w->clients};
    snprintf(c->who, sizeof c->who, "%s", who);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    const bool good = pthread_create(&thread, &detached, run_client, c) == 0;
    pthread_attr_destroy(&detached);
    if (good) {
        w->clients = c;
        w->count++;
    } else {
        free(c);
    }
    return good;
}

static void accept_client(wyoming *w) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char who[OWNER_SIZE] = "";
    const struct timeval wait = {.tv_sec = w->s->p.timeout};
    const int fd = accept4(w->fd, (struct sockaddr *)&address, &size, SOCK_CLOEXEC), one = 1;
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) { /* the connection still waits: poll would return at once */
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        }
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    getnameinfo((struct sockaddr *)&address, size, who, sizeof who, NULL, 0, NI_NUMERICHOST);
    pthread_mutex_lock(&w->lock);
    const bool good = !atomic_load(&w->s->draining) && has_place(w, who) && start_client(w, fd, who);
    pthread_mutex_unlock(&w->lock);
    if (!good) {
        close(fd);
    }
}

/* What the clients that have left asked for is cancelled. polled[2 + i] is of the i-th that has not. */
static void look_at_clients(wyoming *w, const struct pollfd *polled, size_t count) {
    pthread_mutex_lock(&w->lock);
    for (client *c = w->clients; c; c = c->next) {
        for (size_t i = 2; i < count && !c->gone; i++) {
            if (polled[i].fd == c->fd && polled[i].revents != 0) {
                c->gone = true;
                if (c->x) {
                    exchange_lost(c->x);
                }
            }
        }
    }
    pthread_mutex_unlock(&w->lock);
}

static void *watch(void *arg) {
    wyoming *w = arg;
    struct pollfd polled[2 + WYOMING_CLIENTS];
    for (;;) {
        size_t n = 2;
        eventfd_t any;
        pthread_mutex_lock(&w->lock);
        const bool closing = w->closing;
        for (const client *c = w->clients; c && n < 2 + WYOMING_CLIENTS; c = c->next) {
            if (!c->gone) {
                polled[n++] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
            }
        }
        pthread_mutex_unlock(&w->lock);
        if (closing) {
            return NULL;
        }
        polled[0] = (struct pollfd){.fd = w->wake, .events = POLLIN};
        polled[1] = (struct pollfd){.fd = w->fd, .events = POLLIN};
        if (poll(polled, n, -1) <= 0) {
            continue;
        }
        if (polled[0].revents) {
            eventfd_read(w->wake, &any);
        }
        look_at_clients(w, polled, n);
        if (polled[1].revents) {
            accept_client(w);
        }
    }
}

/* ---- the port ---- */

static int listen_on(const char *host, int port) {
    const struct addrinfo wanted = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char number[16];
    const int one = 1;
    int fd = -1;
    snprintf(number, sizeof number, "%d", port);
    if (getaddrinfo(host, number, &wanted, &list) != 0) {
        return -1;
    }
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 || bind(fd, a->ai_addr, a->ai_addrlen) != 0 ||
                        listen(fd, BACKLOG) != 0)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

static int port_of(int fd) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char number[16] = "";
    getsockname(fd, (struct sockaddr *)&address, &size);
    getnameinfo((struct sockaddr *)&address, size, NULL, 0, number, sizeof number, NI_NUMERICSERV);
    return atoi(number);
}

omni_status wyoming_open(struct server *s, wyoming **out, omni_error *err) {
    wyoming *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    w->s = s;
    w->fd = listen_on(s->p.host, s->p.wyoming_port);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->left, NULL);
    if (w->fd < 0 || w->wake < 0 || pthread_create(&w->thread, NULL, watch, w) != 0) {
        const omni_status status =
            fail(err, OMNI_ERR_IO, "cannot listen for Wyoming on %s, port %d: the address is not this machine's, or the port is taken", s->p.host,
                 s->p.wyoming_port);
        close(w->fd);
        close(w->wake);
        free(w);
        return status;
    }
    *out = w;
    return OMNI_OK;
}

void wyoming_announce(const wyoming *w) {
    if (w) {
        const char *host = w->s->p.host;
        const bool six = strchr(host, ':') != NULL;
        log_event(&w->s->log, "info", "Wyoming on tcp://%s%s%s:%d%s", six ? "[" : "", host, six ? "]" : "", port_of(w->fd),
                  w->s->keys.count > 0 ? ", without keys: its protocol knows none" : "");
    }
}

void wyoming_close(wyoming *w) {
    if (!w) {
        return;
    }
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    eventfd_write(w->wake, 1);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_lock(&w->lock);
    for (client *c = w->clients; c; c = c->next) {
        c->gone = true;
        shutdown(c->fd, SHUT_RDWR);
        if (c->x) {
            exchange_lost(c->x);
        }
    }
    while (w->count > 0) {
        pthread_cond_wait(&w->left, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    close(w->fd);
    close(w->wake);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->left);
    free(w);
}
