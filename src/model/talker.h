/* The talker: from a conversation and the answer's text, as it comes, to frames of codes (12.5 a second in the release).
 *
 * Its sequence is made of embeddings (reference: Qwen3OmniMoeForConditionalGeneration.generate and its _get_talker_..._parts):
 *   - the user turns of the prompt, other turns left out: text through text_projection of the thinker's token embedding, media
 *     through hidden_projection of the thinker's accepted hidden state;
 *   - the opening of the answer: <|im_start|> assistant newline, 4 x tts_pad, tts_bos, first token of the answer, each
 *     through text_projection; to the last six are added the codec embeddings nothink, think_bos, think_eos, voice, pad, bos;
 *   - then a row a frame: the sum of the last frame's code embeddings, plus the next token of the answer; behind the last
 *     token tts_eos once, then tts_pad.
 * Each row's output gives code 0 of a frame, the code predictor the rest; code 0 = codec_eos ends the speech.
 * So speech starts with the first token of the answer and then takes one token a frame.
 *
 * As in the reference the last token that the thinker samples is not spoken: push a token when it is fed back to the thinker,
 * which the last one (<|im_end|>, or where a limit cut the answer) never is.
 *
 *     talker          weights and config, shared
 *     talker_runner   working memory and key/value pool for a number of sequences stepped together
 *     talker_seq      one utterance
 */
#ifndef OMNI_MODEL_TALKER_H
#define OMNI_MODEL_TALKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf/gguf.h"
#include "model/code_predictor.h"
#include "model/decoder.h"
#include "model/positions.h"
#include "tensor/ops.h"

typedef struct talker_config {
    decoder_config decoder; /* its vocab: codes and codec specials */
    int64_t context_length;
    int64_t thinker_width;
    int32_t accept_hidden_layer; /* which hidden_states of the thinker the media rows are */
    int32_t groups;              /* codes a frame */
    int32_t codec_pad, codec_bos, codec_eos, codec_nothink, codec_think_bos, codec_think_eos;
    int32_t tts_pad, tts_bos, tts_eos, im_start, im_end, system, user, assistant; /* ids of the thinker's vocabulary */
    prompt_markup markup;                                                         /* vision_end and audio_end are -1: unused */
} talker_config;

typedef struct talker talker;

/* From a talker file. thinker_embd {thinker_width, thinker vocabulary}: the thinker's token table (all that is needed of the
 * thinker); what its view points to, the file and the backend must outlive the talker. */
omni_status talker_open(backend *b, gguf *g, const tensor *thinker_embd, talker **out, omni_error *err);
void talker_close(talker *t); /* NULL is fine */
const talker_config *talker_get_config(const talker *t);

/* Voices in the file's order; there is at least one. */
size_t talker_voice_count(const talker *t);
const char *talker_voice_name(const talker *t, size_t i);
/* Letter case is ignored (ASCII). NULL: chelsie, or the first voice when there is none of that name. An unknown name is
 * OMNI_ERR_ARGUMENT and the text lists the known ones. */
omni_status talker_find_voice(const talker *t, const char *name, size_t *out, omni_error *err);

typedef struct talker_runner talker_runner;
typedef struct talker_runner_params {
    int max_sequences;   /* stepped together */
    int64_t positions;   /* cached positions of all sequences together; 0: 8192, or context_length where that is less */
    int64_t each;        /* those of one, of which it gets no more: TALKER_FULL; 0: as many as there are, or context_length where that is less */
    int64_t prompt_rows; /* rows of a prompt computed at once; 0: 256 */
    dtype kv_type;       /* DTYPE_F32 or DTYPE_F16 */
} talker_runner_params;

/* Every sequence must be destroyed before the runner, the runner before the talker. */
omni_status talker_runner_create(const talker *t, const talker_runner_params *params, talker_runner **out, omni_error *err);
void talker_runner_destroy(talker_runner *r);

