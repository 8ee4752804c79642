/* Messages typed at a terminal: editing, history, completion, pasted texts, several lines.
 *
 * An editor of our own, since libedit keeps one code point a cell, so that marks, and what follows them, are lost on the screen; knows nothing of
 * pastes; leaves the bytes of sequences that it does not know in the line; and draws anew in the wrong place when the width changes. Readline's
 * licence is not ours. Characters and their widths are utf8proc's. */
#ifndef OMNI_CLI_LINE_EDITOR_H
#define OMNI_CLI_LINE_EDITOR_H

#include <stdbool.h>
#include <stddef.h>

typedef struct line_editor line_editor;

/* What Tab offers: texts that may stand in place of bytes [from, cursor). */
typedef struct completions {
    char **texts; /* owned; from malloc */
    size_t count;
    size_t from;
} completions;

typedef struct line_editor_params {
    const char *history; /* the file that keeps it; NULL: none */
    /* Whether Enter begins a new line, not ends the message; may take bytes away from the text's end. */
    bool (*goes_on)(char *text);
    /* False: Tab is text here. */
    bool (*complete)(const char *text, size_t cursor, completions *out);
} line_editor_params;

/* Keys come from standard input, which must be a terminal; what is shown goes to the terminal too, wherever standard output goes.
 * NULL when it cannot be used. */
line_editor *line_editor_create(const line_editor_params *params);

/* The next message, as UTF-8, lines apart by \n; valid until the next call. NULL at the end of input (Ctrl+D). Ctrl+C drops what is typed. On
 * SIGTERM and SIGHUP the terminal is put back before the program ends. */
char *line_editor_read(line_editor *e, const char *prompt);

void line_editor_remember(line_editor *e, const char *message);

void line_editor_destroy(line_editor *e);

#endif
