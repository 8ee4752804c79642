#include "model/vision_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/rope.h"
#include "model/vision_weights.h"

/* Frame groups are taken together up to this many patches (or one group, when it is larger), so that the frames of a small video
 * still make matrices worth multiplying; the widest intermediate values are made for this many rows at a time. */
enum { BATCH_ROWS = 2048, TILE_ROWS = 1024 };

struct vision_encoder {
    backend *b;
    vision_config config;
    vision_weights w;
    rotation rope; /* axial */

    /* scratch for `rows` patches, in backend memory */
    int64_t rows;
    float *x, *y;         /* [rows, hidden]: the residual stream; normalised input or attention's output */
    float *qkv;           /* [rows, 3 hidden]; mergers use it for [rows / merge^2, merge^2 hidden] */
    float *tile;          /* [tile_rows, max(ffn, patch width, hidden)] */
    float *cosine, *sine; /* [rows, head_dim / 2] */
    float *place;         /* [rows, 3]: row, column */
    int32_t *first, *end; /* [rows], end behind first */
    /* on the host */
    float *host;     /* [tile_rows, patch width], [rows, 3], or ranges [2, rows] */
    float *position; /* [tile_rows, hidden] */
};

/* Patches of one batch: `groups` frame groups of h x w from group `group` of set s. */
typedef struct batch {
    const patch_set *s;
    int32_t group, groups;
    int64_t span, rows; /* patches a group, in all */
} batch;

static int64_t patch_values_count(const vision_config *c) {
    return (int64_t)3 * c->temporal * c->patch * c->patch;
}

static void release_scratch(vision_encoder *v) {
    void *memory[] = {v->x, v->y, v->qkv, v->tile, v->cosine, v->sine, v->place, v->first};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        if (memory[i]) {
            v->b->ops->release(v->b, memory[i]);
        }
    }
    free(v->host);
    free(v->position);
    v->x = v->y = v->qkv = v->tile = v->cosine = v->sine = v->place = v->host = v->position = NULL;
    v->first = v->end = NULL;
    v->rows = 0;
}

static omni_status take(vision_encoder *v, int64_t rows, int64_t width, void *out, omni_error *err) {
    return v->b->ops->alloc(v->b, (size_t)rows * (size_t)width * sizeof(float), out, err);
}

static omni_status reserve(vision_encoder *v, int64_t rows, omni_error *err) {
    const vision_config *c = &v->config;
    if (rows <= v->rows) {
        return OMNI_OK;
    }
    release_scratch(v);
    int64_t half = c->hidden / c->heads / 2, tile = rows < TILE_ROWS ? rows : TILE_ROWS;
    int64_t widest = c->ffn > c->hidden ? c->ffn : c->hidden, pixels = patch_values_count(c);
    widest = pixels > widest ? pixels : widest;
    omni_status status = take(v, rows, c->hidden, &v->x, err);
    status = status ? status : take(v, rows, c->hidden, &v->y, err);
    status = status ? status : take(v, rows, 3 * (int64_t)c->hidden, &v->qkv, err);
    status = status ? status : take(v, tile, widest, &v->tile, err);
    status = status ? status : take(v, rows, half, &v->cosine, err);
    status = status ? status : take(v, rows, half, &v->sine, err);
    status = status ? status : take(v, rows, 3, &v->place, err);
    status = status ? status : take(v, rows, 2, &v->first, err);
    if (status == OMNI_OK) {
        int64_t host = tile * pixels > rows * 3 ? tile * pixels : rows * 3;
        host = host > c->hidden ? host : c->hidden;
        v->host = malloc((size_t)host * sizeof *v->host);
        v->position = malloc((size_t)tile * (size_t)c->hidden * sizeof *v->position);
        if (!v->host || !v->position) {
            status = fail(err, OMNI_ERR_MEMORY, "out of memory for the vision encoder's scratch of %lld patches", (long long)rows);
        }
    }
    if (status != OMNI_OK) {
        release_scratch(v);
        return status;
    }
    v->rows = rows;
    return OMNI_OK;
}

/* Row and column of patch i of a frame group: patches come in merge x merge blocks. */
static void patch_place(const vision_config *c, const patch_set *s, int64_t i, int64_t *row, int64_t *column) {
    int64_t m = c->merge, blocks = s->w / m, block = i / (m * m);
    *row = block / blocks * m + i / m % m;
    *column = block % blocks * m + i % m;
}

/* Where a place of n falls on the learned grid's side: the two cells and their weights (align corners; float32 as the reference). */
static void grid_taps(int64_t place, int64_t n, int side, int64_t taps[2], float weight[2]) {
    float source = (float)place * (float)(side - 1) / (float)(n > 1 ? n - 1 : 1), low = floorf(source);
    for (int k = 0; k < 2; k++) {
        int64_t tap = (int64_t)low + k;
        float w = 1.0f - fabsf(source - low - (float)k);
        taps[k] = tap > side - 1 ? side - 1 : tap;
        weight[k] = w > 0 ? w : 0;
    }
}

