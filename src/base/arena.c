#include "base/arena.h"

void arena_count(size_t *total, size_t bytes) {
    if (__builtin_add_overflow(*total, bytes, total)) {
        *total = SIZE_MAX;
    }
}

void *arena_take(arena *a, int64_t rows, int64_t width, size_t element) {
    void *p = a->base ? a->base + a->used : NULL;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)rows, (size_t)width, &bytes) || __builtin_mul_overflow(bytes, element, &bytes) || bytes > SIZE_MAX / 2) {
        bytes = SIZE_MAX;
    } else {
        bytes = (bytes + 63) & ~(size_t)63;
    }
    arena_count(&a->used, bytes);
    return p;
}
