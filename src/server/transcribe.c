#include "server/transcribe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/utf8.h"
#include "media/sound.h"
#include "server/follow.h"
#include "server/wav.h"

enum {
    RATE = 16000,
    TOKENS_A_SECOND = 13, /* of sound, in a prompt */
    ANSWER_TOKENS = 64,   /* what an answer may have, and for each second, */
    ANSWER_TOKENS_A_SECOND = 16,
};

/* The languages that the model's makers say it hears. */
static const struct {
    const char *code, *name;
} languages[] = {{"en", "English"},    {"zh", "Chinese"}, {"ko", "Korean"},     {"ja", "Japanese"},   {"de", "German"}, {"ru", "Russian"},
                 {"it", "Italian"},    {"fr", "French"},  {"es", "Spanish"},    {"pt", "Portuguese"}, {"ms", "Malay"},  {"nl", "Dutch"},
                 {"id", "Indonesian"}, {"tr", "Turkish"}, {"vi", "Vietnamese"}, {"yue", "Cantonese"}, {"ar", "Arabic"}, {"ur", "Urdu"}};
static const char language_names[] =
    "English, Chinese, Korean, Japanese, German, Russian, Italian, French, Spanish, Portuguese, Malay, Dutch, Indonesian, "
    "Turkish, Vietnamese, Cantonese, Arabic, Urdu",
                  language_grammar[] = "root ::= \"English\" | \"Chinese\" | \"Korean\" | \"Japanese\" | \"German\" | \"Russian\" | \"Italian\" | "
                                       "\"French\" | \"Spanish\" | \"Portuguese\" | \"Malay\" | \"Dutch\" | \"Indonesian\" | \"Turkish\" | "
                                       "\"Vietnamese\" | \"Cantonese\" | \"Arabic\" | \"Urdu\"";

const char *transcribe_language(const char *name) {
    const size_t n = strcspn(name, "-_");
    for (size_t i = 0; i < sizeof languages / sizeof *languages; i++) {
        if (strcasecmp(languages[i].name, name) == 0 || (strlen(languages[i].code) == n && strncasecmp(languages[i].code, name, n) == 0)) {
            return languages[i].name;
        }
    }
    return NULL;
}

const char *transcribe_language_code(size_t i) {
    return i < sizeof languages / sizeof *languages ? languages[i].code : NULL;
}

const char *transcribe_languages(void) {
    return language_names;
}

transcribe_params transcribe_params_default(void) {
    return (transcribe_params){.cuts = speech_segments_params_default()};
}

void transcription_free(transcription *t) {
    for (size_t i = 0; i < t->count; i++) {
        json_decref(t->segments[i].tokens);
    }
    free(t->segments);
    bytes_free(&t->text);
    *t = (transcription){0};
}

/* One call of transcribe. */
typedef struct call {
    server *s;
    exchange *x;
    const transcribe_params *p;
    const transcribe_events *events;
    sound sound;
    char *question;
    bytes wav;   /* of the segment that is asked about */
    bytes held;  /* spaces that may turn out to be the segment's last */
    bytes piece; /* of text, to be told */
    bool begun;  /* the segment has said something */
    transcript_segment *now;
    transcription *out;
} call;

/* ---- what is asked ---- */

char *transcribe_question(const char *language, bool translate, const char *context) {
    const char *name = language ? language : "", *space = language ? " " : "";
    char text[160];
    bytes whole = {0};
    if (translate) {
        snprintf(text, sizeof text, "Listen to the provided %s%sspeech and produce a translation in English text.", name, space);
    } else if (strcmp(name, "Chinese") == 0) {
        snprintf(text, sizeof text, "请将这段中文语音转换为纯文本。");
    } else {
        snprintf(text, sizeof text, "Transcribe the %s%saudio into text.", name, space);
    }
    bytes_add(&whole, text, strlen(text));
    if (context && context[0]) {
        bytes_add(&whole, "\nContext: ", 10);
        bytes_add(&whole, context, strlen(context));
    }
    bytes_add(&whole, "", 1);
    if (whole.failed) {
        bytes_free(&whole);
    }
    return whole.data;
}

static omni_status write_question(call *c, omni_error *err) {
    c->question = transcribe_question(c->p->language, c->p->translate, c->p->context);
    return c->question ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
}

/* The samples [from, to) as a file, without loss. */
static omni_status write_wav(call *c, int64_t from, int64_t to, omni_error *err) {
    unsigned char head[WAV_HEAD];
    const uint32_t size = (uint32_t)(to - from) * 4;
    wav_head(head, WAV_FLOAT, RATE, 1, 4, size);
    c->wav.size = 0;
    bytes_add(&c->wav, head, sizeof head);
    bytes_add(&c->wav, c->sound.samples + from, size); /* every processor that this runs on stores the low byte first */
    return c->wav.failed ? fail(err, OMNI_ERR_MEMORY, "out of memory") : OMNI_OK;
}

