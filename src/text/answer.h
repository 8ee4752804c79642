/* Reading an answer as it comes: stop strings, reasoning, tool calls. All of it works on pieces of text cut anywhere between characters. */
#ifndef OMNI_TEXT_ANSWER_H
#define OMNI_TEXT_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* ---- stop strings ---- */

/* Passes text on until one of several strings occurs; text that may be the beginning of one is held back until that is decided. The
 * string that ends first counts, of those the one that begins first; it is not passed on, nor is anything after it. */
typedef struct stop_matcher stop_matcher;

/* Copies count strings; empty ones are refused. */
omni_status stop_create(const char *const *strings, size_t count, stop_matcher **out, omni_error *err);
void stop_destroy(stop_matcher *m);
/* Takes size bytes. *text is what may be shown now, *text_size bytes owned by the matcher until the next call. Returns true once a stop
 * string has occurred; further calls then pass nothing on. An error is told by *text NULL (out of memory). */
bool stop_push(stop_matcher *m, const char *s, size_t size, const char **text, size_t *text_size);
/* The answer has ended otherwise: what was held back may be shown. */
void stop_flush(stop_matcher *m, const char **text, size_t *text_size);

/* ---- reasoning and tool calls ---- */

typedef struct answer_events {
    /* Text of the answer; may be NULL. Every callback returns false to stop. */
    bool (*on_text)(void *arg, const char *text, size_t size);
    /* Text of its reasoning. NULL: reasoning is text, tags and all. */
    bool (*on_reasoning)(void *arg, const char *text, size_t size);
    /* One whole tool call: its name, and its arguments as JSON text. A block that is no such JSON, and every one when this is NULL, is passed
     * on as text, tags and all. */
    bool (*on_call)(void *arg, const char *name, const char *arguments);
    void *arg;
    /* Says of every byte pushed, in order, whether it is to be spoken: text is, reasoning and <tool_call> blocks (well formed or not) are
     * not, whatever the callbacks above get. May come before the bytes are passed on to them. NULL: nobody speaks. */
    void (*on_spoken)(void *arg, size_t size, bool spoken);
} answer_events;

/* Splits "<think>REASONING</think>TEXT<tool_call>{"name": ..., "arguments": ...}</tool_call>..." as it comes. Newlines next to the tags
 * are dropped as the template adds them. Reasoning is taken only at the very start of an answer. */
typedef struct answer_parser answer_parser;

/* in_reasoning: the prompt already ended with <think>. */
omni_status answer_create(const answer_events *events, bool in_reasoning, answer_parser **out, omni_error *err);
void answer_destroy(answer_parser *p);
/* OMNI_CANCELLED when a callback returned false. */
omni_status answer_push(answer_parser *p, const char *s, size_t size, omni_error *err);
/* The answer's end: an unfinished tool call is passed on as text. */
omni_status answer_finish(answer_parser *p, omni_error *err);

#endif
