/* The operations that model files are written against, and the backend that performs them.
 *
 * Activations are float32, row-major, in the backend's memory (ops->alloc). "rows" is how many, "width" values a row.
 * Weights are tensors of any type the backend knows; vectors (norm weights, biases) are F32 once loaded.
 * A backend may queue an operation and return; operations on one backend take effect in order. Nothing is read back and
 * nothing is allocated in a step. Output may alias input only where a comment says so.
 *
 * Where arguments lie, and how long they must stay:
 *   - what lies in the host's memory has been copied when the call returns, so the caller may refill or free it at once. These are: upload's
 *     source, sample's params, the structs behind tensor and kv_cache pointers (not what they point to), and all numbers;
 *   - download's destination is filled when the call returns;
 *   - every other pointer is to the backend's memory, index arrays (ids, index, axis, slots, block_table, at, first, end) and what sample_row points
 * to included. Its contents change only by operations, in their order, and release waits for those that are queued. Weights lie where pack or upload
 *     put them, or (where packed_size says so) in the file's mapping, as long as the model.
 * tests/unit/queueing_backend.h holds the code above to this: its memory is out of the host's reach, and it queues.
 * Where the backend says batch_invariant, a row's result is bit for bit independent of the other rows of the call and of the number of threads;
 * elsewhere it may differ by rounding. */
#ifndef OMNI_TENSOR_OPS_H
#define OMNI_TENSOR_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/sampling.h"
#include "tensor/tensor.h"

typedef struct backend backend;

enum { KV_BLOCK = 64 };     /* positions a block of the key/value cache */
enum { KV_Q8_HEAD = 1024 }; /* largest head of a Q8_0 cache; a multiple of 32 */

/* Keys and values of every layer for a pool of blocks, F32, F16 or Q8_0. How they lie in k and v, which have kv_bytes each, is the backend's affair:
 * only kv_write and kv_copy fill them, and only attention reads them. */
typedef struct kv_cache {
    dtype k_type, v_type;
    int layers, kv_heads, head_dim;
    int64_t blocks;
    void *k, *v;
} kv_cache;

/* Which cached positions a row attends to: [first, end) of its sequence, whose blocks are
 * block_table[table + 0], block_table[table + 1], ... (position p lies in block p / KV_BLOCK at offset p % KV_BLOCK). */
typedef struct attention_row {
    int32_t table;
    int32_t first, end;
} attention_row;

typedef enum activation {
    ACT_NONE,
    ACT_SILU,
    ACT_GELU,      /* x / 2 * (1 + erf(x / sqrt 2)) */
    ACT_GELU_TANH, /* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) */
} activation;

/* Which operations a matrix is for. */
typedef enum weight_use {
    WEIGHT_TABLE,       /* {width, rows}: embed, embed_sum */
    WEIGHT_LINEAR,      /* {in, out}: linear */
    WEIGHT_EXPERTS,     /* {in, out, experts}: moe */
    WEIGHT_CONVOLUTION, /* conv1d, conv2d_3x3_s2; seen as {all its inputs, out} */
} weight_use;

enum { CONV2D_CHANNELS = 8192 }; /* most input channels of conv2d_3x3_s2 */

