/* What the reader and the look-ups share. */
#ifndef OMNI_GGUF_GGUF_INTERNAL_H
#define OMNI_GGUF_GGUF_INTERNAL_H

#include "base/file.h"
#include "gguf/gguf.h"
#include "gguf/name_index.h"

typedef struct gguf_key {
    gguf_type type;
    gguf_type element;    /* of an array */
    uint64_t count;       /* elements of an array; 1 otherwise */
    const uint8_t *value; /* first byte of the value: of an array, of its first element */
    size_t size;          /* bytes of the value */
    char *copy;           /* NUL-terminated copy of a string, made when first asked for */
} gguf_key;

struct gguf {
    file_map map;
    char *path;
    const uint8_t *data;
    size_t size; /* bytes */
    uint32_t version, alignment;
    size_t data_offset; /* of the tensor data in the file */
    gguf_key *keys;
    name_index key_index;
    tensor *tensors;
    char *tensor_names;      /* all of them, NUL-terminated */
    name_index tensor_index; /* of all parts */
    gguf **others;           /* [other_count]: the further parts of a model in parts, which own names and data of their tensors */
    size_t other_count;
};

/* Bytes of one value of a number type; 0 for strings and arrays. */
static inline size_t gguf_type_bytes(gguf_type type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (uint32_t)type < sizeof bytes ? bytes[type] : 0;
}

/* Opens one file, whatever it says about parts. */
omni_status gguf_open_one(const char *path, gguf **out, omni_error *err);

const char *gguf_type_name(gguf_type type);

/* The string at p, whose length is known to be in bounds; *next is the byte behind it. */
gguf_str gguf_string_at(const uint8_t *p, const uint8_t **next);

#endif
