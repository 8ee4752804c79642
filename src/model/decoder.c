#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/rope.h"

/* ------------------------------------------------------------------------------------------------ workspace */

/* What the host says of a pass, for the operations: pointers into one block of the backend's memory, which is uploaded at once. */
typedef struct pass {
    int64_t n, outputs;
    const int32_t *token, *slot, *table, *output; /* [n], [n], [entries], [outputs] */
    const attention_row *at, *output_at;          /* [n], [outputs] */
    const float *position;                        /* [n, 3] */
    const float *cos, *sin;                       /* [n, half] made of the positions */
} pass;

struct decoder {
    backend *b;
    const decoder_config *c;
    const decoder_weights *w;
    layer_shape shape;
    int64_t max_rows, max_outputs, max_table;
    void *memory;         /* of everything below, in the backend */
    float *x;             /* [rows, width] the residual stream */
    float *n;             /* [rows, width] its normed copy */
    float *q, *mixed;     /* [rows, heads, head_dim] queries, and what attention gives */
    float *cos, *sin;     /* [rows, half] of the pass */
    float *expert_weight; /* [rows, used] */
    int32_t *expert_id;
    float *scratch;     /* fused_scratch, at least [rows, width] */
    int32_t *described; /* [descriptor_words] the pass */
    float *hidden;      /* [outputs, width] */
    float *logits;      /* [outputs, vocab] */
    rotation rope;
    int32_t *host; /* [descriptor_words] host memory from which a pass is uploaded */
};

/* Where the arrays of a pass begin in its block, in words of 32 bits; each at 64 bytes. */
typedef struct layout {
    int64_t token, slot, position, at, output, output_at, table, words;
} layout;

static int64_t put(int64_t *words, int64_t count) {
    const int64_t at = *words;
    *words += (count + 15) & ~(int64_t)15;
    return at;
}

static layout lay_out(int64_t rows, int64_t outputs, int64_t entries) {
    enum { AT = sizeof(attention_row) / sizeof(int32_t) };
    layout l = {0};
    l.token = put(&l.words, rows);
    l.slot = put(&l.words, rows);
    l.position = put(&l.words, 3 * rows);
    l.at = put(&l.words, AT * rows);
    l.output = put(&l.words, outputs);
    l.output_at = put(&l.words, AT * outputs);
    l.table = put(&l.words, entries);
    return l;
}

static int64_t descriptor_words(const decoder *d) {
    return lay_out(d->max_rows, d->max_rows, d->max_table).words; /* a pass checks outputs against its own rows */
}

static layer_shape shape_of(const decoder_config *c) {
    return (layer_shape){.width = c->width,
                         .heads = c->heads,
                         .kv_heads = c->kv_heads,
                         .head_dim = c->head_dim,
                         .experts = c->experts,
                         .experts_used = c->experts_used,
                         .expert_ffn = c->expert_ffn,
                         .ffn = c->experts ? c->shared_ffn : c->ffn,
                         .normalise_weights = c->normalise_weights,
                         .eps = c->norm_eps};
}

static void lay_out_memory(decoder *d, arena *a) {
    const decoder_config *c = d->c;
    int64_t rows = d->max_rows, outputs = d->max_outputs;
    d->x = arena_take(a, rows, c->width, 4);
    d->n = arena_take(a, rows, c->width, 4);
    d->q = arena_take(a, rows, (int64_t)c->heads * c->head_dim, 4);
    d->mixed = arena_take(a, rows, (int64_t)c->heads * c->head_dim, 4);
    d->cos = arena_take(a, rows, c->head_dim / 2, 4);
    d->sin = arena_take(a, rows, c->head_dim / 2, 4);
    if (c->experts) {
        d->expert_weight = arena_take(a, rows, c->experts_used, 4);
        d->expert_id = arena_take(a, rows, c->experts_used, 4);
    }
    d->scratch = arena_take(a, 1, (int64_t)fused_scratch(d->b, &d->shape, rows), 4);
    d->described = arena_take(a, descriptor_words(d), 1, 4);
    d->hidden = arena_take(a, outputs, c->width, 4);
    d->logits = arena_take(a, outputs, c->vocab, 4);
}

