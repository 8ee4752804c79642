/* The operations of the queueing backend: each checks its arguments and notes them in a call; its run_ twin does the call on the inner backend. */
#include <stdlib.h>

#include "queueing.h"

static call begin(backend *b, const char *name, void (*run)(const ops *o, backend *in, const call *c)) {
    queueing_of(b)->counts.operations++;
    return (call){.name = name, .run = run};
}

/* A pointer to so many bytes of the backend's memory. */
static void pointer(backend *b, call *c, const char *argument, const void *p, int64_t bytes) {
    c->p[c->pointers++] = real(queueing_of(b)->m, c->name, argument, p, bytes > 0 ? (size_t)bytes : 0);
}

static void maybe(backend *b, call *c, const char *argument, const void *p, int64_t bytes) {
    if (p) {
        pointer(b, c, argument, p, bytes);
    } else {
        c->p[c->pointers++] = NULL;
    }
}

static void weight(backend *b, call *c, int n, const char *argument, const tensor *w) {
    c->w[n] = *w;
    c->w[n].data = real(queueing_of(b)->m, c->name, argument, w->data, w->size);
}

static void number(call *c, int64_t i) {
    c->i[c->numbers++] = i;
}

static size_t q_kv_bytes(backend *b, dtype type, int layers, int kv_heads, int head_dim, int64_t blocks) {
    backend *in = queueing_of(b)->inner;
    return in->ops->kv_bytes(in, type, layers, kv_heads, head_dim, blocks);
}

static void cache_of(backend *b, call *c, const kv_cache *x) {
    c->cache = *x;
    c->cache.k = real(queueing_of(b)->m, c->name, "cache->k", x->k, q_kv_bytes(b, x->k_type, x->layers, x->kv_heads, x->head_dim, x->blocks));
    c->cache.v = real(queueing_of(b)->m, c->name, "cache->v", x->v, q_kv_bytes(b, x->v_type, x->layers, x->kv_heads, x->head_dim, x->blocks));
}

static int64_t floats(int64_t n) {
    return n * (int64_t)sizeof(float);
}

/* Values from the first to the end of the last of rows that begin stride values apart. */
static int64_t strided(int64_t rows, int64_t stride, int64_t width) {
    return rows > 0 ? floats((rows - 1) * stride + width) : 0;
}

/* ---- rows ---- */

static void run_embed(const ops *o, backend *in, const call *c) {
    o->embed(in, &c->w[0], c->p[0], c->i[0], c->p[1]);
}

static void q_embed(backend *b, const tensor *table, const int32_t *ids, int64_t rows, float *y) {
    call c = begin(b, "embed", run_embed);
    weight(b, &c, 0, "table", table);
    pointer(b, &c, "ids", ids, 4 * rows);
    pointer(b, &c, "y", y, floats(rows * table->ne[0]));
    number(&c, rows);
    submit(b, &c);
}

static void run_embed_sum(const ops *o, backend *in, const call *c) {
    o->embed_sum(in, &c->w[0], c->p[0], c->i[0], c->i[1], c->i[2], c->f, c->p[1]);
}

static void q_embed_sum(backend *b, const tensor *table, const int32_t *ids, int64_t rows, int64_t n, int64_t step, float scale, float *y) {
    call c = begin(b, "embed_sum", run_embed_sum);
    weight(b, &c, 0, "table", table);
    pointer(b, &c, "ids", ids, 4 * rows * n);
    pointer(b, &c, "y", y, floats(rows * table->ne[0]));
    number(&c, rows);
    number(&c, n);
    number(&c, step);
    c.f = scale;
    submit(b, &c);
}

static void run_gather_rows(const ops *o, backend *in, const call *c) {
    o->gather_rows(in, c->p[0], c->p[1], c->i[0], c->i[1], c->p[2]);
}

