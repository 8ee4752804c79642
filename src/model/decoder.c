#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/rope.h"

/* ------------------------------------------------------------------------------------------------ workspace */

struct decoder {
    backend *b;
    const decoder_config *c;
    const decoder_weights *w;
    int64_t max_rows, max_outputs, max_table;
    void *memory; /* of everything below, in the backend */
    float *x;     /* [rows, width] the residual stream */
    float *n;     /* [rows, width] its normed copy, input of the linear maps */
    float *y;     /* [rows, width] what a sublayer adds */
    float *q, *k, *v, *mixed;
    float *cos, *sin;     /* [rows, half] */
    float *router;        /* [rows, experts] */
    float *expert_weight; /* [rows, used] */
    int32_t *expert_id;
    float *moe_scratch;
    float *gate, *up;   /* [rows, ffn or shared_ffn] */
    float *shared_gate; /* [rows] */
    int32_t *token, *slot, *table, *output;
    attention_row *at, *output_at;
    float *hidden; /* [outputs, width] */
    float *logits; /* [outputs, vocab] */
    /* Host memory from which a pass uploads. */
    arena host;
    float *inv_freq, *host_cos, *host_sin;
    int32_t *host_token, *host_slot;
    attention_row *host_at, *host_output_at;
};

typedef struct carver {
    char *base; /* NULL: count only */
    size_t used;
} carver;

static void *carve(carver *c, int64_t rows, int64_t width, size_t element) {
    void *p = c->base ? c->base + c->used : NULL;
    arena_count(&c->used, arena_bytes((size_t)rows, (size_t)width, element));
    return p;
}

static int mlp_width(const decoder_config *c) {
    return c->experts ? c->shared_ffn : c->ffn;
}

static void carve_all(decoder *d, carver *k) {
    const decoder_config *c = d->c;
    int64_t rows = d->max_rows, outputs = d->max_outputs;
    d->x = carve(k, rows, c->width, 4);
    d->n = carve(k, rows, c->width, 4);
    d->y = carve(k, rows, c->width, 4);
    d->q = carve(k, rows, (int64_t)c->heads * c->head_dim, 4);
    d->k = carve(k, rows, (int64_t)c->kv_heads * c->head_dim, 4);
    d->v = carve(k, rows, (int64_t)c->kv_heads * c->head_dim, 4);
    d->mixed = carve(k, rows, (int64_t)c->heads * c->head_dim, 4);
    d->cos = carve(k, rows, c->head_dim / 2, 4);
    d->sin = carve(k, rows, c->head_dim / 2, 4);
    if (c->experts) {
        d->router = carve(k, rows, c->experts, 4);
        d->expert_weight = carve(k, rows, c->experts_used, 4);
        d->expert_id = carve(k, rows, c->experts_used, 4);
        d->moe_scratch = carve(k, 1, (int64_t)d->b->ops->moe_scratch(d->b, rows, c->experts_used, c->width, c->expert_ffn), 4);
    }
    if (mlp_width(c)) {
        d->gate = carve(k, rows, mlp_width(c), 4);
        d->up = carve(k, rows, mlp_width(c), 4);
        d->shared_gate = carve(k, rows, 1, 4);
    }
    d->token = carve(k, rows, 1, 4);
    d->slot = carve(k, rows, 1, 4);
    d->at = carve(k, rows, 1, sizeof *d->at);
    d->table = carve(k, d->max_table, 1, 4);
    d->output = carve(k, rows, 1, 4);
    d->output_at = carve(k, rows, 1, sizeof *d->output_at);
    d->hidden = carve(k, outputs, c->width, 4);
    d->logits = carve(k, outputs, c->vocab, 4);
}

