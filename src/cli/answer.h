/* One answer on the terminal: text to standard output as it comes, sound to a file, Ctrl+C, JSON summary. */
#ifndef OMNI_CLI_ANSWER_H
#define OMNI_CLI_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/progress.h"
#include "omni.h"

typedef struct collected {
    char *text;
    size_t size, capacity;
} collected;

typedef struct answer {
    const char *sound_path; /* NULL: no sound */
    bool json;              /* keep the text back and print one JSON object at the end */
    omni_sound *stream;     /* open, for several answers: sound_path names it; NULL: every answer opens sound_path and closes it */
    bool verbose;           /* timings after the answer, on standard error */
    uint64_t seed;          /* for JSON and timings: what params->seed is */
    double load_seconds;    /* for timings */
    progress bar;
    /* state of the running answer */
    omni_sound *sound;
    omni_error sound_error;
    bool sound_failed, text_failed;
    collected text, reasoning, calls, tokens; /* for JSON; calls, tokens: the entries of a list */
    bool last_was_newline, with_tokens;
} answer;

/* Runs omni_generate (text NULL) or omni_speak (text given, conversation NULL) with callbacks set. Returns the exit status; errors are reported, and
 * so is, without json, that a limit cut the answer or its speech. The sound file is complete and valid whatever the outcome, as long as any sound was
 * made. sample_rate: samples a second of the speech. While it runs, the signals of cli/stop.h stop the answer, and the exit status is 128 + the
 * signal's number (a second one ends the program); afterwards the former handlers are back. */
int answer_run(answer *a, omni_engine *engine, omni_conversation *conversation, omni_generate_params *params, const char *text, int sample_rate);

#endif
