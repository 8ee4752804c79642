/* Mixture of experts. A (row, choice) pair is a slot. A few slots: a warp an output, each slot on its own. Many: slots are sorted by expert and cut
 * into tiles of one expert's rows, so that its weights are read once a tile. */
#include "cuda/linear.cuh"
#include "cuda/rounded_tiles.cuh"
#include "cuda/route.cuh"

/* ---- routing: a warp a row ---- */

enum { ROWS_A_BLOCK = 4 };

__global__ static void route_kernel(const float *logits, int64_t rows, int experts, int used, bool normalise, int32_t *ids, float *weights) {
    const int64_t row = (int64_t)blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
    if (row < rows) { /* the same for a whole warp */
        route_row(logits + row * experts, experts, used, normalise, ids + row * used, weights + row * used);
    }
}

static void route(backend *b, const float *logits, int64_t rows, int experts, int used, bool normalise, int32_t *ids, float *weights) {
    launch(cuda_of(b), "route", route_kernel, blocks_for(rows, ROWS_A_BLOCK), ROWS_A_BLOCK * WARP, 0, logits, rows, experts, used, normalise, ids,
           weights);
}

/* ---- a stack of matrices ---- */

struct expert_weights {
    weight_rows all;
    int64_t outs; /* of each */
    __host__ __device__ weight_rows of(int64_t expert) const {
        return {all.data + expert * outs * all.stride, all.stride, all.width};
    }
};

static expert_weights experts_of(const tensor *t) {
    return {rows_of(t), t->ne[1]};
}

/* ---- few slots ---- */

/* hidden[slot, o] = silu(gate x) * up x. grid: outputs, slots. */
template <class Format>
__global__ static void few_gate_up_kernel(expert_weights gate, expert_weights up, const float *x, const int32_t *ids, int used, int64_t width,
                                          int64_t ffn, float *hidden) {
    const int64_t out = (int64_t)blockIdx.x * OUTPUTS_A_BLOCK + threadIdx.x / WARP, slot = blockIdx.y;
    if (out >= ffn) {
        return; /* a whole warp */
    }
    const int32_t expert = ids[slot];
    const plain_input input = {x + slot / used * width, width};
    float g, u;
    warp_products<Format, 1>(gate.of(expert).data + out * gate.all.stride, gate.all.width, width, input, 0, 1, &g);
    warp_products<Format, 1>(up.of(expert).data + out * up.all.stride, up.all.width, width, input, 0, 1, &u);
    if (threadIdx.x % WARP == 0) {
        hidden[slot * ffn + out] = silu(g) * u;
    }
}

/* One of the two alone, for files whose types differ. grid: outputs, slots. */
template <class Format>
__global__ static void few_expert_kernel(expert_weights w, const float *x, const int32_t *ids, int used, int64_t width, int64_t ffn, float *y) {
    const int64_t out = (int64_t)blockIdx.x * OUTPUTS_A_BLOCK + threadIdx.x / WARP, slot = blockIdx.y;
    if (out >= ffn) {
        return; /* a whole warp */
    }
    float sum;
    warp_products<Format, 1>(w.of(ids[slot]).data + out * w.all.stride, w.all.width, width, plain_input{x + slot / used * width, width}, 0, 1, &sum);
    if (threadIdx.x % WARP == 0) {
        y[slot * ffn + out] = sum;
    }
}

/* y[row, o] = sum over its slots, in order. grid: outputs, rows. */
template <class Format>
__global__ static void few_down_kernel(expert_weights down, const float *hidden, const int32_t *ids, const float *weights, int used, int64_t width,
                                       int64_t ffn, float *y) {
    const int64_t out = (int64_t)blockIdx.x * OUTPUTS_A_BLOCK + threadIdx.x / WARP, row = blockIdx.y;
    if (out >= width) {
        return; /* a whole warp */
    }
    float sum = 0;
    for (int j = 0; j < used; j++) {
        const int64_t slot = row * used + j;
        float d;
        warp_products<Format, 1>(down.of(ids[slot]).data + out * down.all.stride, down.all.width, ffn, plain_input{hidden + slot * ffn, ffn}, 0, 1,
                                 &d);
        sum += weights[slot] * d;
    }
    if (threadIdx.x % WARP == 0) {
        y[row * width + out] = sum;
    }
}

