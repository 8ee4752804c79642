/* Weights of one model part as a backend wants them: matrices left where the file maps them, vectors as F32.
 *
 * A part keeps one `weights` beside its own structs of tensors and vectors; weights_free releases what loading made. The
 * gguf must stay open as long as the weights are used. */
#ifndef OMNI_MODEL_WEIGHTS_H
#define OMNI_MODEL_WEIGHTS_H

#include <stddef.h>

#include "gguf/gguf.h"
#include "tensor/ops.h"

typedef struct weights {
    backend *b;
    const gguf *g;
    void **memory; /* backend memory owned */
    size_t count, capacity;
    size_t bytes; /* of all weights fetched so far, as stored in the file */
} weights;

void weights_init(weights *w, backend *b, const gguf *g);
void weights_free(weights *w);

/* A matrix of 2 to 4 dimensions that must exist with exactly this shape (ne order). */
omni_status weights_matrix(weights *w, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...)
    __attribute__((format(printf, 6, 7)));
/* As weights_matrix, for a matrix that only linear or moe uses: laid out as the backend likes it best. The pages of the file that held
 * it are given back. */
omni_status weights_linear(weights *w, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...)
    __attribute__((format(printf, 6, 7)));
/* As weights_linear for a matrix {in, outs} among others of type `like`: where those are quantised, but this one is not, because `in` is
 * no multiple of a block, it is rounded to Q8_0 here, with zeros up to whole blocks, if the backend then has a layout for it. */
omni_status weights_linear_like(weights *w, dtype like, tensor *out, omni_error *err, int64_t in, int64_t outs, const char *name);
/* Lays out {inputs ..., outputs}, got by weights_matrix, as the backend likes it best: a convolution's kernel of F32, F16 or BF16, or a
 * matrix of any type. */
omni_status weights_kernel(weights *w, tensor *t, omni_error *err);
/* Moves {inputs ..., outputs} from host memory to the backend's, laid out as it likes best; t->data may then go. */
omni_status weights_upload(weights *w, tensor *t, omni_error *err);
/* A vector of n values (stored as F32, F16 or BF16, shape {n} or {n, 1}), converted to F32 in the backend's memory. */
omni_status weights_vector(weights *w, const float **out, omni_error *err, int64_t n, const char *name_format, ...)
    __attribute__((format(printf, 5, 6)));
/* Memory of n zeroed values that lives as long as the weights (transformed parameters, fused biases). */
omni_status weights_memory(weights *w, size_t bytes, void **out, omni_error *err);

#endif
