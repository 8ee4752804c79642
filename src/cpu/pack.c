/* From the rows of a file to groups of 16 outputs. */
#include <string.h>

#include "cpu/packed.h"
#include "tensor/blocks.h"

packed_format packed_format_of(dtype type) {
    switch (type) {
#define FORMAT(type, name, blocks, head, sub, low, high, scales, offset)                                                                             \
    case type:                                                                                                                                       \
        return (packed_format){blocks, head, sub, low, high, scales};
        PACKED_FORMATS(FORMAT)
#undef FORMAT
    default:
        return (packed_format){0};
    }
}

static size_t code_bytes(const packed_format *f) {
    return (size_t)(f->low + f->high) * PACK_VECTOR;
}

size_t packed_group_bytes(dtype type, int64_t n) {
    packed_format f = packed_format_of(type);
    if (packed_floats(type)) {
        return PACK * dtype_row_bytes(type, n);
    }
    return f.blocks ? (size_t)(n / (f.blocks * PACK_BLOCK)) * ((size_t)f.head + (size_t)f.blocks * ((size_t)f.sub + code_bytes(&f))) : 0;
}

size_t packed_bytes(dtype type, int64_t n, int64_t outs) {
    return (size_t)((outs + PACK - 1) / PACK) * packed_group_bytes(type, n);
}

/* One superblock of one output, taken apart. */
typedef struct parts {
    uint16_t d, m;
    uint8_t sub[8][2]; /* as the bytes of one output in subs */
    uint8_t code[QK_K];
} parts;

static void nibbles(const uint8_t *qs, uint8_t *code) {
    for (int j = 0; j < QK / 2; j++) {
        code[j] = qs[j] & 15;
        code[j + QK / 2] = qs[j] >> 4;
    }
}

static void fifth_bits(const uint8_t qh[4], uint8_t *code) {
    for (int j = 0; j < QK; j++) {
        code[j] = (uint8_t)(code[j] | (qh[j / 8] >> j % 8 & 1) << 4);
    }
}

/* Values 64 h + j low, 64 h + 32 + j high nibbles. */
static void k_nibbles(const uint8_t *qs, uint8_t *code) {
    for (int h = 0; h < 4; h++) {
        for (int j = 0; j < 32; j++) {
            code[64 * h + j] = qs[32 * h + j] & 15;
            code[64 * h + 32 + j] = qs[32 * h + j] >> 4;
        }
    }
}

/* Two bits of value 128 h + 32 k + j from bits 2k, 2k + 1 of byte 32 h + j, put at `shift`. */
static void k_pairs(const uint8_t *qs, int shift, uint8_t *code) {
    for (int i = 0; i < QK_K; i++) {
        int h = i / 128, k = i / 32 % 4, j = i % 32;
        code[i] = (uint8_t)(code[i] | (qs[32 * h + j] >> 2 * k & 3) << shift);
    }
}

static void take_q2_k(const block_q2_k *b, parts *p) {
    p->d = b->d;
    p->m = b->dmin;
    memcpy(p->sub, b->scales, 16);
    memset(p->code, 0, sizeof p->code);
    k_pairs(b->qs, 0, p->code);
}

static void take_q3_k(const block_q3_k *b, parts *p) {
    p->d = b->d;
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? b->scales[g] & 15 : b->scales[g - 8] >> 4;
        int high = b->scales[8 + g % 4] >> 2 * (g / 4) & 3;
        p->sub[g / 2][g % 2] = (uint8_t)((low | high << 4) - 32);
    }
    memset(p->code, 0, sizeof p->code);
    k_pairs(b->qs, 0, p->code);
    for (int i = 0; i < QK_K; i++) {
        p->code[i] = (uint8_t)(p->code[i] | (b->hmask[i % 32] >> i / 32 & 1) << 2);
    }
}

static void take_scale_min(const uint8_t scales[12], parts *p) {
    for (int g = 0; g < 8; g++) {
        block_scale_min(scales, g, &p->sub[g][0], &p->sub[g][1]);
    }
}

static void take_q4_k(const block_q4_k *b, parts *p) {
    p->d = b->d;
    p->m = b->dmin;
    take_scale_min(b->scales, p);
    k_nibbles(b->qs, p->code);
}

static void take_q5_k(const block_q5_k *b, parts *p) {
    p->d = b->d;
    p->m = b->dmin;
    take_scale_min(b->scales, p);
    k_nibbles(b->qs, p->code);
    for (int i = 0; i < QK_K; i++) {
        p->code[i] = (uint8_t)(p->code[i] | (b->qh[i % 32] >> i / 32 & 1) << 4);
    }
}

static void take_q6_k(const block_q6_k *b, parts *p) {
    p->d = b->d;
    memcpy(p->sub, b->scales, 16);
    for (int h = 0; h < 2; h++) {
        for (int j = 0; j < 64; j++) {
            p->code[128 * h + j] = b->ql[64 * h + j] & 15;
            p->code[128 * h + 64 + j] = b->ql[64 * h + j] >> 4;
        }
    }
    k_pairs(b->qh, 4, p->code);
}

static void take_iq4_xs(const block_iq4_xs *b, parts *p) {
    p->d = b->d;
    for (int g = 0; g < 8; g++) {
        int low = b->scales_l[g / 2] >> 4 * (g % 2) & 15, high = b->scales_h >> 2 * g & 3;
        p->sub[g][0] = (uint8_t)((low | high << 4) - 32);
        nibbles(b->qs + 16 * g, p->code + 32 * g);
    }
}

