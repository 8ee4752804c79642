/* Which tokens may come next under a grammar, as a mask over the whole vocabulary.
 *
 * For every place in a rule, tokens are found once: those that stay within the rule are right whatever the stack; those in which the rule ends are
 * looked at again for the stack at hand. A place where a long run of plain characters may come (a JSON string) takes the plain tokens from a
 * mask that was made with the vocabulary, and only the others are walked. What was found is kept with the grammar, for all its sequences. */
#ifndef OMNI_TEXT_TOKEN_MASK_H
#define OMNI_TEXT_TOKEN_MASK_H

#include "text/grammar.h"
#include "text/token_trie.h"

/* A grammar compiled for a vocabulary. Any number of sequences, on any threads, share it. */
typedef struct token_grammar token_grammar;

/* trie must outlive it. The caller holds it once. Token names are looked up in t. */
omni_status token_grammar_create(const char *text, size_t size, const tokenizer *t, const token_trie *trie, token_grammar **out, omni_error *err);
token_grammar *token_grammar_hold(token_grammar *g);
/* The last one frees it. NULL is fine. */
void token_grammar_drop(token_grammar *g);

/* Where one answer is in its grammar. */
typedef struct token_matcher {
    token_grammar *g; /* held by whoever made the matcher */
    bool may_reason;  /* the answer may begin with <think>, and goes on with the grammar behind </think> */
    uint64_t version; /* of what g keeps: the state is worth something when it is the same */
    int32_t state;
    size_t read;   /* tokens of the answer */
    int reasoning; /* reason_state */
    int32_t think, think_end;
} token_matcher;

void token_matcher_init(token_matcher *m, token_grammar *g, const tokenizer *t, bool may_reason);

/* Clears the bits of the tokens that may not follow the count tokens of the answer; bits as in omni_generate_params.mask. The tokens at which an
 * answer ends are left where it may end. OMNI_ERR_LIMIT: the grammar needs too much memory or time here; OMNI_ERR_ARGUMENT: the answer is none of
 * the grammar's. */
omni_status token_matcher_allow(token_matcher *m, const int32_t *answer, size_t count, uint32_t *bits, omni_error *err);
/* Whether text is a whole root, and with NULL for the reason: for tests and tools. begins: it is the beginning of one. */
omni_status token_grammar_check(token_grammar *g, const char *text, size_t size, bool *begins, bool *whole, omni_error *err);

#endif
