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
    int64_t blocks;          /* a frame */
    decoder_prepared **pass; /* [groups - 1] the first has two rows a frame, hidden state and code 0, the others the one of code g */
    void *memory;            /* in the backend: */
    float *start;            /* [2 * max_frames, width]: all hidden states, then all embeddings of code 0 */
    float *logits;           /* [max_frames, codebook] */
    int32_t *turns;          /* [2 * max_frames]: rows of start, by frame */
};

/* Host memory for what is said of the passes while they are prepared. */
typedef struct pass_rows {
    int32_t *table;    /* [max_frames, blocks]: frames keep their blocks, each frame overwrites the last one's */
    decoder_row *rows; /* [2 * max_frames] */
    int32_t *outputs;  /* [max_frames] */
} pass_rows;

/* Row n of a pass: frame i at a position of its sequence. */
static decoder_row row_at(const predictor_runner *r, const pass_rows *in, int64_t n, int64_t i, int32_t position) {
    const int32_t *blocks = in->table + i * r->blocks;
    return (decoder_row){
        .token = -1,
        .embedding = decoder_input(r->d) + n * r->p->config.width,
        .position = {(float)position, (float)position, (float)position},
        .slot = blocks[position / KV_BLOCK] * KV_BLOCK + position % KV_BLOCK,
        .at = {.table = (int32_t)(i * r->blocks), .first = 0, .end = position + 1},
    };
}

/* Rows go by frame, so that the passes of fewer frames are the first rows of these. */
static omni_status prepare_pass(predictor_runner *r, int32_t g, pass_rows *in, omni_error *err) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->max_frames; i++) {
        if (g == 0) {
            in->rows[n] = row_at(r, in, n, i, 0);
            n++;
        }
        in->outputs[i] = (int32_t)n;
        in->rows[n] = row_at(r, in, n, i, g + 1);
        n++;
    }
    const decoder_batch batch = {
        .rows = in->rows,
        .n = n,
        .block_table = in->table,
        .table_size = r->max_frames * r->blocks,
        .outputs = in->outputs,
        .output_count = r->max_frames,
    };
    return decoder_prepare(r->d, kv_pool_cache(r->pool), &batch, &r->pass[g], err);
}

static omni_status prepare_passes(predictor_runner *r, omni_error *err) {
    const int64_t entries = r->max_frames * r->blocks;
    pass_rows in = {.table = malloc((size_t)entries * sizeof *in.table),
                    .rows = calloc((size_t)(2 * r->max_frames), sizeof *in.rows),
                    .outputs = malloc((size_t)(2 * r->max_frames) * sizeof *in.outputs)};
    omni_status s = in.table && in.rows && in.outputs ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a code predictor");
    for (int64_t i = 0; s == OMNI_OK && i < entries; i++) {
        in.table[i] = (int32_t)i;
    }
    for (int32_t g = 0; s == OMNI_OK && g < r->p->groups - 1; g++) {
        s = prepare_pass(r, g, &in, err);
    }
    if (s == OMNI_OK) {
        for (int64_t i = 0; i < r->max_frames; i++) {
            in.outputs[2 * i] = (int32_t)i;
            in.outputs[2 * i + 1] = (int32_t)(r->max_frames + i);
        }
        r->p->b->ops->upload(r->p->b, r->turns, in.outputs, (size_t)(2 * r->max_frames) * sizeof *r->turns);
    }
    free(in.table);
    free(in.rows);
    free(in.outputs);
    return s;
}

static omni_status runner_fill(predictor_runner *r, omni_error *err) {
    const code_predictor *p = r->p;
    const decoder_config *c = &p->config;
    const int64_t frames = r->max_frames, entries = frames * r->blocks;
    const size_t start = (size_t)(2 * frames * c->width), logits = (size_t)(frames * p->codebook);
    r->pass = calloc((size_t)p->groups, sizeof *r->pass);
    if (!r->pass) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a code predictor");
    }
    TRY(p->b->ops->alloc(p->b, (start + logits + (size_t)(2 * frames)) * sizeof(float), &r->memory, err));
    r->start = r->memory;
    r->logits = r->start + start;
    r->turns = (int32_t *)(void *)(r->logits + logits);
    TRY(kv_pool_create(p->b, DTYPE_F32, DTYPE_F32, c->layers, c->kv_heads, c->head_dim, entries * KV_BLOCK, &r->pool, err));
    TRY(decoder_create(p->b, c, &p->weights, 2 * frames, frames, entries, &r->d, err));
    return prepare_passes(r, err);
}

omni_status predictor_runner_create(const code_predictor *p, int64_t max_frames, predictor_runner **out, omni_error *err) {
    *out = NULL;
    if (max_frames < 1 || max_frames > 1 << 16) {
        return fail(err, OMNI_ERR_ARGUMENT, "code predictor for %lld frames at once; 1 to %d are possible", (long long)max_frames, 1 << 16);
    }
    predictor_runner *r = calloc(1, sizeof *r);
    if (!r) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a code predictor");
    }
    r->p = p;
    r->max_frames = max_frames;
    r->blocks = (p->groups + 1 + KV_BLOCK - 1) / KV_BLOCK;
    omni_status s = runner_fill(r, err);
    if (s != OMNI_OK) {
        predictor_runner_destroy(r);
        return s;
    }
    *out = r;
    return OMNI_OK;
}

void predictor_runner_destroy(predictor_runner *r) {
    if (r) {
        for (int32_t g = 0; r->pass && g < r->p->groups - 1; g++) {
            decoder_prepared_free(r->d, r->pass[g]);
        }
        decoder_destroy(r->d);
        kv_pool_destroy(r->pool);
        if (r->memory) {
            r->p->b->ops->release(r->p->b, r->memory);
        }
        free(r->pass);
        free(r);
    }
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
    const kv_cache *cache = kv_pool_cache(r->pool);
    float *x = decoder_input(r->d), *code0 = r->start + r->max_frames * width;
    const size_t bytes = (size_t)(frames * width) * sizeof *x;
    o->copy(b, r->start, hidden, bytes);
    o->embed(b, code0_table, codes, frames, code0);
    o->copy(b, sum, code0, bytes);
    o->gather_rows(b, r->start, r->turns, 2 * frames, width, x);
    for (int32_t g = 0; g < p->groups - 1; g++) {
        int32_t *sampled = codes + (g + 1) * frames;
        const decoder_head head = {.head = &p->head[g], .logits = r->logits, .params = params, .ids = sampled};
        decoder_run(r->d, cache, r->pass[g], g == 0 ? 2 * frames : frames, frames, &head);
        for (int64_t i = 0; i < frames; i++) {
            params[i].code++;
        }
        o->embed(b, &p->table[g], sampled, frames, x);
        o->add(b, x, frames * width, sum);
    }
    return OMNI_OK;
}
