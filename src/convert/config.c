#include "convert/config.h"

#include <stdlib.h>
#include <string.h>

#include "convert/json_fields.h"

/* Upper bounds that keep every product of sizes far from overflow; real models stay well below. */
enum { MAX_SIZE = 1 << 20, MAX_VOCABULARY = 1 << 24, MAX_HEADS = 1 << 12, MAX_EXPERTS = 1 << 14, MAX_POSITIONS = 1 << 24 };

static void activation(json_reader *r, const json_section *s, const char *field, const char *supported) {
    const char *name = json_maybe_string(r, s, field);
    if (name && strcmp(name, supported) != 0) {
        json_fail(r, s, field, "\"%.60s\" is not supported; this model uses \"%s\"", name, supported);
    }
}

/* Rotation: rope_parameters, or rope_scaling (which may be null) with rope_theta beside it. */
static void rope(json_reader *r, const json_section *s, float *theta, int32_t *sections, uint32_t head_dim) {
    json_section p = json_object_at(r, s, "rope_parameters", true);
    if (!p.json && r->status == OMNI_OK) {
        p = json_object_at(r, s, "rope_scaling", true);
    }
    const char *type = json_maybe_string(r, &p, "rope_type");
    if (!type) {
        type = json_maybe_string(r, &p, "type");
    }
    if (type && strcmp(type, "default") != 0 && strcmp(type, "mrope") != 0) {
        json_fail(r, &p, "rope_type", "\"%.60s\" is not supported; this model uses \"default\"", type);
    }
    if (!json_maybe_f32(r, &p, "rope_theta", 1, 1e12, theta)) {
        json_f32(r, s, "rope_theta", 1, 1e12, theta);
    }
    if (!sections || r->status != OMNI_OK) {
        return;
    }
    if (!p.json) {
        json_fail(r, s, "rope_parameters", "missing (rope_scaling in the older spelling); its mrope_section is needed");
        return;
    }
    uint32_t v[3] = {0};
    size_t n = 0;
    json_u32_list(r, &p, "mrope_section", 0, MAX_SIZE, v, 3, 3, &n);
    if (r->status == OMNI_OK && v[0] + v[1] + v[2] != head_dim / 2) {
        json_fail(r, &p, "mrope_section", "%u + %u + %u is not half the head size %u", v[0], v[1], v[2], head_dim);
    }
    for (int i = 0; i < 3; i++) {
        sections[i] = (int32_t)v[i];
    }
}

/* What every stack of decoder layers has. */
static void decoder_common(json_reader *r, const json_section *s, decoder_sizes *d) {
    json_u32(r, s, "num_hidden_layers", 1, CONFIG_MAX_LAYERS, &d->layers);
    json_u32(r, s, "hidden_size", 1, MAX_SIZE, &d->hidden_size);
    json_u32(r, s, "num_attention_heads", 1, MAX_HEADS, &d->heads);
    json_u32(r, s, "num_key_value_heads", 1, MAX_HEADS, &d->kv_heads);
    if (r->status == OMNI_OK && d->heads % d->kv_heads != 0) {
        json_fail(r, s, "num_key_value_heads", "%u does not divide num_attention_heads %u", d->kv_heads, d->heads);
    }
    if (!json_maybe_u32(r, s, "head_dim", 2, MAX_SIZE, &d->head_dim) && r->status == OMNI_OK) {
        if (d->hidden_size % d->heads != 0) {
            json_fail(r, s, "head_dim", "missing, and hidden_size %u is no multiple of num_attention_heads %u", d->hidden_size, d->heads);
        }
        d->head_dim = d->hidden_size / d->heads;
    }
    if (r->status == OMNI_OK && d->head_dim % 2 != 0) {
        json_fail(r, s, "head_dim", "%u is odd; the rotation needs pairs", d->head_dim);
    }
    json_u32(r, s, "max_position_embeddings", 1, MAX_POSITIONS, &d->max_positions);
    json_f32(r, s, "rms_norm_eps", 0, 1, &d->rms_eps);
    activation(r, s, "hidden_act", "silu");
    bool bias = false;
    if (json_maybe_bool(r, s, "attention_bias", &bias) && bias) {
        json_fail(r, s, "attention_bias", "true is not supported: no released model has such biases");
    }
}