static void q_gather_rows(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "gather_rows", run_gather_rows);
    pointer(b, &c, "x", x, rows > 0 ? floats(width) : 0);
    pointer(b, &c, "index", index, 4 * rows);
    pointer(b, &c, "y", y, floats(rows * width));
    number(&c, rows);
    number(&c, width);
    submit(b, &c);
}

static void run_add_to_rows(const ops *o, backend *in, const call *c) {
    o->add_to_rows(in, c->p[0], c->p[1], c->i[0], c->i[1], c->p[2]);
}

static void q_add_to_rows(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "add_to_rows", run_add_to_rows);
    pointer(b, &c, "x", x, floats(rows * width));
    pointer(b, &c, "index", index, 4 * rows);
    pointer(b, &c, "y", y, rows > 0 ? floats(width) : 0);
    number(&c, rows);
    number(&c, width);
    submit(b, &c);
}

/* ---- linear maps and convolutions ---- */

static void run_linear(const ops *o, backend *in, const call *c) {
    o->linear(in, &c->w[0], c->p[0], c->p[1], c->i[0], c->i[1], c->p[2], c->i[2]);
}

static void q_linear(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride) {
    call c = begin(b, "linear", run_linear);
    weight(b, &c, 0, "w", w);
    maybe(b, &c, "bias", bias, floats(w->ne[1]));
    pointer(b, &c, "x", x, strided(rows, x_stride, w->ne[0]));
    pointer(b, &c, "y", y, strided(rows, y_stride, w->ne[1]));
    number(&c, rows);
    number(&c, x_stride);
    number(&c, y_stride);
    submit(b, &c);
}

static void run_conv1d(const ops *o, backend *in, const call *c) {
    o->conv1d(in, &c->w[0], c->p[0], c->p[1], c->i[0], c->i[1], c->p[2]);
}

static void q_conv1d(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y) {
    call c = begin(b, "conv1d", run_conv1d);
    weight(b, &c, 0, "w", w);
    maybe(b, &c, "bias", bias, floats(w->ne[2]));
    pointer(b, &c, "x", x, floats((rows + (w->ne[1] - 1) * dilation) * w->ne[0]));
    pointer(b, &c, "y", y, floats(rows * w->ne[2]));
    number(&c, rows);
    number(&c, dilation);
    submit(b, &c);
}

static void run_conv1d_depthwise(const ops *o, backend *in, const call *c) {
    o->conv1d_depthwise(in, &c->w[0], c->p[0], c->p[1], c->i[0], c->p[2]);
}

static void q_conv1d_depthwise(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, float *y) {
    call c = begin(b, "conv1d_depthwise", run_conv1d_depthwise);
    weight(b, &c, 0, "w", w);
    maybe(b, &c, "bias", bias, floats(w->ne[0]));
    pointer(b, &c, "x", x, floats((rows + w->ne[1] - 1) * w->ne[0]));
    pointer(b, &c, "y", y, floats(rows * w->ne[0]));
    number(&c, rows);
    submit(b, &c);
}

static void run_overlap_add(const ops *o, backend *in, const call *c) {
    o->overlap_add(in, c->p[0], c->p[1], c->i[0], c->i[1], c->i[2], c->i[3], c->p[2], c->p[3]);
}

static void q_overlap_add(backend *b, const float *z, const float *bias, int64_t rows, int64_t kernel, int64_t stride, int64_t channels, float *tail,
                          float *y) {
    call c = begin(b, "overlap_add", run_overlap_add);
    pointer(b, &c, "z", z, floats(rows * kernel * channels));
    maybe(b, &c, "bias", bias, floats(channels));
    pointer(b, &c, "tail", tail, floats((kernel - stride) * channels));
    pointer(b, &c, "y", y, floats(rows * stride * channels));
    number(&c, rows);
    number(&c, kernel);
    number(&c, stride);
    number(&c, channels);
    submit(b, &c);
}

