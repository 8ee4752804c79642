#include "model/audio_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/weights.h"

enum {
    GROUP_ROWS = 832, /* about so many embeddings pass through the layers together: whole attention windows */
    CONV_CHUNKS = 8,  /* chunks a convolution call; the first one's output is the largest buffer (6 MB a chunk in the release) */
    MOST = 1 << 20,   /* any size in a file above this is taken for damage: products stay far inside 64 bits */
};

typedef struct audio_layer {
    const float *ln1, *ln1_bias, *ln2, *ln2_bias;
    tensor q, k, v, out, up, down;
    const float *q_bias, *k_bias, *v_bias, *out_bias, *up_bias, *down_bias;
} audio_layer;

/* One chunk of one sound. */
typedef struct audio_chunk {
    const mel_clip *clip;
    int64_t begin;  /* first frame */
    int64_t frames; /* at most chunk */
} audio_chunk;

/* What is done to the rows of a group of chunks, in this order; from STAGE_QKV to STAGE_MLP once a layer. */
typedef enum stage { STAGE_CONVOLUTIONS, STAGE_WINDOWS, STAGE_QKV, STAGE_ATTENTION, STAGE_MLP, STAGE_PROJECTION, STAGE_DONE } stage;

/* How far a run is. */
typedef struct progress {
    const mel_clip *clips;
    int count, clip; /* the next group begins with frame `begin` of this one */
    int64_t begin;
    int64_t length; /* frames of the longest chunk of the call: all others are padded to it */
    float *embeds;  /* of the group */
    int chunks, embedded;
    int64_t rows; /* of the group; of those chunks that have passed the convolutions */
    stage stage;
    int layer;
    int64_t row; /* of the group: those before it have passed the stage */
} progress;

struct audio_encoder {
    backend *b;
    weights w;
    mel_config mel;
    int width;    /* of the encoder (d) */
    int heads;    /* of d / heads values */
    int ffn;      /* of the layers' MLP */
    int layers;   /* how many */
    int out;      /* the thinker's width */
    float eps;    /* of all LayerNorms */
    int channels; /* of the convolutions (c) */
    int chunk;    /* mel frames a chunk */
    int window;   /* chunks an attention window */
    int heights;  /* mel bins left by the convolutions */

    tensor conv[3]; /* {in, 3 (mel), 3 (time), c}: the images are time x mel */
    const float *conv_bias[3];
    tensor conv_out;        /* {heights * c, d} */
    const float *positions; /* [rows of a chunk, d] */
    audio_layer *layer;
    const float *post_ln, *post_ln_bias;
    tensor proj1, proj2;
    const float *proj1_bias, *proj2_bias;

    /* Scratch, from the first run on. */
    int group_chunks; /* chunks that pass through the layers together, a multiple of window */
    int conv_chunks;
    float *image, *conv_a, *conv_b;      /* [conv_chunks, ...] */
    float *x, *norm, *q, *k, *v, *mixed; /* [group rows, d] */
    float *hidden;                       /* [group rows, ffn] */
    int32_t *first, *end;                /* [group rows]: each row's attention window; end lies behind first */
    float *host_image;                   /* what is uploaded into image */
    int32_t *host_first;                 /* [2, group rows]: both */
    audio_chunk *group;                  /* [group_chunks] */

    progress at;
};

/* What three stride-2 convolutions with padding 1 leave of n. */
static int64_t after_convolutions(int64_t n) {
    for (int i = 0; i < 3; i++) {
        n = (n + 1) / 2;
    }
    return n;
}

int audio_encoder_width(const audio_encoder *e) {
    return e->out;
}

const mel_config *audio_encoder_mel(const audio_encoder *e) {
    return &e->mel;
}

int64_t audio_encoder_rows(const audio_encoder *e, int64_t frames) {
    return frames / e->chunk * after_convolutions(e->chunk) + after_convolutions(frames % e->chunk);
}

