/* A GGUF file of a stated kind and size with random weights, for measuring: the layout, keys and types that a conversion would give,
 * values that keep every activation finite, and a small tokenizer that is valid (the 256 bytes, the markup, a few words).
 *
 * Blocks of quantised types are made as bytes, not by quantising: random codes under scales that give the matrix the spread of a trained
 * one, so that the file is written about as fast as the disk takes it. */
#ifndef OMNI_CONVERT_SYNTH_H
#define OMNI_CONVERT_SYNTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "convert/mapping.h"

typedef struct synth_options {
    const char *path;
    const char *type; /* as conversion takes it; NULL: "q8_0" */
    unsigned part;    /* one of MAPPING_THINKER, MAPPING_MMPROJ, MAPPING_TALKER */
    int layers;       /* of the thinker; 0: all that the release has */
    uint64_t seed;
    int threads; /* 0: one a usable core */
    /* May be NULL; called on the calling thread with the bytes written. False cancels. */
    bool (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
} synth_options;

/* Writes the file; *bytes (may be NULL) is its size. */
omni_status synth_file(const synth_options *options, uint64_t *bytes, omni_error *err);

/* Whether synth_fill can make values of this type. */
bool synth_type_known(dtype type);

/* Fills blocks of a type with values of about the given mean and standard deviation; quantised types have the mean 0. */
void synth_fill(dtype type, float mean, float deviation, uint64_t seed, int64_t blocks, void *out);

/* The published config.json (synth_released.c), NUL-terminated. */
extern const char synth_released_config[];

#endif
