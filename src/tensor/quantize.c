#include "tensor/quantize.h"

#include "tensor/quantize_blocks.h"

bool quantize_row_generic(dtype type, const float *in, const float *importance, void *out, int64_t n) {
    return quantize_rows(type, in, importance, out, n);
}

bool quantize_row(dtype type, const float *in, const float *importance, void *out, int64_t n) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq");
        return (wide ? quantize_row_avx512 : quantize_row_avx2)(type, in, importance, out, n);
    }
#endif
    return quantize_row_generic(type, in, importance, out, n);
}
