#include "model/rope.h"

#include <math.h>
#include <stdlib.h>

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

static omni_status create(backend *b, float base, int head_dim, int frequencies, const int sections[3], rotation *out, omni_error *err) {
    const int half = head_dim / 2;
    *out = (rotation){.half = half};
    union {
        float frequency;
        int32_t axis;
    } *host = calloc((size_t)(2 * half + 1), sizeof *host);
    float *inv_freq = calloc((size_t)(half + 1), sizeof *inv_freq);
    void *memory = NULL;
    omni_status status = host && inv_freq ? b->ops->alloc(b, (size_t)(2 * half) * sizeof *host, &memory, err)
                                          : fail(err, OMNI_ERR_MEMORY, "out of memory for a rotation");
    if (status == OMNI_OK) {
        rope_frequencies(base, 2 * frequencies, inv_freq);
        for (int j = 0; j < half; j++) {
            host[j].frequency = inv_freq[j % frequencies];
            host[half + j].axis = sections ? rope_axis(sections, j) : j / frequencies;
        }
        b->ops->upload(b, memory, host, (size_t)(2 * half) * sizeof *host);
        out->inv_freq = memory;
        out->axis = (int32_t *)memory + half;
    }
    free(host);
    free(inv_freq);
    return status;
}

omni_status rotation_create(backend *b, float base, int head_dim, const int sections[3], rotation *out, omni_error *err) {
    return create(b, base, head_dim, head_dim / 2, sections, out, err);
}

omni_status rotation_create_axial(backend *b, float base, int head_dim, rotation *out, omni_error *err) {
    return create(b, base, head_dim, head_dim / 4, NULL, out, err);
}

void rotation_free(backend *b, rotation *r) {
    if (r->inv_freq) {
        b->ops->release(b, r->inv_freq);
    }
    *r = (rotation){0};
}
