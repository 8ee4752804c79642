/* Every operation of the CUDA backend against the CPU's, on random shapes: check_operations [ROUNDS [SEED]].
 *
 * Linked with the emulation (tests/cuda/emulated) it runs anywhere; linked with libomni-cuda it checks a card. A case is run on both sides from the
 * same random numbers and what it gives is compared. Quantised weights are multiplied in float32 on both sides, or, in the cases of rounded inputs,
 * with int8 on both. Prints the largest error of each
 * operation, as a share of the largest value, and "N passed, N failed". */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "tensor/blocks.h"
#include "tensor/fused.h"

enum { MOST_HELD = 64 };

typedef struct side {
    backend *b;
    uint64_t random;
    void *held[MOST_HELD];
    int held_count;
    float *results;
    size_t count, capacity;
} side;

static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fprintf(stderr, "check_operations: %s\n", err.text);
        exit(1);
    }
}

static uint32_t bits(side *s) { /* xorshift64* (Vigna, 2016) */
    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    return (uint32_t)(s->random * 0x2545F4914F6CDD1Dull >> 32);
}

static int64_t between(side *s, int64_t low, int64_t high) {
    return low + bits(s) % (uint64_t)(high - low + 1);
}

static int64_t one_of(side *s, int n, ...) {
    va_list args;
    const int64_t pick = between(s, 0, n - 1);
    int64_t v = 0;
    va_start(args, n);
    for (int64_t i = 0; i <= pick; i++) {
        v = va_arg(args, int);
    }
    va_end(args);
    return v;
}

static float number(side *s) { /* between -1 and 1 */
    return (float)(int32_t)bits(s) * 0x1p-31f;
}

static void *held(side *s, size_t bytes) {
    if (s->held_count == MOST_HELD) {
        abort();
    }
    must(s->b->ops->alloc(s->b, bytes, &s->held[s->held_count], &err));
    return s->held[s->held_count++];
}

static void *put(side *s, const void *from, size_t bytes) {
    void *p = held(s, bytes);
    s->b->ops->upload(s->b, p, from, bytes);
    return p;
}

static float *host_numbers(side *s, int64_t n) {
    float *x = malloc((size_t)n * sizeof *x + 1);
    for (int64_t i = 0; i < n; i++) {
        x[i] = number(s);
    }
    return x;
}

static float *numbers(side *s, int64_t n) {
    float *x = host_numbers(s, n), *p = put(s, x, (size_t)n * sizeof *x);
    free(x);
    return p;
}

static int32_t *indices(side *s, int64_t n, int64_t below) {
    int32_t *x = malloc((size_t)n * sizeof *x + 1);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (int32_t)between(s, 0, below - 1);
    }
    int32_t *p = put(s, x, (size_t)n * sizeof *x);
    free(x);
    return p;
}

static float *room(side *s, int64_t n) {
    return held(s, (size_t)n * sizeof(float));
}

static void result(side *s, const float *p, int64_t n) {
    if (s->count + (size_t)n > s->capacity) {
        s->capacity = 2 * (s->count + (size_t)n);
        s->results = realloc(s->results, s->capacity * sizeof *s->results);
        if (!s->results) {
            abort();
        }
    }
    s->b->ops->download(s->b, s->results + s->count, p, (size_t)n * sizeof *p);
    s->count += (size_t)n;
}

static void result_ids(side *s, const int32_t *p, int64_t n) {
    int32_t *x = malloc((size_t)n * sizeof *x + 1);
    float *f = malloc((size_t)n * sizeof *f + 1);
    s->b->ops->download(s->b, x, p, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        f[i] = (float)x[i];
    }
    float *q = put(s, f, (size_t)n * sizeof *f);
    result(s, q, n);
    free(x);
    free(f);
}

static const dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,   DTYPE_Q5_1,   DTYPE_Q8_0,
                              DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4};
enum { TYPES = sizeof types / sizeof *types };

/* A width that the type can have. */
static int64_t width_for(side *s, dtype type, int64_t most) {
    const int64_t block = dtype_find(type)->block, blocks = most / block > 0 ? most / block : 1;
    return block == 1 ? between(s, 1, most) : block * between(s, 1, blocks);
}

/* Any bytes are blocks, but their scales should be numbers of some sense. */
static void random_blocks(side *s, dtype type, char *stored, size_t size) {
    const size_t bytes = dtype_find(type)->bytes;
    for (size_t i = 0; i < size; i++) {
        stored[i] = (char)bits(s);
    }
    for (size_t i = 0; i < size; i += bytes) {
        const uint16_t scale = f16_from_f32(0.003f), scales[2] = {scale, scale};
        if (type == DTYPE_MXFP4) {
            stored[i] = 120;
        } else if (type == DTYPE_Q2_K) {
            memcpy(stored + i + offsetof(block_q2_k, d), scales, 4);
        } else {
            memcpy(stored + i + (type == DTYPE_Q3_K ? offsetof(block_q3_k, d) : 0), scales, 2); /* the other types begin with theirs */
        }
    }
}

