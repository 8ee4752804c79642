/* Where to cut a long sound so that its pieces can be transcribed one by one: at pauses that the voice-activity detector finds. */
#ifndef OMNI_MEDIA_SPEECH_SEGMENTS_H
#define OMNI_MEDIA_SPEECH_SEGMENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct speech_segments_params {
    double threshold;   /* as of voice_activity_params; 0.5 */
    int padding_ms;     /* sound before speech that belongs to it; 300 */
    int pause_ms;       /* 10 .. 60000: a pause of that much ends a segment; 1000. Shorter ones do where a segment would become too long */
    double max_seconds; /* of a segment; 30 */
} speech_segments_params;

/* Samples [from, to) of the sound. */
typedef struct speech_segment {
    int64_t from, to;
    bool heard; /* the detector found speech in it */
} speech_segment;

typedef struct speech_segments {
    speech_segment *list; /* in their order; they do not overlap, and none is empty or longer than max_seconds */
    size_t count, room;
} speech_segments;

speech_segments_params speech_segments_params_default(void);
/* rate: 16000 or 24000. Speech that goes on for longer than a segment may be is cut where it is quietest in a segment's last third. What lies between
 * segments is without speech. A sound without any has no segments, unless it is so short that it is one: the detector does not hear whispering. stop
 * may be NULL; once set, the result is OMNI_CANCELLED. The caller frees what is in *out, whatever the outcome. */
omni_status speech_segments_find(const float *samples, int64_t count, int rate, const speech_segments_params *params, const _Atomic bool *stop,
                                 speech_segments *out, omni_error *err);
void speech_segments_free(speech_segments *s);

#endif
