/* Lines typed at a terminal, with editing and history (libedit). */
#ifndef OMNI_CLI_LINE_EDITOR_H
#define OMNI_CLI_LINE_EDITOR_H

typedef struct line_editor line_editor;

/* NULL when the terminal cannot be used. */
line_editor *line_editor_create(void);

/* The next line, without its end, as UTF-8; valid until the next call. NULL at the end of input (Ctrl+D). Ctrl+C drops what is typed. */
char *line_editor_read(line_editor *e);

void line_editor_remember(line_editor *e, const char *line);

void line_editor_destroy(line_editor *e);

#endif
