/* The fused operations in terms of the plain ones. */
#include "base/arena.h"
#include "tensor/fused.h"

static float *part(arena *a, int64_t rows, int64_t width) {
    return arena_take(a, rows, width, sizeof(float));
}

/* ---- attention ---- */

typedef struct attention_parts {
    float *n;     /* [rows, width] the normed rows */
    float *k, *v; /* [rows, kv_heads, head_dim] */
    float *some;  /* [rows, width] of n the wanted ones */
} attention_parts;

static attention_parts attention_scratch(const layer_shape *s, int64_t rows, arena *a) {
    const int64_t kv_width = (int64_t)s->kv_heads * s->head_dim;
    return (attention_parts){
        .n = part(a, rows, s->width), .k = part(a, rows, kv_width), .v = part(a, rows, kv_width), .some = part(a, rows, s->width)};
}

static void attention_input(backend *b, const layer_shape *s, const layer_weights *w, const kv_cache *cache, int layer, const layer_rows *r,
                            const float *x, float *q, float *scratch) {
    const ops *o = b->ops;
    const int64_t width = s->width, half = s->head_dim / 2, q_width = (int64_t)s->heads * s->head_dim, kv_width = (int64_t)s->kv_heads * s->head_dim;
    const attention_parts p = attention_scratch(s, r->n, &(arena){.base = (char *)scratch});
    o->rms_norm(b, x, w->attn_norm, s->eps, r->n, width, p.n);
    o->linear(b, &w->k, NULL, p.n, r->n, width, p.k, kv_width);
    o->linear(b, &w->v, NULL, p.n, r->n, width, p.v, kv_width);
    o->head_norm_rope(b, p.k, r->n, kv_width, s->kv_heads, s->head_dim, w->k_norm, s->eps, r->cos, r->sin);
    o->kv_write(b, cache, layer, r->slots, p.k, p.v, r->n);
    if (r->wanted_count == 0) {
        return;
    }
    const float *n = p.n, *cos = r->cos, *sin = r->sin;
    if (r->wanted) { /* k and v are stored: their memory can take the rotation of the wanted rows (half <= kv_width) */
        o->gather_rows(b, p.n, r->wanted, r->wanted_count, width, p.some);
        o->gather_rows(b, r->cos, r->wanted, r->wanted_count, half, p.k);
        o->gather_rows(b, r->sin, r->wanted, r->wanted_count, half, p.v);
        n = p.some;
        cos = p.k;
        sin = p.v;
    }
    o->linear(b, &w->q, NULL, n, r->wanted_count, width, q, q_width);
    o->head_norm_rope(b, q, r->wanted_count, q_width, s->heads, s->head_dim, w->q_norm, s->eps, cos, sin);
}

static void linear_add(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch) {
    b->ops->linear(b, w, NULL, x, rows, w->ne[0], scratch, w->ne[1]);
    b->ops->add(b, scratch, rows * w->ne[1], y);
}

/* ---- feed-forward ---- */

typedef struct mlp_parts {
    float *n, *y;     /* [rows, width] */
    float *gate, *up; /* [rows, ffn] */
} mlp_parts;

static mlp_parts mlp_scratch(const layer_shape *s, int64_t rows, arena *a) {
    return (mlp_parts){.n = part(a, rows, s->width), .y = part(a, rows, s->width), .gate = part(a, rows, s->ffn), .up = part(a, rows, s->ffn)};
}

/* gate[rows, ffn] = silu(gate n) * up n */
static void gate_and_up(backend *b, const layer_shape *s, const layer_weights *w, const float *n, int64_t rows, float *gate, float *up) {
    b->ops->linear(b, &w->gate, NULL, n, rows, s->width, gate, s->ffn);
    b->ops->linear(b, &w->up, NULL, n, rows, s->width, up, s->ffn);
    b->ops->silu_mul(b, gate, up, rows * s->ffn, gate);
}

static void mlp_add(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch) {
    const mlp_parts p = mlp_scratch(s, rows, &(arena){.base = (char *)scratch});
    b->ops->rms_norm(b, x, w->ffn_norm, s->eps, rows, s->width, p.n);
    gate_and_up(b, s, w, p.n, rows, p.gate, p.up);
    b->ops->linear(b, &w->down, NULL, p.gate, rows, s->ffn, p.y, s->width);
    b->ops->add(b, p.y, rows * s->width, x);
}

static void moe_input(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids, float *weights,
                      float *scratch) {
    b->ops->rms_norm(b, x, w->ffn_norm, s->eps, rows, s->width, n);
    b->ops->linear(b, &w->router, NULL, n, rows, s->width, scratch, s->experts);
    b->ops->route(b, scratch, rows, s->experts, s->experts_used, s->normalise_weights, ids, weights);
}