/* ---- few slots, inputs rounded ---- */

/* What a warp computes of an expert's hidden values: outputs out, out + ROUNDED_WARPS, ... , of each the gate's row and the one of up. */
template <int R> struct gate_up_rows {
    const char *gate, *up; /* the next rows to load; up NULL: gate alone */
    int64_t gate_step, up_step;
    float *hidden;
    int64_t out; /* the next one to compute */

    __device__ void point(const char *(&at)[R], int left) {
        UNROLL
        for (int r = 0; r < R; r++) {
            const bool second = up && r % 2, more = r + (up ? 2 : 1) < left;
            at[r] = second ? up : gate;
            up += second && more ? up_step : 0;
            gate += !second && more ? gate_step : 0;
        }
    }
    __device__ void done(float v, int left) {
        enum { LANES = WARP / R };
        const int lane = threadIdx.x % WARP, j = lane / LANES;
        if (up) {
            const float g = __shfl_xor_sync(0xffffffffu, v, LANES);
            v = silu(g) * v;
        }
        if (lane % LANES == 0 && j < left && (!up || j % 2)) {
            hidden[out + (up ? j / 2 : j) * ROUNDED_WARPS] = v;
        }
        out += (up ? R / 2 : R) * ROUNDED_WARPS;
    }
};

/* hidden[slot, o] = silu(gate x) * up x, or gate x alone without up. grid: outputs, slots; each: outputs of a warp. */
template <class Format, int R, int P>
__global__ static void __launch_bounds__(ROUNDED_THREADS, 2)
    rounded_gate_up_kernel(expert_weights gate, expert_weights up, const float *x, const int32_t *ids, int used, int64_t width, int64_t ffn, int each,
                           float *hidden) {
    DYNAMIC_SHARED(memory);
    const rounded_rows rounded = {memory, (int)gate.all.width};
    const int64_t slot = blockIdx.y;
    const warp_outs own = outs_of(blockIdx.x, each, ffn);
    const int count = up.all.data ? 2 * own.count : own.count;
    let_next_begin();
    wait_for_inputs();
    const int32_t expert = ids[slot];
    gate_up_rows<R> rows = {};
    rows.gate = gate.of(expert).data + own.first * gate.all.stride;
    rows.up = up.all.data ? up.of(expert).data + own.first * up.all.stride : NULL;
    rows.gate_step = ROUNDED_WARPS * gate.all.stride;
    rows.up_step = ROUNDED_WARPS * up.all.stride;
    rows.hidden = hidden + slot * ffn;
    rows.out = own.first;
    row_stream<Format, 1, R, P> stream;
    stream.begin(rows, count, gate.all.width);
    round_row(rounded, memory, x + slot / used * width, width, (int)threadIdx.x, ROUNDED_THREADS);
    __syncthreads();
    stream.run(rows, count, rounded);
}

enum { MOST_USED = 64 }; /* experts of a row, of a few slots */

/* y[row, o] = sum over its slots, or more by it with add: R slots at a time, whose chunks are loaded while those before are multiplied. grid:
 * outputs, rows; each: outputs of a warp. */
