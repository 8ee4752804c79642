/* Random values of every type that a model file may have. */
#include <math.h>
#include <string.h>

#include "convert/synth.h"

/* Where a block's scales lie and what random codes come to under a scale of 1. */
typedef struct block_layout {
    dtype type;
    int scale, offset;       /* bytes of the block where the F16 factors d and dmin (or m) stand; -1: none */
    float spread;            /* standard deviation of the values for d = 1 */
    float offset_over_scale; /* dmin (m) as a multiple of d that makes the mean 0 */
} block_layout;

/* The spreads follow from uniform codes and sub-block scales: for Q4_K, say, the codes are 0 .. 15 and the 6-bit scales and minima
 * 0 .. 63, so E[(s q - 7.5 m)^2] = 1333.5 * 77.5 + 56.25 * 1333.5 - 2 * (31.5 * 7.5)^2 = 258^2. */
static const block_layout LAYOUTS[] = {
    {DTYPE_Q4_0, 0, -1, 4.6F, 0},      {DTYPE_Q4_1, 0, 2, 4.6F, -7.5F},   {DTYPE_Q5_0, 0, -1, 9.2F, 0},    {DTYPE_Q5_1, 0, 2, 9.2F, -15.5F},
    {DTYPE_Q8_0, 0, -1, 74.0F, 0},     {DTYPE_Q2_K, 80, 82, 13.9F, 1.5F}, {DTYPE_Q3_K, 108, -1, 43.3F, 0}, {DTYPE_Q4_K, 0, 2, 258.0F, 7.5F},
    {DTYPE_Q5_K, 0, 2, 527.0F, 15.5F}, {DTYPE_Q6_K, 208, -1, 1366.0F, 0}, {DTYPE_IQ4_NL, 0, -1, 70.0F, 0}, {DTYPE_IQ4_XS, 0, -1, 1294.0F, 0},
};

static const block_layout *layout_of(dtype type) {
    for (size_t i = 0; i < sizeof LAYOUTS / sizeof *LAYOUTS; i++) {
        if (LAYOUTS[i].type == type) {
            return &LAYOUTS[i];
        }
    }
    return NULL;
}

bool synth_type_known(dtype type) {
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16 || type == DTYPE_MXFP4 || layout_of(type);
}

/* xorshift64* (Vigna, 2014). */
static uint64_t next(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1DULL;
}

static void random_bytes(uint64_t *state, uint8_t *out, size_t n) {
    for (; n >= 8; n -= 8, out += 8) {
        uint64_t v = next(state);
        memcpy(out, &v, 8);
    }
    uint64_t v = next(state);
    memcpy(out, &v, n);
}

/* About normal: the sum of four uniform numbers of 16 bits, scaled to variance 1. */
static float normal(uint64_t *state) {
    uint64_t v = next(state);
    float sum = (float)(v & 0xFFFF) + (float)(v >> 16 & 0xFFFF) + (float)(v >> 32 & 0xFFFF) + (float)(v >> 48);
    return (sum / 65536.0F - 2.0F) * 1.7320508F;
}

static void put_f16(uint8_t *at, float v) {
    uint16_t h = f16_from_f32(v);
    memcpy(at, &h, 2);
}

void synth_fill(dtype type, float mean, float deviation, uint64_t seed, int64_t blocks, void *out) {
    uint64_t state = (seed + 1) * 0x9E3779B97F4A7C15ULL | 1;
    for (int i = 0; i < 4; i++) {
        next(&state);
    }
    const size_t bytes = dtype_find(type)->bytes;
    if (type == DTYPE_F32) {
        float *f = out;
        for (int64_t i = 0; i < blocks; i++) {
            f[i] = mean + deviation * normal(&state);
        }
        return;
    }
    if (type == DTYPE_F16 || type == DTYPE_BF16) {
        uint16_t *h = out;
        for (int64_t i = 0; i < blocks; i++) {
            float v = mean + deviation * normal(&state);
            h[i] = type == DTYPE_F16 ? f16_from_f32(v) : bf16_from_f32(v);
        }
        return;
    }
    random_bytes(&state, out, (size_t)blocks * bytes);
    const block_layout *l = layout_of(type);
    for (int64_t i = 0; i < blocks; i++) {
        uint8_t *b = (uint8_t *)out + (size_t)i * bytes;
        if (type == DTYPE_MXFP4) { /* a power of two; the codes' spread is 2.9 of it */
            b[0] = (uint8_t)(127 + (int)lrintf(log2f(deviation / 2.9F)));
            continue;
        }
        float d = deviation / l->spread * (0.75F + (float)(next(&state) >> 40) / (float)(1 << 25)); /* 0.75 to 1.25 of the wanted */
        put_f16(b + l->scale, d);
        if (l->offset >= 0) {
            put_f16(b + l->offset, d * l->offset_over_scale);
        }
    }
}
