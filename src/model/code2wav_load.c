#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/code2wav_model.h"
#include "model/speech_config.h"

/* Bounds that keep products of sizes far from overflow; real models stay well inside. */
enum {
    MAX_WIDTH = 1 << 16,
    MAX_FFN = 1 << 20,
    MAX_RATE = 1 << 10,
    MAX_UPSAMPLE = 1 << 16,
    MAX_KERNEL = 1 << 12,
    ROUNDED_BLOCK = 32,
    ROUNDED_WINDOW = 1 << 20
};

static omni_status read_config(code2wav *m, const gguf *g, int64_t *rates, int64_t *ratios, omni_error *err) {
    TRY(speech_int(g, "code2wav", "hidden_size", 1, MAX_WIDTH, &m->hidden, err));
    TRY(speech_int(g, "code2wav", "block_count", 0, 1024, &m->layers, err));
    TRY(speech_int(g, "code2wav", "head_count", 1, 1024, &m->heads, err));
    TRY(speech_int(g, "code2wav", "head_count_kv", 1, 1024, &m->kv_heads, err));
    TRY(speech_int(g, "code2wav", "head_dim", 2, 1024, &m->head_dim, err));
    TRY(speech_int(g, "code2wav", "feed_forward_length", 1, MAX_FFN, &m->ffn, err));
    TRY(speech_int(g, "code2wav", "sliding_window", 1, MAX_WIDTH, &m->window, err));
    TRY(speech_int(g, "code2wav", "codebook_size", 1, 1 << 20, &m->codebook, err));
    TRY(speech_int(g, "code2wav", "num_quantizers", 1, 256, &m->groups, err));
    TRY(speech_int(g, "code2wav", "decoder_dim", 1, MAX_WIDTH, &m->decoder_dim, err));
    TRY(speech_int(g, "code2wav", "sample_rate", 1, 1 << 20, &m->sample_rate, err));
    TRY(speech_positive(g, "code2wav", "rms_norm_eps", &m->eps, err));
    uint32_t groups;
    TRY(gguf_maybe_u32(g, "talker.num_code_groups", (uint32_t)m->groups, &groups, err));
    if (groups != m->groups) {
        return fail(err, OMNI_ERR_FORMAT, "%s: talker.num_code_groups is %u, code2wav.num_quantizers %lld; they must be equal", gguf_path(g), groups,
                    (long long)m->groups);
    }
    float theta;
    TRY(speech_positive(g, "code2wav", "rope_theta", &theta, err));
    if (m->heads % m->kv_heads || m->head_dim % 2) {
        return fail(err, OMNI_ERR_FORMAT,
                    "%s: code2wav.head_count %lld must be a multiple of code2wav.head_count_kv %lld, and code2wav.head_dim %lld even", gguf_path(g),
                    (long long)m->heads, (long long)m->kv_heads, (long long)m->head_dim);
    }
    TRY(rotation_create(m->b, theta, (int)m->head_dim, (const int[3]){0}, &m->rope, err));

    const struct {
        const char *key;
        int *count;
        int64_t *out;
    } lists[] = {{"code2wav.upsample_rates", &m->n_blocks, rates}, {"code2wav.upsampling_ratios", &m->n_upsample, ratios}};
    m->total_upsample = 1;
    for (int l = 0; l < 2; l++) {
        int64_t count = gguf_array_count(g, lists[l].key, NULL);
        if (count < 0 || count > CODE2WAV_MAX_STAGES) {
            return fail(err, OMNI_ERR_FORMAT, "%s: key %s must be a list of at most %d integers", gguf_path(g), lists[l].key, CODE2WAV_MAX_STAGES);
        }
        int32_t values[CODE2WAV_MAX_STAGES];
        if (count > 0) {
            TRY(gguf_need_i32s(g, lists[l].key, (size_t)count, values, err));
        }
        *lists[l].count = (int)count;
        for (int64_t i = 0; i < count; i++) {
            if (values[i] < 1 || values[i] > MAX_RATE || m->total_upsample * values[i] > MAX_UPSAMPLE) {
                return fail(err, OMNI_ERR_FORMAT, "%s: key %s: %d samples a frame or more are not supported (value %d at index %lld)", gguf_path(g),
                            lists[l].key, MAX_UPSAMPLE, values[i], (long long)i);
            }
            m->total_upsample *= values[i];
            lists[l].out[i] = values[i];
        }
    }
    if (m->decoder_dim >> m->n_blocks < 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: code2wav.decoder_dim %lld cannot be halved %d times", gguf_path(g), (long long)m->decoder_dim,
                    m->n_blocks);
    }
    return OMNI_OK;
}

