/* The plain C version of the kernels for packed weights: the specification of the faster ones. */
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"
#include "tensor/blocks.h"

static void quantise(const float *x, int64_t n, packed_input *y) {
    for (int64_t at = 0; at < n; at += PACK_BLOCK, x += PACK_BLOCK, y++) {
        float largest = 0;
        bool finite = true;
        for (int i = 0; i < PACK_BLOCK; i++) {
            float a = fabsf(x[i]);
            finite = finite && a < INFINITY;
            largest = a > largest ? a : largest;
        }
        *y = (packed_input){.scale = finite ? 0 : NAN, .total = finite ? 0 : NAN};
        if (!finite || largest < PACK_LEAST) {
            continue;
        }
        float inverse = 127 / largest;
        y->scale = largest / 127;
        for (int i = 0; i < PACK_BLOCK; i++) {
            y->q[i] = (int8_t)rintf(x[i] * inverse);
            y->sum[i / 16] += y->q[i];
        }
        y->total = y->scale * (float)(y->sum[0] + y->sum[1]);
    }
}

static inline uint8_t code_at(const uint8_t *codes, int bits, int g, int lane) {
    switch (bits) {
    case 8:
        return codes[g * PACK_VECTOR + lane];
    case 4:
        return codes[g % 4 * PACK_VECTOR + lane] >> (g < 4 ? 0 : 4) & 15;
    case 2:
        return codes[g / 4 * PACK_VECTOR + lane] >> 2 * (g % 4) & 3;
    case 1:
        return codes[lane] >> g & 1;
    default:
        return 0;
    }
}

static inline float half_at(const uint8_t *p, int o) {
    uint16_t h;
    memcpy(&h, p + 2 * o, sizeof h);
    return f16_to_f32(h);
}

/* acc[16] += 32 inputs times one block; d and m of the superblock. */
static inline void add_block(packed_format f, int offset, const int8_t *table, const uint8_t *sub, const uint8_t *codes, const packed_input *x,
                             const float *d, const float *m, float *acc) {
    int32_t sum[2][PACK] = {{0}};
    for (int g = 0; g < 8; g++) {
        int8_t w[PACK_VECTOR];
        for (int lane = 0; lane < PACK_VECTOR; lane++) {
            int code = code_at(codes, f.low, g, lane) | code_at(codes + f.low * PACK_VECTOR, f.high, g, lane) << f.low;
            w[lane] = table ? table[code] : (int8_t)(code - offset);
        }
        for (int o = 0; o < PACK; o++) {
            for (int i = 0; i < 4; i++) {
                sum[g / 4][o] += w[4 * o + i] * x->q[4 * g + i];
            }
        }
    }
    for (int o = 0; o < PACK; o++) {
        const uint8_t first = f.sub ? sub[o] : 0, second = f.sub > PACK ? sub[PACK + o] : 0;
        const int32_t all = sum[0][o] + sum[1][o];
        switch (f.scales) {
        case SCALES_NONE:
            acc[o] += (float)all * (d[o] * x->scale);
            break;
        case SCALES_MIN:
            acc[o] += (float)all * (d[o] * x->scale);
            acc[o] += m[o] * x->total;
            break;
        case SCALES_32:
            acc[o] += (float)all * (d[o] * (float)(int8_t)first * x->scale);
            break;
        case SCALES_32_MIN:
            acc[o] += (float)all * (d[o] * (float)first * x->scale);
            acc[o] -= m[o] * (float)second * x->total;
            break;
        case SCALES_16:
            acc[o] += (float)(sum[0][o] * (int8_t)first + sum[1][o] * (int8_t)second) * (d[o] * x->scale);
            break;
        case SCALES_16_MIN:
            acc[o] += (float)(sum[0][o] * (first & 15) + sum[1][o] * (second & 15)) * (d[o] * x->scale);
            acc[o] -= (float)(x->sum[0] * (first >> 4) + x->sum[1] * (second >> 4)) * (m[o] * x->scale);
            break;
        }
    }
}

static inline __attribute__((always_inline)) void run(dtype type, packed_format f, int offset, const packed_piece *p, int64_t rows, int64_t outs) {
    const int8_t *table = type == DTYPE_MXFP4 ? BLOCK_MXFP4_VALUES : type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS ? BLOCK_IQ4_VALUES : NULL;
    const int codes = (f.low + f.high) * PACK_VECTOR;
    for (int64_t out = 0; out < outs; out += PACK) {
        for (int64_t r = 0; r < rows; r++) {
            const uint8_t *w = (const uint8_t *)p->w + (size_t)(out / PACK) * p->w_stride;
            const packed_input *x = p->x + (p->index ? p->index[r] : r) * p->x_stride;
            float acc[PACK] = {0}, d[PACK], m[PACK];
            for (int64_t at = 0; at < p->n; at += f.blocks * PACK_BLOCK, w += f.head + f.blocks * (f.sub + codes)) {
                for (int o = 0; o < PACK; o++) {
                    d[o] = type == DTYPE_MXFP4 ? block_mxfp4_scale(w[o]) : half_at(w, o);
                    m[o] = f.head > 2 * PACK ? half_at(w + 2 * PACK, o) : 0;
                }
                for (int b = 0; b < f.blocks; b++) {
                    add_block(f, offset, table, w + f.head + b * f.sub, w + f.head + f.blocks * f.sub + b * codes, x++, d, m, acc);
                }
            }
            float *y = p->y + r * p->y_stride + out;
            for (int o = 0; o < PACK && out + o < outs; o++) {
                y[o] = p->bias ? acc[o] + p->bias[out + o] : acc[o];
            }
        }
    }
}

#define KERNEL(type, name, blocks, head, sub, low, high, scales, offset)                                                                             \
    static void packed_##name(const packed_piece *p, int64_t rows, int64_t outs) {                                                                   \
        run(type, (packed_format){blocks, head, sub, low, high, scales}, offset, p, rows, outs);                                                     \
    }
PACKED_FORMATS(KERNEL)
#undef KERNEL

void packed_generic(cpu_kernels *k) {
    k->quantise = quantise;
#define ENTRY(type, name, blocks, head, sub, low, high, scales, offset) k->packed[type] = packed_##name;
    PACKED_FORMATS(ENTRY)
#undef ENTRY
}
