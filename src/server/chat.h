/* POST /v1/chat/completions: what is asked (chat_request.c) and how it is answered (chat.c). */
#ifndef OMNI_SERVER_CHAT_H
#define OMNI_SERVER_CHAT_H

#include "server/internal.h"

typedef struct chat_request {
    omni_conversation *conversation;
    omni_generate_params params;
    int n;                      /* answers */
    bool stream, include_usage; /* usage: of the stream, in a chunk of its own */
    bool spoken;                /* with sound */
    const char *sound_format;   /* of omni_encoder_params; always "pcm16" in a stream */
    bool one_call;              /* "parallel_tool_calls": false */
    char voice[64];
} chat_request;

/* False: an error has been answered. */
bool chat_request_read(server *s, exchange *x, json_t *root, chat_request *out);
/* The same where the messages go on with a conversation, which stays the caller's; NULL: it begins one. After an error the conversation is as it was.
 */
bool chat_request_add(server *s, exchange *x, json_t *root, omni_conversation *conversation, chat_request *out);
void chat_request_free(chat_request *r);
/* A voice as requests name it, "ethan" or {"id": "ethan"}, NULL: none is named, which leaves out empty. False: an error about param has been
 * answered. */
bool read_voice(server *s, exchange *x, const json_t *voice, const char *param, char out[64]);

#endif
