/* What the writer's setters (gguf_put.c) and its files (gguf_write.c) share. */
#ifndef OMNI_GGUF_GGUF_WRITER_H
#define OMNI_GGUF_GGUF_WRITER_H

#include <pthread.h>

#include "gguf/gguf_internal.h"

enum { GGUF_ALIGNMENT = 32 }; /* unless the key general.alignment says otherwise */

/* Bytes that grow. */
typedef struct buffer {
    uint8_t *data;
    size_t size, capacity;
} buffer;

/* Bytes [begin, end) of a tensor's data, which have been written. */
typedef struct span {
    size_t begin, end;
} span;

typedef struct out_tensor {
    char *name;
    dtype type;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS];
    size_t size, offset; /* bytes; offset from the start of its file's data */
    size_t part;         /* file */
    span *spans;         /* sorted, apart, and not touching: one span [0, size) once complete */
    size_t span_count, span_capacity;
} out_tensor;

/* A file of the model; a model is in one or in several. */
typedef struct out_part {
    file_out file;
    char *path;           /* of the file, links followed */
    size_t first, count;  /* its tensors */
    uint64_t data_offset; /* of the tensor data in the file */
    uint64_t bytes;       /* of the file */
} out_part;

struct gguf_writer {
    char *path; /* of the file, or what the names of the parts begin with */
    gguf_split split;
    bool splits, begun; /* begun: the headers are written */
    out_part *parts;
    size_t part_count, part_capacity;
    omni_error first; /* the first error of a setter; code OMNI_OK while there is none */
    buffer keys;
    name_index key_index, tensor_index;
    char **key_names;
    out_tensor *tensors;
    size_t tensor_capacity;
    uint32_t alignment;
    pthread_mutex_t mutex;
};

/* No setter has failed yet. */
static inline bool writer_healthy(const gguf_writer *w) {
    return w->first.code == OMNI_OK;
}

/* Appends to w->keys; does nothing after an error, and keeps its own. */
void writer_append(gguf_writer *w, const void *data, size_t size);
void writer_append_u32(gguf_writer *w, uint32_t v);
void writer_append_u64(gguf_writer *w, uint64_t v);
void writer_append_string(gguf_writer *w, const char *s, size_t n);

#endif
