/* From pixels to the vision encoder's input: resize, cut into patches, normalise (Qwen2VLImageProcessor, Qwen2VLVideoProcessor).
 *
 * A patch holds [3 channels, temporal, patch, patch] values. Patches come frame group by frame group; within a group in the
 * order of merge x merge blocks (block row, block column, row in the block, column in the block). They are kept as the 8-bit
 * levels that they are and become float32 only where they are used: a long video would take four times the memory otherwise. */
#ifndef OMNI_MEDIA_PATCHES_H
#define OMNI_MEDIA_PATCHES_H

#include <stdint.h>

#include "base/error.h"
#include "media/image.h"
#include "media/size_request.h"

/* Preprocessing constants of a model, for images or for videos. */
typedef struct patch_params {
    int patch, merge, temporal;     /* pixels a side, patches a side that are joined, frames a group */
    int64_t min_pixels, max_pixels; /* a frame, after resizing */
    float mean[3], std[3];          /* of values scaled to [0, 1] */
    const size_request *request;    /* another size than these limits give; NULL: none */
} patch_params;

/* Patches of one image or video: grid t x h x w, in frame groups and patches; h and w are multiples of merge. */
typedef struct patch_set {
    int32_t t, h, w;
    int patch, temporal;
    uint8_t *levels;     /* [t * h * w, 3 * temporal * patch * patch] */
    float value[3][256]; /* normalised value of a level, a channel: (level - 255 mean) / (255 std) */
} patch_set;

/* Values a patch: 3 * temporal * patch * patch. */
int64_t patch_width(const patch_params *p);

/* Patches of the set: t * h * w. */
int64_t patch_count(const patch_set *s);
/* The values of patches [first, first + count) as the encoder takes them: out[count, patch width]. */
void patch_values(const patch_set *s, int64_t first, int64_t count, float *out);

/* What the patches of so many frames cost: rows of the context, and bytes while they are made and after. */
typedef struct patch_cost {
    int64_t rows, bytes;
} patch_cost;

/* Takes the cost from the budget, where it stays: a patch_set lives on. *out may be given back with patches_give_back; out may be NULL. */
omni_status patches_reserve(int64_t frames, int64_t height, int64_t width, const patch_params *p, budget *b, const char *name, patch_cost *out,
                            omni_error *err);
void patches_give_back(budget *b, patch_cost cost);
/* Only asks whether the rows fit: an error if not. */
omni_status patches_check(int64_t frames, int64_t height, int64_t width, const patch_params *p, const budget *b, const char *name, omni_error *err);

/* A still image: its only frame is repeated to fill the group. */
omni_status patches_from_image(const image *im, const patch_params *p, patch_set *out, omni_error *err);

/* Frame by frame, for videos: frames may be 1 or more; the last group is filled up with its last frame.
 * patches_begin sizes everything; each patches_frame takes the next frame [height, width, 3]; patches_end gives the set away.
 * Memory beyond the result: one resized frame. */
typedef struct patch_writer patch_writer;
omni_status patches_begin(int64_t frames, int64_t height, int64_t width, const patch_params *p, patch_writer **out, omni_error *err);
omni_status patches_frame(patch_writer *w, const uint8_t *rgb, omni_error *err);
/* Frees the writer, whatever the outcome. Fewer frames than announced (at least 1) shorten the result. */
omni_status patches_end(patch_writer *w, patch_set *out, omni_error *err);
void patches_abandon(patch_writer *w);

void patch_set_free(patch_set *s);

#endif
