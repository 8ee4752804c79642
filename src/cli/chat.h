/* A conversation on the terminal, with line editing and history. */
#ifndef OMNI_CLI_CHAT_H
#define OMNI_CLI_CHAT_H

#include "cli/answer.h"

/* Reads messages until Ctrl+D or /quit; returns the exit status. system (may be NULL) is added again after /reset. With sound, every answer
 * goes to its own file: OUT.wav, then OUT-2.wav, ... media (by path; may be NULL) go with the first message. */
int chat(answer *a, omni_model *model, omni_session *session, omni_generate_params *params, const char *system, const omni_part *media,
         size_t media_count);

#endif
