/* The CPU backend: every operation of tensor/ops.h at once on a thread pool, kernels chosen by what the processor can do. */
#ifndef OMNI_CPU_CPU_H
#define OMNI_CPU_CPU_H

#include "base/pool.h"
#include "tensor/ops.h"

/* threads: 0 takes one a usable core. OMNI_CPU=generic|avx2|avx512|neon in the environment lowers the kernels' level
 * (an unknown name, or one that this processor lacks, is an error). */
omni_status cpu_backend_create(int threads, backend **out, omni_error *err);
void cpu_backend_destroy(backend *b);
/* The pool that the backend runs on, for host work of its own between operations. */
pool *cpu_backend_pool(backend *b);

#endif
