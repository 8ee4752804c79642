/* The kernels for packed weights for NEON; every 64-bit ARM processor has it. */
#include "cpu/simd_packed_neon.h"

#include "cpu/simd_packed.h"

void packed_neon(cpu_kernels *k) {
    simd_packed_table(k);
}