static void experts(json_reader *r, const json_section *s, decoder_sizes *d) {
    uint32_t local = 0;
    bool has = json_maybe_u32(r, s, "num_experts", 1, MAX_EXPERTS, &d->experts);
    if (json_maybe_u32(r, s, "num_local_experts", 1, MAX_EXPERTS, &local)) {
        if (r->status == OMNI_OK && has && local != d->experts) {
            json_fail(r, s, "num_local_experts", "%u differs from num_experts %u", local, d->experts);
        }
        d->experts = local;
    } else if (!has) {
        json_u32(r, s, "num_experts", 1, MAX_EXPERTS, &d->experts);
    }
    if (r->status != OMNI_OK) {
        return;
    }
    json_u32(r, s, "num_experts_per_tok", 1, d->experts, &d->experts_used);
    json_u32(r, s, "moe_intermediate_size", 1, MAX_SIZE, &d->expert_ffn);
    json_bool(r, s, "norm_topk_prob", &d->norm_topk_prob);
    uint32_t step = 1;
    if (json_maybe_u32(r, s, "decoder_sparse_step", 0, UINT32_MAX, &step) && step != 1) {
        json_fail(r, s, "decoder_sparse_step", "%u is not supported: every layer must be a mixture of experts", step);
    }
    const json_t *dense = json_get(s, "mlp_only_layers");
    if (dense && !(json_is_array(dense) && json_array_size(dense) == 0)) {
        json_fail(r, s, "mlp_only_layers", "must be an empty list: every layer must be a mixture of experts");
    }
}

static void thinker_text(json_reader *r, const json_section *s, decoder_sizes *d) {
    decoder_common(r, s, d);
    json_u32(r, s, "vocab_size", 1, MAX_VOCABULARY, &d->vocab_size);
    experts(r, s, d);
    d->ffn = d->expert_ffn;
    json_maybe_u32(r, s, "intermediate_size", 1, MAX_SIZE, &d->ffn);
    rope(r, s, &d->rope_theta, d->rope_sections, d->head_dim);
}

static void vision(json_reader *r, const json_section *s, uint32_t thinker_size, vision_sizes *v) {
    json_u32(r, s, "depth", 1, CONFIG_MAX_LAYERS, &v->layers);
    json_u32(r, s, "hidden_size", 1, MAX_SIZE, &v->hidden_size);
    json_u32(r, s, "num_heads", 1, MAX_HEADS, &v->heads);
    if (r->status == OMNI_OK && v->hidden_size % (4 * v->heads) != 0) {
        json_fail(r, s, "num_heads", "hidden_size %u is no multiple of 4 * %u heads", v->hidden_size, v->heads);
    }
    json_u32(r, s, "intermediate_size", 1, MAX_SIZE, &v->ffn);
    json_u32(r, s, "out_hidden_size", 1, MAX_SIZE, &v->out_size);
    if (r->status == OMNI_OK && v->out_size != thinker_size) {
        json_fail(r, s, "out_hidden_size", "%u differs from the thinker's hidden_size %u", v->out_size, thinker_size);
    }
    json_u32(r, s, "patch_size", 1, 1024, &v->patch);
    json_u32(r, s, "temporal_patch_size", 2, 2, &v->temporal_patch);
    json_u32(r, s, "spatial_merge_size", 1, 64, &v->merge);
    json_u32(r, s, "in_channels", 3, 3, &v->channels);
    json_u32(r, s, "num_position_embeddings", 1, 1 << 20, &v->positions);
    while (v->grid * v->grid < v->positions) {
        v->grid++;
    }
    if (r->status == OMNI_OK && v->grid * v->grid != v->positions) {
        json_fail(r, s, "num_position_embeddings", "%u is no square number", v->positions);
    }
    size_t n = 0;
    if (r->status == OMNI_OK) {
        json_u32_list(r, s, "deepstack_visual_indexes", 0, v->layers - 1, v->deepstack, 0, v->layers, &n);
    }
    v->deepstacks = (uint32_t)n;
    bool seen[CONFIG_MAX_LAYERS] = {false};
    for (size_t i = 0; r->status == OMNI_OK && i < n; i++) {
        if (seen[v->deepstack[i]]) {
            json_fail(r, s, "deepstack_visual_indexes", "layer %u appears twice", v->deepstack[i]);
            return;
        }
        seen[v->deepstack[i]] = true;
    }
    activation(r, s, "hidden_act", "gelu_pytorch_tanh");
    /* The older spelling has no field for the axial rotation's base: the release's code fixed it. */
    v->rope_theta = 10000.0F;
    json_section p = json_object_at(r, s, "rope_parameters", true);
    json_maybe_f32(r, &p, "rope_theta", 1, 1e12, &v->rope_theta);
}

