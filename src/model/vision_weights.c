#include "model/vision_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 4096, MAX_WIDTH = 1 << 20, MAX_HEADS = 65536, MAX_PATCH = 256, MAX_MERGE = 16, MAX_TEMPORAL = 64 };

static const char PROJECTOR[] = "qwen3vl_merger";

bool vision_encoder_present(const gguf *g) {
    return gguf_tensor(g, "v.patch_embd.weight") != NULL;
}

/* Values of one kind of media; absent keys leave what is there. */
static omni_status read_pixels(const gguf *g, const char *low, const char *high, patch_params *p, omni_error *err) {
    uint32_t v;
    TRY(gguf_maybe_u32(g, low, (uint32_t)p->min_pixels, &v, err));
    p->min_pixels = v;
    TRY(gguf_maybe_u32(g, high, (uint32_t)p->max_pixels, &v, err));
    p->max_pixels = v;
    if (p->min_pixels > p->max_pixels || p->max_pixels < (int64_t)p->patch * p->merge * p->patch * p->merge) {
        return fail(err, OMNI_ERR_FORMAT, "%s: keys %s and %s give the range %lld to %lld, in which no image of whole patches fits", gguf_path(g),
                    low, high, (long long)p->min_pixels, (long long)p->max_pixels);
    }
    return OMNI_OK;
}

static omni_status check_std(const gguf *g, const char *key, const float std[3], omni_error *err) {
    for (int c = 0; c < 3; c++) {
        if (!(std[c] > 0) || !isfinite(std[c])) {
            return fail(err, OMNI_ERR_FORMAT, "%s: key %s holds %g, must be above 0", gguf_path(g), key, (double)std[c]);
        }
    }
    return OMNI_OK;
}

static omni_status read_preprocessing(gguf *g, vision_config *c, omni_error *err) {
    c->image = (patch_params){.patch = c->patch, .merge = c->merge, .temporal = c->temporal, .min_pixels = 3136, .max_pixels = 12845056};
    TRY(gguf_need_f32s(g, "clip.vision.image_mean", 3, c->image.mean, err));
    TRY(gguf_need_f32s(g, "clip.vision.image_std", 3, c->image.std, err));
    TRY(check_std(g, "clip.vision.image_std", c->image.std, err));
    TRY(read_pixels(g, "clip.vision.image_min_pixels", "clip.vision.image_max_pixels", &c->image, err));
    c->video = c->image;
    c->video.min_pixels = 128 * 32 * 32;
    c->video.max_pixels = 768 * 32 * 32;
    if (gguf_find(g, "omni.vision.video_mean") >= 0) {
        TRY(gguf_need_f32s(g, "omni.vision.video_mean", 3, c->video.mean, err));
    }
    if (gguf_find(g, "omni.vision.video_std") >= 0) {
        TRY(gguf_need_f32s(g, "omni.vision.video_std", 3, c->video.std, err));
        TRY(check_std(g, "omni.vision.video_std", c->video.std, err));
    }
    return read_pixels(g, "omni.vision.video_min_pixels", "omni.vision.video_max_pixels", &c->video, err);
}

