/* Text that others wrote (the model, files, names of files) on its way to a terminal, which would obey the control characters in it: move the
 * cursor, hide what was said, set the title, type answers of its own.
 *
 * On a terminal such characters are shown instead: C0 and C1 controls, DEL, and the marks that turn the direction of writing, as "\u001b"; bytes
 * that are no UTF-8 as "\x9b". Line ends and tabs stay, and so do joiners and other characters without width, which scripts and emoji need.
 * In pipes and files nothing is changed. */
#ifndef OMNI_CLI_TERMINAL_TEXT_H
#define OMNI_CLI_TERMINAL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Bytes of the UTF-8 character at s, of which there are n > 0, and the character in *code; 0: there is no whole, valid one. */
size_t utf8_character(const char *s, size_t n, uint32_t *code);

/* Whether a terminal would obey this character rather than show it; line end and tab are left to the caller. */
bool obeyed_by_terminals(uint32_t code);

/* Writes text, as above when to is a terminal. It must not end inside a character. False when writing failed. */
bool write_text(FILE *to, const char *text, size_t size);

/* printf and, on standard error, its like: whatever the arguments hold. */
__attribute__((format(printf, 2, 3))) void print_text(FILE *to, const char *format, ...);
__attribute__((format(printf, 1, 2))) void print_error(const char *format, ...);

#endif
