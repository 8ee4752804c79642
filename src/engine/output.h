/* The one filter between the tokens of an answer and those who get it: the reader (callbacks) and the talker. Tokens become text, stop strings
 * end it, reasoning and tool calls are told apart; what is withheld from the reader is not spoken, nor are reasoning and tool calls. */
#ifndef OMNI_ENGINE_OUTPUT_H
#define OMNI_ENGINE_OUTPUT_H

#include "engine/token_log.h"
#include "text/answer.h"
#include "text/spoken_tokens.h"
#include "text/tokenizer.h"

typedef struct output {
    receiver *to;
    const tokenizer *t;
    token_stream stream;
    char *text;            /* room for the text of one token */
    stop_matcher *stop;    /* NULL: no stop strings */
    answer_parser *parser; /* NULL: the reader gets the text as it is, and nobody speaks */
    spoken_tokens *spoken; /* NULL: nobody speaks */
    token_log log;         /* empty without params.logprobs */
    bool stopped;          /* by a stop string */
} output;

/* *o: what output_close takes, also after an error. speak: tokens are wanted by output_spoken. */
omni_status output_open(output *o, const tokenizer *t, receiver *to, bool speak, omni_error *err);
void output_close(output *o); /* right for a zeroed struct, too */

/* A token was sampled: shows what it completes. p: where params.logprobs asks for it; else NULL. o->stopped once a stop string has come.
 * OMNI_CANCELLED: nobody reads any more. */
omni_status output_token(output *o, int32_t id, const sample_logprobs *p, omni_error *err);
/* The answer has ended: shows what was held back. */
omni_status output_finish(output *o, omni_error *err);
/* Appends the tokens that may be spoken by now; after output_finish with last, all that will be. */
omni_status output_spoken(output *o, bool last, token_list *out, omni_error *err);
/* The last token is not spoken: it was not fed back to the model. */
void output_leave_out_last(output *o);

#endif
