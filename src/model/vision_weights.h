/* Tensors of the vision encoder, as vision_encoder.c uses them. */
#ifndef OMNI_MODEL_VISION_WEIGHTS_H
#define OMNI_MODEL_VISION_WEIGHTS_H

#include "model/vision_encoder.h"
#include "model/weights.h"

/* norm and linear parameters: weight and bias */
typedef struct vision_norm {
    const float *w, *b;
} vision_norm;

typedef struct vision_linear {
    tensor w;
    const float *b;
} vision_linear;

/* Joins merge x merge patches: norm (before joining, over hidden; or after, over merge^2 hidden), linear, GELU, linear. */
typedef struct vision_merger {
    vision_norm norm;
    vision_linear fc1, fc2; /* merge^2 hidden -> merge^2 hidden -> out */
} vision_merger;

typedef struct vision_layer {
    vision_norm norm1, norm2;
    vision_linear qkv, proj; /* hidden -> 3 hidden, hidden -> hidden */
    vision_linear up, down;  /* hidden -> ffn -> hidden */
    int deepstack;           /* index of the feature set taken after this layer, or -1 */
} vision_layer;

typedef struct vision_weights {
    weights all;
    vision_linear patch;     /* 3 * temporal * patch^2 -> hidden, in the order of a patch_set */
    const tensor *positions; /* [grid^2, hidden], read on the host */
    activation act;          /* of the layers' MLP */
    vision_layer *layers;    /* [config.layers] */
    vision_merger merger;
    vision_merger *deepstack; /* [config.deepstack] */
} vision_weights;

omni_status vision_config_read(gguf *g, vision_config *c, omni_error *err);
/* c->deepstack is set here, from the layers that have such tensors. On error what was loaded is freed. */
omni_status vision_weights_load(vision_weights *w, backend *b, gguf *g, vision_config *c, omni_error *err);
void vision_weights_free(vision_weights *w);

#endif
