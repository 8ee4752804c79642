/* SHA-256 of what a request reads: names blocks of the prefix cache and media. */
#ifndef OMNI_ENGINE_CONTENT_HASH_H
#define OMNI_ENGINE_CONTENT_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct content_hash {
    uint8_t bytes[32];
} content_hash;

/* Several parts of memory, in order, as one; it is the caller who makes sure that different lists never join to the same bytes. */
typedef struct content_part {
    const void *data;
    size_t size;
} content_part;

/* OMNI_ERR_MEMORY is all that can go wrong. */
omni_status content_hash_of(const content_part *parts, size_t count, content_hash *out, omni_error *err);

#endif