static void audio(json_reader *r, const json_section *s, uint32_t thinker_size, audio_sizes *a) {
    json_u32(r, s, "encoder_layers", 1, CONFIG_MAX_LAYERS, &a->layers);
    json_u32(r, s, "d_model", 4, MAX_SIZE, &a->hidden_size);
    json_u32(r, s, "encoder_attention_heads", 1, MAX_HEADS, &a->heads);
    if (r->status == OMNI_OK && (a->hidden_size % a->heads != 0 || a->hidden_size % 2 != 0)) {
        json_fail(r, s, "d_model", "%u must be even and a multiple of %u heads", a->hidden_size, a->heads);
    }
    json_u32(r, s, "encoder_ffn_dim", 1, MAX_SIZE, &a->ffn);
    json_u32(r, s, "output_dim", 1, MAX_SIZE, &a->out_size);
    if (r->status == OMNI_OK && a->out_size != thinker_size) {
        json_fail(r, s, "output_dim", "%u differs from the thinker's hidden_size %u", a->out_size, thinker_size);
    }
    json_u32(r, s, "num_mel_bins", 1, 1024, &a->mel_bins);
    json_u32(r, s, "downsample_hidden_size", 1, 1 << 14, &a->conv_channels);
    json_u32(r, s, "max_source_positions", 1, 1 << 16, &a->positions);
    json_u32(r, s, "n_window", 1, 1 << 16, &a->window);
    json_u32(r, s, "n_window_infer", 1, 1 << 20, &a->window_infer);
    activation(r, s, "activation_function", "gelu");
}

/* The first of the sections that has the id; UINT32_MAX when none has. */
static void token_id(json_reader *r, const char *field, const json_section *const *sections, size_t n, uint32_t vocabulary, uint32_t *out) {
    *out = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        if (json_maybe_u32(r, sections[i], field, 0, vocabulary - 1, out)) {
            return;
        }
    }
}

static void media_ids(json_reader *r, const json_section *const *sections, size_t n, uint32_t vocabulary, token_ids *ids) {
    token_id(r, "image_token_id", sections, n, vocabulary, &ids->image);
    token_id(r, "video_token_id", sections, n, vocabulary, &ids->video);
    token_id(r, "audio_token_id", sections, n, vocabulary, &ids->audio);
    token_id(r, "vision_start_token_id", sections, n, vocabulary, &ids->vision_start);
    token_id(r, "vision_end_token_id", sections, n, vocabulary, &ids->vision_end);
    token_id(r, "audio_start_token_id", sections, n, vocabulary, &ids->audio_start);
    token_id(r, "audio_end_token_id", sections, n, vocabulary, &ids->audio_end);
}

