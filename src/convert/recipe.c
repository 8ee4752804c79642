#include "convert/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const recipe RECIPES[] = {
    {"f32", DTYPE_F32, false, 0},        {"f16", DTYPE_F16, false, 1},      {"bf16", DTYPE_BF16, false, 32},  {"q8_0", DTYPE_Q8_0, false, 7},
    {"q6_k", DTYPE_Q6_K, false, 18},     {"q5_k_m", DTYPE_Q5_K, true, 17},  {"q4_k_m", DTYPE_Q4_K, true, 15}, {"q5_k", DTYPE_Q5_K, false, 16},
    {"q4_k", DTYPE_Q4_K, false, 14},     {"q4_0", DTYPE_Q4_0, false, 2},    {"q4_1", DTYPE_Q4_1, false, 3},   {"q5_0", DTYPE_Q5_0, false, 8},
    {"q5_1", DTYPE_Q5_1, false, 9},      {"q2_k", DTYPE_Q2_K, false, 10},   {"q3_k", DTYPE_Q3_K, false, 11},  {"iq4_nl", DTYPE_IQ4_NL, false, 25},
    {"iq4_xs", DTYPE_IQ4_XS, false, 30}, {"mxfp4", DTYPE_MXFP4, false, 38},
};
enum { N_RECIPES = sizeof RECIPES / sizeof *RECIPES };

omni_status recipe_find(const char *name, const recipe **out, omni_error *err) {
    char names[160] = "";
    for (int i = 0; i < N_RECIPES; i++) {
        if (strcasecmp(name, RECIPES[i].name) == 0) {
            *out = &RECIPES[i];
            return OMNI_OK;
        }
        size_t n = strlen(names);
        if (dtype_writable(RECIPES[i].base)) {
            snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", RECIPES[i].name);
        }
    }
    *out = NULL;
    return fail(err, OMNI_ERR_ARGUMENT, "the type \"%.40s\" is none of %s", name, names);
}

static bool starts_with(const char *s, const char *prefix) {
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *s, const char *suffix) {
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static bool contains(const char *s, const char *part) {
    return strstr(s, part) != NULL;
}

/* As llama.cpp's mixes: the first and the last eighth of the layers, and every third between. */
static bool precise_layer(uint32_t layer, uint32_t layers) {
    return layer < layers / 8 || layer >= 7 * (uint64_t)layers / 8 || (layer - layers / 8) % 3 == 2;
}

/* A row that is no whole number of blocks gets the next better type with blocks of 32, then F16. */
static dtype fitting(dtype type, int64_t row) {
    if (row % dtype_find((uint32_t)type)->block == 0) {
        return type;
    }
    switch (type) {
    case DTYPE_Q4_K:
    case DTYPE_IQ4_XS:
        type = DTYPE_Q5_0;
        break;
    case DTYPE_Q5_K:
        type = DTYPE_Q5_1;
        break;
    case DTYPE_Q6_K:
        type = DTYPE_Q8_0;
        break;
    case DTYPE_Q2_K:
    case DTYPE_Q3_K:
        type = DTYPE_Q4_0;
        break;
    default:
        break;
    }
    return row % dtype_find((uint32_t)type)->block == 0 ? type : DTYPE_F16;
}

static bool below_six_bits(dtype type) {
    return type != DTYPE_Q8_0 && type != DTYPE_Q6_K;
}

static dtype thinker_type(const recipe *r, const recipe_model *m, const char *name) {
    if (strcmp(name, "output.weight") == 0 || (m->tied && strcmp(name, "token_embd.weight") == 0)) {
        return below_six_bits(r->base) ? DTYPE_Q6_K : r->base;
    }
    unsigned layer;
    if (sscanf(name, "blk.%u.", &layer) != 1) {
        return r->base;
    }
    /* With eight experts (small models) attention is little beside them, so it gets more, as in llama.cpp. */
    bool eight = m->experts == 8;
    if (eight && (ends_with(name, ".attn_v.weight") || ends_with(name, ".attn_k.weight"))) {
        return DTYPE_Q8_0;
    }
    if (!r->mixed) {
        return r->base;
    }
    if (eight && r->base == DTYPE_Q4_K && ends_with(name, ".attn_output.weight")) {
        return DTYPE_Q5_K;
    }
    bool sensitive = ends_with(name, ".attn_v.weight") || ends_with(name, ".ffn_down_exps.weight") || ends_with(name, ".ffn_down.weight");
    return sensitive && precise_layer(layer, m->layers) ? DTYPE_Q6_K : r->base;
}

/* The talker's experts are nine tenths of its file and get the base type. The rest is read for every frame or small: Q8_0. */
static dtype talker_type(const recipe *r, const recipe_model *m, const char *name) {
    unsigned layer;
    if (sscanf(name, "talker.blk.%u.", &layer) != 1 || !contains(name, "_exps.")) {
        return DTYPE_Q8_0;
    }
    return r->mixed && ends_with(name, ".ffn_down_exps.weight") && precise_layer(layer, m->layers) ? DTYPE_Q6_K : r->base;
}

dtype recipe_type(const recipe *r, const recipe_model *m, weight_class c, const char *name, int64_t row) {
    if (c == WEIGHT_F32) {
        return DTYPE_F32;
    }
    if (c == WEIGHT_PRECISE) {
        return r->base == DTYPE_F32 || r->base == DTYPE_BF16 ? DTYPE_F32 : DTYPE_F16;
    }
    if (dtype_find((uint32_t)r->base)->block == 1) {
        return r->base;
    }
    dtype type = m->part == PART_THINKER ? thinker_type(r, m, name) : m->part == PART_TALKER ? talker_type(r, m, name) : DTYPE_Q8_0;
    return fitting(type, row);
}

static bool any_of(const char *name, const char *const *parts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (contains(name, parts[i])) {
            return true;
        }
    }
    return false;
}

weight_class recipe_class(unsigned part, const char *name, int n_dims) {
    static const char *const exact[] = {"norm", "ffn_gate_inp", "position_embd", "dwconv", ".snake", ".ln1", ".ln2", "_scale.", ".gamma", "post_ln"};
    if (n_dims < 2 || !ends_with(name, ".weight") || any_of(name, exact, sizeof exact / sizeof *exact)) {
        /* v.patch_embd.weight.1, the second frame, is the one weight whose name goes on */
        return part == PART_MMPROJ && starts_with(name, "v.patch_embd.weight") ? WEIGHT_PRECISE : WEIGHT_F32;
    }
    if (part == PART_MMPROJ) {
        return n_dims > 2 || contains(name, "patch_embd") || contains(name, "conv") ? WEIGHT_PRECISE : WEIGHT_MATRIX;
    }
    if (part == PART_TALKER) {
        static const char *const tables[] = {"talker.token_embd.", "talker.output.", "code_predictor.token_embd.", "code_predictor.output.",
                                             "code2wav.token_embd."};
        for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
            if (starts_with(name, tables[i])) {
                return WEIGHT_PRECISE;
            }
        }
        return starts_with(name, "code2wav.") && !contains(name, ".blk.") && !contains(name, ".pwconv") ? WEIGHT_PRECISE : WEIGHT_MATRIX;
    }
    return WEIGHT_MATRIX;
}
