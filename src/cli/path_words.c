#define _GNU_SOURCE
#include "cli/path_words.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

void path_words_free(path_words *w) {
    for (size_t i = 0; i < w->count; i++) {
        free(w->paths[i]);
    }
    free(w->paths);
    *w = (path_words){0};
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* file:///PATH and file://localhost/PATH (RFC 8089), percent signs decoded, in place. Other addresses stay as they are. */
static void decode_address(char *word) {
    static const char scheme[] = "file://", host[] = "localhost";
    if (strncasecmp(word, scheme, sizeof scheme - 1) != 0) {
        return;
    }
    const char *from = word + sizeof scheme - 1;
    if (strncasecmp(from, host, sizeof host - 1) == 0) {
        from += sizeof host - 1;
    }
    if (*from != '/') {
        return;
    }
    char *to = word;
    while (*from) {
        int high = *from == '%' ? hex_digit(from[1]) : -1, low = high >= 0 ? hex_digit(from[2]) : -1;
        if (low >= 0 && (high || low)) {
            *to++ = (char)(16 * high + low);
            from += 3;
        } else {
            *to++ = *from++;
        }
    }
    *to = 0;
}

/* Cuts the word at *text off; *quote: the quote that was not closed, or 0. NULL when out of memory. */
static char *take_word(const char **text, char *quote) {
    const char *s = *text, *home = getenv("HOME");
    const bool tilde = s[0] == '~' && (!s[1] || s[1] == '/' || is_blank(s[1])) && home && *home;
    const size_t home_size = tilde ? strlen(home) : 0;
    char *word = malloc(home_size + strlen(s) + 1);
    if (!word) {
        return NULL;
    }
    char *to = word;
    if (tilde) {
        memcpy(to, home, home_size);
        to += home_size;
        s++;
    }
    *quote = 0;
    for (; *s && (*quote || !is_blank(*s)); s++) {
        if (*quote != '\'' && *s == '\\' && (!*quote || strchr("\"\\$`", s[1]))) {
            if (s[1]) {
                *to++ = *++s;
            }
        } else if (*s == *quote) {
            *quote = 0;
        } else if (!*quote && (*s == '\'' || *s == '"')) {
            *quote = *s;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
    *text = s;
    decode_address(word);
    return word;
}

static bool append(path_words *w, char *path) {
    char **larger = path ? realloc(w->paths, (w->count + 1) * sizeof *larger) : NULL;
    if (!larger) {
        free(path);
        return false;
    }
    w->paths = larger;
    w->paths[w->count++] = path;
    return true;
}

const char *path_words_split(const char *text, path_words *out) {
    *out = (path_words){0};
    if (*text && access(text, F_OK) == 0) {
        return append(out, strdup(text)) ? NULL : "out of memory";
    }
    char quote = 0;
    while (is_blank(*text)) {
        text++;
    }
    while (*text) {
        if (!append(out, take_word(&text, &quote))) {
            path_words_free(out);
            return "out of memory";
        }
        while (is_blank(*text)) {
            text++;
        }
    }
    if (quote) {
        path_words_free(out);
        return quote == '"' ? "a \" has no second one" : "a ' has no second one";
    }
    return NULL;
}

char *path_word_open(const char *word, char *quote) {
    return take_word(&word, quote);
}
