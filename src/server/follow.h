/* Answers of the engine, followed until they have ended: what endpoints share that turn events into their own shapes. */
#ifndef OMNI_SERVER_FOLLOW_H
#define OMNI_SERVER_FOLLOW_H

#include "server/internal.h"

typedef struct followed {
    omni_conversation *conversation; /* these three are given; the conversation may go once follow_all has returned */
    const char *text;                /* exactly this is said, and conversation not used; NULL: the conversation is answered */
    omni_generate_params params;
    omni_request *request; /* while it runs: for omni_request_cancel */
    double began;          /* server_now() when it was asked for; of the exchange unless set */
    bool ended, told_text; /* told_text: the time of its first token is known to the metrics */
    omni_status status;    /* once it has ended: OMNI_OK, or what err says */
    omni_error err;
    omni_result result;
    double seconds;              /* of sound so far */
    double heard_until, stutter; /* of a listener who plays it as it comes */
} followed;

/* Submits all n, calls begin once when that has worked, take for each event of the i-th but its end, and ended(i) then; returns when all have ended.
 * When the client goes away all are cancelled. An error: nothing was begun. Counts tokens and times for the log and the metrics. */
typedef struct follow_calls {
    void (*begin)(void *arg);
    void (*take)(void *arg, int i, const omni_event *e);
    void (*ended)(void *arg, int i);
    void *arg;
} follow_calls;
omni_status follow_all(server *s, exchange *x, followed *list, int n, const follow_calls *calls, omni_error *err);

/* The same piece by piece, for a thread that waits for other things as well: wake is called from the engine's thread whenever an event waits
 * (omni_request_set_wakeup). */
omni_status follow_submit(server *s, exchange *x, followed *one, void (*wake)(void *arg), void *arg, omni_error *err);
/* The next event, if one waits; one->ended after the last. */
bool follow_next(server *s, exchange *x, followed *one, omni_event *e);

/* A token with its logarithm of probability and those that could have been, as OpenAI has them: {"token", "logprob", "bytes", "top_logprobs"}. */
json_t *token_logprobs(const omni_event *e);

/* One event of a stream, "data: JSON", after "event: NAME" unless name is NULL. Takes value. */
void send_event(exchange *x, const char *name, json_t *value);

#endif
