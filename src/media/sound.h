/* Sound from files: anything libav* reads (WAV, MP3, FLAC, Ogg Vorbis, Opus, M4A/AAC, the sound track of MP4, MOV, WebM, MKV),
 * any rate and channel count, as mono float32 at the model's rate.
 *
 * The result is what the usual loader of the reference gives, librosa.load(sr=rate): values in [-1, 1] (16-bit samples / 32768),
 * the mean of the channels first, then libsoxr at its high quality, ceil(samples * rate / rate of the file) samples. A 16-bit mono file at the wanted
 * rate comes through unchanged, bit for bit.
 *
 * Nothing outside the given file or memory is opened, whatever the content names. libav's own messages are switched off for
 * the whole process at the first call, and it gets at most 512 MiB at once from then on. */
#ifndef OMNI_MEDIA_SOUND_H
#define OMNI_MEDIA_SOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "media/budget.h"

/* Zeros take the defaults. */
typedef struct sound_options {
    double start, duration; /* seconds: a stretch of the sound alone, cut before resampling, as librosa.load(offset, duration) does; duration 0: to
                             * the end. What is left out does not count towards max_seconds */
    int rate;               /* samples a second wanted; 16000 */
    double max_seconds;     /* the budget's; a longer sound is an OMNI_ERR_LIMIT, nothing is cut off silently */
    size_t max_bytes;       /* of the file; the budget's */
    bool may_be_silent;     /* a file without sound is no error: the result has no samples then */
    budget *budget; /* what decoding may cost, and whose memory the samples hold from then on; NULL: one of its own, with the default limits */
} sound_options;

typedef struct sound {
    float *samples; /* mono */
    int64_t count;
    int rate;
} sound;

/* A path that cannot seek, or "-" (standard input), is read into memory first, within the budget. Errors name the file and, for damage, the time at
 * which it lies. OMNI_ERR_FORMAT: damaged, empty or no known kind of file; OMNI_ERR_UNSUPPORTED: it has no sound, or in an encoding that this build
 * of libav lacks; OMNI_ERR_LIMIT: seconds or bytes. */
omni_status sound_load(const char *path, const sound_options *options, sound *out, omni_error *err);
/* The same from memory; name stands for the path in errors. */
omni_status sound_load_memory(const void *data, size_t size, const char *name, const sound_options *options, sound *out, omni_error *err);
void sound_free(sound *s);

#endif