size_t decoder_memory(backend *b, const decoder_config *c, int64_t max_rows, int64_t max_outputs, int64_t max_table) {
    decoder d = {.b = b, .c = c, .shape = shape_of(c), .max_rows = max_rows, .max_outputs = max_outputs, .max_table = max_table};
    arena a = {0};
    lay_out_memory(&d, &a);
    return a.used;
}

omni_status decoder_create(backend *b, const decoder_config *c, const decoder_weights *w, int64_t max_rows, int64_t max_outputs, int64_t max_table,
                           decoder **out, omni_error *err) {
    *out = NULL;
    if (max_rows <= 0 || max_outputs < 0 || max_outputs > INT32_MAX || max_table <= 0 || max_rows > INT32_MAX || max_table > INT32_MAX) {
        return fail(err, OMNI_ERR_ARGUMENT, "decoder for %lld rows, %lld outputs and %lld table entries: rows and entries must be positive",
                    (long long)max_rows, (long long)max_outputs, (long long)max_table);
    }
    decoder *d = calloc(1, sizeof *d);
    if (!d) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a decoder");
    }
    *d = (decoder){.b = b, .c = c, .w = w, .shape = shape_of(c), .max_rows = max_rows, .max_outputs = max_outputs, .max_table = max_table};
    omni_status status = rotation_create(b, c->rope_base, c->head_dim, c->rope_sections, &d->rope, err);
    if (status == OMNI_OK) {
        d->host = calloc((size_t)descriptor_words(d), sizeof *d->host);
        status = d->host ? b->ops->alloc(b, decoder_memory(b, c, max_rows, max_outputs, max_table), &d->memory, err)
                         : fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    if (status != OMNI_OK) {
        decoder_destroy(d);
        return fail_in(err, status, "decoder for %lld rows", (long long)max_rows);
    }
    lay_out_memory(d, &(arena){.base = d->memory});
    *out = d;
    return OMNI_OK;
}

void decoder_destroy(decoder *d) {
    if (!d) {
        return;
    }
    if (d->memory) {
        d->b->ops->release(d->b, d->memory);
    }
    rotation_free(d->b, &d->rope);
    free(d->host);
    free(d);
}

float *decoder_input(decoder *d) {
    return d->x;
}

float *decoder_hidden(decoder *d) {
    return d->hidden;
}

float *decoder_logits(decoder *d) {
    return d->logits;
}

/* ------------------------------------------------------------------------------------------------ one pass */