typedef struct ops {
    /* ---- memory: 64-byte aligned, zeroed; the only functions that may fail ---- */
    omni_status (*alloc)(backend *b, size_t bytes, void **out, omni_error *err);
    void (*release)(backend *b, void *memory);                              /* once what is queued has been done */
    void (*upload)(backend *b, void *to, const void *from, size_t bytes);   /* host to backend; from: copied before it returns */
    void (*download)(backend *b, void *to, const void *from, size_t bytes); /* backend to host; waits for what is queued */
    void (*copy)(backend *b, void *to, const void *from, size_t bytes);     /* within the backend; may overlap */

    /* ---- weights ---- */
    /* Bytes that the matrix, which lies in the host's memory, takes in the backend's for this use; 0: it is best left where it is, which only a
     * backend whose operations read the host's memory may say. */
    size_t (*packed_size)(backend *b, weight_use use, const tensor *t);
    /* Fills memory (packed_size bytes from alloc) with the matrix and points *t at it: size, data and, for a layout of the backend's own, packed
     * change. The original may go; done(arg, begin, end), which may be NULL, says of each range of its bytes that it has been read, in ascending
     * order. Later t->ne[0] of a packed matrix may be made less, but not by a whole block: linear then takes that many inputs, as if zeros
     * followed. */
    void (*pack)(backend *b, weight_use use, tensor *t, void *memory, void (*done)(void *arg, size_t begin, size_t end), void *arg);

    /* ---- rows ---- */
    /* y[rows, width] = table[ids[row]]; ids lie in the backend's memory; -1, which sample gives where there was nothing to choose
     * from, makes a row of NaN; others outside the table are a caller's bug. width = table->ne[0]. */
    void (*embed)(backend *b, const tensor *table, const int32_t *ids, int64_t rows, float *y);
    /* y[row] = scale * sum over j < n of table[ids[row * n + j] + j * step]: code j uses rows from j * step on. */
    void (*embed_sum)(backend *b, const tensor *table, const int32_t *ids, int64_t rows, int64_t n, int64_t step, float scale, float *y);
    /* y[i] = x[index[i]] and y[index[i]] += x[i] for i < rows; indices of the latter are distinct. index: in the backend's memory. */
    void (*gather_rows)(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y);
    void (*add_to_rows)(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y);

    /* ---- linear maps ---- */
    /* y[row, o] = bias[o] + sum_i x[row, i] w[o, i], w->ne = {in, out}; bias NULL or F32 [out], strides in values.
     * With x_stride < in, rows of x overlap: that is a convolution over time-major samples. */
    void (*linear)(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride);
    /* As linear with a dilated window: y[t, o] = bias[o] + sum_k sum_c x[t + k * dilation, c] w[o, k, c].
     * w->ne = {channels, kernel, out}; x has rows + (kernel - 1) * dilation rows. */
    void (*conv1d)(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y);
    /* Depthwise: y[t, c] = bias[c] + sum_k x[t + k, c] w[k, c]; w->ne = {channels, kernel}, F32; x has rows + kernel - 1 rows. */
    void (*conv1d_depthwise)(backend *b, const tensor *w, const float *bias, const float *x, int64_t rows, float *y);
    /* Overlap-add half of a transposed convolution whose linear half gave z[rows, kernel, channels] (w->ne = {in, channels, kernel}):
     * y[t * stride + k, c] = sum of the z that fall there, plus bias[c]. Needs kernel <= 2 * stride.
     * tail[kernel - stride, channels] holds what earlier rows left for the first outputs and receives what these rows leave
     * (without bias). y has rows * stride rows. */
    void (*overlap_add)(backend *b, const float *z, const float *bias, int64_t rows, int64_t kernel, int64_t stride, int64_t channels, float *tail,
                        float *y);
    /* 3x3 convolution, stride 2, padding 1 on all sides, channels last: x[n, height, width, in] to
     * y[n, (height + 1) / 2, (width + 1) / 2, out]; w->ne = {in, 3 (x), 3 (y), out}, in at most CONV2D_CHANNELS. */
    void (*conv2d_3x3_s2)(backend *b, const tensor *w, const float *bias, const float *x, int64_t n, int64_t height, int64_t width, float *y);

    /* ---- normalisation and elementwise; y may be x ---- */
    void (*rms_norm)(backend *b, const float *x, const float *w, float eps, int64_t rows, int64_t width, float *y);
    void (*layer_norm)(backend *b, const float *x, const float *w, const float *bias, float eps, int64_t rows, int64_t width, float *y);
    void (*activate)(backend *b, activation a, const float *x, int64_t n, float *y);
    void (*add)(backend *b, const float *x, int64_t n, float *y); /* y += x */
    /* y[row, c] += scale[c] * x[row, c] (LayerScale) */
    void (*add_scaled)(backend *b, const float *x, const float *scale, int64_t rows, int64_t width, float *y);
    /* y[row, c] += sigmoid(gate[row]) * x[row, c] */
    void (*add_gated)(backend *b, const float *x, const float *gate, int64_t rows, int64_t width, float *y);
    /* y = silu(gate) * up, n values each; y may be gate or up */
    void (*silu_mul)(backend *b, const float *gate, const float *up, int64_t n, float *y);
    /* SnakeBeta with both parameters already transformed: y = x + sin(a[c] x)^2 * inv_b[c], a = e^alpha, inv_b = 1 / (e^beta + 1e-9). */
    void (*snake_beta)(backend *b, const float *x, const float *a, const float *inv_b, int64_t rows, int64_t width, float *y);

    /* ---- attention ---- */
    /* cos and sin [rows, half] of the angle positions[row, axis[j]] * inv_freq[j], a float32 product, j < half; positions [rows, 3], axis 0 to 2. */
    void (*angles)(backend *b, const float *positions, const float *inv_freq, const int32_t *axis, int64_t rows, int half, float *cos, float *sin);
    /* RMSNorm over each head (weight NULL: none), then the half-split rotation: pair (j, j + half) rotated by the row's angle j,
     * half = head_dim / 2; cos and sin [rows, half] (NULL: no rotation). In place on x[rows, heads, head_dim]. */
    void (*head_norm_rope)(backend *b, float *x, int64_t rows, int64_t x_stride, int heads, int head_dim, const float *weight, float eps,
                           const float *cos, const float *sin);
    /* Bytes of the keys, or of the values, of a cache; SIZE_MAX when it is too large to address. */
    size_t (*kv_bytes)(backend *b, dtype type, int layers, int kv_heads, int head_dim, int64_t blocks);
    /* Block `to` of every layer becomes what block `from` holds. */
    void (*kv_copy)(backend *b, const kv_cache *cache, int32_t to, int32_t from);
    /* Stores k and v [rows, kv_heads, head_dim] of one layer; slots[row] = block * KV_BLOCK + offset, in the backend's memory. */
    void (*kv_write)(backend *b, const kv_cache *cache, int layer, const int32_t *slots, const float *k, const float *v, int64_t rows);
    /* y[row, head] = softmax(scale * q . k) v over the row's cached positions; query head h reads kv head h / (heads / kv_heads).
     * q, y: [rows, heads, head_dim]. block_table and at: in the backend's memory. */
    void (*attention)(backend *b, const kv_cache *cache, int layer, const int32_t *block_table, const attention_row *at, const float *q, int64_t rows,
                      int heads, float scale, float *y);
    /* The same over plain k, v [positions, kv_heads, head_dim] with strides in values: row r attends to positions [first[r], end[r]), both
     * in the backend's memory. bf16: the backend may round inputs and probabilities to bfloat16, as suits a part whose weights are quantised. */
    void (*attention_dense)(backend *b, const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int32_t *first,
                            const int32_t *end, int64_t rows, int heads, int kv_heads, int head_dim, float scale, bool bf16, float *y);

    /* ---- mixture of experts ---- */
    /* Softmax over experts, the used largest (lower index first on ties), renormalised to sum 1 when normalise. */
    void (*route)(backend *b, const float *logits, int64_t rows, int experts, int used, bool normalise, int32_t *ids, float *weights);
    /* y[row] = sum over j of weights[row, j] * down_e(silu(gate_e x) * up_e x), e = ids[row, j], summed in the order of j.
     * gate, up: ne = {width, ffn, experts}; down: ne = {ffn, width, experts}.
     * scratch: moe_scratch(...) floats. */
    void (*moe)(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *x, int64_t rows, const int32_t *ids,
                const float *weights, int used, float *scratch, float *y);
    /* Floats of scratch that moe needs for at most rows rows. */
    size_t (*moe_scratch)(backend *b, int64_t rows, int used, int64_t width, int64_t ffn);

    /* ---- choosing ---- */
    /* ids[row] = the token chosen from logits[row, vocab] under params[row] (tensor/sampling.h), or SAMPLE_DAMAGED, SAMPLE_NONE. Logits may be
     * overwritten. params: in the host's memory, copied before the call returns; what they point to, and ids: in the backend's. */
    void (*sample)(backend *b, float *logits, int64_t rows, int64_t vocab, const sample_row *params, int32_t *ids);
} ops;

