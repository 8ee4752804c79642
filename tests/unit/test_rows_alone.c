/* A row's result is bit for bit the same alone, in any batch, and with any number of threads: every operation, every instruction set. Each
 * operation computes a whole batch on one thread; then pieces of it on three. */
#include <stdbool.h>

#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "vectors.h"

static int failures;
static const char *isa;

static float *numbers(int64_t n, uint32_t seed) {
    float *x = aligned_alloc(64, ((size_t)n * sizeof *x + 127) / 64 * 64);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
    return x;
}

static void same(const char *what, const float *got, const float *want, int64_t n) {
    if (memcmp(got, want, (size_t)n * sizeof *got) != 0) {
        fprintf(stderr, "%s: %s differs\n", isa, what);
        failures++;
    }
}

/* Cuts [0, rows) into pieces of growing size. */
#define PIECES(rows, from, count)                                                                                                                    \
    for (int64_t from = 0, count = 1, step_ = 1; from < (rows);                                                                                      \
         from += count, step_ = step_ * 2 + 1, count = step_ < (rows)-from ? step_ : (rows)-from)

typedef struct two {
    backend *one, *three;
} two;

static void linear(two b) {
    enum { ROWS = 45, IN = 160, OUT = 83 };
    const dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
    float *x = numbers(ROWS * IN, 1), *wf = numbers(IN * OUT, 2), *bias = numbers(OUT, 3), *want = numbers(ROWS * OUT, 0),
          *got = numbers(ROWS * OUT, 0), *rows = numbers(ROWS * IN, 0);
    for (int t = 0; t < 4; t++) {
        size_t row = dtype_row_bytes(types[t], IN);
        char *w = malloc(row * OUT);
        for (int o = 0; o < OUT; o++) {
            dtype_from_f32(types[t], wf + o * IN, w + (size_t)o * row, IN);
        }
        tensor m = {.type = types[t], .n_dims = 2, .ne = {IN, OUT, 1, 1}, .data = w};
        b.one->ops->linear(b.one, &m, bias, x, ROWS, IN, want, OUT);
        PIECES(ROWS, from, n) {
            b.three->ops->linear(b.three, &m, bias, x + from * IN, n, IN, got + from * OUT, OUT);
        }
        same("linear", got, want, ROWS * OUT);
        /* The same values as a dilated convolution: 5 taps of 32 channels. */
        tensor taps = {.type = types[t], .n_dims = 3, .ne = {32, 5, OUT, 1}, .data = w};
        b.one->ops->conv1d(b.one, &taps, bias, x, 40, 3, want);
        PIECES(40, at, n) {
            b.three->ops->conv1d(b.three, &taps, bias, x + at * 32, n, 3, got + at * OUT);
        }
        same("conv1d", got, want, 40 * OUT);
        int32_t ids[ROWS * 2];
        for (int i = 0; i < ROWS * 2; i++) {
            ids[i] = i * 7 % 40;
        }
        b.one->ops->embed_sum(b.one, &m, ids, ROWS, 2, 40, 0.5f, rows);
        PIECES(ROWS, at, n) {
            b.three->ops->embed_sum(b.three, &m, ids + at * 2, n, 2, 40, 0.5f, got);
            same("embed_sum", got, rows + at * IN, n * IN);
        }
        free(w);
    }
    free(x), free(wf), free(bias), free(want), free(got), free(rows);
}

static void convolutions(two b) {
    enum { ROWS = 60, WIDTH = 37, KERNEL = 7, STRIDE = 4 };
    float *x = numbers((ROWS + KERNEL) * WIDTH * KERNEL, 4), *w = numbers(20 * 9 * 20, 5), *want = numbers(ROWS * STRIDE * WIDTH, 0),
          *got = numbers(ROWS * STRIDE * WIDTH, 0), tail[KERNEL * WIDTH] = {0}, tail3[KERNEL * WIDTH] = {0};
    tensor m = {.ne = {WIDTH, KERNEL, 1, 1}, .data = w};
    b.one->ops->conv1d_depthwise(b.one, &m, w, x, ROWS, want);
    PIECES(ROWS, at, n) {
        b.three->ops->conv1d_depthwise(b.three, &m, w, x + at * WIDTH, n, got + at * WIDTH);
    }
    same("conv1d_depthwise", got, want, ROWS * WIDTH);
    b.one->ops->overlap_add(b.one, x, w, ROWS, KERNEL, STRIDE, WIDTH, tail, want);
    PIECES(ROWS, at, n) {
        b.three->ops->overlap_add(b.three, x + at * KERNEL * WIDTH, w, n, KERNEL, STRIDE, WIDTH, tail3, got + at * STRIDE * WIDTH);
    }
    same("overlap_add", got, want, ROWS * STRIDE * WIDTH);
    same("overlap_add's tail", tail3, tail, (KERNEL - STRIDE) * WIDTH);
    m = (tensor){.ne = {20, 3, 3, 20}, .data = w};
    b.one->ops->conv2d_3x3_s2(b.one, &m, NULL, x, 3, 11, 8, want);
    for (int i = 0; i < 3; i++) {
        b.three->ops->conv2d_3x3_s2(b.three, &m, NULL, x + i * 11 * 8 * 20, 1, 11, 8, got + i * 6 * 4 * 20);
    }
    same("conv2d_3x3_s2", got, want, 3 * 6 * 4 * 20);
    free(x), free(w), free(want), free(got);
}