/* The learned position grid resampled at `rows` patches from `begin` of a batch: out[rows, hidden]. */
static void resample_positions(const vision_encoder *v, const batch *t, int64_t begin, int64_t rows, float *out) {
    const vision_config *c = &v->config;
    int64_t d = c->hidden;
    float *cell = v->host; /* one row */
    for (int64_t i = 0; i < rows; i++) {
        int64_t row, column, ys[2], xs[2];
        float wy[2], wx[2];
        patch_place(c, t->s, (begin + i) % t->span, &row, &column);
        grid_taps(row, t->s->h, c->grid, ys, wy);
        grid_taps(column, t->s->w, c->grid, xs, wx);
        float *sum = out + i * d;
        memset(sum, 0, (size_t)d * sizeof *sum);
        for (int k = 0; k < 4; k++) {
            const void *stored = tensor_row(v->w.positions, ys[k / 2] * c->grid + xs[k % 2]);
            const float *values = stored;
            if (v->w.positions->type != DTYPE_F32) {
                dtype_to_f32(v->w.positions->type, stored, cell, d);
                values = cell;
            }
            float w = wy[k / 2] * wx[k % 2];
            for (int64_t j = 0; j < d; j++) {
                sum[j] += values[j] * w;
            }
        }
    }
}

/* x = patch embedding + learned position, tile by tile. */
static void embed_patches(vision_encoder *v, const batch *t) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    int64_t d = c->hidden, pixels = patch_values_count(c);
    for (int64_t i = 0; i < t->rows; i += TILE_ROWS) {
        int64_t n = t->rows - i < TILE_ROWS ? t->rows - i : TILE_ROWS;
        float *x = v->x + i * d;
        patch_values(t->s, t->group * t->span + i, n, v->host);
        o->upload(v->b, v->tile, v->host, (size_t)(n * pixels) * sizeof(float));
        o->linear(v->b, &v->w.patch.w, v->w.patch.b, v->tile, n, pixels, x, d);
        resample_positions(v, t, i, n, v->position);
        o->upload(v->b, v->tile, v->position, (size_t)(n * d) * sizeof(float));
        o->add(v->b, v->tile, n * d, x);
    }
}

/* Axial rotation: the first half of a head's angles turns with the patch's row, the second with its column. */
static void make_angles(vision_encoder *v, const batch *t) {
    for (int64_t i = 0; i < t->rows; i++) {
        int64_t row, column;
        patch_place(&v->config, t->s, i % t->span, &row, &column);
        v->host[3 * i] = (float)row;
        v->host[3 * i + 1] = (float)column;
        v->host[3 * i + 2] = 0;
    }
    v->b->ops->upload(v->b, v->place, v->host, (size_t)(3 * t->rows) * sizeof(float));
    rotation_angles(&v->rope, v->b, v->place, t->rows, v->cosine, v->sine);
}

/* Every row of a frame group attends to the whole group. The ranges are the group's own, from 0: one call a group. */
static void upload_ranges(vision_encoder *v, const batch *t) {
    int32_t *range = (int32_t *)v->host;
    for (int64_t i = 0; i < t->span; i++) {
        range[i] = 0;
        range[t->span + i] = (int32_t)t->span;
    }
    v->end = v->first + t->span;
    v->b->ops->upload(v->b, v->first, range, (size_t)(2 * t->span) * sizeof *range);
}

/* out[rows / merge^2, config.out] from x[rows, hidden]; joined patches are neighbours in memory already. */
static void merge_patches(vision_encoder *v, const vision_merger *m, bool norm_joined, int64_t rows, float *out) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    int64_t unit = (int64_t)c->merge * c->merge, joined = unit * c->hidden, n = rows / unit;
    if (norm_joined) {
        o->layer_norm(v->b, v->x, m->norm.w, m->norm.b, c->norm_eps, n, joined, v->y);
    } else {
        o->layer_norm(v->b, v->x, m->norm.w, m->norm.b, c->norm_eps, rows, c->hidden, v->y);
    }
    o->linear(v->b, &m->fc1.w, m->fc1.b, v->y, n, joined, v->qkv, joined);
    o->activate(v->b, ACT_GELU, v->qkv, n * joined, v->qkv);
    o->linear(v->b, &m->fc2.w, m->fc2.b, v->qkv, n, joined, out, c->out);
}

