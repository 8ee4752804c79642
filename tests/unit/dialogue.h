/* A conversation with an engine of its own, for tests of what omni_generate and omni_speak answer. */
#ifndef OMNI_TESTS_DIALOGUE_H
#define OMNI_TESTS_DIALOGUE_H

#include <stdlib.h>

#include "omni.h"

typedef struct dialogue {
    omni_engine *engine;
    omni_conversation *conversation;
} dialogue;

typedef struct dialogue_params {
    omni_conversation_params conversation;
    omni_engine_params engine;
} dialogue_params;

__attribute__((unused)) static dialogue_params dialogue_params_default(void) {
    return (dialogue_params){omni_conversation_params_default(), omni_engine_params_default()};
}

__attribute__((unused)) static void dialogue_set_context(dialogue_params *p, int64_t context) {
    p->conversation.context = p->engine.context = context;
}

/* NULL is fine. */
static void dialogue_destroy(dialogue *d) {
    if (d) {
        omni_conversation_free(d->conversation);
        omni_engine_destroy(d->engine);
        free(d);
    }
}

/* params NULL: the defaults. */
__attribute__((unused)) static omni_status dialogue_create(omni_model *model, const dialogue_params *params, dialogue **out, omni_error *err) {
    const dialogue_params p = params ? *params : (dialogue_params){omni_conversation_params_default(), omni_engine_params_default()};
    dialogue *d = calloc(1, sizeof *d);
    *out = NULL;
    if (!d) {
        *err = (omni_error){OMNI_ERR_MEMORY, "out of memory"};
        return OMNI_ERR_MEMORY;
    }
    omni_status status = omni_conversation_create(model, &p.conversation, &d->conversation, err);
    status = status == OMNI_OK ? omni_engine_create(model, &p.engine, &d->engine, err) : status;
    if (status != OMNI_OK) {
        dialogue_destroy(d);
        return status;
    }
    *out = d;
    return OMNI_OK;
}

/* A new conversation, of which nothing is known. */
__attribute__((unused)) static omni_status dialogue_reset(dialogue *d) {
    omni_status status = omni_conversation_reset(d->conversation);
    if (status == OMNI_OK) {
        omni_engine_forget(d->engine);
    }
    return status;
}

#endif
