/* Bytes that grow, as JSON texts and in base64. */
#ifndef OMNI_SERVER_TEXT_H
#define OMNI_SERVER_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct bytes {
    char *data;
    size_t size, capacity;
    bool failed; /* no memory: what is there is not all */
} bytes;

void bytes_add(bytes *b, const void *data, size_t size);
/* Samples in [-1, 1] as signed 16-bit, low byte first. */
void bytes_add_pcm16(bytes *b, const float *samples, size_t count);
void bytes_free(bytes *b);

/* A JSON text; what is no UTF-8 becomes U+FFFD. A new reference, NULL: no memory. */
json_t *text_value(const char *text, size_t size);
/* The same of bytes in base64, after those of head. */
json_t *base64_value(const void *head, size_t head_size, const void *data, size_t size);

#endif
