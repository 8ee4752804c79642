/* Importance matrices: for each matrix the mean square of every input column over a corpus, per expert for mixtures. Stored as llama.cpp
 * stores them: a GGUF file of general.type "imatrix" with tensors NAME.in_sum2 {columns, experts} (sums of squares) and
 * NAME.counts {1, experts} (rows summed). Its older files (imatrix.dat) are read too. All integers there are int32: the number of
 * entries; for each the name's length, the name, a count, the number of values, and the values as F32: means times the count; then,
 * if anything, the number of pieces read. */
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
/* The keys that say which importance a file was quantised with, as llama.cpp writes them. */
void imatrix_put_keys(const imatrix *m, gguf_writer *w);

#endif
