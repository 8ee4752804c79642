/* The talker's file: talker, code predictor and code2wav, under the names of docs/formats.md. */
#include <stdio.h>

#include "convert/mapping_builder.h"

/* What talker, code predictor and code2wav have in common in a layer. */
static void attention(builder *b, const decoder_sizes *d, bool head_norms) {
    int64_t hidden = d->hidden_size, q = (int64_t)d->heads * d->head_dim, kv = (int64_t)d->kv_heads * d->head_dim;
    builder_vector(b, "attn_norm.weight", "input_layernorm.weight", hidden);
    builder_matrix(b, WEIGHT_MATRIX, "attn_q.weight", "self_attn.q_proj.weight", hidden, q);
    builder_matrix(b, WEIGHT_MATRIX, "attn_k.weight", "self_attn.k_proj.weight", hidden, kv);
    builder_matrix(b, WEIGHT_MATRIX, "attn_v.weight", "self_attn.v_proj.weight", hidden, kv);
    builder_matrix(b, WEIGHT_MATRIX, "attn_output.weight", "self_attn.o_proj.weight", q, hidden);
    if (head_norms) {
        builder_vector(b, "attn_q_norm.weight", "self_attn.q_norm.weight", d->head_dim);
        builder_vector(b, "attn_k_norm.weight", "self_attn.k_norm.weight", d->head_dim);
    }
    builder_vector(b, "ffn_norm.weight", "post_attention_layernorm.weight", hidden);
}

static void dense_mlp(builder *b, int64_t hidden, int64_t ffn) {
    builder_matrix(b, WEIGHT_MATRIX, "ffn_gate.weight", "mlp.gate_proj.weight", hidden, ffn);
    builder_matrix(b, WEIGHT_MATRIX, "ffn_up.weight", "mlp.up_proj.weight", hidden, ffn);
    builder_matrix(b, WEIGHT_MATRIX, "ffn_down.weight", "mlp.down_proj.weight", ffn, hidden);
}

static void talker(builder *b, const model_config *c) {
    const decoder_sizes *d = &c->talker;
    int64_t hidden = d->hidden_size, thinker = c->thinker_hidden_size;
    builder_scope(b, "talker.", "talker.", 0);
    builder_matrix(b, WEIGHT_PRECISE, "token_embd.weight", "model.codec_embedding.weight", hidden, d->vocab_size);
    builder_matrix(b, WEIGHT_PRECISE, "output.weight", "codec_head.weight", hidden, d->vocab_size);
    builder_vector(b, "output_norm.weight", "model.norm.weight", hidden);
    builder_linear(b, "text_projection.fc1", "text_projection.linear_fc1", thinker, d->ffn);
    builder_linear(b, "text_projection.fc2", "text_projection.linear_fc2", d->ffn, hidden);
    builder_linear(b, "hidden_projection.fc1", "hidden_projection.linear_fc1", thinker, d->ffn);
    builder_linear(b, "hidden_projection.fc2", "hidden_projection.linear_fc2", d->ffn, hidden);
    for (uint32_t i = 0; i < d->layers && b->status == OMNI_OK; i++) {
        builder_scope(b, "talker.blk.%u.", "talker.model.layers.%u.", i);
        attention(b, d, true);
        builder_matrix(b, WEIGHT_F32, "ffn_gate_inp.weight", "mlp.gate.weight", hidden, d->experts);
        builder_experts(b, hidden, d->expert_ffn, d->experts);
        builder_matrix(b, WEIGHT_F32, "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", hidden, 1);
        builder_matrix(b, WEIGHT_MATRIX, "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", hidden, d->shared_ffn);
        builder_matrix(b, WEIGHT_MATRIX, "ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", hidden, d->shared_ffn);
        builder_matrix(b, WEIGHT_MATRIX, "ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", d->shared_ffn, hidden);
    }
}

static void code_predictor(builder *b, const model_config *c) {
    const decoder_sizes *d = &c->predictor;
    int64_t hidden = d->hidden_size;
    for (uint32_t i = 0; i + 1 < c->predictor_groups && b->status == OMNI_OK; i++) {
        builder_scope(b, "code_predictor.token_embd.%u.", "talker.code_predictor.model.codec_embedding.%u.", i);
        builder_matrix(b, WEIGHT_PRECISE, "weight", "weight", hidden, d->vocab_size);
        builder_scope(b, "code_predictor.output.%u.", "talker.code_predictor.lm_head.%u.", i);
        builder_matrix(b, WEIGHT_PRECISE, "weight", "weight", hidden, d->vocab_size);
    }
    builder_scope(b, "code_predictor.", "talker.code_predictor.model.", 0);
    builder_vector(b, "output_norm.weight", "norm.weight", hidden);
    for (uint32_t i = 0; i < d->layers && b->status == OMNI_OK; i++) {
        builder_scope(b, "code_predictor.blk.%u.", "talker.code_predictor.model.layers.%u.", i);
        attention(b, d, true);
        dense_mlp(b, hidden, d->ffn);
    }
}

/* [out, in, kernel] stored as [out][kernel][in]: time-major, so that a window over the samples is one row. */
static void convolution(builder *b, const char *to, const char *from, int64_t in, int64_t kernel, int64_t out) {
    char t[64], f[96];
    snprintf(t, sizeof t, "%s.weight", to);
    snprintf(f, sizeof f, "%s.weight", from);
    builder_strided(b, WEIGHT_PRECISE, t, f, 3, (const int64_t[]){out, in, kernel}, 3, (const int64_t[]){in, kernel, out}, 0,
                    (const int64_t[]){kernel, 1, in * kernel});
    snprintf(t, sizeof t, "%s.bias", to);
    snprintf(f, sizeof f, "%s.bias", from);
    builder_vector(b, t, f, out);
}

