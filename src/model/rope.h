/* Rotary position tables from three float position ids a row (TM-RoPE: time, height, width).
 *
 * Frequency j of half = head_dim / 2 is base^(-2j / head_dim). With sections {t, h, w} the ids interleave
 * (Qwen3OmniMoeThinkerTextRotaryEmbedding.recomposition_frequencies): j takes height where j % 3 == 1 and j < 3 h, width where
 * j % 3 == 2 and j < 3 w, time otherwise. Sections of zero give the plain rotation by the time id. Angles are float32
 * products of float32 frequencies, as the reference computes them: ops->angles. */
#ifndef OMNI_MODEL_ROPE_H
#define OMNI_MODEL_ROPE_H

#include <stdint.h>

#include "tensor/ops.h"

/* inv_freq[j] for j < half. */
void rope_frequencies(float base, int head_dim, float *inv_freq);
/* Which of the three ids frequency j takes: 0, 1 or 2. */
int rope_axis(const int sections[3], int j);

/* What ops->angles takes besides positions, in the backend's memory. */
typedef struct rotation {
    int half;
    float *inv_freq; /* [half] */
    int32_t *axis;   /* [half] behind it */
} rotation;

/* With the frequencies and the axes above. */
omni_status rotation_create(backend *b, float base, int head_dim, const int sections[3], rotation *out, omni_error *err);
/* Axial, for pictures: the first half of the pairs turns by id 0, the second by id 1, both with the frequencies of a head of half the size. */
omni_status rotation_create_axial(backend *b, float base, int head_dim, rotation *out, omni_error *err);
void rotation_free(backend *b, rotation *r); /* also right for a zeroed struct */
/* cos and sin [rows, half] from positions [rows, 3], all in the backend's memory. */
static inline void rotation_angles(const rotation *r, backend *b, const float *positions, int64_t rows, float *cos, float *sin) {
    b->ops->angles(b, positions, r->inv_freq, r->axis, rows, r->half, cos, sin);
}

#endif
