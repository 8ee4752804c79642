/* A text being edited, and where its characters stand on a terminal. A character is a grapheme cluster: a letter with its marks. */
#ifndef OMNI_CLI_EDIT_TEXT_H
#define OMNI_CLI_EDIT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct edit_text {
    char *bytes; /* valid UTF-8, NUL-terminated; owned */
    size_t size, room;
    size_t cursor; /* at a character's start, or the end */
} edit_text;

/* At the cursor, which moves behind it; false when out of memory. */
bool edit_insert(edit_text *t, const char *s, size_t n);
bool edit_set(edit_text *t, const char *s);
/* Takes out bytes [from, to); the cursor goes to from. */
void edit_erase(edit_text *t, size_t from, size_t to);
void edit_free(edit_text *t);

/* The starts of the characters and words around a place. */
size_t edit_previous(const edit_text *t, size_t at);
size_t edit_next(const edit_text *t, size_t at);
size_t edit_word_left(const edit_text *t, size_t at);
size_t edit_word_right(const edit_text *t, size_t at);
size_t edit_line_start(const edit_text *t, size_t at);
size_t edit_line_end(const edit_text *t, size_t at);
/* The start of the character that holds the byte at. */
size_t edit_floor(const char *s, size_t size, size_t at);

/* A place on the screen, from the row of the prompt on. column may be the width: behind a full row, before the next character decides. */
typedef struct edit_place {
    size_t row, column;
} edit_place;

enum { EDIT_INDENT = 2 }; /* columns before every row that a newline begins */

/* Bytes of the character at s (n > 0 bytes left). */
size_t edit_character(const char *s, size_t n);
/* How a character is shown: itself, blanks for a tab, ^X for a control character. p: where it stands, moved behind it; returns its columns. */
size_t edit_step(edit_place *p, const char *s, size_t n, size_t columns);
/* Where the cursor is put for the byte at. prompt: the columns that the prompt takes. */
edit_place edit_where(const char *s, size_t size, size_t at, size_t prompt, size_t columns);

#endif
