/* Half precision for the emulation (cuda_runtime.h): what src/cuda takes of CUDA's header. */
#ifndef EMULATED_CUDA_FP16_H
#define EMULATED_CUDA_FP16_H

#include <stdint.h>

extern "C" {
#include "tensor/tensor.h"
}

struct __half {
    uint16_t bits;
};

static inline __half __ushort_as_half(uint16_t bits) {
    return __half{bits};
}

static inline uint16_t __half_as_ushort(__half h) {
    return h.bits;
}

static inline float __half2float(__half h) {
    return f16_to_f32(h.bits);
}

static inline __half __float2half_rn(float x) {
    return __half{f16_from_f32(x)};
}

#endif
