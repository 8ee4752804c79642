#include "model/vision_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/rope.h"
#include "model/vision_weights.h"

/* Frame groups are taken together up to this many patches (or one group, when it is larger), so that the frames of a small video
 * still make matrices worth multiplying; the widest intermediate values are made for this many rows at a time. */
enum { BATCH_ROWS = 2048, TILE_ROWS = 1024 };

/* Patches of one batch: `groups` frame groups of h x w from group `group` of set s. */
typedef struct batch {
    const patch_set *s;
    int32_t group, groups;
    int64_t span, rows; /* patches a group, in all */
} batch;

/* What is done to the rows of a batch, in this order; from STAGE_QKV to STAGE_DEEPSTACK once a layer. */
typedef enum stage { STAGE_EMBED, STAGE_PLACES, STAGE_QKV, STAGE_ATTENTION, STAGE_MLP, STAGE_DEEPSTACK, STAGE_MERGE, STAGE_DONE } stage;

/* How far a run is. */
typedef struct progress {
    const patch_set *sets;
    size_t count, set;
    float *embeds;
    float *const *deepstack;
    int64_t to; /* embeddings of the batches before */
    batch t;
    stage stage;
    int layer;
    int64_t row; /* of the batch: those before it have passed the stage */
} progress;

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

    progress at;
};

static int64_t patch_values_count(const vision_config *c) {
    return (int64_t)3 * c->temporal * c->patch * c->patch;
}

/* Patches that become one embedding. */
static int64_t merge_unit(const vision_config *c) {
    return (int64_t)c->merge * c->merge;
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

/* x = patch embedding + learned position, of n patches from patch i of the batch. */
static void embed_patches(vision_encoder *v, const batch *t, int64_t i, int64_t n) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    int64_t d = c->hidden, pixels = patch_values_count(c);
    float *x = v->x + i * d;
    patch_values(t->s, t->group * t->span + i, n, v->host);
    o->upload(v->b, v->tile, v->host, (size_t)(n * pixels) * sizeof(float));
    o->linear(v->b, &v->w.patch.w, v->w.patch.b, v->tile, n, pixels, x, d);
    resample_positions(v, t, i, n, v->position);
    o->upload(v->b, v->tile, v->position, (size_t)(n * d) * sizeof(float));
    o->add(v->b, v->tile, n * d, x);
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

/* out[rows / merge^2, config.out] from `rows` rows of x from row i on; joined patches are neighbours in memory already. */
static void merge_patches(vision_encoder *v, const vision_merger *m, bool norm_joined, int64_t i, int64_t rows, float *out) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    int64_t unit = merge_unit(c), joined = unit * c->hidden, n = rows / unit;
    const float *x = v->x + i * c->hidden;
    if (norm_joined) {
        o->layer_norm(v->b, x, m->norm.w, m->norm.b, c->norm_eps, n, joined, v->y);
    } else {
        o->layer_norm(v->b, x, m->norm.w, m->norm.b, c->norm_eps, rows, c->hidden, v->y);
    }
    o->linear(v->b, &m->fc1.w, m->fc1.b, v->y, n, joined, v->qkv, joined);
    o->activate(v->b, ACT_GELU, v->qkv, n * joined, v->qkv);
    o->linear(v->b, &m->fc2.w, m->fc2.b, v->qkv, n, joined, out, c->out);
}

/* Queries, keys and values of n rows from row i. */
static void make_qkv(vision_encoder *v, const vision_layer *l, int64_t i, int64_t n) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    const int64_t d = c->hidden, half = c->hidden / c->heads / 2;
    float *y = v->y + i * d, *q = v->qkv + i * 3 * d; /* rows of q, k, v */
    o->layer_norm(v->b, v->x + i * d, l->norm1.w, l->norm1.b, c->norm_eps, n, d, y);
    o->linear(v->b, &l->qkv.w, l->qkv.b, y, n, d, q, 3 * d);
    for (int k = 0; k < 2; k++) {
        o->head_norm_rope(v->b, q + k * d, n, 3 * d, c->heads, (int)(2 * half), NULL, 0, v->cosine + i * half, v->sine + i * half);
    }
}

/* Of n rows from row i, all of one frame group. */
static void attend(vision_encoder *v, const vision_layer *l, const batch *t, int64_t i, int64_t n) {
    const vision_config *c = &v->config;
    const int64_t d = c->hidden, in_group = i % t->span;
    const int head_dim = c->hidden / c->heads;
    const float *q = v->qkv + i * 3 * d, *k = v->qkv + (i - in_group) * 3 * d + d;
    v->b->ops->attention_dense(v->b, q, 3 * d, k, k + d, 3 * d, v->first + in_group, v->end + in_group, n, c->heads, c->heads, head_dim,
                               (float)(1.0 / sqrt((double)head_dim)), dtype_find(l->qkv.w.type)->block > 1, v->y + i * d);
}

/* What follows attention, of n rows from row i: n is at most the tile's rows. Nobody needs queries, keys and values any more. */
static void finish_layer(vision_encoder *v, const vision_layer *l, int64_t i, int64_t n) {
    const ops *o = v->b->ops;
    const vision_config *c = &v->config;
    const int64_t d = c->hidden;
    float *x = v->x + i * d, *y = v->y + i * d;
    o->linear(v->b, &l->proj.w, l->proj.b, y, n, d, v->tile, d);
    o->add(v->b, v->tile, n * d, x);
    o->layer_norm(v->b, x, l->norm2.w, l->norm2.b, c->norm_eps, n, d, y);
    o->linear(v->b, &l->up.w, l->up.b, y, n, d, v->tile, c->ffn);
    o->activate(v->b, v->w.act, v->tile, n * c->ffn, v->tile);
    o->linear(v->b, &l->down.w, l->down.b, v->tile, n, c->ffn, v->qkv, d);
    o->add(v->b, v->qkv, n * d, x);
}

