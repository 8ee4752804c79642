#include "base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t arena_bytes(size_t a, size_t b, size_t c) {
    size_t bytes;
    if (__builtin_mul_overflow(a, b, &bytes) || __builtin_mul_overflow(bytes, c, &bytes) || bytes > SIZE_MAX / 2) {
        return SIZE_MAX;
    }
    return arena_round(bytes);
}

void arena_count(size_t *total, size_t b) {
    if (__builtin_add_overflow(*total, b, total)) {
        *total = SIZE_MAX;
    }
}

omni_status arena_init(arena *a, size_t bytes, omni_error *err) {
    *a = (arena){0};
    if (bytes == 0) {
        return OMNI_OK;
    }
    void *base = bytes > SIZE_MAX / 2 ? NULL : aligned_alloc(64, arena_round(bytes));
    if (!base) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory: %zu bytes of working memory asked for; a shorter context or a smaller batch needs less",
                    bytes);
    }
    memset(base, 0, arena_round(bytes));
    a->base = base;
    a->size = arena_round(bytes);
    return OMNI_OK;
}

void *arena_alloc(arena *a, size_t bytes) {
    size_t need = arena_round(bytes);
    if (need > a->size - a->used) {
        fprintf(stderr, "omni: internal error: arena of %zu bytes, %zu used, %zu asked for\n", a->size, a->used, need);
        abort();
    }
    void *p = a->base + a->used;
    a->used += need;
    return p;
}

void arena_free(arena *a) {
    free(a->base);
    *a = (arena){0};
}