static void run_conv2d(const ops *o, backend *in, const call *c) {
    o->conv2d_3x3_s2(in, &c->w[0], c->p[0], c->p[1], c->i[0], c->i[1], c->i[2], c->p[2]);
}

static void q_conv2d(backend *b, const tensor *w, const float *bias, const float *x, int64_t n, int64_t height, int64_t width, float *y) {
    call c = begin(b, "conv2d_3x3_s2", run_conv2d);
    weight(b, &c, 0, "w", w);
    maybe(b, &c, "bias", bias, floats(w->ne[3]));
    pointer(b, &c, "x", x, floats(n * height * width * w->ne[0]));
    pointer(b, &c, "y", y, floats(n * ((height + 1) / 2) * ((width + 1) / 2) * w->ne[3]));
    number(&c, n);
    number(&c, height);
    number(&c, width);
    submit(b, &c);
}

/* ---- normalisation and elementwise ---- */

static void run_rms_norm(const ops *o, backend *in, const call *c) {
    o->rms_norm(in, c->p[0], c->p[1], c->f, c->i[0], c->i[1], c->p[2]);
}

static void q_rms_norm(backend *b, const float *x, const float *w, float eps, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "rms_norm", run_rms_norm);
    pointer(b, &c, "x", x, floats(rows * width));
    pointer(b, &c, "w", w, floats(width));
    pointer(b, &c, "y", y, floats(rows * width));
    number(&c, rows);
    number(&c, width);
    c.f = eps;
    submit(b, &c);
}

static void run_layer_norm(const ops *o, backend *in, const call *c) {
    o->layer_norm(in, c->p[0], c->p[1], c->p[2], c->f, c->i[0], c->i[1], c->p[3]);
}

static void q_layer_norm(backend *b, const float *x, const float *w, const float *bias, float eps, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "layer_norm", run_layer_norm);
    pointer(b, &c, "x", x, floats(rows * width));
    pointer(b, &c, "w", w, floats(width));
    pointer(b, &c, "bias", bias, floats(width));
    pointer(b, &c, "y", y, floats(rows * width));
    number(&c, rows);
    number(&c, width);
    c.f = eps;
    submit(b, &c);
}

static void run_activate(const ops *o, backend *in, const call *c) {
    o->activate(in, (activation)c->i[1], c->p[0], c->i[0], c->p[1]);
}

static void q_activate(backend *b, activation a, const float *x, int64_t n, float *y) {
    call c = begin(b, "activate", run_activate);
    pointer(b, &c, "x", x, floats(n));
    pointer(b, &c, "y", y, floats(n));
    number(&c, n);
    number(&c, a);
    submit(b, &c);
}

static void run_add(const ops *o, backend *in, const call *c) {
    o->add(in, c->p[0], c->i[0], c->p[1]);
}

static void q_add(backend *b, const float *x, int64_t n, float *y) {
    call c = begin(b, "add", run_add);
    pointer(b, &c, "x", x, floats(n));
    pointer(b, &c, "y", y, floats(n));
    number(&c, n);
    submit(b, &c);
}

static void run_add_scaled(const ops *o, backend *in, const call *c) {
    o->add_scaled(in, c->p[0], c->p[1], c->i[0], c->i[1], c->p[2]);
}

static void q_add_scaled(backend *b, const float *x, const float *scale, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "add_scaled", run_add_scaled);
    pointer(b, &c, "x", x, floats(rows * width));
    pointer(b, &c, "scale", scale, floats(width));
    pointer(b, &c, "y", y, floats(rows * width));
    number(&c, rows);
    number(&c, width);
    submit(b, &c);
}

static void run_add_gated(const ops *o, backend *in, const call *c) {
    o->add_gated(in, c->p[0], c->p[1], c->i[0], c->i[1], c->p[2]);
}

