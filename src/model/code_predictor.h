/* The code predictor: from the talker's hidden state and a frame's code 0 to the frame's other codes, one after the other.
 *
 * A small dense decoder with plain rotation whose sequence is one frame: the talker's hidden state, the talker's embedding of
 * code 0, then each sampled code through a table of its own; the output at position g + 1 goes through head g and gives code
 * g + 1 (reference: Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration). */
#ifndef OMNI_MODEL_CODE_PREDICTOR_H
#define OMNI_MODEL_CODE_PREDICTOR_H

#include <stdint.h>

#include "gguf/gguf.h"
#include "model/decoder.h"
#include "tensor/ops.h"

typedef struct code_predictor {
    backend *b;
    decoder_config config;
    decoder_weights weights;
    int32_t groups;   /* codes a frame, code 0 included */
    int64_t codebook; /* rows of each table: codes lie in [0, codebook) */
    tensor *table;    /* [groups - 1], {width, codebook}: table[g] embeds code g + 1 */
    tensor *head;     /* [groups - 1], {width, codebook}: head[g] scores code g + 1 */
} code_predictor;

/* From a talker file; width and groups are the talker's, which the file's must equal. The gguf must outlive the weights. */
omni_status code_predictor_load(backend *b, const gguf *g, int64_t width, int32_t groups, code_predictor *out, omni_error *err);
void code_predictor_free(code_predictor *p);

typedef struct predictor_runner predictor_runner;

/* Working memory for up to max_frames frames (of different sequences) at once. p must outlive it. */
omni_status predictor_runner_create(const code_predictor *p, int64_t max_frames, predictor_runner **out, omni_error *err);
void predictor_runner_destroy(predictor_runner *r);

/* hidden [frames, width]: the talker's hidden states after its final norm. code0_table: the talker's token table.
 * codes [groups][frames] with codes[0] given; the rest is written. sum [frames, width]: the sum of the embeddings of all of a
 * frame's codes. params[frame]: how to choose; its code counts for code 1 and is advanced by one a code here.
 * hidden, codes and sum lie in the backend's memory. Nothing is read back. */
omni_status predictor_run(predictor_runner *r, int64_t frames, const float *hidden, const tensor *code0_table, int32_t *codes, float *sum,
                          sample_row *params, omni_error *err);

#endif