/* Rows of a weight as F32 in the backend's memory, each value transformed (NULL: as it is). */
static omni_status load_f32(code2wav *m, const tensor *t, float (*transform)(float), const float **out, omni_error *err) {
    const int64_t rows = tensor_rows(t), width = t->ne[0];
    const size_t bytes = (size_t)(rows * width) * sizeof(float);
    float *values = malloc(bytes);
    if (!values) {
        return fail(err, OMNI_ERR_MEMORY, "%s: tensor %s: out of memory for %zu bytes", gguf_path(m->held.g), t->name, bytes);
    }
    for (int64_t r = 0; r < rows; r++) {
        dtype_to_f32(t->type, tensor_row(t, r), values + r * width, width);
    }
    for (int64_t i = 0; transform && i < rows * width; i++) {
        values[i] = transform(values[i]);
    }
    void *memory;
    omni_status s = weights_memory(&m->held, bytes, &memory, err);
    if (s == OMNI_OK) {
        m->b->ops->upload(m->b, memory, values, bytes);
        *out = memory;
    }
    free(values);
    return s;
}

static float snake_inverse(float beta) {
    return 1.0f / (expf(beta) + 1e-9f);
}

static omni_status load_snake(code2wav *m, c2w_snake *s, int64_t channels, const char *name, omni_error *err) {
    tensor alpha, beta;
    TRY(weights_stored(&m->held, &alpha, err, 1, &channels, "%s.alpha", name));
    TRY(weights_stored(&m->held, &beta, err, 1, &channels, "%s.beta", name));
    TRY(load_f32(m, &alpha, expf, &s->a, err));
    return load_f32(m, &beta, snake_inverse, &s->inv_b, err);
}

static omni_status check_kernel(const code2wav *m, int64_t kernel, const char *name, omni_error *err) {
    if (kernel < 1 || kernel > MAX_KERNEL) {
        return fail(err, OMNI_ERR_FORMAT, "%s: tensor %s.weight: a kernel of %lld is outside 1 to %d", gguf_path(m->held.g), name, (long long)kernel,
                    MAX_KERNEL);
    }
    return OMNI_OK;
}

/* The type that convolutions are rounded like, which files keep as F16: docs/quality.md says what that costs. */
static dtype like(const code2wav *m) {
    return m->layers > 0 ? m->layer[0].up.type : DTYPE_F32;
}

static omni_status load_conv(code2wav *m, c2w_conv *c, int64_t in, int64_t out, int64_t dilation, const char *name, omni_error *err) {
    TRY(weights_stored(&m->held, &c->w, err, 3, (int64_t[]){in, -1, out}, "%s.weight", name));
    c->in = in;
    c->out = out;
    c->kernel = c->w.ne[1];
    c->dilation = dilation;
    TRY(check_kernel(m, c->kernel, name, err));
    /* Far windows would not leave the CPU backend room for the rows between. */
    const bool near = (c->kernel - 1) * dilation * (in + ROUNDED_BLOCK) <= ROUNDED_WINDOW;
    TRY(weights_place_rounded(&m->held, near ? like(m) : DTYPE_F32, &c->w, err));
    return weights_vector(&m->held, &c->bias, err, out, "%s.bias", name);
}

static omni_status load_transposed(code2wav *m, c2w_transposed *c, int64_t in, int64_t out, int64_t stride, const char *name, omni_error *err) {
    TRY(weights_stored(&m->held, &c->w, err, 3, (int64_t[]){in, out, -1}, "%s.weight", name));
    c->in = in;
    c->out = out;
    c->kernel = c->w.ne[2];
    c->stride = stride;
    TRY(check_kernel(m, c->kernel, name, err));
    if (c->kernel < stride || c->kernel > 2 * stride) {
        return fail(err, OMNI_ERR_UNSUPPORTED,
                    "%s: tensor %s.weight: a kernel of %lld with an upsampling of %lld; between once and twice that is supported",
                    gguf_path(m->held.g), name, (long long)c->kernel, (long long)stride);
    }
    c->w.n_dims = 2;
    c->w.ne[1] = out * c->kernel;
    c->w.ne[2] = 1;
    TRY(weights_place_rounded(&m->held, like(m), &c->w, err));
    return weights_vector(&m->held, &c->bias, err, out, "%s.bias", name);
}