static void q_add_gated(backend *b, const float *x, const float *gate, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "add_gated", run_add_gated);
    pointer(b, &c, "x", x, floats(rows * width));
    pointer(b, &c, "gate", gate, floats(rows));
    pointer(b, &c, "y", y, floats(rows * width));
    number(&c, rows);
    number(&c, width);
    submit(b, &c);
}

static void run_silu_mul(const ops *o, backend *in, const call *c) {
    o->silu_mul(in, c->p[0], c->p[1], c->i[0], c->p[2]);
}

static void q_silu_mul(backend *b, const float *gate, const float *up, int64_t n, float *y) {
    call c = begin(b, "silu_mul", run_silu_mul);
    pointer(b, &c, "gate", gate, floats(n));
    pointer(b, &c, "up", up, floats(n));
    pointer(b, &c, "y", y, floats(n));
    number(&c, n);
    submit(b, &c);
}

static void run_snake_beta(const ops *o, backend *in, const call *c) {
    o->snake_beta(in, c->p[0], c->p[1], c->p[2], c->i[0], c->i[1], c->p[3]);
}

static void q_snake_beta(backend *b, const float *x, const float *a, const float *inv_b, int64_t rows, int64_t width, float *y) {
    call c = begin(b, "snake_beta", run_snake_beta);
    pointer(b, &c, "x", x, floats(rows * width));
    pointer(b, &c, "a", a, floats(width));
    pointer(b, &c, "inv_b", inv_b, floats(width));
    pointer(b, &c, "y", y, floats(rows * width));
    number(&c, rows);
    number(&c, width);
    submit(b, &c);
}

/* ---- attention ---- */

static void run_angles(const ops *o, backend *in, const call *c) {
    o->angles(in, c->p[0], c->p[1], c->p[2], c->i[0], (int)c->i[1], c->p[3], c->p[4]);
}

static void q_angles(backend *b, const float *positions, const float *inv_freq, const int32_t *axis, int64_t rows, int half, float *cos, float *sin) {
    call c = begin(b, "angles", run_angles);
    pointer(b, &c, "positions", positions, floats(3 * rows));
    pointer(b, &c, "inv_freq", inv_freq, floats(half));
    pointer(b, &c, "axis", axis, 4 * (int64_t)half);
    pointer(b, &c, "cos", cos, floats(rows * half));
    pointer(b, &c, "sin", sin, floats(rows * half));
    number(&c, rows);
    number(&c, half);
    submit(b, &c);
}

static void run_head_norm_rope(const ops *o, backend *in, const call *c) {
    o->head_norm_rope(in, c->p[0], c->i[0], c->i[1], (int)c->i[2], (int)c->i[3], c->p[1], c->f, c->p[2], c->p[3]);
}

static void q_head_norm_rope(backend *b, float *x, int64_t rows, int64_t x_stride, int heads, int head_dim, const float *w, float eps,
                             const float *cos, const float *sin) {
    call c = begin(b, "head_norm_rope", run_head_norm_rope);
    pointer(b, &c, "x", x, strided(rows, x_stride, (int64_t)heads * head_dim));
    maybe(b, &c, "weight", w, floats(head_dim));
    maybe(b, &c, "cos", cos, floats(rows * (head_dim / 2)));
    maybe(b, &c, "sin", sin, floats(rows * (head_dim / 2)));
    number(&c, rows);
    number(&c, x_stride);
    number(&c, heads);
    number(&c, head_dim);
    c.f = eps;
    submit(b, &c);
}

static void run_kv_copy(const ops *o, backend *in, const call *c) {
    o->kv_copy(in, &c->cache, (int32_t)c->i[0], (int32_t)c->i[1]);
}

static void q_kv_copy(backend *b, const kv_cache *cache, int32_t to, int32_t from) {
    call c = begin(b, "kv_copy", run_kv_copy);
    cache_of(b, &c, cache);
    number(&c, to);
    number(&c, from);
    submit(b, &c);
}

static void run_kv_write(const ops *o, backend *in, const call *c) {
    o->kv_write(in, &c->cache, (int)c->i[0], c->p[0], c->p[1], c->p[2], c->i[1]);
}

