/* Embeddings and linear maps: how they are cut into pieces for the pool. */
#include <math.h>
#include <string.h>

#include "cpu/backend.h"
#include "cpu/linear.h"

/* ---- embeddings ---- */

typedef struct embed_job {
    const cpu_backend *c;
    const tensor *table;
    const int32_t *ids;
    int64_t n, step;
    float scale;
    float *y;
} embed_job;

static void embed_rows(void *arg, int64_t begin, int64_t end, int thread) {
    embed_job *j = arg;
    int64_t width = j->table->ne[0];
    for (int64_t r = begin; r < end; r++) {
        float *y = j->y + r * width;
        if (j->ids[r] >= 0) {
            j->c->k.to_f32[j->table->type](tensor_row(j->table, j->ids[r]), y, width);
            continue;
        }
        for (int64_t i = 0; i < width; i++) {
            y[i] = NAN;
        }
    }
}

static void cpu_embed(backend *b, const tensor *table, const int32_t *ids, int64_t rows, float *y) {
    embed_job j = {.c = cpu_of(b), .table = table, .ids = ids, .y = y};
    pool_for(j.c->pool, rows, cpu_grain(table->ne[0]), embed_rows, &j);
}

/* Works through the width in tiles, so that any width fits the scratch. */
static void embed_sum_rows(void *arg, int64_t begin, int64_t end, int thread) {
    enum { TILE = 4096 };
    embed_job *j = arg;
    float *row = cpu_scratch(j->c, thread);
    int64_t width = j->table->ne[0];
    for (int64_t r = begin; r < end; r++) {
        for (int64_t at = 0; at < width; at += TILE) {
            int64_t n = width - at < TILE ? width - at : TILE;
            float *y = j->y + r * width + at;
            memset(y, 0, (size_t)n * sizeof *y);
            for (int64_t i = 0; i < j->n; i++) {
                const char *from = tensor_row(j->table, j->ids[r * j->n + i] + i * j->step);
                j->c->k.to_f32[j->table->type](from + dtype_row_bytes(j->table->type, at), row, n);
                j->c->k.add(row, n, y);
            }
            for (int64_t i = 0; i < n; i++) {
                y[i] *= j->scale;
            }
        }
    }
}

static void cpu_embed_sum(backend *b, const tensor *table, const int32_t *ids, int64_t rows, int64_t n, int64_t step, float scale, float *y) {
    embed_job j = {.c = cpu_of(b), .table = table, .ids = ids, .n = n, .step = step, .scale = scale, .y = y};
    pool_for(j.c->pool, rows, cpu_grain(table->ne[0] * n), embed_sum_rows, &j);
}

/* ---- linear maps ---- */

typedef struct linear_job {
    const cpu_backend *c;
    dtype type;
    linear_piece p;
    int64_t rows, outs;
    int64_t row_tile, out_tile;
} linear_job;

static void linear_tile(void *arg, int64_t begin, int64_t end, int thread) {
    linear_job *j = arg;
    int64_t out_tiles = (j->outs + j->out_tile - 1) / j->out_tile;
    for (int64_t t = begin; t < end; t++) {
        int64_t row = t / out_tiles * j->row_tile, out = t % out_tiles * j->out_tile;
        int64_t rows = j->rows - row < j->row_tile ? j->rows - row : j->row_tile;
        int64_t outs = j->outs - out < j->out_tile ? j->outs - out : j->out_tile;
        linear_piece p = j->p;
        linear_move(&p, row, out);
        linear_run(j->c, j->type, &p, rows, outs, thread);
    }
}

/* For a type without a kernel of its own and rows too long for the scratch: added up in spans whose length depends on nothing else. */
static void linear_spans(const cpu_backend *c, dtype type, const linear_piece *p, int64_t rows, int64_t outs, int thread) {
    enum { SPAN = 65536, ROWS = 64 };
    float *w = cpu_scratch(c, thread), part[ROWS];
    for (int64_t o = 0; o < outs; o++) {
        for (int64_t r = 0; r < rows; r += ROWS) {
            int64_t m = rows - r < ROWS ? rows - r : ROWS;
            linear_piece out = *p;
            linear_move(&out, r, o);
            for (int64_t i = 0; i < m; i++) {
                out.y[i * out.y_stride] = out.bias ? *out.bias : 0;
            }
            for (int64_t s = 0; s < p->segments; s++) {
                for (int64_t at = 0; at < p->n; at += SPAN) {
                    int64_t n = p->n - at < SPAN ? p->n - at : SPAN;
                    c->k.to_f32[type]((const char *)out.w + dtype_row_bytes(type, s * p->n + at), w, n);
                    linear_piece q = {.w = w, .x = out.x + s * p->x_segment + at, .x_stride = p->x_stride, .index = out.index, .y = part};
                    q.y_stride = q.segments = 1;
                    q.n = n;
                    c->k.linear[DTYPE_F32](&q, m, 1);
                    for (int64_t i = 0; i < m; i++) {
                        out.y[i * out.y_stride] += part[i];
                    }
                }
            }
        }
    }
}