/* One of the types that weights can have here, made of random numbers. */
static tensor weights(side *s, weight_use use, dtype type, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    tensor t = {.name = "w", .type = type, .n_dims = n3 > 1 ? 4 : n2 > 1 ? 3 : 2, .ne = {n0, n1, n2, n3}};
    tensor m = t;
    if (use == WEIGHT_CONVOLUTION) { /* as model/weights.h has it placed */
        m.ne[1] = n3 > 1 ? n3 : n2;
        m.ne[0] = n0 * n1 * (n3 > 1 ? n2 : 1);
        m.ne[2] = m.ne[3] = 1;
        m.n_dims = 2;
    }
    const size_t row = dtype_row_bytes(type, m.ne[0]);
    char *stored = malloc(row * (size_t)tensor_rows(&m));
    m.data = stored;
    m.size = row * (size_t)tensor_rows(&m);
    for (int64_t r = 0; dtype_writable(type) && r < tensor_rows(&m); r++) {
        float *x = host_numbers(s, m.ne[0]);
        dtype_from_f32(type, x, stored + (size_t)r * row, m.ne[0]);
        free(x);
    }
    if (!dtype_writable(type)) {
        random_blocks(s, type, stored, m.size);
    }
    const size_t size = s->b->ops->packed_size(s->b, use, &m);
    if (size) {
        s->b->ops->pack(s->b, use, &m, held(s, size), NULL, NULL);
    } else {
        m.data = put(s, stored, m.size);
    }
    free(stored);
    t.data = m.data;
    t.size = m.size;
    t.packed = m.packed;
    return t;
}

/* ---- cases: each returns the error that it allows, as a share of the largest value ---- */

static double case_embed(side *s) {
    const dtype type = types[between(s, 0, TYPES - 1)];
    const int64_t width = width_for(s, type, 600), vocab = between(s, 1, 40), rows = between(s, 1, 9), n = between(s, 1, 5);
    tensor t = weights(s, WEIGHT_TABLE, type, width, vocab, 1, 1);
    float *y = room(s, rows * width);
    s->b->ops->embed(s->b, &t, indices(s, rows, vocab), rows, y);
    result(s, y, rows * width);
    const int64_t step = vocab / n;
    if (step > 0) {
        s->b->ops->embed_sum(s->b, &t, indices(s, rows * n, step), rows, n, step, 0.25f, y);
        result(s, y, rows * width);
    }
    return 1e-6;
}

static double case_rows(side *s) {
    const int64_t rows = between(s, 1, 20), width = between(s, 1, 300);
    float *x = numbers(s, rows * width), *y = numbers(s, rows * width), *z = room(s, rows * width);
    s->b->ops->gather_rows(s->b, x, indices(s, rows, rows), rows, width, z);
    result(s, z, rows * width);
    int32_t own[20];
    for (int32_t i = 0; i < rows; i++) {
        own[i] = (int32_t)(rows - 1 - i);
    }
    s->b->ops->add_to_rows(s->b, x, put(s, own, (size_t)rows * sizeof *own), rows, width, y);
    s->b->ops->add(s->b, x, rows * width, y);
    s->b->ops->add_scaled(s->b, x, numbers(s, width), rows, width, y);
    s->b->ops->add_gated(s->b, x, numbers(s, rows), rows, width, y);
    result(s, y, rows * width);
    s->b->ops->silu_mul(s->b, x, y, rows * width, y);
    result(s, y, rows * width);
    for (activation a = ACT_NONE; a <= ACT_GELU_TANH; a++) {
        s->b->ops->activate(s->b, a, x, rows * width, y);
        result(s, y, rows * width);
    }
    s->b->ops->snake_beta(s->b, x, numbers(s, width), numbers(s, width), rows, width, y);
    result(s, y, rows * width);
    if (rows > 1) { /* ranges that overlap, both ways */
        s->b->ops->copy(s->b, x, x + width, (size_t)((rows - 1) * width) * sizeof *x);
        result(s, x, rows * width);
        s->b->ops->copy(s->b, x + width, x, (size_t)((rows - 1) * width) * sizeof *x);
        result(s, x, rows * width);
    }
    return 2e-6;
}

static double case_norms(side *s) {
    const int64_t rows = between(s, 1, 9), width = between(s, 1, 900);
    float *x = numbers(s, rows * width), *w = numbers(s, width), *bias = numbers(s, width), *y = room(s, rows * width);
    s->b->ops->rms_norm(s->b, x, w, 1e-6f, rows, width, y);
    result(s, y, rows * width);
    s->b->ops->layer_norm(s->b, x, w, bias, 1e-5f, rows, width, y);
    result(s, y, rows * width);
    return 5e-6;
}

