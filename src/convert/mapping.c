#include "convert/mapping.h"

#include <stdlib.h>
#include <string.h>

#include "convert/mapping_builder.h"

/* ---- thinker ---- */

static void add_thinker(builder *b, const decoder_sizes *d) {
    b->part = MAPPING_THINKER;
    int64_t hidden = d->hidden_size, q = (int64_t)d->heads * d->head_dim, kv = (int64_t)d->kv_heads * d->head_dim;
    builder_scope(b, "", "thinker.", 0);
    builder_matrix(b, WEIGHT_MATRIX, "token_embd.weight", "model.embed_tokens.weight", hidden, d->vocab_size);
    bool own_head = builder_find(b, "lm_head.weight") || !d->tied;
    builder_matrix(b, WEIGHT_MATRIX, "output.weight", own_head ? "lm_head.weight" : "model.embed_tokens.weight", hidden, d->vocab_size);
    builder_vector(b, "output_norm.weight", "model.norm.weight", hidden);
    for (uint32_t i = 0; i < d->layers && b->status == OMNI_OK; i++) {
        builder_scope(b, "blk.%u.", "thinker.model.layers.%u.", i);
        builder_vector(b, "attn_norm.weight", "input_layernorm.weight", hidden);
        builder_matrix(b, WEIGHT_MATRIX, "attn_q.weight", "self_attn.q_proj.weight", hidden, q);
        builder_matrix(b, WEIGHT_MATRIX, "attn_k.weight", "self_attn.k_proj.weight", hidden, kv);
        builder_matrix(b, WEIGHT_MATRIX, "attn_v.weight", "self_attn.v_proj.weight", hidden, kv);
        builder_matrix(b, WEIGHT_MATRIX, "attn_output.weight", "self_attn.o_proj.weight", q, hidden);
        builder_vector(b, "attn_q_norm.weight", "self_attn.q_norm.weight", d->head_dim);
        builder_vector(b, "attn_k_norm.weight", "self_attn.k_norm.weight", d->head_dim);
        builder_vector(b, "ffn_norm.weight", "post_attention_layernorm.weight", hidden);
        builder_matrix(b, WEIGHT_F32, "ffn_gate_inp.weight", "mlp.gate.weight", hidden, d->experts);
        builder_experts(b, hidden, d->expert_ffn, d->experts);
    }
}

/* ---- encoders ---- */

static void add_vision(builder *b, const vision_sizes *v) {
    b->part = MAPPING_MMPROJ;
    int64_t width = v->hidden_size, patch = v->patch, frame = patch * patch, frames = v->temporal_patch, channels = v->channels;
    builder_scope(b, "v.", "thinker.visual.", 0);
    /* One 3-D convolution over two frames is stored as two 2-D ones, as llama.cpp wants it. */
    const int64_t shape[] = {width, channels, frames, patch, patch}, ne[] = {patch, patch, channels, width};
    const int64_t stride[] = {1, patch, frames * frame, channels * frames * frame};
    builder_strided(b, WEIGHT_PRECISE, "patch_embd.weight", "patch_embed.proj.weight", 5, shape, 4, ne, 0, stride);
    builder_strided(b, WEIGHT_PRECISE, "patch_embd.weight.1", "patch_embed.proj.weight", 5, shape, 4, ne, frame, stride);
    builder_vector(b, "patch_embd.bias", "patch_embed.proj.bias", width);
    builder_matrix(b, WEIGHT_F32, "position_embd.weight", "pos_embed.weight", width, v->positions);
    for (uint32_t i = 0; i < v->layers && b->status == OMNI_OK; i++) {
        builder_scope(b, "v.blk.%u.", "thinker.visual.blocks.%u.", i);
        builder_layer_norm(b, "ln1", "norm1", width);
        builder_linear(b, "attn_qkv", "attn.qkv", width, 3 * width);
        builder_linear(b, "attn_out", "attn.proj", width, width);
        builder_layer_norm(b, "ln2", "norm2", width);
        builder_linear(b, "ffn_up", "mlp.linear_fc1", width, v->ffn);
        builder_linear(b, "ffn_down", "mlp.linear_fc2", v->ffn, width);
    }
    int64_t merged = width * v->merge * v->merge;
    for (uint32_t i = 0; i < v->deepstacks && b->status == OMNI_OK; i++) {
        builder_scope(b, "", "thinker.visual.merger_list.%u.", i);
        builder_scope_to(b, "v.deepstack.%u.", v->deepstack[i]);
        builder_layer_norm(b, "norm", "ln_q", merged);
        builder_linear(b, "fc1", "mlp.0", merged, merged);
        builder_linear(b, "fc2", "mlp.2", merged, v->out_size);
    }
    builder_scope(b, "", "thinker.visual.merger.", 0);
    builder_layer_norm(b, "v.post_ln", "ln_q", width);
    builder_linear(b, "mm.0", "mlp.0", merged, merged);
    builder_linear(b, "mm.2", "mlp.2", merged, v->out_size);
}

