/* Parsing JSON of unknown origin, and printing it. */
#ifndef OMNI_BASE_JSON_H
#define OMNI_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

/* A parsed value takes up to some 250 bytes, which three bytes of text ("{},") can ask for; so values are counted before anything is parsed: a
 * number or text as 1, a list as 5, an object as 10, some 25 bytes each. The tokenizer.json of the released model counts as 300,000, as 1,200,000
 * when its merges are pairs. */
enum { JSON_MOST_VALUES = 2000000 };

/* Parses size bytes of text with at most most_values values; flags are jansson's (JSON_REJECT_DUPLICATES, ...). *out is the caller's to
 * json_decref(). The error says what is wrong and in which line, not in which file; never a piece of the text. */
omni_status json_parse(const char *text, size_t size, size_t most_values, size_t flags, json_t **out, omni_error *err);

/* The text of a value, jansson's json_dumps with those flags; the caller's to free(). NULL: out of memory, which json_dumps does not always notice:
 * it leaves out names of an object's values. */
char *json_print(const json_t *value, size_t flags);

#endif
