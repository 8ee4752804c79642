/* Requests of every kind for the tiny model, each made of a number, and what they are answered. */
#ifndef OMNI_TEST_MIXED_H
#define OMNI_TEST_MIXED_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"

#define MIXED_MODELS TEST_DATA "/../../models"

/* The next of a stream of random numbers (xorshift64*). */
static inline uint64_t mixed_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1d;
}

static inline uint64_t mixed_below(uint64_t *state, uint64_t n) {
    return (mixed_random(state) >> 33) % n;
}

/* What is asked: a function of number and the most words of a prompt. */
typedef struct mixed_ask {
    char *given;     /* to be said as it is; NULL: a conversation */
    char *beginning; /* of the conversation; repeated by others; NULL: none */
    char *question;
    omni_part media; /* with the question, when media.path is set */
    const char *owner;
    const char *stop[2];
    omni_generate_params params;
} mixed_ask;

static inline char *mixed_text(uint64_t seed, uint64_t words) {
    static const char *const all[] = {"sea",         "ships", "a",    "the",   "old",     "Wind.", "over",
                                      "caf\xC3\xA9", "under", "told", "seven", "nights,", "and",   "of"};
    uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
    char *text = malloc(words * 8 + 16), *at = text;
    if (!text) {
        abort();
    }
    *at = 0;
    for (uint64_t i = 0; i <= words; i++) {
        at = stpcpy(at, all[mixed_below(&state, sizeof all / sizeof *all)]);
        *at++ = ' ';
    }
    *at = 0;
    return text;
}

static inline mixed_ask mixed_make(uint64_t number, uint64_t most_words) {
    uint64_t state = (number + 1) * 0x9e3779b97f4a7c15;
    mixed_random(&state);
    const uint64_t kind = mixed_below(&state, 8);
    /* Most are short, a few as long as can be. */
    const uint64_t longest = mixed_below(&state, 4) == 0 ? most_words : most_words / 8 + 1, words = mixed_below(&state, longest);
    mixed_ask a = {.params = omni_generate_params_default()};
    omni_generate_params *p = &a.params;
    p->seed = mixed_random(&state);
    p->ignore_eos = true;
    p->max_tokens = 1 + (int64_t)mixed_below(&state, 14);
    p->text.greedy = mixed_below(&state, 3) == 0;
    p->text.temperature = 1;
    p->text.repeat_penalty = mixed_below(&state, 3) == 0 ? 1.1f : 1;
    p->speak = mixed_below(&state, 4) == 0;
    p->max_frames = 1 + (int64_t)mixed_below(&state, 14);
    p->reasoning_apart = mixed_below(&state, 2);
    a.owner = p->owner = mixed_below(&state, 2) ? "anna" : "bert";
    if (kind == 0) {
        a.given = mixed_text(number, 1 + mixed_below(&state, 12));
        return a;
    }
    if (mixed_below(&state, 2)) {
        const uint64_t which = mixed_below(&state, 3);
        a.beginning = mixed_text(1000 + which, which * which * most_words / 16 + 10);
    }
    a.question = mixed_text(number, words);
    if (kind == 1) {
        a.media = (omni_part){.kind = OMNI_AUDIO, .path = mixed_below(&state, 2) ? MIXED_MODELS "/media/question.ogg" : TEST_DATA "/audio/s24.wav"};
    } else if (kind == 2) {
        a.media = (omni_part){.kind = OMNI_IMAGE,
                              .path = mixed_below(&state, 2) ? MIXED_MODELS "/media/picture.jpg" : TEST_DATA "/media/image/baseline.jpg"};
    } else if (kind == 3) {
        a.media = (omni_part){.kind = OMNI_VIDEO, .path = mixed_below(&state, 2) ? TEST_DATA "/audio/v.mp4" : TEST_DATA "/audio/v.webm"};
    } else if (kind == 4) {
        a.stop[0] = "e";
        a.stop[1] = "th";
        p->stop_count = 2;
        p->max_tokens = 40;
    } else if (kind >= 6) { /* grows beyond what it was let in with */
        p->max_tokens = 80 + (int64_t)mixed_below(&state, 80);
        p->speak = false;
    }
    return a;
}

static inline void mixed_free(mixed_ask *a) {
    free(a->given);
    free(a->beginning);
    free(a->question);
    *a = (mixed_ask){0};
}

