/* Sizes that the part of a conversation asks for, in place of the model's own limits, as qwen-omni-utils 0.0.9 computes them (fetch_image,
 * fetch_video). Where such a size has more pixels than the model takes, it is reduced to them, as the reference's processor does next. */
#ifndef OMNI_MEDIA_SIZE_REQUEST_H
#define OMNI_MEDIA_SIZE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* 0: not given. */
typedef struct size_request {
    bool video;
    int64_t min_pixels, max_pixels; /* of a picture or frame */
    int64_t total_pixels;           /* of all frames of a video, in pairs */
    int64_t height, width;          /* both: this size, rounded to whole patches */
} size_request;

/* Whether anything is asked for. */
bool size_is_requested(const size_request *r);

/* The size of a picture or of each of so many frames of height x width. factor: what both sides are multiples of; most: pixels that the model
 * takes. OMNI_ERR_LIMIT: an aspect ratio over 200; OMNI_ERR_ARGUMENT: the limits contradict each other or leave no size. */
omni_status size_requested(const size_request *r, int64_t frames, int64_t height, int64_t width, int64_t factor, int64_t most, int64_t *out_height,
                           int64_t *out_width, omni_error *err);

#endif