static double case_heads(side *s) {
    const int heads = (int)between(s, 1, 5), head_dim = 2 * (int)between(s, 1, 80), half = head_dim / 2;
    const int64_t rows = between(s, 1, 7), stride = heads * head_dim + between(s, 0, 3);
    float *x = numbers(s, rows * stride), *cosine = room(s, rows * half), *sine = room(s, rows * half);
    s->b->ops->angles(s->b, numbers(s, rows * 3), numbers(s, half), indices(s, half, 3), rows, half, cosine, sine);
    result(s, cosine, rows * half);
    result(s, sine, rows * half);
    const bool normed = between(s, 0, 1), turned = between(s, 0, 1);
    float *weight = numbers(s, head_dim);
    s->b->ops->head_norm_rope(s->b, x, rows, stride, heads, head_dim, normed ? weight : NULL, 1e-6f, turned ? cosine : NULL, turned ? sine : NULL);
    result(s, x, rows * stride);
    return 5e-6;
}

/* Types whose products with few rows round their inputs on a card. */
static const dtype rounded_types[] = {DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K};
enum { ROUNDED_TYPES = sizeof rounded_types / sizeof *rounded_types };

static bool is_rounded(dtype type) {
    for (int i = 0; i < ROUNDED_TYPES; i++) {
        if (rounded_types[i] == type) {
            return true;
        }
    }
    return false;
}

static void linear_case(side *s, dtype type, int64_t rows) {
    const int64_t in = width_for(s, type, 700), outs = between(s, 1, 150);
    tensor w = weights(s, WEIGHT_LINEAR, type, in, outs, 1, 1);
    const int64_t x_stride = dtype_find(type)->block == 1 && between(s, 0, 3) == 0 ? (in + 1) / 2 : in + between(s, 0, 5),
                  y_stride = outs + between(s, 0, 3);
    float *x = numbers(s, rows * x_stride + in), *bias = numbers(s, outs), *y = room(s, rows * y_stride);
    s->b->ops->linear(s->b, &w, between(s, 0, 1) ? bias : NULL, x, rows, x_stride, y, y_stride);
    result(s, y, rows * y_stride);
}

static double case_linear(side *s) {
    const dtype type = types[between(s, 0, TYPES - 1)];
    const int64_t rows = one_of(s, 8, 1, 1, 2, 3, 5, 8, 9, 70);
    linear_case(s, is_rounded(type) ? DTYPE_F16 : type, rows);
    return 1e-5;
}

static double case_linear_rounded(side *s) {
    linear_case(s, rounded_types[between(s, 0, ROUNDED_TYPES - 1)], one_of(s, 10, 1, 1, 2, 3, 5, 8, 9, 70, 64, 130));
    return 1e-5;
}

/* Inputs short of whole blocks, as if zeros followed (ops->pack). */
static double case_linear_short(side *s) {
    const int64_t in = 32 * between(s, 1, 8), outs = between(s, 1, 40), rows = between(s, 1, 12);
    tensor w = weights(s, WEIGHT_LINEAR, DTYPE_Q8_0, in, outs, 1, 1);
    const int64_t cut = between(s, 0, 31);
    float *x = host_numbers(s, rows * in);
    for (int64_t r = 0; r < rows; r++) {
        memset(x + r * in + in - cut, 0, (size_t)cut * sizeof *x);
    }
    float *y = room(s, rows * outs);
    if (w.packed) { /* rows one behind the other, without what is cut */
        for (int64_t r = 1; r < rows; r++) {
            memmove(x + r * (in - cut), x + r * in, (size_t)(in - cut) * sizeof *x);
        }
        w.ne[0] = in - cut;
    }
    s->b->ops->linear(s->b, &w, NULL, put(s, x, (size_t)(rows * in) * sizeof *x), rows, w.ne[0], y, outs);
    free(x);
    result(s, y, rows * outs);
    return 1e-5;
}

static double case_conv1d(side *s) {
    const dtype type = types[between(s, 0, 2)];
    const int64_t channels = between(s, 1, 40), kernel = between(s, 1, 7), outs = between(s, 2, 90), dilation = between(s, 1, 9);
    const int64_t rows = one_of(s, 4, 1, 4, 9, 80);
    tensor w = weights(s, WEIGHT_CONVOLUTION, type, channels, kernel, outs, 1);
    float *y = room(s, rows * outs);
    s->b->ops->conv1d(s->b, &w, numbers(s, outs), numbers(s, (rows + (kernel - 1) * dilation) * channels), rows, dilation, y);
    result(s, y, rows * outs);
    const tensor depth = {.type = DTYPE_F32, .n_dims = 2, .ne = {channels, kernel, 1, 1}, .data = numbers(s, channels * kernel)};
    y = room(s, rows * channels);
    s->b->ops->conv1d_depthwise(s->b, &depth, numbers(s, channels), numbers(s, (rows + kernel - 1) * channels), rows, y);
    result(s, y, rows * channels);
    return 1e-5;
}

