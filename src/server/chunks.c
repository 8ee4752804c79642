#include "server/chunks.h"

static int digit_of(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void read_size(chunk_reader *c, char byte) {
    const int digit = digit_of(byte);
    if (digit >= 0 && c->digits < CHUNKS_DIGITS) {
        c->left = c->left * 16 + (uint64_t)digit;
        c->digits++;
    } else if (c->digits > 0 && byte == '\r') {
        c->state = CHUNKS_SIZE_LF;
    } else if (c->digits > 0 && (byte == ';' || byte == ' ' || byte == '\t')) {
        c->state = CHUNKS_EXTENSION;
    } else {
        c->damaged = true;
    }
}

static void end_size(chunk_reader *c, char byte) {
    c->damaged = byte != '\n';
    c->last = c->left == 0;
    c->state = c->last ? CHUNKS_TRAILER : CHUNKS_DATA;
    c->digits = 0;
    c->line = 0;
}

/* Trailers end with an empty line. */
static void read_trailer(chunk_reader *c, char byte) {
    if (byte == '\r') {
        c->state = CHUNKS_TRAILER_LF;
    } else {
        c->damaged = byte == '\n' || byte == 0 || ++c->trailer > CHUNKS_TRAILERS;
        c->trailer_line++;
    }
}

static void end_trailer(chunk_reader *c, char byte) {
    c->damaged = byte != '\n';
    c->ended = !c->damaged && c->trailer_line == 0;
    c->trailer_line = 0;
    c->trailer++;
    c->state = CHUNKS_TRAILER;
}

static void read_byte(chunk_reader *c, char byte) {
    switch (c->state) {
    case CHUNKS_SIZE:
        read_size(c, byte);
        break;
    case CHUNKS_EXTENSION:
        c->state = byte == '\r' ? CHUNKS_SIZE_LF : CHUNKS_EXTENSION;
        c->damaged = byte == '\n' || byte == 0 || ++c->line > CHUNKS_LINE;
        break;
    case CHUNKS_SIZE_LF:
        end_size(c, byte);
        break;
    case CHUNKS_DATA_CR:
        c->damaged = byte != '\r';
        c->state = CHUNKS_DATA_LF;
        break;
    case CHUNKS_DATA_LF:
        c->damaged = byte != '\n';
        c->state = CHUNKS_SIZE;
        break;
    case CHUNKS_TRAILER:
        read_trailer(c, byte);
        break;
    case CHUNKS_TRAILER_LF:
        end_trailer(c, byte);
        break;
    case CHUNKS_DATA:
        break;
    }
}

size_t chunks_read(chunk_reader *c, const char *data, size_t size, size_t *n) {
    size_t at = 0;
    *n = 0;
    while (at < size && !c->ended && !c->damaged) {
        if (c->state == CHUNKS_DATA) {
            *n = size - at < c->left ? size - at : (size_t)c->left;
            c->left -= *n;
            c->state = c->left > 0 ? CHUNKS_DATA : CHUNKS_DATA_CR;
            return at + *n;
        }
        read_byte(c, data[at++]);
    }
    return at;
}
