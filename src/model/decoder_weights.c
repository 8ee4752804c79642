/* What a decoder is made of: its sizes checked, its tensors found. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/decoder.h"

static omni_status check_size(const char *what, const char *field, int64_t value, int64_t low, int64_t high, omni_error *err) {
    if (value < low || value > high) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %s is %lld; it must be between %lld and %lld", what, field, (long long)value, (long long)low,
                    (long long)high);
    }
    return OMNI_OK;
}

omni_status decoder_config_check(const decoder_config *c, const char *what, omni_error *err) {
    /* Limits far above any model, so that products of two sizes fit in 64 bits and no table is absurd. */
    TRY(check_size(what, "the number of layers", c->layers, 1, 4096, err));
    TRY(check_size(what, "the hidden size", c->width, 1, 1 << 20, err));
    TRY(check_size(what, "the number of heads", c->heads, 1, 1 << 14, err));
    TRY(check_size(what, "the number of key/value heads", c->kv_heads, 1, c->heads, err));
    TRY(check_size(what, "the head size", c->head_dim, 2, 1 << 12, err));
    TRY(check_size(what, "the vocabulary", c->vocab, 0, 1 << 26, err));
    TRY(check_size(what, "the number of experts", c->experts, 0, 1 << 16, err));
    if (c->experts) {
        TRY(check_size(what, "the number of experts used", c->experts_used, 1, c->experts, err));
        TRY(check_size(what, "the experts' feed-forward length", c->expert_ffn, 1, 1 << 22, err));
        TRY(check_size(what, "the shared expert's feed-forward length", c->shared_ffn, 0, 1 << 22, err));
    } else {
        TRY(check_size(what, "the feed-forward length", c->ffn, 1, 1 << 22, err));
    }
    if (c->heads % c->kv_heads != 0 || c->head_dim % 2 != 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %d heads of size %d with %d key/value heads; heads must be a multiple, the size even", what, c->heads,
                    c->head_dim, c->kv_heads);
    }
    if (!isfinite(c->norm_eps) || c->norm_eps < 0 || !isfinite(c->rope_base) || c->rope_base <= 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: norm epsilon %g and rotation base %g must be positive numbers", what, (double)c->norm_eps,
                    (double)c->rope_base);
    }
    for (int i = 0; i < 3; i++) {
        TRY(check_size(what, "a section of the rotation", c->rope_sections[i], 0, c->head_dim / 2, err));
    }
    return OMNI_OK;
}

