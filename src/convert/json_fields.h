/* Reading fields of a JSON object with errors that name file and field. The first error sticks: later reads do nothing, so a
 * group of reads is followed by one look at the status. */
#ifndef OMNI_CONVERT_JSON_FIELDS_H
#define OMNI_CONVERT_JSON_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct json_reader {
    const char *file;
    omni_status status;
    omni_error *err;
} json_reader;

/* An object and how to reach it ("thinker_config.text_config"); json is NULL after an error. */
typedef struct json_section {
    const json_t *json;
    char path[200];
} json_section;

/* Parses a text whose root must be an object; NULL after an error (r->status). Duplicate names are refused. The caller json_decref()s. */
json_t *json_parse_object(json_reader *r, const char *text, size_t size);

void json_fail(json_reader *r, const json_section *s, const char *field, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* A value that is there and not null, or NULL. */
const json_t *json_get(const json_section *s, const char *field);
json_section json_root(const json_t *object);
/* A nested object; required unless optional, when json is NULL in its absence. */
json_section json_object_at(json_reader *r, const json_section *s, const char *field, bool optional);

void json_u32(json_reader *r, const json_section *s, const char *field, uint32_t min, uint32_t max, uint32_t *out);
/* Left untouched when the field is absent; false then. */
bool json_maybe_u32(json_reader *r, const json_section *s, const char *field, uint32_t min, uint32_t max, uint32_t *out);
/* Finite numbers in [min, max]. */
void json_f32(json_reader *r, const json_section *s, const char *field, double min, double max, float *out);
bool json_maybe_f32(json_reader *r, const json_section *s, const char *field, double min, double max, float *out);
void json_bool(json_reader *r, const json_section *s, const char *field, bool *out);
bool json_maybe_bool(json_reader *r, const json_section *s, const char *field, bool *out);
/* NULL when absent (which is no error). */
const char *json_maybe_string(json_reader *r, const json_section *s, const char *field);
/* A list of min_count to max_count integers. */
void json_u32_list(json_reader *r, const json_section *s, const char *field, uint32_t min, uint32_t max, uint32_t *out, size_t min_count,
                   size_t max_count, size_t *count);
void json_f32_list(json_reader *r, const json_section *s, const char *field, double min, double max, float *out, size_t count);

#endif
