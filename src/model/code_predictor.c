#include "model/code_predictor.h"

#include <stdlib.h>
#include <string.h>

#include "model/kv_blocks.h"
#include "model/speech_config.h"

enum { MAX_GROUPS = 256 };

/* ---- weights ---- */

static omni_status read_config(const gguf *g, int64_t width, int32_t groups, code_predictor *p, omni_error *err) {
    static const char *part = "code_predictor";
    int64_t own_width, own_groups, layers, heads, kv_heads, head_dim, ffn;
    TRY(speech_int(g, part, "hidden_size", 1, 1 << 20, &own_width, err));
    TRY(speech_int(g, part, "num_code_groups", 1, MAX_GROUPS, &own_groups, err));
    if (own_width != width || own_groups != groups) {
        return fail(err, OMNI_ERR_UNSUPPORTED,
                    "%s: the code predictor has hidden size %lld and %lld code groups, the talker %lld and %d; they must be equal", gguf_path(g),
                    (long long)own_width, (long long)own_groups, (long long)width, groups);
    }
    TRY(speech_int(g, part, "block_count", 1, 4096, &layers, err));
    TRY(speech_int(g, part, "head_count", 1, 1 << 14, &heads, err));
    TRY(speech_int(g, part, "head_count_kv", 1, 1 << 14, &kv_heads, err));
    TRY(speech_int(g, part, "head_dim", 1, 1 << 12, &head_dim, err));
    TRY(speech_int(g, part, "feed_forward_length", 1, 1 << 22, &ffn, err));
    TRY(speech_int(g, part, "vocab_size", 1, 1 << 20, &p->codebook, err));
    p->groups = groups;
    p->config = (decoder_config){
        .layers = (int)layers, .width = (int)width, .heads = (int)heads, .kv_heads = (int)kv_heads, .head_dim = (int)head_dim, .ffn = (int)ffn};
    TRY(speech_positive(g, part, "rms_norm_eps", &p->config.norm_eps, err));
    TRY(speech_positive(g, part, "rope_theta", &p->config.rope_base, err));
    return decoder_config_check(&p->config, part, err);
}

static omni_status load(backend *b, const gguf *g, int64_t width, int32_t groups, code_predictor *p, omni_error *err) {
    p->b = b;
    TRY(read_config(g, width, groups, p, err));
    TRY(decoder_weights_load(b, g, "code_predictor.", &p->config, false, &p->weights, err));
    p->table = calloc((size_t)groups, sizeof *p->table);
    p->head = calloc((size_t)groups, sizeof *p->head);
    if (!p->table || !p->head) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %d code groups", groups);
    }
    const int64_t ne[] = {width, p->codebook};
    for (int32_t i = 0; i < groups - 1; i++) {
        TRY(weights_matrix(&p->weights.held, WEIGHT_TABLE, &p->table[i], err, 2, ne, "code_predictor.token_embd.%d.weight", i));
        TRY(weights_matrix(&p->weights.held, WEIGHT_LINEAR, &p->head[i], err, 2, ne, "code_predictor.output.%d.weight", i));
    }
    return OMNI_OK;
}

omni_status code_predictor_load(backend *b, const gguf *g, int64_t width, int32_t groups, code_predictor *out, omni_error *err) {
    *out = (code_predictor){0};
    omni_status s = load(b, g, width, groups, out, err);
    if (s != OMNI_OK) {
        code_predictor_free(out);
    }
    return s;
}

void code_predictor_free(code_predictor *p) {
    if (p->b) {
        decoder_weights_free(&p->weights);
    }
    free(p->table);
    free(p->head);
    *p = (code_predictor){0};
}

/* ---- running ---- */

struct predictor_runner {
    const code_predictor *p;
    int64_t max_frames;
    decoder *d;
    kv_pool *pool;
    int64_t blocks;    /* a frame */
    int32_t *table;    /* [max_frames, blocks]: frames keep their blocks, each frame overwrites the last one's */
    decoder_row *rows; /* [2 * max_frames] */
    int32_t *outputs;  /* [max_frames] */
    void *memory;      /* in the backend: */
    float *embedding;  /* [max_frames, width] */
    float *logits;     /* [max_frames, codebook] */
};

