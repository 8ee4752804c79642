/* Defaults of flags from the environment and from a file of the user's.
 *
 * OMNI_MODEL: what --model is when it is not given, a folder or a file.
 * OMNI_NAME, for commands that say so: --name.
 * $XDG_CONFIG_HOME/omni/config, or ~/.config/omni/config: a flag a line, without its dashes: "threads = 4", "greedy = true". # begins a comment.
 * Lines hold for every command that has the flag; those below "[run]" for `omni run` alone. The command line comes before OMNI_MODEL, and that
 * before the file; where one of the two gives the model, the file's mmproj and talker, which belong to another, are not taken. "~/" begins the
 * home folder where a value is a path. */
#ifndef OMNI_CLI_CONFIG_H
#define OMNI_CLI_CONFIG_H

#include "cli/args.h"

/* Sets the flags that are not given; given[i] tells of c->flags[i]. Returns -1 to go on, 2 after explaining a mistake. */
int config_apply(const command *c, bool *given);

#endif