omni_status vision_config_read(gguf *g, vision_config *c, omni_error *err) {
    *c = (vision_config){0};
    const char *projector;
    TRY(gguf_maybe_str(g, "clip.projector_type", PROJECTOR, &projector, err));
    TRY(gguf_maybe_str(g, "clip.vision.projector_type", projector, &projector, err));
    if (strcmp(projector, PROJECTOR) != 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: vision projector \"%s\"; this program knows \"%s\"", gguf_path(g), projector, PROJECTOR);
    }
    TRY(gguf_need_int(g, "clip.vision.embedding_length", 4, MAX_WIDTH, &c->hidden, err));
    TRY(gguf_need_int(g, "clip.vision.attention.head_count", 1, MAX_HEADS, &c->heads, err));
    TRY(gguf_need_int(g, "clip.vision.block_count", 1, MAX_LAYERS, &c->layers, err));
    TRY(gguf_need_int(g, "clip.vision.feed_forward_length", 1, MAX_WIDTH, &c->ffn, err));
    TRY(gguf_need_int(g, "clip.vision.projection_dim", 1, MAX_WIDTH, &c->out, err));
    TRY(gguf_need_int(g, "clip.vision.patch_size", 1, MAX_PATCH, &c->patch, err));
    uint32_t merge, temporal, channels;
    TRY(gguf_maybe_u32(g, "clip.vision.spatial_merge_size", 2, &merge, err));
    TRY(gguf_maybe_u32(g, "omni.vision.temporal_patch_size", 2, &temporal, err));
    TRY(gguf_maybe_u32(g, "omni.vision.in_channels", 3, &channels, err));
    if (merge < 1 || merge > MAX_MERGE || temporal < 1 || temporal > MAX_TEMPORAL || channels != 3) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: spatial_merge_size %u, temporal_patch_size %u and in_channels %u cannot be used", gguf_path(g),
                    merge, temporal, channels);
    }
    c->merge = (int)merge;
    c->temporal = (int)temporal;
    if (c->hidden % c->heads != 0 || c->hidden / c->heads % 4 != 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: clip.vision.embedding_length %d over %d heads: a head's size must be a multiple of 4", gguf_path(g),
                    c->hidden, c->heads);
    }
    TRY(gguf_maybe_f32(g, "clip.vision.attention.layer_norm_epsilon", 1e-6f, &c->norm_eps, err));
    TRY(gguf_maybe_f32(g, "omni.vision.rope_theta", 10000.0f, &c->rope_theta, err));
    if (!(c->norm_eps >= 0) || !isfinite(c->norm_eps) || !(c->rope_theta > 0) || !isfinite(c->rope_theta)) {
        return fail(err, OMNI_ERR_FORMAT, "%s: layer_norm_epsilon %g and rope_theta %g cannot be used", gguf_path(g), (double)c->norm_eps,
                    (double)c->rope_theta);
    }
    return read_preprocessing(g, c, err);
}

static omni_status load_norm(weights *w, const char *name, int64_t n, vision_norm *out, omni_error *err) {
    TRY(weights_vector(w, &out->w, err, n, "%s.weight", name));
    return weights_vector(w, &out->b, err, n, "%s.bias", name);
}

static omni_status load_linear(weights *w, const char *name, int64_t in, int64_t outs, vision_linear *out, omni_error *err) {
    TRY(weights_matrix(w, WEIGHT_LINEAR, &out->w, err, 2, (const int64_t[]){in, outs}, "%s.weight", name));
    return weights_vector(w, &out->b, err, outs, "%s.bias", name);
}

/* name of a tensor of layer n: "v.blk.N.part" */
static const char *layer_name(char buffer[64], const char *group, int n, const char *part) {
    snprintf(buffer, 64, "v.%s.%d.%s", group, n, part);
    return buffer;
}

static omni_status load_layer(weights *w, const vision_config *c, int n, vision_layer *l, omni_error *err) {
    char name[64];
    int64_t d = c->hidden;
    TRY(load_norm(w, layer_name(name, "blk", n, "ln1"), d, &l->norm1, err));
    TRY(load_norm(w, layer_name(name, "blk", n, "ln2"), d, &l->norm2, err));
    TRY(load_linear(w, layer_name(name, "blk", n, "attn_qkv"), d, 3 * d, &l->qkv, err));
    TRY(load_linear(w, layer_name(name, "blk", n, "attn_out"), d, d, &l->proj, err));
    TRY(load_linear(w, layer_name(name, "blk", n, "ffn_up"), d, c->ffn, &l->up, err));
    TRY(weights_linear_like(w, l->up.w.type, &l->down.w, err, c->ffn, d, layer_name(name, "blk", n, "ffn_down.weight")));
    return weights_vector(w, &l->down.b, err, d, "%s", layer_name(name, "blk", n, "ffn_down.bias"));
}

