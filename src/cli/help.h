/* What is made of a command's table of flags: --help, its manual page, and its part of the completion scripts of bash, zsh and fish. */
#ifndef OMNI_CLI_HELP_H
#define OMNI_CLI_HELP_H

#include "cli/args.h"

typedef struct command_name {
    const char *name, *summary;
} command_name;

void help_print(const command *c);
/* --help=FORM: "man" prints the manual page; "bash", "zsh" and "fish" the command's part of the script that help_program_as prints;
 * "has" exits with 0 when the command has the flag that is given in name, without its dashes, else 1. Returns the exit status. */
int help_print_as(const command *c, const char *form, const char *name);

/* The whole program: omni.1, or a completion script, for which print_command prints the part of one command. Returns the exit status. */
int help_program_as(const char *form, const command_name *commands, size_t count, int (*print_command)(const char *name, const char *form));

#endif
