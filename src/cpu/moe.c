/* Mixture of experts. The (row, choice) pairs, called slots, are sorted by expert, so that an expert's weights are read once for all
 * its rows; a slot's result does not depend on that grouping, and a row adds its slots in the order of choice. */
#include <math.h>
#include <string.h>

#include "cpu/backend.h"
#include "cpu/linear.h"

typedef struct route_job {
    const float *logits;
    int experts, used;
    bool normalise;
    int32_t *ids;
    float *weights;
} route_job;

static void route_rows(void *arg, int64_t begin, int64_t end, int thread) {
    route_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        const float *x = j->logits + r * j->experts;
        int32_t *ids = j->ids + r * j->used;
        float *weights = j->weights + r * j->used;
        float max = x[0];
        for (int e = 1; e < j->experts; e++) {
            max = x[e] > max ? x[e] : max;
        }
        float total = 0;
        for (int e = 0; e < j->experts; e++) {
            total += expf(x[e] - max);
        }
        /* Insertion into a list sorted by falling logit; an equal one goes behind. */
        int n = 0;
        for (int e = 0; e < j->experts; e++) {
            if (n == j->used && !(x[e] > x[ids[n - 1]])) {
                continue;
            }
            int at = n < j->used ? n++ : n - 1;
            while (at > 0 && x[e] > x[ids[at - 1]]) {
                ids[at] = ids[at - 1];
                at--;
            }
            ids[at] = e;
        }
        float sum = 0;
        for (int i = 0; i < n; i++) {
            weights[i] = expf(x[ids[i]] - max) / total;
            sum += weights[i];
        }
        for (int i = 0; j->normalise && i < n; i++) {
            weights[i] /= sum;
        }
    }
}

static void cpu_route(backend *b, const float *logits, int64_t rows, int experts, int used, bool normalise, int32_t *ids, float *weights) {
    route_job j = {logits, experts, used, normalise, ids, weights};
    pool_for(cpu_of(b)->pool, rows, cpu_grain((int64_t)experts * 16), route_rows, &j);
}

/* Slots of one expert: order[begin, end), cut so that a group has at most GROUP_ROWS rows. */
enum { GROUP_ROWS = 64 };

typedef struct moe_job {
    const cpu_backend *c;
    const tensor *gate, *up, *down;
    const float *x, *weights;
    const int32_t *ids;
    int used;
    int64_t width, ffn, slots, groups;
    int64_t out_tile, tiles;
    int32_t *order; /* slots sorted by expert */
    int32_t *from;  /* the row of order[i] */
    int32_t *place; /* where slot s lies in order */
    int32_t *start; /* [groups + 1] into order */
    float *hidden;  /* [slots, ffn] in sorted order */
    float *out;     /* [slots, width] in sorted order */
    float *y;
} moe_job;

static void *expert_data(const tensor *t, int64_t expert) {
    return (char *)(uintptr_t)t->data + (size_t)expert * dtype_row_bytes(t->type, t->ne[0]) * (size_t)t->ne[1];
}

/* A piece of the gate and up products of one group, joined by SiLU. */
static void gate_up_tile(void *arg, int64_t begin, int64_t end, int thread) {
    moe_job *j = arg;
    float *up = (float *)((char *)cpu_scratch(j->c, thread) + CPU_SCRATCH / 2);
    for (int64_t t = begin; t < end; t++) {
        int64_t group = t / j->tiles, out = t % j->tiles * j->out_tile;
        int64_t outs = j->ffn - out < j->out_tile ? j->ffn - out : j->out_tile;
        int32_t first = j->start[group], rows = j->start[group + 1] - first;
        int32_t expert = j->ids[j->order[first]];
        linear_piece p = {
            .w = expert_data(j->gate, expert),
            .w_stride = dtype_row_bytes(j->gate->type, j->width),
            .x = j->x,
            .x_stride = j->width,
            .index = j->from + first,
            .y = j->hidden + first * j->ffn,
            .y_stride = j->ffn,
            .n = j->width,
            .segments = 1,
        };
        linear_move(&p, 0, out);
        linear_run(j->c, j->gate->type, &p, rows, outs, thread);
        float *hidden = p.y;
        p.w = (char *)expert_data(j->up, expert) + (size_t)out * dtype_row_bytes(j->up->type, j->width);
        p.w_stride = dtype_row_bytes(j->up->type, j->width);
        p.y = up;
        p.y_stride = outs;
        linear_run(j->c, j->up->type, &p, rows, outs, thread);
        for (int32_t r = 0; r < rows; r++) {
            j->c->k.silu_mul(hidden + r * j->ffn, up + r * outs, outs, hidden + r * j->ffn);
        }
    }
}