template <class Format, int R>
__global__ static void __launch_bounds__(ROUNDED_THREADS, 2)
    rounded_down_kernel(expert_weights down, const float *hidden, const int32_t *ids, const float *weights, int used, int64_t width, int64_t ffn,
                        int each, bool add, float *y) {
    DYNAMIC_SHARED(memory);
    __shared__ const char *matrices[MOST_USED + R]; /* behind the last one the first again, which counts for nothing */
    __shared__ float shares[MOST_USED];
    const rounded_rows rounded = {memory, (int)down.all.width};
    const int64_t row = blockIdx.y, step = ROUNDED_WARPS * down.all.stride;
    const warp_outs own = outs_of(blockIdx.x, each, width);
    const unsigned lane = threadIdx.x % WARP, chunks = (unsigned)rounded.width / 32, chunk = lane < chunks ? lane : chunks - 1;
    const int pieces = (int)(chunks + WARP - 1) / WARP, warp = (int)threadIdx.x / WARP;
    const typename Format::places places = Format::places_of((unsigned)rounded.width, chunk);
    let_next_begin();
    wait_for_inputs();
    for (int i = (int)threadIdx.x; i < used + R; i += ROUNDED_THREADS) {
        const int64_t slot = row * used + (i < used ? i : 0);
        matrices[i] = down.of(ids[slot]).data;
        if (i < used) {
            shares[i] = weights[slot];
        }
    }
    __syncthreads();
    /* Or another piece where this lane has no chunk. */
    const auto chunk_at = [&](int piece) { return lane + WARP * (unsigned)piece < chunks ? (unsigned)piece : 0; };
    typename Format::stored coming[R];
    int64_t ahead = own.first * down.all.stride; /* bytes to the output's row in each matrix */
    const auto load = [&](int r, int slot, int piece) { coming[r] = Format::load(matrices[slot + r] + ahead, places, chunk_at(piece)); };
    UNROLL
    for (int r = 0; own.count > 0 && r < R; r++) {
        load(r, 0, 0);
    }
    for (int slot = warp; slot < used; slot += ROUNDED_WARPS) {
        round_row(rounded, rounded.row(slot), hidden + (row * used + slot) * ffn, ffn, (int)lane, WARP);
    }
    __syncthreads();
    int64_t out = own.first;
    for (int left = own.count; left > 0; left--) {
        float total = 0;
        for (int slot = 0; slot < used; slot += R) {
            for (int piece = 0; piece < pieces; piece++) {
                const int next = piece + 1 < pieces ? piece + 1 : 0, next_slot = next ? slot : slot + R < used ? slot + R : 0;
                const bool new_row = next == 0 && next_slot == 0, more = !new_row || left > 1;
                ahead += new_row ? step : 0;
                UNROLL
                for (int r = 0; r < R; r++) {
                    const segment_pair w = Format::unpack(coming[r], chunk);
                    if (more) {
                        load(r, next_slot, next);
                    }
                    const bool counts = slot + r < used && lane + WARP * (unsigned)piece < chunks;
                    const int from = slot + r < used ? slot + r : 0;
                    const float product = chunk_product<Format>(w, input_of<Format>(rounded, rounded.row(from), chunk, chunk_at(piece)));
                    total += counts ? shares[from] * product : 0;
                }
            }
        }
        const float v = warp_sum(total);
        if (lane == 0) {
            y[row * width + out] = add ? y[row * width + out] + v : v;
        }
        out += ROUNDED_WARPS;
    }
}

/* ---- many slots ---- */

/* A tile: slots order[begin, begin + count) of one expert. */
struct tile {
    int32_t expert, begin, count;
};

enum { SORT_THREADS = 1024 };

/* One block: order[slots] by expert, in any order within one (no slot's result depends on it), and their tiles, of which the rest of `most` are
 * empty. SORT_THREADS experts at a time: their slots are counted, then placed. */