static omni_status check_batch(const decoder *d, const kv_cache *cache, const decoder_batch *batch, omni_error *err) {
    const decoder_config *c = d->c;
    if (batch->n < 0 || batch->n > d->max_rows || batch->output_count < 0 || batch->output_offset < 0 || batch->output_count > batch->n ||
        batch->output_offset > d->max_outputs - batch->output_count || batch->table_size < 0 || batch->table_size > d->max_table) {
        return fail(err, OMNI_ERR_LIMIT, "batch of %lld rows, %lld outputs, %lld table entries; the decoder was made for %lld, %lld, %lld",
                    (long long)batch->n, (long long)(batch->output_offset + batch->output_count), (long long)batch->table_size,
                    (long long)d->max_rows, (long long)d->max_outputs, (long long)d->max_table);
    }
    if (cache->layers != c->layers || cache->kv_heads != c->kv_heads || cache->head_dim != c->head_dim) {
        return fail(err, OMNI_ERR_ARGUMENT, "key/value cache of %d layers, %d heads of %d; the decoder has %d, %d of %d", cache->layers,
                    cache->kv_heads, cache->head_dim, c->layers, c->kv_heads, c->head_dim);
    }
    if (batch->capture_layer < 0 || batch->capture_layer > c->layers) {
        return fail(err, OMNI_ERR_ARGUMENT, "hidden states of layer %d; the decoder has %d layers", batch->capture_layer, c->layers);
    }
    if (batch->logits && !d->w->output.data) {
        return fail(err, OMNI_ERR_ARGUMENT, "this decoder has no output head");
    }
    for (int64_t i = 0; i < batch->table_size; i++) {
        if (batch->block_table[i] < 0 || batch->block_table[i] >= cache->blocks) {
            return fail(err, OMNI_ERR_ARGUMENT, "block table entry %lld is %d; the cache has %lld blocks", (long long)i, batch->block_table[i],
                        (long long)cache->blocks);
        }
    }
    for (int64_t i = 0; i < batch->n; i++) {
        const decoder_row *r = &batch->rows[i];
        if (r->token >= 0 ? !d->w->token_embd.data || r->token >= c->vocab : !r->embedding) {
            return fail(err, OMNI_ERR_ARGUMENT, "row %lld: token %d of a vocabulary of %lld, and no embedding", (long long)i, r->token,
                        (long long)c->vocab);
        }
        const attention_row *a = &r->at;
        if (r->slot < 0 || r->slot / KV_BLOCK >= cache->blocks || a->first < 0 || a->first >= a->end || a->table < 0 ||
            a->table + ((int64_t)a->end + KV_BLOCK - 1) / KV_BLOCK > batch->table_size) {
            return fail(err, OMNI_ERR_ARGUMENT, "row %lld: slot %d, positions %d to %d in the table from %d of %lld entries", (long long)i, r->slot,
                        a->first, a->end, a->table, (long long)batch->table_size);
        }
    }
    for (int64_t i = 0; i < batch->output_count; i++) {
        if (batch->outputs[i] < (i ? batch->outputs[i - 1] + 1 : 0) || batch->outputs[i] >= batch->n) {
            return fail(err, OMNI_ERR_ARGUMENT, "output %lld is row %d of %lld; they must ascend", (long long)i, batch->outputs[i],
                        (long long)batch->n);
        }
    }
    return OMNI_OK;
}

/* Fills the host's block with the batch, uploads it to `to`, and says where its arrays lie there. */
static pass describe(decoder *d, const decoder_batch *batch, int32_t *to) {
    const layout l = lay_out(batch->n, batch->output_count, batch->table_size);
    int32_t *host = d->host;
    for (int64_t i = 0; i < batch->n; i++) {
        const decoder_row *r = &batch->rows[i];
        host[l.token + i] = r->token;
        host[l.slot + i] = r->slot;
        memcpy(host + l.position + 3 * i, r->position, sizeof r->position);
        memcpy((attention_row *)(host + l.at) + i, &r->at, sizeof r->at);
    }
    for (int64_t i = 0; i < batch->output_count; i++) {
        host[l.output + i] = batch->outputs[i];
        memcpy((attention_row *)(host + l.output_at) + i, &batch->rows[batch->outputs[i]].at, sizeof(attention_row));
    }
    memcpy(host + l.table, batch->block_table, (size_t)batch->table_size * sizeof *host);
    d->b->ops->upload(d->b, to, host, (size_t)l.words * sizeof *host);
    return (pass){.n = batch->n,
                  .outputs = batch->output_count,
                  .token = to + l.token,
                  .slot = to + l.slot,
                  .table = to + l.table,
                  .output = to + l.output,
                  .at = (const attention_row *)(to + l.at),
                  .output_at = (const attention_row *)(to + l.output_at),
                  .position = (const float *)(to + l.position)};
}

/* x[n, width] from token ids and given embeddings, each run of equal kind in one operation. */
static void embed_rows(decoder *d, const decoder_batch *batch, const pass *p) {
    const ops *o = d->b->ops;
    int64_t width = d->c->width;
    for (int64_t i = 0, end; i < batch->n; i = end) {
        const decoder_row *r = &batch->rows[i];
        end = i + 1;
        if (r->token >= 0) {
            while (end < batch->n && batch->rows[end].token >= 0) {
                end++;
            }
            o->embed(d->b, &d->w->token_embd, p->token + i, end - i, d->x + i * width);
        } else {
            while (end < batch->n && batch->rows[end].token < 0 && batch->rows[end].embedding == r->embedding + (end - i) * width) {
                end++;
            }
            if (r->embedding != d->x + i * width) {
                o->copy(d->b, d->x + i * width, r->embedding, (size_t)((end - i) * width) * sizeof(float));
            }
        }
    }
}