/* Shown the inputs of every linear map and mixture, on the calling thread: slot s of slots reads row index[s] (NULL: s / repeat) of x, w->ne[0]
 * values, rows x_stride values apart, for matrix experts[s] of w (NULL: the only one). x, index and experts lie in the host's memory. */
typedef struct input_collector {
    void (*collect)(void *arg, const tensor *w, const float *x, int64_t slots, int64_t x_stride, int repeat, const int32_t *index,
                    const int32_t *experts);
    void *arg;
} input_collector;

/* Who is told how far the taking up of weights has come. tell may be NULL; false cancels. */
typedef struct weights_progress {
    bool (*tell)(void *arg, const char *what, uint64_t done, uint64_t total);
    void *arg;
    uint64_t done, total; /* bytes */
    bool cancelled;
} weights_progress;

struct backend {
    const struct ops *ops;
    const struct fused_ops *fused; /* what it does in one go (tensor/fused.h); NULL: nothing, all is composed of ops */
    const char *name;              /* "cpu", "cuda" */
    const char *description;       /* versions in use, for people: "AVX-512, 2 threads" */
    int prompt_rows;               /* of prompts in a pass, unless the user says otherwise: more are no faster */
    bool batch_invariant;          /* a row's result does not depend on the other rows of the call */
    /* linear is faster over Q8_0 than over float types, and takes fewer inputs than a matrix was packed with: a float matrix among quantised ones,
     * whose rows are no whole blocks, is worth rounding to Q8_0 with zeros behind (weights_linear_like). */
    bool rounds_floats;
    struct profile *profile; /* NULL: nothing is measured (tensor/profile.h) */
    weights_progress loading;

