#include "model/thinker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/kv_blocks.h"

/* ------------------------------------------------------------------------------------------------ sizes */

/* "ARCHITECTURE.field", valid until the next call with the same buffer. */
typedef struct key_name {
    char text[128];
} key_name;

static const char *key(key_name *k, const thinker *t, const char *field) {
    snprintf(k->text, sizeof k->text, "%s.%s", t->architecture, field);
    return k->text;
}

static omni_status need_int(const gguf *g, const thinker *t, const char *field, int *out, omni_error *err) {
    key_name k;
    return gguf_need_int(g, key(&k, t, field), 0, INT32_MAX, out, err);
}

static omni_status maybe_int(const gguf *g, const thinker *t, const char *field, int fallback, int *out, omni_error *err) {
    key_name k;
    return gguf_maybe_int(g, key(&k, t, field), fallback, 0, INT32_MAX, out, err);
}

static omni_status read_architecture(gguf *g, thinker *t, omni_error *err) {
    static const char *const known[] = {"qwen3vlmoe", "qwen3omnimoe", "qwen3omni"};
    TRY(gguf_need_str(g, "general.architecture", &t->architecture, err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(t->architecture, known[i]) == 0) {
            return OMNI_OK;
        }
    }
    return fail(err, OMNI_ERR_UNSUPPORTED, "%s: architecture \"%s\"; a thinker is qwen3vlmoe, qwen3omnimoe or qwen3omni", gguf_path(g),
                t->architecture);
}

static omni_status read_rope(gguf *g, thinker *t, omni_error *err) {
    key_name k;
    TRY(gguf_need_f32(g, key(&k, t, "rope.freq_base"), &t->config.rope_base, err));
    const char *scaling;
    TRY(gguf_maybe_str(g, key(&k, t, "rope.scaling.type"), "none", &scaling, err));
    if (strcmp(scaling, "none") != 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: %s is \"%s\"; only unscaled rotary positions are supported", gguf_path(g), k.text, scaling);
    }
    /* Three sections, or four of which the last is unused (llama.cpp's layout). */
    int64_t count = gguf_array_count(g, key(&k, t, "rope.dimension_sections"), NULL);
    int32_t sections[4] = {0};
    TRY(gguf_need_i32s(g, k.text, count == 3 ? 3 : 4, sections, err));
    memcpy(t->config.rope_sections, sections, sizeof t->config.rope_sections);
    return OMNI_OK;
}

static omni_status read_sizes(gguf *g, thinker *t, omni_error *err) {
    decoder_config *c = &t->config;
    key_name k;
    int context = 0;
    TRY(need_int(g, t, "block_count", &c->layers, err));
    TRY(need_int(g, t, "embedding_length", &c->width, err));
    TRY(need_int(g, t, "attention.head_count", &c->heads, err));
    TRY(need_int(g, t, "attention.head_count_kv", &c->kv_heads, err));
    TRY(maybe_int(g, t, "attention.key_length", c->heads > 0 ? c->width / c->heads : 0, &c->head_dim, err));
    TRY(need_int(g, t, "expert_count", &c->experts, err));
    TRY(need_int(g, t, "expert_used_count", &c->experts_used, err));
    TRY(need_int(g, t, "expert_feed_forward_length", &c->expert_ffn, err));
    TRY(gguf_maybe_bool(g, key(&k, t, "expert_weights_norm"), true, &c->normalise_weights, err));
    TRY(gguf_need_f32(g, key(&k, t, "attention.layer_norm_rms_epsilon"), &c->norm_eps, err));
    TRY(need_int(g, t, "context_length", &context, err));
    TRY(maybe_int(g, t, "n_deepstack_layers", 0, &t->deepstack_layers, err));
    TRY(read_rope(g, t, err));
    const tensor *table = gguf_tensor(g, "token_embd.weight");
    if (!table) {
        return fail(err, OMNI_ERR_FORMAT, "%s: no tensor token_embd.weight", gguf_path(g));
    }
    t->context = context;
    c->vocab = table->ne[1];
    TRY(decoder_config_check(c, gguf_path(g), err));
    if (c->experts == 0 || c->vocab == 0 || context == 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %d experts, a vocabulary of %lld, a context of %d; none may be 0", gguf_path(g), c->experts,
                    (long long)c->vocab, context);
    }
    return OMNI_OK;
}

/* ------------------------------------------------------------------------------------------------ special tokens */

