/* Schemas brought into a form without references and combinations: a list of flat ones, of which a value must match one. */
#ifndef OMNI_TEXT_JSON_SCHEMA_MERGE_H
#define OMNI_TEXT_JSON_SCHEMA_MERGE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

typedef struct schema_merger {
    const json_t *root; /* what $ref goes by */
    const char *place;  /* of the root, for errors */
    omni_error *err;
    int depth;
    size_t work;
} schema_merger;

/* *out: a new array of objects without $ref, allOf, anyOf, oneOf and words that only describe. at: where the schema is. */
omni_status schema_flatten(schema_merger *m, const json_t *schema, const char *at, json_t **out);
/* Whether the schema says nothing but $ref, or anyOf: then what it names can stand in its place. */
const char *schema_only_key(const json_t *schema);
omni_status schema_resolve(schema_merger *m, const json_t *ref, const char *at, const json_t **out);
/* The types that a flat schema allows, a bit each, 1 << json_type, with JSON_TRUE for booleans; numbers are JSON_REAL and JSON_INTEGER, integers
 * JSON_INTEGER. */
unsigned schema_types(const json_t *flat);
/* Whether schemas, both flat, certainly have no value in common. */
bool schema_apart(schema_merger *m, const json_t *a, const json_t *b, int depth);

omni_status schema_refuse(const schema_merger *m, const char *at, const char *key, const char *why);

#endif