omni_status predictor_runner_create(const code_predictor *p, int64_t max_frames, predictor_runner **out, omni_error *err) {
    *out = NULL;
    if (max_frames < 1 || max_frames > 1 << 16) {
        return fail(err, OMNI_ERR_ARGUMENT, "code predictor for %lld frames at once; 1 to %d are possible", (long long)max_frames, 1 << 16);
    }
    predictor_runner *r = calloc(1, sizeof *r);
    if (!r) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a code predictor");
    }
    const decoder_config *c = &p->config;
    r->p = p;
    r->max_frames = max_frames;
    r->blocks = (p->groups + 1 + KV_BLOCK - 1) / KV_BLOCK;
    const int64_t entries = max_frames * r->blocks;
    r->table = malloc((size_t)entries * sizeof *r->table);
    r->rows = calloc((size_t)(2 * max_frames), sizeof *r->rows);
    r->outputs = malloc((size_t)max_frames * sizeof *r->outputs);
    omni_status s = r->table && r->rows && r->outputs ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a code predictor");
    const size_t embedding = (size_t)(max_frames * c->width), logits = (size_t)(max_frames * p->codebook);
    if (s == OMNI_OK) {
        s = p->b->ops->alloc(p->b, (embedding + logits) * sizeof(float), &r->memory, err);
    }
    if (s == OMNI_OK) {
        s = kv_pool_create(p->b, DTYPE_F32, DTYPE_F32, c->layers, c->kv_heads, c->head_dim, entries * KV_BLOCK, &r->pool, err);
    }
    if (s == OMNI_OK) {
        s = decoder_create(p->b, c, &p->weights, 2 * max_frames, max_frames, entries, &r->d, err);
    }
    if (s != OMNI_OK) {
        predictor_runner_destroy(r);
        return s;
    }
    for (int64_t i = 0; i < entries; i++) {
        r->table[i] = (int32_t)i;
    }
    r->embedding = r->memory;
    r->logits = r->embedding + embedding;
    *out = r;
    return OMNI_OK;
}

void predictor_runner_destroy(predictor_runner *r) {
    if (r) {
        decoder_destroy(r->d);
        kv_pool_destroy(r->pool);
        if (r->memory) {
            r->p->b->ops->release(r->p->b, r->memory);
        }
        free(r->table);
        free(r->rows);
        free(r->outputs);
        free(r);
    }
}

/* A row of frame i at a position of its sequence. */
static decoder_row row_at(const predictor_runner *r, int64_t i, int32_t position, const float *embedding) {
    const int32_t *blocks = r->table + i * r->blocks;
    return (decoder_row){
        .token = -1,
        .embedding = embedding + i * r->p->config.width,
        .position = {(float)position, (float)position, (float)position},
        .slot = blocks[position / KV_BLOCK] * KV_BLOCK + position % KV_BLOCK,
        .at = {.table = (int32_t)(i * r->blocks), .first = 0, .end = position + 1},
    };
}

omni_status predictor_run(predictor_runner *r, int64_t frames, const float *hidden, const tensor *code0_table, int32_t *codes, float *sum,
                          sample_row *params, omni_error *err) {
    const code_predictor *p = r->p;
    backend *b = p->b;
    const ops *o = b->ops;
    const int64_t width = p->config.width;
    if (frames < 1 || frames > r->max_frames) {
        return fail(err, OMNI_ERR_LIMIT, "code predictor: %lld frames at once; it was made for %lld", (long long)frames, (long long)r->max_frames);
    }
    o->embed(b, code0_table, codes, frames, r->embedding);
    o->copy(b, sum, r->embedding, (size_t)(frames * width) * sizeof *sum);
    for (int32_t g = 0; g < p->groups - 1; g++) {
        /* The first pass has two rows a frame; the hidden states come first, so that each kind is copied as one. */
        int64_t n = 0;
        if (g == 0) {
            for (int64_t i = 0; i < frames; i++) {
                r->rows[n++] = row_at(r, i, 0, hidden);
            }
        }
        for (int64_t i = 0; i < frames; i++) {
            r->outputs[i] = (int32_t)n;
            r->rows[n++] = row_at(r, i, g + 1, r->embedding);
        }
        const decoder_batch batch = {
            .rows = r->rows,
            .n = n,
            .block_table = r->table,
            .table_size = frames * r->blocks,
            .outputs = r->outputs,
            .output_count = frames,
        };
        TRY(decoder_forward(r->d, kv_pool_cache(r->pool), &batch, err));
        o->linear(b, &p->head[g], NULL, decoder_hidden(r->d), frames, width, r->logits, p->codebook);
        int32_t *drawn = codes + (g + 1) * frames;
        o->sample(b, r->logits, frames, p->codebook, params, drawn);
        for (int64_t i = 0; i < frames; i++) {
            params[i].code++;
        }
        o->embed(b, &p->table[g], drawn, frames, r->embedding);
        o->add(b, r->embedding, frames * width, sum);
    }
    return OMNI_OK;
}
