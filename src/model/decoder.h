/* The transformer decoder that thinker, talker and code predictor share (Qwen3: RMSNorm, q/k norm, rotary positions, paged
 * attention, then a mixture of experts, optionally with a gated shared expert, or a dense gated MLP).
 *
 *     h = x + o(attention(rope(norm(q(n))), rope(norm(k(n))), v(n)))     n = rms_norm(x)
 *     y = h + moe(rms_norm(h))
 *
 * One forward pass takes rows of any number of sequences, prompt chunks and single steps mixed. Everything it needs is
 * allocated by decoder_create for a stated number of rows; a pass only queues operations on the backend, and what it has to say of its rows goes
 * there in one upload. */
#ifndef OMNI_MODEL_DECODER_H
#define OMNI_MODEL_DECODER_H

#include <stdbool.h>
#include <stdint.h>

#include "model/weights.h"
#include "tensor/fused.h"

typedef struct decoder_config {
    int layers, width, heads, kv_heads, head_dim;
    int64_t vocab;             /* rows of PREFIXtoken_embd and PREFIXoutput; 0: the decoder has neither (code predictor) */
    int experts, experts_used; /* 0: dense MLP */
    int expert_ffn;            /* width of an expert */
    bool normalise_weights;    /* the used experts' weights are scaled to sum 1 */
    int shared_ffn;            /* width of the gated shared expert; 0: none */
    int ffn;                   /* width of the dense MLP; used when experts is 0 */
    float norm_eps;
    float rope_base;
    int rope_sections[3]; /* frequency pairs for time, height, width (model/rope.h); all 0: plain rotation by the time id */
} decoder_config;

/* Fails when sizes are out of range or do not fit each other; what names the part in the error ("talker"). */
omni_status decoder_config_check(const decoder_config *c, const char *what, omni_error *err);

typedef struct decoder_weights {
    layer_weights *layers;
    const float *output_norm; /* [width] */
    tensor token_embd;        /* {width, vocab} when the config has a vocabulary */
    tensor output;            /* {width, vocab}; the token table itself where the file has no head of its own */
    weights held;
} decoder_weights;

/* Fills *out from tensors PREFIXtoken_embd.weight, PREFIXblk.N.attn_q.weight, ... (docs/formats.md), checking every shape.
 * embeddings_only: just the token table. The gguf must outlive the weights. */
omni_status decoder_weights_load(backend *b, const gguf *g, const char *prefix, const decoder_config *c, bool embeddings_only, decoder_weights *out,
                                 omni_error *err);
void decoder_weights_free(decoder_weights *w);

/* One row of a forward pass. Host memory, except what the pointers point to. */
typedef struct decoder_row {
    int32_t token;          /* >= 0: a row of the token table; -1: the embedding below */
    const float *embedding; /* [width] in the backend's memory; neighbouring rows with neighbouring memory are copied as one */
    float position[3];      /* time, height, width ids */
    int32_t slot;           /* where this row's key and value go: block * KV_BLOCK + offset */
    attention_row at;       /* cached positions it attends to, itself included; table indexes the batch's block table */
    /* Features added to this row's hidden state after layer k < deepstack_layers: deepstack + k * deepstack_stride, [width]
     * in the backend's memory. NULL: none. */
    const float *deepstack;
    int64_t deepstack_stride; /* values */
    /* Receives hidden_states[capture_layer] of this row, [width] in the backend's memory. NULL: not wanted. */
    float *captured;
} decoder_row;

typedef struct decoder_batch {
    const decoder_row *rows;
    int64_t n;
    const int32_t *block_table; /* the sequences' block tables, one after the other; host memory */
    int64_t table_size;
    int deepstack_layers; /* feature sets of the rows that have any; 0: none has */
    /* Rows whose final hidden state (and logits) are wanted, ascending. Output i becomes row output_offset + i of decoder_hidden
     * and decoder_logits, so that the results of several passes can stand together. */
    const int32_t *outputs;
    int64_t output_count, output_offset;
    bool logits; /* false: the final hidden states only */
    /* Which hidden state rows with `captured` receive, numbered as transformers records them: 0 is the embedding, k the output
     * of layer k - 1 before any deepstack addition at that depth, the number of layers the state after the final norm. */
    int capture_layer;
} decoder_batch;

typedef struct decoder decoder;

/* config and weights must outlive the decoder. max_rows: most rows of a pass; max_outputs: rows of hidden states and logits that
 * are kept; max_table: most entries of a pass's block table. */
omni_status decoder_create(backend *b, const decoder_config *c, const decoder_weights *w, int64_t max_rows, int64_t max_outputs, int64_t max_table,
                           decoder **out, omni_error *err);
void decoder_destroy(decoder *d);
/* Bytes that decoder_create takes for these sizes; SIZE_MAX when too large. */
size_t decoder_memory(backend *b, const decoder_config *c, int64_t max_rows, int64_t max_outputs, int64_t max_table);

/* Queues a pass over the batch; keys and values go to the cache, whose layers are this decoder's. Fails, without having
 * changed anything, only when the batch is larger than the decoder was made for or an index is out of range. */
omni_status decoder_forward(decoder *d, const kv_cache *cache, const decoder_batch *batch, omni_error *err);

/* [max_rows, width] in the backend's memory: where a pass has its rows. Those whose embedding is already in its place, row i at i * width, are not
 * copied; the pass overwrites them. */
float *decoder_input(decoder *d);

/* A batch that comes again and again: all that the host has to say of it is uploaded once, when it is prepared. Its rows take nothing but their
 * embedding, which is to lie in decoder_input. */
typedef struct decoder_prepared decoder_prepared;
omni_status decoder_prepare(decoder *d, const kv_cache *cache, const decoder_batch *batch, decoder_prepared **out, omni_error *err);
void decoder_prepared_free(decoder *d, decoder_prepared *p); /* NULL is fine */
/* What becomes of the hidden states of decoder_run: logits[outputs, vocab] of a head {width, vocab}, and the tokens sampled from them; ids and logits
 * in the backend's memory, params in the host's. */
typedef struct decoder_head {
    const tensor *head;
    float *logits;
    const sample_row *params;
    int32_t *ids;
} decoder_head;
/* Queues a pass over the first rows of it, for the first outputs of it, which must be among them: hidden states from row 0 of decoder_hidden on. head
 * NULL: nothing but those. */
void decoder_run(decoder *d, const kv_cache *cache, const decoder_prepared *p, int64_t rows, int64_t outputs, const decoder_head *head);

/* Results, in the backend's memory, until a pass overwrites them: final hidden states after the last norm [max_outputs, width],
 * and logits [max_outputs, vocab] where they were asked for. Writable (samplers overwrite logits). */
float *decoder_hidden(decoder *d);
float *decoder_logits(decoder *d);

#endif
