/* The tensors of a run, collected and written as safetensors under the names that the reference tool uses. Every function accepts a NULL
 * trace and then does nothing, so callers need no conditions. */
#ifndef OMNI_ENGINE_TRACE_H
#define OMNI_ENGINE_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct trace trace;

omni_status trace_create(const char *path, trace **out, omni_error *err);
/* Adds a finished tensor. The first of a name counts; later ones are left out, as the reference tool does. */
void trace_f32(trace *t, const char *name, int n_dims, const int64_t *shape, const float *values);
void trace_i64(trace *t, const char *name, int n_dims, const int64_t *shape, const int64_t *values);
/* Appends rows of width values to a tensor that grows; trace_finish gives it the shape [1, rows, width] (width > 0), or [n] (width 0). */
void trace_append(trace *t, const char *name, const float *values, int64_t count, int64_t width);
void trace_append_codes(trace *t, const int32_t *codes, int64_t frames, int groups);
/* A tensor could not even be made: trace_finish fails. */
void trace_no_memory(trace *t);
/* Writes the file and frees t, whatever the outcome. groups: of "codes" [1, groups, frames], which are stored frame by frame. */
omni_status trace_finish(trace *t, omni_error *err);
void trace_abandon(trace *t);

#endif