static void down_tile(void *arg, int64_t begin, int64_t end, int thread) {
    moe_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        int64_t group = t / j->tiles, out = t % j->tiles * j->out_tile;
        int32_t first = j->start[group];
        linear_piece p = {
            .w = expert_data(j->down, j->ids[j->order[first]]),
            .w_stride = dtype_row_bytes(j->down->type, j->ffn),
            .x = j->hidden + first * j->ffn,
            .x_stride = j->ffn,
            .y = j->out + first * j->width,
            .y_stride = j->width,
            .n = j->ffn,
            .segments = 1,
        };
        linear_move(&p, 0, out);
        linear_run(j->c, j->down->type, &p, j->start[group + 1] - first, j->width - out < j->out_tile ? j->width - out : j->out_tile, thread);
    }
}

static void combine_rows(void *arg, int64_t begin, int64_t end, int thread) {
    moe_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        float *y = j->y + r * j->width;
        memset(y, 0, (size_t)j->width * sizeof *y);
        for (int64_t s = r * j->used; s < (r + 1) * j->used; s++) {
            j->c->k.add_multiple(j->out + j->place[s] * j->width, j->weights[s], j->width, y);
        }
    }
}

/* Heap sort by (expert, slot): the number of experts is not bounded by the scratch, so there is no room for a count of each. */
static bool slot_before(const int32_t *ids, int32_t a, int32_t b) {
    return ids[a] != ids[b] ? ids[a] < ids[b] : a < b;
}

static void sift_down(const int32_t *ids, int32_t *order, int64_t at, int64_t n) {
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && slot_before(ids, order[child], order[child + 1])) {
            child++;
        }
        if (!slot_before(ids, order[at], order[child])) {
            return;
        }
        int32_t t = order[at];
        order[at] = order[child];
        order[child] = t;
    }
}

static void sort_slots(moe_job *j) {
    for (int64_t i = 0; i < j->slots; i++) {
        j->order[i] = (int32_t)i;
    }
    for (int64_t i = j->slots / 2; i-- > 0;) {
        sift_down(j->ids, j->order, i, j->slots);
    }
    for (int64_t n = j->slots; n-- > 1;) {
        int32_t t = j->order[0];
        j->order[0] = j->order[n];
        j->order[n] = t;
        sift_down(j->ids, j->order, 0, n);
    }
    j->groups = 0;
    for (int64_t i = 0; i < j->slots; i++) {
        j->from[i] = j->order[i] / j->used;
        j->place[j->order[i]] = (int32_t)i;
        if (i == 0 || j->ids[j->order[i]] != j->ids[j->order[i - 1]] || i - j->start[j->groups - 1] == GROUP_ROWS) {
            j->start[j->groups++] = (int32_t)i;
        }
    }
    j->start[j->groups] = (int32_t)j->slots;
}

static size_t cpu_moe_scratch(backend *b, int64_t rows, int used, int64_t width, int64_t ffn) {
    return (size_t)rows * (size_t)used * (size_t)(width + ffn + 4) + 16;
}

/* Outputs a tile: about 64K multiplications for an average group, whole cache lines, within the scratch for `up`. */
static void set_tiles(moe_job *j, int64_t n, int64_t outs) {
    int64_t rows = j->slots / j->groups;
    int64_t tile = 65536 / (n * rows < 1 ? 1 : n * rows) / 16 * 16;
    tile = tile < 16 ? 16 : tile > 2048 ? 2048 : tile;
    j->out_tile = tile;
    j->tiles = (outs + tile - 1) / tile;
}

static void cpu_moe(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *x, int64_t rows, const int32_t *ids,
                    const float *weights, int used, float *scratch, float *y) {
    if (rows <= 0) {
        return;
    }
    moe_job j = {.c = cpu_of(b), .gate = gate, .up = up, .down = down, .x = x, .weights = weights, .ids = ids, .used = used, .y = y};
    j.width = gate->ne[0];
    j.ffn = gate->ne[1];
    j.slots = rows * used;
    j.hidden = scratch;
    j.out = j.hidden + j.slots * j.ffn;
    j.order = (int32_t *)(j.out + j.slots * j.width);
    j.from = j.order + j.slots;
    j.place = j.from + j.slots;
    j.start = j.place + j.slots;
    sort_slots(&j);
    set_tiles(&j, j.width, j.ffn);
    pool_for(j.c->pool, j.groups * j.tiles, 1, gate_up_tile, &j);
    set_tiles(&j, j.ffn, j.width);
    pool_for(j.c->pool, j.groups * j.tiles, 1, down_tile, &j);
    pool_for(j.c->pool, rows, cpu_grain(j.width * used), combine_rows, &j);
}

void cpu_moe_ops(ops *o) {
    o->route = cpu_route;
    o->moe = cpu_moe;
    o->moe_scratch = cpu_moe_scratch;
}
