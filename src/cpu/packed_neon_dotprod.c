/* The kernels for packed weights for NEON with dot products; compiled for those instructions and called only where the processor has
 * them. */
#include "cpu/simd_packed_neon.h"

#include "cpu/simd_packed.h"

void packed_neon_dotprod(cpu_kernels *k) {
    simd_packed_table(k);
}