static void rows(two b) {
    enum { ROWS = 50, WIDTH = 77 };
    float *x = numbers(ROWS * WIDTH, 6), *w = numbers(WIDTH, 7), *y1 = numbers(ROWS * WIDTH, 8), *y3 = numbers(ROWS * WIDTH, 8),
          *gate = numbers(ROWS, 9);
#define BOTH(name, call)                                                                                                                             \
    {                                                                                                                                                \
        const ops *o = b.one->ops;                                                                                                                   \
        int64_t at = 0, n = ROWS;                                                                                                                    \
        float *y = y1;                                                                                                                               \
        o->name(b.one, call);                                                                                                                        \
        o = b.three->ops;                                                                                                                            \
        y = y3;                                                                                                                                      \
        PIECES(ROWS, from, count) {                                                                                                                  \
            at = from;                                                                                                                               \
            n = count;                                                                                                                               \
            o->name(b.three, call);                                                                                                                  \
        }                                                                                                                                            \
        same(#name, y3, y1, ROWS *WIDTH);                                                                                                            \
    }
#define LIST(...) __VA_ARGS__
    BOTH(rms_norm, LIST(x + at * WIDTH, w, 1e-6f, n, WIDTH, y + at * WIDTH))
    BOTH(layer_norm, LIST(x + at * WIDTH, w, w, 1e-6f, n, WIDTH, y + at * WIDTH))
    BOTH(snake_beta, LIST(x + at * WIDTH, w, w, n, WIDTH, y + at * WIDTH))
    BOTH(add_scaled, LIST(x + at * WIDTH, w, n, WIDTH, y + at * WIDTH))
    BOTH(add_gated, LIST(x + at * WIDTH, gate + at, n, WIDTH, y + at * WIDTH))
    BOTH(add, LIST(x + at * WIDTH, n * WIDTH, y + at * WIDTH))
    BOTH(activate, LIST(ACT_SILU, x + at * WIDTH, n * WIDTH, y + at * WIDTH))
    BOTH(activate, LIST(ACT_GELU, x + at * WIDTH, n * WIDTH, y + at * WIDTH))
    BOTH(activate, LIST(ACT_GELU_TANH, x + at * WIDTH, n * WIDTH, y + at * WIDTH))
    BOTH(silu_mul, LIST(x + at * WIDTH, x + at * WIDTH, n * WIDTH, y + at * WIDTH))
    BOTH(head_norm_rope, LIST(y + at * WIDTH, n, WIDTH, 3, 24, w, 1e-6f, x + at * 12, x + at * 12 + 100))
    const int32_t axis[16] = {0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 0, 0, 1, 2, 0, 1};
    memcpy(x + 30, x + 27, 3 * sizeof *x); /* rows at the same position take the same way */
    BOTH(angles, LIST(x + at * 3, w, axis, n, 16, y + at * 16, y + (ROWS + at) * 16))
    free(x), free(w), free(y1), free(y3), free(gate);
}

static void attention(two b, dtype type, int heads, int kv_heads, int dim) {
    /* Three sequences of which two have several rows, interleaved with windows. */
    enum { ROWS = 40, BLOCKS = 9 };
    kv_cache cache = {.k_type = type, .v_type = type, .layers = 1, .kv_heads = kv_heads, .head_dim = dim, .blocks = BLOCKS};
    int64_t values = (int64_t)BLOCKS * KV_BLOCK * kv_heads * dim, n = (int64_t)heads * dim;
    b.one->ops->alloc(b.one, (size_t)values * 4, &cache.k, NULL);
    b.one->ops->alloc(b.one, (size_t)values * 4, &cache.v, NULL);
    float *k = numbers(values, 10), *v = numbers(values, 11), *q = numbers(ROWS * n, 12), *want = numbers(ROWS * n, 0), *got = numbers(ROWS * n, 0);
    int32_t *slots = malloc(sizeof *slots * BLOCKS * KV_BLOCK), first[ROWS], end[ROWS];
    for (int i = 0; i < BLOCKS * KV_BLOCK; i++) {
        slots[i] = i;
    }
    b.one->ops->kv_write(b.one, &cache, 0, slots, k, v, BLOCKS * KV_BLOCK);
    const int32_t table[] = {4, 2, 7, 0, 8, 3, 1, 5, 6};
    attention_row at[ROWS];
    for (int r = 0; r < ROWS; r++) {
        at[r] = r < 25 ? (attention_row){0, 0, 120 + r} : r < 38 ? (attention_row){3, r % 3 ? 60 : r, 100 + r} : (attention_row){6, r, r};
        first[r] = at[r].first;
        end[r] = r % 5 ? 90 : at[r].end;
    }
    b.one->ops->attention(b.one, &cache, 0, table, at, q, ROWS, heads, 0.3f, want);
    PIECES(ROWS, from, count) {
        b.three->ops->attention(b.three, &cache, 0, table, at + from, q + from * n, count, heads, 0.3f, got + from * n);
    }
    same("attention", got, want, ROWS * n);
    for (int64_t i = 38 * n; i < ROWS * n; i++) {
        failures += got[i] != 0; /* a row that sees nothing */
    }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        b.one->ops->attention_dense(b.one, q, n, k, v, (int64_t)kv_heads * dim, first, end, ROWS, heads, kv_heads, dim, 0.3f, bf16, want);
        PIECES(ROWS, from, count) {
            b.three->ops->attention_dense(b.three, q + from * n, n, k, v, (int64_t)kv_heads * dim, first + from, end + from, count, heads, kv_heads,
                                          dim, 0.3f, bf16, got + from * n);
        }
        same(bf16 ? "attention_dense, bf16" : "attention_dense", got, want, ROWS * n);
    }
    b.one->ops->release(b.one, cache.k);
    b.one->ops->release(b.one, cache.v);
    free(k), free(v), free(q), free(want), free(got), free(slots);
}

