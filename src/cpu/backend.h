/* The CPU backend's own state, for the files that implement its operations. */
#ifndef OMNI_CPU_BACKEND_H
#define OMNI_CPU_BACKEND_H

#include "base/pool.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "tensor/ops.h"

enum { CPU_SCRATCH = 2 << 20 }; /* bytes of scratch a thread */

typedef struct cpu_backend {
    backend base; /* first: a backend pointer is a cpu_backend pointer */
    pool *pool;
    cpu_kernels k;
    uint8_t *scratch;                 /* CPU_SCRATCH bytes a thread, 64-byte aligned */
    packed_input *inputs;             /* CPU_INPUTS quantised blocks of a linear map's input */
    const input_collector *collector; /* NULL: none */
    bool keep_rows;                   /* weights are not repacked */
    char description[96];
} cpu_backend;

static inline cpu_backend *cpu_of(backend *b) {
    return (cpu_backend *)b;
}

static inline void *cpu_scratch(const cpu_backend *c, int thread) {
    return c->scratch + (size_t)thread * CPU_SCRATCH;
}

/* The kernel for packed weights of a block type and so many rows. */
static inline packed_kernel cpu_packed_kernel(const cpu_backend *c, dtype type, int64_t rows) {
    return c->k.packed_many[type] && rows >= c->k.packed_many_rows ? c->k.packed_many[type] : c->k.packed[type];
}

/* Rows (or other units) a piece so that a piece does about 32K simple steps: below that a thread costs more than it saves. */
static inline int64_t cpu_grain(int64_t steps_a_unit) {
    int64_t g = 32768 / (steps_a_unit < 1 ? 1 : steps_a_unit);
    return g < 1 ? 1 : g;
}

enum { CPU_INPUTS = 1 << 17 }; /* 4 million values */

/* Quantises rows of width values each, x_stride apart, on the pool; y has packed_blocks(width) blocks a row. */
void cpu_quantise(const cpu_backend *c, const float *x, int64_t rows, int64_t x_stride, int64_t width, packed_input *y);

/* Each fills its operations into the table. */
void cpu_linear_ops(ops *o);
void cpu_packed_ops(ops *o);
void cpu_conv_ops(ops *o);
void cpu_elementwise_ops(ops *o);
void cpu_attention_ops(ops *o);
void cpu_moe_ops(ops *o);

#endif
