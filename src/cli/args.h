/* Command-line flags from a table: parsing, --help and what else is made of the table (cli/help.h), defaults from the configuration file
 * (cli/config.h), and the nearest name for one that is unknown. */
#ifndef OMNI_CLI_ARGS_H
#define OMNI_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum flag_kind {
    FLAG_SET,    /* bool: true when given */
    FLAG_STRING, /* const char * */
    FLAG_INT,    /* int64_t, within [low, high] */
    FLAG_COUNT,  /* int64_t, within [low, high], or -1: no limit */
    FLAG_FLOAT,  /* double, within [low, high] */
    FLAG_ENTRY,  /* flag_list: appended, with the flag's name, in the order given */
} flag_kind;

typedef struct flag {
    const char *name, *alias; /* "--model", "-m"; alias may be NULL */
    flag_kind kind;
    void *value;
    const char *metavar, *help; /* metavar: see args_is_path and args_choices */
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
    bool environment;      /* OMNI_NAME gives every flag --name that is not given */
    bool no_default_model; /* OMNI_MODEL and the configuration file give no model files */
} command;

/* Parses argv[1 ..], then takes what was not given from the environment and the configuration file; positional arguments land in positional
 * (at most max_positional). Returns -1 to go on, otherwise the exit status: 0 after --help (on standard output), 2 after a mistake (explained on
 * standard error). "--name=value" works too. */
int args_parse(const command *c, int argc, char **argv, const char **positional, size_t max_positional, size_t *positional_count);

/* Gives a flag its value; false after explaining what is wrong with it. where begins the explanation: "omni run", or a file and a line. */
bool args_set(const flag *f, const char *text, const char *where);

/* The flag of that name or alias, of length bytes; NULL: none. */
const flag *args_find(const command *c, const char *word, size_t length);

/* Whether the flag's value is a file or a folder: its metavar is "F", or ends in FILE, DIR or OUT before any point. */
bool args_is_path(const flag *f);

/* "f32 f16 q8_0" of the metavar "<f32|f16|q8_0>", the values that the flag takes, in out; NULL when it is no such list. */
enum { MAX_CHOICES = 128 };
const char *args_choices(const flag *f, char out[static MAX_CHOICES]);

/* The candidate that is likeliest meant by word: one edit of three letters (an insertion, a deletion, another letter, or two that changed
 * places), or a name that it begins with; NULL when none is that near. */
const char *args_nearest(const char *word, const char *const *candidates, size_t count);

#endif
