/* What a checkpoint's JSON files say about the model: config.json in the published (older) and the current spelling, and the
 * preprocessor's settings. A field that matters and is missing, of another type or out of range is an error that names it. */
#ifndef OMNI_CONVERT_CONFIG_H
#define OMNI_CONVERT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
    CONFIG_MAX_LAYERS = 1024,
    CONFIG_MAX_SPEAKERS = 256,
    CONFIG_MAX_RATES = 16,
    CONFIG_NAME_SIZE = 64,
};

/* A stack of decoder layers: thinker, talker, code predictor and code2wav's transformer; unused fields are 0. */
typedef struct decoder_sizes {
    uint32_t layers, hidden_size, heads, kv_heads, head_dim, ffn, vocab_size, max_positions;
    uint32_t experts, experts_used, expert_ffn, shared_ffn;
    bool norm_topk_prob, tied;
    float rms_eps, rope_theta;
    int32_t rope_sections[3]; /* all 0: plain rotation */
} decoder_sizes;

typedef struct vision_sizes {
    uint32_t layers, hidden_size, heads, ffn, out_size;
    uint32_t patch, temporal_patch, merge, channels, positions, grid; /* positions = grid * grid */
    uint32_t deepstack[CONFIG_MAX_LAYERS], deepstacks;                /* layers, in the order of the mergers */
    float rope_theta;
} vision_sizes;

typedef struct audio_sizes {
    uint32_t layers, hidden_size, heads, ffn, out_size, mel_bins, conv_channels, positions, window, window_infer;
} audio_sizes;

typedef struct code2wav_sizes {
    decoder_sizes transformer;
    uint32_t codebook_size, quantizers, sliding_window, decoder_dim;
    uint32_t rates[CONFIG_MAX_RATES], n_rates;   /* upsample_rates */
    uint32_t ratios[CONFIG_MAX_RATES], n_ratios; /* upsampling_ratios */
} code2wav_sizes;

/* Ids in the thinker's vocabulary. UINT32_MAX: config.json does not say, to be looked up by the token's text. */
typedef struct token_ids {
    uint32_t image, video, audio, vision_start, vision_end, audio_start, audio_end;
    uint32_t im_start, im_end, system, user, assistant, tts_pad, tts_bos, tts_eos;
} token_ids;

typedef struct codec_ids {
    uint32_t codec_pad, codec_bos, codec_eos, codec_nothink, codec_think_bos, codec_think_eos;
} codec_ids;

typedef struct speaker {
    char name[CONFIG_NAME_SIZE];
    uint32_t id;
} speaker;

/* Settings of the preprocessing. */
typedef struct preprocessing {
    float image_mean[3], image_std[3], video_mean[3], video_std[3];
    uint32_t image_min_pixels, image_max_pixels, video_min_pixels, video_max_pixels;
    uint32_t sampling_rate, n_fft, hop_length;
} preprocessing;

typedef struct model_config {
    decoder_sizes thinker;
    audio_sizes audio;
    vision_sizes vision;
    token_ids ids;
    uint32_t position_id_per_seconds;

    /* what follows is filled only for a model that speaks */
    decoder_sizes talker, predictor;
    code2wav_sizes code2wav;
    codec_ids codec;
    token_ids talker_ids; /* the talker's own fields for media; the chat's are in ids */
    uint32_t talker_position_id_per_seconds, talker_merge;
    uint32_t thinker_hidden_size, accept_hidden_layer, code_groups, predictor_groups;
    speaker speakers[CONFIG_MAX_SPEAKERS]; /* sorted by name */
    size_t n_speakers;

    preprocessing input;
} model_config;

/* How many of the vision encoder's extra feature sets the thinker's file announces: all, or none where the model has no more layers
 * than that, because llama.cpp cannot add a set after the last layer. */
static inline uint32_t config_announced_deepstacks(const model_config *c) {
    return c->vision.deepstacks < c->thinker.layers ? c->vision.deepstacks : 0;
}

/* Parses config.json's text; name stands for the file in errors. With talker, talker_config and code2wav_config must be there. */
omni_status config_parse(const char *json, size_t size, const char *name, bool talker, model_config *out, omni_error *err);

/* Parses the preprocessor's settings into out->input and checks them against the model's sizes. Each text may be NULL (the file
 * does not exist): preprocessor (preprocessor_config.json), processor (processor_config.json, which nests the others), video
 * (video_preprocessor_config.json). */
typedef struct preprocessor_texts {
    const char *preprocessor, *processor, *video;
    size_t preprocessor_size, processor_size, video_size;
} preprocessor_texts;
omni_status config_parse_preprocessing(const preprocessor_texts *texts, const char *dir, model_config *out, omni_error *err);

#endif
