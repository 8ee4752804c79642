/* The CUDA backend: tensor/ops.h on one NVIDIA card.
 *
 * Built into libomni-cuda.so, which the engine opens at run time (engine/device.h), so that one program runs with and without a card. */
#ifndef OMNI_CUDA_CUDA_H
#define OMNI_CUDA_CUDA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "tensor/ops.h"

/* What a card is and has; bytes. */
typedef struct cuda_card {
    char name[128];
    int major, minor; /* compute capability */
    int multiprocessors;
    size_t memory, memory_free;
} cuda_card;

#define CUDA_EXPORT __attribute__((visibility("default")))

/* Cards that the driver offers. An error says in words why there is none: no driver, a driver too old, no card. */
CUDA_EXPORT omni_status cuda_cards(int *count, omni_error *err);
CUDA_EXPORT omni_status cuda_card_describe(int device, cuda_card *out, omni_error *err);

/* device: 0 to cards - 1. Destroyed with backend_destroy, from the thread that made it or another. */
CUDA_EXPORT omni_status cuda_backend_create(int device, backend **out, omni_error *err);

/* What a program finds by name in the library. It was built with the same tensor/ops.h as the program if version and sizes are the program's own. */
typedef struct cuda_library {
    const char *version; /* OMNI_VERSION */
    size_t sizes[4];     /* of ops, backend, sample_row, kv_cache */
    omni_status (*cards)(int *count, omni_error *err);
    omni_status (*card_describe)(int device, cuda_card *out, omni_error *err);
    omni_status (*backend_create)(int device, backend **out, omni_error *err);
} cuda_library;

#define CUDA_LIBRARY_SIZES                                                                                                                           \
    { sizeof(ops), sizeof(backend), sizeof(sample_row), sizeof(kv_cache) }

CUDA_EXPORT extern const cuda_library omni_cuda_library;

#ifdef __cplusplus
}
#endif

#endif
