/* What the commands share that write models in parts. */
#ifndef OMNI_CLI_SPLIT_H
#define OMNI_CLI_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

/* "500M" or "2G" (powers of 10, as llama.cpp counts) to bytes; false after explaining, for the command who, what else the text is. */
bool parse_split_size(const char *who, const char *text, uint64_t *bytes);
/* All parts are open until the last is written: allows this process as many open files as the system lets it. */
void allow_open_files(void);

#endif