__global__ static void sort_kernel(const int32_t *ids, int64_t slots, int64_t experts, int32_t *order, tile *tiles, int64_t most) {
    __shared__ int32_t count[SORT_THREADS], slots_before[SORT_THREADS + 1], tiles_before[SORT_THREADS + 1];
    const int thread = (int)threadIdx.x;
    int32_t first_slot = 0, first_tile = 0;
    for (int64_t from = 0; from < experts; from += SORT_THREADS) {
        const int n = experts - from < SORT_THREADS ? (int)(experts - from) : (int)SORT_THREADS;
        count[thread] = 0;
        __syncthreads();
        for (int64_t s = thread; s < slots; s += SORT_THREADS) {
            if (ids[s] >= from && ids[s] < from + n) {
                atomicAdd(&count[ids[s] - from], 1);
            }
        }
        __syncthreads();
        if (thread == 0) {
            slots_before[0] = first_slot;
            tiles_before[0] = first_tile;
            for (int i = 0; i < n; i++) {
                slots_before[i + 1] = slots_before[i] + count[i];
                tiles_before[i + 1] = tiles_before[i] + (count[i] + TILE - 1) / TILE;
            }
        }
        __syncthreads();
        const int32_t own = count[thread];
        for (int32_t t = 0; t * TILE < own; t++) {
            tiles[tiles_before[thread] + t] =
                tile{(int32_t)(from + thread), slots_before[thread] + t * TILE, own - t * TILE < TILE ? own - t * TILE : (int32_t)TILE};
        }
        first_slot = slots_before[n];
        first_tile = tiles_before[n];
        __syncthreads();
        for (int64_t s = thread; s < slots; s += SORT_THREADS) {
            if (ids[s] >= from && ids[s] < from + n) {
                order[atomicAdd(&slots_before[ids[s] - from], 1)] = (int32_t)s;
            }
        }
        __syncthreads();
    }
    for (int64_t t = first_tile + thread; t < most; t += SORT_THREADS) {
        tiles[t] = tile{0, 0, 0};
    }
}

/* Row r of a tile is x[order[begin + r] / divisor]. */
struct sorted_input {
    const float *x;
    const int32_t *order;
    int64_t width;
    int divisor;
    __device__ float operator()(int64_t row, int64_t i) const {
        return x[order[row] / divisor * width + i];
    }
};

/* hidden by slot. grid: outputs, tiles. */
template <class Format>
__global__ static void many_gate_up_kernel(expert_weights gate, expert_weights up, const float *x, const int32_t *order, const tile *tiles, int used,
                                           int64_t width, int64_t ffn, float *hidden) {
    const tile t = tiles[blockIdx.y];
    if (t.count == 0) {
        return;
    }
    const int64_t first_out = (int64_t)blockIdx.x * TILE;
    const sorted_input input = {x, order, width, used};
    float g[4][4], u[4][4];
    tile_products<Format>(gate.of(t.expert), first_out, ffn - first_out, width, input, t.begin, t.count, g);
    tile_products<Format>(up.of(t.expert), first_out, ffn - first_out, width, input, t.begin, t.count, u);
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            const int64_t out = first_out + threadIdx.x % 16 * 4 + b;
            const int row = (int)threadIdx.x / 16 * 4 + a;
            if (row < t.count && out < ffn) {
                hidden[(int64_t)order[t.begin + row] * ffn + out] = silu(g[a][b]) * u[a][b];
            }
        }
    }
}

/* out[slot, outs] = x[slot / divisor] times its expert: down, not yet weighed, or one of the other two where their types differ. */
template <class Format>
__global__ static void many_expert_kernel(expert_weights w, const float *x, const int32_t *order, const tile *tiles, int divisor, int64_t n,
                                          int64_t outs, float *y) {
    const tile t = tiles[blockIdx.y];
    if (t.count == 0) {
        return;
    }
    const int64_t first_out = (int64_t)blockIdx.x * TILE;
    float sum[4][4];
    tile_products<Format>(w.of(t.expert), first_out, outs - first_out, n, sorted_input{x, order, n, divisor}, t.begin, t.count, sum);
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            const int64_t o = first_out + threadIdx.x % 16 * 4 + b;
            const int row = (int)threadIdx.x / 16 * 4 + a;
            if (row < t.count && o < outs) {
                y[(int64_t)order[t.begin + row] * outs + o] = sum[a][b];
            }
        }
    }
}

