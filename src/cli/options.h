/* The flags that `run` and `speak` share: files, voice, seed, limits; and those for threads, which other commands have too. */
#ifndef OMNI_CLI_OPTIONS_H
#define OMNI_CLI_OPTIONS_H

#include "cli/args.h"
#include "omni.h"

typedef struct thread_options {
    int64_t threads, strict, poll;
    omni_scheduling scheduling;
} thread_options;

void thread_options_init(thread_options *t);
/* Appends the flags to list, which has room for THREAD_FLAGS more; returns how many. */
enum { THREAD_FLAGS = 5 };
size_t thread_options_flags(thread_options *t, flag *list);
/* After parsing: into the fields of a params struct. */
void thread_options_finish(const thread_options *t, int *threads, omni_scheduling *scheduling);

typedef struct options {
    omni_model_params model;
    omni_conversation_params conversation;
    omni_engine_params engine;
    omni_generate_params generate;
    const char *output, *prompt, *file; /* file: the prompt is read from it */
    bool greedy, json, escape, verbose;
    thread_options threads;
    int64_t seed; /* -1: a random one */
    int64_t max_frames;
    int64_t logprobs;                   /* -1: not given */
    int64_t context, top_k, max_tokens; /* these and the next have flags in `run` alone */
    double temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
} options;

/* Defaults for values that no flag sets. */
void options_init(options *o);
/* Appends the shared flags to list; returns how many. list has room for OPTIONS_FLAGS. */
enum { OPTIONS_FLAGS = 15 + THREAD_FLAGS };
size_t options_flags(options *o, flag *list);
/* --cache-type-k and --cache-type-v (f32, f16, q8_0; NULL: as it is); false after explaining a name that is none of these. */
bool options_cache_type(const char *text, omni_cache_type *type);
/* After parsing: copies the values into the params structs, and draws the seed when none was given. */
void options_finish(options *o);
/* The flags of sampling and limits that were given, into o->generate: again after a request in JSON, which they come before. */
void options_override(options *o);
/* Reads the prompt's file, if there is one, or carries out the escapes of the prompt: *prompt is the text, or NULL when there is none, and the
 * caller's to free. Returns -1 to go on, else the exit status, after reporting. */
int options_prompt(const options *o, const char *name, char **prompt);

#endif
