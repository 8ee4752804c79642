#define _GNU_SOURCE
#include "cli/input.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/terminal_text.h"

enum { MAX_TEXT = 64 << 20 }; /* bytes */

static const char *shown(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

char *input_read(const char *path, size_t limit, size_t *size) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rbe");
    if (!f) {
        print_error("omni: %s: cannot open: %s\n", path, strerror(errno));
        return NULL;
    }
    size_t capacity = 1 << 16, used = 0;
    char *text = malloc(capacity + 1);
    while (text) {
        used += fread(text + used, 1, capacity - used, f);
        if (used < capacity || capacity > limit) {
            break;
        }
        capacity = capacity < limit / 2 ? 2 * capacity : limit + 1; /* one more byte tells a file of just that size from a larger one */
        char *larger = realloc(text, capacity + 1);
        if (!larger) {
            free(text);
        }
        text = larger;
    }
    char fault[64] = "";
    if (!text || ferror(f)) {
        snprintf(fault, sizeof fault, "%s", !text ? "out of memory" : strerror(errno));
    } else if (used > limit) {
        snprintf(fault, sizeof fault, "larger than %zu MiB", limit >> 20);
    }
    if (f != stdin) {
        fclose(f);
    }
    if (*fault) {
        print_error("omni: %s: %s\n", shown(path), fault);
        free(text);
        return NULL;
    }
    text[used] = 0;
    *size = used;
    return text;
}

char *input_read_text(const char *path) {
    size_t size = 0;
    char *text = input_read(path, MAX_TEXT, &size);
    if (!text) {
        return NULL;
    }
    const unsigned char *b = (const unsigned char *)text;
    const bool wide = size >= 2 && ((b[0] == 0xFF && b[1] == 0xFE) || (b[0] == 0xFE && b[1] == 0xFF));
    if (wide || memchr(text, 0, size)) {
        print_error("omni: %s: %s\n", shown(path), wide ? "is UTF-16: save it as UTF-8" : "not a text: there is a NUL byte in it");
        free(text);
        return NULL;
    }
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        memmove(text, text + 3, (size -= 3) + 1);
    }
    if (size > 0 && text[size - 1] == '\n') {
        text[--size] = 0;
    }
    if (size > 0 && text[size - 1] == '\r') {
        text[--size] = 0;
    }
    return text;
}

static int hex(char c) {
    return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

void input_unescape(char *text) {
    static const char from[] = "nrt'\"\\", to[] = "\n\r\t'\"\\";
    char *out = text;
    for (const char *s = text; *s;) {
        const char *which = *s == '\\' && s[1] ? strchr(from, s[1]) : NULL;
        if (which) {
            *out++ = to[which - from];
            s += 2;
        } else if (*s == '\\' && s[1] == 'x' && isxdigit((unsigned char)s[2]) && isxdigit((unsigned char)s[3]) && hex(s[2]) + hex(s[3]) > 0) {
            *out++ = (char)(hex(s[2]) << 4 | hex(s[3]));
            s += 4;
        } else {
            *out++ = *s++;
        }
    }
    *out = 0;
}

bool input_is_standard(const char *path) {
    struct stat a, b;
    if (strcmp(path, "-") == 0) {
        return true;
    }
    return stat(path, &a) == 0 && fstat(STDIN_FILENO, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
           (S_ISFIFO(b.st_mode) || S_ISSOCK(b.st_mode) || isatty(STDIN_FILENO));
}

bool input_read_twice(const char *name, const char *const *paths, size_t count) {
    size_t uses = 0;
    for (size_t i = 0; i < count; i++) {
        uses += paths[i] && input_is_standard(paths[i]);
    }
    if (uses > 1) {
        print_error("omni %s: standard input (-) can be read once, and is asked for %zu times\n", name, uses);
    }
    return uses > 1;
}

static omni_kind kind_of(const char *name) {
    return strcmp(name, "--image") == 0 ? OMNI_IMAGE : strcmp(name, "--audio") == 0 ? OMNI_AUDIO : OMNI_VIDEO;
}

omni_part *input_media(const flag_list *media) {
    omni_part *parts = calloc(media->count + 1, sizeof *parts);
    if (!parts) {
        print_error("omni: out of memory\n");
        return NULL;
    }
    for (size_t i = 0; i < media->count; i++) {
        const char *path = media->entries[i].value;
        parts[i] = (omni_part){.kind = kind_of(media->entries[i].name), .path = path};
        if (strcmp(path, "-") != 0 && access(path, R_OK) != 0) { /* said now, not after loading the model */
            print_error("omni: %s: cannot open: %s\n", path, strerror(errno));
            free(parts);
            return NULL;
        }
    }
    return parts;
}
