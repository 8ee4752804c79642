/* What the machine can do at this moment: reading memory and float32 fused multiply-adds, on every thread of a pool at once. Other numbers are
 * measured against these, in the same run, because both change with the machine's load. */
#ifndef OMNI_BENCH_LIMITS_H
#define OMNI_BENCH_LIMITS_H

#include "base/error.h"
#include "base/pool.h"
#include "tensor/ops.h"

typedef struct limits {
    double read; /* bytes a second: median of several passes over a block far larger than caches of common machines */
    double fma;  /* floating point operations a second (a fused multiply-add counts two): median of several rounds; 0: not measured */
} limits;

/* Takes about a quarter of a second and 256 MB, which are given back. */
omni_status limits_measure(pool *p, limits *out, omni_error *err);

/* The same of a backend with memory of its own, from copies within it (bytes read and written); takes 512 MB of it. */
omni_status limits_measure_device(backend *b, limits *out, omni_error *err);

#endif