static void chat_ids(json_reader *r, const json_section *const *sections, size_t n, uint32_t vocabulary, token_ids *ids) {
    token_id(r, "im_start_token_id", sections, n, vocabulary, &ids->im_start);
    token_id(r, "im_end_token_id", sections, n, vocabulary, &ids->im_end);
    token_id(r, "system_token_id", sections, n, vocabulary, &ids->system);
    token_id(r, "user_token_id", sections, n, vocabulary, &ids->user);
    token_id(r, "assistant_token_id", sections, n, vocabulary, &ids->assistant);
    token_id(r, "tts_pad_token_id", sections, n, vocabulary, &ids->tts_pad);
    token_id(r, "tts_bos_token_id", sections, n, vocabulary, &ids->tts_bos);
    token_id(r, "tts_eos_token_id", sections, n, vocabulary, &ids->tts_eos);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const speaker *)a)->name, ((const speaker *)b)->name);
}

/* Voices, sorted by name: the two spellings list them in different orders. */
static void speakers(json_reader *r, const json_section *talker, model_config *c) {
    json_section s = json_object_at(r, talker, "speaker_id", false);
    if (r->status != OMNI_OK) {
        return;
    }
    size_t n = json_object_size(s.json);
    if (n == 0 || n > CONFIG_MAX_SPEAKERS) {
        json_fail(r, talker, "speaker_id", "names %zu voices; 1 to %d are possible", n, CONFIG_MAX_SPEAKERS);
        return;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)s.json, key, value) {
        if (*key == '\0' || strlen(key) >= CONFIG_NAME_SIZE) {
            json_fail(r, talker, "speaker_id", "a voice's name has %zu bytes; 1 to %d are possible", strlen(key), CONFIG_NAME_SIZE - 1);
            return;
        }
        speaker *v = &c->speakers[c->n_speakers++];
        strcpy(v->name, key);
        json_u32(r, &s, key, 0, c->talker.vocab_size - 1, &v->id);
    }
    qsort(c->speakers, c->n_speakers, sizeof *c->speakers, by_name);
}

static void code2wav(json_reader *r, const json_section *s, model_config *c) {
    code2wav_sizes *w = &c->code2wav;
    decoder_common(r, s, &w->transformer);
    json_u32(r, s, "intermediate_size", 1, MAX_SIZE, &w->transformer.ffn);
    rope(r, s, &w->transformer.rope_theta, NULL, 0);
    json_u32(r, s, "codebook_size", 1, 1 << 16, &w->codebook_size);
    json_u32(r, s, "num_quantizers", 1, 256, &w->quantizers);
    if (r->status == OMNI_OK && w->quantizers != c->code_groups) {
        json_fail(r, s, "num_quantizers", "%u differs from the talker's num_code_groups %u", w->quantizers, c->code_groups);
    }
    if (r->status == OMNI_OK && c->predictor.vocab_size > w->codebook_size) {
        json_fail(r, s, "codebook_size", "%u is less than the code predictor's vocab_size %u", w->codebook_size, c->predictor.vocab_size);
    }
    json_u32(r, s, "sliding_window", 1, MAX_POSITIONS, &w->sliding_window);
    json_u32(r, s, "decoder_dim", 1, MAX_SIZE, &w->decoder_dim);
    size_t n = 0;
    json_u32_list(r, s, "upsample_rates", 1, 1024, w->rates, 1, CONFIG_MAX_RATES, &n);
    w->n_rates = (uint32_t)n;
    if (r->status == OMNI_OK && w->decoder_dim >> n << n != w->decoder_dim) {
        json_fail(r, s, "decoder_dim", "%u cannot be halved once for each of the %zu upsample_rates", w->decoder_dim, n);
    }
    json_u32_list(r, s, "upsampling_ratios", 1, 1024, w->ratios, 0, CONFIG_MAX_RATES, &n);
    w->n_ratios = (uint32_t)n;
}