/* A conversation with the segment that is in c->wav, or without any, and a question. */
static omni_status ask(const call *c, bool with_sound, const char *question, omni_conversation **out, omni_error *err) {
    const omni_part parts[] = {{.kind = OMNI_AUDIO, .data = c->wav.data, .size = c->wav.size}, {.kind = OMNI_TEXT, .text = question}};
    const omni_message message = {.role = OMNI_USER, .parts = parts + !with_sound, .part_count = 1 + with_sound};
    TRY(omni_conversation_create(c->s->model, &c->s->p.media, out, err));
    return omni_conversation_add(*out, &message, err);
}

static omni_generate_params answer_params(const call *c) {
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = c->p->temperature == 0;
    p.text.temperature = c->p->temperature == 0 ? p.text.temperature : c->p->temperature;
    p.seed = (uint64_t)c->s->started;
    p.logprobs = c->p->logprobs;
    p.reasoning_apart = true;
    p.owner = c->x->owner[0] ? c->x->owner : NULL;
    return p;
}

/* ---- what comes ---- */

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Scripts that are written without spaces between words, and their punctuation. */
static bool needs_no_space(uint32_t c) {
    return (c >= 0x2e80 && c <= 0x9fff && !(c >= 0x3130 && c <= 0x318f)) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0xff00 && c <= 0xffef) ||
           (c >= 0x20000 && c <= 0x3ffff);
}

static bool space_between(const bytes *before, const char *next, size_t size) {
    uint32_t last = 0, first = 0;
    size_t at = before->size;
    if (at == 0) {
        return false;
    }
    do {
        at--;
    } while (at > 0 && ((unsigned char)before->data[at] & 0xc0) == 0x80);
    utf8_decode(before->data + at, before->size - at, &last);
    utf8_decode(next, size, &first);
    return !needs_no_space(last) && !needs_no_space(first);
}

/* A piece of the segment's text, without the spaces at its ends. */
static void say(call *c, const char *text, size_t size) {
    bytes *whole = &c->out->text;
    while (!c->begun && size > 0 && is_space(*text)) {
        text++;
        size--;
    }
    size_t n = size;
    while (n > 0 && is_space(text[n - 1])) {
        n--;
    }
    if (n > 0) {
        c->piece.size = 0;
        bytes_add(&c->piece, c->held.data, c->held.size);
        c->held.size = 0;
        if (!c->begun) {
            bytes_add(&c->piece, " ", space_between(whole, text, n));
            c->now->from = whole->size + c->piece.size;
            c->begun = true;
        }
        bytes_add(&c->piece, text, n);
        bytes_add(whole, c->piece.data, c->piece.size);
        c->now->size = whole->size - c->now->from;
        if (c->events->text && !c->piece.failed) {
            c->events->text(c->events->arg, c->piece.data, c->piece.size);
        }
    }
    bytes_add(&c->held, text + n, size - n);
}

static void begin(void *arg) {
}

static void take(void *arg, int i, const omni_event *e) {
    call *c = arg;
    if (e->kind == OMNI_EVENT_TOKEN) {
        json_array_append_new(c->now->tokens, json_integer(e->token->id));
        c->now->logprob += (double)e->token->logprob;
        if (c->events->token) {
            c->events->token(c->events->arg, e);
        }
    } else if (e->kind == OMNI_EVENT_TEXT) {
        say(c, e->text, e->size);
    }
}

static void ended(void *arg, int i) {
}

/* Asks, and takes what is answered; of the result only the counts of tokens are kept. */
static omni_status answer(call *c, const char *question, const omni_generate_params *p, const follow_calls *calls, followed *f, omni_error *err) {
    *f = (followed){.params = *p, .told_text = c->out->text.size > 0};
    omni_status status = ask(c, true, question, &f->conversation, err);
    if (status == OMNI_OK) {
        status = follow_all(c->s, c->x, f, 1, calls, err);
    }
    omni_conversation_free(f->conversation);
    f->conversation = NULL;
    if (status == OMNI_OK && f->status != OMNI_OK) {
        status = f->status;
        if (err) {
            *err = f->err;
        }
    }
    return status;
}

