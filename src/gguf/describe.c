#define _GNU_SOURCE
#include "gguf/describe.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    ORDINARY_CONTEXT = 8192, /* what a session takes unless told otherwise */
    BLOCK = 64,              /* positions; keys and values are kept in whole blocks */
};

/* a * b, or UINT64_MAX when that is too large. */
static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t plus(uint64_t a, uint64_t b) {
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static void count(tensor_sum *s, uint64_t values, uint64_t bytes) {
    s->tensors++;
    s->values = plus(s->values, values);
    s->bytes = plus(s->bytes, bytes);
}

/* The part of this name; past the last free one, everything is counted under "other". */
static tensor_sum *part(description *d, const char *name, size_t length) {
    size_t room = sizeof d->parts[0].name - 1;
    length = length > room ? room : length;
    for (size_t i = 0; i < d->part_count; i++) {
        if (strlen(d->parts[i].name) == length && memcmp(d->parts[i].name, name, length) == 0) {
            return &d->parts[i].sum;
        }
    }
    if (d->part_count == DESCRIBE_MAX_PARTS) {
        return &d->parts[DESCRIBE_MAX_PARTS - 1].sum;
    }
    size_t i = d->part_count++;
    if (i == DESCRIBE_MAX_PARTS - 1) {
        name = "other";
        length = strlen(name);
    }
    memcpy(d->parts[i].name, name, length);
    d->parts[i].name[length] = 0;
    return &d->parts[i].sum;
}

static bool starts(const char *name, const char *with) {
    return strncmp(name, with, strlen(with)) == 0;
}

/* Which part of its file a tensor belongs to. */
static const char *thinker_part(const char *name) {
    if (starts(name, "token_embd.")) {
        return "token embedding";
    }
    if (starts(name, "output.")) {
        return "output head";
    }
    if (strstr(name, "_exps.")) {
        return "experts";
    }
    if (strstr(name, "ffn_gate_inp")) {
        return "routers";
    }
    if (strstr(name, "norm")) {
        return "norms";
    }
    return strstr(name, ".attn_") ? "attention" : strstr(name, ".ffn_") ? "feed-forward" : "other";
}

static const char *encoder_part(const char *name) {
    static const struct {
        const char *prefix, *part;
    } parts[] = {{"v.deepstack.", "vision deepstack mergers"},
                 {"v.", "vision encoder"},
                 {"a.", "audio encoder"},
                 {"mm.a.", "audio projector"},
                 {"mm.", "vision projector"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (starts(name, parts[i].prefix)) {
            return parts[i].part;
        }
    }
    return "other";
}

/* An unsigned key, or 0 when it is absent or of another kind: a description takes what it can get. */
static uint64_t key(const gguf *g, const char *prefix, const char *name) {
    char full[256];
    uint32_t v;
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    return gguf_maybe_u32(g, full, 0, &v, NULL) == OMNI_OK ? v : 0;
}

/* Values of keys and values that a position takes in all layers. */
static uint64_t values_per_position(uint64_t layers, uint64_t kv_heads, uint64_t key_length, uint64_t value_length) {
    return times(times(layers, kv_heads), key_length + value_length);
}

static uint64_t blocks(uint64_t positions) {
    return (positions + BLOCK - 1) / BLOCK * BLOCK;
}

static void add_context(description *d, uint64_t positions, uint64_t per_position) {
    uint64_t values = times(blocks(positions), per_position);
    d->contexts[d->context_count++] = (context_memory){positions, times(values, 4), times(values, 2)};
}

static void count_contexts(description *d, uint64_t most, uint64_t per_position) {
    d->context_length = most;
    if (per_position == 0) {
        return;
    }
    if (most == 0 || most > ORDINARY_CONTEXT) {
        add_context(d, ORDINARY_CONTEXT, per_position);
    }
    if (most) {
        add_context(d, most, per_position);
    }
}

static void thinker_memory(const gguf *g, description *d, uint64_t expert_values) {
    const char *a = d->architecture;
    uint64_t heads = key(g, a, "attention.head_count"), width = key(g, a, "embedding_length");
    uint64_t key_length = key(g, a, "attention.key_length"), value_length = key(g, a, "attention.value_length");
    uint64_t usual = heads ? width / heads : 0;
    uint64_t kv_heads = key(g, a, "attention.head_count_kv");
    count_contexts(d, key(g, a, "context_length"),
                   values_per_position(key(g, a, "block_count"), kv_heads ? kv_heads : heads, key_length ? key_length : usual,
                                       value_length ? value_length : usual));
    uint64_t experts = key(g, a, "expert_count"), used = key(g, a, "expert_used_count");
    if (experts && used && used <= experts && expert_values) {
        d->active_values = d->all.values - expert_values + (uint64_t)((double)expert_values * (double)used / (double)experts + 0.5);
    }
}

static void talker_memory(const gguf *g, description *d) {
    uint64_t dim = key(g, "talker", "head_dim");
    count_contexts(d, key(g, "talker", "context_length"),
                   values_per_position(key(g, "talker", "block_count"), key(g, "talker", "head_count_kv"), dim, dim));
    dim = key(g, "code_predictor", "head_dim");
    uint64_t frame = values_per_position(key(g, "code_predictor", "block_count"), key(g, "code_predictor", "head_count_kv"), dim, dim);
    d->fixed_bytes = times(times(frame, blocks(key(g, "code_predictor", "num_code_groups") + 1)), 4);
    dim = key(g, "code2wav", "head_dim");
    uint64_t window = values_per_position(key(g, "code2wav", "block_count"), key(g, "code2wav", "head_count_kv"), dim, dim);
    uint64_t length = key(g, "code2wav", "sliding_window");
    /* The window, and room for it to move on before it is put back to the front. */
    d->fixed_bytes = plus(d->fixed_bytes, length ? times(times(window, 2 * (length - 1) + BLOCK), 4) : 0);
}

/* "" for a key that is missing or no text: any file can be described. */
static omni_status text_key(gguf *g, const char *name, const char **out, omni_error *err) {
    omni_error odd;
    omni_status status = gguf_maybe_str(g, name, "", out, &odd);
    if (status == OMNI_ERR_MEMORY) {
        return fail(err, status, "%s", odd.text);
    }
    *out = status == OMNI_OK ? *out : "";
    return OMNI_OK;
}

static const char *kind_of(const char *architecture) {
    static const char *const known[][2] = {
        {"qwen3vlmoe", "thinker"}, {"qwen3omnimoe", "thinker"}, {"qwen3omni", "thinker"}, {"clip", "encoders"}, {"qwen3omni_talker", "talker"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(architecture, known[i][0]) == 0) {
            return known[i][1];
        }
    }
    return "other";
}

omni_status describe_gguf(gguf *g, description *out, omni_error *err) {
    *out = (description){0};
    TRY(text_key(g, "general.architecture", &out->architecture, err));
    TRY(text_key(g, "general.name", &out->name, err));
    out->kind = kind_of(out->architecture);
    bool thinker = strcmp(out->kind, "thinker") == 0, encoders = strcmp(out->kind, "encoders") == 0, talker = strcmp(out->kind, "talker") == 0;
    uint64_t expert_values = 0;
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const tensor *t = gguf_tensor_at(g, i);
        uint64_t values = (uint64_t)tensor_rows(t) * (uint64_t)t->ne[0];
        count(&out->all, values, t->size);
        count(&out->types[t->type], values, t->size);
        const char *name = thinker ? thinker_part(t->name) : encoders ? encoder_part(t->name) : t->name;
        count(part(out, name, thinker || encoders ? strlen(name) : strcspn(name, ".")), values, t->size);
        expert_values += strstr(t->name, "_exps.") ? values : 0;
        if (!out->unusable && !dtype_computable((uint32_t)t->type)) {
            out->unusable = t;
        }
    }
    if (thinker) {
        thinker_memory(g, out, expert_values);
    } else if (talker) {
        talker_memory(g, out);
    }
    return OMNI_OK;
}

/* "thinker.visual", "talker.code_predictor", "talker.model", "code2wav": as much of a name as tells the parts of the model. */
static size_t checkpoint_part(const char *name) {
    size_t n = strcspn(name, ".");
    if ((starts(name, "thinker.") || starts(name, "talker.")) && name[n]) {
        n += 1 + strcspn(name + n + 1, ".");
    }
    return n;
}

void describe_checkpoint(const safetensors *s, description *out) {
    *out = (description){.kind = "checkpoint", .architecture = "", .name = ""};
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const st_tensor *t = safetensors_at(s, i);
        uint64_t values = t->size / dtype_find((uint32_t)t->type)->bytes;
        count(&out->all, values, t->size);
        count(&out->types[t->type], values, t->size);
        count(part(out, t->name, checkpoint_part(t->name)), values, t->size);
    }
}

static bool ends(const char *path, const char *with) {
    size_t n = strlen(path), m = strlen(with);
    return n >= m && strcmp(path + n - m, with) == 0;
}

omni_status gguf_describe(const char *path, bool json, char **text, omni_error *err) {
    *text = NULL;
    description d;
    struct stat st;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    if (folder || ends(path, ".safetensors")) {
        safetensors *s = NULL;
        TRY(folder ? safetensors_open(path, &s, err) : safetensors_open_file(path, &s, err));
        describe_checkpoint(s, &d);
        omni_status status = describe_checkpoint_render(s, path, &d, json, text, err);
        safetensors_close(s);
        return status;
    }
    gguf *g = NULL;
    TRY(gguf_open(path, &g, err));
    omni_status status = describe_gguf(g, &d, err);
    if (status == OMNI_OK) {
        status = describe_gguf_render(g, &d, json, text, err);
    }
    gguf_close(g);
    return status;
}