/* The file has one tensor a frame of the group, each [hidden][3][patch][patch]; patches here are [3][temporal][patch][patch],
 * so the tensors are interleaved channel by channel, in their own type. */
static omni_status load_patch_embedding(weights *w, const vision_config *c, vision_linear *out, omni_error *err) {
    const int64_t ne[] = {c->patch, c->patch, 3, c->hidden};
    int64_t area = (int64_t)c->patch * c->patch, width = 3 * c->temporal * area;
    const tensor *frames[MAX_TEMPORAL] = {0};
    for (int k = 0; k < c->temporal; k++) {
        char suffix[16] = "";
        if (k > 0) {
            snprintf(suffix, sizeof suffix, ".%d", k);
        }
        TRY(gguf_need_tensor(w->g, &frames[k], err, 4, ne, "v.patch_embd.weight%s", suffix));
        if (frames[k]->type != frames[0]->type || (frames[k]->type != DTYPE_F32 && frames[k]->type != DTYPE_F16 && frames[k]->type != DTYPE_BF16)) {
            return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s has type number %d; all parts of v.patch_embd must be F32, all F16 or all BF16",
                        gguf_path(w->g), frames[k]->name, (int)frames[k]->type);
        }
        w->bytes += frames[k]->size;
    }
    size_t piece = dtype_row_bytes(frames[0]->type, area), bytes = piece * 3 * (size_t)c->temporal * (size_t)c->hidden;
    char *joined = malloc(bytes);
    if (!joined) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for v.patch_embd.weight: %zu bytes", bytes);
    }
    char *to = joined;
    for (int64_t row = 0; row < (int64_t)c->hidden * 3; row++) {
        for (int k = 0; k < c->temporal; k++, to += piece) {
            memcpy(to, (const char *)frames[k]->data + (size_t)row * piece, piece);
        }
    }
    void *memory = NULL;
    omni_status status = weights_memory(w, bytes, &memory, err);
    if (status == OMNI_OK) {
        w->b->ops->upload(w->b, memory, joined, bytes);
        out->w =
            (tensor){.name = frames[0]->name, .type = frames[0]->type, .n_dims = 2, .ne = {width, c->hidden, 1, 1}, .size = bytes, .data = memory};
    }
    free(joined);
    TRY(status);
    return weights_vector(w, &out->b, err, c->hidden, "v.patch_embd.bias");
}

static omni_status load_positions(vision_weights *w, gguf *g, vision_config *c, omni_error *err) {
    TRY(gguf_need_tensor(g, &w->positions, err, 2, (const int64_t[]){c->hidden, -1}, "v.position_embd.weight"));
    const tensor *t = w->positions;
    if (t->type != DTYPE_F32 && t->type != DTYPE_F16 && t->type != DTYPE_BF16) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s has type number %d, must be F32, F16 or BF16", gguf_path(g), t->name, (int)t->type);
    }
    uint32_t rows;
    TRY(gguf_maybe_u32(g, "omni.vision.position_embeddings", t->ne[1] < UINT32_MAX ? (uint32_t)t->ne[1] : UINT32_MAX, &rows, err));
    if (rows < 1 || rows > t->ne[1] || rows > (uint32_t)MAX_WIDTH * 64) {
        return fail(err, OMNI_ERR_FORMAT, "%s: omni.vision.position_embeddings is %u, but v.position_embd.weight has %lld rows", gguf_path(g), rows,
                    (long long)t->ne[1]);
    }
    c->grid = (int)sqrt((double)rows);
    w->all.bytes += t->size;
    return OMNI_OK;
}

