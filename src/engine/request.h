/* One answer being made, from omni_request_submit to omni_request_free. The engine's step (step.c) moves it on; whoever asked for it reads its
 * events.
 *
 * Its rows are the prompt's and then every token that was sampled and is to be fed back. What the key/value sequence does not hold yet is computed
 * by the next steps, a prompt in chunks, a token at a time after that; a request whose blocks were taken away simply has all its rows to compute
 * again. */
#ifndef OMNI_ENGINE_REQUEST_H
#define OMNI_ENGINE_REQUEST_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/events.h"
#include "engine/media_item.h"
#include "engine/output.h"
#include "engine/prefix_cache.h"
#include "engine/sampler.h"
#include "engine/speech.h"

typedef enum request_state {
    REQUEST_WAITING,  /* for a slot and for cache blocks: no sequence yet */
    REQUEST_RUNNING,  /* text is being made */
    REQUEST_SPEAKING, /* the text is complete */
    REQUEST_ENDED,
} request_state;

struct omni_request {
    omni_engine *e;
    _Atomic int holders; /* the caller and the engine */
    _Atomic bool cancelled;
    event_queue events;

    /* What was asked for. Set by the caller's thread, not changed afterwards. */
    omni_generate_params params; /* what it points to is the request's own; the callbacks put events into the queue */
    uint64_t turn;               /* which answer of its conversation this is */
    bool speak_only;             /* a given text: no thinker */
    token_list said;             /* speak_only: its tokens */
    prompt rows;                 /* of the prompt, and the tokens to be fed back; of what the talker reads when speak_only */
    int64_t prompt_rows, rows_room;
    media_item **media; /* [media_count] held */
    prompt_media *media_rows;
    content_hash *contents; /* [media_count] what their rows are of */
    int32_t media_count;
    prefix_chain chain;     /* of rows */
    trace *trace;           /* NULL: none */
    token_grammar *grammar; /* what its answer must be; NULL: anything */

    /* The step's alone. */
    uint64_t number;                    /* by submission: smaller ones are older */
    struct omni_request *older, *newer; /* in one of the engine's lists */
    request_state state;
    kv_seq seq;
    bool has_seq;
    bool encoded;            /* every medium that has rows to compute */
    thinker_media *embedded; /* [media_count] embeddings, once encoded */
    token_list answer;       /* every token sampled */
    pthread_mutex_t asking;  /* held while params.mask is called, so that omni_request_free can wait for that */
    token_list spoken;       /* on their way to the talker */
    token_matcher matcher;   /* with grammar */
    sampler sampler;         /* from the first token to the end */
    int64_t wanted, chunk;   /* rows that it could take in this step's pass, and those that it gets */
    int64_t traced;          /* of its rows are in the trace */
    receiver receiver;
    output output;
    bool output_open;
    speech_stream *stream;                 /* NULL: it does not speak, or not yet */
    double submitted, admitted, answering; /* engine_now */

    /* The result: the step's until the end, then the reader's. */
    omni_result result;
    omni_status status;
    omni_error err;
};

/* The rows that are still to be computed. */
static inline int64_t request_pending(const omni_request *r) {
    return r->rows.n - r->seq.length;
}

/* Whether it needs embeddings before its rows can be computed. */
static inline bool request_encodes(const omni_request *r) {
    return r->state == REQUEST_RUNNING && !r->encoded;
}

bool request_is_cancelled(const omni_request *r);
/* The answer's tokens without the one that ends it. */
size_t request_answer_length(const omni_request *r);
/* One more row behind the others: a token that is to be fed back. */
omni_status request_append(omni_request *r, int32_t token, omni_error *err);
/* One holder fewer; the last one frees it. */
void request_drop(omni_request *r);

/* Appends what r, which has ended, has answered. */
omni_status conversation_keep_answer(omni_conversation *c, const omni_request *r, omni_error *err);

/* As omni_request_submit and omni_request_speak; the conversation has been entered (engine/calls.h). */
omni_status request_submit(omni_engine *e, omni_conversation *c, const omni_generate_params *params, omni_request **out, omni_error *err);
omni_status request_speak(omni_engine *e, const char *text, const omni_generate_params *params, omni_request **out, omni_error *err);

#endif
