/* One picture, sound or video of a conversation, decoded when it is added. */
#ifndef OMNI_ENGINE_MEDIUM_H
#define OMNI_ENGINE_MEDIUM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "media/budget.h"
#include "media/patches.h"
#include "media/sound.h"
#include "model/audio_encoder.h"
#include "model/prompt.h"
#include "model/vision_encoder.h"
#include "omni.h"
#include "tensor/ops.h"
#include "text/chat.h"

/* Encoders of an mmproj file; either may be NULL. */
typedef struct encoders {
    backend *b;
    vision_encoder *vision;
    audio_encoder *audio;
    mel *mel; /* with audio */
} encoders;

typedef struct media_item media_item;

typedef struct medium {
    prompt_kind kind;
    char *name;        /* for errors */
    patch_set patches; /* image, video */
    int32_t grid[3];
    double seconds_per_grid;
    sound sound; /* audio, or a video's own sound */
    bool has_sound;
    bool frames_only; /* a video that cannot have a sound of its own (.npy): takes one given beside it */
    media_item *item; /* once a request has read it: patches and sound have moved there (engine/media_item.h) */
} medium;

/* What loading needs to know. */
typedef struct medium_options {
    double fps;
    bool use_audio_in_video;
    int max_video_frames;
    chat_media_options part; /* what the part itself asks for */
} medium_options;

/* Reads and decodes a file (path) or its bytes (data, size) within the budget. On failure nothing is left in *out. */
omni_status medium_load(const encoders *e, omni_kind kind, const char *path, const void *data, size_t size, const medium_options *options, budget *b,
                        medium *out, omni_error *err);
/* A medium that is loaded and not encoded, once more; the copy takes rows and memory of the budget as the first did. */
omni_status medium_copy(const encoders *e, const medium *from, budget *b, medium *out, omni_error *err);
void medium_free(medium *m);

/* How many rows of the prompt the medium will take at least, known before it is encoded. */
int64_t medium_least_rows(const encoders *e, const medium *m);

#endif
