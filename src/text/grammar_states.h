/* The automaton of a grammar, made deterministic as it is walked.
 *
 * A place in a rule is a set of states of the grammar ("local": all that lie under the same stack are one set); a stack is a list of the sets behind
 * the calls that are open; a state is a set of pairs of both, at most one for a stack. All three are numbered and kept once, so that equal ones have
 * the same number and steps are looked up. What is kept is bounded: when that is used up, GRAMMAR_FULL is told, and after grammar_states_forget
 * all numbers but GRAMMAR_DEAD have lost their meaning. Not for several threads at once. */
#ifndef OMNI_TEXT_GRAMMAR_STATES_H
#define OMNI_TEXT_GRAMMAR_STATES_H

#include "text/grammar.h"

typedef struct grammar_states grammar_states;

/* Numbers of states: */
enum {
    GRAMMAR_DEAD = 0,       /* nothing can follow that would be right */
    GRAMMAR_FULL = -1,      /* no state: the memory that may be taken is used up */
    GRAMMAR_NO_MEMORY = -2, /* no state: malloc failed */
    GRAMMAR_TOO_WIDE = -3,  /* no state: so many ways to read what was read are open that following them all would take too long */
};
/* Numbers of stacks: */
enum { GRAMMAR_STACK_ROOT = 0, GRAMMAR_STACK_UNKNOWN = 1, GRAMMAR_STACKS = 2 };

typedef struct grammar_pair {
    int32_t local, stack;
} grammar_pair;

/* Keeps at most room bytes, about. NULL: out of memory. g must outlive it. */
grammar_states *grammar_states_create(const grammar *g, size_t room);
void grammar_states_free(grammar_states *s);
/* False: out of memory; it must be called again before anything else. */
bool grammar_states_forget(grammar_states *s);
/* Steps made, not looked up, and what they cost: grows with the time that was taken. */
uint64_t grammar_states_work(const grammar_states *s);

/* The state before the first byte. */
int32_t grammar_states_start(grammar_states *s);
int32_t grammar_states_step(grammar_states *s, int32_t state, uint8_t byte);
/* Whether what was read is a whole root; of a state under GRAMMAR_STACK_UNKNOWN, whether that stack's own was reached. */
bool grammar_states_ends(const grammar_states *s, int32_t state);
/* The pairs of a state; valid until the next call that may make one. */
const grammar_pair *grammar_states_pairs(const grammar_states *s, int32_t state, int32_t *count);

/* The state of one pair alone, of which calls are not followed before the first byte. */
int32_t grammar_states_alone(grammar_states *s, int32_t local, int32_t stack);
/* The state once what lies on top of a stack, which must not be one of the two above, is done with. */
int32_t grammar_states_behind(grammar_states *s, int32_t stack);
/* The local set after one byte; 0: the empty one. < 0: no state, see above. */
int32_t grammar_states_local_step(grammar_states *s, int32_t local, uint8_t byte);
/* Whether its rule may end there. */
bool grammar_states_local_ends(const grammar_states *s, int32_t local);

#endif
