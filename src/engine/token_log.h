/* Tokens of an answer with their probabilities, on their way to the reader: each goes out just before the text that it adds to, and not at all when a
 * stop string withholds all of that. */
#ifndef OMNI_ENGINE_TOKEN_LOG_H
#define OMNI_ENGINE_TOKEN_LOG_H

#include "engine/receiver.h"
#include "tensor/sampling.h"
#include "text/tokenizer.h"

typedef struct logged_token {
    int32_t id;
    uint64_t start; /* where its text begins in the answer's */
    sample_logprobs probabilities;
} logged_token;

typedef struct token_log {
    logged_token *waiting; /* [count], the oldest first */
    size_t count, room;
    uint64_t text, shown; /* bytes of text that tokens have added, and that went on to the reader */
} token_log;              /* {0} is an empty one */

void token_log_free(token_log *l);
/* A token that adds size bytes of whole characters to the text. */
omni_status token_log_add(token_log *l, int32_t id, const sample_logprobs *p, size_t size, omni_error *err);
/* size more bytes of the text go to the reader now; all: nothing more is withheld. Hands out the tokens that they are of, with the top likeliest ones
 * of each. False: nobody listens any more. */
bool token_log_show(token_log *l, size_t size, bool all, int top, const tokenizer *t, receiver *to);

#endif
