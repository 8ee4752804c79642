/* Many arrays in one block of memory: arena_take hands out consecutive ranges, each at 64 bytes. Over no memory it only counts, so the function that
 * lays a block out also tells how large the block must be:
 *
 *     arena count = {0};
 *     lay_out(x, &count);                    pointers are NULL
 *     allocate count.used bytes
 *     lay_out(x, &(arena){.base = memory});  pointers are set */
#ifndef OMNI_BASE_ARENA_H
#define OMNI_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct arena {
    char *base;  /* NULL: count only. Aligned to 64 bytes; it may be memory that the host cannot reach */
    size_t used; /* bytes; SIZE_MAX: too large to be addressed */
} arena;

/* rows * width elements of so many bytes, none of the three negative. */
void *arena_take(arena *a, int64_t rows, int64_t width, size_t element);
/* Adds bytes to *total, keeping SIZE_MAX as "too large". */
void arena_count(size_t *total, size_t bytes);

#endif
