/* The kernels for packed weights with AMX tiles, for several rows at once: 16 outputs times 16 rows times 32 inputs a step, since every 32
 * inputs have scales of their own (16 in some formats). Compiled for AMX and AVX-512 VNNI and called only where the processor has both; results
 * are bit for bit those of the AVX-512 VNNI kernels.
 *
 * Inputs go in chunks. Those of up to 64 rows are copied side by side, so that they stay in the nearest cache while all outputs go over
 * them; a group's weights become signed bytes once a chunk. Sums wait in y for the next chunk. */
#include "cpu/amx.h"
#include "cpu/simd_packed_vnni.h"

#include "cpu/simd_codes.h"

#define UNROLL_ROWS _Pragma("GCC unroll 16")

enum { CHUNK = 8, TILES = 4, MANY = TILES * AMX_ROWS };

/* By tile of 16 rows and block of 32 inputs. */
typedef struct chunk_rows {
    _Alignas(64) int8_t q[TILES][CHUNK][AMX_ROWS][PACK_BLOCK];
    float scale[TILES][CHUNK][AMX_ROWS], total[TILES][CHUNK][AMX_ROWS];
    int32_t sum[TILES][CHUNK][2][AMX_ROWS];
} chunk_rows;

/* A group of 16 outputs by block. Scales of 16 inputs are whole numbers: `part`; of their minima: `less`. */
typedef struct chunk_weights {
    _Alignas(64) int8_t codes[CHUNK][PACK_BLOCK / 4][PACK_VECTOR];
    vf scale[CHUNK], min[CHUNK];
    vi part[CHUNK][2], less[CHUNK][2];
} chunk_weights;

SIMD int has_halves(packed_format f) {
    return f.scales == SCALES_16 || f.scales == SCALES_16_MIN;
}

SIMD void load_rows(packed_format f, const packed_piece *p, int64_t row, int rows, int64_t block, int blocks, chunk_rows *x) {
    if (rows % AMX_ROWS || blocks < CHUNK) {
        memset(x, 0, sizeof *x);
    }
    for (int r = 0; r < rows; r++) {
        const packed_input *from = p->x + (p->index ? p->index[row + r] : row + r) * p->x_stride + block;
        const int tile = r / AMX_ROWS, at = r % AMX_ROWS;
        for (int b = 0; b < blocks; b++) {
            memcpy(x->q[tile][b][at], from[b].q, PACK_BLOCK);
            x->scale[tile][b][at] = from[b].scale;
            if (f.scales == SCALES_MIN || f.scales == SCALES_32_MIN) {
                x->total[tile][b][at] = from[b].total;
            } else if (f.scales == SCALES_16_MIN) {
                x->sum[tile][b][0][at] = from[b].sum[0];
                x->sum[tile][b][1][at] = from[b].sum[1];
            }
        }
    }
}

/* w: a group's superblock in which the chunk begins; the next group's are called for. */
SIMD void load_weights(dtype type, packed_format f, int offset, const uint8_t *w, size_t w_stride, int blocks, chunk_weights *c) {
    const vb table = packed_table(type), less = vb_set(offset);
    const int code_bytes = (f.low + f.high) * PACK_VECTOR, bytes = f.head + f.blocks * (f.sub + code_bytes);
    for (int from = 0; from < blocks; from += f.blocks, w += bytes) {
        for (int i = 0; i < bytes; i += 64) {
            __builtin_prefetch(w + w_stride + i, 0, 3);
        }
        const vf d = packed_d(type, w, 0), m = packed_m(f, w, 0);
        const uint8_t *sub = w + f.head, *codes = w + f.head + f.blocks * f.sub;
        for (int b = from; b < from + f.blocks; b++, sub += f.sub, codes += code_bytes) {
            UNROLL for (int g = 0; g < PACK_BLOCK / 4; g++) {
                vb v = packed_codes(codes, f.low, f.high, g);
                v = packed_has_table(type) ? vb_lookup(table, v) : v;
                _mm512_store_si512(c->codes[b][g], _mm512_sub_epi8(v, less));
            }
            c->scale[b] = d;
            c->min[b] = m;
            if (f.scales == SCALES_32) {
                c->scale[b] = vf_mul(d, vf_from(vi_from_i8((const int8_t *)sub)));
            } else if (f.scales == SCALES_32_MIN) {
                c->scale[b] = vf_mul(d, vf_from(vi_from_u8(sub)));
                c->min[b] = vf_mul(m, vf_from(vi_from_u8(sub + PACK)));
            } else if (has_halves(f)) {
                UNROLL for (int h = 0; h < 2; h++) {
                    const vi s = vi_from_u8(sub + h * PACK);
                    c->part[b][h] = f.scales == SCALES_16 ? vi_from_i8((const int8_t *)sub + h * PACK) : vi_and(s, 15);
                    c->less[b][h] = vi_right(s, 4);
                }
            }
        }
    }
}

