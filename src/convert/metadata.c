#include "convert/metadata.h"

#include <stdio.h>
#include <string.h>

#define ARCH "qwen3vlmoe"

/* Constants of the reference's modules that no field of config.json holds (torch's LayerNorm default in the audio encoder). */
static const float VISION_NORM_EPS = 1e-6F, AUDIO_NORM_EPS = 1e-5F;
enum { OUTPUT_RATE = 24000, QUANTIZATION_VERSION = 2 };

static omni_status resolve(uint32_t *id, const vocabulary *v, const char *text, const char *field, const char *dir, omni_error *err) {
    if (*id == UINT32_MAX) {
        *id = vocabulary_find(v, text);
    }
    if (*id == UINT32_MAX) {
        return fail(err, OMNI_ERR_FORMAT, "%s: config.json has no %s and the tokenizer no \"%s\"", dir, field, text);
    }
    return OMNI_OK;
}

static omni_status resolve_media(token_ids *ids, const vocabulary *v, const char *dir, omni_error *err) {
    TRY(resolve(&ids->image, v, "<|image_pad|>", "image_token_id", dir, err));
    TRY(resolve(&ids->video, v, "<|video_pad|>", "video_token_id", dir, err));
    TRY(resolve(&ids->audio, v, "<|audio_pad|>", "audio_token_id", dir, err));
    TRY(resolve(&ids->vision_start, v, "<|vision_start|>", "vision_start_token_id", dir, err));
    TRY(resolve(&ids->vision_end, v, "<|vision_end|>", "vision_end_token_id", dir, err));
    TRY(resolve(&ids->audio_start, v, "<|audio_start|>", "audio_start_token_id", dir, err));
    return resolve(&ids->audio_end, v, "<|audio_end|>", "audio_end_token_id", dir, err);
}

omni_status metadata_resolve_ids(model_config *c, const vocabulary *v, bool talker, const char *dir, omni_error *err) {
    token_ids *ids = &c->ids;
    TRY(resolve_media(ids, v, dir, err));
    TRY(resolve(&ids->im_start, v, "<|im_start|>", "im_start_token_id", dir, err));
    TRY(resolve(&ids->im_end, v, "<|im_end|>", "im_end_token_id", dir, err));
    TRY(resolve(&ids->system, v, "system", "system_token_id", dir, err));
    TRY(resolve(&ids->user, v, "user", "user_token_id", dir, err));
    TRY(resolve(&ids->assistant, v, "assistant", "assistant_token_id", dir, err));
    if (!talker) {
        return OMNI_OK;
    }
    TRY(resolve(&ids->tts_pad, v, "<tts_pad>", "tts_pad_token_id", dir, err));
    TRY(resolve(&ids->tts_bos, v, "<tts_text_bos>", "tts_bos_token_id", dir, err));
    TRY(resolve(&ids->tts_eos, v, "<tts_text_eod>", "tts_eos_token_id", dir, err));
    return resolve_media(&c->talker_ids, v, dir, err);
}

static void general(gguf_writer *w, const char *architecture, const char *kind, const char *name, uint32_t file_type) {
    gguf_put_str(w, "general.architecture", architecture);
    gguf_put_str(w, "general.type", kind);
    gguf_put_str(w, "general.name", name);
    gguf_put_u32(w, "general.file_type", file_type);
    gguf_put_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
}