/* Rows of x to where they are wanted. */
static void capture_rows(decoder *d, const decoder_batch *batch, const float *x) {
    int64_t width = d->c->width;
    for (int64_t i = 0, end; i < batch->n; i = end) {
        float *to = batch->rows[i].captured;
        end = i + 1;
        if (!to) {
            continue;
        }
        while (end < batch->n && batch->rows[end].captured == to + (end - i) * width) {
            end++;
        }
        d->b->ops->copy(d->b, to, x + i * width, (size_t)((end - i) * width) * sizeof(float));
    }
}

/* x[i] += features of layer k at the rows that have them. */
static void add_deepstack(decoder *d, const decoder_batch *batch, int k) {
    int64_t width = d->c->width;
    for (int64_t i = 0, end; i < batch->n; i = end) {
        const decoder_row *r = &batch->rows[i];
        end = i + 1;
        if (!r->deepstack) {
            continue;
        }
        while (end < batch->n && batch->rows[end].deepstack == r->deepstack + (end - i) * width &&
               batch->rows[end].deepstack_stride == r->deepstack_stride) {
            end++;
        }
        d->b->ops->add(d->b, r->deepstack + k * r->deepstack_stride, (end - i) * width, d->x + i * width);
    }
}

/* x += mlp(rms_norm(x)) for rows rows. */
static void feed_forward(decoder *d, const layer_weights *l, int64_t rows) {
    if (!d->c->experts) {
        fused_mlp_add(d->b, &d->shape, l, rows, d->x, d->scratch);
        return;
    }
    fused_moe_input(d->b, &d->shape, l, d->x, rows, d->n, d->expert_id, d->expert_weight, d->scratch);
    fused_moe_add(d->b, &d->shape, l, d->n, rows, d->expert_id, d->expert_weight, d->x, d->scratch);
}

/* One layer. wanted_only: from the queries on, only the rows whose output is wanted; x then holds just those. */
static void layer_forward(decoder *d, const kv_cache *cache, const pass *p, int index, bool wanted_only) {
    const ops *o = d->b->ops;
    const decoder_config *c = d->c;
    const layer_weights *l = &d->w->layers[index];
    const int64_t rows = wanted_only ? p->outputs : p->n;
    const layer_rows in = {.n = p->n, .cos = p->cos, .sin = p->sin, .slots = p->slot, .wanted = wanted_only ? p->output : NULL, .wanted_count = rows};
    fused_attention_input(d->b, &d->shape, l, cache, index, &in, d->x, d->q, d->scratch);
    if (rows == 0) {
        return;
    }
    if (wanted_only) {
        o->gather_rows(d->b, d->x, p->output, rows, c->width, d->scratch);
        o->copy(d->b, d->x, d->scratch, (size_t)(rows * c->width) * sizeof(float));
    }
    o->attention(d->b, cache, index, p->table, wanted_only ? p->output_at : p->at, d->q, rows, c->heads, (float)pow(c->head_dim, -0.5), d->mixed);
    fused_linear_add(d->b, &l->o, d->mixed, rows, d->x, d->scratch);
    feed_forward(d, l, rows);
}

/* Final hidden states of the pass's outputs, from x, which holds all rows or, narrow, those; and what the head makes of them. head NULL: nothing. */
static void finish(decoder *d, const pass *p, bool narrow, int64_t offset, const decoder_head *head) {
    const ops *o = d->b->ops;
    const int64_t width = d->c->width;
    const float *x = d->x;
    if (!narrow && p->outputs < p->n) {
        o->gather_rows(d->b, d->x, p->output, p->outputs, width, d->scratch);
        x = d->scratch;
    }
    float *hidden = d->hidden + offset * width;
    if (head) {
        fused_head_sample(d->b, d->w->output_norm, d->c->norm_eps, head->head, x, p->outputs, hidden, head->logits, head->params, head->ids);
    } else {
        o->rms_norm(d->b, x, d->w->output_norm, d->c->norm_eps, p->outputs, width, hidden);
    }
}