    /* What only some backends have. NULL: there is nothing to do. */
    /* The calling thread works for the backend until it leaves. In pairs, which may be nested; not from two threads at the same moment. */
    void (*enter)(backend *b);
    void (*leave)(backend *b);
    /* A second backend with the same memory and weights, for work beside this one's, on another thread. *out NULL: it would be of no use. */
    omni_status (*create_beside)(backend *b, backend **out, omni_error *err);
    /* While the one beside works, this one leaves it its part of the machine. */
    void (*give_way)(backend *b, bool give);
    /* What has gone wrong in a queued operation, which could not say so: OMNI_OK, or the first error, for ever. Nothing computed since is to be
     * believed. Only after a download is everything known that was queued before it. */
    omni_status (*failure)(backend *b, omni_error *err);
    /* Shows *collector the inputs of all operations from now on, for importance matrices; it lives as long as it is set. collector NULL: no more.
     * The member NULL: the backend cannot. */
    void (*collect_inputs)(backend *b, const input_collector *collector);
    void (*destroy)(backend *b);
};

static inline void backend_enter(backend *b) {
    if (b->enter) {
        b->enter(b);
    }
}

static inline void backend_leave(backend *b) {
    if (b->leave) {
        b->leave(b);
    }
}

/* Whether operations return before they are done; a download waits for them. */
static inline bool backend_queues(const backend *b) {
    return b->failure != NULL;
}

/* Until all is done that was queued. */
static inline void backend_wait(backend *b) {
    char nothing;
    if (backend_queues(b)) {
        b->ops->download(b, &nothing, &nothing, 0);
    }
}

static inline omni_status backend_failure(backend *b, omni_error *err) {
    return b->failure ? b->failure(b, err) : OMNI_OK;
}

static inline void backend_destroy(backend *b) {
    if (b && b->destroy) {
        b->destroy(b);
    }
}

#endif