void metadata_put_thinker(gguf_writer *w, const model_config *c, const vocabulary *v, const char *name, uint32_t file_type) {
    const decoder_sizes *d = &c->thinker;
    general(w, ARCH, "model", name, file_type);
    gguf_put_u32(w, ARCH ".block_count", d->layers);
    gguf_put_u32(w, ARCH ".context_length", d->max_positions);
    gguf_put_u32(w, ARCH ".embedding_length", d->hidden_size);
    gguf_put_u32(w, ARCH ".feed_forward_length", d->ffn);
    gguf_put_u32(w, ARCH ".attention.head_count", d->heads);
    gguf_put_u32(w, ARCH ".attention.head_count_kv", d->kv_heads);
    gguf_put_u32(w, ARCH ".attention.key_length", d->head_dim);
    gguf_put_u32(w, ARCH ".attention.value_length", d->head_dim);
    gguf_put_f32(w, ARCH ".attention.layer_norm_rms_epsilon", d->rms_eps);
    const int32_t sections[4] = {d->rope_sections[0], d->rope_sections[1], d->rope_sections[2], 0};
    gguf_put_i32s(w, ARCH ".rope.dimension_sections", sections, 4);
    gguf_put_f32(w, ARCH ".rope.freq_base", d->rope_theta);
    gguf_put_u32(w, ARCH ".expert_count", d->experts);
    gguf_put_u32(w, ARCH ".expert_used_count", d->experts_used);
    gguf_put_u32(w, ARCH ".expert_feed_forward_length", d->expert_ffn);
    gguf_put_bool(w, ARCH ".expert_weights_norm", d->norm_topk_prob);
    gguf_put_u32(w, ARCH ".n_deepstack_layers", config_announced_deepstacks(c));

    gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_put_str(w, "tokenizer.ggml.pre", "qwen2");
    gguf_put_strs(w, "tokenizer.ggml.tokens", v->tokens, v->count);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", v->types, v->count);
    gguf_put_strs(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    /* No sequence starts with a token of its own; llama.cpp's converter names the end of a turn here, too. */
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", c->ids.im_end);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", c->ids.im_end);
    if (v->padding_id != UINT32_MAX) {
        gguf_put_u32(w, "tokenizer.ggml.padding_token_id", v->padding_id);
    }
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
    if (v->chat_template) {
        gguf_put_str(w, "tokenizer.chat_template", v->chat_template);
    }

    const token_ids *ids = &c->ids;
    gguf_put_u32(w, "omni.position_id_per_seconds", c->position_id_per_seconds);
    gguf_put_u32(w, "omni.image_token_id", ids->image);
    gguf_put_u32(w, "omni.video_token_id", ids->video);
    gguf_put_u32(w, "omni.audio_token_id", ids->audio);
    gguf_put_u32(w, "omni.vision_start_token_id", ids->vision_start);
    gguf_put_u32(w, "omni.vision_end_token_id", ids->vision_end);
    gguf_put_u32(w, "omni.audio_start_token_id", ids->audio_start);
    gguf_put_u32(w, "omni.audio_end_token_id", ids->audio_end);
    gguf_put_u32(w, "omni.im_start_token_id", ids->im_start);
    gguf_put_u32(w, "omni.im_end_token_id", ids->im_end);
    gguf_put_u32(w, "omni.system_token_id", ids->system);
    gguf_put_u32(w, "omni.user_token_id", ids->user);
    gguf_put_u32(w, "omni.assistant_token_id", ids->assistant);
}

