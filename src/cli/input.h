/* What commands read whole: texts, JSON and media from files or standard input. */
#ifndef OMNI_CLI_INPUT_H
#define OMNI_CLI_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/args.h"
#include "omni.h"

/* A whole file, or standard input for "-", with a NUL behind its size bytes; NULL after reporting, also when it is larger than limit. The caller
 * frees it. */
char *input_read(const char *path, size_t limit, size_t *size);

/* A prompt: as above, without a byte order mark and without the line end at its end. A text in UTF-16, or with a NUL in it, is an error. */
char *input_read_text(const char *path);

/* Carries out \n, \r, \t, \', \", \\ and \xHH in place; anything else after a backslash stays as it is. */
void input_unescape(char *text);

/* Whether the path is standard input: "-", or a pipe, socket or terminal that is also known by that path (/dev/stdin). */
bool input_is_standard(const char *path);

/* Whether more than one of count paths (NULL: not given) is standard input; then says so. */
bool input_read_twice(const char *name, const char *const *paths, size_t count);

/* The media of --image, --audio and --video flags in their order, with room for one part more. NULL after reporting, also of a file that cannot
 * be opened; the caller frees it. */
omni_part *input_media(const flag_list *media);

#endif
