/* The kernels for packed weights for AVX-512 with VNNI; compiled for those instructions and called only where the processor has them. */
#include "cpu/simd_packed_vnni.h"

#include "cpu/simd_packed.h"

void packed_avx512vnni(cpu_kernels *k) {
    simd_packed_table(k);
}