void linear_run(const cpu_backend *c, dtype type, const linear_piece *p, int64_t rows, int64_t outs, int thread) {
    if (p->packed) {
        c->k.gemm[type](p, rows, outs, cpu_scratch(c, thread));
        return;
    }
    int64_t n = p->n * p->segments;
    int64_t fit = (int64_t)(CPU_SCRATCH / 2 / sizeof(float)) / (n < 1 ? 1 : n);
    linear_kernel own = c->k.linear[type];
    int convert_from = c->k.convert_rows[type];
    if (own && (convert_from == 0 || rows < convert_from || fit < 4)) {
        own(p, rows, outs);
        return;
    }
    if (fit < 1) {
        linear_spans(c, type, p, rows, outs, thread);
        return;
    }
    float *w = cpu_scratch(c, thread);
    int64_t step = fit < 4 ? 1 : fit < 16 ? 4 : 16;
    for (int64_t o = 0; o < outs; o += step) {
        int64_t m = outs - o < step ? outs - o : step;
        linear_piece q = *p;
        linear_move(&q, 0, o);
        for (int64_t i = 0; i < m; i++) {
            c->k.to_f32[type]((const char *)q.w + (size_t)i * q.w_stride, w + i * n, n);
        }
        q.w = w;
        q.w_stride = (size_t)n * sizeof *w;
        c->k.linear[DTYPE_F32](&q, rows, m);
    }
}

void linear_parallel(const cpu_backend *c, dtype type, const linear_piece *p, int64_t rows, int64_t outs) {
    if (rows <= 0 || outs <= 0) {
        return;
    }
    linear_job j = {.c = c, .type = type, .p = *p, .rows = rows, .outs = outs};
    const int64_t n = p->n * p->segments, most = p->packed ? GEMM_ROWS : 64;
    j.row_tile = rows < most ? rows : most;
    /* Outputs a tile: enough work to be worth handing out, a multiple of a cache line of results. With many rows the kernel for packed
     * weights turns them for all outputs of a tile. */
    if (p->packed) {
        j.out_tile = packed_out_tile(c, type, n, j.row_tile);
        j.out_tile = rows >= GEMM_ROWS / 2 && j.out_tile < 256 ? 256 : j.out_tile;
    } else {
        const int64_t out = (65536 / (n * j.row_tile < 1 ? 1 : n * j.row_tile) + 15) / 16 * 16;
        j.out_tile = out < 16 ? 16 : out;
    }
    int64_t tiles = ((rows + j.row_tile - 1) / j.row_tile) * ((outs + j.out_tile - 1) / j.out_tile);
    pool_for(c->pool, tiles, 1, linear_tile, &j);
}

static void cpu_linear(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride) {
    const input_collector *seen = cpu_of(b)->collector;
    if (seen) {
        seen->collect(seen->arg, w, x, rows, x_stride, 1, NULL, NULL);
    }
    if (w->packed && !packed_floats(w->type)) {
        packed_linear(cpu_of(b), w, bias, x, rows, x_stride, y, y_stride);
        return;
    }
    linear_piece p = linear_of(w, w->ne[0]);
    p.bias = bias;
    p.x = x;
    p.x_stride = x_stride;
    p.y = y;
    p.y_stride = y_stride;
    linear_parallel(cpu_of(b), w->type, &p, rows, tensor_rows(w));
}

static void cpu_conv1d(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y) {
    if (w->packed && !packed_floats(w->type)) {
        packed_conv1d(cpu_of(b), w, bias, x, rows, dilation, y);
        return;
    }
    int64_t channels = w->ne[0], kernel = w->ne[1], outs = w->ne[2];
    linear_piece p = linear_of(w, channels * kernel);
    p.bias = bias;
    p.x = x;
    p.x_stride = channels;
    p.y = y;
    p.y_stride = outs;
    if (dilation > 1) {
        p.n = channels;
        p.segments = kernel;
        p.x_segment = dilation * channels;
    }
    linear_parallel(cpu_of(b), w->type, &p, rows, outs);
}

void cpu_linear_ops(ops *o) {
    o->embed = cpu_embed;
    o->embed_sum = cpu_embed_sum;
    o->linear = cpu_linear;
    o->conv1d = cpu_conv1d;
}
