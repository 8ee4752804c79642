/* MP4 and MOV: how large an index libavformat will make of the header, known before it is asked to. */
#ifndef OMNI_MEDIA_MP4_INDEX_H
#define OMNI_MEDIA_MP4_INDEX_H

#include "media/budget.h"

/* libavformat copies a track's index once for each entry of its edit list, so that a few kilobytes can stand for gigabytes. Refuses files whose
 * index would not fit into the budget's memory. data, size: the file's bytes; or data NULL, and path names it. Files of other kinds pass. */
omni_status mp4_index_check(const uint8_t *data, size_t size, const char *path, const budget *b, omni_error *err);

#endif