/* [in, out, kernel] stored as [kernel][out][in]: one linear map from a sample to everything it adds to. */
static void transposed(builder *b, const char *to, const char *from, int64_t in, int64_t out, int64_t kernel) {
    char t[64], f[96];
    snprintf(t, sizeof t, "%s.weight", to);
    snprintf(f, sizeof f, "%s.weight", from);
    builder_strided(b, WEIGHT_PRECISE, t, f, 3, (const int64_t[]){in, out, kernel}, 3, (const int64_t[]){in, out, kernel}, 0,
                    (const int64_t[]){out * kernel, kernel, 1});
    snprintf(t, sizeof t, "%s.bias", to);
    snprintf(f, sizeof f, "%s.bias", from);
    builder_vector(b, t, f, out);
}

static void snake(builder *b, const char *to, const char *from, int64_t channels) {
    static const char *const parameters[] = {"alpha", "beta"};
    for (int i = 0; i < 2; i++) {
        char t[64], f[96];
        snprintf(t, sizeof t, "%s.%s", to, parameters[i]);
        snprintf(f, sizeof f, "%s%s%s", from, *from ? "." : "", parameters[i]);
        builder_vector(b, t, f, channels);
    }
}

static void upsampling(builder *b, const code2wav_sizes *w, uint32_t stage) {
    int64_t hidden = w->transformer.hidden_size, ratio = w->ratios[stage];
    builder_scope(b, "code2wav.upsample.%u.", "code2wav.upsample.%u.", stage);
    transposed(b, "conv", "0.conv", hidden, hidden, ratio);
    enum { taps = 7 };
    builder_strided(b, WEIGHT_F32, "dwconv.weight", "1.dwconv.conv.weight", 3, (const int64_t[]){hidden, 1, taps}, 2, (const int64_t[]){hidden, taps},
                    0, (const int64_t[]){taps, 1});
    builder_vector(b, "dwconv.bias", "1.dwconv.conv.bias", hidden);
    builder_layer_norm(b, "norm", "1.norm", hidden);
    builder_linear(b, "pwconv1", "1.pwconv1", hidden, 4 * hidden);
    builder_linear(b, "pwconv2", "1.pwconv2", 4 * hidden, hidden);
    builder_vector(b, "gamma.weight", "1.gamma", hidden);
}

static void code2wav(builder *b, const model_config *c) {
    const code2wav_sizes *w = &c->code2wav;
    const decoder_sizes *d = &w->transformer;
    int64_t hidden = d->hidden_size;
    builder_scope(b, "code2wav.", "code2wav.", 0);
    builder_matrix(b, WEIGHT_PRECISE, "token_embd.weight", "code_embedding.weight", hidden, (int64_t)w->codebook_size * w->quantizers);
    for (uint32_t i = 0; i < d->layers && b->status == OMNI_OK; i++) {
        builder_scope(b, "code2wav.blk.%u.", "code2wav.pre_transformer.layers.%u.", i);
        attention(b, d, false);
        builder_vector(b, "attn_scale.weight", "self_attn_layer_scale.scale", hidden);
        dense_mlp(b, hidden, d->ffn);
        builder_vector(b, "ffn_scale.weight", "mlp_layer_scale.scale", hidden);
    }
    builder_scope(b, "code2wav.", "code2wav.", 0);
    builder_vector(b, "output_norm.weight", "pre_transformer.norm.weight", hidden);
    for (uint32_t i = 0; i < w->n_ratios && b->status == OMNI_OK; i++) {
        upsampling(b, w, i);
    }
    int64_t channels = w->decoder_dim;
    builder_scope(b, "code2wav.", "code2wav.decoder.", 0);
    convolution(b, "conv_in", "0.conv", hidden, 7, channels);
    for (uint32_t i = 0; i < w->n_rates && b->status == OMNI_OK; i++) {
        builder_scope(b, "code2wav.decoder.%u.", "code2wav.decoder.%u.block.", i + 1);
        builder_scope_to(b, "code2wav.decoder.%u.", i);
        snake(b, "snake", "0", channels);
        transposed(b, "conv", "1.conv", channels, channels / 2, 2 * (int64_t)w->rates[i]);
        channels /= 2;
        for (int m = 0; m < 3; m++) {
            char to[32], from[32];
            snprintf(to, sizeof to, "res.%d.snake1", m);
            snprintf(from, sizeof from, "%d.act1", m + 2);
            snake(b, to, from, channels);
            snprintf(to, sizeof to, "res.%d.conv1", m);
            snprintf(from, sizeof from, "%d.conv1.conv", m + 2);
            convolution(b, to, from, channels, 7, channels);
            snprintf(to, sizeof to, "res.%d.snake2", m);
            snprintf(from, sizeof from, "%d.act2", m + 2);
            snake(b, to, from, channels);
            snprintf(to, sizeof to, "res.%d.conv2", m);
            snprintf(from, sizeof from, "%d.conv2.conv", m + 2);
            convolution(b, to, from, channels, 1, channels);
        }
    }
    builder_scope(b, "code2wav.", "code2wav.decoder.%u.", w->n_rates + 1);
    snake(b, "snake_out", "", channels);
    builder_scope(b, "code2wav.", "code2wav.decoder.%u.", w->n_rates + 2);
    convolution(b, "conv_out", "conv", channels, 7, 1);
}

void mapping_add_talker(builder *b, const model_config *c) {
    talker(b, c);
    code_predictor(b, c);
    code2wav(b, c);
}
