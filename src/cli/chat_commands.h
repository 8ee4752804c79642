/* What a line that begins with / can ask for in a conversation. */
#ifndef OMNI_CLI_CHAT_COMMANDS_H
#define OMNI_CLI_CHAT_COMMANDS_H

#include <stdbool.h>

#include "omni.h"

/* Media for the next message. */
typedef struct chat_media {
    omni_part *parts; /* with room for one more, the text; paths are owned */
    size_t count;
    bool failed; /* one could not be added: without it the message must not be answered */
} chat_media;

bool chat_media_add(chat_media *m, omni_kind kind, const char *path);
void chat_media_forget(chat_media *m);

typedef struct chat_state {
    omni_model *model;
    omni_engine *engine;
    omni_conversation *conversation;
    omni_generate_params *params;
    const char *system; /* may be NULL */
    chat_media media;
    bool terminal; /* a person types */
} chat_state;

typedef enum chat_outcome {
    CHAT_NO_COMMAND, /* the line is text */
    CHAT_DONE,
    CHAT_FAILED, /* said why */
    CHAT_ANSWER, /* the conversation's last message is to be answered (again) */
    CHAT_END,
} chat_outcome;

/* Carries the line out when its first word is one of the commands; one without an argument must stand alone. On a terminal a line that is nearly
 * a command fails with a hint. The line is not changed. */
chat_outcome chat_command(chat_state *st, const char *line);

/* The names, for completion; NULL behind the last. takes_file: of command i. */
const char *chat_command_name(size_t i);
bool chat_command_takes_file(size_t i);

#endif