void metadata_put_mmproj(gguf_writer *w, const model_config *c, const char *name, uint32_t file_type) {
    general(w, "clip", "mmproj", name, file_type);
    const vision_sizes *v = &c->vision;
    const audio_sizes *a = &c->audio;
    const preprocessing *p = &c->input;
    gguf_put_bool(w, "clip.has_vision_encoder", true);
    gguf_put_str(w, "clip.vision.projector_type", "qwen3vl_merger");
    gguf_put_bool(w, "clip.use_gelu", true);
    gguf_put_u32(w, "clip.vision.projection_dim", v->out_size);
    gguf_put_u32(w, "clip.vision.image_size", v->grid * v->patch);
    gguf_put_u32(w, "clip.vision.patch_size", v->patch);
    gguf_put_u32(w, "clip.vision.embedding_length", v->hidden_size);
    gguf_put_u32(w, "clip.vision.feed_forward_length", v->ffn);
    gguf_put_u32(w, "clip.vision.block_count", v->layers);
    gguf_put_u32(w, "clip.vision.attention.head_count", v->heads);
    gguf_put_f32(w, "clip.vision.attention.layer_norm_epsilon", VISION_NORM_EPS);
    gguf_put_u32(w, "clip.vision.spatial_merge_size", v->merge);
    bool deepstack[CONFIG_MAX_LAYERS] = {false};
    for (uint32_t i = 0; i < v->deepstacks; i++) {
        deepstack[v->deepstack[i]] = true;
    }
    gguf_put_bools(w, "clip.vision.is_deepstack_layers", deepstack, v->layers);
    gguf_put_f32s(w, "clip.vision.image_mean", p->image_mean, 3);
    gguf_put_f32s(w, "clip.vision.image_std", p->image_std, 3);
    gguf_put_u32(w, "clip.vision.image_min_pixels", p->image_min_pixels);
    gguf_put_u32(w, "clip.vision.image_max_pixels", p->image_max_pixels);
    gguf_put_f32s(w, "omni.vision.video_mean", p->video_mean, 3);
    gguf_put_f32s(w, "omni.vision.video_std", p->video_std, 3);
    gguf_put_u32(w, "omni.vision.video_min_pixels", p->video_min_pixels);
    gguf_put_u32(w, "omni.vision.video_max_pixels", p->video_max_pixels);
    gguf_put_u32(w, "omni.vision.temporal_patch_size", v->temporal_patch);
    gguf_put_u32(w, "omni.vision.in_channels", v->channels);
    gguf_put_u32(w, "omni.vision.position_embeddings", v->positions);
    gguf_put_f32(w, "omni.vision.rope_theta", v->rope_theta);

    gguf_put_bool(w, "clip.has_audio_encoder", true);
    gguf_put_str(w, "clip.audio.projector_type", "qwen3a");
    gguf_put_u32(w, "clip.audio.projection_dim", a->out_size);
    gguf_put_u32(w, "clip.audio.embedding_length", a->hidden_size);
    gguf_put_u32(w, "clip.audio.feed_forward_length", a->ffn);
    gguf_put_u32(w, "clip.audio.block_count", a->layers);
    gguf_put_u32(w, "clip.audio.attention.head_count", a->heads);
    gguf_put_f32(w, "clip.audio.attention.layer_norm_epsilon", AUDIO_NORM_EPS);
    gguf_put_u32(w, "clip.audio.num_mel_bins", a->mel_bins);
    gguf_put_u32(w, "omni.audio.sampling_rate", p->sampling_rate);
    gguf_put_u32(w, "omni.audio.n_fft", p->n_fft);
    gguf_put_u32(w, "omni.audio.hop_length", p->hop_length);
    gguf_put_u32(w, "omni.audio.n_window", a->window);
    gguf_put_u32(w, "omni.audio.n_window_infer", a->window_infer);
    gguf_put_u32(w, "omni.audio.max_source_positions", a->positions);
}

/* What the three stacks of the talker's file have in common. */
static void put_decoder(gguf_writer *w, const char *prefix, const decoder_sizes *d) {
    char key[96];
#define KEY(name) (snprintf(key, sizeof key, "%s." name, prefix), key)
    gguf_put_u32(w, KEY("hidden_size"), d->hidden_size);
    gguf_put_u32(w, KEY("block_count"), d->layers);
    gguf_put_u32(w, KEY("head_count"), d->heads);
    gguf_put_u32(w, KEY("head_count_kv"), d->kv_heads);
    gguf_put_u32(w, KEY("head_dim"), d->head_dim);
    gguf_put_f32(w, KEY("rms_norm_eps"), d->rms_eps);
    gguf_put_f32(w, KEY("rope_theta"), d->rope_theta);
#undef KEY
}

