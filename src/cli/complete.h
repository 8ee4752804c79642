/* What Tab offers in a conversation: commands, and files behind those that take them. */
#ifndef OMNI_CLI_COMPLETE_H
#define OMNI_CLI_COMPLETE_H

#include "cli/line_editor.h"

/* Fits line_editor_params. False when the line is no command: Tab is text then. */
bool complete_command(const char *text, size_t cursor, completions *out);

#endif