/* A long context: one row is spread over the threads, several are not, and none may notice. */
static void long_attention(two b, int dim) {
    enum { ROWS = 60, HEADS = 4, KV = 2, BLOCKS = 40 };
    kv_cache cache = {.k_type = DTYPE_F32, .v_type = DTYPE_F32, .layers = 1, .kv_heads = KV, .head_dim = dim, .blocks = BLOCKS};
    int64_t values = (int64_t)BLOCKS * KV_BLOCK * KV * dim, n = (int64_t)HEADS * dim;
    float *k = numbers(values, 20), *v = numbers(values, 21), *q = numbers(ROWS * n, 22), *want = numbers(ROWS * n, 0), *got = numbers(ROWS * n, 0);
    cache.k = k;
    cache.v = v;
    int32_t table[BLOCKS];
    attention_row at[ROWS];
    for (int i = 0; i < BLOCKS; i++) {
        table[i] = i * 7 % BLOCKS;
    }
    for (int r = 0; r < ROWS; r++) {
        at[r] = (attention_row){0, r % 4 ? 0 : 1000 + r * 20, 2400 + r};
    }
    b.one->ops->attention(b.one, &cache, 0, table, at, q, ROWS, HEADS, 0.3f, want);
    for (int r = 0; r < ROWS; r++) {
        b.three->ops->attention(b.three, &cache, 0, table, at + r, q + r * n, 1, HEADS, 0.3f, got + r * n);
    }
    same("attention, long, one by one", got, want, ROWS * n);
    PIECES(ROWS, from, count) {
        b.three->ops->attention(b.three, &cache, 0, table, at + from, q + from * n, count, HEADS, 0.3f, got + from * n);
    }
    same("attention, long", got, want, ROWS * n);
    free(k), free(v), free(q), free(want), free(got);
}

static void experts(two b) {
    enum { ROWS = 45, WIDTH = 96, FFN = 64, EXPERTS = 5, USED = 2 };
    const dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_Q8_0};
    float *x = numbers(ROWS * WIDTH, 13), *logits = numbers(ROWS * EXPERTS, 14), *wf = numbers(WIDTH * FFN * EXPERTS, 15),
          *want = numbers(ROWS * WIDTH, 0), *got = numbers(ROWS * WIDTH, 0), weights[ROWS * USED], weights3[ROWS * USED];
    int32_t ids[ROWS * USED], ids3[ROWS * USED];
    float *scratch = numbers((int64_t)b.one->ops->moe_scratch(b.one, ROWS, USED, WIDTH, FFN), 0);
    b.one->ops->route(b.one, logits, ROWS, EXPERTS, USED, true, ids, weights);
    b.three->ops->route(b.three, logits + 3 * EXPERTS, ROWS - 3, EXPERTS, USED, true, ids3, weights3);
    same("route", weights3, weights + 3 * USED, (ROWS - 3) * USED);
    failures += memcmp(ids3, ids + 3 * USED, sizeof *ids * (ROWS - 3) * USED) != 0;
    for (int t = 0; t < 3; t++) {
        char *w = malloc(dtype_row_bytes(types[t], WIDTH * FFN * EXPERTS));
        dtype_from_f32(types[t], wf, w, WIDTH * FFN * EXPERTS);
        tensor in = {.type = types[t], .n_dims = 3, .ne = {WIDTH, FFN, EXPERTS, 1}, .data = w};
        tensor out = {.type = types[t], .n_dims = 3, .ne = {FFN, WIDTH, EXPERTS, 1}, .data = w};
        b.one->ops->moe(b.one, &in, &in, &out, x, ROWS, ids, weights, USED, scratch, want);
        PIECES(ROWS, at, n) {
            b.three->ops->moe(b.three, &in, &in, &out, x + at * WIDTH, n, ids + at * USED, weights + at * USED, USED, scratch, got + at * WIDTH);
        }
        same("moe", got, want, ROWS * WIDTH);
        free(w);
    }
    free(x), free(logits), free(wf), free(want), free(got), free(scratch);
}

