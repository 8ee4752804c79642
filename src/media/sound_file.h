/* Speech written to a file as it is made, in the format that its ending names (media/sound_encoder.h).
 *   FILE.wav ...  written beside its name and renamed when finished, with sizes filled in. However early it is finished (Ctrl+C), it is a valid file.
 *   -             a WAV stream on standard output, at once; its sizes are 0xFFFFFFFF ("until the end"), as is usual for a pipe. */
#ifndef OMNI_MEDIA_SOUND_FILE_H
#define OMNI_MEDIA_SOUND_FILE_H

#include <stddef.h>

#include "base/error.h"

typedef struct sound_file sound_file;

/* An unknown ending is an OMNI_ERR_ARGUMENT that lists the known ones. rate: samples a second. */
omni_status sound_file_open(const char *path, int rate, sound_file **out, omni_error *err);
/* Whether sound_file_open could. */
omni_status sound_file_check(const char *path, omni_error *err);
omni_status sound_file_write(sound_file *f, const float *samples, size_t count, omni_error *err);
/* Completes the file under its name and frees f, whatever the outcome. After a write that failed the file holds what was written
 * before; where that is nothing, OMNI_ERR_IO, and what had the name keeps it. */
omni_status sound_file_finish(sound_file *f, omni_error *err);
/* Removes what was written and frees f; NULL is allowed. */
void sound_file_abandon(sound_file *f);

#endif
