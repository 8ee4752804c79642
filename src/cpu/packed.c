/* Packed weights: which matrices are packed, packing on all threads, and linear maps over them. */
#define _GNU_SOURCE
#include "cpu/packed.h"

#include <string.h>
#include <sys/mman.h>

#include "cpu/backend.h"
#include "cpu/linear.h"

/* Each expert has groups of its own. Fewer outputs than half a group are not worth the padding. Single rows are looked up where they are, and
 * convolutions unpack blocks by themselves. */
static size_t cpu_packed_size(backend *b, weight_use use, const tensor *t) {
    packed_format f = packed_format_of(t->type);
    if (t->packed || use == WEIGHT_TABLE || (use == WEIGHT_CONVOLUTION && !packed_floats(t->type)) || cpu_of(b)->keep_rows || t->ne[3] != 1 ||
        t->ne[1] < PACK / 2) {
        return 0;
    }
    if (!packed_floats(t->type) &&
        (!f.blocks || !cpu_of(b)->k.packed[t->type] || t->ne[0] % (f.blocks * PACK_BLOCK) != 0 || t->ne[0] > (int64_t)CPU_INPUTS * PACK_BLOCK)) {
        return 0;
    }
    return (size_t)t->ne[2] * packed_bytes(t->type, t->ne[0], t->ne[1]);
}

typedef struct pack_job {
    const tensor *t;
    uint8_t *to;
    int64_t first, groups; /* groups of all experts */
    size_t row_bytes, group_bytes;
} pack_job;

/* Outputs up to the end of group g, counted over all experts. */
static int64_t outputs_before(const pack_job *j, int64_t g) {
    return g / j->groups * j->t->ne[1] + g % j->groups * PACK;
}

static void pack_groups(void *arg, int64_t begin, int64_t end, int thread) {
    pack_job *j = arg;
    for (int64_t g = j->first + begin; g < j->first + end; g++) {
        int64_t from = outputs_before(j, g), outs = outputs_before(j, g + 1) - from;
        packed_pack(j->t->type, (const char *)j->t->data + (size_t)from * j->row_bytes, (int)outs, j->t->ne[0], j->to + (size_t)g * j->group_bytes);
    }
}

/* Fewer pages to look up while weights stream by. Only whole huge pages are asked for, so that memory does not grow; a system that has
 * none to give leaves things as they are. */
static void use_huge_pages(void *memory, size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 2 << 20, begin = ((uintptr_t)memory + page - 1) / page * page, end = ((uintptr_t)memory + size) / page * page;
    if (begin < end) {
        madvise((void *)begin, end - begin, MADV_HUGEPAGE);
    }
#endif
}

static void cpu_pack(backend *b, weight_use use, tensor *t, void *memory, void (*done)(void *arg, size_t begin, size_t end), void *arg) {
    enum { STEP = 8 << 20 }; /* bytes between two reports */
    const cpu_backend *c = cpu_of(b);
    use_huge_pages(memory, cpu_packed_size(b, use, t));
    pack_job j = {.t = t, .to = memory, .groups = (t->ne[1] + PACK - 1) / PACK};
    j.row_bytes = dtype_row_bytes(t->type, t->ne[0]);
    j.group_bytes = packed_group_bytes(t->type, t->ne[0]);
    int64_t all = j.groups * t->ne[2], step = STEP / (int64_t)j.group_bytes + 1;
    for (; j.first < all; j.first += step) {
        int64_t n = all - j.first < step ? all - j.first : step;
        pool_for(c->pool, n, 4, pack_groups, &j);
        if (done) {
            done(arg, (size_t)outputs_before(&j, j.first) * j.row_bytes, (size_t)outputs_before(&j, j.first + n) * j.row_bytes);
        }
    }
    t->size = (size_t)all * j.group_bytes;
    t->data = memory;
    t->packed = true;
}

/* Rows of a dilated convolution lie in the order of its phases: rows 0, d, 2 d, ..., then 1, d + 1, ... So a window over them is one range.
 * The first of a phase, of `rows` in all. */
static int64_t phase_first(int64_t rows, int64_t phases, int64_t phase) {
    const int64_t longer = rows % phases;
    return phase * (rows / phases) + (phase < longer ? phase : longer);
}

typedef struct quantise_job {
    const cpu_backend *c;
    const float *x;
    int64_t rows, x_stride, width, phases;
    packed_input *y;
} quantise_job;

static void quantise_rows(void *arg, int64_t begin, int64_t end, int thread) {
    quantise_job *j = arg;
    const int64_t whole = j->width / PACK_BLOCK * PACK_BLOCK, rest = j->width - whole, blocks = packed_blocks(j->width);
    for (int64_t r = begin; r < end; r++) {
        const float *x = j->x + r * j->x_stride;
        packed_input *y = j->y + (j->phases == 1 ? r : phase_first(j->rows, j->phases, r % j->phases) + r / j->phases) * blocks;
        j->c->k.quantise(x, whole, y);
        if (rest) {
            float last[PACK_BLOCK] = {0};
            memcpy(last, x + whole, (size_t)rest * sizeof *last);
            j->c->k.quantise(last, PACK_BLOCK, y + blocks - 1);
        }
    }
}

static void quantise_phases(const cpu_backend *c, const float *x, int64_t rows, int64_t x_stride, int64_t width, int64_t phases, packed_input *y) {
    quantise_job j = {c, x, rows, x_stride, width, phases, y};
    pool_for(c->pool, rows, cpu_grain(width), quantise_rows, &j);
}

void cpu_quantise(const cpu_backend *c, const float *x, int64_t rows, int64_t x_stride, int64_t width, packed_input *y) {
    quantise_phases(c, x, rows, x_stride, width, 1, y);
}

