/* The kernels for packed weights (cpu/packed.h), over the vectors of bytes and of 32-bit sums that the including file brings. A vector
 * covers LANES outputs; a group of 16 takes PACK / LANES passes. */
#ifndef OMNI_CPU_SIMD_PACKED_H
#define OMNI_CPU_SIMD_PACKED_H

#include <math.h>

#include "cpu/kernels.h"
#include "cpu/simd_codes.h"

enum { PACKED_PREFETCH = 2048 };

static void simd_quantise(const float *x, int64_t n, packed_input *y) {
    const vf infinite = vf_set(INFINITY);
    for (int64_t at = 0; at < n; at += PACK_BLOCK, x += PACK_BLOCK, y++) {
        vf v[PACK_BLOCK / LANES], largest = vf_set(0.0f);
        int finite = 1;
        UNROLL for (int i = 0; i < PACK_BLOCK / LANES; i++) {
            v[i] = vf_load(x + i * LANES);
            finite &= vf_all_less(vf_abs(v[i]), infinite);
            largest = vf_max(largest, vf_abs(v[i]));
        }
        const float most = vf_largest(largest);
        if (!finite || most < PACK_LEAST) {
            *y = (packed_input){.scale = finite ? 0 : NAN, .total = finite ? 0 : NAN};
            continue;
        }
        const vf inverse = vf_set(127 / most);
        vi sum[2] = {vi_set(0), vi_set(0)};
        UNROLL for (int i = 0; i < PACK_BLOCK / LANES; i++) {
            const vi q = vi_from(vf_mul(v[i], inverse));
            vi_store_i8(y->q + i * LANES, q);
            sum[i * LANES / 16] = vi_add(sum[i * LANES / 16], q);
        }
        y->scale = most / 127;
        y->sum[0] = vi_sum(sum[0]);
        y->sum[1] = vi_sum(sum[1]);
        y->total = y->scale * (float)(y->sum[0] + y->sum[1]);
    }
}

/* Prefetches what lies PACKED_PREFETCH bytes behind a part of a group, in the first of a group's passes. Without it two cores that read a
 * stream each get four fifths of the memory's speed, and nothing arrives while many rows are worked on. */
SIMD void packed_prefetch(int part, const uint8_t *p, int bytes) {
    for (int i = 0; part == 0 && i < bytes; i += 64) {
        __builtin_prefetch(p + PACKED_PREFETCH + i, 0, 3);
    }
}

/* One vector of outputs times ROWS rows; a constant format and constant ROWS make this a kernel. x: where each row stands. */
SIMD void packed_tile(dtype type, packed_format f, int offset, const uint8_t *w, int part, int64_t n, const packed_input *const *rows, int ROWS,
                      vf *out) {
    const int wide = offset == 128, halves = f.scales == SCALES_16 || f.scales == SCALES_16_MIN, groups = halves ? 4 : 8;
    const int code_bytes = (f.low + f.high) * PACK_VECTOR;
    const int bias = wide && !DOT_BIASED ? 0 : offset;
    const vb table = packed_table(type);
    vf acc[PACKED_ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) {
        acc[r] = vf_set(0.0f);
    }
    for (int64_t at = 0, block = 0; at < n; at += f.blocks * PACK_BLOCK) {
        packed_prefetch(part, w, f.head + f.blocks * f.sub);
        const vf d = packed_d(type, w, part * LANES), m = packed_m(f, w, part * LANES);
        const uint8_t *sub = w + f.head + part * LANES, *codes = w + f.head + f.blocks * f.sub + part * 4 * LANES;
        for (int b = 0; b < f.blocks; b++, block++, sub += f.sub, codes += code_bytes) {
            packed_prefetch(part, codes - part * 4 * LANES, code_bytes);
            vi sum[PACKED_ROWS], all[PACKED_ROWS];
            UNROLL for (int h = 0; h <= halves; h++) {
                UNROLL for (int r = 0; r < ROWS; r++) {
                    const packed_input *x = rows[r] + block;
                    sum[r] = vi_set(bias ? -bias * (halves ? x->sum[h] : x->sum[0] + x->sum[1]) : 0);
                }
                UNROLL for (int j = 0; j < groups; j++) {
                    const int g = h * groups + j;
                    vb v = packed_codes(codes, f.low, f.high, g);
                    if (packed_has_table(type)) {
                        v = vb_lookup(table, v);
                    }
                    UNROLL for (int r = 0; r < ROWS; r++) {
                        const int8_t *x = rows[r][block].q + 4 * g;
                        sum[r] = wide ? vi_dot_wide(sum[r], v, x) : vi_dot(sum[r], v, x);
                    }
                }
                if (halves) {
                    const vi scale = f.scales == SCALES_16 ? vi_from_i8((const int8_t *)sub + h * PACK) : vi_and(vi_from_u8(sub + h * PACK), 15);
                    UNROLL for (int r = 0; r < ROWS; r++) {
                        all[r] = h ? vi_add(all[r], vi_mul(sum[r], scale)) : vi_mul(sum[r], scale);
                    }
                }
            }
            vf scale = d, min = m;
            vi low_min = vi_set(0), high_min = low_min;
            if (f.scales == SCALES_32) {
                scale = vf_mul(d, vf_from(vi_from_i8((const int8_t *)sub)));
            } else if (f.scales == SCALES_32_MIN) {
                scale = vf_mul(d, vf_from(vi_from_u8(sub)));
                min = vf_mul(m, vf_from(vi_from_u8(sub + PACK)));
            } else if (f.scales == SCALES_16_MIN) {
                low_min = vi_right(vi_from_u8(sub), 4);
                high_min = vi_right(vi_from_u8(sub + PACK), 4);
            }
            UNROLL for (int r = 0; r < ROWS; r++) {
                const packed_input *x = rows[r] + block;
                acc[r] = vf_fma(vf_from(halves ? all[r] : sum[r]), vf_mul(scale, vf_set(x->scale)), acc[r]);
                if (f.scales == SCALES_MIN) {
                    acc[r] = vf_fma(m, vf_set(x->total), acc[r]);
                } else if (f.scales == SCALES_32_MIN) {
                    acc[r] = vf_fnma(min, vf_set(x->total), acc[r]);
                } else if (f.scales == SCALES_16_MIN) {
                    const vi less = vi_add(vi_mul(low_min, vi_set(x->sum[0])), vi_mul(high_min, vi_set(x->sum[1])));
                    acc[r] = vf_fnma(vf_from(less), vf_mul(m, vf_set(x->scale)), acc[r]);
                }
            }
        }
        w += f.head + f.blocks * (f.sub + code_bytes);
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
        out[r] = acc[r];
    }
}