static double case_overlap(side *s) {
    const int64_t stride = between(s, 1, 6), kernel = stride + between(s, 0, stride), channels = between(s, 1, 20), rows = between(s, 1, 20);
    float *tail = numbers(s, (kernel - stride) * channels + 1), *y = room(s, rows * stride * channels), *bias = numbers(s, channels);
    s->b->ops->overlap_add(s->b, numbers(s, rows * kernel * channels), between(s, 0, 1) ? bias : NULL, rows, kernel, stride, channels, tail, y);
    result(s, y, rows * stride * channels);
    result(s, tail, (kernel - stride) * channels);
    return 1e-6;
}

static double case_conv2d(side *s) {
    const int64_t in = between(s, 1, 20), outs = between(s, 2, 70), n = between(s, 1, 3), height = between(s, 1, 12), width = between(s, 1, 12);
    tensor w = weights(s, WEIGHT_CONVOLUTION, types[between(s, 0, 2)], in, 3, 3, outs);
    const int64_t values = n * ((height + 1) / 2) * ((width + 1) / 2) * outs;
    float *y = room(s, values);
    s->b->ops->conv2d_3x3_s2(s->b, &w, numbers(s, outs), numbers(s, n * height * width * in), n, height, width, y);
    result(s, y, values);
    return 1e-5;
}

/* Rows of several sequences whose blocks lie in any order; some see a window. */
static double case_attention(side *s) {
    const dtype kinds[] = {DTYPE_F32, DTYPE_F16, DTYPE_Q8_0};
    enum { BLOCKS = 9, LAYERS = 2 };
    kv_cache cache = {.k_type = kinds[between(s, 0, 2)], .v_type = kinds[between(s, 0, 2)], .layers = LAYERS, .blocks = BLOCKS};
    const bool blocks = cache.k_type == DTYPE_Q8_0 || cache.v_type == DTYPE_Q8_0;
    cache.kv_heads = (int)between(s, 1, 3);
    cache.head_dim = (int)(blocks ? 32 * between(s, 1, 5) : between(s, 0, 1) ? one_of(s, 2, 64, 128) : between(s, 1, 140));
    const int heads = cache.kv_heads * (int)between(s, 1, 8), layer = (int)between(s, 0, LAYERS - 1);
    cache.k = held(s, s->b->ops->kv_bytes(s->b, cache.k_type, LAYERS, cache.kv_heads, cache.head_dim, BLOCKS));
    cache.v = held(s, s->b->ops->kv_bytes(s->b, cache.v_type, LAYERS, cache.kv_heads, cache.head_dim, BLOCKS));
    const int positions = (int)between(s, 1, 3 * KV_BLOCK), rows = (int)between(s, 1, 6);
    const int32_t table[] = {8, 5, 0, 2}; /* the sequence's begins at entry 1 */
    int32_t slots[3 * KV_BLOCK];
    for (int i = 0; i < positions; i++) {
        slots[i] = table[1 + i / KV_BLOCK] * KV_BLOCK + i % KV_BLOCK;
    }
    const int64_t n = (int64_t)positions * cache.kv_heads * cache.head_dim;
    float *k = numbers(s, n), *v = numbers(s, n), *q = numbers(s, (int64_t)rows * heads * cache.head_dim);
    s->b->ops->kv_write(s->b, &cache, layer, put(s, slots, (size_t)positions * sizeof *slots), k, v, positions);
    s->b->ops->kv_copy(s->b, &cache, 7, 5); /* the first block is read from its copy */
    const int32_t copied[] = {8, 7, 0, 2};
    attention_row at[6];
    for (int r = 0; r < rows; r++) {
        const int end = (int)between(s, 1, positions);
        at[r] = (attention_row){.table = 1, .first = between(s, 0, 2) ? 0 : (int)between(s, 0, end - 1), .end = end};
    }
    float *y = room(s, (int64_t)rows * heads * cache.head_dim);
    s->b->ops->attention(s->b, &cache, layer, put(s, copied, sizeof copied), put(s, at, sizeof at), q, rows, heads, 0.3f, y);
    result(s, y, (int64_t)rows * heads * cache.head_dim);
    return blocks                                                   ? 2e-2
           : cache.k_type == DTYPE_F16 || cache.v_type == DTYPE_F16 ? 1e-5
                                                                    : 5e-6; /* the CPU rounds queries to 8 bits, too, for Q8_0 keys */
}

