/* The kernels for packed weights for NEON with I8MM; compiled for those instructions and called only where the processor has them.
 *
 * Of these, USDOT is used: codes are unsigned, inputs signed, so weights that are held plus 128 need no instruction to become signed.
 * SMMLA, two rows times two outputs over eight inputs, would want vectors of eight inputs; packed vectors hold four. */
#include "cpu/simd_packed_neon.h"

#include "cpu/simd_packed.h"

void packed_neon_i8mm(cpu_kernels *k) {
    simd_packed_table(k);
}
