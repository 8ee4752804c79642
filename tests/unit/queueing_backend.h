/* A backend for tests that is as strict as tensor/ops.h allows, around the CPU backend, whose results it gives bit for bit:
 *   - its memory is out of the host's reach: the addresses that alloc gives can be counted on from and handed to operations, but reading or writing
 *     there is a segmentation fault, at any time; what lies there really lies elsewhere, between pages that nobody may touch;
 *   - it queues: an operation is noted with what host arguments it has, and done at the next download, release or pack;
 *   - a pointer to host memory where the backend's is due, or the other way round, or a range that is not wholly within one piece of live memory,
 * ends the program with the names of the operation and the argument. Weights are no exception: it leaves none in the file's mapping. */
#ifndef OMNI_TESTS_QUEUEING_BACKEND_H
#define OMNI_TESTS_QUEUEING_BACKEND_H

#include <stdint.h>

#include "tensor/ops.h"

typedef struct queueing_counts {
    int64_t uploads, downloads, operations; /* operations: all others, copies included; memory and packing not */
    int64_t uploaded, downloaded;           /* bytes */
} queueing_counts;

/* On a CPU backend of so many threads. queue false: operations are done at once, under the same rules. */
omni_status queueing_backend_create(int threads, bool queue, backend **out, omni_error *err);
/* What it was asked for since the last call of this; a backend beside it counts its own. */
queueing_counts queueing_backend_count(backend *b);

#endif