/* Products of four units, which are blocks or halves of blocks, with 16 rows. x and w: of the first one. */
SIMD void dot_units(int halves, const int8_t *x, const int8_t *w, int32_t (*sums)[AMX_ROWS][PACK]) {
    const int block = AMX_ROWS * PACK_BLOCK, bytes = PACK_VECTOR * (halves ? 4 : 8);
#define DOT_UNIT(u, c, a, b)                                                                                                                         \
    amx_load(a, x + (halves ? (u) / 2 * block + (u) % 2 * PACK_BLOCK / 2 : (u)*block), PACK_BLOCK);                                                  \
    amx_load(b, w + (u)*bytes, PACK_VECTOR);                                                                                                         \
    amx_zero(c);                                                                                                                                     \
    amx_dot_i8(c, a, b);
    DOT_UNIT(0, 0, 4, 6)
    DOT_UNIT(1, 1, 5, 7)
    DOT_UNIT(2, 2, 4, 6)
    DOT_UNIT(3, 3, 5, 7)
#undef DOT_UNIT
    amx_store(0, sums[0], sizeof sums[0][0]);
    amx_store(1, sums[1], sizeof sums[0][0]);
    amx_store(2, sums[2], sizeof sums[0][0]);
    amx_store(3, sums[3], sizeof sums[0][0]);
}

/* acc[r] += the chunk's products of row r of a tile. In the order of simd_packed.h. */
SIMD void add_chunk(packed_format f, const chunk_rows *x, int tile, const chunk_weights *c, int blocks, vf *acc) {
    _Alignas(64) int32_t sums[4][AMX_ROWS][PACK];
    const int halves = has_halves(f), step = halves ? 2 : 4;
    for (int from = 0; from < blocks; from += step) {
        dot_units(halves, x->q[tile][from][0], (const int8_t *)c->codes[from], sums);
        for (int b = from; b < from + step && b < blocks; b++) {
            const int u = halves ? 2 * (b - from) : b - from;
            const float *scale = x->scale[tile][b], *total = x->total[tile][b];
            UNROLL_ROWS for (int r = 0; r < AMX_ROWS; r++) {
                vi sum = _mm512_load_si512(sums[u][r]);
                if (halves) {
                    sum = vi_add(vi_mul(sum, c->part[b][0]), vi_mul(_mm512_load_si512(sums[u + 1][r]), c->part[b][1]));
                }
                acc[r] = vf_fma(vf_from(sum), vf_mul(c->scale[b], vf_set(scale[r])), acc[r]);
                if (f.scales == SCALES_MIN) {
                    acc[r] = vf_fma(c->min[b], vf_set(total[r]), acc[r]);
                } else if (f.scales == SCALES_32_MIN) {
                    acc[r] = vf_fnma(c->min[b], vf_set(total[r]), acc[r]);
                } else if (f.scales == SCALES_16_MIN) {
                    const vi less =
                        vi_add(vi_mul(c->less[b][0], vi_set(x->sum[tile][b][0][r])), vi_mul(c->less[b][1], vi_set(x->sum[tile][b][1][r])));
                    acc[r] = vf_fnma(vf_from(less), vf_mul(c->min[b], vf_set(scale[r])), acc[r]);
                }
            }
        }
    }
}

