/* How one row's next token is chosen. The steps, in the order of transformers' logits processors:
 *   repetition penalty (a seen token's logit is divided by it when positive, multiplied when negative),
 *   suppression of [suppress_from, vocab) except keep,
 *   greedy: the largest logit, the lowest index on ties; or
 *   temperature, top-k (0: off), top-p (1: off), min-p (0: off), softmax, and a draw.
 * The random number is a pure function of (seed, stage, sequence, step, code), so an answer does not depend on what else is in the batch, and
 * no two draws of a conversation share one. */
#ifndef OMNI_TENSOR_SAMPLING_H
#define OMNI_TENSOR_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

/* Who draws. */
typedef enum sample_stage { SAMPLE_THINKER, SAMPLE_TALKER, SAMPLE_PREDICTOR } sample_stage;

typedef struct sample_row {
    bool greedy;
    float temperature; /* > 0 */
    int32_t top_k;
    float top_p, min_p;
    float repeat_penalty; /* 1: off */
    /* In the backend's memory: one byte a vocabulary entry, not 0 where the token has occurred; sample() marks what it chooses. NULL: none. */
    uint8_t *seen;
    int32_t suppress_from; /* vocab or more: nothing suppressed */
    int32_t suppress_keep; /* the one id above suppress_from that stays allowed; -1: none */
    uint64_t seed;
    sample_stage stage;
    uint64_t sequence; /* the turn of the conversation, say */
    uint32_t step;     /* the token of the answer, the frame of the speech */
    uint16_t code;     /* within a frame */
} sample_row;

/* Uniform in [0, 1) with 24 random bits: Philox 4x32-10 (Salmon et al., 2011) keyed by seed, counting (sequence, step). */
float random_uniform(uint64_t seed, uint64_t sequence, uint64_t step);
/* The number that this row's draw takes. */
float sample_uniform(const sample_row *row);

#endif
