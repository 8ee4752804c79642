/* Voice activity: where speech begins and ends in sound that comes piece by piece.
 *
 * The sound is looked at in frames of 10 ms. A frame is active when the level of the last 20 ms, between about 100 and 4000 Hz, lies far enough above
 * the noise floor: the lowest smoothed level of the last two seconds. It is voiced when it repeats itself at a pitch between 60 and 400 Hz. Speech
 * begins when most of the last 160 ms are active and some of them voiced, and goes on while most of the last 60 ms are active; it ends after
 * silence_ms without that. So clicks, hiss, hum and other steady noise neither begin it nor keep it from ending. Whispering has no pitch and is not
 * found; music is taken for speech.
 *
 * Nothing is allocated after voice_activity_new. A detector is for one thread at a time. */
#ifndef OMNI_MEDIA_VOICE_ACTIVITY_H
#define OMNI_MEDIA_VOICE_ACTIVITY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct voice_activity_params {
    int rate;         /* samples a second: 16000 or 24000 */
    double threshold; /* 0 .. 1: how clearly speech must stand out, 2 to 10 dB above the noise floor; 0.5 suits most */
    int padding_ms;   /* 0 .. 60000: sound before the beginning that belongs to it */
    int silence_ms;   /* 10 .. 60000: speech ends after that much without any */
} voice_activity_params;

typedef enum voice_activity_kind { SPEECH_STARTED, SPEECH_STOPPED } voice_activity_kind;

/* Samples are counted from voice_activity_new or voice_activity_reset. */
typedef struct voice_activity_event {
    voice_activity_kind kind;
    int64_t position; /* STARTED: the first sample of speech less the padding, not before 0 or the end of the speech before;
                       * STOPPED: where speech last went on, without the silence that followed */
    int64_t decided;  /* samples read when this was known: for STOPPED the end of the silence as well */
} voice_activity_event;

typedef void (*voice_activity_callback)(void *context, const voice_activity_event *event);

typedef struct voice_activity voice_activity;

/* Values out of range are an OMNI_ERR_ARGUMENT that names them. *out is the caller's, for voice_activity_free. */
omni_status voice_activity_new(const voice_activity_params *params, voice_activity **out, omni_error *err);
/* Reads n mono samples in [-1, 1] (what is no finite number counts as 0, what is beyond as the limit) and tells the events in their order. Events are
 * equal whatever the sizes of the pieces. on_event must not call functions of this detector. */
void voice_activity_push(voice_activity *v, const float *samples, size_t n, voice_activity_callback on_event, void *context);
/* Forgets all sound, as if new. */
void voice_activity_reset(voice_activity *v);
void voice_activity_free(voice_activity *v); /* NULL: nothing */

#endif