int64_t vision_embeddings(const vision_config *c, const patch_set *s) {
    return patch_count(s) / merge_unit(c);
}

/* Frame groups of s that are taken together. */
static int32_t groups_together(const patch_set *s) {
    int64_t n = BATCH_ROWS / ((int64_t)s->h * s->w);
    return n < 1 ? 1 : n > s->t ? s->t : (int32_t)n;
}

/* The batch that begins at a frame group of the set that is being worked on, or the next set's first; none: all is done. */
static void begin_batch(progress *p, int32_t group) {
    if (p->set < p->count && group == p->sets[p->set].t) {
        p->set++;
        group = 0;
    }
    p->row = p->layer = 0;
    p->stage = p->set < p->count ? STAGE_EMBED : STAGE_DONE;
    if (p->stage == STAGE_EMBED) {
        const patch_set *s = &p->sets[p->set];
        const int32_t together = groups_together(s), groups = s->t - group < together ? s->t - group : together;
        const int64_t span = (int64_t)s->h * s->w;
        p->t = (batch){.s = s, .group = group, .groups = groups, .span = span, .rows = groups * span};
    }
}

omni_status vision_encoder_begin(vision_encoder *v, const patch_set *sets, size_t n_media, float *embeds, float *const *deepstack, omni_error *err) {
    const vision_config *c = &v->config;
    int64_t rows = 0;
    v->at = (progress){.sets = sets, .count = n_media, .embeds = embeds, .deepstack = deepstack, .stage = STAGE_DONE};
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
    begin_batch(&v->at, 0);
    return OMNI_OK;
}

/* How many rows the next unit takes when it may cost what the MLP costs for most rows. */
static int64_t unit_rows(const vision_encoder *v, int64_t most) {
    const vision_config *c = &v->config;
    const progress *p = &v->at;
    const int64_t left = p->t.rows - p->row, unit = merge_unit(c);
    switch (p->stage) {
    case STAGE_EMBED:
    case STAGE_MLP:
        most = most < TILE_ROWS ? most : TILE_ROWS;
        break;
    case STAGE_ATTENTION: {
        const int64_t in_group = p->t.span - p->row % p->t.span;
        const double cheaper = (c->hidden + 2.0 * c->ffn) / (2.0 * (double)p->t.span); /* than a row of the MLP */
        most = cheaper < 1 && most < left ? (int64_t)((double)most * cheaper) + 1 : most;
        most = most < in_group ? most : in_group;
        break;
    }
    case STAGE_DEEPSTACK:
    case STAGE_MERGE:
        most = most < left ? most / unit * unit : left;
        most = most < unit ? unit : most;
        break;
    case STAGE_PLACES: /* of the whole batch: costs next to nothing */
        return left;
    case STAGE_QKV:
    case STAGE_DONE:
        break;
    }
    return most < left ? most : left;
}

/* The stage's work on n rows from row i. */
static void run_unit(vision_encoder *v, int64_t i, int64_t n) {
    const vision_config *c = &v->config;
    const progress *p = &v->at;
    const vision_layer *l = &v->w.layers[p->layer < c->layers ? p->layer : c->layers - 1];
    const int64_t merged = (p->to + i / merge_unit(c)) * c->out;
    switch (p->stage) {
    case STAGE_EMBED:
        embed_patches(v, &p->t, i, n);
        break;
    case STAGE_PLACES:
        make_angles(v, &p->t);
        upload_ranges(v, &p->t);
        break;
    case STAGE_QKV:
        make_qkv(v, l, i, n);
        break;
    case STAGE_ATTENTION:
        attend(v, l, &p->t, i, n);
        break;
    case STAGE_MLP:
        finish_layer(v, l, i, n);
        break;
    case STAGE_DEEPSTACK:
        if (l->deepstack >= 0) {
            merge_patches(v, &v->w.deepstack[l->deepstack], true, i, n, p->deepstack[l->deepstack] + merged);
        }
        break;
    case STAGE_MERGE:
        merge_patches(v, &v->w.merger, false, i, n, p->embeds + merged);
        break;
    case STAGE_DONE:
        break;
    }
}

bool vision_encoder_step(vision_encoder *v, int64_t rows) {
    progress *p = &v->at;
    if (p->stage == STAGE_DONE) {
        return false;
    }
    const int64_t n = unit_rows(v, rows > 1 ? rows : 1);
    run_unit(v, p->row, n);
    p->row += n;
    if (p->row < p->t.rows) {
        return true;
    }
    p->row = 0;
    if (p->stage == STAGE_MERGE) {
        p->to += p->t.rows / merge_unit(&v->config);
        begin_batch(p, p->t.group + p->t.groups);
    } else if (p->stage == STAGE_DEEPSTACK && ++p->layer < v->config.layers) {
        p->stage = STAGE_QKV;
    } else {
        p->stage++;
    }
    return p->stage != STAGE_DONE;
}

omni_status vision_encoder_run(vision_encoder *v, const patch_set *sets, size_t n_media, float *embeds, float *const *deepstack, omni_error *err) {
    TRY(vision_encoder_begin(v, sets, n_media, embeds, deepstack, err));
    while (vision_encoder_step(v, INT64_MAX)) {
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
