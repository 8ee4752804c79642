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
    int32_t *order;              /* slots sorted by expert */
    int32_t *from;               /* the row of order[i] */
    int32_t *place;              /* where slot s lies in order */
    int32_t *start;              /* [groups + 1] into order */
    float *hidden;               /* [slots, ffn] in sorted order */
    float *out;                  /* [slots, width] in sorted order */
    packed_input *inputs;        /* of x, [rows, width / PACK_BLOCK]; unless no weights are packed */
    packed_input *hidden_inputs; /* of hidden */
    float *y;
} moe_job;

/* Whether products with these weights want their inputs quantised. */
static bool takes_blocks(const tensor *t) {
    return t->packed && !packed_floats(t->type);
}

/* Outputs [out, out + outs) of one expert, from rows of floats or of quantised blocks; stride in values. */
static void expert_rows(const moe_job *j, const tensor *t, int64_t expert, const float *x, const packed_input *q, int64_t stride,
                        const int32_t *index, int64_t rows, int64_t out, int64_t outs, float *y, int64_t y_stride, int thread) {
    if (takes_blocks(t)) {
        packed_piece p = {
            .w = (const char *)t->data + (size_t)expert * (t->size / (size_t)t->ne[2]),
            .w_stride = packed_group_bytes(t->type, t->ne[0]),
            .x = q,
            .x_stride = stride / PACK_BLOCK,
            .index = index,
            .n = t->ne[0],
        };
        packed_move(&p, 0, out);
        p.y = y;
        p.y_stride = y_stride;
        cpu_packed_kernel(j->c, t->type, rows)(&p, rows, outs);
        return;
    }
    const tensor e = tensor_slice(t, expert);
    linear_piece p = linear_of(&e, t->ne[0]);
    p.x = x;
    p.x_stride = stride;
    p.index = index;
    linear_move(&p, 0, out);
    p.y = y;
    p.y_stride = y_stride;
    linear_run(j->c, t->type, &p, rows, outs, thread);
}

/* A piece of the gate and up products of one group, joined by SiLU, and quantised where the next product wants that. */
static void gate_up_tile(void *arg, int64_t begin, int64_t end, int thread) {
    moe_job *j = arg;
    float *up = (float *)((char *)cpu_scratch(j->c, thread) + CPU_SCRATCH / 2);
    for (int64_t t = begin; t < end; t++) {
        int64_t group = t / j->tiles, out = t % j->tiles * j->out_tile;
        int64_t outs = j->ffn - out < j->out_tile ? j->ffn - out : j->out_tile;
        int32_t first = j->start[group], rows = j->start[group + 1] - first;
        int32_t expert = j->ids[j->order[first]];
        const int32_t *index = j->from + first;
        float *hidden = j->hidden + first * j->ffn + out;
        expert_rows(j, j->gate, expert, j->x, j->inputs, j->width, index, rows, out, outs, hidden, j->ffn, thread);
        expert_rows(j, j->up, expert, j->x, j->inputs, j->width, index, rows, out, outs, up, outs, thread);
        for (int32_t r = 0; r < rows; r++) {
            float *h = hidden + r * j->ffn;
            j->c->k.silu_mul(h, up + r * outs, outs, h);
            if (takes_blocks(j->down)) {
                j->c->k.quantise(h, outs, j->hidden_inputs + ((first + r) * j->ffn + out) / PACK_BLOCK);
            }
        }
    }
}

static void down_tile(void *arg, int64_t begin, int64_t end, int thread) {
    moe_job *j = arg;
    for (int64_t t = begin; t < end; t++) {
        int64_t group = t / j->tiles, out = t % j->tiles * j->out_tile;
        int64_t outs = j->width - out < j->out_tile ? j->width - out : j->out_tile;
        int32_t first = j->start[group];
        expert_rows(j, j->down, j->ids[j->order[first]], j->hidden + first * j->ffn, j->hidden_inputs + first * (j->ffn / PACK_BLOCK), j->ffn, NULL,
                    j->start[group + 1] - first, out, outs, j->out + first * j->width + out, j->width, thread);
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
    size_t inputs = (size_t)rows * (size_t)(width / PACK_BLOCK + used * (ffn / PACK_BLOCK));
    return (size_t)rows * (size_t)used * (size_t)(width + ffn + 4) + 16 + inputs * (sizeof(packed_input) / sizeof(float));
}

/* Outputs a tile by the work for an average group; within the scratch for `up`. */
static void set_tiles(moe_job *j, const tensor *w) {
    const int64_t rows = j->slots / j->groups, outs = w->ne[1];
    j->out_tile = packed_out_tile(j->c, w->type, w->ne[0], rows);
    j->tiles = (outs + j->out_tile - 1) / j->out_tile;
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
    j.inputs = (packed_input *)(j.start + j.slots + 1);
    j.hidden_inputs = j.inputs + rows * (j.width / PACK_BLOCK);
    if (takes_blocks(gate) || takes_blocks(up)) {
        cpu_quantise(j.c, x, rows, j.width, j.width, j.inputs);
    }
    sort_slots(&j);
    set_tiles(&j, gate);
    pool_for(j.c->pool, j.groups * j.tiles, 1, gate_up_tile, &j);
    const input_collector *seen = j.c->collector;
    if (seen) {
        seen->collect(seen->arg, gate, x, j.slots, j.width, used, NULL, ids);
        seen->collect(seen->arg, up, x, j.slots, j.width, used, NULL, ids);
        seen->collect(seen->arg, down, j.hidden, j.slots, j.ffn, 1, j.place, ids);
    }
    set_tiles(&j, down);
    pool_for(j.c->pool, j.groups * j.tiles, 1, down_tile, &j);
    pool_for(j.c->pool, rows, cpu_grain(j.width * used), combine_rows, &j);
}

void cpu_moe_ops(ops *o) {
    o->route = cpu_route;
    o->moe = cpu_moe;
    o->moe_scratch = cpu_moe_scratch;
}
