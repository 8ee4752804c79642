#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

omni_status file_map_open(const char *path, file_map *out, omni_error *err) {
    *out = (file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused below, not waited for */
    if (fd < 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return fail(err, OMNI_ERR_IO, "%s: not a regular file", path);
    }
    void *data = NULL;
    if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            int e = errno;
            close(fd);
            return fail(err, OMNI_ERR_IO, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size, strerror(e));
        }
    }
    close(fd);
    char *copy = strdup(path);
    if (!copy) {
        if (data) {
            munmap(data, (size_t)st.st_size);
        }
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    *out = (file_map){.data = data, .size = (size_t)st.st_size, .path = copy};
    return OMNI_OK;
}

void file_map_close(file_map *m) {
    if (m->data) {
        munmap((void *)m->data, m->size);
    }
    free(m->path);
    *m = (file_map){0};
}

void file_map_forget(const file_map *m, size_t offset, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = (offset + page - 1) / page * page, end = (offset + size) / page * page;
    if (m->data && begin < end && end <= m->size) {
        madvise((void *)(m->data + begin), end - begin, MADV_DONTNEED);
    }
}

void file_map_want(const file_map *m, size_t offset, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), begin = offset / page * page;
    if (!m->data || offset > m->size || size > m->size - offset) {
        return;
    }
    void *p = (void *)(m->data + begin);
    size += offset - begin;
#ifdef MADV_POPULATE_READ /* Linux 5.14 */
    if (madvise(p, size, MADV_POPULATE_READ) == 0) {
        return;
    }
#endif
    madvise(p, size, MADV_WILLNEED);
}

/* Waits until there is something to read, or the end. Signal handlers may be installed so that read() and open() go on after them, and nobody
 * else may ever write to a pipe: waiting in poll() is what a signal always ends. */
static omni_status wait_readable(int fd, const char *path, omni_error *err) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, -1) < 0) {
        return errno == EINTR ? fail(err, OMNI_CANCELLED, "%s: interrupted while waiting for data", path)
                              : fail(err, OMNI_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    }
    return OMNI_OK;
}

/* Opens for reading without waiting for a pipe's writer; *st tells what it is. */
static omni_status open_readable(const char *path, int *fd, struct stat *st, omni_error *err) {
    *fd = strcmp(path, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    if (fstat(*fd, st) != 0 || S_ISDIR(st->st_mode)) {
        omni_status status = fail(err, OMNI_ERR_IO, "%s: cannot read: %s", path, S_ISDIR(st->st_mode) ? "it is a folder" : strerror(errno));
        close(*fd);
        return status;
    }
    return OMNI_OK;
}

/* Makes room for more, up to limit + 1 bytes: one more than the limit tells a file of just that size from a larger one. */
static bool grow(char **buffer, size_t *capacity, size_t limit) {
    size_t most = limit < SIZE_MAX - 2 ? limit + 1 : SIZE_MAX - 1;
    size_t larger = *capacity > most / 2 ? most : 2 * *capacity;
    char *moved = realloc(*buffer, larger + 1);
    if (moved) {
        *buffer = moved;
        *capacity = larger;
    }
    return moved != NULL;
}

omni_status file_read(const char *path, size_t limit, char **data, size_t *size, omni_error *err) {
    *data = NULL;
    *size = 0;
    int fd;
    struct stat st;
    TRY(open_readable(path, &fd, &st, err));
    const bool waits = !S_ISREG(st.st_mode);
    size_t capacity = (size_t)1 << 16, used = 0;
    if (!waits && st.st_size > 0 && (uint64_t)st.st_size <= limit) {
        capacity = (size_t)st.st_size + 1; /* the end is then seen without growing */
    }
    char *buffer = malloc(capacity + 1);
    omni_status status = buffer ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    while (status == OMNI_OK) {
        if (used > limit) {
            status = fail(err, OMNI_ERR_LIMIT, "%s: larger than the limit of %zu bytes", path, limit);
            break;
        }
        if (used == capacity && !grow(&buffer, &capacity, limit)) {
            status = fail(err, OMNI_ERR_MEMORY, "%s: out of memory for more than %zu bytes", path, used);
            break;
        }
        if (waits) {
            status = wait_readable(fd, path, err);
        }
        ssize_t n = status == OMNI_OK ? read(fd, buffer + used, capacity - used) : 0;
        if (n > 0) {
            used += (size_t)n;
        } else if (n == 0) {
            break;
        } else if (errno != EINTR && errno != EAGAIN) {
            status = fail(err, OMNI_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        }
    }
    close(fd);
    if (status != OMNI_OK) {
        free(buffer);
        return status;
    }
    buffer[used] = 0;
    *data = buffer;
    *size = used;
    return OMNI_OK;
}
