/* The messages typed before, kept between runs in a file that only its owner may read. */
#ifndef OMNI_CLI_HISTORY_H
#define OMNI_CLI_HISTORY_H

#include <stddef.h>

enum { HISTORY_MOST = 1000, HISTORY_ENTRY_MOST = 64 << 10 }; /* entries, bytes of one */

typedef struct history {
    char **entries; /* the oldest first; owned */
    size_t count;
    char *path; /* NULL: not kept */
} history;

/* $XDG_STATE_HOME/omni/history, or ~/.local/state/omni/history; NULL without a home. The caller frees it. */
char *history_default_path(void);
/* Reads what is there; path may be NULL. What cannot be read or written is said once, and the file left alone from then on. */
void history_open(history *h, const char *path);
/* Appends, unless it is the same as the last one; entries over HISTORY_ENTRY_MOST are not kept in the file. */
void history_add(history *h, const char *entry);
void history_free(history *h);

#endif
