/* The files of src/server/page/, and src/server/openapi.json, as the build has put them into the program (cmake/embed.cmake). */
#ifndef OMNI_SERVER_PAGE_H
#define OMNI_SERVER_PAGE_H

#include <stddef.h>

typedef struct page_file {
    const char *name; /* "index.html" */
    const unsigned char *data;
    size_t size;
} page_file;

/* Ends with an entry whose name is NULL. */
extern const page_file page_files[];

#endif
