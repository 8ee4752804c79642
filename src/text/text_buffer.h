/* A growing string. An allocation that fails is remembered, so that appends need no checks one by one. */
#ifndef OMNI_TEXT_TEXT_BUFFER_H
#define OMNI_TEXT_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct text_buffer {
    char *data; /* NUL-terminated behind size bytes once something was put; NULL before */
    size_t size, room;
    bool failed;
} text_buffer;

static inline void text_put(text_buffer *b, const char *s, size_t n) {
    if (b->failed || n > SIZE_MAX / 4 || b->size > SIZE_MAX / 4) {
        b->failed = true;
        return;
    }
    if (b->room - b->size <= n) {
        size_t room = (b->size + n + 32) * 2;
        char *data = realloc(b->data, room);
        if (!data) {
            b->failed = true;
            return;
        }
        b->data = data;
        b->room = room;
    }
    if (n > 0) {
        memcpy(b->data + b->size, s, n);
    }
    b->size += n;
    b->data[b->size] = 0;
}

static inline void text_puts(text_buffer *b, const char *s) {
    text_put(b, s, strlen(s));
}

/* Removes n bytes from the front. */
static inline void text_drop(text_buffer *b, size_t n) {
    if (n > 0) {
        b->size -= n;
        memmove(b->data, b->data + n, b->size + 1);
    }
}

static inline void text_buffer_free(text_buffer *b) {
    free(b->data);
    *b = (text_buffer){0};
}

#endif
