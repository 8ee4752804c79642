/* The bytes of every token of a vocabulary as a tree, so that tokens which begin alike are looked at together. Made once for a tokenizer; not changed
 * afterwards, so that any number of threads may share it. */
#ifndef OMNI_TEXT_TOKEN_TRIE_H
#define OMNI_TEXT_TOKEN_TRIE_H

#include "text/tokenizer.h"

enum {
    TRIE_LENGTHS = 24, /* plain tokens are counted by their characters up to this */
    TRIE_NOT_PLAIN = 255,
    TRIE_MOST_DEPTH = 512, /* bytes of a token; longer ones are left out */
};

/* Nodes are in preorder; node 0 is the root. A token's bytes are those of its text, or, for an added one (<think>), grammar_token_bytes. Control
 * tokens, unused ones, and those that no text has (with byte FF) are in none.
 *
 * A plain token is one or more whole characters that may stand in a JSON string as they are: no control characters, ", \ and DEL. */
typedef struct token_trie {
    int32_t nodes, count; /* count: tokens in it */
    int32_t vocabulary;   /* ids are smaller */
    uint8_t *byte;        /* [nodes] that leads to it */
    uint16_t *depth;      /* [nodes] bytes up to there */
    int32_t *end;         /* [nodes] behind the last node below it */
    uint8_t *plain;       /* [nodes] the most characters of a token in and below it, if all of those are plain; else TRIE_NOT_PLAIN */
    int32_t *first;       /* [nodes + 1] tokens that end there: tokens[first[n]] to tokens[first[n + 1] - 1] */
    int32_t *tokens;      /* [count] */
    size_t words;         /* of 32 bits that a mask has */
    uint32_t *up_to;      /* [TRIE_LENGTHS + 1][words] masks: plain tokens of so many characters at most; the last: all plain ones */
    int32_t *ends;        /* [end_count] ids at which an answer ends */
    int32_t end_count;
} token_trie;

/* vocabulary: tokens of the model, of which the tokenizer may know fewer or more. */
omni_status token_trie_create(const tokenizer *t, int64_t vocabulary, token_trie **out, omni_error *err);
void token_trie_free(token_trie *trie);

#endif
