#define _GNU_SOURCE
#include "base/file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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

omni_status file_read(const char *path, size_t limit, char **data, size_t *size, omni_error *err) {
    *data = NULL;
    *size = 0;
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rbe");
    if (!f) {
        return fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    size_t capacity = 1 << 16, used = 0;
    char *buffer = malloc(capacity + 1);
    omni_status status = OMNI_OK;
    while (buffer) {
        used += fread(buffer + used, 1, capacity - used, f);
        if (used < capacity) {
            break;
        }
        if (used >= limit) {
            status = fail(err, OMNI_ERR_LIMIT, "%s: larger than the limit of %zu bytes", path, limit);
            break;
        }
        capacity *= 2;
        char *larger = realloc(buffer, capacity + 1);
        if (!larger) {
            free(buffer);
        }
        buffer = larger;
    }
    if (!buffer) {
        status = fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    } else if (status == OMNI_OK && ferror(f)) {
        status = fail(err, OMNI_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    } else if (status == OMNI_OK && used > limit) {
        status = fail(err, OMNI_ERR_LIMIT, "%s: %zu bytes, over the limit of %zu", path, used, limit);
    }
    if (f != stdin) {
        fclose(f);
    }
    if (status != OMNI_OK) {
        free(buffer);
        return status;
    }
    buffer[used] = 0;
    *data = buffer;
    *size = used;
    return OMNI_OK;
}

/* Whether a process of this number runs, as far as this process can see. */
static bool process_alive(long pid) {
    return pid > 0 && pid <= INT_MAX && (kill((pid_t)pid, 0) == 0 || errno != ESRCH);
}

/* Removes what earlier writers of path left when they were killed: PATH.part-PID where no such process runs and nobody holds the lock (the
 * writer may be one of another container, whose numbers mean nothing here). Failing to is no error. */
static void remove_stale(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    DIR *dir = folder ? opendir(folder) : NULL;
    size_t n = strlen(base);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (strncmp(name, base, n) != 0 || strncmp(name + n, ".part-", 6) != 0 || !isdigit((unsigned char)name[n + 6])) {
            continue;
        }
        char *end = NULL;
        long pid = strtol(name + n + 6, &end, 10);
        if (*end || process_alive(pid)) {
            continue;
        }
        int fd = openat(dirfd(dir), name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            unlinkat(dirfd(dir), name, 0);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    if (dir) {
        closedir(dir);
    }
    free(folder);
}

omni_status file_out_open(const char *path, file_out *out, omni_error *err) {
    *out = (file_out){.fd = -1};
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* said now: renaming would replace a device or a pipe, and fail for a folder */
        return fail(err, OMNI_ERR_IO, "%s: is %s: cannot be replaced by a file", path, S_ISDIR(st.st_mode) ? "a folder" : "a device or a pipe");
    }
    bool link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
    out->path = link ? realpath(path, NULL) : NULL;
    if (!out->path) { /* no link, or to nothing: then the link is replaced */
        out->path = strdup(path);
    }
    if (!out->path || asprintf(&out->temporary, "%s.part-%ld", out->path, (long)getpid()) < 0) {
        out->temporary = NULL;
        file_out_abandon(out);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    remove_stale(out->path);
    out->fd = open(out->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (out->fd < 0) {
        omni_status status = fail(err, OMNI_ERR_IO, "%s: cannot create: %s", out->temporary, strerror(errno));
        free(out->temporary);
        out->temporary = NULL;
        file_out_abandon(out);
        return status;
    }
    flock(out->fd, LOCK_EX | LOCK_NB); /* tells remove_stale() of others that it is in use; nothing depends on it here */
    return OMNI_OK;
}

omni_status file_out_check(const char *path, omni_error *err) {
    file_out trial;
    TRY(file_out_open(path, &trial, err));
    file_out_abandon(&trial);
    return OMNI_OK;
}

omni_status file_out_write_at(file_out *f, uint64_t offset, const void *data, size_t size, omni_error *err) {
    const char *p = data;
    while (size > 0) {
        ssize_t n = pwrite(f->fd, p, size, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return fail(err, OMNI_ERR_IO, "%s: cannot write %zu bytes at offset %llu: %s", f->temporary, size, (unsigned long long)offset,
                        n < 0 ? strerror(errno) : "nothing written");
        }
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return OMNI_OK;
}

omni_status file_out_commit(file_out *f, omni_error *err) {
    omni_status status = OMNI_OK;
    if (fsync(f->fd) != 0) {
        status = fail(err, OMNI_ERR_IO, "%s: cannot sync: %s", f->temporary, strerror(errno));
    } else if (rename(f->temporary, f->path) != 0) {
        status = fail(err, OMNI_ERR_IO, "%s: cannot rename to %s: %s", f->temporary, f->path, strerror(errno));
    } else {
        free(f->temporary);
        f->temporary = NULL;
    }
    file_out_abandon(f);
    return status;
}

void file_out_abandon(file_out *f) {
    if (f->fd >= 0) {
        close(f->fd);
    }
    if (f->temporary) {
        unlink(f->temporary);
    }
    free(f->temporary);
    free(f->path);
    *f = (file_out){.fd = -1};
}
