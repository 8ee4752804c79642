#include "model/rope.h"

#include <math.h>

void rope_frequencies(float base, int head_dim, float *inv_freq) {
    for (int j = 0; j < head_dim / 2; j++) {
        /* The exponent is a float32 quotient as in the reference; the power is rounded once, from double. */
        float exponent = (float)(2 * j) / (float)head_dim;
        inv_freq[j] = 1.0f / (float)pow((double)base, (double)exponent);
    }
}

int rope_axis(const int sections[3], int j) {
    if (j % 3 == 1 && j < 3 * sections[1]) {
        return 1;
    }
    if (j % 3 == 2 && j < 3 * sections[2]) {
        return 2;
    }
    return 0;
}

void rope_row(const float *inv_freq, const int sections[3], int half, const float position[3], float *cos, float *sin) {
    for (int j = 0; j < half; j++) {
        float angle = inv_freq[j] * position[rope_axis(sections, j)];
        cos[j] = cosf(angle);
        sin[j] = sinf(angle);
    }
}
