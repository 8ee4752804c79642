/* Vision encoder: patches of images and video frames to embeddings of the thinker's width, plus the deepstack features that the
 * thinker adds after its first layers. (transformers: Qwen3OmniMoeVisionEncoder; GGUF: clip.vision.*, projector qwen3vl_merger.)
 *
 * Attention stays within one frame group, so groups go through the network a few at a time: scratch is bounded by the largest
 * group, whatever the length of a video. */
#ifndef OMNI_MODEL_VISION_ENCODER_H
#define OMNI_MODEL_VISION_ENCODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gguf/gguf.h"
#include "media/patches.h"
#include "tensor/ops.h"

typedef struct vision_encoder vision_encoder;

typedef struct vision_config {
    int hidden, heads, layers, ffn;
    int patch, merge, temporal;
    int grid;      /* side of the learned position grid */
    int out;       /* width of the embeddings: the thinker's */
    int deepstack; /* number of deepstack feature sets, 0 when the file has none */
    float norm_eps;
    float rope_theta;
    patch_params image, video; /* preprocessing constants; files without pixel limits get the published ones */
} vision_config;

/* True when the file holds a vision encoder at all (mmproj files may hold only audio). */
bool vision_encoder_present(const gguf *g);

/* Reads sizes and tensors from an mmproj file. The file must stay open as long as the encoder: weights are used where they lie.
 * Missing, extra or misshapen fields: an error that names the file and the tensor or key. */
omni_status vision_encoder_open(backend *b, gguf *g, vision_encoder **out, omni_error *err);
void vision_encoder_close(vision_encoder *v);
const vision_config *vision_encoder_config(const vision_encoder *v);

/* Embeddings that a set of patches gives: t * h * w / merge^2. */
int64_t vision_embeddings(const vision_config *c, const patch_set *s);

/* Begins with n_media images or videos; sets must have the config's patch and temporal sizes, and h and w that are multiples of merge.
 * embeds: backend memory [sum of vision_embeddings, out], in order of media; deepstack: config->deepstack pointers to memory of the
 * same shape each (NULL when that is 0). Allocates scratch only when a larger frame group than before comes. */
omni_status vision_encoder_begin(vision_encoder *v, const patch_set *sets, size_t n_media, float *embeds, float *const *deepstack, omni_error *err);
/* The next unit of what was begun, which takes about as long as the MLP of one layer for so many patches; false: nothing is left. With a
 * batch-invariant backend the embeddings are the same bits whatever the units. What was given to vision_encoder_begin must stay until the last one;
 * beginning anew gives up what is not complete. Not for two threads at once. */
bool vision_encoder_step(vision_encoder *v, int64_t rows);
/* All of it in one call. */
omni_status vision_encoder_run(vision_encoder *v, const patch_set *sets, size_t n_media, float *embeds, float *const *deepstack, omni_error *err);

#endif
