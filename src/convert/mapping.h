/* Which tensors the GGUF files hold and where each comes from in the checkpoint.
 *
 * The list is made from the sizes in config.json, tensor by tensor, and checked against the checkpoint: what is missing, has
 * another shape or is left over is an error. One rule covers every change of layout: a stored tensor is read from its source with
 * a base and one stride (in values) for each of its dimensions, so slices, permuted convolutions and plain copies are the same. */
#ifndef OMNI_CONVERT_MAPPING_H
#define OMNI_CONVERT_MAPPING_H

#include <stddef.h>
#include <stdint.h>

#include "convert/config.h"
#include "convert/recipe.h"
#include "gguf/safetensors.h"
#include "tensor/tensor.h"

enum { MAPPING_THINKER = PART_THINKER, MAPPING_MMPROJ = PART_MMPROJ, MAPPING_TALKER = PART_TALKER };

typedef struct mapped_tensor {
    char name[64];
    unsigned part; /* MAPPING_... */
    weight_class weight;
    dtype type;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS]; /* fastest first, unused 1 */
    /* Value (i0, i1, i2, i3) is source[base + i0 stride[0] + ... + i3 stride[3]]. With several sources (experts one by one) the last
     * used dimension selects the source instead. No source: the sinusoids of the audio encoder's positions. */
    const st_tensor **sources;
    size_t n_sources;
    int64_t base, stride[TENSOR_MAX_DIMS];
    int64_t source_values; /* in storage order; those past it are zeros. A whole number of rows, or there is only one row */
} mapped_tensor;

typedef struct mapping {
    mapped_tensor *tensors;
    size_t count, capacity;
} mapping;

/* checkpoint: its tensors in any order (data is not looked at, so it may be NULL); where names it in errors. parts: files wanted; tensors
 * of the other parts are left aside. type: what --type says. Frees nothing of the checkpoint; release with mapping_free. */
omni_status mapping_build(const model_config *config, const st_tensor *const *checkpoint, size_t count, unsigned parts, const recipe *type,
                          const char *where, mapping *out, omni_error *err);
/* The same list without a checkpoint: names, shapes and types, no sources. */
omni_status mapping_shapes(const model_config *config, unsigned parts, const recipe *type, mapping *out, omni_error *err);
void mapping_free(mapping *m);

/* Whether any tensor belongs to the talker, the code predictor or code2wav. */
bool mapping_has_talker(const st_tensor *const *checkpoint, size_t count);

#endif
