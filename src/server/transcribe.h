/* Speech as text, by the model itself: a sound of any length is cut at pauses, and the model is asked about one segment after the other, as chat
 * completions would be. */
#ifndef OMNI_SERVER_TRANSCRIBE_H
#define OMNI_SERVER_TRANSCRIBE_H

#include "media/speech_segments.h"
#include "server/internal.h"

typedef struct transcribe_params {
    const char *language;        /* in English, as transcribe_language gives it; NULL: not known */
    bool translate;              /* into English */
    const char *context;         /* what may help the model: earlier words, names; NULL: nothing */
    float temperature;           /* 0: always the likeliest token */
    bool logprobs;               /* tokens are told, and kept in segments */
    bool name_language;          /* the model says which language it is, unless that is known */
    speech_segments_params cuts; /* max_seconds: less, where the engine's context holds less */
} transcribe_params;

/* Called while the answer comes, on the caller's thread. */
typedef struct transcribe_events {
    void (*text)(void *arg, const char *text, size_t size); /* all of them joined are the transcription's text */
    void (*token)(void *arg, const omni_event *e);          /* before the text that it adds to; NULL: none is wanted */
    void *arg;
} transcribe_events;

typedef struct transcript_segment {
    double start, end; /* seconds */
    bool heard;        /* the detector found speech */
    size_t from, size; /* of its text, in the transcription's; without spaces at its ends */
    json_t *tokens;    /* ids */
    double logprob;    /* summed over them */
} transcript_segment;

typedef struct transcription {
    double seconds;       /* of the sound */
    bytes text;           /* of all segments, joined by spaces where their letters ask for it */
    const char *language; /* in English; NULL: not known */
    transcript_segment *segments;
    size_t count;
    int64_t text_tokens, audio_tokens, answer_tokens; /* of instructions, of sound, of answers */
} transcription;

/* What the model hears, by its ISO 639 code ("de", "de-AT") or its English name; NULL: it does not. */
const char *transcribe_language(const char *name);
/* The code of the i-th; NULL: there are no more. */
const char *transcribe_language_code(size_t i);
/* "English, Chinese, ...": all of them. */
const char *transcribe_languages(void);

/* What the model is asked about a sound, in the words of Qwen3-Omni's makers ("Setting for Evaluation" in its README); language and context as in
 * transcribe_params. The caller's to free(); NULL: no memory. */
char *transcribe_question(const char *language, bool translate, const char *context);

transcribe_params transcribe_params_default(void);
/* file: a sound as any media of a request, within the same limits; errors call it "file". OMNI_CANCELLED: the client is gone. *out is for
 * transcription_free, whatever the outcome. */
omni_status transcribe(server *s, exchange *x, const void *file, size_t size, const transcribe_params *p, const transcribe_events *events,
                       transcription *out, omni_error *err);
void transcription_free(transcription *t);

#endif
