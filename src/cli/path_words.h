/* Paths as people type them and as terminals paste dropped files: quotes, backslashes, ~, file:// addresses, several in a row. */
#ifndef OMNI_CLI_PATH_WORDS_H
#define OMNI_CLI_PATH_WORDS_H

#include <stddef.h>

typedef struct path_words {
    char **paths; /* count strings, owned */
    size_t count;
} path_words;

/* The paths in text, cut as a shell would: 'a b', "a b" and a\ b are one each, ~/ at the start is $HOME, file:///a%20b is /a b. Text that is
 * as a whole the name of something that exists is one path, whatever it holds. Returns NULL, or what is wrong, with *out empty. */
const char *path_words_split(const char *text, path_words *out);
void path_words_free(path_words *w);

/* The path of a word that may still be unfinished (no closing quote, a backslash at the end), for completion; NULL when out of memory.
 * *quote: the quote that is open, or 0. The caller frees it. */
char *path_word_open(const char *word, char *quote);

#endif
