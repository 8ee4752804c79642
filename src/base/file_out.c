#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* What is done with a name that nobody has yet; what: the path of a file that gets the name, for those that need one. */
typedef int (*use_name)(const char *name, const char *what, mode_t mode);

/* Finds a name beside path that does not exist, "PATH.part-RANDOM", and uses it; *name is then the caller's. Returns what use returned. */
static int with_new_name(const char *path, use_name use, const char *what, mode_t mode, char **name) {
    enum { TRIES = 100 };
    int result = -1;
    *name = NULL;
    for (int i = 0; i < TRIES; i++) {
        unsigned long long number = 0;
        if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number || asprintf(name, "%s.part-%016llx", path, number) < 0) {
            *name = NULL;
            return -1;
        }
        result = use(*name, what, mode);
        if (result >= 0) {
            return result;
        }
        int e = errno;
        free(*name);
        *name = NULL;
        errno = e;
        if (e != EEXIST) {
            break;
        }
    }
    return result;
}

static int open_named(const char *name, __attribute__((unused)) const char *what, mode_t mode) {
    return open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

enum { FD_PATH = 32 };

static void fd_path(int fd, char out[FD_PATH]) {
    snprintf(out, FD_PATH, "/proc/self/fd/%d", fd);
}

/* what: "/proc/self/fd/N" */
static int link_named(const char *name, const char *what, __attribute__((unused)) mode_t mode) {
    return linkat(AT_FDCWD, what, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

/* A second name for a file; where the file system knows no such thing, another name instead. */
static int keep_named(const char *name, const char *what, __attribute__((unused)) mode_t mode) {
    int result = linkat(AT_FDCWD, what, AT_FDCWD, name, 0);
    return result != 0 && (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS || errno == EMLINK) ? rename(what, name) : result;
}

/* The folder that path is in; the caller's to free(). */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
}

/* A file without a name, which vanishes with the process, however that ends; -1 where the file system has none, or no /proc to name it by. */
static int open_unnamed(const char *folder, mode_t mode) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    char path[FD_PATH];
    if (fd >= 0) {
        fd_path(fd, path);
        if (access(path, F_OK) != 0) {
            close(fd);
            fd = -1;
        }
    }
    return fd;
}

/* In a folder where everyone may make files but only remove their own (/tmp), someone else's file cannot be replaced, and someone else's link
 * may have been laid there to have a file of ours overwritten. */
static omni_status check_sticky(const char *path, const struct stat *entry, omni_error *err) {
    char *folder = folder_of(path);
    struct stat st;
    if (!folder) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    bool shared = stat(folder, &st) == 0 && (st.st_mode & S_ISVTX) && (st.st_mode & S_IWOTH);
    free(folder);
    const uid_t me = geteuid();
    bool link = S_ISLNK(entry->st_mode);
    if (!shared || entry->st_uid == me || (link ? entry->st_uid == st.st_uid : me == 0 || me == st.st_uid)) {
        return OMNI_OK;
    }
    return fail(err, OMNI_ERR_IO, "%s: is %s of another user in a folder that everyone may write to: not replaced", path, link ? "a link" : "a file");
}

/* Follows a link to what will be replaced. *existing: whether that is there, as *st says. */
static omni_status resolve(const char *path, char **target, bool *existing, struct stat *st, omni_error *err) {
    struct stat entry;
    *existing = false;
    *target = NULL;
    if (lstat(path, &entry) == 0) {
        TRY(check_sticky(path, &entry, err));
        if (stat(path, st) == 0) {
            *existing = true;
            *target = S_ISLNK(entry.st_mode) ? realpath(path, NULL) : NULL;
            if (S_ISLNK(entry.st_mode) && !*target && errno == ENOMEM) {
                return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
            }
        } else if (errno != ENOENT) {
            return fail(err, OMNI_ERR_IO, "%s: cannot follow the link: %s", path, strerror(errno));
        } /* else a link to nothing, which is replaced itself */
    }
    if (!*target) {
        *target = strdup(path);
    }
    return *target ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
}

/* Owner, group and rights of the file that will be replaced. Where the group cannot be kept, what it might do more than others is taken away:
 * it would be given to another group. */
static bool keep_rights(int fd, const struct stat *st) {
    struct stat now;
    mode_t mode = st->st_mode & 0777;
    if (fstat(fd, &now) != 0) {
        return false;
    }
    bool same_owner = now.st_uid == st->st_uid || fchown(fd, st->st_uid, (gid_t)-1) == 0;
    bool same_group = now.st_gid == st->st_gid || fchown(fd, (uid_t)-1, st->st_gid) == 0;
    (void)same_owner; /* who may not give files away becomes the owner, as with any program that replaces a file */
    if (!same_group) {
        mode &= ~(mode_t)070 | ((mode & 07) << 3);
    }
    return fchmod(fd, mode) == 0;
}

static omni_status open_new(file_out *out, bool existing, const struct stat *st, omni_error *err) {
    const mode_t mode = existing ? 0600 : 0666; /* less the umask */
    char *folder = folder_of(out->path);
    if (!folder) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", out->path);
    }
    out->fd = open_unnamed(folder, mode);
    free(folder);
    if (out->fd < 0) {
        out->fd = with_new_name(out->path, open_named, NULL, mode, &out->temporary);
    }
    if (out->fd < 0) {
        return fail(err, errno == ENOMEM ? OMNI_ERR_MEMORY : OMNI_ERR_IO, "%s: cannot create: %s", out->path, strerror(errno));
    }
    if (existing && !keep_rights(out->fd, st)) {
        return fail(err, OMNI_ERR_IO, "%s: cannot give the new file the rights of the old one: %s", out->path, strerror(errno));
    }
    return OMNI_OK;
}

