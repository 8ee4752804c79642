/* Media files that are read into memory: all pictures, and sounds and videos that come through a pipe, since decoding them needs to seek. */
#ifndef OMNI_MEDIA_MEDIA_FILE_H
#define OMNI_MEDIA_MEDIA_FILE_H

#include <stdbool.h>

#include "media/budget.h"

/* Whether the path is a pipe, a device or "-" (standard input): something that cannot seek. A path that does not exist is not. */
bool media_is_stream(const char *path);

/* All bytes of a file, of a named pipe or of standard input ("-", once a budget). *data is the caller's to free(); its size is held in the
 * budget until the caller gives it back with budget_release. Waiting for a pipe's writer ends when the budget's stop is set. */
omni_status media_read(const char *path, budget *b, char **data, size_t *size, omni_error *err);

#endif
