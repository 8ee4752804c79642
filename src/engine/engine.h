/* What the engine keeps behind omni.h's opaque handles. */
#ifndef OMNI_ENGINE_ENGINE_H
#define OMNI_ENGINE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/pool.h"
#include "engine/constraint.h"
#include "engine/decoder_runner.h"
#include "engine/encoding.h"
#include "engine/media_item.h"
#include "engine/medium.h"
#include "model/code2wav.h"
#include "model/talker.h"
#include "model/thinker.h"
#include "omni.h"
#include "text/chat.h"
#include "text/message_keys.h"
#include "text/tokenizer.h"

struct omni_model {
    backend *b;
    gguf *thinker_file, *mmproj_file, *talker_file; /* mapped as long as the model: weights are used where they lie */
    thinker *thinker;
    tokenizer *tokenizer;
    encoders encoders;
    talker *talker;     /* NULL: no speech */
    code2wav *code2wav; /* with talker */
    media_cache media_cache;
    constraint_cache constraints;
    bool reasons;              /* its answers begin with <think> */
    encoding *encoding;        /* under way; NULL: none. Of who has `computing` */
    pthread_mutex_t computing; /* held by who uses the backend: one step at a time, of whatever engine */
};

struct omni_conversation {
    omni_model *model;
    omni_conversation_params params; /* zeros replaced */
    chat chat;
    medium *media; /* those of the conversation, in its order */
    size_t media_count;
    _Atomic bool cancelled; /* and no call has taken notice yet, or the one that runs has not returned */
    _Atomic bool busy;      /* a call runs (engine/calls.h) */
    message_answer request; /* of the last omni_conversation_add_request: its stop strings may be in use, and so its biases as */
    omni_logit_bias *request_bias;
};

/* Seconds of the monotonic clock. */
double engine_now(void);

/* omni_model_open for any backend, which it takes over, also when it fails. Parameters that only make a backend (threads, scheduling, no_repack) have
 * no effect. */
omni_status model_open_on(backend *b, const omni_model_params *params, omni_model **out, omni_error *err);

/* The pool that the parameters of a model ask for. */
omni_status engine_pool_create(int threads, const omni_scheduling *s, pool **out, omni_error *err);

static inline dtype engine_cache_type(omni_cache_type t) {
    return t == OMNI_CACHE_Q8_0 ? DTYPE_Q8_0 : t == OMNI_CACHE_F16 ? DTYPE_F16 : DTYPE_F32;
}

#endif
