/* A body that comes in chunks (Transfer-Encoding: chunked, RFC 9112 section 7.1), in pieces of any size. Strict, so that nothing before the server
 * can read it in another way: lines end in CRLF, sizes are up to 15 hexadecimal digits. Extensions and trailers are ignored, within limits. */
#ifndef OMNI_SERVER_CHUNKS_H
#define OMNI_SERVER_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHUNKS_LINE = 256, CHUNKS_TRAILERS = 8192, CHUNKS_DIGITS = 15 };

typedef enum chunks_state {
    CHUNKS_SIZE,
    CHUNKS_EXTENSION,
    CHUNKS_SIZE_LF,
    CHUNKS_DATA,
    CHUNKS_DATA_CR,
    CHUNKS_DATA_LF,
    CHUNKS_TRAILER,
    CHUNKS_TRAILER_LF
} chunks_state;

/* All zeros at the start. */
typedef struct chunk_reader {
    chunks_state state;
    uint64_t left;  /* of the chunk */
    int digits;     /* of its size */
    size_t line;    /* bytes of the line of its size */
    size_t trailer; /* bytes of trailers, and of their last line */
    size_t trailer_line;
    bool last, ended, damaged;
} chunk_reader;

/* Reads up to the end of a piece of body, or of data, whichever comes first, and returns how many bytes it has read: the piece is the last *n of
 * them, 0 or more. Once ended or damaged is set it reads nothing. */
size_t chunks_read(chunk_reader *c, const char *data, size_t size, size_t *n);

#endif
