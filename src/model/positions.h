/* The three position ids of each row of a prompt: those of get_rope_index of the reference's model, written out in its order of operations. It and
 * the processor (model/prompt.h) decide separately, in different precision, how the sound and the pictures of a clip interleave. */
#ifndef OMNI_MODEL_POSITIONS_H
#define OMNI_MODEL_POSITIONS_H

#include "model/prompt.h"

/* The media that positions are counted from, each list in the order of the conversation. */
typedef struct position_media {
    const int32_t (*images)[3]; /* grids */
    const int32_t (*videos)[3];
    const double *seconds_per_grid; /* [video_count] */
    const int32_t *audio_rows;      /* sounds, those of videos among them */
    int32_t image_count, video_count, audio_count;
    /* A vision_start followed by audio_start opens a clip with sound (use_audio_in_video). The thinker sets it; the reference
     * calls the talker's get_rope_index without, so there such a clip counts on as text unless an image is still to come. */
    bool audio_in_video;
} position_media;

/* get_rope_index: positions[n][3] from the rows' classes. *delta (may be NULL) is mrope_position_deltas: largest id + 1 - n, to
 * which the talker adds the number of cached positions; the thinker's generated tokens count on from the last row by 1. */
omni_status positions_compute(const prompt_markup *m, const uint8_t *classes, int64_t n, const position_media *media, float (*positions)[3],
                              float *delta, omni_error *err);
/* Classes from bare ids, as the reference sees them (every opening counts, whatever follows). */
void positions_classes(const prompt_markup *m, const int32_t *ids, int64_t n, uint8_t *classes);

/* The lists of position_media from media in the order of their markers; the caller keeps and frees the struct. */
typedef struct position_lists {
    position_media media;
    void *memory;
} position_lists;
omni_status position_lists_make(const prompt_media *media, const int32_t *order, int32_t count, position_lists *out, omni_error *err);
void position_lists_free(position_lists *l);

#endif
