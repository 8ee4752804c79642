/* POST /v1/responses, without memory of earlier ones: its request as one for chat completions (responses_request.c), and its answer, an object or a
 * stream of events with the names and shapes of OpenAI's clients (responses.c). */
#ifndef OMNI_SERVER_RESPONSES_H
#define OMNI_SERVER_RESPONSES_H

#include "server/internal.h"

/* What chat completions would be asked; a new reference. NULL: an error has been answered. */
json_t *responses_as_chat(exchange *x, const json_t *root);
/* Its parts, for others with the same shapes: one item goes to the end of the list of messages, whose i-th of the request it is; "tools" and
 * "tool_choice" of root go to chat. False: an error has been answered. */
bool responses_add_item(exchange *x, json_t *messages, const json_t *item, size_t i);
bool responses_read_tools(exchange *x, const json_t *root, json_t *chat);

#endif
