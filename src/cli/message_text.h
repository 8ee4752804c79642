/* Messages of several lines: a line that ends in a backslash goes on, and so does a block between two """. */
#ifndef OMNI_CLI_MESSAGE_TEXT_H
#define OMNI_CLI_MESSAGE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the message goes on after its last line: it opens a block that is still open, or ends in a backslash that no other one
 * escapes. Such a backslash is taken away. */
bool message_goes_on(char *text);
/* Whether it begins with """ that no second """ ends. */
bool message_block_open(const char *text);
/* Takes white space off the end. */
void message_trim(char *text);
/* The message without the """ around a block, and without white space at its end; in place. *block: it was a block, so no command. */
char *message_finish(char *text, bool *block);

#endif
