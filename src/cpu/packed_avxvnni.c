/* The kernels for packed weights for AVX-VNNI; compiled for that instruction set and called only where the processor has it. */
#include "cpu/simd_packed_avx2.h"

#include "cpu/simd_packed.h"

void packed_avxvnni(cpu_kernels *k) {
    simd_packed_table(k);
}