static void q_kv_write(backend *b, const kv_cache *cache, int layer, const int32_t *slots, const float *k, const float *v, int64_t rows) {
    call c = begin(b, "kv_write", run_kv_write);
    cache_of(b, &c, cache);
    pointer(b, &c, "slots", slots, 4 * rows);
    pointer(b, &c, "k", k, floats(rows * cache->kv_heads * cache->head_dim));
    pointer(b, &c, "v", v, floats(rows * cache->kv_heads * cache->head_dim));
    number(&c, layer);
    number(&c, rows);
    submit(b, &c);
}

static void run_attention(const ops *o, backend *in, const call *c) {
    o->attention(in, &c->cache, (int)c->i[0], c->p[0], c->p[1], c->p[2], c->i[1], (int)c->i[2], c->f, c->p[3]);
}

static void q_attention(backend *b, const kv_cache *cache, int layer, const int32_t *block_table, const attention_row *at, const float *q,
                        int64_t rows, int heads, float scale, float *y) {
    call c = begin(b, "attention", run_attention);
    cache_of(b, &c, cache);
    pointer(b, &c, "block_table", block_table, rows > 0 ? 4 : 0);
    pointer(b, &c, "at", at, (int64_t)sizeof *at * rows);
    pointer(b, &c, "q", q, floats(rows * heads * cache->head_dim));
    pointer(b, &c, "y", y, floats(rows * heads * cache->head_dim));
    number(&c, layer);
    number(&c, rows);
    number(&c, heads);
    c.f = scale;
    submit(b, &c);
}

static void run_attention_dense(const ops *o, backend *in, const call *c) {
    o->attention_dense(in, c->p[0], c->i[0], c->p[1], c->p[2], c->i[1], c->p[3], c->p[4], c->i[2], (int)c->i[3], (int)c->i[4], (int)c->i[5], c->f,
                       c->i[6] != 0, c->p[5]);
}

static void q_attention_dense(backend *b, const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int32_t *first,
                              const int32_t *end, int64_t rows, int heads, int kv_heads, int head_dim, float scale, bool bf16, float *y) {
    call c = begin(b, "attention_dense", run_attention_dense);
    pointer(b, &c, "q", q, strided(rows, q_stride, (int64_t)heads * head_dim));
    pointer(b, &c, "k", k, rows > 0 ? floats((int64_t)kv_heads * head_dim) : 0);
    pointer(b, &c, "v", v, rows > 0 ? floats((int64_t)kv_heads * head_dim) : 0);
    pointer(b, &c, "first", first, 4 * rows);
    pointer(b, &c, "end", end, 4 * rows);
    pointer(b, &c, "y", y, floats(rows * heads * head_dim));
    number(&c, q_stride);
    number(&c, kv_stride);
    number(&c, rows);
    number(&c, heads);
    number(&c, kv_heads);
    number(&c, head_dim);
    number(&c, bf16);
    c.f = scale;
    submit(b, &c);
}

/* ---- experts, choosing ---- */

static void run_route(const ops *o, backend *in, const call *c) {
    o->route(in, c->p[0], c->i[0], (int)c->i[1], (int)c->i[2], c->i[3] != 0, c->p[1], c->p[2]);
}

static void q_route(backend *b, const float *logits, int64_t rows, int experts, int used, bool normalise, int32_t *ids, float *weights) {
    call c = begin(b, "route", run_route);
    pointer(b, &c, "logits", logits, floats(rows * experts));
    pointer(b, &c, "ids", ids, 4 * rows * used);
    pointer(b, &c, "weights", weights, floats(rows * used));
    number(&c, rows);
    number(&c, experts);
    number(&c, used);
    number(&c, normalise);
    submit(b, &c);
}

