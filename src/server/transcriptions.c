/* POST /v1/audio/transcriptions and /v1/audio/translations: forms (multipart/form-data) with a sound, and the words that are said in it. Fields:
 *   file                     the sound
 *   response_format          json (default), text, verbose_json, srt, vtt
 *   language                 ISO 639 or an English name, of those that the model hears; transcriptions only
 *   prompt, keywords[]       what may help: earlier words, names
 *   temperature              0 (default) to 1
 *   stream                   events instead of an answer, for json and text; transcriptions only
 *   include[]                "logprobs", for json
 *   timestamp_granularities[]  "segment"; "word" is refused: the model tells no times, segments are cut at pauses
 *   chunking_strategy        "auto", or {"type": "server_vad", "threshold", "prefix_padding_ms", "silence_duration_ms"}, also as form fields
 *                            chunking_strategy[type] and so on: a pause of that much ends a segment
 *   model                    taken, and of no effect
 * Others are ignored, as OpenAI's clients expect. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/utf8.h"
#include "server/follow.h"
#include "server/multipart.h"
#include "server/transcribe.h"

enum { MOST_TEXT = 16 << 10, HEAD_VALUE = 64 };

typedef enum format { FORMAT_JSON, FORMAT_TEXT, FORMAT_VERBOSE, FORMAT_SRT, FORMAT_VTT } format;
static const char *const format_names[] = {"json", "text", "verbose_json", "srt", "vtt"};

typedef struct call {
    server *s;
    exchange *x;
    transcribe_params p;
    const char *file; /* NULL: none has come */
    size_t file_size;
    bytes context;
    format format;
    bool stream, include_logprobs, begun;
    json_t *logprobs, *pending; /* of all tokens; of those that the next delta tells */
    transcription out;
} call;

/* ---- the form ---- */

static bool refuse(exchange *x, const char *param, const char *text) {
    reply_error(x, 400, param, "invalid_value", "\"%s\" %s", param, text);
    return false;
}

