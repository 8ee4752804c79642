/* Element types and views of stored tensors. Type numbers are GGUF's. */
#ifndef OMNI_TENSOR_TENSOR_H
#define OMNI_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every type that a GGUF file may hold is known by its block size, so that such a file can be inspected and its offsets
 * checked; dtype_info.computable tells which ones this program's operations take. */
typedef enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8, /* 32 values: one F16 scale, 32 int8 */
    DTYPE_Q8_1 = 9,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_Q8_K = 15,
    DTYPE_IQ2_XXS = 16,
    DTYPE_IQ2_XS = 17,
    DTYPE_IQ3_XXS = 18,
    DTYPE_IQ1_S = 19,
    DTYPE_IQ4_NL = 20,
    DTYPE_IQ3_S = 21,
    DTYPE_IQ2_S = 22,
    DTYPE_IQ4_XS = 23,
    DTYPE_I8 = 24,
    DTYPE_I16 = 25,
    DTYPE_I32 = 26,
    DTYPE_I64 = 27,
    DTYPE_F64 = 28,
    DTYPE_IQ1_M = 29,
    DTYPE_BF16 = 30,
    DTYPE_TQ1_0 = 34,
    DTYPE_TQ2_0 = 35,
    DTYPE_MXFP4 = 39,
    DTYPE_NVFP4 = 40,
    DTYPE_Q1_0 = 41,
    DTYPE_Q2_0 = 42,
    DTYPE_COUNT /* one more than the largest number */
} dtype;

/* What one block of a type holds. */
typedef struct dtype_info {
    const char *name; /* as GGUF tools print it: "F32", "Q8_0" */
    int64_t block;    /* values a block */
    size_t bytes;     /* bytes a block */
    bool computable;  /* operations take weights of this type, dtype_to_f32 reads it */
} dtype_info;

/* NULL for a number that is no type known here. */
const dtype_info *dtype_find(uint32_t type);
/* False for types that can only be inspected (and for numbers that are no type). */
bool dtype_computable(uint32_t type);
/* Whether dtype_from_f32 writes the type. */
bool dtype_writable(uint32_t type);
/* By name, letter case ignored ("q8_0"); false when unknown. */
bool dtype_by_name(const char *name, dtype *out);
/* Bytes of a row of n values; n must be a multiple of the block. 0 for a number that is no type. */
size_t dtype_row_bytes(dtype type, int64_t n);

enum { TENSOR_MAX_DIMS = 4 };

/* A view of stored values. ne[0] runs fastest (GGUF's order: a PyTorch weight [out, in] has ne = {in, out}).
 * Unused dimensions are 1. The view owns nothing. */
typedef struct tensor {
    const char *name;
    dtype type;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS];
    size_t size; /* bytes */
    const void *data;
    bool packed; /* data is in a layout of the backend's own (ops->pack); size counts that */
} tensor;

/* Rows of ne[0] values: ne[1] * ne[2] * ne[3]. */
static inline int64_t tensor_rows(const tensor *t) {
    return t->ne[1] * t->ne[2] * t->ne[3];
}

static inline const void *tensor_row(const tensor *t, int64_t row) {
    return (const char *)t->data + (size_t)row * dtype_row_bytes(t->type, t->ne[0]);
}

/* The i-th slice along the last used dimension of a 3-D tensor (one expert): a 2-D view. */
tensor tensor_slice(const tensor *t, int64_t i);

/* Values of one row as float32, and back. n must be a multiple of the block; in and out of the stored type need no alignment.
 * A type that is not computable gives NaN; one that is not writable leaves out untouched: check first. Q8_0 rounds as GGUF's reference
 * quantiser does: scale = max|x| / 127 stored as F16, values x * (1 / unrounded scale) to nearest, halves away from zero; the other block types
 * as tensor/quantize.h says. A block with a NaN or an infinity comes back as NaN. */
void dtype_to_f32(dtype type, const void *in, float *out, int64_t n);
void dtype_from_f32(dtype type, const float *in, void *out, int64_t n);
/* The same with the weight of each column's squared error, or NULL; types with no choice to make (F32, F16, BF16, Q8_0) ignore it. */
void dtype_from_f32_weighted(dtype type, const float *in, const float *importance, void *out, int64_t n);

/* Round-to-nearest-even conversions; subnormals, infinities and NaN kept (a bfloat16 NaN is made quiet). */
uint16_t f16_from_f32(float x);
float f16_to_f32(uint16_t h);
uint16_t bf16_from_f32(float x);
static inline float bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}

#endif