static omni_status read_ids(gguf *g, thinker *t, omni_error *err) {
    const struct {
        const char *key, *text;
        int32_t *id;
    } wanted[] = {
        {"omni.image_token_id", "<|image_pad|>", &t->markup.image},
        {"omni.video_token_id", "<|video_pad|>", &t->markup.video},
        {"omni.audio_token_id", "<|audio_pad|>", &t->markup.audio},
        {"omni.vision_start_token_id", "<|vision_start|>", &t->markup.vision_start},
        {"omni.vision_end_token_id", "<|vision_end|>", &t->markup.vision_end},
        {"omni.audio_start_token_id", "<|audio_start|>", &t->markup.audio_start},
        {"omni.audio_end_token_id", "<|audio_end|>", &t->markup.audio_end},
        {"omni.im_start_token_id", "<|im_start|>", &t->ids.im_start},
        {"omni.im_end_token_id", "<|im_end|>", &t->ids.im_end},
        {"omni.system_token_id", "system", &t->ids.system},
        {"omni.user_token_id", "user", &t->ids.user},
        {"omni.assistant_token_id", "assistant", &t->ids.assistant},
    };
    enum { WANTED = sizeof wanted / sizeof *wanted };
    gguf_str *tokens = NULL;
    size_t count = 0;
    if (gguf_find(g, "tokenizer.ggml.tokens") >= 0) {
        TRY(gguf_need_strs(g, "tokenizer.ggml.tokens", &tokens, &count, err));
    }
    if (count > (size_t)t->config.vocab) {
        count = (size_t)t->config.vocab;
    }
    omni_status status = OMNI_OK;
    for (size_t i = 0; status == OMNI_OK && i < WANTED; i++) {
        *wanted[i].id = -1;
        if (gguf_find(g, wanted[i].key) < 0) {
            size_t size = strlen(wanted[i].text);
            for (size_t j = count; j > 0 && *wanted[i].id < 0; j--) { /* added tokens stand at the end */
                if (tokens[j - 1].size == size && memcmp(tokens[j - 1].data, wanted[i].text, size) == 0) {
                    *wanted[i].id = (int32_t)(j - 1);
                }
            }
            continue;
        }
        uint32_t id;
        status = gguf_need_u32(g, wanted[i].key, &id, err);
        if (status == OMNI_OK && id >= t->config.vocab) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: %s is %u; the vocabulary has %lld entries", gguf_path(g), wanted[i].key, id,
                          (long long)t->config.vocab);
        }
        *wanted[i].id = status == OMNI_OK ? (int32_t)id : -1;
    }
    free(tokens);
    TRY(status);
    uint32_t per_second;
    TRY(gguf_maybe_u32(g, "omni.position_id_per_seconds", 13, &per_second, err));
    if (per_second > 1 << 20) {
        return fail(err, OMNI_ERR_FORMAT, "%s: omni.position_id_per_seconds is %u", gguf_path(g), per_second);
    }
    t->markup.ids_per_second = (int32_t)per_second;
    t->markup.spatial_merge = 2;
    return OMNI_OK;
}

/* ------------------------------------------------------------------------------------------------ opening */

omni_status thinker_open(backend *b, gguf *g, bool embeddings_only, thinker **out, omni_error *err) {
    *out = NULL;
    thinker *t = calloc(1, sizeof *t);
    if (!t) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the thinker");
    }
    t->b = b;
    t->embeddings_only = embeddings_only;
    omni_status status = read_architecture(g, t, err);
    if (status == OMNI_OK) {
        status = read_sizes(g, t, err);
    }
    if (status == OMNI_OK) {
        status = read_ids(g, t, err);
    }
    if (status == OMNI_OK) {
        status = decoder_weights_load(b, g, "", &t->config, embeddings_only, &t->weights, err);
    }
    if (status != OMNI_OK) {
        thinker_close(t);
        return status;
    }
    *out = t;
    return OMNI_OK;
}

void thinker_close(thinker *t) {
    if (!t) {
        return;
    }
    decoder_weights_free(&t->weights);
    free(t);
}

omni_status thinker_use_encoder(thinker *t, int spatial_merge, int width, int deepstack, omni_error *err) {
    if (spatial_merge <= 0 || width != t->config.width || deepstack < 0) {
        return fail(err, OMNI_ERR_FORMAT,
                    "the encoders do not belong to this thinker: embeddings of %d values (the thinker's hidden size is %d), %d deepstack features, "
                    "patches merged by %d",
                    width, t->config.width, deepstack, spatial_merge);
    }
    t->markup.spatial_merge = spatial_merge;
    t->deepstack_layers = deepstack; /* more than there are layers: the reference leaves the rest unused, and so does the decoder */
    return OMNI_OK;
}

size_t thinker_memory(const thinker *t, dtype kv_type, int64_t positions, int64_t batch_rows, int64_t outputs) {
    const decoder_config *c = &t->config;
    size_t total = kv_memory(t->b, kv_type, c->layers, c->kv_heads, c->head_dim, positions);
    arena_count(&total, decoder_memory(t->b, c, batch_rows, outputs, positions / KV_BLOCK + 1));
    return total;
}

/* ------------------------------------------------------------------------------------------------ rows */

omni_status thinker_rows(const thinker *t, const prompt *p, int64_t first, int64_t n, const thinker_media *media, int32_t media_count,
                         float *captured, decoder_row *rows, omni_error *err) {
    int64_t width = t->config.width;
    if (first < 0 || n < 0 || first > p->n - n) {
        return fail(err, OMNI_ERR_ARGUMENT, "rows %lld to %lld of a prompt of %lld", (long long)first, (long long)(first + n), (long long)p->n);
    }
    for (int64_t i = 0; i < n; i++) {
        const prompt_row *from = &p->rows[first + i];
        decoder_row *to = &rows[i];
        *to = (decoder_row){.token = from->id, .captured = captured ? captured + i * width : NULL};
        memcpy(to->position, from->position, sizeof to->position);
        if (from->media < 0) {
            continue;
        }
        const thinker_media *m = from->media < media_count ? &media[from->media] : NULL;
        const float *embeddings = !m ? NULL : from->class == ROW_AUDIO ? m->audio : m->visual;
        if (!embeddings) {
            return fail(err, OMNI_ERR_ARGUMENT, "row %lld needs an embedding of media %d, which is not there", (long long)(first + i), from->media);
        }
        to->token = -1;
        to->embedding = embeddings + from->media_row * width;
        if (from->class != ROW_AUDIO && m->deepstack) {
            to->deepstack = m->deepstack + from->media_row * width;
            to->deepstack_stride = m->deepstack_stride;
        }
    }
    return OMNI_OK;
}

decoder_row thinker_next_row(int32_t token, float position[3]) {
    decoder_row row = {.token = token};
    for (int i = 0; i < 3; i++) {
        position[i] += 1.0f;
        row.position[i] = position[i];
    }
    return row;
}