static void talker(json_reader *r, const json_section *root, const json_section *thinker, model_config *c) {
    json_section s = json_object_at(r, root, "talker_config", false);
    json_section text = json_object_at(r, &s, "text_config", false);
    json_section predictor = json_object_at(r, &s, "code_predictor_config", false);
    json_section wav = json_object_at(r, root, "code2wav_config", false);
    if (r->status != OMNI_OK) {
        return;
    }
    decoder_common(r, &text, &c->talker);
    json_u32(r, &text, "vocab_size", 1, MAX_VOCABULARY, &c->talker.vocab_size);
    experts(r, &text, &c->talker);
    json_u32(r, &text, "intermediate_size", 1, MAX_SIZE, &c->talker.ffn); /* between the two linears of the projections */
    json_u32(r, &text, "shared_expert_intermediate_size", 1, MAX_SIZE, &c->talker.shared_ffn);
    rope(r, &text, &c->talker.rope_theta, c->talker.rope_sections, c->talker.head_dim);

    decoder_common(r, &predictor, &c->predictor);
    json_u32(r, &predictor, "vocab_size", 1, 1 << 16, &c->predictor.vocab_size);
    json_u32(r, &predictor, "intermediate_size", 1, MAX_SIZE, &c->predictor.ffn);
    json_u32(r, &predictor, "num_code_groups", 2, 256, &c->predictor_groups);
    rope(r, &predictor, &c->predictor.rope_theta, NULL, 0);
    if (r->status == OMNI_OK && c->predictor.hidden_size != c->talker.hidden_size) {
        json_fail(r, &predictor, "hidden_size", "%u differs from the talker's %u", c->predictor.hidden_size, c->talker.hidden_size);
    }

    json_u32(r, &s, "num_code_groups", 2, 256, &c->code_groups);
    if (r->status == OMNI_OK && c->code_groups != c->predictor_groups) {
        json_fail(r, &s, "num_code_groups", "%u differs from the code predictor's %u", c->code_groups, c->predictor_groups);
    }
    json_u32(r, &s, "thinker_hidden_size", 1, MAX_SIZE, &c->thinker_hidden_size);
    if (r->status == OMNI_OK && c->thinker_hidden_size != c->thinker.hidden_size) {
        json_fail(r, &s, "thinker_hidden_size", "%u differs from the thinker's hidden_size %u", c->thinker_hidden_size, c->thinker.hidden_size);
    }
    json_u32(r, &s, "accept_hidden_layer", 0, c->thinker.layers, &c->accept_hidden_layer);
    if (r->status != OMNI_OK) {
        return;
    }
    uint32_t last = c->talker.vocab_size - 1;
    json_u32(r, &s, "codec_pad_id", 0, last, &c->codec.codec_pad);
    json_u32(r, &s, "codec_bos_id", 0, last, &c->codec.codec_bos);
    json_u32(r, &s, "codec_eos_token_id", 0, last, &c->codec.codec_eos);
    json_u32(r, &s, "codec_nothink_id", 0, last, &c->codec.codec_nothink);
    json_u32(r, &s, "codec_think_bos_id", 0, last, &c->codec.codec_think_bos);
    json_u32(r, &s, "codec_think_eos_id", 0, last, &c->codec.codec_think_eos);
    speakers(r, &s, c);

    const json_section *sections[] = {&s, thinker, root};
    media_ids(r, sections, 3, c->thinker.vocab_size, &c->talker_ids);
    c->talker_position_id_per_seconds = c->position_id_per_seconds;
    json_maybe_u32(r, &s, "position_id_per_seconds", 1, 10000, &c->talker_position_id_per_seconds);
    c->talker_merge = c->vision.merge;
    json_maybe_u32(r, &s, "spatial_merge_size", 1, 64, &c->talker_merge);

    code2wav(r, &wav, c);
}

