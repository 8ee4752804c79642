#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/speech_config.h"
#include "model/talker_model.h"

enum { MAX_VOICES = 4096, MAX_ID = 1 << 26 };

static const char *part = "talker";

static omni_status read_int(const gguf *g, const char *field, int64_t low, int64_t high, int *out, omni_error *err) {
    int64_t v;
    TRY(speech_int(g, part, field, low, high, &v, err));
    *out = (int)v;
    return OMNI_OK;
}

static omni_status read_sizes(const gguf *g, talker_config *c, omni_error *err) {
    decoder_config *d = &c->decoder;
    TRY(read_int(g, "hidden_size", 1, 1 << 20, &d->width, err));
    TRY(read_int(g, "block_count", 1, 4096, &d->layers, err));
    TRY(read_int(g, "head_count", 1, 1 << 14, &d->heads, err));
    TRY(read_int(g, "head_count_kv", 1, 1 << 14, &d->kv_heads, err));
    TRY(read_int(g, "head_dim", 1, 1 << 12, &d->head_dim, err));
    TRY(speech_int(g, part, "vocab_size", 1, MAX_ID, &d->vocab, err));
    TRY(read_int(g, "expert_count", 1, 1 << 16, &d->experts, err));
    TRY(read_int(g, "experts_used_count", 1, 1 << 16, &d->experts_used, err));
    TRY(read_int(g, "expert_feed_forward_length", 1, 1 << 22, &d->expert_ffn, err));
    TRY(read_int(g, "shared_expert_feed_forward_length", 0, 1 << 22, &d->shared_ffn, err));
    TRY(gguf_maybe_bool(g, "talker.norm_topk_prob", true, &d->normalise_weights, err));
    TRY(speech_positive(g, part, "rms_norm_eps", &d->norm_eps, err));
    TRY(speech_positive(g, part, "rope_theta", &d->rope_base, err));
    TRY(gguf_need_i32s(g, "talker.rope_sections", 3, d->rope_sections, err));
    TRY(decoder_config_check(d, part, err));
    TRY(speech_int(g, part, "context_length", 16, 1 << 26, &c->context_length, err));
    TRY(speech_int(g, part, "thinker_hidden_size", 1, 1 << 20, &c->thinker_width, err));
    TRY(read_int(g, "accept_hidden_layer", 0, 4096, &c->accept_hidden_layer, err));
    return read_int(g, "num_code_groups", 1, 256, &c->groups, err);
}

static omni_status read_ids(const gguf *g, int64_t thinker_vocab, talker_config *c, omni_error *err) {
    const int64_t codec = c->decoder.vocab - 1, text = thinker_vocab - 1;
    const struct {
        const char *field;
        int64_t high;
        int32_t *out;
    } ids[] = {
        {"codec_pad_id", codec, &c->codec_pad},
        {"codec_bos_id", codec, &c->codec_bos},
        {"codec_eos_id", codec, &c->codec_eos},
        {"codec_nothink_id", codec, &c->codec_nothink},
        {"codec_think_bos_id", codec, &c->codec_think_bos},
        {"codec_think_eos_id", codec, &c->codec_think_eos},
        {"tts_pad_token_id", text, &c->tts_pad},
        {"tts_bos_token_id", text, &c->tts_bos},
        {"tts_eos_token_id", text, &c->tts_eos},
        {"im_start_token_id", text, &c->im_start},
        {"im_end_token_id", text, &c->im_end},
        {"system_token_id", text, &c->system},
        {"user_token_id", text, &c->user},
        {"assistant_token_id", text, &c->assistant},
        {"image_token_id", text, &c->markup.image},
        {"video_token_id", text, &c->markup.video},
        {"audio_token_id", text, &c->markup.audio},
        {"vision_start_token_id", text, &c->markup.vision_start},
        {"audio_start_token_id", text, &c->markup.audio_start},
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        TRY(read_int(g, ids[i].field, 0, ids[i].high, ids[i].out, err));
    }
    c->markup.vision_end = c->markup.audio_end = -1;
    TRY(read_int(g, "spatial_merge_size", 1, 64, &c->markup.spatial_merge, err));
    return read_int(g, "position_id_per_seconds", 1, 1 << 16, &c->markup.ids_per_second, err);
}