/* y[slot, out] of one expert's slots, whose inputs are rounded rows slot / divisor. */
struct expert_place {
    expert_weights w;
    const int32_t *order;
    const tile *tiles;
    int divisor;
    int64_t outs;
    float *y;
    __device__ tile_rows open() const {
        const tile t = tiles[blockIdx.y];
        return {w.of(t.expert), t.begin, t.count};
    }
    __device__ int64_t source(int64_t row) const {
        return order[row] / divisor;
    }
    __device__ void store(int64_t row, int64_t out, float v) const {
        y[order[row] * outs + out] = v;
    }
};

__global__ static void combine_kernel(const float *out, const float *weights, int64_t values, int used, int64_t width, float *y) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < values) {
        const int64_t row = i / width;
        float sum = 0;
        for (int j = 0; j < used; j++) {
            sum += weights[row * used + j] * out[(row * used + j) * width + i % width];
        }
        y[i] = sum;
    }
}

/* ---- the operation ---- */

enum { FEW_SLOTS = 256, MOST_GRID = 65535 };

static int64_t most_tiles(int64_t slots, int64_t experts) {
    const int64_t with_part = slots < experts ? slots : experts; /* experts whose last tile may be partly empty */
    return slots / TILE + with_part;
}

/* Scratch: hidden, other (up alone, or what the experts gave), order, tiles (as many as there can be with any number of experts). */
static size_t moe_scratch(backend *b, int64_t rows, int used, int64_t width, int64_t ffn) {
    const int64_t slots = rows * used, other = width > ffn ? width : ffn;
    return (size_t)(slots * (ffn + other) + slots + 3 * (slots / TILE + slots + 1) + 64);
}

struct moe_call {
    cuda_backend *c;
    const tensor *gate, *up, *down;
    const float *x, *weights;
    const int32_t *ids;
    int64_t rows, slots, width, ffn;
    int used;
    bool few;
    float *hidden, *other, *y;
    int32_t *order;
    tile *tiles;

    dim3 grid(int64_t outs) const {
        return few ? dim3(blocks_for(outs, OUTPUTS_A_BLOCK), (unsigned)slots)
                   : dim3(blocks_for(outs, TILE), (unsigned)most_tiles(slots, gate->ne[2]));
    }

    void combine() const {
        launch(c, "moe_combine", combine_kernel, blocks_for(rows * width, TILE_THREADS), TILE_THREADS, 0, other, weights, rows * width, used, width,
               y);
    }

    template <class Format> void gate_up() const {
        if (few) {
            launch(c, "moe_gate_up", few_gate_up_kernel<Format>, grid(ffn), OUTPUTS_A_BLOCK * WARP, 0, experts_of(gate), experts_of(up), x, ids, used,
                   width, ffn, hidden);
        } else {
            launch(c, "moe_gate_up", many_gate_up_kernel<Format>, grid(ffn), TILE_THREADS, 0, experts_of(gate), experts_of(up), x, order, tiles, used,
                   width, ffn, hidden);
        }
    }

    template <class Format> void one_of_two(const tensor *w, float *to) const {
        if (few) {
            launch(c, "moe_expert", few_expert_kernel<Format>, grid(ffn), OUTPUTS_A_BLOCK * WARP, 0, experts_of(w), x, ids, used, width, ffn, to);
        } else {
            launch(c, "moe_expert", many_expert_kernel<Format>, grid(ffn), TILE_THREADS, 0, experts_of(w), x, order, tiles, used, width, ffn, to);
        }
    }

    template <class Format> void down_and_sum() const {
        if (few) {
            launch(c, "moe_down", few_down_kernel<Format>, dim3(blocks_for(width, OUTPUTS_A_BLOCK), (unsigned)rows), OUTPUTS_A_BLOCK * WARP, 0,
                   experts_of(down), hidden, ids, weights, used, width, ffn, y);
        } else {
            launch(c, "moe_down", many_expert_kernel<Format>, grid(width), TILE_THREADS, 0, experts_of(down), hidden, order, tiles, 1, ffn, width,
                   other);
            combine();
        }
    }
};

