/* Kernels: what one thread does on one piece of an operation. The operations (linear.c, attention.c, ...) cut the work into
 * pieces for the pool; the kernels here compute a piece. The plain C version of each is the specification; faster versions
 * replace it in the table when the processor can run them.
 *
 * Each version adds up a dot product in an order that depends on its length alone, so a row's result never depends on how many
 * rows or outputs a call covers. Weights of every type are converted to float32 exactly (an F16 scale times an int8 fits 24 bits). */
#ifndef OMNI_CPU_KERNELS_H
#define OMNI_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/packed.h"
#include "tensor/ops.h"
#include "tensor/tensor.h"

enum { CPU_DTYPES = DTYPE_COUNT };

/* y[r * y_stride + o] = bias[o] + sum over segments s and i < n of x_r[s * x_segment + i] * w_o[s * n + i], where
 * x_r = x + (index ? index[r] : r) * x_stride, w_o = w + o * w_stride. A matrix has one segment; a dilated convolution one a tap. */
typedef struct linear_piece {
    const void *w;
    size_t w_stride;   /* bytes */
    bool packed;       /* F32, F16 or BF16 in groups of 16 outputs (cpu/packed.h), w_stride bytes each */
    const float *bias; /* of output 0; NULL: none */
    const float *x;
    int64_t x_stride;
    const int32_t *index;
    float *y;
    int64_t y_stride;
    int64_t n, segments, x_segment;
} linear_piece;

typedef void (*linear_kernel)(const linear_piece *p, int64_t rows, int64_t outs);
/* The same for packed ones. scratch holds GEMM_SCRATCH floats. */
typedef void (*gemm_kernel)(const linear_piece *p, int64_t rows, int64_t outs, float *scratch);
enum { GEMM_ROWS = 96, GEMM_INPUTS = 256, GEMM_SCRATCH = (GEMM_ROWS + 4 * PACK) * GEMM_INPUTS };
/* Inputs summed in one go: rounding errors grow with that, and files of F32 are for exactness. Divides GEMM_INPUTS. */
static inline int gemm_chain(dtype type) {
    return type == DTYPE_F32 ? 16 : 64;
}
typedef void (*convert_kernel)(const void *in, float *out, int64_t n);

/* Consecutive positions of one head's keys and values, strides in elements (of Q8_0: blocks), and which query vectors of the state see
 * them. */
typedef struct attention_span {
    const void *k, *v;
    int64_t k_stride, v_stride;
    size_t v_bytes; /* from one position to the next, if what lies there should be asked for while the scores are computed; or 0 */
    int64_t n;      /* 1 to ATTENTION_SPAN */
    int from, to;
} attention_span;

enum { ATTENTION_HEADS = 16 }; /* most query vectors a call */

/* Softmax attention of query vectors that share one key/value head, accumulated span by span (online softmax). The query vectors are
 * those of several heads or several rows; none affects another. */
typedef struct attention_state {
    int head_dim;
    float scale;
    const float *q[ATTENTION_HEADS];
    float *acc[ATTENTION_HEADS]; /* sum of e^(score - max) v */
    float max[ATTENTION_HEADS], sum[ATTENTION_HEADS];
} attention_state;

enum { ATTENTION_SPAN = KV_BLOCK }; /* most positions a span */

/* A span's scores by query vector, with room for whole vectors behind the last one; attend_weights makes them e^(score - max). */
typedef struct attention_scores {
    float p[ATTENTION_HEADS][ATTENTION_SPAN + PACK];
    float shrink[ATTENTION_HEADS]; /* of what was added up before */
} attention_scores;

/* Rows of one head over plain float32 keys and values: row r, at q + r * q_stride, sees the positions [first[r], end[r]) from 0 on,
 * of which position p lies at k + p * kv_stride. All positions from 0 to the last one seen must be readable. */
typedef struct attention_tile {
    const float *q, *k, *v;
    int64_t q_stride, kv_stride, y_stride;
    const int32_t *first, *end;
    int64_t rows;
    int head_dim;
    float scale;
    float *y;
} attention_tile;

/* Prefetches keys and values of later positions of a tile: each may lie on a page of its own, and the hardware prefetcher does not cross pages. */
static inline void attention_prefetch(const attention_tile *t, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
        for (int d = 0; d < t->head_dim; d += 16) {
            __builtin_prefetch(t->k + i * t->kv_stride + d, 0, 2);
            __builtin_prefetch(t->v + i * t->kv_stride + d, 0, 2);
        }
    }
}

/* Floats of scratch that attend_tile and attend_tile_bf16 need. */
static inline int64_t attention_tile_scratch(int64_t rows, int64_t head_dim) {
    return 2 * (rows + 15 + ATTENTION_SPAN) * (head_dim + 33) + 8 * ATTENTION_SPAN;
}