void metadata_put_talker(gguf_writer *w, const model_config *c, const char *name, uint32_t file_type) {
    general(w, "qwen3omni_talker", "model", name, file_type);
    const decoder_sizes *t = &c->talker;
    put_decoder(w, "talker", t);
    gguf_put_u32(w, "talker.vocab_size", t->vocab_size);
    gguf_put_u32(w, "talker.expert_count", t->experts);
    gguf_put_u32(w, "talker.experts_used_count", t->experts_used);
    gguf_put_u32(w, "talker.expert_feed_forward_length", t->expert_ffn);
    gguf_put_u32(w, "talker.shared_expert_feed_forward_length", t->shared_ffn);
    gguf_put_u32(w, "talker.projection_length", t->ffn);
    gguf_put_bool(w, "talker.norm_topk_prob", t->norm_topk_prob);
    gguf_put_i32s(w, "talker.rope_sections", t->rope_sections, 3);
    gguf_put_u32(w, "talker.context_length", t->max_positions);
    gguf_put_u32(w, "talker.thinker_hidden_size", c->thinker_hidden_size);
    gguf_put_u32(w, "talker.accept_hidden_layer", c->accept_hidden_layer);
    gguf_put_u32(w, "talker.num_code_groups", c->code_groups);
    gguf_put_u32(w, "talker.codec_pad_id", c->codec.codec_pad);
    gguf_put_u32(w, "talker.codec_bos_id", c->codec.codec_bos);
    gguf_put_u32(w, "talker.codec_eos_id", c->codec.codec_eos);
    gguf_put_u32(w, "talker.codec_nothink_id", c->codec.codec_nothink);
    gguf_put_u32(w, "talker.codec_think_bos_id", c->codec.codec_think_bos);
    gguf_put_u32(w, "talker.codec_think_eos_id", c->codec.codec_think_eos);
    gguf_str names[CONFIG_MAX_SPEAKERS];
    int32_t ids[CONFIG_MAX_SPEAKERS];
    for (size_t i = 0; i < c->n_speakers; i++) {
        names[i] = (gguf_str){c->speakers[i].name, strlen(c->speakers[i].name)};
        ids[i] = (int32_t)c->speakers[i].id;
    }
    gguf_put_strs(w, "talker.speaker_names", names, c->n_speakers);
    gguf_put_i32s(w, "talker.speaker_ids", ids, c->n_speakers);
    gguf_put_u32(w, "talker.tts_pad_token_id", c->ids.tts_pad);
    gguf_put_u32(w, "talker.tts_bos_token_id", c->ids.tts_bos);
    gguf_put_u32(w, "talker.tts_eos_token_id", c->ids.tts_eos);
    gguf_put_u32(w, "talker.im_start_token_id", c->ids.im_start);
    gguf_put_u32(w, "talker.im_end_token_id", c->ids.im_end);
    gguf_put_u32(w, "talker.system_token_id", c->ids.system);
    gguf_put_u32(w, "talker.user_token_id", c->ids.user);
    gguf_put_u32(w, "talker.assistant_token_id", c->ids.assistant);
    gguf_put_u32(w, "talker.image_token_id", c->talker_ids.image);
    gguf_put_u32(w, "talker.video_token_id", c->talker_ids.video);
    gguf_put_u32(w, "talker.audio_token_id", c->talker_ids.audio);
    gguf_put_u32(w, "talker.audio_start_token_id", c->talker_ids.audio_start);
    gguf_put_u32(w, "talker.vision_start_token_id", c->talker_ids.vision_start);
    gguf_put_u32(w, "talker.position_id_per_seconds", c->talker_position_id_per_seconds);
    gguf_put_u32(w, "talker.spatial_merge_size", c->talker_merge);

    const decoder_sizes *p = &c->predictor;
    put_decoder(w, "code_predictor", p);
    gguf_put_u32(w, "code_predictor.feed_forward_length", p->ffn);
    gguf_put_u32(w, "code_predictor.vocab_size", p->vocab_size);
    gguf_put_u32(w, "code_predictor.num_code_groups", c->predictor_groups);

    const code2wav_sizes *v = &c->code2wav;
    put_decoder(w, "code2wav", &v->transformer);
    gguf_put_u32(w, "code2wav.feed_forward_length", v->transformer.ffn);
    gguf_put_u32(w, "code2wav.sliding_window", v->sliding_window);
    gguf_put_u32(w, "code2wav.codebook_size", v->codebook_size);
    gguf_put_u32(w, "code2wav.num_quantizers", v->quantizers);
    gguf_put_u32(w, "code2wav.decoder_dim", v->decoder_dim);
    int32_t rates[CONFIG_MAX_RATES], ratios[CONFIG_MAX_RATES];
    for (int i = 0; i < CONFIG_MAX_RATES; i++) {
        rates[i] = (int32_t)v->rates[i];
        ratios[i] = (int32_t)v->ratios[i];
    }
    gguf_put_i32s(w, "code2wav.upsample_rates", rates, v->n_rates);
    gguf_put_i32s(w, "code2wav.upsampling_ratios", ratios, v->n_ratios);
    gguf_put_u32(w, "code2wav.sample_rate", OUTPUT_RATE);
}
