/* One GGUF file to several, and back: tensors and keys stay as they are. */
#ifndef OMNI_CONVERT_SPLIT_FILE_H
#define OMNI_CONVERT_SPLIT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Called on the calling thread with the bytes copied so far. False cancels. */
typedef bool (*split_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);

typedef struct split_options {
    const char *input;       /* any part, of a model in parts */
    const char *output;      /* of split_file what the names begin with, of merge_file the file */
    uint64_t max_bytes;      /* of a file; 0: any */
    size_t max_tensors;      /* of a file; 0: any. Both 0: 128 */
    split_progress progress; /* NULL: none */
    void *arg;
} split_options;

typedef struct split_result {
    size_t parts, tensors; /* files and tensors written */
    uint64_t bytes;        /* of all files */
    char first[4096];      /* path of the first */
} split_result;

/* Writes OUTPUT-00001-of-00003.gguf and so on (gguf_writer_create_split); a tensor larger than max_bytes is a file of its own. After an error there
 * is none of them. result may be NULL. */
omni_status split_file(const split_options *options, split_result *result, omni_error *err);
/* Writes one file of a model in parts. An input that is no part is an error. max_bytes and max_tensors are not used. */
omni_status merge_file(const split_options *options, split_result *result, omni_error *err);

#endif
