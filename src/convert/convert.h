/* Checkpoint folder -> GGUF files: the thinker, the encoders (mmproj) and, when the checkpoint speaks, the talker.
 *
 * Tensors are read from the mapped shards, changed and written tile by tile on all threads, and their pages let go, so that memory
 * stays small whatever the checkpoint's size. The files get their names only after all of them are complete. */
#ifndef OMNI_CONVERT_CONVERT_H
#define OMNI_CONVERT_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { CONVERT_THINKER = 1, CONVERT_MMPROJ = 2, CONVERT_TALKER = 4 };

typedef struct convert_options {
    const char *checkpoint_dir;
    const char *out_dir;     /* made when missing */
    const char *name;        /* NULL: "qwen3-omni" */
    const char *type;        /* a recipe's name; NULL: "f16" */
    const char *imatrix;     /* NULL: all columns count alike */
    uint64_t split_max_size; /* of a file, as gguf_split.max_bytes; 0: one file each, whatever its size */
    unsigned parts;          /* CONVERT_...; 0: all that the checkpoint has */
    int threads;             /* 0: one a usable core */
    /* Both may be NULL and are called on the calling thread: bytes of the checkpoint read so far, and whether to stop. */
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    bool (*cancelled)(void *arg);
    void *arg;
} convert_options;

typedef struct convert_result {
    size_t count;       /* files written: NAME-TYPE.gguf, mmproj-NAME-TYPE.gguf, talker-NAME-TYPE.gguf, those that were asked for */
    char path[3][4096]; /* of one in parts, the first's */
    size_t split[3];    /* parts, 1 when whole */
    uint64_t bytes[3];
    size_t important; /* matrices that the importance matrix knew */
    bool no_talker;   /* the checkpoint has none, so that its file was left out */
} convert_result;

/* Asking for the talker alone of a checkpoint without one is an error. */
omni_status convert_checkpoint(const convert_options *options, convert_result *out, omni_error *err);

#endif
