/* A hash table from names to positions: open addressing over the caller's own array of names. The hash is keyed by a random
 * number taken when the table is made, so that a file cannot be built whose names all collide. */
#ifndef OMNI_GGUF_NAME_INDEX_H
#define OMNI_GGUF_NAME_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct name_entry {
    const char *name; /* not NUL-terminated; outlives the table */
    size_t size;      /* bytes */
} name_entry;

typedef struct name_index {
    name_entry *entries; /* in order of insertion */
    size_t count, capacity;
    uint32_t *slots; /* position + 1, or 0 */
    size_t slot_mask;
    uint64_t key[2];
} name_index;

/* Adds a name; *position is its number (count before the call), or that of the equal name already there, in which case
 * nothing is added. Fails only for want of memory, or past 2^31 names. */
omni_status name_index_add(name_index *x, const char *name, size_t size, size_t *position, omni_error *err);
/* -1 when absent. */
int64_t name_index_find(const name_index *x, const char *name, size_t size);
void name_index_free(name_index *x);

#endif
