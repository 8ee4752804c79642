/* What the engine keeps behind omni.h's opaque handles. */
#ifndef OMNI_ENGINE_ENGINE_H
#define OMNI_ENGINE_ENGINE_H

#include <stdatomic.h>

#include "cpu/cpu.h"
#include "engine/batch.h"
#include "engine/medium.h"
#include "engine/receiver.h"
#include "engine/speech.h"
#include "model/code2wav.h"
#include "model/talker.h"
#include "model/thinker.h"
#include "omni.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct omni_model {
    backend *b;
    gguf *thinker_file, *mmproj_file, *talker_file; /* mapped as long as the model: weights are used where they lie */
    thinker *thinker;
    tokenizer *tokenizer;
    encoders encoders;
    talker *talker;     /* NULL: no speech */
    code2wav *code2wav; /* with talker */
    _Atomic bool busy;  /* a call computes (engine/calls.h) */
};

struct omni_session {
    omni_model *model;
    omni_session_params params; /* zeros replaced */
    chat chat;
    medium *media; /* those of the conversation, in its order */
    size_t media_count;

    kv_pool *pool;
    kv_seq seq;
    batch *batch;
    decoder_row *rows;  /* [params.batch] */
    prompt_row *cached; /* [context]: the rows whose keys and values are in seq */
    int64_t cached_count;
    /* The accepted hidden states of the media rows among the cached ones, in their order: [media rows, width] in the backend's memory. */
    float *media_hidden;
    int64_t media_hidden_rows; /* room */

    uint8_t *seen;          /* [vocab] in the backend's memory: for the repetition penalty */
    int32_t *chosen;        /* one id, in the backend's memory */
    speech *speech;         /* NULL until the first speech */
    _Atomic bool cancelled; /* and no call has taken notice yet, or the one that runs has not returned */
    _Atomic bool busy;      /* a call runs (engine/calls.h) */
};

/* Seconds of the monotonic clock. */
double engine_now(void);

/* The pool that the parameters of a model ask for. */
omni_status engine_pool_create(int threads, const omni_scheduling *s, pool **out, omni_error *err);

/* engine/conversation.c: what the model reads. */

/* The conversation so far, laid out, its media encoded, expanded to rows; prompt_free releases *out. media_rows (prompt_media of every
 * medium) and inputs (their embeddings) are the caller's to free(). */
typedef struct conversation {
    prompt prompt;
    prompt_media *media;
    thinker_media *inputs;
    int32_t media_count;
} conversation;

omni_status conversation_prepare(omni_session *s, receiver *to, trace *t, conversation *out, omni_error *err);
void conversation_free(conversation *c);

/* engine/speak.c: s->speech with working memory for an utterance after so many prompt rows: what is there, or a larger one. */
omni_status session_speech(omni_session *s, int64_t rows, const omni_generate_params *params, omni_error *err);

static inline dtype engine_cache_type(omni_cache_type t) {
    return t == OMNI_CACHE_Q8_0 ? DTYPE_Q8_0 : t == OMNI_CACHE_F16 ? DTYPE_F16 : DTYPE_F32;
}

#endif
