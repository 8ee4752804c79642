/* Inside the mapping: adding one tensor at a time, under a prefix for the layer at hand. Errors stick. */
#ifndef OMNI_CONVERT_MAPPING_BUILDER_H
#define OMNI_CONVERT_MAPPING_BUILDER_H

#include "convert/mapping.h"

typedef struct source_entry {
    const st_tensor *t;
    bool used;
} source_entry;

typedef struct builder {
    source_entry *sources; /* sorted by name */
    size_t n_sources;
    bool shapes_only; /* there is no checkpoint: names, shapes and types are wanted, the tensors get no sources */
    const char *where;
    const recipe *type;
    recipe_model model; /* of the part at hand */
    unsigned part;
    mapping *out;
    char to[64], from[128]; /* prefixes of stored and checkpoint names */
    omni_status status;
    omni_error *err;
} builder;

/* Sets the prefixes; each format may hold one %u for the layer. */
void builder_scope(builder *b, const char *to, const char *from, uint32_t layer);
/* Replaces the prefix of the stored names alone, for parts that count differently in the file and in the checkpoint. */
void builder_scope_to(builder *b, const char *to, uint32_t layer);

/* The checkpoint's tensor of that name below the current prefix; NULL when absent. */
const st_tensor *builder_find(const builder *b, const char *from);

/* A tensor of the shape {in, out}, stored as it is. */
void builder_matrix(builder *b, weight_class c, const char *to, const char *from, int64_t in, int64_t out);
/* A bias, norm or scale of n values. */
void builder_vector(builder *b, const char *to, const char *from, int64_t n);
/* NAME.weight and NAME.bias: a matrix {in, out} with its bias, and a LayerNorm of n values. */
void builder_linear(builder *b, const char *to, const char *from, int64_t in, int64_t out);
void builder_layer_norm(builder *b, const char *to, const char *from, int64_t n);
/* A tensor read from one source whose shape in the checkpoint (slowest first) must be the given one. */
void builder_strided(builder *b, weight_class c, const char *to, const char *from, int shape_dims, const int64_t *shape, int n_dims,
                     const int64_t *ne, int64_t base, const int64_t *stride);
/* A tensor without a source, F32 {width, rows}. */
void builder_generated(builder *b, const char *to, int64_t width, int64_t rows);
/* NAME.weight and NAME.bias as builder_linear, followed by zeros for extra more outputs. */
void builder_padded_linear(builder *b, const char *to, const char *from, int64_t in, int64_t out, int64_t extra);
/* Expert matrices ffn_gate_exps, ffn_up_exps, ffn_down_exps from mlp.experts.*, one by one or fused. */
void builder_experts(builder *b, int64_t hidden, int64_t width, int64_t experts);

/* The talker's file (mapping_talker.c). */
void mapping_add_talker(builder *b, const model_config *c);

#endif