/* ---- loading ---- */

static omni_status read_config(audio_encoder *e, gguf *g, omni_error *err) {
    const char *projector;
    TRY(gguf_maybe_str(g, "clip.audio.projector_type", NULL, &projector, err));
    if (!projector) {
        TRY(gguf_maybe_str(g, "clip.projector_type", "", &projector, err));
    }
    bool has_audio;
    TRY(gguf_maybe_bool(g, "clip.has_audio_encoder", false, &has_audio, err));
    if (!has_audio || strcmp(projector, "qwen3a") != 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: has no audio encoder of Qwen3-Omni (clip.audio.projector_type is \"%s\", \"qwen3a\" is wanted)",
                    gguf_path(g), projector);
    }
    TRY(gguf_need_int(g, "clip.audio.embedding_length", 1, MOST, &e->width, err));
    TRY(gguf_need_int(g, "clip.audio.feed_forward_length", 1, MOST, &e->ffn, err));
    TRY(gguf_need_int(g, "clip.audio.block_count", 1, MOST, &e->layers, err));
    TRY(gguf_need_int(g, "clip.audio.attention.head_count", 1, MOST, &e->heads, err));
    TRY(gguf_need_f32(g, "clip.audio.attention.layer_norm_epsilon", &e->eps, err));
    TRY(gguf_need_int(g, "clip.audio.num_mel_bins", 1, MOST, &e->mel.bins, err));
    TRY(gguf_maybe_int(g, "omni.audio.sampling_rate", 16000, 1, MOST, &e->mel.rate, err));
    TRY(gguf_maybe_int(g, "omni.audio.n_fft", 400, 1, MOST, &e->mel.n_fft, err));
    TRY(gguf_maybe_int(g, "omni.audio.hop_length", 160, 1, MOST, &e->mel.hop, err));
    int n_window, n_window_infer;
    TRY(gguf_maybe_int(g, "omni.audio.n_window", 50, 1, MOST, &n_window, err));
    TRY(gguf_maybe_int(g, "omni.audio.n_window_infer", 800, 1, MOST, &n_window_infer, err));
    e->chunk = 2 * n_window;
    e->window = n_window_infer / e->chunk;
    e->heights = (int)after_convolutions(e->mel.bins);
    if (e->width % e->heads != 0 || e->width % 2 != 0 || e->width < 4) {
        return fail(err, OMNI_ERR_FORMAT, "%s: audio encoder of width %d with %d heads: the width must be even and divide into the heads",
                    gguf_path(g), e->width, e->heads);
    }
    if (e->window < 1 || after_convolutions(e->chunk) * e->window > 1 << 16) {
        return fail(err, OMNI_ERR_FORMAT,
                    "%s: omni.audio.n_window_infer %d for n_window %d: the attention window must hold 1 chunk of twice n_window "
                    "or more, and at most 65536 embeddings",
                    gguf_path(g), n_window_infer, n_window);
    }
    if (e->mel.bins > 1024) {
        return fail(err, OMNI_ERR_FORMAT, "%s: clip.audio.num_mel_bins is %d; at most 1024", gguf_path(g), e->mel.bins);
    }
    return OMNI_OK;
}

