/* The vector kernels for AVX2; compiled for that instruction set and called only where the processor has it. */
#include "cpu/simd_avx2.h"

#include "cpu/simd_table.h"

void kernels_avx2(cpu_kernels *k) {
    simd_table(k);
    k->name = "AVX2";
}