static double case_attention_dense(side *s) {
    const int kv_heads = (int)between(s, 1, 3), heads = kv_heads * (int)between(s, 1, 3), head_dim = (int)between(s, 1, 140);
    const int positions = (int)between(s, 1, 150), rows = (int)between(s, 1, 40);
    const int64_t q_stride = (int64_t)heads * head_dim + between(s, 0, 4), kv_stride = (int64_t)kv_heads * head_dim + between(s, 0, 4);
    int32_t first[40], end[40];
    for (int r = 0; r < rows; r++) {
        end[r] = (int32_t)between(s, 1, positions);
        first[r] = (int32_t)between(s, 0, end[r] - 1);
    }
    float *y = room(s, (int64_t)rows * heads * head_dim);
    float *q = numbers(s, rows * q_stride), *k = numbers(s, positions * kv_stride), *v = numbers(s, positions * kv_stride);
    s->b->ops->attention_dense(s->b, q, q_stride, k, v, kv_stride, put(s, first, sizeof first), put(s, end, sizeof end), rows, heads, kv_heads,
                               head_dim, 0.3f, false, y);
    result(s, y, (int64_t)rows * heads * head_dim);
    return 5e-6;
}

static void moe_case(side *s, dtype type, dtype other, int64_t rows) {
    const int64_t block = dtype_find(type)->block > dtype_find(other)->block ? dtype_find(type)->block : dtype_find(other)->block;
    const int64_t width = block * between(s, 1, block > 1 ? 2 : 130), ffn = block * between(s, 1, block > 1 ? 2 : 130);
    const int experts = (int)between(s, 1, 20), used = (int)between(s, 1, experts < 8 ? experts : 8);
    tensor gate = weights(s, WEIGHT_EXPERTS, type, width, ffn, experts, 1), up = weights(s, WEIGHT_EXPERTS, other, width, ffn, experts, 1),
           down = weights(s, WEIGHT_EXPERTS, other, ffn, width, experts, 1);
    float *x = numbers(s, rows * width), *weight = room(s, rows * used), *y = room(s, rows * width);
    int32_t *ids = held(s, (size_t)(rows * used) * sizeof *ids);
    s->b->ops->route(s->b, numbers(s, rows * experts), rows, experts, used, between(s, 0, 1), ids, weight);
    result_ids(s, ids, rows * used);
    result(s, weight, rows * used);
    s->count -= (size_t)(2 * rows * used); /* compared apart: their sizes differ from y's */
    s->b->ops->moe(s->b, &gate, &up, &down, x, rows, ids, weight, used, room(s, (int64_t)s->b->ops->moe_scratch(s->b, rows, used, width, ffn)), y);
    result(s, y, rows * width);
}

static double case_moe(side *s) {
    const dtype type = types[between(s, 0, TYPES - 1)], other = between(s, 0, 3) ? type : types[between(s, 0, TYPES - 1)];
    const int64_t rows = one_of(s, 5, 1, 2, 7, 30, 100);
    moe_case(s, is_rounded(type) ? DTYPE_F16 : type, is_rounded(other) ? DTYPE_Q4_0 : other, rows);
    return 2e-5;
}

static double case_moe_rounded(side *s) {
    const dtype type = rounded_types[between(s, 0, ROUNDED_TYPES - 1)];
    moe_case(s, type, between(s, 0, 2) ? type : rounded_types[between(s, 0, ROUNDED_TYPES - 1)], one_of(s, 6, 1, 2, 5, 8, 30, 100));
    return 1e-3; /* a sum that lies between two whole numbers may be rounded to either */
}

static double case_route(side *s) {
    const int experts = (int)between(s, 1, 200), used = (int)between(s, 1, experts < 12 ? experts : 12);
    const int64_t rows = between(s, 1, 20);
    float *logits = host_numbers(s, rows * experts), *weight = room(s, rows * used);
    for (int64_t i = 0; between(s, 0, 1) && i < rows * experts; i += 2) {
        logits[i] = 0.5f; /* ties: the lower index first */
    }
    int32_t *ids = held(s, (size_t)(rows * used) * sizeof *ids);
    s->b->ops->route(s->b, put(s, logits, (size_t)(rows * experts) * sizeof *logits), rows, experts, used, between(s, 0, 1), ids, weight);
    free(logits);
    result_ids(s, ids, rows * used);
    result(s, weight, rows * used);
    return 1e-6;
}

/* ---- fused operations, composed on the CPU ---- */

enum { MOST_ROWS = 20 };

typedef struct fused_layer {
    layer_shape shape;
    layer_weights w;
    int64_t rows;
    float *scratch;
} fused_layer;

/* A matrix of one of the rounded types whose blocks fit, or now and then of floats. */
static tensor fused_weights(side *s, weight_use use, int64_t in, int64_t outs, int64_t experts) {
    const dtype type = between(s, 0, 9) == 0 ? DTYPE_F16 : rounded_types[between(s, 0, ROUNDED_TYPES - 1)];
    return weights(s, use, in % dtype_find(type)->block == 0 ? type : DTYPE_Q8_0, in, outs, experts, 1);
}

