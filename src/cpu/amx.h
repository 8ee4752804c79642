/* Advanced Matrix Extensions: eight registers ("tiles") of up to 16 rows of 64 bytes, and products of them.
 *
 * A product adds to c[m][n] the sum over k of a[m][k] b[k][n], for 16 outputs n at most. Rows of a hold the values of k one after another; b
 * holds four (int8) or two (bfloat16) values of k side by side: row j of b has, for every n, those of k = 4 j to 4 j + 3 (2 j, 2 j + 1).
 * Numbers of tiles are literal, since an instruction holds them.
 *
 * With AMX_EMULATED the same is done in plain C, so that kernels made of tiles can be checked on processors without them. */
#ifndef OMNI_CPU_AMX_H
#define OMNI_CPU_AMX_H

#include <stdint.h>
#include <string.h>

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_ROW_BYTES = 64 };

/* The shape of every tile, as LDTILECFG reads it. */
typedef struct amx_shapes {
    uint8_t palette; /* 1 */
    uint8_t start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_shapes;

/* amx_begin(const amx_shapes *) makes the tiles ready, all zeros; amx_end() gives them up, so that no switch of threads saves them.
 * amx_load(T, p, stride): row r from p + r * stride bytes; amx_store(T, p, stride) the other way. amx_zero(T).
 * amx_dot_i8(C, A, B): int32 sums of products of signed bytes. amx_dot_bf16(C, A, B): float32 sums of products of bfloat16, pair by pair,
 * subnormal numbers as zeros. */
#ifndef AMX_EMULATED

#define amx_begin(shapes) __asm__ volatile("ldtilecfg %0" : : "m"(*(shapes)) : "memory")
#define amx_end() __asm__ volatile("tilerelease" : : : "memory")
#define amx_zero(t) __asm__ volatile("tilezero %%tmm" #t : : :)
#define amx_load(t, p, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"((const void *)(p)), "r"((int64_t)(stride)) : "memory")
#define amx_store(t, p, stride) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"((void *)(p)), "r"((int64_t)(stride)) : "memory")
#define amx_dot_i8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : :)
#define amx_dot_bf16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : :)

#else

typedef struct amx_tiles {
    amx_shapes shapes;
    uint8_t tile[AMX_TILES][AMX_ROWS][AMX_ROW_BYTES];
} amx_tiles;

static _Thread_local amx_tiles amx;

static inline void amx_begin(const amx_shapes *shapes) {
    amx = (amx_tiles){.shapes = *shapes};
}

static inline void amx_end(void) {
    memset(&amx, 0xff, sizeof amx); /* what is left is not to be used */
}

static inline void amx_zero(int t) {
    memset(amx.tile[t], 0, sizeof amx.tile[t]);
}

static inline void amx_load(int t, const void *p, int64_t stride) {
    amx_zero(t);
    for (int r = 0; r < amx.shapes.rows[t]; r++) {
        memcpy(amx.tile[t][r], (const char *)p + r * stride, amx.shapes.row_bytes[t]);
    }
}

static inline void amx_store(int t, void *p, int64_t stride) {
    for (int r = 0; r < amx.shapes.rows[t]; r++) {
        memcpy((char *)p + r * stride, amx.tile[t][r], amx.shapes.row_bytes[t]);
    }
}

static inline void amx_dot_i8(int c, int a, int b) {
    for (int m = 0; m < amx.shapes.rows[c]; m++) {
        for (int n = 0; n < amx.shapes.row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &amx.tile[c][m][4 * n], sizeof sum);
            for (int k = 0; k < amx.shapes.row_bytes[a]; k++) {
                sum += (int8_t)amx.tile[a][m][k] * (int8_t)amx.tile[b][k / 4][4 * n + k % 4];
            }
            memcpy(&amx.tile[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

/* Subnormal results are not made zeros here. */
static inline float amx_bf16_at(const uint8_t *p) {
    const uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (bits & 0x7f800000) == 0 ? 0.0f : x;
}

static inline void amx_dot_bf16(int c, int a, int b) {
    for (int m = 0; m < amx.shapes.rows[c]; m++) {
        for (int n = 0; n < amx.shapes.row_bytes[c] / 4; n++) {
            float sum;
            memcpy(&sum, &amx.tile[c][m][4 * n], sizeof sum);
            for (int k = 0; k < amx.shapes.row_bytes[a] / 2; k++) {
                sum += amx_bf16_at(&amx.tile[a][m][2 * k]) * amx_bf16_at(&amx.tile[b][k / 2][4 * n + 2 * (k % 2)]);
            }
            memcpy(&amx.tile[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

#endif

#endif