omni_status config_parse(const char *json, size_t size, const char *name, bool with_talker, model_config *out, omni_error *err) {
    memset(out, 0, sizeof *out);
    json_reader r = {.file = name, .err = err};
    json_t *file = json_parse_object(&r, json, size);
    if (!file) {
        return r.status;
    }
    json_section root = json_root(file);
    /* A thinker that was saved by itself has its fields at the root. */
    const bool alone = !json_get(&root, "thinker_config") && json_get(&root, "text_config") && json_get(&root, "audio_config");
    json_section thinker = alone ? root : json_object_at(&r, &root, "thinker_config", false);
    json_section text = json_object_at(&r, &thinker, "text_config", false);
    json_section audio_section = json_object_at(&r, &thinker, "audio_config", false);
    json_section vision_section = json_object_at(&r, &thinker, "vision_config", false);
    if (r.status == OMNI_OK) {
        thinker_text(&r, &text, &out->thinker);
        const json_section *tied_in[] = {&root, &text, &thinker}; /* the last that has it decides, as in the reference */
        for (size_t i = 0; i < 3; i++) {
            json_maybe_bool(&r, tied_in[i], "tie_word_embeddings", &out->thinker.tied);
        }
    }
    if (r.status == OMNI_OK) {
        vision(&r, &vision_section, out->thinker.hidden_size, &out->vision);
        audio(&r, &audio_section, out->thinker.hidden_size, &out->audio);
        if (!json_maybe_u32(&r, &root, "position_id_per_seconds", 1, 10000, &out->position_id_per_seconds)) {
            json_u32(&r, &thinker, "position_id_per_seconds", 1, 10000, &out->position_id_per_seconds);
        }
    }
    json_section speaking = json_object_at(&r, &root, "talker_config", true);
    if (r.status == OMNI_OK) {
        const json_section *for_media[] = {&thinker, &root, &speaking}, *for_chat[] = {&root, &thinker, &speaking};
        media_ids(&r, for_media, 3, out->thinker.vocab_size, &out->ids);
        chat_ids(&r, for_chat, 3, out->thinker.vocab_size, &out->ids);
        if (with_talker) {
            talker(&r, &root, &thinker, out);
        }
    }
    json_decref(file);
    return r.status;
}

/* ---- preprocessing ---- */

/* The reference lets min_pixels and max_pixels override size. */
static void pixel_limits(json_reader *r, const json_section *s, bool needed, uint32_t *min, uint32_t *max) {
    json_section size = json_object_at(r, s, "size", true);
    bool has_min = json_maybe_u32(r, &size, "shortest_edge", 1, UINT32_MAX, min);
    bool has_max = json_maybe_u32(r, &size, "longest_edge", 1, UINT32_MAX, max);
    has_min |= json_maybe_u32(r, s, "min_pixels", 1, UINT32_MAX, min);
    has_max |= json_maybe_u32(r, s, "max_pixels", 1, UINT32_MAX, max);
    if (needed && r->status == OMNI_OK && (!has_min || !has_max)) {
        json_fail(r, s, "size", "missing: neither size.shortest_edge and size.longest_edge nor min_pixels and max_pixels are given");
    }
    if (r->status == OMNI_OK && *min > *max) {
        json_fail(r, s, "size", "the smallest number of pixels %u is over the largest %u", *min, *max);
    }
}

static void same(json_reader *r, const json_section *s, const char *field, uint32_t expected) {
    uint32_t v = 0;
    if (json_maybe_u32(r, s, field, 0, UINT32_MAX, &v) && r->status == OMNI_OK && v != expected) {
        json_fail(r, s, field, "%u differs from config.json's %u", v, expected);
    }
}

static void patches(json_reader *r, const json_section *s, const vision_sizes *v) {
    same(r, s, "patch_size", v->patch);
    same(r, s, "temporal_patch_size", v->temporal_patch);
    same(r, s, "merge_size", v->merge);
}