/* A convolution [out, in, 3 (mel), 3 (time)] as [out][3 (time)][3 (mel)][in] of the same type, and its bias (stored as {1, 1, out} or {out}). */
static omni_status load_conv(audio_encoder *e, int i, int64_t in, omni_error *err) {
    const ops *o = e->b->ops;
    const gguf *g = e->w.g;
    const tensor *t, *bias;
    TRY(gguf_need_tensor(g, &t, err, 4, (const int64_t[]){3, 3, in, i == 0 ? -1 : e->channels}, "a.conv2d.%d.weight", i + 1));
    e->channels = (int)t->ne[3];
    const int64_t c = e->channels;
    if (c < 1 || c > CONV2D_CHANNELS) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s has %lld channels; 1 to %d are possible", gguf_path(g), t->name, (long long)c,
                    CONV2D_CHANNELS);
    }
    bias = gguf_tensor(g, (const char *[]){"a.conv2d.1.bias", "a.conv2d.2.bias", "a.conv2d.3.bias"}[i]);
    if (!bias || bias->ne[0] * tensor_rows(bias) != c || dtype_find(bias->type) == NULL || dtype_find(bias->type)->block != 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: tensor a.conv2d.%d.bias is missing, quantised or has not %lld values", gguf_path(g), i + 1,
                    (long long)c);
    }
    if (!dtype_computable(t->type) || dtype_find(t->type)->block != 1 || !dtype_computable(bias->type)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s: a convolution must be F32, F16 or BF16", gguf_path(g), t->name);
    }
    const int64_t n = 9 * in * c;
    const size_t unit = dtype_find(t->type)->bytes;
    uint8_t *to = malloc((size_t)n * unit);
    float *values = malloc((size_t)c * sizeof *values);
    void *bias_memory = NULL;
    omni_status status = to && values ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "audio encoder: out of memory");
    if (status == OMNI_OK) {
        status = weights_memory(&e->w, (size_t)c * sizeof(float), &bias_memory, err);
    }
    if (status == OMNI_OK) {
        const uint8_t *from = t->data;
        for (int64_t out = 0; out < c; out++) {
            for (int64_t ch = 0; ch < in; ch++) {
                for (int64_t k = 0; k < 9; k++) { /* k = mel * 3 + time */
                    memcpy(to + (size_t)(((out * 3 + k % 3) * 3 + k / 3) * in + ch) * unit, from + (size_t)((out * in + ch) * 9 + k) * unit, unit);
                }
            }
        }
        dtype_to_f32(bias->type, bias->data, values, c);
        o->upload(e->b, bias_memory, values, (size_t)c * sizeof(float));
        e->conv[i] = (tensor){.name = t->name, .type = t->type, .n_dims = 4, .ne = {in, 3, 3, c}, .size = (size_t)n * unit, .data = to};
        status = weights_upload(&e->w, WEIGHT_CONVOLUTION, &e->conv[i], err);
        e->conv_bias[i] = bias_memory;
        e->w.bytes += t->size + bias->size;
    }
    free(values);
    free(to);
    return status;
}

/* The projection after the convolutions takes [channel][mel] in the file; our images are channels last, so [mel][channel] here. */
static omni_status load_conv_out(audio_encoder *e, omni_error *err) {
    const int64_t c = e->channels, heights = e->heights, in = c * heights;
    tensor t;
    TRY(weights_stored(&e->w, &t, err, 2, (const int64_t[]){in, e->width}, "a.conv_out.weight"));
    /* A block of a quantised row spans several columns: such a row is unpacked. */
    const bool unpack = dtype_find(t.type)->block != 1;
    const dtype type = unpack ? DTYPE_F32 : t.type;
    const size_t unit = dtype_find(type)->bytes, row = unit * (size_t)in;
    uint8_t *from = malloc(row), *to = malloc(row * (size_t)e->width);
    omni_status status = from && to ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "audio encoder: out of memory");
    for (int64_t r = 0; r < e->width && status == OMNI_OK; r++) {
        if (unpack) {
            dtype_to_f32(t.type, tensor_row(&t, r), (float *)(void *)from, in);
        } else {
            memcpy(from, tensor_row(&t, r), row);
        }
        for (int64_t i = 0; i < in; i++) {
            memcpy(to + (size_t)r * row + (size_t)(i % heights * c + i / heights) * unit, from + (size_t)i * unit, unit);
        }
    }
    if (status == OMNI_OK) {
        e->conv_out = t;
        e->conv_out.type = type;
        e->conv_out.size = row * (size_t)e->width;
        e->conv_out.data = to;
        status = weights_upload(&e->w, WEIGHT_LINEAR, &e->conv_out, err);
    }
    free(from);
    free(to);
    return status;
}

