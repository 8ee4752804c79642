/* What an answer must be, from omni_generate_params to a compiled grammar. Grammars are kept with the model, so that requests which ask for the same
 * one share it and what its masks have found. */
#ifndef OMNI_ENGINE_CONSTRAINT_H
#define OMNI_ENGINE_CONSTRAINT_H

#include <pthread.h>

#include "gguf/gguf.h"
#include "omni.h"
#include "text/chat.h"
#include "text/token_mask.h"

enum { CONSTRAINTS_KEPT = 8 };

typedef struct constraint_cache {
    pthread_mutex_t lock;
    token_trie *trie; /* NULL: nobody has needed it */
    struct kept_grammar {
        char *key; /* what it was made of; NULL: empty */
        token_grammar *g;
        uint64_t used;
    } kept[CONSTRAINTS_KEPT];
    uint64_t uses;
} constraint_cache;

void constraint_cache_init(constraint_cache *c);
/* No request may hold one of its grammars any more. */
void constraint_cache_free(constraint_cache *c);

/* The grammar that the params ask for; NULL: none. tools: of the conversation. The caller drops *out. On any thread. */
omni_status constraint_open(constraint_cache *c, const tokenizer *t, int64_t vocabulary, const chat *tools, const omni_generate_params *p,
                            token_grammar **out, omni_error *err);
/* Whether a model's answers begin with reasoning: as its file's name and chat template say. */
omni_status constraint_model_reasons(gguf *g, bool *out, omni_error *err);

#endif