static omni_status load_layer(code2wav *m, int64_t n, c2w_layer *l, omni_error *err) {
    weights *w = &m->held;
    const int64_t h = m->hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    const struct {
        const char *name;
        const float **out;
    } vectors[] = {{"attn_norm", &l->attn_norm}, {"ffn_norm", &l->ffn_norm}, {"attn_scale", &l->attn_scale}, {"ffn_scale", &l->ffn_scale}};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        TRY(weights_vector(w, vectors[i].out, err, h, "code2wav.blk.%lld.%s.weight", (long long)n, vectors[i].name));
    }
    const struct {
        const char *name;
        tensor *out;
        int64_t ne[2];
    } matrices[] = {{"attn_q", &l->q, {h, q}},          {"attn_k", &l->k, {h, kv}},          {"attn_v", &l->v, {h, kv}},
                    {"attn_output", &l->o, {q, h}},     {"ffn_gate", &l->gate, {h, m->ffn}}, {"ffn_up", &l->up, {h, m->ffn}},
                    {"ffn_down", &l->down, {m->ffn, h}}};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        TRY(weights_matrix(w, WEIGHT_LINEAR, matrices[i].out, err, 2, matrices[i].ne, "code2wav.blk.%lld.%s.weight", (long long)n, matrices[i].name));
    }
    return OMNI_OK;
}

static omni_status load_upsample(code2wav *m, int i, int64_t ratio, omni_error *err) {
    weights *w = &m->held;
    c2w_upsample *u = &m->upsample[i];
    const int64_t h = m->hidden;
    char name[64];
    snprintf(name, sizeof name, "code2wav.upsample.%d.conv", i);
    TRY(load_transposed(m, &u->conv, h, h, ratio, name, err));

    snprintf(name, sizeof name, "code2wav.upsample.%d.dwconv", i);
    TRY(weights_stored(w, &u->dw, err, 2, (int64_t[]){h, -1}, "%s.weight", name));
    u->dw_kernel = u->dw.ne[1];
    TRY(check_kernel(m, u->dw_kernel, name, err));
    const float *values; /* the operation takes F32 */
    TRY(load_f32(m, &u->dw, NULL, &values, err));
    u->dw.type = DTYPE_F32;
    u->dw.size = (size_t)(h * u->dw_kernel) * sizeof *values;
    u->dw.data = values;
    TRY(weights_vector(w, &u->dw_bias, err, h, "%s.bias", name));
    TRY(weights_vector(w, &u->norm, err, h, "code2wav.upsample.%d.norm.weight", i));
    TRY(weights_vector(w, &u->norm_bias, err, h, "code2wav.upsample.%d.norm.bias", i));
    TRY(weights_vector(w, &u->gamma, err, h, "code2wav.upsample.%d.gamma.weight", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &u->pw1, err, 2, (int64_t[]){h, -1}, "code2wav.upsample.%d.pwconv1.weight", i));
    u->inner = u->pw1.ne[1];
    if (u->inner > MAX_FFN) {
        return fail(err, OMNI_ERR_FORMAT, "%s: tensor code2wav.upsample.%d.pwconv1.weight: %lld rows are too many", gguf_path(w->g), i,
                    (long long)u->inner);
    }
    TRY(weights_vector(w, &u->pw1_bias, err, u->inner, "code2wav.upsample.%d.pwconv1.bias", i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &u->pw2, err, 2, (int64_t[]){u->inner, h}, "code2wav.upsample.%d.pwconv2.weight", i));
    return weights_vector(w, &u->pw2_bias, err, h, "code2wav.upsample.%d.pwconv2.bias", i);
}

