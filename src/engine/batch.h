/* Runs rows of any number of sequences through one decoder, in passes of a stated number of rows: prompts in chunks, single
 * steps of several sequences together, or both at once. It schedules nothing: it computes what it is given, in that order.
 *
 *     batch_create(...)                                  once
 *     kv_seq_init(pool, context, &seq, err)              a sequence
 *     batch_run(batch, inputs, count, ...)               prompt chunks and steps
 *     decoder_logits(batch_decoder(batch))               results, in the order of the inputs
 */
#ifndef OMNI_ENGINE_BATCH_H
#define OMNI_ENGINE_BATCH_H

#include "model/decoder.h"
#include "model/kv_blocks.h"

typedef struct batch batch;

/* rows: most rows of a pass. outputs: most results of one batch_run. table: most blocks that the sequences of one pass hold in
 * all. Everything given must outlive the batch; the pool's cache must be the decoder's. */
omni_status batch_create(backend *b, const decoder_config *config, const decoder_weights *w, kv_pool *pool, int64_t rows, int64_t outputs,
                         int64_t table, batch **out, omni_error *err);
void batch_destroy(batch *x);
decoder *batch_decoder(batch *x);

/* The next n rows of a sequence. slot and at of the rows are filled in; each attends to everything before it and to itself. */
typedef struct batch_input {
    kv_seq *seq; /* grows by n */
    const decoder_row *rows;
    int64_t n;
    int64_t outputs; /* how many of the last rows' results are wanted: 0, 1, ... n */
} batch_input;

typedef struct batch_options {
    bool logits;          /* results have logits too */
    bool extended;        /* the sequences have grown already: the rows are their last ones */
    int capture_layer;    /* for rows with `captured` (model/decoder.h) */
    int deepstack_layers; /* for rows with `deepstack` */
    /* Called before each pass but the first with the rows done so far; false cancels. May be NULL. */
    bool (*progress)(void *arg, int64_t done, int64_t total);
    void *arg;
} batch_options;

/* A sequence may occur once. Results of the inputs that want any stand one after the other in decoder_hidden and decoder_logits.
 * On an error or OMNI_CANCELLED every sequence has the length it had before (unless extended); OMNI_ERR_LIMIT when the pool is too full. */
omni_status batch_run(batch *x, const batch_input *inputs, int64_t count, const batch_options *options, omni_error *err);

#endif
