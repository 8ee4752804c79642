/* Command-line flags from a table: parsing, --help, and the nearest name for one that is unknown. */
#ifndef OMNI_CLI_ARGS_H
#define OMNI_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum flag_kind {
    FLAG_SET,    /* bool: true when given */
    FLAG_STRING, /* const char * */
    FLAG_INT,    /* int64_t, within [low, high] */
    FLAG_FLOAT,  /* double, within [low, high] */
    FLAG_ENTRY,  /* flag_list: appended, with the flag's name, in the order given */
} flag_kind;

typedef struct flag {
    const char *name, *alias; /* "--model", "-m"; alias may be NULL */
    flag_kind kind;
    void *value;
    const char *metavar, *help;
    double low, high;
} flag;

/* Values of repeatable flags in the order given; entries[i].name tells which. The array is the caller's to free. */
typedef struct flag_entry {
    const char *name, *value;
} flag_entry;

typedef struct flag_list {
    flag_entry *entries;
    size_t count;
} flag_list;

typedef struct command {
    const char *name;      /* "run" */
    const char *arguments; /* "CHECKPOINT_DIR", "" when none */
    const char *summary;   /* one line */
    const char *details;   /* paragraphs under the flags; may be NULL */
    const flag *flags;
    size_t flag_count;
} command;

/* Parses argv[1 ..]; positional arguments land in positional (at most max_positional). Returns -1 to go on, otherwise the exit
 * status: 0 after --help (on standard output), 2 after a mistake (explained on standard error). "--name=value" works too. */
int args_parse(const command *c, int argc, char **argv, const char **positional, size_t max_positional, size_t *positional_count);

/* The candidate that is likeliest meant by word (fewest edits, about a third of its letters at most); NULL when none is near. */
const char *args_nearest(const char *word, const char *const *candidates, size_t count);

#endif
