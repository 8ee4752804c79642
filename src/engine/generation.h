/* One call of omni_generate, shared by the files that make it up: generate.c (the loop), prefill.c (rows into the cache). */
#ifndef OMNI_ENGINE_GENERATION_H
#define OMNI_ENGINE_GENERATION_H

#include "engine/engine.h"
#include "engine/output.h"
#include "engine/receiver.h"

typedef struct generation {
    omni_session *s;
    omni_model *m;
    const omni_generate_params *params;
    receiver receiver;
    output output;
    trace *trace; /* NULL: none */
    conversation c;
    float *captured;    /* [batch, width] in the backend's memory: accepted hidden states of a pass, when traced */
    float *row;         /* [max(vocab, batch * width)] on the host, when traced */
    int64_t media_rows; /* of the prompt that are already read */

    uint64_t turn;     /* which answer of the conversation this is: its messages before it */
    token_list answer; /* every token drawn */
    token_list spoken; /* on their way to the talker */
    float position[3]; /* of the last row read */
    bool speaking, speech_ended;
    double started;
} generation;

/* engine/prefill.c */

/* Reads what of the prompt is not in the cache yet; the logits of its last row are there afterwards. */
omni_status prefill(generation *g, omni_result *result, omni_error *err);
/* Reads one more token. */
omni_status decode_step(generation *g, int32_t id, omni_error *err);

#endif