SIMD void packed_rows(dtype type, packed_format f, int offset, const packed_piece *p, int64_t out, int64_t outs, int64_t row, int ROWS) {
    const uint8_t *w = (const uint8_t *)p->w + (size_t)(out / PACK) * p->w_stride;
    const packed_input *x[PACKED_ROWS];
    for (int r = 0; r < ROWS; r++) {
        x[r] = p->x + (p->index ? p->index[row + r] : row + r) * p->x_stride;
    }
    for (int part = 0; part < PACK / LANES; part++) {
        const int64_t o = out + part * LANES, left = outs - o;
        if (left <= 0) {
            return;
        }
        vf acc[PACKED_ROWS], bias = vf_set(0.0f);
        packed_tile(type, f, offset, w, part, p->n, x, ROWS, acc);
        if (p->bias) {
            bias = left >= LANES ? vf_load(p->bias + o) : vf_load_part(p->bias + o, left);
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            const vf v = p->bias ? vf_add(acc[r], bias) : acc[r];
            float *y = p->y + (row + r) * p->y_stride + o;
            if (left >= LANES) {
                vf_store(y, v);
            } else {
                vf_store_part(y, v, left);
            }
        }
    }
}

/* A group's weights stay in the nearest cache while all rows go over them. */
#define PACKED_KERNEL(type, name, blocks, head, sub, low, high, scales, offset)                                                                      \
    static void simd_packed_##name(const packed_piece *p, int64_t rows, int64_t outs) {                                                              \
        const packed_format f = {blocks, head, sub, low, high, scales};                                                                              \
        for (int64_t out = 0; out < outs; out += PACK) {                                                                                             \
            int64_t row = 0;                                                                                                                         \
            for (; row + PACKED_ROWS <= rows; row += PACKED_ROWS) {                                                                                  \
                packed_rows(type, f, offset, p, out, outs, row, PACKED_ROWS);                                                                        \
            }                                                                                                                                        \
            if (PACKED_ROWS > 4 && row + 4 <= rows) {                                                                                                \
                packed_rows(type, f, offset, p, out, outs, row, 4);                                                                                  \
                row += 4;                                                                                                                            \
            }                                                                                                                                        \
            if (PACKED_ROWS > 2 && row + 2 <= rows) {                                                                                                \
                packed_rows(type, f, offset, p, out, outs, row, 2);                                                                                  \
                row += 2;                                                                                                                            \
            }                                                                                                                                        \
            if (row < rows) {                                                                                                                        \
                packed_rows(type, f, offset, p, out, outs, row, 1);                                                                                  \
            }                                                                                                                                        \
        }                                                                                                                                            \
    }

PACKED_FORMATS(PACKED_KERNEL)

static void simd_packed_table(cpu_kernels *k) {
    k->quantise = simd_quantise;
#define PACKED_ENTRY(type, name, blocks, head, sub, low, high, scales, offset) k->packed[type] = simd_packed_##name;
    PACKED_FORMATS(PACKED_ENTRY)
#undef PACKED_ENTRY
}

#endif
