/* The message being typed, on the screen: only what has changed is drawn. Any terminal with ANSI sequences and automatic wrapping. */
#ifndef OMNI_CLI_SCREEN_H
#define OMNI_CLI_SCREEN_H

#include <stdbool.h>

#include "cli/edit_text.h"

typedef struct screen {
    int fd;
    const char *prompt; /* plain ASCII */
    size_t columns, rows;
    edit_text shown;   /* what is on the screen; its cursor is where the terminal's is */
    size_t top;        /* the first row shown: a text may be taller than the terminal */
    edit_place cursor; /* the terminal's */
    bool drawn;        /* the prompt is on the screen */
    char *out;
    size_t out_size, out_room;
} screen;

/* Asks for the terminal's size; when it has changed, the terminal is taken to have wrapped its lines anew. True when it has. */
bool screen_measure(screen *s);
/* Makes the screen show the text. */
void screen_draw(screen *s, const edit_text *t);
/* Goes below the text and forgets it. */
void screen_leave(screen *s);
/* The terminal has shown something else since: the text is drawn anew where the cursor is. */
void screen_forget(screen *s);
/* Clears the terminal. */
void screen_clear(screen *s);
void screen_write(screen *s, const char *text);
void screen_free(screen *s);

#endif
