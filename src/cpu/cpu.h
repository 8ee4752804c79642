/* The CPU backend: every operation of tensor/ops.h at once on a thread pool, kernels chosen by what the processor can do. */
#ifndef OMNI_CPU_CPU_H
#define OMNI_CPU_CPU_H

#include "base/pool.h"
#include "tensor/ops.h"

/* threads: 0 takes one a usable core. OMNI_CPU=generic|avx2|avxvnni|avx512|avx512vnni|avx512bf16|amx|neon|dotprod|i8mm in the environment selects a
 * lesser instruction set (an unknown name, or one that this processor lacks, is an error). */
omni_status cpu_backend_create(int threads, backend **out, omni_error *err);
/* Takes p over, also when it fails. */
omni_status cpu_backend_create_on(pool *p, backend **out, omni_error *err);
void cpu_backend_destroy(backend *b);
/* keep: matrices taken up from now on stay as the file has them; linear maps over block formats are then slow. */
void cpu_backend_keep_rows(backend *b, bool keep);
/* The pool that the backend runs on, for host work of its own between operations. */
pool *cpu_backend_pool(backend *b);

#endif