static omni_status read_voices(const gguf *g, talker *t, omni_error *err) {
    gguf_str *names = NULL;
    size_t count = 0;
    TRY(gguf_need_strs(g, "talker.speaker_names", &names, &count, err));
    omni_status s = OMNI_OK;
    if (count < 1 || count > MAX_VOICES) {
        s = fail(err, OMNI_ERR_FORMAT, "%s: key talker.speaker_names has %zu voices; 1 to %d are possible", gguf_path(g), count, MAX_VOICES);
    }
    if (s == OMNI_OK) {
        t->voice_names = calloc(count, sizeof *t->voice_names);
        t->voice_ids = calloc(count, sizeof *t->voice_ids);
        t->voice_count = t->voice_names ? count : 0;
        s = t->voice_names && t->voice_ids ? gguf_need_i32s(g, "talker.speaker_ids", count, t->voice_ids, err)
                                           : fail(err, OMNI_ERR_MEMORY, "out of memory for %zu voices", count);
    }
    for (size_t i = 0; s == OMNI_OK && i < count; i++) {
        if (t->voice_ids[i] < 0 || t->voice_ids[i] >= t->c.decoder.vocab) {
            s = fail(err, OMNI_ERR_FORMAT, "%s: key talker.speaker_ids: id %d at index %zu is outside the talker's vocabulary of %lld", gguf_path(g),
                     t->voice_ids[i], i, (long long)t->c.decoder.vocab);
        } else if (names[i].size == 0 || memchr(names[i].data, 0, names[i].size)) {
            s = fail(err, OMNI_ERR_FORMAT, "%s: key talker.speaker_names: the name at index %zu is empty or has a NUL byte", gguf_path(g), i);
        } else if (!(t->voice_names[i] = strndup(names[i].data, names[i].size))) {
            s = fail(err, OMNI_ERR_MEMORY, "out of memory for %zu voices", count);
        }
    }
    free(names);
    return s;
}

static omni_status load_projection(talker *t, const char *name, talker_projection *p, omni_error *err) {
    weights *w = &t->weights.held;
    const int64_t in = t->c.thinker_width, out = t->c.decoder.width;
    TRY(weights_matrix(w, WEIGHT_LINEAR, &p->fc1, err, 2, (int64_t[]){in, -1}, "talker.%s_projection.fc1.weight", name));
    p->inner = p->fc1.ne[1];
    if (p->inner > 1 << 22) {
        return fail(err, OMNI_ERR_FORMAT, "%s: tensor %s: %lld rows are too many", gguf_path(w->g), p->fc1.name, (long long)p->inner);
    }
    TRY(weights_vector(w, &p->bias1, err, p->inner, "talker.%s_projection.fc1.bias", name));
    TRY(weights_matrix(w, WEIGHT_LINEAR, &p->fc2, err, 2, (int64_t[]){p->inner, out}, "talker.%s_projection.fc2.weight", name));
    return weights_vector(w, &p->bias2, err, out, "talker.%s_projection.fc2.bias", name);
}

static omni_status load(talker *t, gguf *g, omni_error *err) {
    const char *architecture;
    TRY(gguf_need_str(g, "general.architecture", &architecture, err));
    if (strcmp(architecture, "qwen3omni_talker") != 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: architecture %.40s; a talker file (qwen3omni_talker) is needed", gguf_path(g), architecture);
    }
    TRY(read_sizes(g, &t->c, err));
    if (t->thinker_embd.ne[0] != t->c.thinker_width) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "%s: made for a thinker of hidden size %lld, but the model's is %lld: the two files do not belong together", gguf_path(g),
                    (long long)t->c.thinker_width, (long long)t->thinker_embd.ne[0]);
    }
    TRY(read_ids(g, t->thinker_embd.ne[1], &t->c, err));
    TRY(read_voices(g, t, err));
    TRY(decoder_weights_load(t->b, g, "talker.", &t->c.decoder, false, &t->weights, err));
    TRY(load_projection(t, "text", &t->text, err));
    TRY(load_projection(t, "hidden", &t->hidden, err));
    return code_predictor_load(t->b, g, t->c.decoder.width, t->c.groups, &t->predictor, err);
}

omni_status talker_open(backend *b, gguf *g, const tensor *thinker_embd, talker **out, omni_error *err) {
    *out = NULL;
    talker *t = calloc(1, sizeof *t);
    if (!t) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a talker");
    }
    t->b = b;
    t->thinker_embd = *thinker_embd;
    omni_status s = load(t, g, err);
    if (s != OMNI_OK) {
        talker_close(t);
        return s;
    }
    *out = t;
    return OMNI_OK;
}

void talker_close(talker *t) {
    if (t) {
        code_predictor_free(&t->predictor);
        if (t->weights.held.b) {
            decoder_weights_free(&t->weights);
        }
        for (size_t i = 0; i < t->voice_count; i++) {
            free(t->voice_names[i]);
        }
        free(t->voice_names);
        free(t->voice_ids);
        free(t);
    }
}

const talker_config *talker_get_config(const talker *t) {
    return &t->c;
}

size_t talker_voice_count(const talker *t) {
    return t->voice_count;
}

const char *talker_voice_name(const talker *t, size_t i) {
    return t->voice_names[i];
}

omni_status talker_find_voice(const talker *t, const char *name, size_t *out, omni_error *err) {
    const char *wanted = name ? name : "chelsie";
    for (size_t i = 0; i < t->voice_count; i++) {
        if (strcasecmp(t->voice_names[i], wanted) == 0) {
            *out = i;
            return OMNI_OK;
        }
    }
    if (!name) {
        *out = 0;
        return OMNI_OK;
    }
    char known[600] = "";
    for (size_t i = 0, used = 0; i < t->voice_count && used < sizeof known; i++) {
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", t->voice_names[i]);
    }
    return fail(err, OMNI_ERR_ARGUMENT, "no voice \"%.80s\"; the talker file has: %s", name, known);
}
