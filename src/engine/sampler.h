/* What choosing the tokens of one answer takes besides the logits, in one block of the backend's memory: the history that penalties go by, the bias,
 * the mask. Filled as the answer begins and kept until the request ends: a request whose cache blocks are taken away goes on with the same history.
 */
#ifndef OMNI_ENGINE_SAMPLER_H
#define OMNI_ENGINE_SAMPLER_H

#include "base/error.h"
#include "model/prompt.h"
#include "omni.h"
#include "tensor/ops.h"
#include "text/token_mask.h"

typedef struct sampler {
    void *memory;      /* the backend's, with the next four in it; each NULL when nothing asks for it */
    float *raw;        /* [vocab] for logprobs */
    uint16_t *history; /* [vocab] the prompt's tokens are marked by sampler_open, those of the answer counted by ops->sample */
    sample_bias *bias; /* [logit_bias_count of the params] */
    uint32_t *allowed; /* [(vocab + 31) / 32] of this step */
    uint32_t *words;   /* the same in the host's memory, for the callback */
} sampler;

/* Penalties and bias of the thinker's sampling. */
omni_status sampler_check(const omni_generate_params *p, int64_t vocab, omni_error *err);
/* A copy of p's logit bias, one entry for each id: biases of the same one are added, -100 and less become minus infinity. Right for what
 * sampler_check has passed. *out is the caller's to free. */
omni_status sampler_merge_bias(const omni_generate_params *p, omni_logit_bias **out, size_t *count, omni_error *err);

/* p: with a merged bias. constrained: there is a grammar, which takes a mask. An error leaves what sampler_close takes; so does {0}. */
omni_status sampler_open(sampler *s, backend *b, int64_t vocab, const omni_generate_params *p, bool constrained, const prompt_row *rows, int64_t n,
                         omni_error *err);
void sampler_close(sampler *s, backend *b);
/* Asks p->mask and the matcher, each of which may be NULL, what may come after the count tokens of the answer. OMNI_CANCELLED: the mask has returned
 * false. */
omni_status sampler_ask_mask(sampler *s, backend *b, int64_t vocab, const omni_generate_params *p, token_matcher *matcher, const int32_t *answer,
                             size_t count, omni_error *err);
/* How the token behind those is sampled; the caller sets where logprobs go. */
sample_row sampler_row(const sampler *s, int64_t vocab, const omni_generate_params *p, uint64_t turn, size_t count);

#endif
