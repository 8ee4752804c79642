/* Decoded frames of sound to mono samples at one rate: the mean of the channels, then libsoxr. Behind media/sound.h. */
#ifndef OMNI_MEDIA_SOUND_MIX_H
#define OMNI_MEDIA_SOUND_MIX_H

#include <libavutil/frame.h>
#include <soxr.h>
#include <stdbool.h>

#include "media/sound.h"

/* Samples on their way to the wanted rate. Begins with name and options, everything else 0. */
typedef struct sound_mix {
    const char *name; /* of the file, for errors */
    sound_options options;
    soxr_t resampler; /* NULL when the rates are equal */
    int rate;         /* of the segment being read; 0: none yet */
    int64_t segment;  /* its samples so far */
    int64_t kept;     /* those of them that were passed on to the result: all but what options.start and duration leave out */
    int64_t passed;   /* samples of the whole sound that were looked at for that */
    bool full;        /* the stretch is complete */
    int64_t begin;    /* count when it began */
    int segments;     /* so far */
    double seconds;   /* before it */
    float *samples;   /* the result: count of them */
    int64_t count, capacity;
    float *mono; /* samples held back, then one decoded frame */
    int64_t mono_capacity;
    int64_t hold; /* samples to hold back, because the end of the sound may turn out to be before them */
    int64_t held;
} sound_mix;

/* Adds a decoded frame. A frame of another rate begins a segment, which is resampled by itself. Fails for samples that are not finite numbers
 * (OMNI_ERR_FORMAT), rates and numbers of channels that cannot be read, and limits. */
omni_status mix_add(sound_mix *m, const AVFrame *frame, omni_error *err);
/* Takes the last n samples away that are still held back; more than those: none. */
void mix_cut(sound_mix *m, int64_t n);
/* Ends the sound: what was held back and what the resampler still has comes out. */
omni_status mix_end(sound_mix *m, omni_error *err);
/* Seconds of sound so far, at the rates of the file. */
double mix_seconds(const sound_mix *m);
/* Frees all but samples, which the caller takes or frees. */
void mix_free(sound_mix *m);

/* Whether the rate, in samples a second, can be read or asked for. */
enum { SOUND_LOWEST_RATE = 1000, SOUND_HIGHEST_RATE = 1000000 };

#endif
