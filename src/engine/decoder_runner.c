#include "engine/decoder_runner.h"

#include <stdlib.h>
#include <string.h>

struct decoder_runner {
    decoder *d;
    kv_pool *pool;
    int64_t max_rows, max_outputs, max_table;
    decoder_row *rows; /* of one pass */
    int32_t *outputs;
    int32_t *table;
};

omni_status decoder_runner_create(backend *b, const decoder_config *config, const decoder_weights *w, kv_pool *pool, int64_t rows, int64_t outputs,
                                  int64_t table, decoder_runner **out, omni_error *err) {
    *out = NULL;
    decoder_runner *x = calloc(1, sizeof *x);
    if (!x) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a decoder runner");
    }
    *x = (decoder_runner){.pool = pool, .max_rows = rows, .max_outputs = outputs, .max_table = table};
    omni_status status = decoder_create(b, config, w, rows, outputs, table, &x->d, err);
    if (status == OMNI_OK) { /* the decoder has checked the numbers */
        x->rows = malloc((size_t)rows * sizeof *x->rows);
        x->outputs = malloc((size_t)rows * sizeof *x->outputs);
        x->table = malloc((size_t)table * sizeof *x->table);
        if (!x->rows || !x->outputs || !x->table) {
            status = fail(err, OMNI_ERR_MEMORY, "out of memory for passes of %lld rows", (long long)rows);
        }
    }
    if (status != OMNI_OK) {
        decoder_runner_destroy(x);
        return status;
    }
    *out = x;
    return OMNI_OK;
}

void decoder_runner_destroy(decoder_runner *x) {
    if (!x) {
        return;
    }
    decoder_destroy(x->d);
    free(x->rows);
    free(x->outputs);
    free(x->table);
    free(x);
}

decoder *decoder_runner_decoder(decoder_runner *x) {
    return x->d;
}

static omni_status check_inputs(const decoder_runner *x, const runner_input *inputs, int64_t count, int64_t *total, omni_error *err) {
    int64_t outputs = 0;
    *total = 0;
    for (int64_t i = 0; i < count; i++) {
        const runner_input *in = &inputs[i];
        if (in->n < 0 || in->outputs < 0 || in->outputs > in->n || in->seq->pool != x->pool) {
            return fail(err, OMNI_ERR_ARGUMENT, "input %lld: %lld rows, %lld outputs, or a sequence of another pool", (long long)i, (long long)in->n,
                        (long long)in->outputs);
        }
        for (int64_t k = 0; k < i; k++) {
            if (inputs[k].seq == in->seq) {
                return fail(err, OMNI_ERR_ARGUMENT, "inputs %lld and %lld are rows of one sequence: give them as one input", (long long)k,
                            (long long)i);
            }
        }
        *total += in->n;
        outputs += in->outputs;
    }
    if (outputs > x->max_outputs) {
        return fail(err, OMNI_ERR_LIMIT, "%lld results wanted at once; the decoder runner was made for %lld", (long long)outputs, (long long)x->max_outputs);
    }
    return OMNI_OK;
}

/* Where filling the passes has got to. */
typedef struct cursor {
    int64_t input, row; /* the next row */
    int64_t offset;     /* results of the passes before */
} cursor;

/* Takes rows for one pass. A sequence's blocks stand in the pass's table once, up to where its rows of this pass end. */
static void fill_pass(decoder_runner *x, const runner_input *inputs, int64_t count, cursor *at, decoder_batch *pass) {
    *pass = (decoder_batch){.rows = x->rows, .outputs = x->outputs, .block_table = x->table, .output_offset = at->offset};
    while (at->input < count && pass->n < x->max_rows) {
        const runner_input *in = &inputs[at->input];
        int64_t left = in->n - at->row, room = x->max_rows - pass->n, n = left < room ? left : room;
        int64_t before = in->seq->length - in->n + at->row; /* cached positions before the first of these rows */
        int64_t blocks = (before + n + KV_BLOCK - 1) / KV_BLOCK;
        if (blocks > x->max_table - pass->table_size && pass->n > 0) {
            break; /* the rest goes into the next pass */
        }
        if (blocks <= x->max_table - pass->table_size) {
            memcpy(x->table + pass->table_size, in->seq->blocks, (size_t)blocks * sizeof *x->table);
        } /* else: larger than any pass; decoder_forward refuses it with the numbers */
        for (int64_t i = 0; i < n; i++) {
            decoder_row *r = &x->rows[pass->n];
            *r = in->rows[at->row + i];
            r->slot = kv_seq_slot(in->seq, before + i);
            r->at = (attention_row){.table = (int32_t)pass->table_size, .first = 0, .end = (int32_t)(before + i + 1)};
            if (at->row + i >= in->n - in->outputs) {
                x->outputs[pass->output_count++] = (int32_t)pass->n;
            }
            pass->n++;
        }
        pass->table_size += blocks;
        at->row += n;
        if (at->row == in->n) {
            at->input++;
            at->row = 0;
        }
    }
    at->offset += pass->output_count;
}

static omni_status run_passes(decoder_runner *x, const runner_input *inputs, int64_t count, int64_t total, const runner_options *options,
                              omni_error *err) {
    cursor at = {0};
    for (int64_t done = 0; done < total;) {
        if (done > 0 && options->progress && !options->progress(options->arg, done, total)) {
            return fail(err, OMNI_CANCELLED, "cancelled after %lld of %lld rows", (long long)done, (long long)total);
        }
        decoder_batch pass;
        fill_pass(x, inputs, count, &at, &pass);
        pass.logits = options->logits;
        pass.capture_layer = options->capture_layer;
        pass.deepstack_layers = options->deepstack_layers;
        TRY(decoder_forward(x->d, kv_pool_cache(x->pool), &pass, err));
        done += pass.n;
    }
    return OMNI_OK;
}

omni_status decoder_runner_run(decoder_runner *x, const runner_input *inputs, int64_t count, const runner_options *options, omni_error *err) {
    int64_t total;
    TRY(check_inputs(x, inputs, count, &total, err));
    omni_status status = OMNI_OK;
    int64_t extended = 0;
    while (status == OMNI_OK && !options->extended && extended < count) {
        status = kv_seq_extend(inputs[extended].seq, inputs[extended].n, NULL, err);
        extended += status == OMNI_OK;
    }
    if (status == OMNI_OK) {
        status = run_passes(x, inputs, count, total, options, err);
    }
    for (int64_t i = 0; status != OMNI_OK && i < extended; i++) {
        kv_seq_truncate(inputs[i].seq, inputs[i].seq->length - inputs[i].n);
    }
    return status;
}
