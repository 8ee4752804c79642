/* The callbacks that an answer goes to. Once one of them has returned false, or the answer has been cancelled, none is called again, whatever is
 * still under way. */
#ifndef OMNI_ENGINE_RECEIVER_H
#define OMNI_ENGINE_RECEIVER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "omni.h"

typedef struct receiver {
    const omni_generate_params *params;
    const _Atomic bool *cancelled;  /* by omni_request_cancel */
    bool closed;                    /* a callback returned false */
    double first_text, first_audio; /* when the first was handed over (engine_now); 0: not yet */
} receiver;

/* Each hands over what the callback of that name in omni.h gets, where there is one, and returns false when nobody listens any more. Text,
 * reasoning and calls have the signatures of text/answer.h; arg is the receiver. */
bool receiver_text(void *arg, const char *text, size_t size);
bool receiver_reasoning(void *arg, const char *text, size_t size);
bool receiver_call(void *arg, const char *name, const char *arguments);
bool receiver_token(receiver *r, const omni_token *token, const omni_token *top, size_t top_count);
bool receiver_audio(receiver *r, const float *samples, size_t count);

#endif
