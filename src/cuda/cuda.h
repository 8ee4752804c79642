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

/* Cards that the driver offers. An error says in words why there is none: no driver, a driver too old, no card. */
omni_status cuda_cards(int *count, omni_error *err);
omni_status cuda_card_describe(int device, cuda_card *out, omni_error *err);

/* device: 0 to cards - 1. Destroyed with backend_destroy, from the thread that made it or another. */
omni_status cuda_backend_create(int device, backend **out, omni_error *err);

#ifdef __cplusplus
}
#endif

#endif
