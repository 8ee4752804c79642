/* Choosing one row's token on the host (tensor/sampling.h states the steps). */
#ifndef OMNI_TENSOR_SAMPLE_TOKEN_H
#define OMNI_TENSOR_SAMPLE_TOKEN_H

#include "tensor/sampling.h"

/* Overwrites logits[vocab], counts the token in p->history, fills p->logprobs and returns its id, SAMPLE_DAMAGED or SAMPLE_NONE. */
int32_t sample_token(float *logits, int64_t vocab, const sample_row *p);

/* The steps before the draw: turns logits into weights, e^((logit - largest) / temperature) or 0 where filtered out, not divided by
 * their sum. Returns the largest entry's index (the token that greedy takes), whose weight is 1; SAMPLE_DAMAGED or SAMPLE_NONE. */
int64_t sample_weights(float *logits, int64_t vocab, const sample_row *p);

#endif
