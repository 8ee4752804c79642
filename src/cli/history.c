#define _GNU_SOURCE
#include "cli/history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/terminal_text.h"

/* One entry a line; a newline inside is \n, a backslash \\. */

char *history_default_path(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n = -1;
    if (state && *state == '/') {
        n = asprintf(&path, "%s/omni/history", state);
    } else if (home && *home == '/') {
        n = asprintf(&path, "%s/.local/state/omni/history", home);
    }
    return n < 0 ? NULL : path;
}

static void give_up(history *h) {
    print_error("omni: %s: the history is not kept: %s\n", h->path, strerror(errno));
    free(h->path);
    h->path = NULL;
}

static void drop_oldest(history *h) {
    free(h->entries[0]);
    memmove(h->entries, h->entries + 1, --h->count * sizeof *h->entries);
}

/* Takes entry over, NULL too. */
static void append(history *h, char *entry) {
    char **larger = entry ? realloc(h->entries, (h->count + 1) * sizeof *larger) : NULL;
    if (!larger) {
        free(entry);
        return;
    }
    h->entries = larger;
    h->entries[h->count++] = entry;
    if (h->count > HISTORY_MOST) {
        drop_oldest(h);
    }
}

/* NULL when it is larger than an entry may be, or out of memory. */
static char *escaped(const char *entry) {
    const size_t size = strlen(entry);
    char *line = size > HISTORY_ENTRY_MOST ? NULL : malloc(2 * size + 2), *to = line;
    if (!line) {
        return NULL;
    }
    for (const char *s = entry; *s; s++) {
        if (*s == '\n' || *s == '\\') {
            *to++ = '\\';
        }
        *to++ = *s == '\n' ? 'n' : *s;
    }
    *to++ = '\n';
    *to = 0;
    return line;
}

static void unescape(char *line) {
    char *to = line;
    for (const char *s = line; *s; s++) {
        if (*s == '\\' && s[1]) {
            s++;
            *to++ = *s == 'n' ? '\n' : *s;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

/* The folders above path; 0700 as the XDG specification has it. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* A regular file for its owner alone, opened; -1 with errno set. */
static int open_file(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    struct stat st;
    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    if (st.st_mode & 077) {
        fchmod(fd, 0600);
    }
    return fd;
}

static bool write_all(int fd, const char *s) {
    size_t size = strlen(s);
    while (size > 0) {
        ssize_t n = write(fd, s, size);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        s += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* Writes the entries to a file of their own, which then takes the place of the one that has grown. */
static void shorten(history *h) {
    char *name;
    if (asprintf(&name, "%s.XXXXXX", h->path) < 0) {
        return;
    }
    int fd = mkostemp(name, O_CLOEXEC); /* 0600 */
    bool ok = fd >= 0;
    for (size_t i = 0; ok && i < h->count; i++) {
        char *line = escaped(h->entries[i]);
        ok = !line || write_all(fd, line);
        free(line);
    }
    ok = fd >= 0 && close(fd) == 0 && ok;
    if (!ok || rename(name, h->path) != 0) {
        unlink(name);
    }
    free(name);
}

void history_open(history *h, const char *path) {
    *h = (history){0};
    if (!path || !(h->path = strdup(path))) {
        return;
    }
    int fd = open_file(path, O_RDONLY);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    if (!f) {
        if (errno != ENOENT && errno != ENOTDIR) {
            give_up(h);
        }
        return;
    }
    char *line = NULL;
    size_t room = 0, lines = 0;
    ssize_t n;
    while ((n = getline(&line, &room, f)) > 0) {
        lines++;
        line[n - (line[n - 1] == '\n')] = 0;
        if (n <= 2 * HISTORY_ENTRY_MOST && *line) {
            unescape(line);
            append(h, strdup(line));
        }
    }
    free(line);
    fclose(f);
    if (lines > 2 * HISTORY_MOST) {
        shorten(h);
    }
}

void history_add(history *h, const char *entry) {
    if (h->count > 0 && strcmp(h->entries[h->count - 1], entry) == 0) {
        return;
    }
    append(h, strdup(entry));
    char *line = h->path ? escaped(entry) : NULL;
    if (!line) {
        return;
    }
    int fd = open_file(h->path, O_WRONLY | O_CREAT | O_APPEND);
    if (fd < 0 && errno == ENOENT) {
        make_folders(h->path);
        fd = open_file(h->path, O_WRONLY | O_CREAT | O_APPEND);
    }
    if (fd < 0 || !write_all(fd, line)) {
        give_up(h);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(line);
}

void history_free(history *h) {
    for (size_t i = 0; i < h->count; i++) {
        free(h->entries[i]);
    }
    free(h->entries);
    free(h->path);
    *h = (history){0};
}