static omni_status load_block(code2wav *m, int i, int64_t rate, omni_error *err) {
    c2w_block *b = &m->block[i];
    const int64_t in = m->decoder_dim >> i, out = m->decoder_dim >> (i + 1);
    char name[64];
    snprintf(name, sizeof name, "code2wav.decoder.%d.snake", i);
    TRY(load_snake(m, &b->snake, in, name, err));
    snprintf(name, sizeof name, "code2wav.decoder.%d.conv", i);
    TRY(load_transposed(m, &b->conv, in, out, rate, name, err));
    int64_t dilation = 1; /* 1, 3, 9: written in the reference's code, no config value */
    for (;; b->units++, dilation *= 3) {
        snprintf(name, sizeof name, "code2wav.decoder.%d.res.%d.conv1.weight", i, b->units);
        if (!gguf_tensor(m->held.g, name)) {
            break;
        }
        if (b->units == CODE2WAV_MAX_UNITS) {
            return fail(err, OMNI_ERR_UNSUPPORTED, "%s: tensor %s: more than %d residual units", gguf_path(m->held.g), name, CODE2WAV_MAX_UNITS);
        }
        c2w_unit *u = &b->unit[b->units];
        snprintf(name, sizeof name, "code2wav.decoder.%d.res.%d.snake1", i, b->units);
        TRY(load_snake(m, &u->snake1, out, name, err));
        snprintf(name, sizeof name, "code2wav.decoder.%d.res.%d.conv1", i, b->units);
        TRY(load_conv(m, &u->conv1, out, out, dilation, name, err));
        snprintf(name, sizeof name, "code2wav.decoder.%d.res.%d.snake2", i, b->units);
        TRY(load_snake(m, &u->snake2, out, name, err));
        snprintf(name, sizeof name, "code2wav.decoder.%d.res.%d.conv2", i, b->units);
        TRY(load_conv(m, &u->conv2, out, out, 1, name, err));
    }
    return OMNI_OK;
}

static omni_status load(code2wav *m, gguf *g, omni_error *err) {
    int64_t rates[CODE2WAV_MAX_STAGES], ratios[CODE2WAV_MAX_STAGES];
    TRY(read_config(m, g, rates, ratios, err));
    weights *w = &m->held;
    TRY(weights_matrix(w, WEIGHT_TABLE, &m->embd, err, 2, (int64_t[]){m->hidden, m->codebook * m->groups}, "code2wav.token_embd.weight"));
    m->layer = calloc((size_t)(m->layers ? m->layers : 1), sizeof *m->layer);
    if (!m->layer) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", gguf_path(g));
    }
    for (int64_t i = 0; i < m->layers; i++) {
        TRY(load_layer(m, i, &m->layer[i], err));
    }
    TRY(weights_vector(w, &m->output_norm, err, m->hidden, "code2wav.output_norm.weight"));
    for (int i = 0; i < m->n_upsample; i++) {
        TRY(load_upsample(m, i, ratios[i], err));
    }
    TRY(load_conv(m, &m->conv_in, m->hidden, m->decoder_dim, 1, "code2wav.conv_in", err));
    for (int i = 0; i < m->n_blocks; i++) {
        TRY(load_block(m, i, rates[i], err));
    }
    const int64_t channels = m->decoder_dim >> m->n_blocks;
    TRY(load_snake(m, &m->snake_out, channels, "code2wav.snake_out", err));
    TRY(load_conv(m, &m->conv_out, channels, 1, 1, "code2wav.conv_out", err));

    /* A trimmed row is worth as many samples as the stages after it make of one. */
    int64_t samples = m->total_upsample;
    for (int i = 0; i < m->n_upsample + m->n_blocks; i++) {
        const c2w_transposed *c = i < m->n_upsample ? &m->upsample[i].conv : &m->block[i - m->n_upsample].conv;
        samples /= c->stride;
        m->trimmed += (c->kernel - c->stride) * samples;
    }
    return OMNI_OK;
}

omni_status code2wav_open(backend *b, gguf *g, code2wav **out, omni_error *err) {
    code2wav *m = calloc(1, sizeof *m);
    if (!m) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", gguf_path(g));
    }
    m->b = b;
    weights_init(&m->held, b, g);
    omni_status s = load(m, g, err);
    if (s != OMNI_OK) {
        code2wav_close(m);
        return s;
    }
    *out = m;
    return OMNI_OK;
}

void code2wav_close(code2wav *m) {
    if (m) {
        weights_free(&m->held);
        rotation_free(m->b, &m->rope);
        free(m->layer);
        free(m);
    }
}

int code2wav_groups(const code2wav *m) {
    return (int)m->groups;
}

int code2wav_codebook(const code2wav *m) {
    return (int)m->codebook;
}

int code2wav_sample_rate(const code2wav *m) {
    return (int)m->sample_rate;
}

int64_t code2wav_upsample(const code2wav *m) {
    return m->total_upsample;
}

int64_t code2wav_trimmed(const code2wav *m) {
    return m->trimmed;
}

int64_t code2wav_length(const code2wav *m, int64_t frames) {
    int64_t n = frames * m->total_upsample - m->trimmed;
    return n > 0 ? n : 0;
}
