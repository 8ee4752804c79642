/* JSON Schema (draft 2020-12) as a grammar: every text that the grammar accepts is JSON that the schema accepts. Not the other way round; of several
 * ways to write the same thing the grammar has one, and where the schema leaves much open it takes less:
 *   - properties come in the order of the schema, then others; without additionalProperties only those that are named are written;
 *   - without type, keywords of one type mean that type; a number has up to 16 digits, a string up to 8192 characters;
 *   - between tokens stands nothing, a space, or a line end with up to 20 spaces.
 * Keywords: type, enum, const, anyOf, oneOf (of alternatives that exclude each other visibly), allOf, $ref within the schema, $defs; properties,
 * required, additionalProperties, minProperties, maxProperties; items, prefixItems, minItems, maxItems; minLength, maxLength, pattern, format (date,
 * time, date-time, uuid, email, hostname, ipv4, ipv6, uri); minimum, maximum, exclusiveMinimum, exclusiveMaximum; and those that only describe. All
 * others are refused by name and place. */
#ifndef OMNI_TEXT_JSON_SCHEMA_H
#define OMNI_TEXT_JSON_SCHEMA_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "text/text_buffer.h"

/* The schema's text to the grammar's, NUL-terminated and the caller's to free. */
omni_status json_schema_to_grammar(const char *json, size_t size, char **out, omni_error *err);

/* Reads a schema's text. *out is the caller's to json_decref. */
omni_status json_schema_load(const char *json, size_t size, json_t **out, omni_error *err);
/* Rules of a schema as part of a larger grammar: they are called NAME, NAME1, NAME2, ... and the common ones json-...; json_schema_common adds those,
 * once. place: what errors call the schema ("" for one by itself). */
omni_status json_schema_rules(const json_t *schema, const char *name, const char *place, text_buffer *out, omni_error *err);
void json_schema_common(text_buffer *out);

#endif
