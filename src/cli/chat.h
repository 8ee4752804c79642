/* A conversation: on the terminal with line editing and history, or with messages from a pipe, one a line. */
#ifndef OMNI_CLI_CHAT_H
#define OMNI_CLI_CHAT_H

#include "cli/answer.h"

typedef struct chat_options {
    const char *system;     /* NULL: none */
    const omni_part *media; /* by path; for the first message */
    size_t media_count;
    bool keep_history;  /* what a person types is kept for the next run */
    bool context_shift; /* the oldest messages go when the context is full; without it a person is asked */
} chat_options;

/* Reads messages until Ctrl+D or /quit; returns the exit status. The conversation has the system message already; it is added again after /reset.
 * With sound, every answer goes to its own file: OUT.wav, then OUT-2.wav, ...; with "-" all go into one stream. The status is not 0 when anything
 * from a pipe could not be done. */
int chat(answer *a, omni_model *model, omni_engine *engine, omni_conversation *conversation, omni_generate_params *params,
         const chat_options *options);

#endif