/* A new conversation each time. *out may be NULL on errors only. */
static inline omni_status mixed_submit(omni_engine *e, omni_model *m, const mixed_ask *a, omni_request **out, omni_error *err) {
    omni_generate_params p = a->params;
    p.stop = a->stop;
    *out = NULL;
    if (a->given) {
        return omni_request_speak(e, a->given, &p, out, err);
    }
    omni_conversation_params cp = omni_conversation_params_default();
    cp.use_audio_in_video = true;
    omni_conversation *c;
    TRY(omni_conversation_create(m, &cp, &c, err));
    omni_status status = OMNI_OK;
    if (a->beginning) {
        const omni_part part = {.kind = OMNI_TEXT, .text = a->beginning};
        status = omni_conversation_add(c, &(omni_message){OMNI_SYSTEM, &part, 1}, err);
    }
    const omni_part parts[] = {{.kind = OMNI_TEXT, .text = a->question}, a->media};
    if (status == OMNI_OK) {
        status = omni_conversation_add(c, &(omni_message){OMNI_USER, parts, a->media.path ? 2 : 1}, err);
    }
    if (status == OMNI_OK) {
        status = omni_request_submit(e, c, &p, out, err);
    }
    omni_conversation_free(c); /* the request lives on */
    return status;
}

/* What a request has said. */
typedef struct mixed_answer {
    char *text;
    size_t size;
    float *samples;
    size_t sample_count;
    int32_t *tokens;
    size_t token_count;
    omni_result result;
    omni_status status;
    omni_error err;
    const char *wrong; /* what should not be: NULL */
} mixed_answer;

static inline void mixed_answer_free(mixed_answer *a) {
    free(a->text);
    free(a->samples);
    free(a->tokens);
    *a = (mixed_answer){0};
}

static inline void *mixed_append(void *to, size_t at, const void *from, size_t size) {
    char *more = realloc(to, at + size + 1);
    if (!more) {
        abort();
    }
    if (size > 0) { /* else there may be nothing to copy from */
        memcpy(more + at, from, size);
    }
    more[at + size] = 0;
    return more;
}

/* Takes one event in; false: it was the last. Reasoning counts as text. */
static inline bool mixed_take(mixed_answer *a, const omni_request *r, const omni_event *event) {
    switch (event->kind) {
    case OMNI_EVENT_TEXT:
    case OMNI_EVENT_REASONING:
        a->text = mixed_append(a->text, a->size, event->text, event->size);
        a->size += event->size;
        break;
    case OMNI_EVENT_AUDIO:
        a->samples = mixed_append(a->samples, a->sample_count * sizeof *a->samples, event->samples, event->count * sizeof *a->samples);
        a->sample_count += event->count;
        break;
    case OMNI_EVENT_PROGRESS:
        a->wrong = event->done > event->total || (strcmp(event->name, "seeing") && strcmp(event->name, "hearing") && strcmp(event->name, "reading"))
                       ? "progress"
                       : a->wrong;
        break;
    case OMNI_EVENT_TOKEN:
    case OMNI_EVENT_TOOL_CALL:
        break;
    case OMNI_EVENT_DONE:
        a->result = *event->result;
        a->status = event->status;
        a->err = *event->error;
        a->tokens = mixed_append(NULL, 0, r->answer.ids, r->answer.count * sizeof *a->tokens);
        a->token_count = r->answer.count;
        return false;
    }
    return true;
}

/* Reads to the end. */
static inline mixed_answer mixed_read(omni_request *r) {
    mixed_answer a = {0};
    omni_event event;
    while (!omni_request_next(r, -1, &event) || mixed_take(&a, r, &event)) {
    }
    return a;
}

/* The answer of an engine that has nothing else to do. */
static inline omni_status mixed_alone(omni_model *m, const mixed_ask *ask, int64_t context, mixed_answer *out, omni_error *err) {
    omni_engine_params p = omni_engine_params_default();
    p.context = context;
    omni_engine *e;
    omni_request *r;
    TRY(omni_engine_create(m, &p, &e, err));
    omni_status status = mixed_submit(e, m, ask, &r, err);
    if (status == OMNI_OK) {
        *out = mixed_read(r);
        status = out->status;
        *err = out->err;
    }
    omni_request_free(r);
    omni_engine_destroy(e);
    return status;
}

/* What is not the same; NULL: nothing. */
static inline const char *mixed_difference(const mixed_answer *a, const mixed_answer *b) {
    const omni_result *x = &a->result, *y = &b->result;
    return a->wrong                                                                                               ? a->wrong
           : b->wrong                                                                                             ? b->wrong
           : a->status != b->status                                                                               ? "status"
           : a->size != b->size || (a->size && memcmp(a->text, b->text, a->size) != 0)                            ? "text"
           : a->token_count != b->token_count || memcmp(a->tokens, b->tokens, a->token_count * sizeof *a->tokens) ? "tokens"
           : a->sample_count != b->sample_count || (a->sample_count && memcmp(a->samples, b->samples, a->sample_count * sizeof *a->samples) != 0)
               ? "samples"
           : x->finish != y->finish || x->text_limit != y->text_limit || x->speech_limit != y->speech_limit ? "end"
           : x->prompt_tokens != y->prompt_tokens || x->answer_tokens != y->answer_tokens || x->frames != y->frames || x->samples != y->samples
               ? "counts"
               : NULL;
}

#endif
