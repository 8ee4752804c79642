/* A frame of the Wyoming protocol: a line of JSON, {"type": NAME, "data": {...}, "data_length": N, "payload_length": M}, then N bytes of JSON, an
 * object that adds to "data", then M bytes of payload. */
#ifndef OMNI_SERVER_WYOMING_FRAME_H
#define OMNI_SERVER_WYOMING_FRAME_H

#include <jansson.h>
#include <stddef.h>

#include "omni.h"

/* Bytes that a line, its end included, data and a payload may have. */
enum { WYOMING_LINE = 16 << 10, WYOMING_DATA = 256 << 10, WYOMING_PAYLOAD = 1 << 20, WYOMING_MOST = WYOMING_LINE + WYOMING_DATA + WYOMING_PAYLOAD };

typedef struct wyoming_frame {
    char type[64];
    json_t *data;        /* an object, the caller's to json_decref */
    const char *payload; /* within the bytes that were read */
    size_t payload_size;
    size_t size; /* of the whole frame */
} wyoming_frame;

/* Reads the frame that the bytes begin with. *need: how many bytes it has at least, more than size while it is not whole: *out is empty then.
 * OMNI_ERR_FORMAT: it is none; OMNI_ERR_LIMIT: a part is larger than it may be. Nothing may be read behind such a frame. */
omni_status wyoming_read(const char *bytes, size_t size, wyoming_frame *out, size_t *need, omni_error *err);
/* The bytes that go before a payload of so many: the caller's to free, *size of them. data may be NULL; it is taken. NULL: no memory. */
char *wyoming_write(const char *type, json_t *data, size_t payload_size, size_t *size);

#endif