static void sample(two b) {
    enum { ROWS = 20, VOCAB = 5000 };
    float *logits = numbers(ROWS * VOCAB, 16), *copy = numbers(ROWS * VOCAB, 16);
    sample_row params[ROWS];
    int32_t ids[ROWS], ids3[ROWS];
    const sample_bias bias[] = {{1, 2}, {300, -INFINITY}, {4999, 0.5f}};
    uint32_t allowed[(VOCAB + 31) / 32];
    float *raw = malloc(ROWS * VOCAB * sizeof *raw);
    static sample_logprobs probabilities[ROWS], probabilities3[ROWS];
    uint16_t *history = calloc(ROWS * VOCAB, sizeof *history), *history3 = calloc(ROWS * VOCAB, sizeof *history);
    for (int i = 0; i < (VOCAB + 31) / 32; i++) {
        allowed[i] = 0x9e3779b9u * (uint32_t)(i + 1);
    }
    for (int r = 0; r < ROWS; r++) {
        params[r] = (sample_row){.greedy = r % 4 == 0, .temperature = 0.5f, .top_k = r * 10, .top_p = 0.9f, .repeat_penalty = 1};
        params[r].suppress_from = VOCAB;
        params[r].sequence = (uint64_t)r;
        params[r].frequency_penalty = 0.5f;
        params[r].history = r % 3 == 0 ? history + r * VOCAB : NULL;
        params[r].bias = r % 5 < 2 ? bias : NULL;
        params[r].bias_count = 3;
        params[r].logprobs = r % 2 ? probabilities + r : NULL;
        params[r].raw = raw + r * VOCAB;
        params[r].top_logprobs = r;
        params[r].allowed = r % 7 < 3 ? allowed : NULL;
    }
    b.one->ops->sample(b.one, logits, ROWS, VOCAB, params, ids);
    PIECES(ROWS, at, n) {
        for (int64_t r = at; r < at + n; r++) {
            params[r].history = params[r].history ? history3 + r * VOCAB : NULL;
            params[r].logprobs = params[r].logprobs ? probabilities3 + r : NULL;
        }
        b.three->ops->sample(b.three, copy + at * VOCAB, n, VOCAB, params + at, ids3 + at);
    }
    failures += memcmp(ids, ids3, sizeof ids) != 0;
    failures += memcmp(probabilities, probabilities3, sizeof probabilities) != 0;
    failures += memcmp(history, history3, ROWS * VOCAB * sizeof *history) != 0;
    free(logits), free(copy), free(raw), free(history), free(history3);
}

int main(void) {
    const char *names[KERNEL_ISAS];
    int isas = kernels_isas(names);
    for (int i = 0; i < isas; i++) {
        isa = names[i];
        setenv("OMNI_CPU", isa, 1);
        two b;
        if (cpu_backend_create(1, &b.one, NULL) != OMNI_OK || cpu_backend_create(3, &b.three, NULL) != OMNI_OK) {
            fprintf(stderr, "%s: no backend\n", isa);
            return 1;
        }
        linear(b);
        convolutions(b);
        rows(b);
        attention(b, DTYPE_F32, 6, 2, 40);
        attention(b, DTYPE_F16, 6, 2, 40);
        attention(b, DTYPE_F32, 4, 4, 72);
        attention(b, DTYPE_F16, 40, 2, 16);
        attention(b, DTYPE_Q8_0, 6, 2, 64);
        attention(b, DTYPE_Q8_0, 40, 2, 32);
        long_attention(b, 16);
        long_attention(b, 37);
        experts(b);
        sample(b);
        cpu_backend_destroy(b.one);
        cpu_backend_destroy(b.three);
    }
    printf("%d isas, %d failures\n", isas, failures);
    return failures != 0;
}