static omni_status load_layer(weights *w, const char *prefix, const decoder_config *c, int i, layer_weights *l, omni_error *err) {
    int64_t width = c->width, q_width = (int64_t)c->heads * c->head_dim, kv_width = (int64_t)c->kv_heads * c->head_dim;
    TRY(weights_vector(w, &l->attn_norm, err, width, "%sblk.%d.attn_norm.weight", prefix, i));
    TRY(weights_vector(w, &l->ffn_norm, err, width, "%sblk.%d.ffn_norm.weight", prefix, i));
    TRY(weights_vector(w, &l->q_norm, err, c->head_dim, "%sblk.%d.attn_q_norm.weight", prefix, i));
    TRY(weights_vector(w, &l->k_norm, err, c->head_dim, "%sblk.%d.attn_k_norm.weight", prefix, i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->q, err, 2, (int64_t[]){width, q_width}, "%sblk.%d.attn_q.weight", prefix, i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->k, err, 2, (int64_t[]){width, kv_width}, "%sblk.%d.attn_k.weight", prefix, i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->v, err, 2, (int64_t[]){width, kv_width}, "%sblk.%d.attn_v.weight", prefix, i));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &l->o, err, 2, (int64_t[]){q_width, width}, "%sblk.%d.attn_output.weight", prefix, i));
    if (c->experts) {
        int64_t in[] = {width, c->expert_ffn, c->experts}, out[] = {c->expert_ffn, width, c->experts};
        TRY(weights_matrix(w, WEIGHT_LINEAR, &l->router, err, 2, (int64_t[]){width, c->experts}, "%sblk.%d.ffn_gate_inp.weight", prefix, i));
        TRY(weights_matrix(w, WEIGHT_EXPERTS, &l->gate_exps, err, 3, in, "%sblk.%d.ffn_gate_exps.weight", prefix, i));
        TRY(weights_matrix(w, WEIGHT_EXPERTS, &l->up_exps, err, 3, in, "%sblk.%d.ffn_up_exps.weight", prefix, i));
        TRY(weights_matrix(w, WEIGHT_EXPERTS, &l->down_exps, err, 3, out, "%sblk.%d.ffn_down_exps.weight", prefix, i));
    }
    int64_t ffn = c->experts ? c->shared_ffn : c->ffn;
    if (ffn) {
        const char *suffix = c->experts ? "_shexp" : "";
        TRY(weights_matrix(w, WEIGHT_LINEAR, &l->gate, err, 2, (int64_t[]){width, ffn}, "%sblk.%d.ffn_gate%s.weight", prefix, i, suffix));
        TRY(weights_matrix(w, WEIGHT_LINEAR, &l->up, err, 2, (int64_t[]){width, ffn}, "%sblk.%d.ffn_up%s.weight", prefix, i, suffix));
        TRY(weights_matrix(w, WEIGHT_LINEAR, &l->down, err, 2, (int64_t[]){ffn, width}, "%sblk.%d.ffn_down%s.weight", prefix, i, suffix));
    }
    if (c->experts && ffn) {
        TRY(weights_matrix(w, WEIGHT_LINEAR, &l->shared_router, err, 2, (int64_t[]){width, 1}, "%sblk.%d.ffn_gate_inp_shexp.weight", prefix, i));
    }
    return OMNI_OK;
}

static omni_status load_all(const char *prefix, const decoder_config *c, bool embeddings_only, decoder_weights *out, omni_error *err) {
    weights *w = &out->held;
    int64_t table[] = {c->width, c->vocab};
    if (c->vocab) {
        TRY(weights_matrix(w, WEIGHT_TABLE, &out->token_embd, err, 2, table, "%stoken_embd.weight", prefix));
    }
    if (embeddings_only) {
        return OMNI_OK;
    }
    if (c->vocab) {
        char name[64];
        snprintf(name, sizeof name, "%soutput.weight", prefix);
        if (gguf_tensor(w->g, name)) {
            TRY(weights_matrix(w, WEIGHT_LINEAR, &out->output, err, 2, table, "%s", name));
        } else {
            /* Files leave a tied head out. Where it is packed, the table stays in the file too: single rows are looked up in it. */
            TRY(weights_matrix(w, WEIGHT_LINEAR, &out->output, err, 2, table, "%stoken_embd.weight", prefix));
        }
    }
    TRY(weights_vector(w, &out->output_norm, err, c->width, "%soutput_norm.weight", prefix));
    out->layers = calloc((size_t)c->layers, sizeof *out->layers);
    if (!out->layers) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %d layers", c->layers);
    }
    for (int i = 0; i < c->layers; i++) {
        TRY(load_layer(w, prefix, c, i, &out->layers[i], err));
    }
    return OMNI_OK;
}

omni_status decoder_weights_load(backend *b, const gguf *g, const char *prefix, const decoder_config *c, bool embeddings_only, decoder_weights *out,
                                 omni_error *err) {
    *out = (decoder_weights){0};
    weights_init(&out->held, b, g);
    omni_status status = load_all(prefix, c, embeddings_only, out, err);
    if (status != OMNI_OK) {
        decoder_weights_free(out);
    }
    return status;
}

void decoder_weights_free(decoder_weights *w) {
    weights_free(&w->held);
    free(w->layers);
    *w = (decoder_weights){0};
}
