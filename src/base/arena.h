/* A bump allocator: one block, sized when a model is opened or a session starts, released as a whole.
 * Allocations are 64-byte aligned and zeroed. Nothing is allocated from the heap after arena_init. */
#ifndef OMNI_BASE_ARENA_H
#define OMNI_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct arena {
    uint8_t *base;
    size_t size; /* bytes */
    size_t used;
} arena;

/* Rounds a size up to the arena's alignment; sum these to size an arena. */
static inline size_t arena_round(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

/* a * b * c bytes rounded up, or SIZE_MAX when that overflows (which arena_init then refuses). */
size_t arena_bytes(size_t a, size_t b, size_t c);

/* Adds b to *total, keeping SIZE_MAX as "too large". */
void arena_count(size_t *total, size_t b);

omni_status arena_init(arena *a, size_t bytes, omni_error *err);
/* Never NULL when the sizes were counted right; a miscount is a bug and aborts. */
void *arena_alloc(arena *a, size_t bytes);
void arena_free(arena *a);

#endif
