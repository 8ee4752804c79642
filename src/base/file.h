/* Files: read-only maps, whole-file reads with a limit, and output that appears under its name only when complete. */
#ifndef OMNI_BASE_FILE_H
#define OMNI_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* A file mapped read-only. */
typedef struct file_map {
    const uint8_t *data;
    size_t size; /* bytes */
    char *path;
} file_map;

omni_status file_map_open(const char *path, file_map *out, omni_error *err);
void file_map_close(file_map *m);
/* Tells the system that the pages of [offset, offset + size) are not needed any more; they can be read again. */
void file_map_forget(const file_map *m, size_t offset, size_t size);
/* Has the pages of [offset, offset + size) read and mapped now, as far as the system can, so that nothing waits for a disk later. */
void file_map_want(const file_map *m, size_t offset, size_t size);

/* Reads a whole file; *data is NUL-terminated behind its size bytes and is the caller's to free().
 * A file larger than limit bytes is an error. "-" reads standard input. */
omni_status file_read(const char *path, size_t limit, char **data, size_t *size, omni_error *err);

/* Output written beside its final name ("PATH.part-PID"), then synced and renamed by file_out_commit.
 * Until then nothing exists under the final name; file_out_abandon removes what was written. file_out_open removes the part files
 * that killed writers of the same path left behind. Only a regular file is replaced, and of a link what it points to. */
typedef struct file_out {
    int fd;
    char *path, *temporary;
} file_out;

omni_status file_out_open(const char *path, file_out *out, omni_error *err);
/* Whether file_out_open could: for work that takes long before there is anything to write. */
omni_status file_out_check(const char *path, omni_error *err);
omni_status file_out_write_at(file_out *f, uint64_t offset, const void *data, size_t size, omni_error *err);
omni_status file_out_commit(file_out *f, omni_error *err);
void file_out_abandon(file_out *f);

#endif
