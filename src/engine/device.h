/* Where a model is computed: on the processor, or on a card through libomni-cuda.so, which is looked for beside the program or library and then where
 * the system looks. */
#ifndef OMNI_ENGINE_DEVICE_H
#define OMNI_ENGINE_DEVICE_H

#include "omni.h"
#include "tensor/ops.h"

/* The backend that p->device asks for: NULL or "cpu"; "cuda" or "cuda:N"; "auto": the first card if there is one, with an error if the model's files
 * do not fit it, else the processor. Errors say what is missing: library, driver, card, memory. */
omni_status device_open(const omni_model_params *p, backend **out, omni_error *err);

#endif