/* Sinusoids (Whisper's): row p is sin(p t_j) for j < d / 2, then cos(p t_j), t_j = 10000^(-j / (d / 2 - 1)). They restart in each
 * chunk, so few are needed. Made here and not read: the stored table is the same. */
static omni_status make_positions(audio_encoder *e, omni_error *err) {
    const int64_t rows = after_convolutions(e->chunk), half = e->width / 2;
    const size_t bytes = (size_t)(rows * e->width) * sizeof(float);
    float *table = malloc(bytes);
    void *memory = NULL;
    omni_status status = table ? weights_memory(&e->w, bytes, &memory, err) : fail(err, OMNI_ERR_MEMORY, "audio encoder: out of memory");
    if (status == OMNI_OK) {
        const float step = (float)(log(10000.0) / (double)(half - 1));
        for (int64_t p = 0; p < rows; p++) {
            for (int64_t j = 0; j < half; j++) {
                const float angle = (float)p * expf(-step * (float)j);
                table[p * e->width + j] = sinf(angle);
                table[p * e->width + half + j] = cosf(angle);
            }
        }
        e->b->ops->upload(e->b, memory, table, bytes);
        e->positions = memory;
    }
    free(table);
    return status;
}

static omni_status load_layer(audio_encoder *e, int i, omni_error *err) {
    audio_layer *l = &e->layer[i];
    weights *w = &e->w;
    const int64_t d = e->width, square[] = {d, d}, up[] = {d, e->ffn}, down[] = {e->ffn, d};
    TRY(weights_vector(w, &l->ln1, err, d, "a.blk.%d.ln1.weight", i));
    TRY(weights_vector(w, &l->ln1_bias, err, d, "a.blk.%d.ln1.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->q, err, 2, square, "a.blk.%d.attn_q.weight", i));
    TRY(weights_vector(w, &l->q_bias, err, d, "a.blk.%d.attn_q.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->k, err, 2, square, "a.blk.%d.attn_k.weight", i));
    TRY(weights_vector(w, &l->k_bias, err, d, "a.blk.%d.attn_k.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->v, err, 2, square, "a.blk.%d.attn_v.weight", i));
    TRY(weights_vector(w, &l->v_bias, err, d, "a.blk.%d.attn_v.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->out, err, 2, square, "a.blk.%d.attn_out.weight", i));
    TRY(weights_vector(w, &l->out_bias, err, d, "a.blk.%d.attn_out.bias", i));
    TRY(weights_vector(w, &l->ln2, err, d, "a.blk.%d.ln2.weight", i));
    TRY(weights_vector(w, &l->ln2_bias, err, d, "a.blk.%d.ln2.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->up, err, 2, up, "a.blk.%d.ffn_up.weight", i));
    TRY(weights_vector(w, &l->up_bias, err, e->ffn, "a.blk.%d.ffn_up.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->down, err, 2, down, "a.blk.%d.ffn_down.weight", i));
    TRY(weights_vector(w, &l->down_bias, err, d, "a.blk.%d.ffn_down.bias", i));
    return OMNI_OK;
}

static omni_status load(audio_encoder *e, gguf *g, omni_error *err) {
    TRY(read_config(e, g, err));
    for (int i = 0; i < 3; i++) {
        TRY(load_conv(e, i, i == 0 ? 1 : e->channels, err));
    }
    TRY(load_conv_out(e, err));
    TRY(make_positions(e, err));
    e->layer = calloc((size_t)e->layers, sizeof *e->layer);
    if (!e->layer) {
        return fail(err, OMNI_ERR_MEMORY, "audio encoder: out of memory for %d layers", e->layers);
    }
    for (int i = 0; i < e->layers; i++) {
        TRY(load_layer(e, i, err));
    }
    weights *w = &e->w;
    const int64_t d = e->width;
    TRY(weights_vector(w, &e->post_ln, err, d, "a.post_ln.weight"));
    TRY(weights_vector(w, &e->post_ln_bias, err, d, "a.post_ln.bias"));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &e->proj1, err, 2, (const int64_t[]){d, d}, "mm.a.mlp.1.weight"));
    TRY(weights_vector(w, &e->proj1_bias, err, d, "mm.a.mlp.1.bias"));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &e->proj2, err, 2, (const int64_t[]){d, -1}, "mm.a.mlp.2.weight"));
    if (e->proj2.ne[1] < 1 || e->proj2.ne[1] > MOST) {
        return fail(err, OMNI_ERR_FORMAT, "%s: tensor mm.a.mlp.2.weight gives embeddings of %lld values", gguf_path(g), (long long)e->proj2.ne[1]);
    }
    /* The rows past projection_dim are zeros that llama.cpp wants where the vision encoder gives its extra feature sets. */
    const int64_t rows = e->proj2.ne[1];
    uint32_t out = 0;
    TRY(gguf_maybe_u32(g, "clip.audio.projection_dim", (uint32_t)rows, &out, err));
    if (out < 1 || rows % out != 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: mm.a.mlp.2.weight has %lld rows, no multiple of clip.audio.projection_dim %u", gguf_path(g),
                    (long long)rows, out);
    }
    e->out = (int)out;
    e->proj2.ne[1] = out;
    e->proj2.size = e->proj2.size / (size_t)rows * out;
    return weights_vector(w, &e->proj2_bias, err, rows, "mm.a.mlp.2.bias");
}

omni_status audio_encoder_open(backend *b, gguf *g, audio_encoder **out, omni_error *err) {
    *out = NULL;
    audio_encoder *e = calloc(1, sizeof *e);
    if (!e) {
        return fail(err, OMNI_ERR_MEMORY, "audio encoder: out of memory");
    }
    e->b = b;
    weights_init(&e->w, b, g);
    omni_status status = load(e, g, err);
    if (status != OMNI_OK) {
        audio_encoder_close(e);
        return status;
    }
    *out = e;
    return OMNI_OK;
}

void audio_encoder_close(audio_encoder *e) {
    if (e) {
        weights_free(&e->w); /* scratch too */
        free(e->layer);
        free(e->host_image);
        free(e->host_first);
        free(e->group);
        free(e);
    }
}

/* ---- running ---- */

/* The parts of one block, in turn; base NULL: only counts. */
static void *part_of(char *base, size_t *used, int64_t values) {
    void *at = base ? base + *used : NULL;
    *used += ((size_t)values * sizeof(float) + 63) & ~(size_t)63;
    return at;
}

static size_t lay_out_scratch(audio_encoder *e, char *base) {
    const int64_t n = e->conv_chunks, t = e->chunk, m = e->mel.bins, c = e->channels;
    const int64_t rows = e->group_chunks * after_convolutions(t), d = e->width;
    size_t used = 0;
    e->image = part_of(base, &used, n * t * m);
    e->conv_a = part_of(base, &used, n * ((t + 1) / 2) * ((m + 1) / 2) * c);
    e->conv_b = part_of(base, &used, n * ((t + 3) / 4) * ((m + 3) / 4) * c);
    float **const row_buffers[] = {&e->x, &e->norm, &e->q, &e->k, &e->v, &e->mixed};
    for (size_t i = 0; i < sizeof row_buffers / sizeof *row_buffers; i++) {
        *row_buffers[i] = part_of(base, &used, rows * d);
    }
    e->hidden = part_of(base, &used, rows * e->ffn);
    e->first = part_of(base, &used, 2 * rows);
    return used;
}

/* What a call that failed half-way got is not asked for again. */
static omni_status make_scratch(audio_encoder *e, omni_error *err) {
    const int64_t chunk_rows = after_convolutions(e->chunk), windows = GROUP_ROWS / (chunk_rows * e->window);
    e->group_chunks = (int)(windows > 1 ? windows : 1) * e->window;
    e->conv_chunks = e->group_chunks < CONV_CHUNKS ? e->group_chunks : CONV_CHUNKS;
    const size_t rows = (size_t)(e->group_chunks * chunk_rows), image = (size_t)(e->conv_chunks * e->chunk * e->mel.bins);
    if (!e->image) {
        void *memory;
        TRY(weights_memory(&e->w, lay_out_scratch(e, NULL), &memory, err));
        lay_out_scratch(e, memory);
    }
    e->host_image = e->host_image ? e->host_image : malloc(image * sizeof *e->host_image);
    e->host_first = e->host_first ? e->host_first : malloc(2 * rows * sizeof *e->host_first);
    e->group = e->group ? e->group : malloc((size_t)e->group_chunks * sizeof *e->group);
    if (!e->host_image || !e->host_first || !e->group) {
        return fail(err, OMNI_ERR_MEMORY, "audio encoder: out of memory for scratch");
    }
    return OMNI_OK;
}

static void convolve(audio_encoder *e, int i, activation a, const float *x, int64_t n, int64_t height, int64_t width, float *y) {
    e->b->ops->conv2d_3x3_s2(e->b, &e->conv[i], e->conv_bias[i], x, n, height, width, y);
    e->b->ops->activate(e->b, a, y, n * ((height + 1) / 2) * ((width + 1) / 2) * e->channels, y);
}

/* Chunks, each zero-padded to length frames, through the convolutions; their rows go to y[rows, d]. Returns how many rows. */
static int64_t embed_chunks(audio_encoder *e, const audio_chunk *chunks, int n, int64_t length, float *y) {
    const ops *o = e->b->ops;
    const int64_t bins = e->mel.bins, d = e->width, padded_rows = after_convolutions(length);
    memset(e->host_image, 0, (size_t)(n * length * bins) * sizeof(float));
    for (int i = 0; i < n; i++) {
        memcpy(e->host_image + i * length * bins, chunks[i].clip->values + chunks[i].begin * bins, (size_t)(chunks[i].frames * bins) * sizeof(float));
    }
    o->upload(e->b, e->image, e->host_image, (size_t)(n * length * bins) * sizeof(float));
    int64_t h = length, w = bins;
    convolve(e, 0, ACT_GELU, e->image, n, h, w, e->conv_a); /* [n, 50, 64, c] at the release's sizes */
    h = (h + 1) / 2, w = (w + 1) / 2;
    convolve(e, 1, ACT_GELU, e->conv_a, n, h, w, e->conv_b); /* [n, 25, 32, c] */
    h = (h + 1) / 2, w = (w + 1) / 2;
    convolve(e, 2, ACT_GELU, e->conv_b, n, h, w, e->conv_a); /* [n, 13, 16, c] */
    int64_t rows = 0;
    for (int i = 0; i < n; i++) { /* the padding's rows are left out */
        const int64_t kept = after_convolutions(chunks[i].frames), in = (int64_t)e->heights * e->channels;
        o->linear(e->b, &e->conv_out, NULL, e->conv_a + i * padded_rows * in, kept, in, y + rows * d, d);
        o->add(e->b, e->positions, kept * d, y + rows * d);
        rows += kept;
    }
    return rows;
}

/* A window is up to e->window consecutive chunks of one sound: the rows of the group that each of its rows attends to. */
static void upload_windows(audio_encoder *e) {
    const audio_chunk *chunks = e->group;
    const int n = e->at.chunks;
    const int64_t rows = e->at.rows;
    int64_t row = 0;
    for (int i = 0; i < n;) {
        const int64_t window = chunks[i].begin / e->chunk / e->window, first = row;
        const mel_clip *clip = chunks[i].clip;
        for (; i < n && chunks[i].clip == clip && chunks[i].begin / e->chunk / e->window == window; i++) {
            row += after_convolutions(chunks[i].frames);
        }
        for (int64_t r = first; r < row; r++) {
            e->host_first[r] = (int32_t)first;
            e->host_first[rows + r] = (int32_t)row;
        }
    }
    e->end = e->first + rows;
    e->b->ops->upload(e->b, e->first, e->host_first, (size_t)(2 * rows) * sizeof(int32_t));
}

/* Queries, keys and values of n rows from row i. */
static void make_qkv(audio_encoder *e, const audio_layer *l, int64_t i, int64_t n) {
    const ops *o = e->b->ops;
    const int64_t d = e->width, at = i * d;
    o->layer_norm(e->b, e->x + at, l->ln1, l->ln1_bias, e->eps, n, d, e->norm + at);
    o->linear(e->b, &l->q, l->q_bias, e->norm + at, n, d, e->q + at, d);
    o->linear(e->b, &l->k, l->k_bias, e->norm + at, n, d, e->k + at, d);
    o->linear(e->b, &l->v, l->v_bias, e->norm + at, n, d, e->v + at, d);
}

static void attend(audio_encoder *e, const audio_layer *l, int64_t i, int64_t n) {
    const int d = e->width, head = d / e->heads;
    e->b->ops->attention_dense(e->b, e->q + i * d, d, e->k, e->v, d, e->first + i, e->end + i, n, e->heads, e->heads, head, 1.0f / sqrtf((float)head),
                               dtype_find(l->q.type)->block > 1, e->mixed + i * d);
}

/* What follows attention, of n rows from row i. */
static void finish_layer(audio_encoder *e, const audio_layer *l, int64_t i, int64_t n) {
    backend *b = e->b;
    const ops *o = b->ops;
    const int64_t d = e->width;
    float *x = e->x + i * d, *norm = e->norm + i * d, *hidden = e->hidden + i * e->ffn;
    o->linear(b, &l->out, l->out_bias, e->mixed + i * d, n, d, norm, d);
    o->add(b, norm, n * d, x);
    o->layer_norm(b, x, l->ln2, l->ln2_bias, e->eps, n, d, norm);
    o->linear(b, &l->up, l->up_bias, norm, n, d, hidden, e->ffn);
    o->activate(b, ACT_GELU, hidden, n * e->ffn, hidden);
    o->linear(b, &l->down, l->down_bias, hidden, n, e->ffn, norm, d);
    o->add(b, norm, n * d, x);
}

static void project(audio_encoder *e, int64_t i, int64_t n) {
    backend *b = e->b;
    const ops *o = b->ops;
    const int64_t d = e->width;
    float *norm = e->norm + i * d, *mixed = e->mixed + i * d;
    o->layer_norm(b, e->x + i * d, e->post_ln, e->post_ln_bias, e->eps, n, d, norm);
    o->linear(b, &e->proj1, e->proj1_bias, norm, n, d, mixed, d);
    o->activate(b, ACT_GELU, mixed, n * d, mixed);
    o->linear(b, &e->proj2, e->proj2_bias, mixed, n, d, e->at.embeds + i * e->out, e->out);
}

/* The next chunks of whole attention windows; none are left: all is done. */
static void begin_group(audio_encoder *e) {
    progress *p = &e->at;
    p->chunks = p->embedded = p->layer = 0;
    p->rows = p->row = 0;
    while (p->clip < p->count) {
        const mel_clip *clip = &p->clips[p->clip];
        const int64_t left = clip->frames - p->begin, chunks = (left + e->chunk - 1) / e->chunk;
        /* The chunks of the window that begins here must all fit. */
        if (p->begin / e->chunk % e->window == 0 && p->chunks + (chunks < e->window ? chunks : e->window) > e->group_chunks) {
            break;
        }
        e->group[p->chunks++] = (audio_chunk){.clip = clip, .begin = p->begin, .frames = left < e->chunk ? left : e->chunk};
        p->begin += e->chunk;
        if (p->begin >= clip->frames) {
            p->clip++;
            p->begin = 0;
        }
    }
    p->stage = p->chunks > 0 ? STAGE_CONVOLUTIONS : STAGE_DONE;
}

int64_t audio_encoder_longest(const audio_encoder *e) {
    return e->chunk;
}

omni_status audio_encoder_begin(audio_encoder *e, const mel_clip *clips, int n, int64_t longest, float *embeds, omni_error *err) {
    int64_t length = longest;
    e->at = (progress){.clips = clips, .count = n, .embeds = embeds, .stage = STAGE_DONE};
    for (int i = 0; i < n; i++) {
        if (clips[i].frames < 1 || clips[i].stored < clips[i].frames) {
            return fail(err, OMNI_ERR_ARGUMENT, "sound %d of %d has no mel frames", i + 1, n);
        }
        length = clips[i].frames > length ? clips[i].frames : length;
    }
    e->at.length = length < e->chunk ? length : e->chunk;
    TRY(make_scratch(e, err));
    begin_group(e);
    return OMNI_OK;
}

/* The stage's work on n rows from row i. */
static void run_unit(audio_encoder *e, int64_t i, int64_t n) {
    const audio_layer *l = &e->layer[e->at.layer < e->layers ? e->at.layer : e->layers - 1];
    switch (e->at.stage) {
    case STAGE_QKV:
        make_qkv(e, l, i, n);
        break;
    case STAGE_ATTENTION:
        attend(e, l, i, n);
        break;
    case STAGE_MLP:
        finish_layer(e, l, i, n);
        break;
    case STAGE_PROJECTION:
        project(e, i, n);
        break;
    case STAGE_CONVOLUTIONS:
    case STAGE_WINDOWS:
    case STAGE_DONE:
        break;
    }
}

bool audio_encoder_step(audio_encoder *e, int64_t rows) {
    progress *p = &e->at;
    if (p->stage == STAGE_DONE) {
        return false;
    }
    if (p->stage == STAGE_CONVOLUTIONS) { /* a chunk costs as much as the MLP of CHUNK_ROWS rows, at the released sizes */
        enum { CHUNK_ROWS = 128 };
        const int left = p->chunks - p->embedded, most = left < e->conv_chunks ? left : e->conv_chunks;
        const int some = rows >= most * CHUNK_ROWS ? most : rows >= CHUNK_ROWS ? (int)(rows / CHUNK_ROWS) : 1;
        p->rows += embed_chunks(e, e->group + p->embedded, some, p->length, e->x + p->rows * e->width);
        p->embedded += some;
        if (p->embedded == p->chunks) {
            p->stage++;
        }
        return true;
    }
    if (p->stage == STAGE_WINDOWS) {
        upload_windows(e);
        p->stage++;
        return true;
    }
    const int64_t left = p->rows - p->row, n = rows < 1 ? 1 : rows < left ? rows : left;
    run_unit(e, p->row, n);
    p->row += n;
    if (p->row < p->rows) {
        return true;
    }
    p->row = 0;
    if (p->stage == STAGE_PROJECTION) {
        p->embeds += p->rows * e->out;
        begin_group(e);
    } else if (p->stage == STAGE_MLP && ++p->layer < e->layers) {
        p->stage = STAGE_QKV;
    } else {
        p->stage++;
    }
    return p->stage != STAGE_DONE;
}

omni_status audio_encoder_run(audio_encoder *e, const mel_clip *clips, int n, int64_t longest, float *embeds, omni_error *err) {
    TRY(audio_encoder_begin(e, clips, n, longest, embeds, err));
    while (audio_encoder_step(e, INT64_MAX)) {
    }
    return OMNI_OK;
}