static bool is(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

static bool read_format(call *c, const char *value) {
    for (size_t i = 0; i < sizeof format_names / sizeof *format_names; i++) {
        if (is(value, format_names[i])) {
            c->format = (format)i;
            return true;
        }
    }
    return refuse(c->x, "response_format", "must be json, text, verbose_json, srt or vtt");
}

/* A number in [least, most]. */
static bool read_number(call *c, const char *param, const char *value, double least, double most, double *out) {
    char *end;
    *out = strtod(value, &end);
    if (end == value || *end || !(*out >= least && *out <= most)) {
        reply_error(c->x, 400, param, "invalid_value", "\"%s\" must be a number from %g to %g", param, least, most);
        return false;
    }
    return true;
}

static bool read_language(call *c, const char *value) {
    c->p.language = value[0] ? transcribe_language(value) : NULL;
    if (value[0] && !c->p.language) {
        reply_error(c->x, 400, "language", "invalid_value", "\"language\" must be one that the model hears, by its ISO 639 code: %s",
                    transcribe_languages());
        return false;
    }
    return true;
}

static bool read_stream(call *c, const char *value) {
    c->stream = is(value, "true") || is(value, "True") || is(value, "1");
    return c->stream || is(value, "false") || is(value, "False") || is(value, "0") || refuse(c->x, "stream", "must be true or false");
}

static bool read_strategy_field(call *c, const char *key, const char *value) {
    double number = 0;
    if (is(key, "type")) {
        return is(value, "server_vad") || refuse(c->x, "chunking_strategy.type", "must be server_vad");
    }
    if (is(key, "threshold")) {
        return read_number(c, "chunking_strategy.threshold", value, 0, 1, &c->p.cuts.threshold);
    }
    if (is(key, "prefix_padding_ms")) {
        const bool good = read_number(c, "chunking_strategy.prefix_padding_ms", value, 0, 60000, &number);
        c->p.cuts.padding_ms = (int)number;
        return good;
    }
    if (is(key, "silence_duration_ms")) {
        const bool good = read_number(c, "chunking_strategy.silence_duration_ms", value, 10, 60000, &number);
        c->p.cuts.pause_ms = (int)number;
        return good;
    }
    return true;
}

/* "auto", or an object's JSON text. */
static bool read_strategy(call *c, const char *value) {
    if (is(value, "auto") || value[0] == 0) {
        return true;
    }
    json_t *root = json_loads(value, 0, NULL), *v;
    const char *key;
    bool good = json_is_object(root) || refuse(c->x, "chunking_strategy", "must be auto, or an object of type server_vad");
    json_object_foreach(root, key, v) {
        char number[64];
        snprintf(number, sizeof number, "%.17g", json_number_value(v));
        good = good && read_strategy_field(c, key, json_is_number(v) ? number : json_is_string(v) ? json_string_value(v) : "");
    }
    json_decref(root);
    return good;
}

static bool read_granularity(call *c, const char *value) {
    if (is(value, "word")) {
        return refuse(c->x, "timestamp_granularities",
                      "cannot be word: the model tells no times of words; those of segments are where the sound has pauses");
    }
    return is(value, "segment") || refuse(c->x, "timestamp_granularities", "must be segment");
}

static bool add_context(call *c, const char *value) {
    if (value[0]) {
        bytes_add(&c->context, ", ", c->context.size > 0 ? 2 : 0);
        bytes_add(&c->context, value, strlen(value));
    }
    return true;
}

/* One field that is a text. */
static bool read_field(call *c, const char *name, const char *value) {
    static const char strategy[] = "chunking_strategy[";
    double number = 0;
    if (is(name, "response_format")) {
        return read_format(c, value);
    }
    if (is(name, "prompt") || is(name, "keywords[]") || is(name, "keywords")) {
        return add_context(c, value);
    }
    if (is(name, "temperature")) {
        const bool good = read_number(c, name, value, 0, 1, &number);
        c->p.temperature = (float)number;
        return good;
    }
    if (c->p.translate) {
        return true;
    }
    if (is(name, "language")) {
        return read_language(c, value);
    }
    if (is(name, "stream")) {
        return read_stream(c, value);
    }
    if (is(name, "include[]") || is(name, "include")) {
        c->include_logprobs = true;
        return is(value, "logprobs") || refuse(c->x, "include", "must be logprobs");
    }
    if (is(name, "timestamp_granularities[]") || is(name, "timestamp_granularities")) {
        return read_granularity(c, value);
    }
    if (strncmp(name, strategy, sizeof strategy - 1) == 0 && name[strlen(name) - 1] == ']') {
        char key[MULTIPART_NAME];
        snprintf(key, sizeof key, "%.*s", (int)(strlen(name) - sizeof strategy), name + sizeof strategy - 1);
        return read_strategy_field(c, key, value);
    }
    return !is(name, "chunking_strategy") || read_strategy(c, value);
}

static bool read_part(call *c, const multipart_part *part) {
    if (is(part->name, "file")) {
        if (c->file) {
            return refuse(c->x, "file", "must come once");
        }
        c->file = part->data;
        c->file_size = part->size;
        return part->size > 0 || refuse(c->x, "file", "is empty");
    }
    if (part->is_file) {
        return true; /* a known field is never one */
    }
    if (part->size > MOST_TEXT || !utf8_valid(part->data, part->size) || memchr(part->data, 0, part->size)) {
        reply_error(c->x, 400, part->name, "invalid_value", "\"%s\" must be a text in UTF-8 of %d bytes at most", part->name, MOST_TEXT);
        return false;
    }
    char *value = strndup(part->data, part->size);
    if (!value) {
        reply_error(c->x, 503, NULL, NULL, "out of memory");
        return false;
    }
    const bool good = read_field(c, part->name, value);
    free(value);
    return good;
}

static bool read_form(call *c) {
    multipart m;
    multipart_part part;
    omni_error err = {0};
    bool got = true;
    omni_status status = multipart_open(&m, c->x->content_type, c->x->body ? c->x->body : "", c->x->body_size, &err);
    while (status == OMNI_OK && got) {
        status = multipart_next(&m, &part, &got, &err);
        if (status == OMNI_OK && got && !read_part(c, &part)) {
            return false;
        }
    }
    if (status != OMNI_OK) {
        reply_error(c->x, 400, NULL, "invalid_form", "%s", err.text);
        return false;
    }
    if (!c->file) {
        return refuse(c->x, "file", "is needed: the sound, as a file of the form");
    }
    if (c->stream && c->format != FORMAT_JSON && c->format != FORMAT_TEXT) {
        return refuse(c->x, "stream", "goes with response_format json and text: times are known at the end");
    }
    if (c->include_logprobs && c->format != FORMAT_JSON) {
        return refuse(c->x, "include", "goes with response_format json");
    }
    bytes_add(&c->context, "", 1);
    c->p.context = c->context.failed ? NULL : c->context.data;
    c->p.logprobs = c->include_logprobs || c->format == FORMAT_VERBOSE;
    c->p.name_language = c->format == FORMAT_VERBOSE && !c->p.translate;
    return true;
}

/* ---- answers as JSON ---- */

static json_t *usage_tokens(const call *c) {
    const transcription *t = &c->out;
    const json_int_t input = (json_int_t)(t->text_tokens + t->audio_tokens), output = (json_int_t)t->answer_tokens;
    return json_pack("{s:s, s:I, s:I, s:I, s:{s:I, s:I}}", "type", "tokens", "input_tokens", input, "output_tokens", output, "total_tokens",
                     input + output, "input_token_details", "text_tokens", (json_int_t)t->text_tokens, "audio_tokens", (json_int_t)t->audio_tokens);
}

static json_t *whole_text(const call *c) {
    return text_value(c->out.text.data, c->out.text.size);
}

static void answer_plain(call *c) {
    json_t *o = json_pack("{s:o*, s:o*}", "text", whole_text(c), "usage", usage_tokens(c));
    if (c->include_logprobs) {
        json_object_set(o, "logprobs", c->logprobs);
    }
    answer_json(c->x, 200, o);
}

/* How much shorter zlib makes the text: much, where a model has said the same again and again. */
static double compression_ratio(const char *text, size_t size) {
    uLongf packed = compressBound(size);
    Bytef *to = size > 0 ? malloc(packed) : NULL;
    const bool good = to && compress2(to, &packed, (const Bytef *)text, size, Z_DEFAULT_COMPRESSION) == Z_OK;
    free(to);
    return good ? (double)size / (double)packed : 1;
}

/* "no_speech_prob" is what the detector says: 0 or 1. */
static json_t *segment_object(const call *c, size_t i) {
    const transcript_segment *g = &c->out.segments[i];
    const char *text = g->size > 0 ? c->out.text.data + g->from : "";
    const size_t n = json_array_size(g->tokens);
    return json_pack("{s:i, s:i, s:f, s:f, s:o*, s:O, s:f, s:f, s:f, s:f}", "id", (int)i, "seek", (int)(g->start * 100), "start", g->start, "end",
                     g->end, "text", text_value(text, g->size), "tokens", g->tokens, "temperature", (double)c->p.temperature, "avg_logprob",
                     n > 0 ? g->logprob / (double)n : 0, "compression_ratio", compression_ratio(text, g->size), "no_speech_prob",
                     g->heard ? 0.0 : 1.0);
}

static json_t *lower_case(const char *name) {
    char text[32];
    size_t n = 0;
    for (; name && name[n] && n + 1 < sizeof text; n++) {
        text[n] = (char)(name[n] >= 'A' && name[n] <= 'Z' ? name[n] + 32 : name[n]);
    }
    return json_stringn(text, n);
}

static void answer_verbose(call *c) {
    json_t *list = json_array();
    for (size_t i = 0; i < c->out.count; i++) {
        json_array_append_new(list, segment_object(c, i));
    }
    answer_json(c->x, 200,
                json_pack("{s:s, s:o*, s:f, s:o*, s:o*, s:{s:s, s:f}}", "task", c->p.translate ? "translate" : "transcribe", "language",
                          lower_case(c->p.translate ? "English" : c->out.language), "duration", c->out.seconds, "text", whole_text(c), "segments",
                          list, "usage", "type", "duration", "seconds", c->out.seconds));
}

/* ---- subtitles ---- */

static void add_time(bytes *to, double seconds, char point) {
    char text[HEAD_VALUE];
    const long long ms = llround(seconds * 1000);
    const int n = snprintf(text, sizeof text, "%02lld:%02lld:%02lld%c%03lld", ms / 3600000, ms / 60000 % 60, ms / 1000 % 60, point, ms % 1000);
    bytes_add(to, text, (size_t)n);
}

/* A cue is one line: an empty one would end it, and "-->" would begin another. */
static void add_cue_text(bytes *to, const char *text, size_t size, bool vtt) {
    bool space = false;
    for (size_t i = 0; i < size; i++) {
        const char ch = text[i];
        if (ch == ' ' || (unsigned char)ch < ' ') {
            bytes_add(to, " ", !space);
            space = true;
            continue;
        }
        space = false;
        const char *escaped = !vtt ? NULL : ch == '&' ? "&amp;" : ch == '<' ? "&lt;" : ch == '>' ? "&gt;" : NULL;
        const bool arrow = !vtt && ch == '>' && i >= 2 && text[i - 1] == '-' && text[i - 2] == '-';
        if (escaped || arrow) {
            bytes_add(to, escaped ? escaped : " >", strlen(escaped ? escaped : " >"));
        } else {
            bytes_add(to, &ch, 1);
        }
    }
}

static void answer_subtitles(call *c, bool vtt) {
    bytes all = {0};
    int number = 0;
    bytes_add(&all, "WEBVTT\n\n", vtt ? 8 : 0);
    for (size_t i = 0; i < c->out.count; i++) {
        const transcript_segment *g = &c->out.segments[i];
        if (g->size == 0) {
            continue;
        }
        char line[HEAD_VALUE];
        const int n = snprintf(line, sizeof line, "%d\n", ++number);
        bytes_add(&all, line, vtt ? 0 : (size_t)n);
        add_time(&all, g->start, vtt ? '.' : ',');
        bytes_add(&all, " --> ", 5);
        add_time(&all, g->end, vtt ? '.' : ',');
        bytes_add(&all, "\n", 1);
        add_cue_text(&all, c->out.text.data + g->from, g->size, vtt);
        bytes_add(&all, "\n\n", 2);
    }
    if (all.failed) {
        reply_error(c->x, 503, NULL, NULL, "out of memory");
    } else {
        reply_with(c->x, 200, vtt ? "text/vtt; charset=utf-8" : "application/x-subrip; charset=utf-8", all.data ? all.data : "", all.size);
    }
    bytes_free(&all);
}

static void answer_text(call *c) {
    bytes_add(&c->out.text, "\n", 1);
    reply_with(c->x, 200, "text/plain; charset=utf-8", c->out.text.data ? c->out.text.data : "", c->out.text.size);
}

/* ---- the answer ---- */

static void take_token(void *arg, const omni_event *e) {
    call *c = arg;
    json_t *one = token_logprobs(e);
    json_object_del(one, "top_logprobs");
    json_array_append(c->logprobs, one);
    json_array_append_new(c->pending, one);
}

static void take_text(void *arg, const char *text, size_t size) {
    call *c = arg;
    if (!c->begun) {
        c->begun = true;
        reply_begin(c->x, 200, "text/event-stream; charset=utf-8");
    }
    json_t *o = json_pack("{s:s, s:o*}", "type", "transcript.text.delta", "delta", text_value(text, size));
    if (c->include_logprobs) {
        json_object_set(o, "logprobs", c->pending);
        json_decref(c->pending);
        c->pending = json_array();
    }
    send_event(c->x, NULL, o);
}

static void end_stream(call *c) {
    if (!c->begun) {
        reply_begin(c->x, 200, "text/event-stream; charset=utf-8");
    }
    json_t *o = json_pack("{s:s, s:o*, s:o*}", "type", "transcript.text.done", "text", whole_text(c), "usage", usage_tokens(c));
    if (c->include_logprobs) {
        json_object_set(o, "logprobs", c->logprobs);
    }
    send_event(c->x, NULL, o);
    reply_end(c->x);
}

static void answer(call *c) {
    switch (c->stream ? -1 : (int)c->format) {
    case FORMAT_JSON:
        answer_plain(c);
        break;
    case FORMAT_TEXT:
        answer_text(c);
        break;
    case FORMAT_VERBOSE:
        answer_verbose(c);
        break;
    case FORMAT_SRT:
    case FORMAT_VTT:
        answer_subtitles(c, c->format == FORMAT_VTT);
        break;
    default:
        end_stream(c);
    }
}

static void fail_call(call *c, omni_status status, const omni_error *err) {
    if (c->begun) {
        send_event(c->x, NULL, error_object(status, err));
        reply_end(c->x);
    } else {
        answer_error(c->x, status, err);
    }
}

static void handle(server *s, exchange *x, bool translate) {
    call c = {.s = s, .x = x, .p = transcribe_params_default(), .logprobs = json_array(), .pending = json_array()};
    omni_error err = {0};
    c.p.translate = translate;
    if (read_form(&c)) {
        const transcribe_events events = {.text = c.stream ? take_text : NULL, .token = c.include_logprobs ? take_token : NULL, .arg = &c};
        const omni_status status = transcribe(s, x, c.file, c.file_size, &c.p, &events, &c.out, &err);
        if (status == OMNI_OK) {
            answer(&c);
        } else {
            fail_call(&c, status, &err);
        }
    }
    transcription_free(&c.out);
    bytes_free(&c.context);
    json_decref(c.logprobs);
    json_decref(c.pending);
}

void handle_transcriptions(server *s, exchange *x) {
    handle(s, x, false);
}

void handle_translations(server *s, exchange *x) {
    handle(s, x, true);
}