static size_t q_moe_scratch(backend *b, int64_t rows, int used, int64_t width, int64_t ffn) {
    backend *in = queueing_of(b)->inner;
    return in->ops->moe_scratch(in, rows, used, width, ffn);
}

static void run_moe(const ops *o, backend *in, const call *c) {
    o->moe(in, &c->w[0], &c->w[1], &c->w[2], c->p[0], c->i[0], c->p[1], c->p[2], (int)c->i[1], c->p[3], c->p[4]);
}

static void q_moe(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *x, int64_t rows, const int32_t *ids,
                  const float *weights, int used, float *scratch, float *y) {
    call c = begin(b, "moe", run_moe);
    weight(b, &c, 0, "gate", gate);
    weight(b, &c, 1, "up", up);
    weight(b, &c, 2, "down", down);
    pointer(b, &c, "x", x, floats(rows * gate->ne[0]));
    pointer(b, &c, "ids", ids, 4 * rows * used);
    pointer(b, &c, "weights", weights, floats(rows * used));
    pointer(b, &c, "scratch", scratch, floats((int64_t)q_moe_scratch(b, rows, used, gate->ne[0], gate->ne[1])));
    pointer(b, &c, "y", y, floats(rows * gate->ne[0]));
    number(&c, rows);
    number(&c, used);
    submit(b, &c);
}

static void run_sample(const ops *o, backend *in, const call *c) {
    o->sample(in, c->p[0], c->i[0], c->i[1], c->copied, c->p[1]);
}

static void q_sample(backend *b, float *logits, int64_t rows, int64_t vocab, const sample_row *params, int32_t *ids) {
    call c = begin(b, "sample", run_sample);
    pointer(b, &c, "logits", logits, floats(rows * vocab));
    pointer(b, &c, "ids", ids, 4 * rows);
    number(&c, rows);
    number(&c, vocab);
    host(b, "sample", "params", params, (size_t)rows * sizeof *params);
    sample_row *copy = c.copied = no_null(malloc((size_t)rows * sizeof *copy + 1));
    for (int64_t i = 0; i < rows; i++) {
        copy[i] = params[i];
        memory *m = queueing_of(b)->m;
        const sample_row *row = &params[i];
        const size_t biases = (size_t)row->bias_count * sizeof *row->bias, words = ((size_t)vocab + 31) / 32;
        copy[i].history = row->history ? real(m, "sample", "params->history", row->history, (size_t)vocab * sizeof *row->history) : NULL;
        copy[i].bias = row->bias ? real(m, "sample", "params->bias", row->bias, biases) : NULL;
        copy[i].allowed = row->allowed ? real(m, "sample", "params->allowed", row->allowed, words * sizeof *row->allowed) : NULL;
    }
    submit(b, &c);
}

void queueing_ops(ops *o) {
    o->embed = q_embed;
    o->embed_sum = q_embed_sum;
    o->gather_rows = q_gather_rows;
    o->add_to_rows = q_add_to_rows;
    o->linear = q_linear;
    o->conv1d = q_conv1d;
    o->conv1d_depthwise = q_conv1d_depthwise;
    o->overlap_add = q_overlap_add;
    o->conv2d_3x3_s2 = q_conv2d;
    o->rms_norm = q_rms_norm;
    o->layer_norm = q_layer_norm;
    o->activate = q_activate;
    o->add = q_add;
    o->add_scaled = q_add_scaled;
    o->add_gated = q_add_gated;
    o->silu_mul = q_silu_mul;
    o->snake_beta = q_snake_beta;
    o->angles = q_angles;
    o->head_norm_rope = q_head_norm_rope;
    o->kv_bytes = q_kv_bytes;
    o->kv_copy = q_kv_copy;
    o->kv_write = q_kv_write;
    o->attention = q_attention;
    o->attention_dense = q_attention_dense;
    o->route = q_route;
    o->moe = q_moe;
    o->moe_scratch = q_moe_scratch;
    o->sample = q_sample;
}