static fused_layer layer_of(side *s, bool mixture, bool shared) {
    fused_layer l = {.rows = between(s, 0, 2) ? between(s, 1, 8) : between(s, 9, MOST_ROWS)};
    l.shape.width = 32 * between(s, 1, 16);
    l.shape.head_dim = 32 * (int)between(s, 1, 3);
    l.shape.kv_heads = (int)between(s, 1, 3);
    l.shape.heads = l.shape.kv_heads * (int)between(s, 1, 4);
    l.shape.experts = mixture ? (int)between(s, 8, 20) : 0;
    l.shape.experts_used = mixture ? (int)between(s, 1, 8) : 0;
    l.shape.expert_ffn = mixture ? 32 * (int)between(s, 1, 10) : 0;
    l.shape.ffn = !mixture || shared ? 32 * (int)between(s, 1, 10) : 0;
    l.shape.normalise_weights = between(s, 0, 1);
    l.shape.eps = 1e-6f;
    l.scratch = room(s, (int64_t)fused_scratch(s->b, &l.shape, l.rows));
    l.w.attn_norm = numbers(s, l.shape.width);
    l.w.ffn_norm = numbers(s, l.shape.width);
    return l;
}

static double case_fused_attention(side *s) {
    fused_layer l = layer_of(s, false, false);
    const layer_shape *f = &l.shape;
    const int64_t q_width = f->heads * f->head_dim, kv_width = f->kv_heads * f->head_dim, n = l.rows, half = f->head_dim / 2;
    enum { BLOCKS = 2 };
    kv_cache cache = {.k_type = DTYPE_F32, .v_type = DTYPE_F32, .layers = 1, .blocks = BLOCKS, .kv_heads = f->kv_heads, .head_dim = f->head_dim};
    cache.k = held(s, s->b->ops->kv_bytes(s->b, cache.k_type, 1, cache.kv_heads, cache.head_dim, BLOCKS));
    cache.v = held(s, s->b->ops->kv_bytes(s->b, cache.v_type, 1, cache.kv_heads, cache.head_dim, BLOCKS));
    l.w.q = fused_weights(s, WEIGHT_LINEAR, f->width, q_width, 1);
    l.w.k = fused_weights(s, WEIGHT_LINEAR, f->width, kv_width, 1);
    l.w.v = fused_weights(s, WEIGHT_LINEAR, f->width, kv_width, 1);
    l.w.o = fused_weights(s, WEIGHT_LINEAR, q_width, f->width, 1);
    const bool normed = between(s, 0, 1);
    l.w.q_norm = normed ? numbers(s, f->head_dim) : NULL;
    l.w.k_norm = normed ? numbers(s, f->head_dim) : NULL;
    int32_t slots[MOST_ROWS], wanted[MOST_ROWS];
    attention_row at[MOST_ROWS];
    for (int r = 0; r < n; r++) {
        slots[r] = KV_BLOCK + r;
        wanted[r] = r;
        at[r] = (attention_row){.table = 0, .first = 0, .end = r + 1};
    }
    const int64_t first = between(s, 0, 3) ? 0 : between(s, 0, n); /* the queries of some are not wanted */
    const layer_rows rows = {.n = n,
                             .cos = numbers(s, n * half),
                             .sin = numbers(s, n * half),
                             .slots = put(s, slots, sizeof slots),
                             .wanted = first ? put(s, wanted + first, sizeof wanted - (size_t)first * sizeof *wanted) : NULL,
                             .wanted_count = n - first};
    const int32_t table[] = {1};
    float *x = numbers(s, n * f->width), *q = room(s, n * q_width), *y = room(s, n * q_width);
    fused_attention_input(s->b, f, &l.w, &cache, 0, &rows, x, q, l.scratch);
    s->b->ops->attention(s->b, &cache, 0, put(s, table, sizeof table), (attention_row *)put(s, at, sizeof at) + first, q, n - first, f->heads, 0.1f,
                         y);
    result(s, y, (n - first) * q_width);
    fused_linear_add(s->b, &l.w.o, y, n - first, x, l.scratch);
    result(s, x, n * f->width);
    return 5e-3; /* a sum that lies between two whole numbers may be rounded to either */
}

static double case_fused_mlp(side *s) {
    fused_layer l = layer_of(s, false, false);
    const layer_shape *f = &l.shape;
    l.w.gate = fused_weights(s, WEIGHT_LINEAR, f->width, f->ffn, 1);
    l.w.up = fused_weights(s, WEIGHT_LINEAR, f->width, f->ffn, 1);
    l.w.down = fused_weights(s, WEIGHT_LINEAR, f->ffn, f->width, 1);
    float *x = numbers(s, l.rows * f->width);
    fused_mlp_add(s->b, f, &l.w, l.rows, x, l.scratch);
    result(s, x, l.rows * f->width);
    return 5e-3;
}