static omni_status load_deepstack(vision_weights *w, gguf *g, vision_config *c, omni_error *err) {
    int64_t joined = (int64_t)c->merge * c->merge * c->hidden;
    char name[64], full[80];
    c->deepstack = 0;
    for (int n = 0; n < c->layers; n++) {
        w->layers[n].deepstack = -1;
        layer_name(name, "deepstack", n, "fc1");
        snprintf(full, sizeof full, "%s.weight", name);
        if (gguf_tensor(g, full)) {
            w->layers[n].deepstack = c->deepstack++;
        }
    }
    w->deepstack = calloc((size_t)c->deepstack + 1, sizeof *w->deepstack);
    if (!w->deepstack) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the deepstack mergers");
    }
    /* A flag without tensors would silently change the answer. */
    gguf_type element;
    int64_t flags = gguf_array_count(g, "clip.vision.is_deepstack_layers", &element);
    if (flags == c->layers && element == GGUF_BOOL) {
        bool *on = malloc((size_t)flags * sizeof *on);
        omni_status status = on ? gguf_need_bools(g, "clip.vision.is_deepstack_layers", (size_t)flags, on, err)
                                : fail(err, OMNI_ERR_MEMORY, "out of memory for the flags of %d layers", c->layers);
        for (int n = 0; status == OMNI_OK && n < c->layers; n++) {
            if (on[n] && w->layers[n].deepstack < 0) {
                status =
                    fail(err, OMNI_ERR_FORMAT, "%s: clip.vision.is_deepstack_layers names layer %d, but there is no tensor v.deepstack.%d.fc1.weight",
                         gguf_path(g), n, n);
            }
        }
        free(on);
        TRY(status);
    }
    for (int n = 0; n < c->layers; n++) {
        if (w->layers[n].deepstack >= 0) {
            vision_merger *m = &w->deepstack[w->layers[n].deepstack];
            TRY(load_norm(&w->all, layer_name(name, "deepstack", n, "norm"), joined, &m->norm, err));
            TRY(load_linear(&w->all, layer_name(name, "deepstack", n, "fc1"), joined, joined, &m->fc1, err));
            TRY(load_linear(&w->all, layer_name(name, "deepstack", n, "fc2"), joined, c->out, &m->fc2, err));
        }
    }
    return OMNI_OK;
}

static omni_status load_all(vision_weights *w, gguf *g, vision_config *c, omni_error *err) {
    int64_t joined = (int64_t)c->merge * c->merge * c->hidden;
    bool gelu, silu;
    TRY(gguf_maybe_bool(g, "clip.use_gelu", true, &gelu, err));
    TRY(gguf_maybe_bool(g, "clip.use_silu", false, &silu, err));
    w->act = silu ? ACT_SILU : ACT_GELU_TANH;
    if (!gelu && !silu) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: neither clip.use_gelu nor clip.use_silu is set", gguf_path(g));
    }
    TRY(load_patch_embedding(&w->all, c, &w->patch, err));
    TRY(load_positions(w, g, c, err));
    /* a bogus layer count fails on the first missing tensor, so that the array stays as small as the file is honest */
    w->layers = calloc((size_t)c->layers, sizeof *w->layers);
    if (!w->layers) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %d layers", c->layers);
    }
    for (int n = 0; n < c->layers; n++) {
        TRY(load_layer(&w->all, c, n, &w->layers[n], err));
    }
    TRY(load_norm(&w->all, "v.post_ln", c->hidden, &w->merger.norm, err));
    TRY(load_linear(&w->all, "mm.0", joined, joined, &w->merger.fc1, err));
    TRY(load_linear(&w->all, "mm.2", joined, c->out, &w->merger.fc2, err));
    return load_deepstack(w, g, c, err);
}

omni_status vision_weights_load(vision_weights *w, backend *b, gguf *g, vision_config *c, omni_error *err) {
    *w = (vision_weights){0};
    weights_init(&w->all, b, g);
    omni_status status = load_all(w, g, c, err);
    if (status != OMNI_OK) {
        vision_weights_free(w);
    }
    return status;
}

void vision_weights_free(vision_weights *w) {
    free(w->layers);
    free(w->deepstack);
    weights_free(&w->all);
    *w = (vision_weights){0};
}