typedef struct cpu_kernels {
    const char *name;
    /* By weight type; linear is NULL for block types whose weights are always converted to float32 first (cpu/linear.c). */
    linear_kernel linear[CPU_DTYPES];
    /* Rows from which it is faster to convert a tile of weights to float32 once than in every block of rows; 0: never. */
    int convert_rows[CPU_DTYPES];
    convert_kernel to_f32[CPU_DTYPES];
    void (*to_f16)(const float *in, uint16_t *out, int64_t n);
    /* For repacked weights (cpu/packed.h), by their type in the file; NULL for types that are not repacked. */
    packed_kernel packed[CPU_DTYPES];
    packed_kernel packed_many[CPU_DTYPES]; /* for packed_many_rows rows or more, with the same results; NULL: none */
    int packed_many_rows;
    gemm_kernel gemm[CPU_DTYPES];
    quantise_kernel quantise;

    void (*rms_norm)(const float *x, const float *w, float eps, int64_t width, float *y); /* w NULL: all ones */
    void (*layer_norm)(const float *x, const float *w, const float *bias, float eps, int64_t width, float *y);
    void (*rotate)(float *x, const float *cos, const float *sin, int64_t half); /* x[2 * half], in place */

    void (*activate)(activation a, const float *x, int64_t n, float *y);
    void (*silu_mul)(const float *gate, const float *up, int64_t n, float *y);
    void (*add)(const float *x, int64_t n, float *y);
    void (*add_product)(const float *x, const float *scale, int64_t n, float *y); /* y += scale * x, by element */
    void (*add_multiple)(const float *x, float scale, int64_t n, float *y);       /* y += scale * x */
    void (*snake_beta)(const float *x, const float *a, const float *inv_b, int64_t n, float *y);
    /* y[c] = bias[c] + sum_k x[k * width + c] * w[k * width + c] */
    void (*depthwise)(const float *x, const float *w, const float *bias, int64_t kernel, int64_t width, float *y);

    /* A span in three steps: scale * q . k, weights, and acc = acc * shrink + weights v. By the cache's type: keys F32 and F16 (those in
     * Q8_0 are packed weights, whose outputs are scores), values F32, F16 and Q8_0. */
    void (*attend_keys[CPU_DTYPES])(const attention_state *s, const attention_span *span, attention_scores *w);
    void (*attend_weights)(attention_state *s, const attention_span *span, attention_scores *w);
    void (*attend_values[CPU_DTYPES])(attention_state *s, const attention_span *span, const attention_scores *w);
    /* y = softmax(scale * q . k) v, complete; a row that sees nothing gives zeros. */
    void (*attend_tile)(const attention_tile *t, float *scratch);
    /* The same, but q * scale * log2 e, k, v and the exponentials may be rounded to bfloat16. */
    void (*attend_tile_bf16)(const attention_tile *t, float *scratch);

    /* For the kernel tool: the machine's limits as this instruction set reaches them. rounds * PROBE_FLOPS(lanes) operations in
     * registers; n values (a multiple of 64) read and added up. */
    int lanes;
    float (*probe_arithmetic)(int64_t rounds);
    float (*probe_memory)(const float *x, int64_t n);
} cpu_kernels;

enum { PROBE_SUMS = 12 };
#define PROBE_FLOPS(lanes) (2 * PROBE_SUMS * (lanes))

/* Fill (generic) or overwrite (the others) the table. */
void kernels_generic(cpu_kernels *k);
void kernels_avx2(cpu_kernels *k);
void kernels_avx512(cpu_kernels *k);
void kernels_neon(cpu_kernels *k);
void attention_avx512bf16(cpu_kernels *k);
void attention_amx(cpu_kernels *k);
/* The part for packed weights, in files of its own. */
void packed_generic(cpu_kernels *k);
void packed_avx2(cpu_kernels *k);
void packed_avxvnni(cpu_kernels *k);
void packed_avx512vnni(cpu_kernels *k);
void packed_amx(cpu_kernels *k);
void packed_neon(cpu_kernels *k);
void packed_neon_dotprod(cpu_kernels *k);
void packed_neon_i8mm(cpu_kernels *k);

enum { KERNEL_ISAS = 8 };

/* The instruction sets that this binary and this processor offer, from plain to best: names[0] is "generic". Returns how many. */
int kernels_isas(const char *names[KERNEL_ISAS]);
/* The one to take: the last, but where its instructions are slow. */
const char *kernels_best(void);
/* The kernels of one of those instruction sets; false for a name that is none. */
bool kernels_select(const char *isa, cpu_kernels *k);

#endif
