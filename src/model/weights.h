/* Weights of one model part as a backend wants them: matrices by their use, vectors as F32.
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

/* A tensor of 1 to 4 dimensions that must exist with exactly this shape (ne order; -1: any), as the file has it, in the host's memory: to be read
 * here, or to be given to weights_place. */
omni_status weights_stored(weights *w, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...)
    __attribute__((format(printf, 6, 7)));
/* Makes a stored matrix one for the backend's operations: put into its memory, laid out as it likes best, and the pages of the file that held it are
 * given back; or left where it is, if that is how the backend likes it. */
omni_status weights_place(weights *w, weight_use use, tensor *t, omni_error *err);
/* weights_stored, then weights_place. */
omni_status weights_matrix(weights *w, weight_use use, tensor *out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...)
    __attribute__((format(printf, 7, 8)));
/* weights_matrix for a linear map {in, outs} among others of type `like`: where those are quantised, but this one is not, because `in` is
 * no multiple of a block, it is rounded to Q8_0 here, with zeros up to whole blocks, where the backend says rounds_floats. */
omni_status weights_linear_like(weights *w, dtype like, tensor *out, omni_error *err, int64_t in, int64_t outs, const char *name);
/* weights_place for a linear map {in, outs} or a convolution {in, kernel, outs} that goes with matrices of type `like`: where those are quantised,
 * but this one is not, it is rounded to Q8_0 here, zeros behind the inputs of each tap up to whole blocks, where the backend says rounds_floats. */
omni_status weights_place_rounded(weights *w, dtype like, tensor *t, omni_error *err);
/* As weights_place for a matrix that was made here: t->data may then go. */
omni_status weights_upload(weights *w, weight_use use, tensor *t, omni_error *err);
/* A vector of n values (stored as F32, F16 or BF16, shape {n} or {n, 1}), converted to F32 in the backend's memory. */
omni_status weights_vector(weights *w, const float **out, omni_error *err, int64_t n, const char *name_format, ...)
    __attribute__((format(printf, 5, 6)));
/* Memory of n zeroed values that lives as long as the weights (transformed parameters, fused biases). */
omni_status weights_memory(weights *w, size_t bytes, void **out, omni_error *err);

#endif
