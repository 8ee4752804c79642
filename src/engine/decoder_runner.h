/* Runs rows of any number of sequences through one decoder, in passes of a stated number of rows: prompts in chunks, decode
 * steps of several sequences together, or both at once. It schedules nothing: it computes what it is given, in that order.
 *
 *     decoder_runner_create(...)                         once
 *     kv_seq_init(pool, context, &seq, err)              a sequence
 *     decoder_runner_run(runner, inputs, count, ...)     prompt chunks and decode steps
 *     decoder_logits(decoder_runner_decoder(runner))     results, in the order of the inputs
 */
#ifndef OMNI_ENGINE_DECODER_RUNNER_H
#define OMNI_ENGINE_DECODER_RUNNER_H

#include "model/decoder.h"
#include "model/kv_blocks.h"

typedef struct decoder_runner decoder_runner;

/* rows: most rows of a pass. outputs: most results of one decoder_runner_run. table: most blocks that the sequences of one pass hold in
 * all. Everything given must outlive the runner; the pool's cache must be the decoder's. */
omni_status decoder_runner_create(backend *b, const decoder_config *config, const decoder_weights *w, kv_pool *pool, int64_t rows, int64_t outputs,
                                  int64_t table, decoder_runner **out, omni_error *err);
void decoder_runner_destroy(decoder_runner *x);
decoder *decoder_runner_decoder(decoder_runner *x);

/* The next n rows of a sequence. slot and at of the rows are filled in; each attends to everything before it and to itself. */
typedef struct runner_input {
    kv_seq *seq; /* grows by n */
    const decoder_row *rows;
    int64_t n;
    int64_t outputs; /* how many of the last rows' results are wanted: 0, 1, ... n */
} runner_input;

typedef struct runner_options {
    bool logits;          /* results have logits too */
    bool extended;        /* the sequences have grown already: the rows are their last ones */
    int capture_layer;    /* for rows with `captured` (model/decoder.h) */
    int deepstack_layers; /* for rows with `deepstack` */
    /* Called before each pass but the first with the rows done so far; false cancels. May be NULL. */
    bool (*progress)(void *arg, int64_t done, int64_t total);
    void *arg;
} runner_options;

/* A sequence may occur once. Results of the inputs that want any stand one after the other in decoder_hidden and decoder_logits.
 * On an error or OMNI_CANCELLED every sequence has the length it had before (unless extended); OMNI_ERR_LIMIT when the pool is too full. */
omni_status decoder_runner_run(decoder_runner *x, const runner_input *inputs, int64_t count, const runner_options *options, omni_error *err);

#endif
