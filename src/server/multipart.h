/* multipart/form-data (RFC 7578) of a body that is whole in memory. Parts point into the body; nothing is allocated.
 *
 *     multipart m;
 *     multipart_open(&m, content_type, body, size, &err);
 *     while (multipart_next(&m, &part, &got, &err) == OMNI_OK && got) ...
 *
 * Linear in the body's size, and in what a part may be: MULTIPART_PARTS of them, each with MULTIPART_HEAD bytes of header lines, and names of
 * MULTIPART_NAME - 1 bytes. In names \" and \\ stand for the characters themselves, as does %22, which is how browsers write a quotation mark;
 * control characters, also written as %0D and %0A, are refused. What stands before the first boundary and behind the last is ignored. A
 * Content-Transfer-Encoding other than 7bit, 8bit or binary is refused. */
#ifndef OMNI_SERVER_MULTIPART_H
#define OMNI_SERVER_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "omni.h"

enum { MULTIPART_PARTS = 128, MULTIPART_HEAD = 4096, MULTIPART_NAME = 256, MULTIPART_BOUNDARY = 70 };

typedef struct multipart {
    const char *at, *end;                       /* behind the last boundary that was read; behind the body */
    char delimiter[4 + MULTIPART_BOUNDARY + 1]; /* "\r\n--" and the boundary */
    size_t delimiter_size;
    int parts;
    bool ended;
} multipart;

typedef struct multipart_part {
    char name[MULTIPART_NAME], filename[MULTIPART_NAME];
    bool is_file; /* it has a filename, which may be empty, or a filename*, which is not read */
    const char *data;
    size_t size;
} multipart_part;

/* content_type: the header's value. Reads up to the first part. OMNI_ERR_FORMAT: it is no multipart/form-data, or has no boundary that is in the
 * body. */
omni_status multipart_open(multipart *m, const char *content_type, const void *body, size_t size, omni_error *err);
/* The next part; *got false: there is none. OMNI_ERR_FORMAT: damaged, or the body ends before the last boundary; OMNI_ERR_LIMIT;
 * OMNI_ERR_UNSUPPORTED. Then, as after the last part, it must not be called again. */
omni_status multipart_next(multipart *m, multipart_part *part, bool *got, omni_error *err);

#endif