static void read_preprocessing(json_reader *files[3], const json_t *preprocessor, const json_t *processor, const json_t *video_file,
                               model_config *c) {
    preprocessing *p = &c->input;
    json_reader *r = files[0], *ri = r, *ra = r, *rv = r;
    json_section base = json_root(preprocessor), nested = json_root(processor);
    json_section image = base, sound = base, video = {0};
    json_section in_image = json_object_at(files[1], &nested, "image_processor", true);
    json_section in_sound = json_object_at(files[1], &nested, "feature_extractor", true);
    json_section in_video = json_object_at(files[1], &nested, "video_processor", true);
    if (in_image.json) {
        image = in_image;
        ri = files[1];
    }
    if (in_sound.json) {
        sound = in_sound;
        ra = files[1];
    }
    if (video_file) {
        video = json_root(video_file);
        rv = files[2];
    } else if (in_video.json) {
        video = in_video;
        rv = files[1];
    }
    json_f32_list(ri, &image, "image_mean", -100, 100, p->image_mean, 3);
    json_f32_list(ri, &image, "image_std", 1e-6, 100, p->image_std, 3);
    pixel_limits(ri, &image, true, &p->image_min_pixels, &p->image_max_pixels);
    patches(ri, &image, &c->vision);
    json_u32(ra, &sound, "sampling_rate", 1000, 1000000, &p->sampling_rate);
    json_u32(ra, &sound, "n_fft", 16, 1 << 16, &p->n_fft);
    json_u32(ra, &sound, "hop_length", 1, 1 << 16, &p->hop_length);
    same(ra, &sound, "feature_size", c->audio.mel_bins);
    /* A checkpoint without settings for video uses the image's normalisation and the pixel limits of the model's processor. */
    memcpy(p->video_mean, p->image_mean, sizeof p->video_mean);
    memcpy(p->video_std, p->image_std, sizeof p->video_std);
    p->video_min_pixels = 128 * 32 * 32;
    p->video_max_pixels = 768 * 32 * 32;
    if (video.json) {
        if (json_get(&video, "image_mean")) {
            json_f32_list(rv, &video, "image_mean", -100, 100, p->video_mean, 3);
        }
        if (json_get(&video, "image_std")) {
            json_f32_list(rv, &video, "image_std", 1e-6, 100, p->video_std, 3);
        }
        pixel_limits(rv, &video, false, &p->video_min_pixels, &p->video_max_pixels);
        patches(rv, &video, &c->vision);
    }
}

omni_status config_parse_preprocessing(const preprocessor_texts *t, const char *dir, model_config *out, omni_error *err) {
    if (!t->preprocessor && !t->processor) {
        return fail(err, OMNI_ERR_FORMAT, "%s: neither preprocessor_config.json nor processor_config.json is there; the preprocessing needs one",
                    dir);
    }
    const char *text[3] = {t->preprocessor, t->processor, t->video};
    const size_t size[3] = {t->preprocessor_size, t->processor_size, t->video_size};
    json_reader reader[3] = {{.file = "preprocessor_config.json", .err = err},
                             {.file = "processor_config.json", .err = err},
                             {.file = "video_preprocessor_config.json", .err = err}};
    json_reader *readers[3] = {&reader[0], &reader[1], &reader[2]};
    json_t *json[3] = {NULL, NULL, NULL};
    omni_status status = OMNI_OK;
    for (int i = 0; i < 3 && status == OMNI_OK; i++) {
        if (text[i]) {
            json[i] = json_parse_object(&reader[i], text[i], size[i]);
            status = reader[i].status;
        }
    }
    if (status == OMNI_OK) {
        if (!json[0]) {
            reader[0].file = "processor_config.json"; /* what is missing is missing there */
        }
        read_preprocessing(readers, json[0], json[1], json[2], out);
        for (int i = 0; i < 3 && status == OMNI_OK; i++) {
            status = reader[i].status;
        }
    }
    for (int i = 0; i < 3; i++) {
        json_decref(json[i]);
    }
    return status == OMNI_OK ? OMNI_OK : fail_in(err, status, "%s", dir);
}