/* y[r][left outputs] of a tile; what was there is added to unless the chunk is the first, bias is that of the last chunk or NULL. */
SIMD void add_tile(packed_format f, const chunk_rows *x, int tile, const chunk_weights *c, int blocks, int rows, bool first, const float *bias,
                   int64_t left, float *y, int64_t y_stride) {
    /* Masks instead of branches, of which the compiler would make copies of everything. */
    const __mmask16 some = first_lanes(left < PACK ? left : PACK), old = first ? 0 : some, biased = bias ? some : 0;
    vf acc[AMX_ROWS];
    UNROLL_ROWS for (int r = 0; r < AMX_ROWS; r++) {
        acc[r] = _mm512_maskz_loadu_ps(r < rows ? old : 0, y + r * y_stride);
    }
    add_chunk(f, x, tile, c, blocks, acc);
    const vf add = _mm512_maskz_loadu_ps(biased, bias);
    UNROLL_ROWS for (int r = 0; r < AMX_ROWS; r++) {
        _mm512_mask_storeu_ps(y + r * y_stride, r < rows ? some : 0, _mm512_mask_add_ps(acc[r], biased, acc[r], add));
    }
}

/* Up to MANY rows from `row` on. */
SIMD void add_rows(dtype type, packed_format f, int offset, const packed_piece *p, int64_t row, int rows, int64_t outs) {
    const int64_t blocks = p->n / PACK_BLOCK;
    const size_t bytes = (size_t)(f.head + f.blocks * (f.sub + (f.low + f.high) * PACK_VECTOR)); /* a superblock */
    chunk_rows x;
    chunk_weights c;
    memset(c.codes, 0, sizeof c.codes);
    for (int64_t block = 0; block < blocks; block += CHUNK) {
        const int n = blocks - block < CHUNK ? (int)(blocks - block) : CHUNK;
        load_rows(f, p, row, rows, block, n, &x);
        for (int64_t out = 0; out < outs; out += PACK) {
            const uint8_t *w = (const uint8_t *)p->w + (size_t)(out / PACK) * p->w_stride + (size_t)(block / f.blocks) * bytes;
            load_weights(type, f, offset, w, p->w_stride, n, &c);
            const float *bias = p->bias && block + n == blocks ? p->bias + out : NULL;
            for (int tile = 0; tile * AMX_ROWS < rows; tile++) {
                add_tile(f, &x, tile, &c, n, rows - tile * AMX_ROWS, block == 0, bias, outs - out, p->y + (row + tile * AMX_ROWS) * p->y_stride + out,
                         p->y_stride);
            }
        }
    }
}

SIMD void run(dtype type, packed_format f, int offset, const packed_piece *p, int64_t rows, int64_t outs) {
    const int inputs = has_halves(f) ? PACK_BLOCK / 2 : PACK_BLOCK;
    amx_shapes s = {.palette = 1};
    for (int t = 0; t < AMX_TILES; t++) {
        s.rows[t] = (uint8_t)(t < 6 ? AMX_ROWS : inputs / 4);
        s.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? inputs : PACK_VECTOR);
    }
    amx_begin(&s);
    for (int64_t row = 0; row < rows; row += MANY) {
        add_rows(type, f, offset, p, row, rows - row < MANY ? (int)(rows - row) : MANY, outs);
    }
    amx_end();
}

#define KERNEL(type, name, blocks, head, sub, low, high, scales, offset)                                                                             \
    static void amx_##name(const packed_piece *p, int64_t rows, int64_t outs) {                                                                      \
        run(type, (packed_format){blocks, head, sub, low, high, scales}, offset, p, rows, outs);                                                     \
    }
PACKED_FORMATS(KERNEL)
#undef KERNEL

void packed_amx(cpu_kernels *k) {
    k->packed_many_rows = MANY; /* with fewer, laying out rows and weights costs more than the tiles save */
#define ENTRY(type, name, blocks, head, sub, low, high, scales, offset) k->packed_many[type] = amx_##name;
    PACKED_FORMATS(ENTRY)
#undef ENTRY
}
