/* What --type means tensor by tensor: one base type, or a mix that keeps some tensors more precise (docs/formats.md, "Types"). */
#ifndef OMNI_CONVERT_RECIPE_H
#define OMNI_CONVERT_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"

/* Which file a tensor belongs to. */
enum { PART_THINKER = 1, PART_MMPROJ = 2, PART_TALKER = 4 };

typedef enum weight_class {
    WEIGHT_MATRIX,  /* as --type says */
    WEIGHT_PRECISE, /* codec tables and heads, convolutions: F16, or F32 where F16 could lose precision */
    WEIGHT_F32,     /* norms, biases, scales, routers, position tables */
} weight_class;

typedef struct recipe {
    const char *name;   /* lower case, as in file names: "q4_k_m" */
    dtype base;         /* of most matrices */
    bool mixed;         /* attention values and the experts' outputs of some layers in Q6_K */
    uint32_t file_type; /* general.file_type, llama.cpp's number */
} recipe;

/* What the choice depends on beside the tensor itself. */
typedef struct recipe_model {
    unsigned part;
    uint32_t layers;  /* of the thinker or the talker */
    uint32_t experts; /* of the thinker */
    bool tied;        /* no output.weight: the embedding table is the head */
} recipe_model;

/* Letter case is ignored. The error lists the names. */
omni_status recipe_find(const char *name, const recipe **out, omni_error *err);

/* The type of a tensor of the given class and row length under its stored name. */
dtype recipe_type(const recipe *r, const recipe_model *m, weight_class c, const char *name, int64_t row);

/* The class that a stored tensor of one of the three kinds of file has, by its name and shape. */
weight_class recipe_class(unsigned part, const char *name, int n_dims);

#endif
