/* Speech written as it is made: mono, 16-bit, little-endian.
 *   FILE.wav  WAV; written beside its name and renamed when finished, with the sizes filled in. However early it is finished
 *             (Ctrl+C), it is a valid file.
 *   FILE.pcm  the samples alone (also .raw).
 *   -         a WAV stream on standard output, at once; its sizes are 0xFFFFFFFF ("until the end"), as is usual for a pipe.
 * A sample x becomes round(x * 32767), halves to even, clipped to [-32768, 32767]; NaN becomes 0. */
#ifndef OMNI_MEDIA_WAV_WRITER_H
#define OMNI_MEDIA_WAV_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct wav_writer wav_writer;

/* An unknown suffix is an OMNI_ERR_ARGUMENT that lists the known ones. rate: samples a second. */
omni_status wav_writer_open(const char *path, int rate, wav_writer **out, omni_error *err);
/* Whether wav_writer_open could. */
omni_status wav_writer_check(const char *path, omni_error *err);
omni_status wav_writer_write(wav_writer *w, const float *samples, size_t count, omni_error *err);
/* Completes the file under its name and frees w, whatever the outcome. */
omni_status wav_writer_finish(wav_writer *w, omni_error *err);
/* Removes what was written and frees w; NULL is allowed. */
void wav_writer_abandon(wav_writer *w);

int16_t wav_sample(float x);

#endif
