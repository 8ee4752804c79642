#define _GNU_SOURCE
#include "cli/complete.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <utf8proc.h>

#include "cli/chat_commands.h"
#include "cli/path_words.h"

static void add(completions *c, char *text) {
    char **larger = text ? realloc(c->texts, (c->count + 1) * sizeof *larger) : NULL;
    if (!larger) {
        free(text);
        return;
    }
    c->texts = larger;
    c->texts[c->count++] = text;
}

static void add_commands(const char *text, size_t cursor, completions *out) {
    for (size_t i = 0; chat_command_name(i); i++) {
        const char *name = chat_command_name(i);
        if (strncmp(name, text, cursor) == 0) {
            char *with_space = NULL;
            add(out, asprintf(&with_space, "%s%s", name, chat_command_takes_file(i) ? " " : "") < 0 ? NULL : with_space);
        }
    }
}

/* Where the word that ends at the cursor begins. */
static size_t word_start(const char *text, size_t from, size_t cursor) {
    char quote = 0;
    size_t start = from;
    for (size_t i = from; i < cursor; i++) {
        if (text[i] == '\\' && quote != '\'') {
            i++;
        } else if (quote) {
            quote = text[i] == quote ? 0 : quote;
        } else if (text[i] == '\'' || text[i] == '"') {
            quote = text[i];
        } else if (text[i] == ' ' || text[i] == '\t') {
            start = i + 1;
        }
    }
    return start;
}

/* The name as it has to be typed behind before, inside the quote if there is one. */
static char *typed(const char *before, size_t before_size, const char *name, char quote, const char *after) {
    char *text = malloc(before_size + 4 * strlen(name) + 3), *to = text;
    if (!text) {
        return NULL;
    }
    memcpy(to, before, before_size);
    to += before_size;
    for (const char *s = name; *s; s++) {
        if (quote == '\'' && *s == '\'') {
            memcpy(to, "'\\''", 4);
            to += 4;
            continue;
        }
        if (quote != '\'' && strchr(quote ? "\"\\$`" : " \t\"'\\$`&;()<>|*?[]#~!{}", *s)) {
            *to++ = '\\';
        }
        *to++ = *s;
    }
    if (quote && strcmp(after, "/") != 0) {
        *to++ = quote;
    }
    strcpy(to, after);
    return text;
}

/* Names with control characters, or that are no UTF-8, cannot be typed. */
static bool can_be_typed(const char *name) {
    utf8proc_int32_t code;
    for (utf8proc_ssize_t n; *name; name += n) {
        n = utf8proc_iterate((const utf8proc_uint8_t *)name, -1, &code);
        if (n <= 0 || code < 0x20 || (code >= 0x7F && code < 0xA0)) {
            return false;
        }
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_files(const char *word, completions *out) {
    char quote = 0, *path = path_word_open(word, &quote);
    if (!path) {
        return;
    }
    if (strcmp(word, "~") == 0) {
        add(out, strdup("~/"));
        free(path);
        return;
    }
    char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *typed_slash = strrchr(word, '/');
    size_t kept = typed_slash ? (size_t)(typed_slash + 1 - word) : 0;
    kept += kept == 0 && quote && *word == quote;
    const size_t base_size = strlen(base);
    char *folder = slash ? strndup(path, (size_t)(slash + 1 - path)) : strdup("./");
    DIR *d = folder ? opendir(folder) : NULL;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        const char *name = entry->d_name;
        char *full = NULL;
        struct stat st;
        if (strncmp(name, base, base_size) != 0 || (*name == '.' && base_size == 0) || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            !can_be_typed(name) || asprintf(&full, "%s%s", folder, name) < 0) {
            continue;
        }
        add(out, typed(word, kept, name, quote, stat(full, &st) == 0 && S_ISDIR(st.st_mode) ? "/" : " "));
        free(full);
    }
    if (d) {
        closedir(d);
    }
    if (out->count > 0) {
        qsort(out->texts, out->count, sizeof *out->texts, by_name);
    }
    free(folder);
    free(path);
}

bool complete_command(const char *text, size_t cursor, completions *out) {
    const size_t name = strcspn(text, " \t\n");
    if (*text != '/' || strchr(text, '\n')) {
        return false;
    }
    *out = (completions){0};
    if (cursor <= name) {
        add_commands(text, cursor, out);
        return true;
    }
    for (size_t i = 0; chat_command_name(i); i++) {
        if (strlen(chat_command_name(i)) == name && strncmp(chat_command_name(i), text, name) == 0 && chat_command_takes_file(i)) {
            out->from = word_start(text, name, cursor);
            char *word = strndup(text + out->from, cursor - out->from);
            if (word) {
                add_files(word, out);
            }
            free(word);
            return true;
        }
    }
    return false;
}