omni_status decoder_forward(decoder *d, const kv_cache *cache, const decoder_batch *batch, omni_error *err) {
    const ops *o = d->b->ops;
    const decoder_config *c = d->c;
    TRY(check_batch(d, cache, batch, err));
    if (batch->n == 0) {
        return OMNI_OK;
    }
    int64_t width = c->width;
    int capture = -1;
    for (int64_t i = 0; capture < 0 && i < batch->n; i++) {
        capture = batch->rows[i].captured ? batch->capture_layer : -1;
    }
    /* The last layer's queries and MLP serve only the rows that are read, unless something needs the others too. */
    bool narrow = batch->output_count < batch->n && capture != c->layers && batch->deepstack_layers < c->layers;

    pass p = describe(d, batch, d->described);
    rotation_angles(&d->rope, d->b, p.position, p.n, d->cos, d->sin);
    p.cos = d->cos;
    p.sin = d->sin;
    embed_rows(d, batch, &p);
    if (capture == 0) {
        capture_rows(d, batch, d->x);
    }
    for (int i = 0; i < c->layers; i++) {
        bool last = i == c->layers - 1;
        layer_forward(d, cache, &p, i, last && narrow);
        if (capture == i + 1 && !last) {
            capture_rows(d, batch, d->x);
        }
        if (i < batch->deepstack_layers) {
            add_deepstack(d, batch, i);
        }
    }
    if (capture == c->layers) {
        o->rms_norm(d->b, d->x, d->w->output_norm, c->norm_eps, batch->n, width, d->n);
        capture_rows(d, batch, d->n);
    }
    if (batch->output_count == 0) {
        return OMNI_OK;
    }
    const decoder_head head = {.head = &d->w->output, .logits = d->logits + batch->output_offset * c->vocab};
    finish(d, &p, narrow, batch->output_offset, batch->logits ? &head : NULL);
    return OMNI_OK;
}

/* ------------------------------------------------------------------------------------------------ a batch that comes again */

struct decoder_prepared {
    pass p;
    void *memory;
};

omni_status decoder_prepare(decoder *d, const kv_cache *cache, const decoder_batch *batch, decoder_prepared **out, omni_error *err) {
    *out = NULL;
    TRY(check_batch(d, cache, batch, err));
    for (int64_t i = 0; i < batch->n; i++) {
        const decoder_row *r = &batch->rows[i];
        if (r->token >= 0 || r->embedding != d->x + i * d->c->width || r->captured || r->deepstack) {
            return fail(err, OMNI_ERR_ARGUMENT, "row %lld of a prepared batch takes more than its embedding in decoder_input", (long long)i);
        }
    }
    decoder_prepared *x = calloc(1, sizeof *x);
    const int64_t half = d->c->head_dim / 2, words = lay_out(batch->n, batch->output_count, batch->table_size).words;
    omni_status status = x ? d->b->ops->alloc(d->b, (size_t)(words + 2 * batch->n * half) * sizeof(int32_t), &x->memory, err)
                           : fail(err, OMNI_ERR_MEMORY, "out of memory");
    if (status != OMNI_OK) {
        free(x);
        return status;
    }
    float *cos = (float *)((int32_t *)x->memory + words), *sin = cos + batch->n * half;
    x->p = describe(d, batch, x->memory);
    rotation_angles(&d->rope, d->b, x->p.position, batch->n, cos, sin);
    x->p.cos = cos;
    x->p.sin = sin;
    *out = x;
    return OMNI_OK;
}

void decoder_prepared_free(decoder *d, decoder_prepared *x) {
    if (x) {
        d->b->ops->release(d->b, x->memory);
        free(x);
    }
}

void decoder_run(decoder *d, const kv_cache *cache, const decoder_prepared *x, int64_t rows, int64_t outputs, const decoder_head *head) {
    pass p = x->p;
    p.n = rows < p.n ? rows : p.n;
    p.outputs = outputs < p.outputs ? outputs : p.outputs;
    const bool narrow = p.outputs < p.n;
    for (int i = 0; i < d->c->layers; i++) {
        layer_forward(d, cache, &p, i, i == d->c->layers - 1 && narrow);
    }
    if (p.outputs > 0) {
        finish(d, &p, narrow, 0, head);
    }
}
