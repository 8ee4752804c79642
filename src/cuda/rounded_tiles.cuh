/* Products of many rows with quantised matrices on the tensor cores: inputs rounded as in rounded.cuh, products of int8, and for every 32 (Q6_K: 16)
 * inputs a float sum with both scales. A block has a tile of TILE_OUTS outputs and TILE rows, a warp 32 x 32 of it. */
#ifndef OMNI_CUDA_ROUNDED_TILES_CUH
#define OMNI_CUDA_ROUNDED_TILES_CUH

#include "cuda/linear.cuh"
#include "cuda/mma.cuh"
#include "cuda/rounded.cuh"

enum { TILE_OUTS = 128, STEP = 128, SEGMENTS = STEP / 16, PITCH = STEP + 16 /* bytes of a row in shared memory: rows lie in different banks */ };

/* Rows [first, first + count) of those that a launch has, and the matrix they are multiplied with. */
struct tile_rows {
    weight_rows w;
    int64_t first;
    int count; /* 0: nothing to do */
};

struct tile_memory {
    int8_t w[TILE_OUTS * PITCH], x[TILE * PITCH];
    float2 w_scale[SEGMENTS][TILE_OUTS]; /* x: scale, y: min */
    float2 x_scale[SEGMENTS][TILE];      /* x: scale, y: scale times the sum */
};

/* What a thread brings of a step: chunks of stored rows, and 16 values at a time of the inputs. They are loaded while the step before is multiplied.
 */
template <class Format> struct tile_loads {
    enum { CHUNKS = TILE_OUTS * (STEP / 32) / ROUNDED_THREADS, INPUTS = TILE * SEGMENTS / ROUNDED_THREADS };
    typename Format::stored weights[CHUNKS];
    uint4 values[INPUTS];
    float2 scales[INPUTS];
    const char *row[CHUNKS], *input[INPUTS]; /* NULL: there is none */

    __device__ static int out_of(int i) {
        return ((int)threadIdx.x + i * ROUNDED_THREADS) / (STEP / 32);
    }
    __device__ static int chunk_of() {
        return (int)threadIdx.x % (STEP / 32);
    }
    __device__ static int row_of(int i) {
        return ((int)threadIdx.x + i * ROUNDED_THREADS) / SEGMENTS;
    }
    __device__ static int segment_of() {
        return (int)threadIdx.x % SEGMENTS;
    }

    template <class Place> __device__ void open(rounded_rows x, const Place &place, const tile_rows &t, int64_t first_out, int64_t outs) {
        UNROLL
        for (int i = 0; i < CHUNKS; i++) {
            row[i] = first_out + out_of(i) < outs ? t.w.data + (first_out + out_of(i)) * t.w.stride : NULL;
        }
        UNROLL
        for (int i = 0; i < INPUTS; i++) {
            input[i] = row_of(i) < t.count ? x.row(place.source(t.first + row_of(i))) : NULL;
        }
    }

    /* The step that begins at value `at`; zeros where there are none. */
    __device__ void load(rounded_rows x, int at) {
        UNROLL
        for (int i = 0; i < CHUNKS; i++) {
            const int c = at / 32 + chunk_of();
            if (row[i] && 32 * c < x.width) {
                weights[i] = Format::load(row[i], Format::places_of((unsigned)x.width, (unsigned)c), 0);
            }
        }
        UNROLL
        for (int i = 0; i < INPUTS; i++) {
            const int from = at + 16 * segment_of();
            const bool there = input[i] && from < x.width;
            values[i] = there ? rounded_rows::values(input[i], from) : uint4{0, 0, 0, 0};
            scales[i] = there ? x.scale_of(input[i], from) : float2{0, 0};
        }
    }

    __device__ void store(tile_memory *to, rounded_rows x, int at) const {
        UNROLL
        for (int i = 0; i < CHUNKS; i++) {
            const int out = out_of(i), c = at / 32 + chunk_of();
            segment_pair p = {};
            if (row[i] && 32 * c < x.width) {
                p = Format::unpack(weights[i], (unsigned)c);
            }
            for (int s = 0; s < 2; s++) {
                const int place = Format::first((unsigned)c) + s * Format::APART - at;
                *(uint4 *)(void *)(to->w + out * PITCH + place) =
                    uint4{(uint32_t)p.q[s][0], (uint32_t)p.q[s][1], (uint32_t)p.q[s][2], (uint32_t)p.q[s][3]};
                to->w_scale[place / 16][out] = float2{p.scale[s], p.min[s]};
            }
        }
        UNROLL
        for (int i = 0; i < INPUTS; i++) {
            *(uint4 *)(void *)(to->x + row_of(i) * PITCH + 16 * segment_of()) = values[i];
            to->x_scale[segment_of()][row_of(i)] = scales[i];
        }
    }
};

