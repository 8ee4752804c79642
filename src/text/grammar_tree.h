/* A grammar as its text says it: a tree for every rule. Made by grammar_parse.c, used up by grammar_build.c. */
#ifndef OMNI_TEXT_GRAMMAR_TREE_H
#define OMNI_TEXT_GRAMMAR_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/grammar.h"

typedef enum grammar_node_kind {
    GRAMMAR_CHAR,     /* one character of count ranges from a on */
    GRAMMAR_TOKEN,    /* a: a token's id */
    GRAMMAR_RULE,     /* a: a rule's number */
    GRAMMAR_SEQUENCE, /* a: the first child, or -1 */
    GRAMMAR_CHOICE,   /* a: the first child */
    GRAMMAR_REPEAT,   /* a: the child, low to high times; high -1: any number */
} grammar_node_kind;

typedef struct grammar_node {
    grammar_node_kind kind;
    int32_t a, count; /* count: of ranges */
    int32_t low, high;
    int32_t next; /* the next child of the same parent, or -1 */
} grammar_node;

/* Code points low to high, both included. A list of them is sorted and has no overlaps. */
typedef struct grammar_range {
    uint32_t low, high;
} grammar_range;

typedef struct grammar_rule {
    const char *name; /* in the grammar's text, size bytes */
    size_t size;
    int32_t body;          /* a node, or -1 until it is defined */
    int32_t defined, used; /* where in the text, used first */
} grammar_rule;

typedef struct grammar_tree {
    const char *text;
    grammar_node *nodes;
    grammar_range *ranges;
    grammar_rule *rules;
    int32_t node_count, node_room, range_count, range_room, rule_count, rule_room;
    int32_t *table; /* names of rules to their numbers, hashed */
    int32_t table_room;
    int32_t root;
} grammar_tree;

/* text must outlive the tree. *out is to be released with grammar_tree_free, after an error, too. */
omni_status grammar_tree_parse(const char *text, size_t size, grammar_find_token *find, const void *arg, grammar_tree *out, omni_error *err);
void grammar_tree_free(grammar_tree *t);
/* Line and column, both from 1 on, of a place in the text. */
void grammar_tree_place(const grammar_tree *t, int32_t at, int32_t *line, int32_t *column);

#endif
