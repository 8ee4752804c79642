/* From a rendered conversation with media markers to what the decoder reads: token ids with every placeholder repeated once an embedding, where each
 * row's embedding comes from, and three float position ids a row (model/positions.h).
 *
 * The ids are those of the reference's processor (Qwen3OmniMoeProcessor.replace_multimodal_special_tokens). */
#ifndef OMNI_MODEL_PROMPT_H
#define OMNI_MODEL_PROMPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Ids of the vocabulary that stand for media and their brackets, and what positions depend on. */
typedef struct prompt_markup {
    int32_t image, video, audio; /* placeholders */
    int32_t vision_start, vision_end, audio_start, audio_end;
    int32_t spatial_merge;  /* patches a side that become one embedding */
    int32_t ids_per_second; /* position_id_per_seconds: time ids a second of video */
} prompt_markup;

typedef enum prompt_kind { PROMPT_IMAGE, PROMPT_AUDIO, PROMPT_VIDEO } prompt_kind;

typedef struct prompt_media {
    prompt_kind kind;
    int32_t grid[3];         /* image, video: patches in time, height and width, before merging */
    double seconds_per_grid; /* video: time between two frame groups (temporal_patch_size / fps) */
    int32_t audio_rows;      /* audio: its embeddings. video: embeddings of its own sound, to be merged in time; -1: none */
} prompt_media;

/* Embeddings of the picture part: grid t * (h / merge) * (w / merge); 0 for audio. */
int64_t prompt_visual_rows(const prompt_markup *m, const prompt_media *media);

/* What a row is to the positions. The openings count only where a media marker follows: such tokens in text are text. */
typedef enum row_class { ROW_TEXT, ROW_VISION_START, ROW_AUDIO_START, ROW_IMAGE, ROW_VIDEO, ROW_AUDIO } row_class;

typedef struct prompt_row {
    int32_t id;        /* as in the reference's input_ids */
    uint8_t class;     /* row_class; ROW_IMAGE and ROW_VIDEO are the visual rows (deepstack), ROW_AUDIO reads the sound */
    int32_t media;     /* which media the embedding comes from; -1: the token table */
    int32_t media_row; /* row of that media's visual (or sound) embeddings */
    float position[3]; /* time, height, width */
} prompt_row;

/* A marker among ids: media number i is written as this negative id, between its brackets
 * (vision_start MARK vision_end, audio_start MARK audio_end). A video with sound gets the sound's brackets inside by itself. */
static inline int32_t prompt_mark(int32_t media) {
    return -1 - media;
}

typedef struct prompt {
    prompt_row *rows;
    int64_t n;
} prompt;

/* Expands ids[count] with markers. Markers may name media in any order, each once. limit: most rows; more is OMNI_ERR_LIMIT with
 * both numbers. Grids and row counts that make no sense are OMNI_ERR_ARGUMENT. prompt_free releases. */
omni_status prompt_expand(const prompt_markup *m, const int32_t *ids, int64_t count, const prompt_media *media, int32_t media_count, int64_t limit,
                          prompt *out, omni_error *err);
void prompt_free(prompt *p);

#endif
