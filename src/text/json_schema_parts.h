/* What json_schema.c makes grammars of strings and numbers with. */
#ifndef OMNI_TEXT_JSON_SCHEMA_PARTS_H
#define OMNI_TEXT_JSON_SCHEMA_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "text/text_buffer.h"

/* A text as a literal of the grammar, quotes included. */
void schema_put_literal(text_buffer *out, const char *s, size_t n);

/* A regular expression of ECMA 262 as a term that matches the inside of a JSON string. What it cannot express, and what two implementations
 * understand differently, is refused or left out of what it matches. least, most: the characters that a match has; most -1: any number. */
omni_status schema_put_pattern(text_buffer *out, const char *pattern, int64_t *least, int64_t *most, omni_error *err);
/* The same for the name of a format; false: it is unknown. */
bool schema_put_format(text_buffer *out, const char *format, int64_t *least, int64_t *most);

/* Numbers from low to high, both of which may be infinite; the bounds themselves unless they are excluded. Returns false when there is none. */
typedef struct schema_range {
    double low, high;
    bool without_low, without_high;
} schema_range;
bool schema_put_number(text_buffer *out, const schema_range *r, bool whole);

#endif