typedef struct packed_job {
    const cpu_backend *c;
    dtype type;
    packed_piece p;
    int64_t rows, outs, row_tile, out_tile, row_tiles;
} packed_job;

/* Row tiles run fastest, so that a tile's weights are still near when the next rows want them. */
static void packed_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    packed_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = t % j->row_tiles * j->row_tile, out = t / j->row_tiles * j->out_tile;
        int64_t rows = j->rows - row < j->row_tile ? j->rows - row : j->row_tile;
        int64_t outs = j->outs - out < j->out_tile ? j->outs - out : j->out_tile;
        packed_piece p = j->p;
        packed_move(&p, row, out);
        cpu_packed_kernel(j->c, j->type, rows)(&p, rows, outs);
    }
}

int64_t packed_out_tile(const cpu_backend *c, dtype type, int64_t n, int64_t rows) {
    /* A kernel for many rows lays them out anew for each tile. */
    const int64_t least = cpu_packed_kernel(c, type, rows) == c->k.packed[type] ? 32 : 256;
    int64_t tile = 262144 / (n * rows < 1 ? 1 : n * rows) / 32 * 32;
    return tile < least ? least : tile > 2048 ? 2048 : tile;
}

void packed_linear(const cpu_backend *c, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y,
                   int64_t y_stride) {
    enum { ROW_TILE = 64, OUT_TILE = 128 };
    int64_t blocks = packed_blocks(w->ne[0]), n = blocks * PACK_BLOCK, most = CPU_INPUTS / (blocks < 1 ? 1 : blocks);
    packed_job j = {.c = c, .type = w->type, .outs = w->ne[1]};
    for (int64_t row = 0; row < rows; row += most) {
        j.rows = rows - row < most ? rows - row : most;
        j.row_tile = j.rows < ROW_TILE ? j.rows : ROW_TILE;
        j.row_tiles = (j.rows + j.row_tile - 1) / j.row_tile;
        /* Many rows: their inputs come from afar, and every group of outputs goes over them again while they are near. */
        const bool many = j.row_tiles * (j.outs / OUT_TILE) >= 4 * pool_threads(c->pool);
        const int64_t tile = packed_out_tile(c, w->type, n, j.row_tile);
        j.out_tile = many && tile < OUT_TILE ? OUT_TILE : tile;
        j.p = (packed_piece){
            .w = w->data,
            .w_stride = packed_group_bytes(w->type, n),
            .bias = bias,
            .x = c->inputs,
            .x_stride = blocks,
            .y = y + row * y_stride,
            .y_stride = y_stride,
            .n = n,
        };
        cpu_quantise(c, x + row * x_stride, j.rows, x_stride, w->ne[0], c->inputs);
        pool_for(c->pool, (j.outs + j.out_tile - 1) / j.out_tile * j.row_tiles, 1, packed_tiles, &j);
    }
}

typedef struct packed_conv_job {
    packed_job each; /* of a phase; rows: of all phases */
    int64_t inputs, phases;
} packed_conv_job;

/* Row tiles run fastest, then phases. */
static void packed_conv_tiles(void *arg, int64_t begin, int64_t end, int thread) {
    packed_conv_job *j = arg;
    const packed_job *e = &j->each;
    for (int64_t t = begin; t < end; t++) {
        const int64_t phase = t / e->row_tiles % j->phases, row = t % e->row_tiles * e->row_tile, out = t / e->row_tiles / j->phases * e->out_tile;
        const int64_t left = (e->rows - phase + j->phases - 1) / j->phases - row, outs = e->outs - out < e->out_tile ? e->outs - out : e->out_tile;
        if (left > 0) {
            packed_piece p = e->p;
            p.x += phase_first(j->inputs, j->phases, phase) * p.x_stride;
            p.y += phase * (p.y_stride / j->phases);
            packed_move(&p, row, out);
            const int64_t rows = left < e->row_tile ? left : e->row_tile;
            cpu_packed_kernel(e->c, e->type, rows)(&p, rows, outs);
        }
    }
}

void packed_conv1d(const cpu_backend *c, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y) {
    enum { ROW_TILE = 64 };
    const int64_t channels = w->ne[0], kernel = w->ne[1], outs = w->ne[2], past = (kernel - 1) * dilation;
    const int64_t blocks = packed_blocks(channels), n = kernel * blocks * PACK_BLOCK, most = CPU_INPUTS / blocks - past;
    for (int64_t row = 0; row < rows; row += most) {
        packed_conv_job j = {.each = {.c = c, .type = w->type, .outs = outs}, .phases = dilation};
        packed_job *e = &j.each;
        e->rows = rows - row < most ? rows - row : most;
        j.inputs = e->rows + past;
        const int64_t longest = (e->rows + dilation - 1) / dilation;
        e->row_tile = longest < ROW_TILE ? longest : ROW_TILE;
        e->row_tiles = (longest + e->row_tile - 1) / e->row_tile;
        e->out_tile = packed_out_tile(c, w->type, n, e->row_tile);
        e->p = (packed_piece){
            .w = w->data,
            .w_stride = packed_group_bytes(w->type, n),
            .bias = bias,
            .x = c->inputs,
            .x_stride = blocks,
            .y = y + row * outs,
            .y_stride = dilation * outs,
            .n = n,
        };
        quantise_phases(c, x + row * channels, j.inputs, channels, channels, dilation, c->inputs);
        pool_for(c->pool, (outs + e->out_tile - 1) / e->out_tile * dilation * e->row_tiles, 1, packed_conv_tiles, &j);
    }
}

void cpu_packed_ops(ops *o) {
    o->packed_size = cpu_packed_size;
    o->pack = cpu_pack;
}
