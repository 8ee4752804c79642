/* A conversation: on the terminal with line editing and history, or with messages from a pipe, one a line. */
#ifndef OMNI_CLI_CHAT_H
#define OMNI_CLI_CHAT_H

#include "cli/answer.h"

/* Reads messages until Ctrl+D or /quit; returns the exit status. system (may be NULL) is added again after /reset. With sound, every answer
 * goes to its own file: OUT.wav, then OUT-2.wav, ...; with "-" all go into one stream. media (by path; may be NULL) go with the first message.
 * keep_history: what a person types is kept for the next run. The status is not 0 when anything from a pipe could not be done. */
int chat(answer *a, omni_model *model, omni_session *session, omni_generate_params *params, const char *system, const omni_part *media,
         size_t media_count, bool keep_history);

#endif
