/* Grammars that say which texts an answer may be, in the GBNF notation of llama.cpp:
 *
 *     root   ::= item ("," " "? item){0,9}      # a comment
 *     item   ::= "yes" | "no" | number
 *     number ::= "-"? [0-9]+
 *
 * A rule is NAME ::= and alternatives divided by |; inside parentheses, behind ::= and around | a line may end. Terms: "text", [a-z^\]], [^...], .
 * (any character), a rule's name, ( ), <NAME> and <[ID]> (that token of the vocabulary, which its text does not stand for), each with ? * + {m} {m,}
 * {m,n} behind it. Escapes: \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH. The whole answer must be a root.
 *
 * It becomes an automaton over bytes whose states are made as they are met (grammar_states.h). A rule that can begin with itself is refused, and so
 * is one that cannot end; what is too large is OMNI_ERR_LIMIT. */
#ifndef OMNI_TEXT_GRAMMAR_H
#define OMNI_TEXT_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct grammar grammar;

/* The id of the token that is named (<NAME> or <[ID]>, size bytes), or -1. */
typedef int32_t grammar_find_token(const void *arg, const char *name, size_t size);

/* find: NULL: there are no tokens to name. Errors say in which line and column. */
omni_status grammar_parse(const char *text, size_t size, grammar_find_token *find, const void *arg, grammar **out, omni_error *err);
void grammar_free(grammar *g);

/* What stands for a token in the bytes that an automaton reads: no text has the first of them. */
enum { GRAMMAR_TOKEN_BYTE = 0xff, GRAMMAR_TOKEN_BYTES = 4 };
static inline void grammar_token_bytes(int32_t id, uint8_t out[GRAMMAR_TOKEN_BYTES]) {
    out[0] = GRAMMAR_TOKEN_BYTE;
    out[1] = (uint8_t)(id >> 16);
    out[2] = (uint8_t)(id >> 8);
    out[3] = (uint8_t)id;
}

/* ---- the automaton, for grammar_states.c ---- */

typedef struct grammar_byte_edge {
    uint8_t low, high;
    int32_t to;
} grammar_byte_edge;

/* A rule is called: its first state, and the state behind the call. */
typedef struct grammar_call_edge {
    int32_t rule, to;
} grammar_call_edge;

/* State 0 is the end of a rule. Edges of state q are [first[q], first[q + 1]). Every state can reach the end. A call that may read nothing is a free
 * edge besides, and one behind which its rule ends is nothing but a free edge. */
struct grammar {
    int32_t states, start;
    int32_t *first_byte, *first_free, *first_call;
    grammar_byte_edge *bytes;
    int32_t *frees;
    grammar_call_edge *calls;
    uint8_t class_of[256]; /* bytes of the same class are told apart by no edge */
    int32_t classes;
    uint8_t of_class[256]; /* a byte of each */
};

#endif