static double case_fused_moe(side *s) {
    fused_layer l = layer_of(s, true, between(s, 0, 1));
    const layer_shape *f = &l.shape;
    l.w.router = weights(s, WEIGHT_LINEAR, between(s, 0, 3) ? DTYPE_F32 : DTYPE_BF16, f->width, f->experts, 1, 1);
    l.w.gate_exps = fused_weights(s, WEIGHT_EXPERTS, f->width, f->expert_ffn, f->experts);
    l.w.up_exps = fused_weights(s, WEIGHT_EXPERTS, f->width, f->expert_ffn, f->experts);
    l.w.down_exps = fused_weights(s, WEIGHT_EXPERTS, f->expert_ffn, f->width, f->experts);
    if (f->ffn) {
        l.w.shared_router = weights(s, WEIGHT_LINEAR, DTYPE_F32, f->width, 1, 1, 1);
        l.w.gate = fused_weights(s, WEIGHT_LINEAR, f->width, f->ffn, 1);
        l.w.up = fused_weights(s, WEIGHT_LINEAR, f->width, f->ffn, 1);
        l.w.down = fused_weights(s, WEIGHT_LINEAR, f->ffn, f->width, 1);
    }
    float *x = numbers(s, l.rows * f->width), *n = room(s, l.rows * f->width), *weight = room(s, l.rows * f->experts_used);
    int32_t *ids = held(s, (size_t)(l.rows * f->experts_used) * sizeof *ids);
    fused_moe_input(s->b, f, &l.w, x, l.rows, n, ids, weight, l.scratch);
    result_ids(s, ids, l.rows * f->experts_used);
    s->count -= (size_t)(l.rows * f->experts_used); /* larger than the others; x tells of them */
    result(s, weight, l.rows * f->experts_used);
    fused_moe_add(s->b, f, &l.w, n, l.rows, ids, weight, x, l.scratch);
    result(s, x, l.rows * f->width);
    return 5e-3;
}

static double case_fused_head(side *s) {
    const int64_t width = 32 * between(s, 1, 16), vocab = between(s, 1, 300), rows = between(s, 1, 8);
    const tensor head = fused_weights(s, WEIGHT_LINEAR, width, vocab, 1);
    float *hidden = room(s, rows * width), *logits = room(s, rows * vocab);
    fused_head_sample(s->b, numbers(s, width), 1e-6f, &head, numbers(s, rows * width), rows, hidden, logits, NULL, NULL);
    result(s, hidden, rows * width);
    result(s, logits, rows * vocab);
    return 1e-3;
}

static double case_sample(side *s) {
    const int64_t vocab = one_of(s, 5, 3, 40, 700, 3000, 20000), rows = between(s, 1, 4);
    float *logits = host_numbers(s, rows * vocab);
    const bool damaged = between(s, 0, 9) == 0, banned = between(s, 0, 9) == 0;
    for (int64_t i = 0; i < rows * vocab; i++) {
        logits[i] *= 9;
    }
    if (damaged) {
        logits[between(s, 0, rows * vocab - 1)] = between(s, 0, 1) ? NAN : INFINITY;
    }
    sample_row params[4];
    uint16_t *history[4];
    sample_logprobs *told[4];
    const int32_t top = (int32_t)(vocab < SAMPLE_TOP ? vocab : SAMPLE_TOP);
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *before = calloc((size_t)vocab, sizeof *before);
        uint32_t *allowed = malloc((size_t)(vocab + 31) / 32 * sizeof *allowed);
        sample_bias *bias = malloc((size_t)vocab * sizeof *bias);
        for (int64_t i = 0; i < vocab; i++) {
            before[i] = (uint16_t)(between(s, 0, 3) == 0 ? between(s, 0, 1) << 15 | between(s, 0, 3) : 0);
            bias[i] = (sample_bias){(int32_t)i, number(s)};
        }
        for (int64_t i = 0; i < (vocab + 31) / 32; i++) {
            allowed[i] = banned ? 0 : bits(s) | 1;
        }
        history[r] = put(s, before, (size_t)vocab * sizeof *before);
        told[r] = held(s, sizeof **told);
        params[r] = (sample_row){.greedy = between(s, 0, 3) == 0,
                                 .temperature = 0.2f + fabsf(number(s)),
                                 .top_k = (int32_t)one_of(s, 4, 0, 1, 20, 50),
                                 .top_p = between(s, 0, 1) ? 1 : fabsf(number(s)),
                                 .min_p = between(s, 0, 2) ? 0 : 0.05f,
                                 .repeat_penalty = between(s, 0, 1) ? 1 : 1.3f,
                                 .frequency_penalty = between(s, 0, 1) ? 0 : 0.2f,
                                 .presence_penalty = between(s, 0, 1) ? 0 : 0.4f,
                                 .suppress_from = (int32_t)(between(s, 0, 1) ? vocab : vocab / 2),
                                 .suppress_keep = (int32_t)(between(s, 0, 1) ? -1 : vocab - 1),
                                 .seed = bits(s),
                                 .stage = SAMPLE_TALKER,
                                 .sequence = bits(s),
                                 .step = bits(s) % 100,
                                 .code = (uint16_t)(bits(s) % 16)};
        if (between(s, 0, 1)) {
            params[r].history = history[r];
        }
        if (banned || between(s, 0, 1)) {
            params[r].allowed = put(s, allowed, (size_t)(vocab + 31) / 32 * sizeof *allowed);
        }
        if (between(s, 0, 1)) {
            params[r].bias_count = (int32_t)(vocab / 2);
            params[r].bias = put(s, bias, (size_t)vocab * sizeof *bias);
        }
        if (between(s, 0, 1)) {
            params[r].logprobs = told[r];
            params[r].top_logprobs = top;
            params[r].raw = room(s, vocab);
        }
        free(before);
        free(allowed);
        free(bias);
    }
    int32_t *ids = held(s, (size_t)rows * sizeof *ids);
    s->b->ops->sample(s->b, put(s, logits, (size_t)(rows * vocab) * sizeof *logits), rows, vocab, params, ids);
    free(logits);
    result_ids(s, ids, rows);
    for (int64_t r = 0; r < rows; r++) {
        if (params[r].logprobs && !damaged) {
            result(s, told[r]->top, top);
            result_ids(s, told[r]->ids, top);
            if (!banned) {
                result(s, &told[r]->chosen, 1);
            }
        }
        result_ids(s, (const int32_t *)(const void *)history[r], vocab / 2);
    }
    return 1e-6;
}