static omni_status open_target(const char *path, file_out *out, omni_error *err) {
    bool existing;
    struct stat st;
    if (!*path) {
        return fail(err, OMNI_ERR_ARGUMENT, "the name of a file to write is empty");
    }
    TRY(resolve(path, &out->path, &existing, &st, err));
    if (existing && !S_ISREG(st.st_mode)) { /* said now: renaming would replace a device or a pipe, and fail for a folder */
        return fail(err, OMNI_ERR_IO, "%s: is %s: cannot be replaced by a file", path, S_ISDIR(st.st_mode) ? "a folder" : "a device or a pipe");
    }
    if (existing && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0) {
        return fail(err, OMNI_ERR_IO, "%s: exists and may not be written: %s", path, strerror(errno));
    }
    if (existing && st.st_nlink == 0) { /* /proc/self/fd/N of a file without a name: there is no name to replace */
        out->in_place = true;
        out->fd = open(path, O_RDWR | O_CLOEXEC | O_TRUNC);
        return out->fd >= 0 ? OMNI_OK : fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    if (existing) {
        TRY(check_sticky(out->path, &st, err));
    }
    return open_new(out, existing, &st, err);
}

omni_status file_out_open(const char *path, file_out *out, omni_error *err) {
    *out = (file_out){.fd = -1};
    omni_status status = open_target(path, out, err);
    if (status != OMNI_OK) {
        file_out_abandon(out);
    }
    return status;
}

omni_status file_out_check(const char *path, omni_error *err) {
    struct stat st;
    if (stat(path, &st) == 0 && st.st_nlink == 0) {
        return OMNI_OK; /* opening would empty it */
    }
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
            return fail(err, OMNI_ERR_IO, "%s: cannot write %zu bytes at offset %llu: %s", f->path, size, (unsigned long long)offset,
                        n < 0 ? strerror(errno) : "nothing written");
        }
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return OMNI_OK;
}