typedef struct moe_parts {
    float *y;           /* [rows, width] what is added */
    float *gate, *up;   /* [rows, ffn] of the shared expert */
    float *shared_gate; /* [rows] */
    float *experts;     /* moe_scratch */
} moe_parts;

static moe_parts moe_scratch(backend *b, const layer_shape *s, int64_t rows, arena *a) {
    return (moe_parts){.y = part(a, rows, s->width),
                       .gate = part(a, rows, s->ffn),
                       .up = part(a, rows, s->ffn),
                       .shared_gate = part(a, rows, 1),
                       .experts = part(a, 1, (int64_t)b->ops->moe_scratch(b, rows, s->experts_used, s->width, s->expert_ffn))};
}

static void moe_add(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids, const float *weights,
                    float *x, float *scratch) {
    const ops *o = b->ops;
    const moe_parts p = moe_scratch(b, s, rows, &(arena){.base = (char *)scratch});
    o->moe(b, &w->gate_exps, &w->up_exps, &w->down_exps, n, rows, ids, weights, s->experts_used, p.experts, p.y);
    if (s->ffn) {
        gate_and_up(b, s, w, n, rows, p.gate, p.up);
        o->linear(b, &w->shared_router, NULL, n, rows, s->width, p.shared_gate, 1);
        o->linear(b, &w->down, NULL, p.gate, rows, s->ffn, n, s->width); /* n is not needed any more */
        o->add_gated(b, n, p.shared_gate, rows, s->width, p.y);
    }
    o->add(b, p.y, rows * s->width, x);
}

/* ---- head ---- */

static void head_sample(backend *b, const float *norm, float eps, const tensor *head, const float *x, int64_t rows, float *hidden, float *logits,
                        const sample_row *params, int32_t *ids) {
    const int64_t width = head->ne[0], vocab = head->ne[1];
    b->ops->rms_norm(b, x, norm, eps, rows, width, hidden);
    b->ops->linear(b, head, NULL, hidden, rows, width, logits, vocab);
    if (params) {
        b->ops->sample(b, logits, rows, vocab, params, ids);
    }
}

/* ---- all of them ---- */

static size_t scratch(backend *b, const layer_shape *s, int64_t rows) {
    arena attention = {0}, mlp = {0}, router = {0}, moe = {0};
    attention_scratch(s, rows, &attention);
    if (s->experts) {
        part(&router, rows, s->experts);
        moe_scratch(b, s, rows, &moe);
    } else {
        mlp_scratch(s, rows, &mlp);
    }
    const size_t all[] = {attention.used, mlp.used, router.used, moe.used};
    size_t most = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        most = all[i] > most ? all[i] : most;
    }
    return most / sizeof(float);
}

const fused_ops ops_composed = {.scratch = scratch,
                                .attention_input = attention_input,
                                .linear_add = linear_add,
                                .moe_input = moe_input,
                                .moe_add = moe_add,
                                .mlp_add = mlp_add,
                                .head_sample = head_sample};

/* The backend's own where it has one. */
#define PICK(b, name) ((b)->fused && (b)->fused->name ? (b)->fused->name : ops_composed.name)

size_t fused_scratch(backend *b, const layer_shape *s, int64_t rows) {
    const size_t composed = scratch(b, s, rows), own = b->fused && b->fused->scratch ? b->fused->scratch(b, s, rows) : 0;
    return own > composed ? own : composed;
}

void fused_attention_input(backend *b, const layer_shape *s, const layer_weights *w, const kv_cache *cache, int layer, const layer_rows *rows,
                           const float *x, float *q, float *scratch_memory) {
    PICK(b, attention_input)(b, s, w, cache, layer, rows, x, q, scratch_memory);
}

void fused_linear_add(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch_memory) {
    PICK(b, linear_add)(b, w, x, rows, y, scratch_memory);
}

void fused_moe_input(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids, float *weights,
                     float *scratch_memory) {
    PICK(b, moe_input)(b, s, w, x, rows, n, ids, weights, scratch_memory);
}

void fused_moe_add(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids, const float *weights,
                   float *x, float *scratch_memory) {
    PICK(b, moe_add)(b, s, w, n, rows, ids, weights, x, scratch_memory);
}

void fused_mlp_add(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch_memory) {
    PICK(b, mlp_add)(b, s, w, rows, x, scratch_memory);
}

void fused_head_sample(backend *b, const float *norm, float eps, const tensor *head, const float *x, int64_t rows, float *hidden, float *logits,
                       const sample_row *params, int32_t *ids) {
    PICK(b, head_sample)(b, norm, eps, head, x, rows, hidden, logits, params, ids);
}