/* The same steps over rounded inputs, for a few slots. */
struct rounded_gate_up_call {
    const moe_call *m;
    const tensor *gate, *up; /* up: NULL for gate alone */
    float *to;
    template <class Format> void run() const {
        const expert_weights second = up ? experts_of(up) : expert_weights{};
        const int each = outputs_a_warp(m->c, m->ffn, m->slots);
        const int64_t stored = rows_of(gate).width;
        launch_chained(m->c, "moe_gate_up",
                       stored > SHORT_WIDTH           ? rounded_gate_up_kernel<Format, 2, 2>
                       : each * (up ? 2 : 1) % 4 == 0 ? rounded_gate_up_kernel<Format, 4, 1>
                                                      : rounded_gate_up_kernel<Format, 2, 1>,
                       dim3(blocks_for(m->ffn, ROUNDED_WARPS * each), (unsigned)m->slots), ROUNDED_THREADS, rounded_rows::bytes(stored),
                       experts_of(gate), second, m->x, m->ids, m->used, m->width, m->ffn, each, to);
    }
};

struct rounded_down_call {
    const moe_call *m;
    bool add;
    template <class Format> void run() const {
        const int each = outputs_a_warp(m->c, m->width, m->rows);
        const int64_t stored = rows_of(m->down).width;
        launch_chained(m->c, "moe_down", m->used % 4 == 0 || m->used % 4 == 3 ? rounded_down_kernel<Format, 4> : rounded_down_kernel<Format, 2>,
                       dim3(blocks_for(m->width, ROUNDED_WARPS * each), (unsigned)m->rows), ROUNDED_THREADS,
                       (size_t)m->used * rounded_rows::bytes(stored), experts_of(m->down), m->hidden, m->ids, m->weights, m->used, m->width, m->ffn,
                       each, add, m->y);
    }
};

struct gate_up_call {
    const moe_call *m;
    template <class Format> void run() const {
        m->gate_up<Format>();
    }
};

struct one_of_two_call {
    const moe_call *m;
    const tensor *w;
    float *to;
    template <class Format> void run() const {
        m->one_of_two<Format>(w, to);
    }
};

struct down_call {
    const moe_call *m;
    template <class Format> void run() const {
        m->down_and_sum<Format>();
    }
};

struct expert_tiles_call {
    const moe_call *m;
    rounded_rows x;
    expert_place place;
    template <class Format> void run() const {
        launch(m->c, "moe_tiles", rounded_tiles_kernel<Format, expert_place>,
               dim3(blocks_for(place.outs, TILE_OUTS), (unsigned)most_tiles(m->slots, m->gate->ne[2])), ROUNDED_THREADS, 0, x, place.outs, place);
    }
};

/* to[slot, outs of w] from rounded rows. */
static void expert_tiles(const moe_call *m, const tensor *w, rounded_rows x, int divisor, float *to) {
    if (x.memory) {
        with_rounded(w->type, expert_tiles_call{m, x, expert_place{experts_of(w), m->order, m->tiles, divisor, w->ne[1], to}});
    }
}

/* to[slot] = x times its expert's part of w alone. */
static void expert_matrix(const moe_call *m, const tensor *w, bool round, float *to) {
    if (!round || !with_rounded(w->type, rounded_gate_up_call{m, w, NULL, to})) {
        with_format(w->type, one_of_two_call{m, w, to});
    }
}

