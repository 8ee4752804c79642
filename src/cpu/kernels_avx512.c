/* The vector kernels for AVX-512; compiled for that instruction set and called only where the processor has it. */
#include "cpu/simd_avx512.h"

#include "cpu/simd_table.h"

void kernels_avx512(cpu_kernels *k) {
    simd_table(k);
    k->name = "AVX-512";
}