static void add_audio(builder *b, const audio_sizes *a, uint32_t deepstacks) {
    b->part = MAPPING_MMPROJ;
    int64_t width = a->hidden_size, channels = a->conv_channels, bins = a->mel_bins;
    for (uint32_t i = 1; i <= 3; i++) {
        int64_t in = i == 1 ? 1 : channels;
        builder_scope(b, "a.conv2d.%u.", "thinker.audio_tower.conv2d%u.", i);
        builder_strided(b, WEIGHT_PRECISE, "weight", "weight", 4, (const int64_t[]){channels, in, 3, 3}, 4, (const int64_t[]){3, 3, in, channels}, 0,
                        NULL);
        /* llama.cpp adds it to an image of {time, mel, channels} */
        builder_strided(b, WEIGHT_F32, "bias", "bias", 1, &channels, 3, (const int64_t[]){1, 1, channels}, 0, NULL);
        bins = (bins + 1) / 2;
    }
    builder_scope(b, "a.", "thinker.audio_tower.", 0);
    builder_matrix(b, WEIGHT_PRECISE, "conv_out.weight", "conv_out.weight", bins * channels, width);
    builder_generated(b, "position_embd.weight", width, a->positions);
    for (uint32_t i = 0; i < a->layers && b->status == OMNI_OK; i++) {
        builder_scope(b, "a.blk.%u.", "thinker.audio_tower.layers.%u.", i);
        builder_layer_norm(b, "ln1", "self_attn_layer_norm", width);
        builder_linear(b, "attn_q", "self_attn.q_proj", width, width);
        builder_linear(b, "attn_k", "self_attn.k_proj", width, width);
        builder_linear(b, "attn_v", "self_attn.v_proj", width, width);
        builder_linear(b, "attn_out", "self_attn.out_proj", width, width);
        builder_layer_norm(b, "ln2", "final_layer_norm", width);
        builder_linear(b, "ffn_up", "fc1", width, a->ffn);
        builder_linear(b, "ffn_down", "fc2", a->ffn, width);
    }
    builder_scope(b, "", "thinker.audio_tower.", 0);
    builder_layer_norm(b, "a.post_ln", "ln_post", width);
    builder_linear(b, "mm.a.mlp.1", "proj1", width, width);
    /* llama.cpp appends the vision encoder's extra feature sets to its embeddings and wants those of sound as wide. */
    builder_padded_linear(b, "mm.a.mlp.2", "proj2", width, a->out_size, (int64_t)deepstacks * a->out_size);
}

/* ---- the whole checkpoint ---- */

static bool starts_with(const char *s, const char *prefix) {
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static unsigned part_of(const char *name) {
    if (starts_with(name, "talker.") || starts_with(name, "code2wav.")) {
        return MAPPING_TALKER;
    }
    if (starts_with(name, "thinker.visual.") || starts_with(name, "thinker.audio_tower.")) {
        return MAPPING_MMPROJ;
    }
    return MAPPING_THINKER; /* and whatever is unknown, so that it is found to be left over */
}

bool mapping_has_talker(const st_tensor *const *checkpoint, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (part_of(checkpoint[i]->name) == MAPPING_TALKER) {
            return true;
        }
    }
    return false;
}

/* Values that some tools store though they are computed from the sizes. */
static bool ignorable(const char *name) {
    static const char *const suffixes[] = {".rotary_emb.inv_freq", ".rotary_pos_emb.inv_freq", ".positional_embedding.positional_embedding"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t m = strlen(suffixes[i]);
        if (n > m && strcmp(name + n - m, suffixes[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int by_entry_name(const void *a, const void *b) {
    return strcmp(((const source_entry *)a)->t->name, ((const source_entry *)b)->t->name);
}

static void check_all_used(builder *b, unsigned parts) {
    const st_tensor *first = NULL;
    size_t extra = 0;
    for (size_t i = 0; i < b->n_sources; i++) {
        const st_tensor *t = b->sources[i].t;
        if (!b->sources[i].used && (part_of(t->name) & parts) && !ignorable(t->name)) {
            first = first ? first : t;
            extra++;
        }
    }
    if (extra && b->status == OMNI_OK) {
        b->status = fail(b->err, OMNI_ERR_FORMAT,
                         "%s: %zu tensors that this model does not have, the first is %s (%zu bytes); config.json and checkpoint differ", first->file,
                         extra, first->name, first->size);
    }
}

static void add_parts(builder *b, const model_config *config, unsigned parts) {
    if (parts & MAPPING_THINKER) {
        b->model = (recipe_model){.part = PART_THINKER, .layers = config->thinker.layers, .experts = config->thinker.experts};
        add_thinker(b, &config->thinker);
    }
    if (parts & MAPPING_MMPROJ) {
        b->model = (recipe_model){.part = PART_MMPROJ};
        add_audio(b, &config->audio, config_announced_deepstacks(config));
        add_vision(b, &config->vision);
    }
    if (parts & MAPPING_TALKER) {
        b->part = MAPPING_TALKER;
        b->model = (recipe_model){.part = PART_TALKER, .layers = config->talker.layers};
        mapping_add_talker(b, config);
    }
}

omni_status mapping_shapes(const model_config *config, unsigned parts, const recipe *type, mapping *out, omni_error *err) {
    *out = (mapping){0};
    builder b = {.shapes_only = true, .type = type, .out = out, .err = err};
    add_parts(&b, config, parts);
    if (b.status != OMNI_OK) {
        mapping_free(out);
    }
    return b.status;
}

omni_status mapping_build(const model_config *config, const st_tensor *const *checkpoint, size_t count, unsigned parts, const recipe *type,
                          const char *where, mapping *out, omni_error *err) {
    *out = (mapping){0};
    builder b = {.n_sources = count, .where = where, .type = type, .out = out, .err = err};
    b.sources = calloc(count ? count : 1, sizeof *b.sources);
    if (!b.sources) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the names of %zu tensors", count);
    }
    for (size_t i = 0; i < count; i++) {
        b.sources[i].t = checkpoint[i];
    }
    qsort(b.sources, count, sizeof *b.sources, by_entry_name);
    add_parts(&b, config, parts);
    check_all_used(&b, parts);
    free(b.sources);
    if (b.status != OMNI_OK) {
        mapping_free(out);
    }
    return b.status;
}

void mapping_free(mapping *m) {
    for (size_t i = 0; i < m->count; i++) {
        free(m->tensors[i].sources);
    }
    free(m->tensors);
    *m = (mapping){0};
}
