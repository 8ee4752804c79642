/* Moving the values of mapped tensors into open GGUF files, tile by tile on all threads. */
#ifndef OMNI_CONVERT_STREAM_H
#define OMNI_CONVERT_STREAM_H

#include "base/pool.h"
#include "convert/mapping.h"
#include "gguf/gguf.h"

typedef struct stream_target {
    gguf_writer *writer;
    size_t tensor;     /* index in the writer */
    float *importance; /* of the columns of each matrix (convert/imatrix.h); NULL: all alike */
} stream_target;

typedef struct stream_hooks {
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes); /* NULL: none; called on the calling thread */
    bool (*cancelled)(void *arg);
    void *arg;
} stream_hooks;

/* targets[i] is where m->tensors[i] goes. The sources' data must be mapped from files: pages that were read are let go. */
omni_status stream_tensors(const mapping *m, const stream_target *targets, pool *p, const stream_hooks *hooks, omni_error *err);

#endif
