/* Files: read-only maps, whole-file reads with a limit, and output that appears under its name only when complete. */
#ifndef OMNI_BASE_FILE_H
#define OMNI_BASE_FILE_H

#include <stdbool.h>
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

/* Reads a whole file; *data is NUL-terminated behind its size bytes and is the caller's to free(). "-" reads standard input.
 * A file larger than limit bytes is an error, whatever it is: a device that never ends, too. Of a pipe nobody has opened for writing yet, the
 * writer is waited for; a signal that is handled ends the wait with OMNI_CANCELLED. */
omni_status file_read(const char *path, size_t limit, char **data, size_t *size, omni_error *err);

/* Output that appears under its name when it is whole and synced (file_out_commit), in place of what was there, whose rights it takes over; new
 * files get those of the umask. Before that it has no name, so that nothing is left however the process ends; where the file system cannot do
 * that, it lies beside as "PATH.part-RANDOM", a name that nobody had, and stays when the process is killed. Nothing else is ever removed.
 * Only a regular file that may be written is replaced, and of a link what it points to; not what another user laid into a shared folder.
 * A path that names an open file without a name (/proc/self/fd/N) is written in place. */
typedef struct file_out {
    int fd;
    char *path, *temporary; /* temporary: NULL while there is no name */
    char *older;            /* while several files get their names: where the one is that had this name */
    bool in_place, named;
} file_out;

omni_status file_out_open(const char *path, file_out *out, omni_error *err);
/* Whether file_out_open could: for work that takes long before there is anything to write. */
omni_status file_out_check(const char *path, omni_error *err);
omni_status file_out_write_at(file_out *f, uint64_t offset, const void *data, size_t size, omni_error *err);
/* Frees f, whatever the outcome. */
omni_status file_out_commit(file_out *f, omni_error *err);
/* Files that belong together: all get their names, in the order given, or none does, and what had the names before has them again. A process that
 * is killed within (after all are synced) leaves each name with the old file or the new one, and may leave "PATH.part-RANDOM" beside. */
omni_status file_out_commit_all(file_out *const files[], size_t count, omni_error *err);
void file_out_abandon(file_out *f);

/* An empty file in a folder, without a name and of this process alone: it takes no place any more once it is closed and not mapped, or the
 * process has ended, however it ends. path ("/proc/self/fd/N") opens it again, for writing and reading, until file_scratch_close. */
typedef struct file_scratch {
    int fd;
    char path[32];
} file_scratch;

omni_status file_scratch_open(const char *folder, file_scratch *out, omni_error *err);
void file_scratch_close(file_scratch *f);

#endif
