/* Where the time goes: a table of operations that stands before a backend's own and notes, for every operation and every kind of weight
 * ("linear blk.attn_q.weight": all layers together), calls, seconds, bytes and floating point operations.
 *
 * Costs two looks at the clock a call while it is on and nothing while it is off. The times are of operations that are done when they
 * return, as the CPU backend's are. Bytes are what must be moved at least once: weights that are used (for a mixture of experts the
 * distinct experts), inputs, outputs, and the cached keys and values that are attended to. */
#ifndef OMNI_TENSOR_PROFILE_H
#define OMNI_TENSOR_PROFILE_H

#include "base/error.h"
#include "tensor/ops.h"

typedef struct profile profile;

typedef struct profile_entry {
    char label[64];
    int64_t calls;
    double seconds, bytes, flops;
} profile_entry;

/* Starts noting; b->profile is set. One that was installed before goes on from zero. */
omni_status profile_install(backend *b, omni_error *err);
/* Between profile_pause and profile_resume the backend works as if there were none. */
void profile_pause(backend *b);
void profile_resume(backend *b);
/* The backend is as before. Fine when none is installed. */
void profile_remove(backend *b);

void profile_clear(profile *p);
profile_entry profile_total(const profile *p);
/* Memory was short, so that bytes and operations of some calls are not counted. */
bool profile_starved(const profile *p);
/* A table for people, the longest time first; the caller frees it. NULL when out of memory. */
char *profile_text(const profile *p);

#endif