static void take(dtype type, const void *from, parts *p) {
    const block_q4_1 *q4_1 = from;
    const block_q5_0 *q5_0 = from;
    const block_q5_1 *q5_1 = from;
    const block_q8_0 *q8_0 = from;
    const block_mxfp4 *mxfp4 = from;
    switch (type) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        p->d = ((const block_q4_0 *)from)->d;
        nibbles(((const block_q4_0 *)from)->qs, p->code);
        break;
    case DTYPE_Q4_1:
        p->d = q4_1->d;
        p->m = q4_1->m;
        nibbles(q4_1->qs, p->code);
        break;
    case DTYPE_Q5_0:
        p->d = q5_0->d;
        nibbles(q5_0->qs, p->code);
        fifth_bits(q5_0->qh, p->code);
        break;
    case DTYPE_Q5_1:
        p->d = q5_1->d;
        p->m = q5_1->m;
        nibbles(q5_1->qs, p->code);
        fifth_bits(q5_1->qh, p->code);
        break;
    case DTYPE_Q8_0:
        p->d = q8_0->d;
        for (int j = 0; j < QK; j++) {
            p->code[j] = (uint8_t)(q8_0->qs[j] + 128);
        }
        break;
    case DTYPE_MXFP4:
        p->d = mxfp4->e;
        nibbles(mxfp4->qs, p->code);
        break;
    case DTYPE_Q2_K:
        take_q2_k(from, p);
        break;
    case DTYPE_Q3_K:
        take_q3_k(from, p);
        break;
    case DTYPE_Q4_K:
        take_q4_k(from, p);
        break;
    case DTYPE_Q5_K:
        take_q5_k(from, p);
        break;
    case DTYPE_Q6_K:
        take_q6_k(from, p);
        break;
    case DTYPE_IQ4_XS:
        take_iq4_xs(from, p);
        break;
    default:
        break;
    }
}

/* Four codes at a time; they lie the same way round in memory as in the vector, whatever the byte order. */
static uint32_t four(const uint8_t *code) {
    uint32_t v;
    memcpy(&v, code, sizeof v);
    return v;
}

static void put(uint8_t *to, uint32_t v) {
    memcpy(to, &v, sizeof v);
}

/* bits: 1, 2, 4 or 8 of each code from `shift` on, to the lane of one output. */
static void put_codes(const uint8_t *code, int bits, int shift, uint8_t *to) {
    const uint32_t mask = 0x01010101u * ((1u << bits) - 1);
    int together = 8 / bits, stride = bits == 4 ? 4 : 1; /* groups of a vector: v, v + 4 or 4v, 4v + 1, ... */
    for (int v = 0; v < bits; v++) {
        uint32_t word = 0;
        for (int j = 0; j < together; j++) {
            int g = bits == 4 ? v + stride * j : v * together + j;
            word |= (four(code + 4 * g) >> shift & mask) << bits * j;
        }
        put(to + v * PACK_VECTOR, word);
    }
}

/* Rows of 16 or 32 bits a value, side by side; in steps that keep what is written near. */
#define INTERLEAVE(name, type)                                                                                                                       \
    static void name(const type *rows, int outs, int64_t n, type *group) {                                                                           \
        enum { STEP = 64 };                                                                                                                          \
        for (int64_t from = 0; from < n; from += STEP) {                                                                                             \
            const int64_t to = n - from < STEP ? n : from + STEP;                                                                                    \
            for (int o = 0; o < PACK; o++) {                                                                                                         \
                for (int64_t i = from; i < to; i++) {                                                                                                \
                    group[i * PACK + o] = o < outs ? rows[o * n + i] : 0;                                                                            \
                }                                                                                                                                    \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

INTERLEAVE(interleave_16, uint16_t)
INTERLEAVE(interleave_32, uint32_t)

void packed_pack(dtype type, const void *rows, int outs, int64_t n, void *group) {
    if (type == DTYPE_F32) {
        interleave_32(rows, outs, n, group);
        return;
    }
    if (packed_floats(type)) {
        interleave_16(rows, outs, n, group);
        return;
    }
    packed_format f = packed_format_of(type);
    size_t row_bytes = dtype_row_bytes(type, n), block_bytes = dtype_find(type)->bytes, codes = code_bytes(&f);
    uint8_t *to = group;
    int64_t supers = n / (f.blocks * PACK_BLOCK);
    for (int64_t s = 0; s < supers; s++, to += (size_t)f.head + (size_t)f.blocks * ((size_t)f.sub + codes)) {
        uint8_t *subs = to + f.head, *code = subs + f.blocks * f.sub;
        for (int o = 0; o < PACK; o++) {
            parts p = {0};
            if (o < outs) {
                take(type, (const uint8_t *)rows + (size_t)o * row_bytes + (size_t)s * block_bytes, &p);
            }
            if (type == DTYPE_MXFP4) {
                to[o] = (uint8_t)p.d;
            } else {
                memcpy(to + 2 * o, &p.d, 2);
                if (f.head > 2 * PACK) {
                    memcpy(to + 2 * PACK + 2 * o, &p.m, 2);
                }
            }
            for (int b = 0; b < f.blocks; b++) {
                for (int i = 0; i < f.sub / PACK; i++) {
                    subs[b * f.sub + i * PACK + o] = p.sub[b][i];
                }
                put_codes(p.code + b * PACK_BLOCK, f.low, 0, code + (size_t)b * codes + 4 * o);
                if (f.high) {
                    put_codes(p.code + b * PACK_BLOCK, f.high, f.low, code + (size_t)b * codes + f.low * PACK_VECTOR + 4 * o);
                }
            }
        }
    }
}