static const struct {
    const char *name;
    double (*run)(side *s);
    bool rounded; /* compared with the CPU's packed weights, which round inputs as well */
} cases[] = {
    {"embed", case_embed, false},
    {"rows", case_rows, false},
    {"norms", case_norms, false},
    {"heads", case_heads, false},
    {"linear", case_linear, false},
    {"linear, rounded", case_linear_rounded, true},
    {"linear, short", case_linear_short, true},
    {"conv1d", case_conv1d, false},
    {"overlap_add", case_overlap, false},
    {"conv2d", case_conv2d, false},
    {"attention", case_attention, false},
    {"attention_dense", case_attention_dense, false},
    {"route", case_route, false},
    {"moe", case_moe, false},
    {"moe, rounded", case_moe_rounded, true},
    {"fused attention", case_fused_attention, true},
    {"fused mlp", case_fused_mlp, true},
    {"fused moe", case_fused_moe, true},
    {"fused head", case_fused_head, true},
    {"sample", case_sample, false},
};

static double run_case(int i, side *s, uint64_t seed) {
    s->random = seed * 0x9E3779B97F4A7C15ull + (uint64_t)i + 1;
    s->count = 0;
    s->held_count = 0;
    for (int j = 0; j < 8; j++) {
        bits(s);
    }
    const double bound = cases[i].run(s);
    for (int j = 0; j < s->held_count; j++) {
        s->b->ops->release(s->b, s->held[j]);
    }
    return bound;
}

/* The largest difference, as a share of the largest value; infinite where one side has NaN and the other has not. */
static double error_of(const side *a, const side *b) {
    double largest = 0, worst = 0;
    for (size_t i = 0; i < a->count; i++) {
        largest = fmax(largest, fabs((double)a->results[i]));
    }
    for (size_t i = 0; i < a->count; i++) {
        const double x = a->results[i], y = b->results[i];
        if (isfinite(x) && isfinite(y)) {
            worst = fmax(worst, fabs(x - y));
        } else if (isnan(x) != isnan(y) || (!isnan(x) && x != y)) {
            return INFINITY;
        }
    }
    return largest > 0 ? worst / largest : worst;
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 20;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    side plain = {0}, packed = {0}, card = {0};
    int passed = 0, failed = 0;
    must(cpu_backend_create(1, &plain.b, &err));
    cpu_backend_keep_rows(plain.b, true);
    must(cpu_backend_create(1, &packed.b, &err));
    must(cuda_backend_create(0, &card.b, &err));
    printf("%s\n%-16s %8s %10s\n", card.b->description, "operation", "rounds", "error");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double worst = 0;
        side *cpu = cases[i].rounded ? &packed : &plain;
        for (int round = 0; round < rounds; round++) {
            const uint64_t at = seed * 1000003 + (uint64_t)round;
            const double bound = run_case((int)i, cpu, at);
            run_case((int)i, &card, at);
            must(backend_failure(card.b, &err));
            const double error = cpu->count == card.count ? error_of(cpu, &card) : INFINITY;
            worst = fmax(worst, error);
            if (error <= bound) {
                passed++;
            } else {
                failed++;
                fprintf(stderr, "%s, round %d of seed %llu: error %.3g, allowed %.3g\n", cases[i].name, round, (unsigned long long)seed, error,
                        bound);
            }
        }
        printf("%-16s %8d %10.2g\n", cases[i].name, rounds, worst);
    }
    backend_destroy(plain.b);
    backend_destroy(packed.b);
    backend_destroy(card.b);
    free(plain.results);
    free(packed.results);
    free(card.results);
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
