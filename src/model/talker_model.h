/* What the talker's files share: its weights (talker_load.c), the prompt's part of a sequence (talker_prompt.c), the steps
 * (talker.c). */
#ifndef OMNI_MODEL_TALKER_MODEL_H
#define OMNI_MODEL_TALKER_MODEL_H

#include "model/kv_blocks.h"
#include "model/talker.h"

enum { TALKER_OPENING = 9 }; /* rows of the answer's opening; the last one takes the first token of the text */

/* fc2(silu(fc1 x)): from the thinker's width to the talker's. */
typedef struct talker_projection {
    tensor fc1, fc2;            /* {thinker_width, inner}, {inner, width} */
    const float *bias1, *bias2; /* [inner], [width] */
    int64_t inner;
} talker_projection;

struct talker {
    backend *b;
    talker_config c;
    decoder_weights weights;
    talker_projection text, hidden;
    tensor thinker_embd;
    code_predictor predictor;
    size_t voice_count;
    char **voice_names;
    int32_t *voice_ids; /* codec ids */
};

/* What a row of the talker's sequence is made of. */
typedef struct talker_row {
    int32_t text;  /* id of the thinker's vocabulary, or -1 */
    int32_t media; /* row of the prompt's media_hidden where text is -1 */
    int32_t codec; /* codec id whose embedding is added, or -1 */
} talker_row;

enum { ROW_IDS = 4 }; /* a row is made of at most */

struct talker_runner {
    const talker *t;
    int max_sequences;
    int64_t max_rows;      /* of a pass */
    int64_t max_positions; /* of a sequence */
    kv_pool *pool;
    decoder *d;
    predictor_runner *predictor;

    float *x;              /* [rows, width]: the decoder's input */
    void *memory;          /* in the backend: */
    float *in;             /* [rows, thinker_width] */
    float *mid;            /* [rows, inner of the projections] */
    float *packed, *codec; /* [rows, width]: projected rows by kind; codec embeddings */
    float *sum;            /* [sequences, width] */
    int32_t *ids;          /* [ROW_IDS, rows] what rows are made of */
    int32_t *codes;        /* [groups, sequences] */

    /* Host memory. */
    int32_t *host_ids;
    int32_t *host_codes;
    decoder_row *rows;
    talker_row *made;
    int32_t *outputs, *slots, *active;
    int32_t *table;
    int64_t table_room;
    sample_row *samples;
};

typedef enum seq_state { SEQ_IDLE, SEQ_OPENING, SEQ_SPEAKING, SEQ_ENDED } seq_state;

struct talker_seq {
    talker_runner *r;
    seq_state state;
    kv_seq kv;
    talker_sampling sampling;
    float delta; /* position of a row = number of cached positions + delta, behind the prompt */
    int64_t frames;
    float *sum;        /* backend [width]: embeddings of the last frame's codes */
    uint16_t *history; /* backend [vocab]: of the first codes (tensor/sampling.h) */
    int32_t *text;     /* queue of answer tokens */
    int64_t text_head, text_end, text_room;
    bool text_finished, eos_sent;
    float (*positions)[3]; /* of the prompt with the whole opening */
    int64_t prompt_rows;
    talker_row *plan; /* [prompt_rows] */
    int64_t planned;  /* of them are to be read before the first step */
    const float *media_hidden;
};

/* r->x[n, width], the decoder's input, for n rows, at most max_rows. media_hidden: as in talker_prompt. */
void talker_make_rows(talker_runner *r, const talker_row *rows, int64_t n, const float *media_hidden);

#endif
