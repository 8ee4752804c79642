/* Importance matrices: for each matrix the mean square of every input column over a corpus, per expert for mixtures. Stored as llama.cpp
 * stores them: a GGUF file of general.type "imatrix" with tensors NAME.in_sum2 {columns, experts} (sums of squares) and
 * NAME.counts {1, experts} (rows summed). */
#ifndef OMNI_CONVERT_IMATRIX_H
#define OMNI_CONVERT_IMATRIX_H

#include "base/error.h"
#include "gguf/gguf.h"

typedef struct imatrix imatrix;

omni_status imatrix_open(const char *path, imatrix **out, omni_error *err);
void imatrix_close(imatrix *m);
/* Matrices it knows, pieces of the corpus it was made of (0: unknown). */
size_t imatrix_entries(const imatrix *m);
uint32_t imatrix_chunks(const imatrix *m);

/* *out[t->ne[0] * experts]: the means for the matrices of t one after the other, experts = ne[2] * ne[3]; zeros for an expert that the corpus
 * never reached. The caller frees it. NULL when the file has nothing for this tensor. Another shape is an error. */
omni_status imatrix_find(const imatrix *m, const tensor *t, float **out, omni_error *err);

#endif