typedef struct talker_sampling {
    bool greedy; /* code 0 and the residual codes; the repetition penalty still applies, as in the reference */
    float temperature;
    int32_t top_k;
    float top_p, min_p;
    float repeat_penalty; /* over the code 0s of this utterance, as the next two (tensor/sampling.h) */
    float frequency_penalty, presence_penalty;
    int32_t residual_top_k; /* of codes 1 and up, whose temperature is 1 */
    float residual_top_p;
    uint64_t seed, sequence; /* draws are a function of seed, sequence, frame and group alone */
} talker_sampling;

/* The reference's: temperature 0.9, top-k 50, top-p 1, penalty 1.05; residual codes top-k 50, top-p 0.8. */
talker_sampling talker_sampling_default(void);

typedef struct talker_seq talker_seq;

omni_status talker_seq_create(talker_runner *r, talker_seq **out, omni_error *err);
void talker_seq_destroy(talker_seq *s);

typedef struct talker_prompt {
    /* The whole conversation as the thinker reads it (positions.h), up to and with the opening of the answer
     * (<|im_start|> assistant newline); what follows the newline, if anything, is the beginning of the answer. To speak a text
     * without a conversation, give just these three rows: the user part is then empty. */
    const prompt_row *rows;
    int64_t n;
    const prompt_media *media; /* what the rows' media numbers name */
    int32_t media_count;
    /* The thinker's hidden_states[accept_hidden_layer] of the media rows among rows (of every turn): [any number, thinker_width] in the backend's
     * memory, to be kept until the prompt has been read. NULL when there are none. */
    const float *media_hidden;
    /* Which row of media_hidden each of those media rows is, in their order; NULL: the first, the second, ... */
    const int32_t *media_hidden_row;
} talker_prompt;

/* Starts an utterance: forgets the last one, and plans the prompt's part, all that is possible without the answer's text; talker_read computes it.
 * prompt may go after the call, but for media_hidden. OMNI_ERR_LIMIT when the prompt is too long for the context. */
omni_status talker_begin(talker_seq *s, const talker_prompt *prompt, size_t voice, const talker_sampling *sampling, omni_error *err);
/* Rows of the prompt that are still to be read, before the first step. */
int64_t talker_unread(const talker_seq *s);
/* Reads at most so many of them. OMNI_ERR_LIMIT when the pool is too full: what was read stays. */
omni_status talker_read(talker_seq *s, int64_t most, omni_error *err);
/* The next tokens of the answer (ids of the thinker's vocabulary). They are queued; there is no need to step in between. */
omni_status talker_push_text(talker_seq *s, const int32_t *ids, int64_t n, omni_error *err);
/* No more text will come. */
void talker_finish_text(talker_seq *s);
/* The utterance is over: its blocks go back to the pool. */
void talker_end(talker_seq *s);
/* Tokens pushed but not yet spoken. */
int64_t talker_pending_text(const talker_seq *s);

typedef enum talker_event {
    TALKER_FRAME,      /* a frame was made */
    TALKER_NEEDS_TEXT, /* nothing done: push text or finish it */
    TALKER_END,        /* the talker ended the speech (or there was no text at all); no frame */
    TALKER_FULL,       /* the talker's context is full: this utterance gets no more frames */
    TALKER_NO_MEMORY,  /* nothing done: all blocks of the pool are in use; step again when another sequence has given some back */
} talker_event;

/* One step of n different sequences of the runner; events[i] says what became of seqs[i], codes[i * groups ...] (host memory)
 * its frame where one was made. A sequence's frames do not depend on which others are stepped with it. */
omni_status talker_step(talker_runner *r, talker_seq *const *seqs, int n, talker_event *events, int32_t *codes, omni_error *err);

/* The rows of the prompt part and their three position ids, for tests and traces: n rows, valid until the next talker_begin. */
const float (*talker_prompt_positions(const talker_seq *s, int64_t *n))[3];

#endif
