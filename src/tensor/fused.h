/* The steps of a decoder layer as the model files ask for them: each is several operations of tensor/ops.h, which a backend may do in one go.
 *
 * backend.fused lists those that it has; whatever it lacks (a NULL member, or no list at all) is composed of the plain operations by
 * tensor/ops_compose.c, which is also the specification: a backend's own must give the same, bit for bit where it is batch_invariant and else within
 * rounding. The CPU has none.
 *
 * Pointers as in tensor/ops.h: the structs lie in the host's memory and have been copied when a call returns (with the tensors in them); everything
 * else lies in the backend's. scratch: fused_scratch floats, which the call overwrites. Nothing aliases anything but where it says so. */
#ifndef OMNI_TENSOR_FUSED_H
#define OMNI_TENSOR_FUSED_H

#include "tensor/ops.h"

/* What the layers of a decoder have in common. */
typedef struct layer_shape {
    int64_t width;
    int heads, kv_heads, head_dim;
    int experts, experts_used; /* experts 0: a dense MLP */
    int expert_ffn;
    int ffn;                /* width of the dense MLP, or of the gated shared expert; 0: no shared expert */
    bool normalise_weights; /* the used experts' weights are scaled to sum 1 */
    float eps;              /* of the norms */
} layer_shape;

typedef struct layer_weights {
    const float *attn_norm, *ffn_norm; /* [width] */
    const float *q_norm, *k_norm;      /* [head_dim] */
    tensor q, k, v;                    /* {width, heads * head_dim}, {width, kv_heads * head_dim} */
    tensor o;                          /* {heads * head_dim, width} */
    tensor router;                     /* {width, experts} */
    tensor gate_exps, up_exps;         /* {width, expert_ffn, experts} */
    tensor down_exps;                  /* {expert_ffn, width, experts} */
    tensor shared_router;              /* {width, 1} */
    tensor gate, up, down;             /* {width, ffn}, {ffn, width}: the shared expert, or the dense MLP */
} layer_weights;

/* The rows of a pass, for the attention of one layer. */
typedef struct layer_rows {
    int64_t n;
    const float *cos, *sin; /* [n, head_dim / 2] */
    const int32_t *slots;   /* [n] where their keys and values go */
    const int32_t *wanted;  /* [wanted_count] rows, ascending, whose queries are wanted; NULL: all n */
    int64_t wanted_count;   /* with NULL: n */
} layer_rows;

typedef struct fused_ops {
    /* Floats of scratch that any of these needs for at most so many rows. */
    size_t (*scratch)(backend *b, const layer_shape *s, int64_t rows);

    /* Norm, q, k and v, norm of the heads, rotation, and the write to the cache: keys and values of x[n, width] go to the layer of the cache,
     * q[wanted_count, heads, head_dim] receives the queries. wanted_count may be 0. */
    void (*attention_input)(backend *b, const layer_shape *s, const layer_weights *w, const kv_cache *cache, int layer, const layer_rows *rows,
                            const float *x, float *q, float *scratch);
    /* y[row, o] += sum_i x[row, i] w[o, i]; w->ne = {in, out}, rows of x and y lie close. */
    void (*linear_add)(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch);
    /* Norm, router, and the experts of each row: n[rows, width] = rms_norm(x), ids and weights [rows, experts_used] as route gives them. */
    void (*moe_input)(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids, float *weights,
                      float *scratch);
    /* x += the experts' sum + sigmoid(shared_router n) * shared expert(n), each for the rows of n, which may be overwritten. */
    void (*moe_add)(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids, const float *weights,
                    float *x, float *scratch);
    /* x += down(silu(gate n) * up n), n = rms_norm(x), with ffn_norm. */
    void (*mlp_add)(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch);
    /* hidden[rows, width] = rms_norm(x, norm), logits[rows, vocab] = head hidden, and with params the tokens sampled from them, as sample gives them
     * (logits may then be overwritten). head->ne = {width, vocab}. params NULL: ids is not used. */
    void (*head_sample)(backend *b, const float *norm, float eps, const tensor *head, const float *x, int64_t rows, float *hidden, float *logits,
                        const sample_row *params, int32_t *ids);
} fused_ops;

/* The backend's own, or composed. */
size_t fused_scratch(backend *b, const layer_shape *s, int64_t rows);
void fused_attention_input(backend *b, const layer_shape *s, const layer_weights *w, const kv_cache *cache, int layer, const layer_rows *rows,
                           const float *x, float *q, float *scratch);
void fused_linear_add(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch);
void fused_moe_input(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids, float *weights,
                     float *scratch);
void fused_moe_add(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids, const float *weights,
                   float *x, float *scratch);
void fused_mlp_add(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch);
void fused_head_sample(backend *b, const float *norm, float eps, const tensor *head, const float *x, int64_t rows, float *hidden, float *logits,
                       const sample_row *params, int32_t *ids);

/* All of them composed, whatever the backend has: for comparisons. */
extern const fused_ops ops_composed;

#endif
