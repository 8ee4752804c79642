/* Attention of many rows of one head with tiles of bfloat16 (simd_bf16.h). The work is cut into units: 16 rows and a span. Of three units
 * in a row, one gets its scores, the one before its weights and the one before that its sums of values, all at once: slices of tile products
 * take turns with the weights of a few rows, so that both kinds of execution units always find something to do. Compiled for AMX and called
 * only where the processor has it. */
#include "cpu/amx.h"
#include "cpu/simd_bf16.h"

enum { UNIT = AMX_ROWS };

/* All tiles are whole: products of fewer pairs of dimensions take as long. */
static amx_shapes whole_tiles(void) {
    amx_shapes s = {.palette = 1};
    for (int i = 0; i < AMX_TILES; i++) {
        s.rows[i] = AMX_ROWS;
        s.row_bytes[i] = AMX_ROW_BYTES;
    }
    return s;
}

/* The positions that some row of a block sees, and those that all its rows see. */
typedef struct block_range {
    int64_t low, high, first, end;
} block_range;

typedef struct unit {
    bool any;   /* false: nothing to do */
    bool whole; /* all rows see all of the span */
    int64_t row, start;
} unit;

typedef struct amx_work {
    bf16_tile s;
    block_range *range; /* of blocks of UNIT rows */
    unit next;
    int64_t prefetch;   /* positions to prefetch in a step: the memory answers only so many requests at once */
    int64_t keys_start; /* the span whose keys are loaded */
    float (*scores)[SPAN];
    uint32_t (*weights)[SPAN / 2];
} amx_work;

static void find_ranges(const amx_work *w) {
    const attention_tile *t = w->s.t;
    for (int64_t row = 0; row < t->rows; row += UNIT) {
        block_range b = {.low = INT64_MAX, .end = INT64_MAX};
        for (int64_t r = row; r < row + UNIT && r < t->rows; r++) {
            const int64_t first = t->first[r], end = t->end[r];
            if (first < end) {
                b.low = first < b.low ? first : b.low;
                b.high = end > b.high ? end : b.high;
            }
            b.first = first > b.first ? first : b.first;
            b.end = end < b.end ? end : b.end;
        }
        w->range[row / UNIT] = b;
    }
}

/* The unit behind w->next of which a row sees something. */
static void step_to_next(amx_work *w) {
    unit u = w->next;
    do {
        u.row += UNIT;
        if (u.row >= w->s.t->rows) {
            u.row = 0;
            u.start += SPAN;
        }
        const block_range *b = w->range + u.row / UNIT;
        u.any = b->low < u.start + SPAN && b->high > u.start;
        u.whole = b->first <= u.start && b->end >= u.start + SPAN;
    } while (!u.any && u.start < w->s.high);
    w->next = u;
}

/* One of the steps of a unit's scores: 16 pairs of dimensions, whose products with 64 positions are added up in tiles 0 to 3. Loads come well
 * before the products that need them, and a tile is loaded again as late as can be: that may have to wait for products that still read it. */
static void score_slice(const amx_work *w, int64_t row, int64_t step, int64_t steps) {
    const bf16_tile *s = &w->s;
    const uint32_t *q = s->q + row * s->q_stride + step * 16, *k = s->keys + step * 16 * SPAN;
    amx_load(4, q, 4 * s->q_stride);
    amx_load(5, k, 4 * SPAN);
    amx_load(6, k + 16, 4 * SPAN);
    amx_load(7, k + 32, 4 * SPAN);
    if (step == 0) {
        amx_zero(0);
        amx_zero(1);
        amx_zero(2);
        amx_zero(3);
    }
    amx_dot_bf16(0, 4, 5);
    amx_load(5, k + 48, 4 * SPAN);
    amx_dot_bf16(1, 4, 6);
    amx_dot_bf16(2, 4, 7);
    amx_dot_bf16(3, 4, 5);
    if (step + 1 == steps) {
        amx_store(0, w->scores[0], 4 * SPAN);
        amx_store(1, w->scores[0] + 16, 4 * SPAN);
        amx_store(2, w->scores[0] + 32, 4 * SPAN);
        amx_store(3, w->scores[0] + 48, 4 * SPAN);
    }
}

/* acc of 32 dimensions from d on += weights times values, or of 16 if these are the last. Weights stay in tiles 2 and 3. */
static void value_slice(const amx_work *w, const uint32_t (*weights)[SPAN / 2], int64_t row, int64_t d) {
    const bf16_tile *s = &w->s;
    const int64_t bytes = 4 * s->pad;
    const uint32_t *v = s->values + d, *later = v + 16 * s->pad;
    float *acc = s->acc + row * s->pad + d;
    if (d == 0) {
        amx_load(2, weights[0], 2 * SPAN);
        amx_load(3, weights[0] + 16, 2 * SPAN);
    }
    amx_load(0, acc, bytes);
    amx_load(4, v, bytes);
    amx_load(6, later, bytes);
    if (d + LANES < s->pad) {
        amx_load(1, acc + LANES, bytes);
        amx_load(5, v + LANES, bytes);
        amx_load(7, later + LANES, bytes);
        amx_dot_bf16(0, 2, 4);
        amx_dot_bf16(1, 2, 5);
        amx_dot_bf16(0, 3, 6);
        amx_dot_bf16(1, 3, 7);
        amx_store(0, acc, bytes);
        amx_store(1, acc + LANES, bytes);
    } else {
        amx_dot_bf16(0, 2, 4);
        amx_dot_bf16(0, 3, 6);
        amx_store(0, acc, bytes);
    }
}

