/* Mono sound made faster or slower without a change of pitch, as it comes: libavfilter's atempo (WSOLA: overlapping pieces, laid where they fit).
 * What comes out does not depend on how the samples are cut into calls. */
#ifndef OMNI_MEDIA_SOUND_STRETCH_H
#define OMNI_MEDIA_SOUND_STRETCH_H

#include <stddef.h>

#include "base/error.h"

#define SOUND_SLOWEST 0.25
#define SOUND_FASTEST 4.0

typedef struct sound_stretch sound_stretch;

/* Where the stretched samples go; its error comes back from the call that caused it. */
typedef struct sound_taker {
    omni_status (*take)(void *arg, const float *samples, size_t count, omni_error *err);
    void *arg;
} sound_taker;

/* rate: samples a second; speed: 2 halves the length. OMNI_ERR_ARGUMENT: speed is out of range; OMNI_ERR_UNSUPPORTED: libavfilter lacks atempo. */
omni_status sound_stretch_open(int rate, double speed, const sound_taker *taker, sound_stretch **out, omni_error *err);
/* What is not finite becomes 0. */
omni_status sound_stretch_write(sound_stretch *s, const float *samples, size_t count, omni_error *err);
/* The end: what is held back comes out. */
omni_status sound_stretch_flush(sound_stretch *s, omni_error *err);
void sound_stretch_free(sound_stretch *s); /* NULL is allowed */

#endif
