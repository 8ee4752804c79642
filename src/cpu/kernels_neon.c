/* The vector kernels for NEON; compiled for that instruction set and called only where the processor has it. */
#include "cpu/simd_neon.h"

#include "cpu/simd_table.h"

void kernels_neon(cpu_kernels *k) {
    simd_table(k);
    k->name = "NEON";
}