/* What the rows [at, at + count) of a mixture need; scratch as of moe_scratch. */
static moe_call call_of(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *x, int64_t at, int64_t count,
                        const int32_t *ids, const float *weights, int used, float *scratch, float *y) {
    moe_call m = {};
    m.c = cuda_of(b);
    m.gate = gate;
    m.up = up;
    m.down = down;
    m.width = gate->ne[0];
    m.ffn = gate->ne[1];
    m.x = x + at * m.width;
    m.rows = count;
    m.slots = count * used;
    m.few = m.slots <= FEW_SLOTS;
    m.ids = ids + at * used;
    m.weights = weights + at * used;
    m.used = used;
    m.hidden = scratch;
    m.other = m.hidden + m.slots * m.ffn;
    m.order = (int32_t *)(void *)(m.other + m.slots * (m.width > m.ffn ? m.width : m.ffn));
    m.tiles = (tile *)(void *)(m.order + m.slots);
    m.y = y + at * m.width;
    return m;
}

static bool inputs_fit(const moe_call *m) {
    return m->few && rounded_rows::bytes(rows_of(m->gate).width) <= MOST_ROUNDED_BYTES;
}

static bool hidden_fits(const moe_call *m) {
    return m->few && m->used <= MOST_USED && (size_t)m->used * rounded_rows::bytes(rows_of(m->down).width) <= MOST_ROUNDED_BYTES;
}

static void gate_and_up(backend *b, const moe_call *m) {
    if (!m->few && is_rounded(m->gate->type) && is_rounded(m->up->type)) {
        const rounded_rows x = round_rows(m->c, m->x, m->rows, m->width, m->width, rows_of(m->gate).width);
        expert_tiles(m, m->gate, x, m->used, m->hidden);
        expert_tiles(m, m->up, x, m->used, m->other);
        b->ops->silu_mul(b, m->hidden, m->other, m->slots * m->ffn, m->hidden);
    } else if (m->gate->type != m->up->type) {
        expert_matrix(m, m->gate, inputs_fit(m), m->hidden);
        expert_matrix(m, m->up, inputs_fit(m), m->other);
        b->ops->silu_mul(b, m->hidden, m->other, m->slots * m->ffn, m->hidden);
    } else if (!inputs_fit(m) || !with_rounded(m->gate->type, rounded_gate_up_call{m, m->gate, m->up, m->hidden})) {
        with_format(m->gate->type, gate_up_call{m});
    }
}

static void moe(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *x, int64_t rows, const int32_t *ids,
                const float *weights, int used, float *scratch, float *y) {
    const int64_t experts = gate->ne[2], most = MOST_GRID / 2 / used > 0 ? MOST_GRID / 2 / used : 1; /* rows of one launch */
    for (int64_t at = 0; at < rows; at += most) {
        const moe_call m = call_of(b, gate, up, down, x, at, rows - at < most ? rows - at : most, ids, weights, used, scratch, y);
        if (!m.few) {
            launch(m.c, "moe_sort", sort_kernel, 1, SORT_THREADS, 0, m.ids, m.slots, experts, m.order, m.tiles, most_tiles(m.slots, experts));
        }
        gate_and_up(b, &m);
        if (!m.few && is_rounded(down->type)) {
            expert_tiles(&m, down, round_rows(m.c, m.hidden, m.slots, m.ffn, m.ffn, rows_of(down).width), 1, m.other);
            m.combine();
        } else if (!hidden_fits(&m) || !with_rounded(down->type, rounded_down_call{&m, false})) {
            with_format(down->type, down_call{&m});
        }
    }
}

bool cuda_moe_add(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *n, int64_t rows, const int32_t *ids,
                  const float *weights, int used, float *scratch, float *x) {
    const moe_call m = call_of(b, gate, up, down, n, 0, rows, ids, weights, used, scratch, x);
    if (rows == 0 || !hidden_fits(&m) || !is_rounded(down->type)) {
        return false;
    }
    gate_and_up(b, &m);
    return with_rounded(down->type, rounded_down_call{&m, true});
}

void cuda_moe_ops(ops *o) {
    o->route = route;
    o->moe = moe;
    o->moe_scratch = moe_scratch;
}