size_t decoder_memory(backend *b, const decoder_config *c, int64_t max_rows, int64_t max_outputs, int64_t max_table) {
    decoder d = {.b = b, .c = c, .max_rows = max_rows, .max_outputs = max_outputs, .max_table = max_table};
    carver k = {0};
    carve_all(&d, &k);
    return k.used;
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
    *d = (decoder){.b = b, .c = c, .w = w, .max_rows = max_rows, .max_outputs = max_outputs, .max_table = max_table};
    size_t half = (size_t)c->head_dim / 2, rows = (size_t)max_rows, host = 0;
    arena_count(&host, arena_bytes(half, 1, 4));
    arena_count(&host, arena_bytes(rows, half, 4));
    arena_count(&host, arena_bytes(rows, half, 4));
    arena_count(&host, arena_bytes(rows, 1, 4));
    arena_count(&host, arena_bytes(rows, 1, 4));
    arena_count(&host, arena_bytes(rows, 1, sizeof *d->host_at));
    arena_count(&host, arena_bytes(rows, 1, sizeof *d->host_at));
    omni_status status = arena_init(&d->host, host, err);
    if (status == OMNI_OK) {
        status = b->ops->alloc(b, decoder_memory(b, c, max_rows, max_outputs, max_table), &d->memory, err);
    }
    if (status != OMNI_OK) {
        decoder_destroy(d);
        return fail_in(err, status, "decoder for %lld rows", (long long)max_rows);
    }
    d->inv_freq = arena_alloc(&d->host, half * 4);
    d->host_cos = arena_alloc(&d->host, rows * half * 4);
    d->host_sin = arena_alloc(&d->host, rows * half * 4);
    d->host_token = arena_alloc(&d->host, rows * 4);
    d->host_slot = arena_alloc(&d->host, rows * 4);
    d->host_at = arena_alloc(&d->host, rows * sizeof *d->host_at);
    d->host_output_at = arena_alloc(&d->host, rows * sizeof *d->host_at);
    rope_frequencies(c->rope_base, c->head_dim, d->inv_freq);
    carver k = {.base = d->memory};
    carve_all(d, &k);
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
    arena_free(&d->host);
    free(d);
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

static void upload_rows(decoder *d, const decoder_batch *batch) {
    const ops *o = d->b->ops;
    int half = d->c->head_dim / 2;
    size_t n = (size_t)batch->n;
    for (size_t i = 0; i < n; i++) {
        const decoder_row *r = &batch->rows[i];
        d->host_token[i] = r->token;
        d->host_slot[i] = r->slot;
        d->host_at[i] = r->at;
        float *cos = d->host_cos + i * (size_t)half, *sin = d->host_sin + i * (size_t)half;
        if (i && memcmp(r->position, r[-1].position, sizeof r->position) == 0) {
            memcpy(cos, cos - half, (size_t)half * 4); /* sequences in step often stand at the same position */
            memcpy(sin, sin - half, (size_t)half * 4);
        } else {
            rope_row(d->inv_freq, d->c->rope_sections, half, r->position, cos, sin);
        }
    }
    for (int64_t i = 0; i < batch->output_count; i++) {
        d->host_output_at[i] = batch->rows[batch->outputs[i]].at;
    }
    o->upload(d->b, d->token, d->host_token, n * 4);
    o->upload(d->b, d->slot, d->host_slot, n * 4);
    o->upload(d->b, d->at, d->host_at, n * sizeof *d->at);
    o->upload(d->b, d->cos, d->host_cos, n * (size_t)half * 4);
    o->upload(d->b, d->sin, d->host_sin, n * (size_t)half * 4);
    o->upload(d->b, d->table, batch->block_table, (size_t)batch->table_size * 4);
    o->upload(d->b, d->output, batch->outputs, (size_t)batch->output_count * 4);
    o->upload(d->b, d->output_at, d->host_output_at, (size_t)batch->output_count * sizeof *d->output_at);
}

/* x[n, width] from token ids and given embeddings, each run of equal kind in one operation. */
static void embed_rows(decoder *d, const decoder_batch *batch) {
    const ops *o = d->b->ops;
    int64_t width = d->c->width;
    for (int64_t i = 0, end; i < batch->n; i = end) {
        const decoder_row *r = &batch->rows[i];
        end = i + 1;
        if (r->token >= 0) {
            while (end < batch->n && batch->rows[end].token >= 0) {
                end++;
            }
            o->embed(d->b, &d->w->token_embd, d->token + i, end - i, d->x + i * width);
        } else {
            while (end < batch->n && batch->rows[end].token < 0 && batch->rows[end].embedding == r->embedding + (end - i) * width) {
                end++;
            }
            o->copy(d->b, d->x + i * width, r->embedding, (size_t)((end - i) * width) * sizeof(float));
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
static void feed_forward(decoder *d, const decoder_layer *l, int64_t rows) {
    const ops *o = d->b->ops;
    const decoder_config *c = d->c;
    int64_t width = c->width, ffn = mlp_width(c);
    o->rms_norm(d->b, d->x, l->ffn_norm, c->norm_eps, rows, width, d->n);
    if (ffn) { /* y[rows, width] = down(silu(gate n) * up n): the dense MLP, or the shared expert before its gate */
        o->linear(d->b, &l->gate, NULL, d->n, rows, width, d->gate, ffn);
        o->linear(d->b, &l->up, NULL, d->n, rows, width, d->up, ffn);
        o->silu_mul(d->b, d->gate, d->up, rows * ffn, d->gate);
    }
    if (!c->experts) {
        o->linear(d->b, &l->down, NULL, d->gate, rows, ffn, d->y, width);
        o->add(d->b, d->y, rows * width, d->x);
        return;
    }
    o->linear(d->b, &l->router, NULL, d->n, rows, width, d->router, c->experts);
    o->route(d->b, d->router, rows, c->experts, c->experts_used, c->normalise_weights, d->expert_id, d->expert_weight);
    o->moe(d->b, &l->gate_exps, &l->up_exps, &l->down_exps, d->n, rows, d->expert_id, d->expert_weight, c->experts_used, d->moe_scratch, d->y);
    if (ffn) {
        o->linear(d->b, &l->shared_router, NULL, d->n, rows, width, d->shared_gate, 1);
        o->linear(d->b, &l->down, NULL, d->gate, rows, ffn, d->n, width); /* n is not needed any more */
        o->add_gated(d->b, d->n, d->shared_gate, rows, width, d->y);
    }
    o->add(d->b, d->y, rows * width, d->x);
}

/* One layer. wanted_only: from the queries on, only the rows whose output is wanted; x then holds just those. */
static void layer_forward(decoder *d, const kv_cache *cache, const decoder_batch *batch, int index, bool wanted_only) {
    const ops *o = d->b->ops;
    const decoder_config *c = d->c;
    const decoder_layer *l = &d->w->layers[index];
    int64_t rows = batch->n, width = c->width, half = c->head_dim / 2;
    int64_t q_width = (int64_t)c->heads * c->head_dim, kv_width = (int64_t)c->kv_heads * c->head_dim;

    o->rms_norm(d->b, d->x, l->attn_norm, c->norm_eps, rows, width, d->n);
    o->linear(d->b, &l->k, NULL, d->n, rows, width, d->k, kv_width);
    o->linear(d->b, &l->v, NULL, d->n, rows, width, d->v, kv_width);
    o->head_norm_rope(d->b, d->k, rows, kv_width, c->kv_heads, c->head_dim, l->k_norm, c->norm_eps, d->cos, d->sin);
    o->kv_write(d->b, cache, index, d->slot, d->k, d->v, rows);
    const attention_row *at = d->at;
    if (wanted_only) {
        rows = batch->output_count;
        if (rows == 0) {
            return;
        }
        at = d->output_at;
        o->gather_rows(d->b, d->x, d->output, rows, width, d->y);
        o->copy(d->b, d->x, d->y, (size_t)(rows * width) * sizeof(float));
        o->gather_rows(d->b, d->n, d->output, rows, width, d->y);
        o->copy(d->b, d->n, d->y, (size_t)(rows * width) * sizeof(float));
        /* k and v are stored: their memory can take the rotation of the wanted rows (half <= kv_width). */
        o->gather_rows(d->b, d->cos, d->output, rows, half, d->k);
        o->gather_rows(d->b, d->sin, d->output, rows, half, d->v);
    }
    o->linear(d->b, &l->q, NULL, d->n, rows, width, d->q, q_width);
    o->head_norm_rope(d->b, d->q, rows, q_width, c->heads, c->head_dim, l->q_norm, c->norm_eps, wanted_only ? d->k : d->cos,
                      wanted_only ? d->v : d->sin);
    o->attention(d->b, cache, index, d->table, at, d->q, rows, c->heads, (float)pow(c->head_dim, -0.5), d->mixed);
    o->linear(d->b, &l->o, NULL, d->mixed, rows, q_width, d->y, width);
    o->add(d->b, d->y, rows * width, d->x);
    feed_forward(d, l, rows);
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

    upload_rows(d, batch);
    embed_rows(d, batch);
    if (capture == 0) {
        capture_rows(d, batch, d->x);
    }
    for (int i = 0; i < c->layers; i++) {
        bool last = i == c->layers - 1;
        layer_forward(d, cache, batch, i, last && narrow);
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
    const float *x = d->x;
    if (!narrow && batch->output_count < batch->n) {
        o->gather_rows(d->b, d->x, d->output, batch->output_count, width, d->y);
        x = d->y;
    }
    float *hidden = d->hidden + batch->output_offset * width;
    o->rms_norm(d->b, x, d->w->output_norm, c->norm_eps, batch->output_count, width, hidden);
    if (batch->logits) {
        o->linear(d->b, &d->w->output, NULL, hidden, batch->output_count, width, d->logits + batch->output_offset * c->vocab, c->vocab);
    }
    return OMNI_OK;
}