/* sum += scales times the products of the warp's 32 outputs and 32 rows over segments [s, s + DEPTH / 16). */
template <int DEPTH> __device__ static inline void multiply_segments(const tile_memory *m, int first_out, int first_row, int s, float sum[2][4][4]) {
    const int g = (int)threadIdx.x % WARP / 4, t = (int)threadIdx.x % 4;
    int b[4][2];
    for (int n = 0; n < 4; n++) {
        const int *x = (const int *)(const void *)(m->x + (first_row + 8 * n + g) * PITCH + 16 * s) + t;
        b[n][0] = x[0];
        b[n][1] = DEPTH == 32 ? x[4] : 0;
    }
    for (int o = 0; o < 2; o++) {
        const int out = first_out + 16 * o + g;
        const int *low = (const int *)(const void *)(m->w + out * PITCH + 16 * s) + t, *high = low + 8 * PITCH / 4;
        const int a[4] = {low[0], high[0], DEPTH == 32 ? low[4] : 0, DEPTH == 32 ? high[4] : 0};
        const float2 scale[2] = {m->w_scale[s][out], m->w_scale[s][out + 8]};
        for (int n = 0; n < 4; n++) {
            int d[4];
            if constexpr (DEPTH == 32) {
                mma_k32(d, a, b[n]);
            } else {
                mma_k16(d, a, b[n]);
            }
            for (int i = 0; i < 4; i++) {
                const int row = first_row + 8 * n + 2 * t + i % 2;
                const float2 x = m->x_scale[s][row];
                const float total = x.y + (DEPTH == 32 ? m->x_scale[s + 1][row].y : 0);
                sum[o][n][i] += x.x * scale[i / 2].x * (float)d[i] - scale[i / 2].y * total;
            }
        }
    }
}

/* A Place has open(): the rows of blockIdx.y; source(row): which rounded row that is; store(row, out, v). grid: outputs, tiles of rows. */
template <class Format, class Place>
__global__ static void __launch_bounds__(ROUNDED_THREADS, 2) rounded_tiles_kernel(rounded_rows x, int64_t outs, Place place) {
    __shared__ tile_memory memory;
    const tile_rows t = place.open();
    if (t.count == 0) {
        return; /* the whole block */
    }
    const int warp = (int)threadIdx.x / WARP, first_out = warp % 4 * 32, first_row = warp / 4 * 32;
    const int64_t tile_out = (int64_t)blockIdx.x * TILE_OUTS;
    float sum[2][4][4] = {};
    tile_loads<Format> loads;
    loads.open(x, place, t, tile_out, outs);
    loads.load(x, 0);
    for (int at = 0; at < x.width; at += STEP) {
        loads.store(&memory, x, at);
        __syncthreads();
        loads.load(x, at + STEP); /* zeros behind the end */
        for (int s = 0; s < SEGMENTS; s += Format::SCALED / 16) {
            multiply_segments<Format::SCALED>(&memory, first_out, first_row, s, sum);
        }
        __syncthreads();
    }
    const int g = (int)threadIdx.x % WARP / 4, lane = (int)threadIdx.x % 4;
    for (int o = 0; o < 2; o++) {
        for (int n = 0; n < 4; n++) {
            for (int i = 0; i < 4; i++) {
                const int64_t out = tile_out + first_out + 16 * o + g + 8 * (i / 2);
                const int row = first_row + 8 * n + 2 * lane + i % 2;
                if (out < outs && row < t.count) {
                    place.store(t.first + row, out, sum[o][n][i]);
                }
            }
        }
    }
}

/* Rounds rows of n values each, a block of threads a row. */
__global__ static void round_kernel(rounded_rows to, const float *x, int64_t n, int64_t stride) {
    round_row(to, to.row(blockIdx.x), x + blockIdx.x * stride, n, (int)threadIdx.x, ROUNDED_THREADS);
}

/* rows of x, rounded, in the scratch; memory NULL: there is no room. width: of the matrix, n or more. */
static inline rounded_rows round_rows(cuda_backend *c, const float *x, int64_t rows, int64_t n, int64_t stride, int64_t width) {
    const rounded_rows to = {(char *)cuda_scratch(c, (size_t)rows * rounded_rows::bytes(width)), (int)width};
    if (to.memory) {
        launch(c, "round", round_kernel, (unsigned)rows, ROUNDED_THREADS, 0, to, x, n, stride);
    }
    return to;
}

#endif