static omni_status read_segment(call *c, const speech_segment *where, omni_error *err) {
    followed f;
    omni_generate_params p = answer_params(c);
    p.max_tokens = ANSWER_TOKENS + (where->to - where->from) * ANSWER_TOKENS_A_SECOND / RATE;
    c->now = &c->out->segments[c->out->count++];
    *c->now = (transcript_segment){.start = (double)where->from / RATE,
                                   .end = (double)where->to / RATE,
                                   .heard = where->heard,
                                   .from = c->out->text.size,
                                   .tokens = json_array()};
    c->begun = false;
    c->held.size = 0;
    if (exchange_gone(c->x)) {
        return fail(err, OMNI_CANCELLED, "the client is gone");
    }
    TRY(write_wav(c, where->from, where->to, err));
    TRY(answer(c, c->question, &p, &(follow_calls){begin, take, ended, c}, &f, err));
    c->out->audio_tokens += f.result.prompt_tokens;
    c->out->answer_tokens += f.result.answer_tokens;
    return c->out->text.failed || c->piece.failed || c->held.failed ? fail(err, OMNI_ERR_MEMORY, "out of memory") : OMNI_OK;
}

/* Instructions count as text, all else of the prompts as sound. */
static omni_status count_text(call *c, omni_error *err) {
    omni_conversation *only = NULL;
    int64_t tokens = 0;
    omni_status status = ask(c, false, c->question, &only, err);
    if (status == OMNI_OK) {
        status = omni_conversation_prompt_tokens(only, &tokens, err);
    }
    omni_conversation_free(only);
    c->out->text_tokens = tokens * (int64_t)c->out->count;
    c->out->audio_tokens -= c->out->text_tokens;
    return status;
}

/* ---- the language ---- */

static void take_language(void *arg, int i, const omni_event *e) {
    if (e->kind == OMNI_EVENT_TEXT) {
        bytes_add(arg, e->text, e->size);
    }
}

/* The model names the language of the first segment with speech in it, out of those it hears. */
static omni_status find_language(call *c, const speech_segments *cuts, omni_error *err) {
    size_t first = 0;
    while (first < cuts->count && !cuts->list[first].heard) {
        first++;
    }
    if (first == cuts->count) {
        return OMNI_OK;
    }
    followed f;
    bytes name = {0};
    omni_generate_params p = answer_params(c);
    p.text.greedy = true;
    p.logprobs = false;
    p.grammar = language_grammar;
    TRY(write_wav(c, cuts->list[first].from, cuts->list[first].to, err));
    const omni_status status = answer(c, "Which language is spoken in this audio? Answer with its name in English.", &p,
                                      &(follow_calls){begin, take_language, ended, &name}, &f, err);
    bytes_add(&name, "", 1);
    if (status == OMNI_OK && !name.failed) {
        c->out->language = transcribe_language(name.data);
    }
    bytes_free(&name);
    return status;
}

/* ---- the whole ---- */

static void stop_reading(void *flag) {
    atomic_store((_Atomic bool *)flag, true);
}

static omni_status read_sound(call *c, const void *file, size_t size, speech_segments *cuts, omni_error *err) {
    const omni_conversation_params *media = &c->s->p.media;
    _Atomic bool stop = false;
    budget b;
    speech_segments_params p = c->p->cuts;
    /* Half a context is for the sound. */
    const double fits = (double)(omni_engine_context(c->s->engine) / 2) / TOKENS_A_SECOND;
    p.max_seconds = p.max_seconds < fits ? p.max_seconds : fits > 1 ? fits : 1;
    budget_init(&b, &(budget_limits){.audio_seconds = media->max_audio_seconds, .memory = media->max_media_memory});
    b.stop = &stop;
    exchange_on_gone(c->x, stop_reading, &stop);
    omni_status status = sound_load_memory(file, size, "file", &(sound_options){.rate = RATE, .budget = &b}, &c->sound, err);
    if (status == OMNI_OK) {
        status = speech_segments_find(c->sound.samples, c->sound.count, RATE, &p, &stop, cuts, err);
    }
    exchange_on_gone(c->x, NULL, NULL);
    return status;
}

static omni_status read_all(call *c, const void *file, size_t size, speech_segments *cuts, omni_error *err) {
    TRY(write_question(c, err));
    TRY(read_sound(c, file, size, cuts, err));
    c->out->seconds = (double)c->sound.count / RATE;
    c->out->language = c->p->language;
    c->out->segments = calloc(cuts->count + 1, sizeof *c->out->segments);
    if (!c->out->segments) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < cuts->count; i++) {
        TRY(read_segment(c, &cuts->list[i], err));
    }
    if (c->p->name_language && !c->p->language) {
        TRY(find_language(c, cuts, err));
    }
    return count_text(c, err);
}

omni_status transcribe(server *s, exchange *x, const void *file, size_t size, const transcribe_params *p, const transcribe_events *events,
                       transcription *out, omni_error *err) {
    call c = {.s = s, .x = x, .p = p, .events = events, .out = out};
    speech_segments cuts = {0};
    *out = (transcription){0};
    const omni_status status = read_all(&c, file, size, &cuts, err);
    speech_segments_free(&cuts);
    sound_free(&c.sound);
    free(c.question);
    bytes_free(&c.wav);
    bytes_free(&c.held);
    bytes_free(&c.piece);
    return status;
}
