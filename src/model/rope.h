/* Rotary position tables from three float position ids a row (TM-RoPE: time, height, width).
 *
 * Frequency j of half = head_dim / 2 is base^(-2j / head_dim). With sections {t, h, w} the ids interleave
 * (Qwen3OmniMoeThinkerTextRotaryEmbedding.recomposition_frequencies): j takes height where j % 3 == 1 and j < 3 h, width where
 * j % 3 == 2 and j < 3 w, time otherwise. Sections of zero give the plain rotation by the time id. Angles are float32
 * products of float32 frequencies, as the reference computes them. */
#ifndef OMNI_MODEL_ROPE_H
#define OMNI_MODEL_ROPE_H

#include <stdint.h>

/* inv_freq[j] for j < half. */
void rope_frequencies(float base, int head_dim, float *inv_freq);
/* Which of the three ids frequency j takes: 0, 1 or 2. */
int rope_axis(const int sections[3], int j);
/* cos and sin [half] of one row. */
void rope_row(const float *inv_freq, const int sections[3], int half, const float position[3], float *cos, float *sin);

#endif
