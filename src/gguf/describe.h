/* What is in a model file, and the memory needed to run it: counted from the file's own keys and tensors, then rendered for
 * people or as JSON. Any well-formed GGUF file can be described, of this model family or not, and any safetensors checkpoint. */
#ifndef OMNI_GGUF_DESCRIBE_H
#define OMNI_GGUF_DESCRIBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gguf/gguf.h"
#include "gguf/safetensors.h"

enum { DESCRIBE_MAX_PARTS = 24, DESCRIBE_MAX_CONTEXTS = 2 };

typedef struct tensor_sum {
    uint64_t tensors, values, bytes;
} tensor_sum;

/* Keys and values of attention, for a number of positions. UINT64_MAX: too large to count. */
typedef struct context_memory {
    uint64_t positions;
    uint64_t f32_bytes, f16_bytes;
} context_memory;

typedef struct description {
    const char *kind;         /* "thinker", "encoders", "talker", "checkpoint", or "other" */
    const char *architecture; /* belongs to the file's reader; "" when it names none */
    const char *name;         /* likewise */
    tensor_sum all;
    tensor_sum types[DTYPE_COUNT]; /* by type number */
    size_t part_count;
    struct {
        char name[64];
        tensor_sum sum;
    } parts[DESCRIBE_MAX_PARTS];
    uint64_t active_values; /* values that one token meets in a mixture of experts; 0 when the file is none */
    const tensor *unusable; /* the first tensor of a type that operations do not take, or NULL */
    /* Memory beside the weights, as far as the keys tell it; no contexts for encoders and unknown files. */
    uint64_t context_length; /* what the model was made for; 0 when unknown */
    size_t context_count;    /* an ordinary session's positions, and the most the model takes */
    context_memory contexts[DESCRIBE_MAX_CONTEXTS];
    uint64_t fixed_bytes; /* a talker's: keys and values of code predictor and code2wav, whose least number is fixed */
} description;

/* Fails only when there is no memory. */
omni_status describe_gguf(gguf *g, description *out, omni_error *err);
void describe_checkpoint(const safetensors *s, description *out);

/* *text is the caller's to free(). */
omni_status describe_gguf_render(const gguf *g, const description *d, bool json, char **text, omni_error *err);
omni_status describe_checkpoint_render(const safetensors *s, const char *path, const description *d, bool json, char **text, omni_error *err);

/* A GGUF file, a .safetensors file, or the folder of a checkpoint. */
omni_status gguf_describe(const char *path, bool json, char **text, omni_error *err);

#endif
