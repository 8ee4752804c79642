/* GGUF to GGUF: the matrices of a file in other types, everything else as it is. */
#ifndef OMNI_CONVERT_QUANTIZE_FILE_H
#define OMNI_CONVERT_QUANTIZE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct quantize_options {
    const char *input, *output;
    const char *type;      /* a recipe's name */
    const char *imatrix;   /* NULL: all columns count alike */
    bool allow_requantize; /* take matrices that are quantised already (Q8_0 is always taken) */
    int threads;           /* 0: one a usable core */
    /* May be NULL; called on the calling thread with the bytes read. False cancels. */
    bool (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
} quantize_options;

typedef struct quantize_result {
    uint64_t bytes_before, bytes_after; /* of the files */
    size_t tensors, changed;            /* in the file, and of another type now */
    size_t important;                   /* matrices that the importance matrix knew */
} quantize_result;

/* The file appears under its name when complete. result may be NULL. */
omni_status quantize_file(const quantize_options *options, quantize_result *result, omni_error *err);

#endif
