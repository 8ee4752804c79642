/* How one row's next token is chosen. The steps, in the order of vLLM's sampler and of llama.cpp's chain (bias, penalties, the rest), and of
 * transformers' logits processors where those have them:
 *   the bias of a list of tokens is added (minus infinity: banned), what the mask leaves out is banned,
 *   repetition penalty (the logit of a token of the history is divided by it when positive, multiplied when negative),
 *   frequency and presence penalty (OpenAI's: logit -= count * frequency + (count > 0) * presence, count: how often the answer has the token),
 *   suppression of [suppress_from, vocab) except keep,
 *   greedy: the largest logit, the lowest index on ties; or
 *   temperature, top-k (0: off), top-p (1: off), min-p (0: off), softmax, and a draw.
 * The random number is a pure function of (seed, stage, sequence, step, code), so an answer does not depend on what else is in the batch, and
 * no two draws of a conversation share one. */
#ifndef OMNI_TENSOR_SAMPLING_H
#define OMNI_TENSOR_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

/* Which model samples. */
typedef enum sample_stage { SAMPLE_THINKER, SAMPLE_TALKER, SAMPLE_PREDICTOR } sample_stage;

/* In place of an id. */
enum {
    SAMPLE_DAMAGED = -1, /* a logit is NaN or infinite */
    SAMPLE_NONE = -2,    /* nothing is allowed */
};

/* An entry of a history: how often the token occurs in the answer (at most SAMPLE_COUNT: more count as that many), and whether before it. */
enum { SAMPLE_COUNT = 0x7fff, SAMPLE_BEFORE = 0x8000 };

/* What the logits say as they came, before anything above: logarithms of their softmax, as vLLM and llama-server tell it by default. So they are
 * the model's own, comparable from one setting to another, and those of tokens that were banned are there too. */
enum { SAMPLE_TOP = 20 };
typedef struct sample_logprobs {
    float chosen;            /* of the token that was sampled */
    float top[SAMPLE_TOP];   /* the largest, in falling order, the lower id first on ties */
    int32_t ids[SAMPLE_TOP]; /* theirs */
} sample_logprobs;

typedef struct sample_bias {
    int32_t id;
    float bias;
} sample_bias;

typedef struct sample_row {
    bool greedy;
    float temperature; /* > 0 */
    int32_t top_k;
    float top_p, min_p;
    float repeat_penalty;                      /* 1: off */
    float frequency_penalty, presence_penalty; /* 0: off */
    /* The next five lie in the backend's memory; NULL: none. */
    uint16_t *history;       /* [vocab] SAMPLE_BEFORE and counts; sample() counts what it chooses. Without it no penalty applies */
    const sample_bias *bias; /* [bias_count] of different ids */
    const uint32_t *allowed; /* [(vocab + 31) / 32] bit i % 32 of word i / 32: token i is allowed */
    sample_logprobs *logprobs;
    float *raw;                       /* [vocab] for the logits as they came; needed for logprobs */
    int32_t bias_count, top_logprobs; /* entries of bias; wanted entries of logprobs->top, at most SAMPLE_TOP and vocab */
    int32_t suppress_from;            /* vocab or more: nothing suppressed */
    int32_t suppress_keep;            /* the one id above suppress_from that stays allowed; -1: none */
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