/* Weights of rows [from, to) of a unit. */
static void weigh_rows(amx_work *w, const unit *u, const float (*scores)[SPAN], int64_t from, int64_t to) {
    for (int64_t j = from; j < to; j++) {
        int64_t first = 0, end = SPAN;
        if (!u->whole && !part_of(w->s.t, u->row + j, u->start, &first, &end)) {
            memset(w->weights[j], 0, sizeof w->weights[j]);
            continue;
        }
        const vf base = vf_load(w->s.base + (u->row + j) * LANES);
        vf x[SPAN_VECTORS];
        UNROLL for (int m = 0; m < SPAN_VECTORS; m++) {
            x[m] = vf_add(vf_load(scores[j] + m * LANES), base);
        }
        softmax(&w->s, u->row + j, x, first, end, w->weights[j]);
    }
}

static void add_special_rows(const amx_work *w, const unit *u, const uint32_t (*weights)[SPAN / 2], int64_t rows) {
    for (int64_t j = 0; j < rows; j++) {
        int64_t first, end;
        if (part_of(w->s.t, u->row + j, u->start, &first, &end)) {
            add_special(&w->s, u->row + j, weights[j], first, end);
        }
    }
}

static int64_t rows_of(const amx_work *w, const unit *u) {
    return w->s.t->rows - u->row < UNIT ? w->s.t->rows - u->row : UNIT;
}

/* Scores of `next` to w->scores, weights of `now` from `scores` to w->weights, values of `last` by `weights`. Their rows differ but for those
 * of next and last. */
static void step(amx_work *w, const unit *next, const unit *now, const unit *last, const float (*scores)[SPAN], const uint32_t (*weights)[SPAN / 2]) {
    bf16_tile *s = &w->s;
    if (next->any && next->start != w->keys_start) {
        w->keys_start = next->start;
        load_keys(s, next->start);
    }
    if (last->any && last->start != s->start) {
        load_values(s, last->start);
    }
    prefetch(s, w->keys_start, w->prefetch);
    const int64_t score_slices = next->any ? s->q_stride / 16 : 0, value_slices = last->any ? (s->vectors + 1) / 2 : 0;
    const int64_t slices = score_slices + value_slices, rows = now->any ? rows_of(w, now) : 0, share = slices ? (rows + slices - 1) / slices : 0;
    int64_t done = 0;
    for (int64_t i = 0; i < slices; i++) {
        if (i < score_slices) {
            score_slice(w, next->row, i, score_slices);
        } else {
            value_slice(w, weights, last->row, (i - score_slices) * 2 * LANES);
        }
        const int64_t to = done + share < rows ? done + share : rows;
        weigh_rows(w, now, scores, done, to);
        done = to;
    }
    weigh_rows(w, now, scores, done, rows);
    if (last->any && s->special) {
        add_special_rows(w, last, weights, rows_of(w, last));
    }
}

static void attend_tile_bf16(const attention_tile *t, float *scratch) {
    _Alignas(64) float scores[2][UNIT][SPAN];
    _Alignas(64) uint32_t weights[2][UNIT][SPAN / 2];
    amx_work w = {.s = bf16_begin(t, false, scratch), .prefetch = (SPAN * UNIT + t->rows - 1) / t->rows, .keys_start = -1};
    bf16_tile *s = &w.s;
    s->start = -1;
    w.range = (block_range *)(void *)(s->limit + (t->rows + UNIT - 1) / UNIT * UNIT);
    find_ranges(&w);
    memset(weights, 0, sizeof weights);
    memset(s->keys + s->pairs * SPAN, 0, (size_t)(s->q_stride - s->pairs) * SPAN * sizeof *s->keys);
    const amx_shapes shapes = whole_tiles();
    amx_begin(&shapes);
    w.next = (unit){.row = -UNIT, .start = s->low};
    step_to_next(&w);
    unit now = {0}, last = {0};
    for (int i = 0; w.next.any || now.any || last.any; i ^= 1) {
        unit next = {0}; /* nothing too if the rows still wait for their weights of the span before */
        if (w.next.any && !(now.any && now.row == w.next.row)) {
            next = w.next;
            step_to_next(&w);
        }
        w.scores = scores[i];
        w.weights = weights[i];
        step(&w, &next, &now, &last, scores[i ^ 1], weights[i ^ 1]);
        last = now;
        now = next;
    }
    amx_end();
    bf16_end(s);
}

void attention_amx(cpu_kernels *k) {
    k->attend_tile_bf16 = attend_tile_bf16;
}
