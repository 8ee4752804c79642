#define _GNU_SOURCE /* memmem */
#include "engine/constraint.h"

#include <stdlib.h>
#include <string.h>

void constraint_cache_init(constraint_cache *c) {
    *c = (constraint_cache){0};
    pthread_mutex_init(&c->lock, NULL);
}

static void empty(struct kept_grammar *k) {
    free(k->key);
    token_grammar_drop(k->g);
    *k = (struct kept_grammar){0};
}

void constraint_cache_free(constraint_cache *c) {
    for (int i = 0; i < CONSTRAINTS_KEPT; i++) {
        empty(&c->kept[i]);
    }
    token_trie_free(c->trie);
    pthread_mutex_destroy(&c->lock);
}

/* With the lock held. */
static token_grammar *find(constraint_cache *c, const char *key) {
    for (int i = 0; i < CONSTRAINTS_KEPT; i++) {
        if (c->kept[i].key && strcmp(c->kept[i].key, key) == 0) {
            c->kept[i].used = ++c->uses;
            return token_grammar_hold(c->kept[i].g);
        }
    }
    return NULL;
}

/* In the place of the one that was not used for the longest time. Another thread may have been faster: then there are two, which does no harm. */
static void keep(constraint_cache *c, const char *key, token_grammar *g) {
    struct kept_grammar *oldest = &c->kept[0];
    char *copy = strdup(key);
    if (!copy) {
        return;
    }
    for (int i = 1; i < CONSTRAINTS_KEPT; i++) {
        oldest = c->kept[i].used < oldest->used ? &c->kept[i] : oldest;
    }
    empty(oldest);
    *oldest = (struct kept_grammar){copy, token_grammar_hold(g), ++c->uses};
}

static omni_status compile(constraint_cache *c, const tokenizer *t, int64_t vocabulary, const char *gbnf, token_grammar **out, omni_error *err) {
    pthread_mutex_lock(&c->lock);
    *out = find(c, gbnf);
    omni_status status = *out || c->trie ? OMNI_OK : token_trie_create(t, vocabulary, &c->trie, err);
    pthread_mutex_unlock(&c->lock);
    if (status != OMNI_OK || *out) {
        return status;
    }
    TRY(token_grammar_create(gbnf, strlen(gbnf), t, c->trie, out, err)); /* others need not wait for it */
    pthread_mutex_lock(&c->lock);
    keep(c, gbnf, *out);
    pthread_mutex_unlock(&c->lock);
    return OMNI_OK;
}

omni_status constraint_open(constraint_cache *c, const tokenizer *t, int64_t vocabulary, const chat *tools, const omni_generate_params *p,
                            token_grammar **out, omni_error *err) {
    *out = NULL;
    return p->grammar ? compile(c, t, vocabulary, p->grammar, out, err) : OMNI_OK;
}

bool constraint_model_reasons(gguf *g) {
    /* The template of a checkpoint that always reasons opens <think> in its answer; one that may do so opens and closes it at wish. */
    static const char opens[] = "<|im_start|>assistant\\n<think>\\n'";
    const char *name = "", *layout = "";
    if (gguf_maybe_str(g, "general.name", "", &name, NULL) != OMNI_OK || gguf_maybe_str(g, "tokenizer.chat_template", "", &layout, NULL) != OMNI_OK) {
        return false;
    }
    return strcasestr(name, "thinking") != NULL || strstr(layout, opens) != NULL;
}