/* Whole and synced, under a name of its own beside the one that it shall have. */
static omni_status prepare(file_out *f, omni_error *err) {
    char from[FD_PATH];
    fd_path(f->fd, from);
    if (fsync(f->fd) != 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot sync: %s", f->path, strerror(errno));
    }
    if (!f->in_place && !f->temporary && with_new_name(f->path, link_named, from, 0, &f->temporary) < 0) {
        return fail(err, errno == ENOMEM ? OMNI_ERR_MEMORY : OMNI_ERR_IO, "%s: cannot be given its name: %s", f->path, strerror(errno));
    }
    return OMNI_OK;
}

/* Gives the name. keep: what had it before stays, as f->older, so that take_back can undo this. */
static omni_status take_name(file_out *f, bool keep, omni_error *err) {
    if (f->in_place) {
        return OMNI_OK;
    }
    struct stat st;
    const bool exists = keep && lstat(f->path, &st) == 0;
    if (exists && !S_ISREG(st.st_mode)) { /* since file_out_open */
        return fail(err, OMNI_ERR_IO, "%s: cannot be given its name, which no regular file has", f->path);
    }
    if (exists && with_new_name(f->path, keep_named, f->path, 0, &f->older) < 0) {
        return fail(err, errno == ENOMEM ? OMNI_ERR_MEMORY : OMNI_ERR_IO, "%s: the older file cannot be kept while others are written: %s", f->path,
                    strerror(errno));
    }
    if (rename(f->temporary, f->path) != 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot rename to %s: %s", f->temporary, f->path, strerror(errno));
    }
    free(f->temporary);
    f->temporary = NULL;
    f->named = true;
    return OMNI_OK;
}

/* After a failure: what had the name before has it again. */
static void take_back(file_out *f, omni_error *err) {
    if (f->older) {
        if (rename(f->older, f->path) != 0) {
            fail_in(err, OMNI_ERR_IO, "%s could not be put back and is now %s", f->path, f->older);
            return;
        }
        unlink(f->older); /* two names of one file: rename leaves both */
    } else if (f->named) {
        unlink(f->path);
    }
}

omni_status file_out_commit_all(file_out *const files[], size_t count, omni_error *err) {
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < count && status == OMNI_OK; i++) {
        status = prepare(files[i], err);
    }
    for (size_t i = 0; i < count && status == OMNI_OK; i++) {
        status = take_name(files[i], i + 1 < count, err); /* nothing can fail after the last */
    }
    for (size_t i = 0; i < count; i++) {
        if (status != OMNI_OK) {
            take_back(files[i], err);
        } else if (files[i]->older) {
            unlink(files[i]->older);
        }
        file_out_abandon(files[i]);
    }
    return status;
}

omni_status file_out_commit(file_out *f, omni_error *err) {
    return file_out_commit_all((file_out *const[]){f}, 1, err);
}

void file_out_abandon(file_out *f) {
    if (f->fd >= 0) {
        close(f->fd);
    }
    if (f->temporary) {
        unlink(f->temporary);
    }
    free(f->temporary);
    free(f->older);
    free(f->path);
    *f = (file_out){.fd = -1};
}

omni_status file_scratch_open(const char *folder, file_scratch *out, omni_error *err) {
    out->fd = open_unnamed(folder, 0600);
    if (out->fd < 0) {
        char *name, *base;
        if (asprintf(&base, "%s/omni-scratch", folder) < 0) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", folder);
        }
        out->fd = with_new_name(base, open_named, NULL, 0600, &name);
        int e = errno;
        free(base);
        if (out->fd < 0) {
            return fail(err, OMNI_ERR_IO, "%s: cannot create a file in this folder: %s", folder, strerror(e));
        }
        unlink(name);
        free(name);
    }
    fd_path(out->fd, out->path);
    return OMNI_OK;
}

void file_scratch_close(file_scratch *f) {
    if (f->fd >= 0) {
        close(f->fd);
    }
    *f = (file_scratch){.fd = -1};
}
