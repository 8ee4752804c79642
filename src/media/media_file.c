#include "media/media_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST_READ = 1 << 16, STOP_CHECK_MS = 100 };

bool media_is_stream(const char *path) {
    struct stat st;
    return strcmp(path, "-") == 0 || (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode));
}

/* Waits until there is something to read, or the end. */
static omni_status wait_for(int fd, const budget *b, omni_error *err) {
    for (;;) {
        TRY(budget_stopped(b, err));
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, STOP_CHECK_MS);
        if (n > 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) { /* read() says what is wrong */
            return OMNI_OK;
        }
    }
}

typedef struct reading {
    char *data;
    size_t size, capacity; /* capacity is held in the budget */
} reading;

static omni_status grow(reading *r, size_t capacity, const char *name, budget *b, omni_error *err) {
    TRY(budget_hold(b, name, (int64_t)(capacity - r->capacity), err));
    char *larger = realloc(r->data, capacity);
    if (!larger) {
        budget_release(b, (int64_t)(capacity - r->capacity));
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %zu bytes", name, capacity);
    }
    r->data = larger;
    r->capacity = capacity;
    return OMNI_OK;
}

static omni_status read_all(int fd, const char *name, budget *b, reading *r, omni_error *err) {
    struct stat st;
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (regular && st.st_size > b->limits.file_bytes) {
        return budget_file(b, name, st.st_size, err);
    }
    /* one byte more than a file has: its end shows without growing again */
    TRY(grow(r, regular && st.st_size > 0 ? (size_t)st.st_size + 1 : FIRST_READ, name, b, err));
    for (;;) {
        if (r->size == r->capacity) {
            TRY(grow(r, r->capacity * 2, name, b, err));
        }
        if (!regular) {
            TRY(wait_for(fd, b, err));
        }
        ssize_t n = read(fd, r->data + r->size, r->capacity - r->size);
        if (n == 0) {
            break;
        }
        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            return fail(err, OMNI_ERR_IO, "%s: cannot read: %s", name, strerror(errno));
        }
        r->size += n > 0 ? (size_t)n : 0;
    }
    budget_release(b, (int64_t)(r->capacity - r->size));
    r->capacity = r->size;
    return OMNI_OK;
}

omni_status media_read(const char *path, budget *b, char **data, size_t *size, omni_error *err) {
    *data = NULL;
    *size = 0;
    bool standard = strcmp(path, "-") == 0;
    if (standard && b->standard_input_read) {
        return fail(err, OMNI_ERR_ARGUMENT, "- (standard input) can be one medium only: it was read already");
    }
    b->standard_input_read |= standard;
    /* without O_NONBLOCK, opening a named pipe waits for its writer where nothing can stop it */
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    reading r = {0};
    omni_status status = read_all(fd, standard ? "standard input" : path, b, &r, err);
    if (!standard) {
        close(fd);
    }
    if (status != OMNI_OK) {
        budget_release(b, (int64_t)r.capacity);
        free(r.data);
        return status;
    }
    *data = r.data;
    *size = r.size;
    return OMNI_OK;
}