static void run_layer(vision_encoder *v, const vision_layer *l, const batch *t) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    int64_t d = c->hidden, rows = t->rows;
    int head_dim = c->hidden / c->heads;
    float scale = (float)(1.0 / sqrt((double)head_dim));
    float *q = v->qkv, *k = q + d, *values = k + d; /* rows of 3 d */

    o->layer_norm(v->b, v->x, l->norm1.w, l->norm1.b, c->norm_eps, rows, d, v->y);
    o->linear(v->b, &l->qkv.w, l->qkv.b, v->y, rows, d, v->qkv, 3 * d);
    o->head_norm_rope(v->b, q, rows, 3 * d, c->heads, head_dim, NULL, 0, v->cosine, v->sine);
    o->head_norm_rope(v->b, k, rows, 3 * d, c->heads, head_dim, NULL, 0, v->cosine, v->sine);
    for (int32_t i = 0; i < t->groups; i++) {
        int64_t at = i * t->span;
        o->attention_dense(v->b, q + at * 3 * d, 3 * d, k + at * 3 * d, values + at * 3 * d, 3 * d, v->first, v->end, t->span, c->heads, c->heads,
                           head_dim, scale, dtype_find(l->qkv.w.type)->block > 1, v->y + at * d);
    }
    o->linear(v->b, &l->proj.w, l->proj.b, v->y, rows, d, v->qkv, d); /* q, k and values are used up */
    o->add(v->b, v->qkv, rows * d, v->x);

    o->layer_norm(v->b, v->x, l->norm2.w, l->norm2.b, c->norm_eps, rows, d, v->y);
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        int64_t n = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
        o->linear(v->b, &l->up.w, l->up.b, v->y + i * d, n, d, v->tile, c->ffn);
        o->activate(v->b, v->w.act, v->tile, n * c->ffn, v->tile);
        o->linear(v->b, &l->down.w, l->down.b, v->tile, n, c->ffn, v->qkv, d);
        o->add(v->b, v->qkv, n * d, v->x + i * d);
    }
}

static void run_batch(vision_encoder *v, const batch *t, int64_t to, float *embeds, float *const *deepstack) {
    const vision_config *c = &v->config;
    embed_patches(v, t);
    make_angles(v, t);
    upload_ranges(v, t);
    for (int n = 0; n < c->layers; n++) {
        const vision_layer *l = &v->w.layers[n];
        run_layer(v, l, t);
        if (l->deepstack >= 0) {
            merge_patches(v, &v->w.deepstack[l->deepstack], true, t->rows, deepstack[l->deepstack] + to * c->out);
        }
    }
    merge_patches(v, &v->w.merger, false, t->rows, embeds + to * c->out);
}

int64_t vision_embeddings(const vision_config *c, const patch_set *s) {
    return patch_count(s) / ((int64_t)c->merge * c->merge);
}

/* Frame groups of s that are taken together. */
static int32_t groups_together(const patch_set *s) {
    int64_t n = BATCH_ROWS / ((int64_t)s->h * s->w);
    return n < 1 ? 1 : n > s->t ? s->t : (int32_t)n;
}

omni_status vision_encoder_run(vision_encoder *v, const patch_set *sets, size_t n_media, float *embeds, float *const *deepstack, omni_error *err) {
    const vision_config *c = &v->config;
    int64_t rows = 0;
    for (size_t i = 0; i < n_media; i++) {
        const patch_set *s = &sets[i];
        if (s->patch != c->patch || s->temporal != c->temporal || s->t < 1 || s->h < 1 || s->w < 1 || s->h % c->merge || s->w % c->merge ||
            (int64_t)s->h * s->w > INT32_MAX) {
            return fail(err, OMNI_ERR_ARGUMENT, "picture %zu: a grid of %d x %d x %d patches of %d pixels and %d frames does not suit the encoder", i,
                        s->t, s->h, s->w, s->patch, s->temporal);
        }
        int64_t need = (int64_t)s->h * s->w * groups_together(s);
        rows = need > rows ? need : rows;
    }
    TRY(reserve(v, rows, err));
    int64_t to = 0;
    for (size_t i = 0; i < n_media; i++) {
        const patch_set *s = &sets[i];
        int64_t span = (int64_t)s->h * s->w;
        int32_t together = groups_together(s);
        for (int32_t group = 0; group < s->t; group += together) {
            int32_t groups = s->t - group < together ? s->t - group : together;
            batch t = {.s = s, .group = group, .groups = groups, .span = span, .rows = groups * span};
            run_batch(v, &t, to, embeds, deepstack);
            to += t.rows / ((int64_t)c->merge * c->merge);
        }
    }
    return OMNI_OK;
}

omni_status vision_encoder_open(backend *b, gguf *g, vision_encoder **out, omni_error *err) {
    *out = NULL;
    if (!vision_encoder_present(g)) {
        return fail(err, OMNI_ERR_FORMAT, "%s: no vision encoder in this file (tensor v.patch_embd.weight is missing)", gguf_path(g));
    }
    vision_encoder *v = calloc(1, sizeof *v);
    if (!v) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the vision encoder");
    }
    v->b = b;
    omni_status status = vision_config_read(g, &v->config, err);
    if (status == OMNI_OK) {
        status = vision_weights_load(&v->w, b, g, &v->config, err);
    }
    if (status == OMNI_OK) {
        status = rotation_create_axial(b, v->config.rope_theta, v->config.hidden / v->config.heads, &v->rope, err);
    }
    if (status != OMNI_OK) {
        vision_encoder_close(v);
        return status;
    }
    *out = v;
    return OMNI_OK;
}

void vision_encoder_close(vision_encoder *v) {
    if (v) {
        release_scratch(v);
        vision_weights_free(&v->w);
        rotation_free(v->b, &v->rope);
        free(v);
    }
}

const vision_config *vision_encoder_config(const vision_encoder *v) {
    return &v->config;
}
