/* The commands of the program, one file each. Each takes its own argv (argv[0] is the command's name) and returns the exit status:
 * 0 success, 1 failure, 2 wrong usage. */
#ifndef OMNI_CLI_COMMANDS_H
#define OMNI_CLI_COMMANDS_H

#include <stdbool.h>

#include "omni.h"

int command_run(int argc, char **argv);
int command_speak(int argc, char **argv);
int command_serve(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_imatrix(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_split(int argc, char **argv);
int command_merge(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_info(int argc, char **argv);
int command_tokenize(int argc, char **argv);

bool command_exists(const char *name);
/* Whether any command has the flag of this name, given without its dashes. */
bool command_has_flag(const char *name);

/* Prints "omni: TEXT" on standard error and returns 1. */
int report(const omni_error *err);

#endif
