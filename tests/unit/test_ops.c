/* Every operation of the CPU backend, with every instruction set of this processor and with one and three threads, against PyTorch's results
 * (ops.vectors, made by tests/reference/make_op_vectors.py). Without cmocka, so that it also runs under an emulator. */
#include <stdarg.h>

#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "vectors.h"

static vectors all;
static int failures;
static const char *isa;

static void *get(const char *name) {
    return vectors_get(&all, name, NULL);
}

static void *getf(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void *getf(const char *format, ...) {
    char name[64];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return get(name);
}

static float *room(int64_t n) {
    return vectors_room(&all, (size_t)n * sizeof(float));
}

static void check(const char *what, const float *got, const float *want, int64_t n, double bound) {
    double e = relative_error(got, want, n);
    if (!(e <= bound)) {
        fprintf(stderr, "%s: %s: error %.3g of the largest value, allowed %.3g\n", isa, what, e, bound);
        failures++;
    }
}

static tensor weight(dtype type, const void *data, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    return (tensor){.name = "w", .type = type, .n_dims = 4, .ne = {n0, n1, n2, n3}, .data = data};
}

/* As the backend lays out a matrix, or the kernel of a convolution with all its inputs in one row; itself where it has no layout. */
static tensor packed(backend *b, const tensor *w) {
    tensor t = *w, m = *w;
    m.ne[1] = w->ne[3] > 1 ? w->ne[3] : w->ne[2] > 1 ? w->ne[2] : w->ne[1];
    m.ne[0] = w->ne[0] * tensor_rows(w) / m.ne[1];
    m.ne[2] = m.ne[3] = 1;
    size_t size = b->ops->packed_size(b, WEIGHT_LINEAR, &m);
    if (size) {
        b->ops->pack(b, WEIGHT_LINEAR, &m, room((int64_t)(size / sizeof(float))), NULL, NULL);
        t.data = m.data;
        t.size = m.size;
        t.packed = true;
    }
    return t;
}

static void test_linear(backend *b) {
    float *x = get("linear.x"), *bias = get("linear.bias"), *y = room(5 * 40);
    const struct {
        dtype type;
        const char *w, *y;
    } cases[] = {
        {DTYPE_F32, "linear.w", "linear.y"},
        {DTYPE_F16, "linear.w.f16", "linear.y.f16"},
        {DTYPE_BF16, "linear.w.bf16", "linear.y.bf16"},
        {DTYPE_Q8_0, "linear.w.q8_0", "linear.y.q8_0"},
    };
    for (int i = 0; i < 4; i++) {
        tensor w = weight(cases[i].type, get(cases[i].w), 96, 37, 1, 1);
        b->ops->linear(b, &w, bias, x, 5, 96, y, 37);
        check(cases[i].y, y, get(cases[i].y), 5 * 37, 1e-6);
        if (cases[i].type != DTYPE_Q8_0) { /* whose inputs are rounded when it is packed: test_packed */
            const tensor p = packed(b, &w);
            failures += !p.packed;
            b->ops->linear(b, &p, bias, x, 5, 96, y, 37);
            check("linear, packed", y, get(cases[i].y), 5 * 37, 1e-6);
        }
        b->ops->linear(b, &w, bias, x, 5, 96, y, 40); /* a wider output row */
        for (int r = 1; r < 5; r++) {
            memmove(y + r * 37, y + r * 40, 37 * sizeof *y);
        }
        check(cases[i].y, y, get(cases[i].y), 5 * 37, 1e-6);
    }
}

static void test_convolutions(backend *b) {
    float *x = get("conv1d.x"), *y = room(31 * 64);
    tensor w = weight(DTYPE_F32, get("conv1d.w"), 6, 3, 10, 1);
    for (int d = 1; d <= 3; d += 2) {
        int64_t rows = 31 - 2 * d;
        b->ops->conv1d(b, &w, get("conv1d.bias"), x, rows, d, y);
        check("conv1d", y, getf("conv1d.y.%d", d), rows * 10, 1e-6);
        const tensor p = packed(b, &w);
        failures += !p.packed;
        b->ops->conv1d(b, &p, get("conv1d.bias"), x, rows, d, y);
        check("conv1d, packed", y, getf("conv1d.y.%d", d), rows * 10, 1e-6);
    }
    w = weight(DTYPE_F32, get("depthwise.w"), 6, 7, 1, 1);
    b->ops->conv1d_depthwise(b, &w, get("depthwise.bias"), x, 25, y);
    check("conv1d_depthwise", y, get("depthwise.y"), 25 * 6, 1e-6);

    /* Transposed, in pieces of 1, 9 and 21 rows: the joints must not show. */
    const int shapes[][2] = {{6, 3}, {2, 2}, {5, 3}};
    for (int i = 0; i < 3; i++) {
        int kernel = shapes[i][0], stride = shapes[i][1];
        float *bias = getf("transposed.%d.%d.bias", kernel, stride), *z = room(31 * 4 * kernel), *tail = room(4 * kernel);
        w = weight(DTYPE_F32, getf("transposed.%d.%d.w", kernel, stride), 6, 4, kernel, 1);
        memset(tail, 0, sizeof *tail * 4 * (size_t)kernel);
        const int pieces[] = {0, 1, 10, 31};
        for (int p = 0; p < 3; p++) {
            int from = pieces[p], rows = pieces[p + 1] - from;
            b->ops->linear(b, &w, NULL, x + from * 6, rows, 6, z, 4 * kernel);
            b->ops->overlap_add(b, z, bias, rows, kernel, stride, 4, tail, y + from * stride * 4);
        }
        for (int t = 0; t < (kernel - stride) * 4; t++) {
            y[31 * stride * 4 + t] = tail[t] + bias[t % 4];
        }
        check("overlap_add", y, getf("transposed.%d.%d.y", kernel, stride), (31 * stride + kernel - stride) * 4, 1e-6);
    }

    const int pictures[][4] = {{8, 9, 1, 5}, {5, 4, 3, 7}};
    for (int i = 0; i < 2; i++) {
        const int *s = pictures[i];
        w = weight(DTYPE_F32, getf("conv2d.%d.%d.w", s[0], s[1]), s[2], 3, 3, s[3]);
        b->ops->conv2d_3x3_s2(b, &w, getf("conv2d.%d.%d.bias", s[0], s[1]), getf("conv2d.%d.%d.x", s[0], s[1]), 2, s[0], s[1], y);
        check("conv2d", y, getf("conv2d.%d.%d.y", s[0], s[1]), 2 * ((s[0] + 1) / 2) * ((s[1] + 1) / 2) * s[3], 1e-6);
    }
}

static void test_elementwise(backend *b) {
    int64_t n;
    float *x = vectors_get(&all, "act.x", &n), *y = room(n);
    b->ops->activate(b, ACT_NONE, x, n, y);
    check("activate none", y, x, n, 0);
    b->ops->activate(b, ACT_SILU, x, n, y);
    check("silu", y, get("act.silu"), n, 1e-7);
    b->ops->activate(b, ACT_GELU, x, n, y);
    check("gelu", y, get("act.gelu"), n, 1e-7);
    b->ops->activate(b, ACT_GELU_TANH, x, n, y);
    check("gelu_tanh", y, get("act.gelu_tanh"), n, 1e-7);
    b->ops->silu_mul(b, x, get("act.up"), n, x); /* in place */
    check("silu_mul", x, get("act.silu_mul"), n, 2e-7);

    float *norm = get("norm.x");
    b->ops->layer_norm(b, norm, get("norm.w"), get("norm.bias"), 1e-5f, 4, 45, y);
    check("layer_norm", y, get("norm.layer"), 4 * 45, 5e-7);
    b->ops->rms_norm(b, norm, get("norm.w"), 1e-6f, 4, 45, norm);
    check("rms_norm", norm, get("norm.rms"), 4 * 45, 5e-7);
    b->ops->snake_beta(b, get("snake.x"), get("snake.a"), get("snake.inv_b"), 50, 9, y);
    check("snake_beta", y, get("snake.y"), 50 * 9, 5e-7);

    float *add = get("add.x"), *to = get("add.y");
    b->ops->add(b, add, 4 * 45, to);
    check("add", to, get("add.plain"), 4 * 45, 1e-7);
    to = get("add.y");
    b->ops->add_scaled(b, add, get("add.scale"), 4, 45, to);
    check("add_scaled", to, get("add.scaled"), 4 * 45, 3e-7);
    to = get("add.y");
    b->ops->add_gated(b, add, get("add.gate"), 4, 45, to);
    check("add_gated", to, get("add.gated"), 4 * 45, 3e-7);

    tensor table = weight(DTYPE_F32, get("embed.table"), 33, 44, 1, 1);
    int32_t *ids = get("embed.ids");
    b->ops->embed(b, &table, ids, 12, y);
    check("embed", y, get("embed.rows"), 12 * 33, 0);
    b->ops->embed_sum(b, &table, ids, 3, 4, 11, 0.25f, y);
    check("embed_sum", y, get("embed.mean"), 3 * 33, 2e-7);
    const int32_t index[] = {3, 0, 2};
    b->ops->gather_rows(b, add, index, 3, 45, y);
    memset(to, 0, 4 * 45 * sizeof *to);
    b->ops->add_to_rows(b, y, index, 3, 45, to);
    check("gather, add_to_rows", to, add, 45, 0);
    check("gather, add_to_rows", to + 2 * 45, add + 2 * 45, 2 * 45, 0);
}

enum { ROWS = 75, HEADS = 4, KV = 2, DIM = 18 };

static void test_paged(backend *b, dtype type, float *q, float *k, float *v, float *y) {
    /* Two layers, the second used; blocks out of order; a table that begins at entry 1. */
    kv_cache cache = {.k_type = type, .v_type = type, .layers = 2, .kv_heads = KV, .head_dim = DIM, .blocks = 4};
    size_t bytes = (size_t)cache.layers * 4 * KV * KV_BLOCK * DIM * (type == DTYPE_F16 ? 2 : 4);
    b->ops->alloc(b, bytes, &cache.k, NULL);
    b->ops->alloc(b, bytes, &cache.v, NULL);
    const int32_t table[] = {0, 3, 1};
    int32_t slots[ROWS];
    attention_row at[ROWS];
    double bound = type == DTYPE_F16 ? 1e-3 : 1e-6;
    for (int i = 0; i < ROWS; i++) {
        slots[i] = table[1 + i / KV_BLOCK] * KV_BLOCK + i % KV_BLOCK;
        at[i] = (attention_row){1, 0, i + 1};
    }
    b->ops->kv_write(b, &cache, 1, slots, k, v, ROWS);
    b->ops->attention(b, &cache, 1, table, at, q, ROWS, HEADS, 0.3f, y);
    check("attention, causal", y, get("attention.causal"), ROWS * HEADS * DIM, bound);
    for (int i = 0; i < ROWS; i++) {
        at[i].first = i < 40 ? 0 : i - 39;
    }
    b->ops->attention(b, &cache, 1, table, at, q, ROWS, HEADS, 0.3f, y);
    check("attention, window", y, get("attention.window"), ROWS * HEADS * DIM, bound);
    b->ops->release(b, cache.k);
    b->ops->release(b, cache.v);
}

/* A cache of other types against one of float32: prompts, windows that begin anywhere, single rows over a long context. */
static void test_cache_types(backend *b) {
    enum { POSITIONS = 1100, QUERIES = 40, D = 64, BLOCKS = (POSITIONS + KV_BLOCK - 1) / KV_BLOCK };
    const dtype types[][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_Q8_0, DTYPE_Q8_0}, {DTYPE_Q8_0, DTYPE_F16}, {DTYPE_F16, DTYPE_Q8_0}};
    const double bounds[] = {0, 2e-2, 2e-2, 5e-3};
    float *k = room(POSITIONS * KV * D), *v = room(POSITIONS * KV * D), *q = room(QUERIES * HEADS * D), *want = room(QUERIES * HEADS * D);
    float *y = room(QUERIES * HEADS * D);
    uint32_t state = 1;
    for (int i = 0; i < POSITIONS * KV * D; i++) {
        state = state * 1664525 + 1013904223;
        k[i] = (float)(state >> 8) / (1 << 23) - 1;
        v[i] = (float)(state >> 4 & 0xffff) / (1 << 15) - 1;
    }
    for (int i = 0; i < QUERIES * HEADS * D; i++) {
        state = state * 1664525 + 1013904223;
        q[i] = (float)(state >> 8) / (1 << 22) - 2;
    }
    int32_t table[BLOCKS], slots[POSITIONS];
    for (int i = 0; i < BLOCKS; i++) {
        table[i] = (i * 5 + 3) % BLOCKS;
    }
    for (int i = 0; i < POSITIONS; i++) {
        slots[i] = table[i / KV_BLOCK] * KV_BLOCK + i % KV_BLOCK;
    }
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        kv_cache cache = {.k_type = types[t][0], .v_type = types[t][1], .layers = 1, .kv_heads = KV, .head_dim = D, .blocks = BLOCKS};
        b->ops->alloc(b, BLOCKS * KV * KV_BLOCK * dtype_row_bytes(cache.k_type, D), &cache.k, NULL);
        b->ops->alloc(b, BLOCKS * KV * KV_BLOCK * dtype_row_bytes(cache.v_type, D), &cache.v, NULL);
        b->ops->kv_write(b, &cache, 0, slots, k, v, POSITIONS);
        for (int i = 0; i < QUERIES; i++) {
            const attention_row at = {0, i % 2 ? i * 7 : 0, POSITIONS - QUERIES + i + 1};
            b->ops->attention(b, &cache, 0, table, &at, q + i * HEADS * D, 1, HEADS, 0.2f, (t ? y : want) + i * HEADS * D);
        }
        if (t) {
            check("attention, cache of another type", y, want, QUERIES * HEADS * D, bounds[t]);
        }
        attention_row all_at[QUERIES];
        for (int i = 0; i < QUERIES; i++) {
            all_at[i] = (attention_row){0, i % 2 ? i * 7 : 0, POSITIONS - QUERIES + i + 1};
        }
        float *together = room(QUERIES * HEADS * D);
        b->ops->attention(b, &cache, 0, table, all_at, q, QUERIES, HEADS, 0.2f, together);
        check("attention, rows together", together, t ? y : want, QUERIES * HEADS * D, 0);
        b->ops->release(b, cache.k);
        b->ops->release(b, cache.v);
    }
}

/* Scores far below and far above 0: the largest must be taken off before the exponential. */
static void test_far_scores(backend *b) {
    enum { N = 2500, D = 4 };
    float *q = room(D), *k = room(N * D), *v = room(N * D), *y = room(D), want[D];
    for (float sign = -1; sign <= 1; sign += 2) {
        double total = 0, sum[D] = {0};
        for (int i = 0; i < D; i++) {
            q[i] = 10;
        }
        for (int t = 0; t < N; t++) {
            double score = 0;
            for (int i = 0; i < D; i++) {
                k[t * D + i] = sign * (10 + (float)((t * 7 + i) % 23) * 0.01f);
                v[t * D + i] = (float)((t * 5 + i * 3) % 17) - 8;
                score += 10.0 * k[t * D + i];
            }
            double e = exp(score - sign * 404);
            total += e;
            for (int i = 0; i < D; i++) {
                sum[i] += e * v[t * D + i];
            }
        }
        for (int i = 0; i < D; i++) {
            want[i] = (float)(sum[i] / total);
        }
        b->ops->attention_dense(b, q, D, k, v, D, &(int32_t){0}, &(int32_t){N}, 1, 1, 1, D, 1, false, y);
        check("attention_dense, far scores", y, want, D, 2e-4); /* the scores themselves carry 400 * 2^-24 */
    }
}

static void test_attention(backend *b) {
    float *q = get("attention.q"), *k = get("attention.k"), *v = get("attention.v"), *y = room(ROWS * HEADS * DIM);
    test_paged(b, DTYPE_F32, q, k, v, y);
    test_paged(b, DTYPE_F16, q, k, v, y);
    test_cache_types(b);
    int32_t first[ROWS], end[ROWS];
    for (int i = 0; i < ROWS; i++) {
        first[i] = i < 40 ? 0 : i - 39;
        end[i] = i + 1;
    }
    b->ops->attention_dense(b, q, HEADS * DIM, k, v, KV * DIM, first, end, ROWS, HEADS, KV, DIM, 0.3f, false, y);
    check("attention_dense, window", y, get("attention.window"), ROWS * HEADS * DIM, 1e-6);
    for (int i = 0; i < ROWS; i++) {
        first[i] = 0;
        end[i] = ROWS;
    }
    b->ops->attention_dense(b, q, HEADS * DIM, k, v, KV * DIM, first, end, ROWS, HEADS, KV, DIM, 0.3f, false, y);
    check("attention_dense, full", y, get("attention.full"), ROWS * HEADS * DIM, 1e-6);
    b->ops->attention_dense(b, q, HEADS * DIM, k, v, KV * DIM, first, end, ROWS, HEADS, KV, DIM, 0.3f, true, y);
    check("attention_dense, full, bf16", y, get("attention.full"), ROWS * HEADS * DIM, 1e-2);
    b->ops->head_norm_rope(b, q, ROWS, HEADS * DIM, HEADS, DIM, get("rope.weight"), 1e-6f, get("rope.cos"), get("rope.sin"));
    check("head_norm_rope", q, get("rope.y"), ROWS * HEADS * DIM, 5e-7);
}

/* The reference takes float32 products of frequencies and positions; cosine and sine of such a number are known to double precision. */
static void test_angles(backend *b) {
    enum { PLACES = 5, HALF = 7 };
    const float positions[PLACES][3] = {{0, 1, 2}, {3, 40, 500}, {3, 40, 500}, {0.5f, 31999, 7.25f}, {70000, 12.125f, 3}};
    const int32_t axis[HALF] = {0, 1, 2, 0, 1, 2, 0};
    float inv_freq[HALF], cosine[PLACES * HALF], sine[PLACES * HALF], want_cosine[PLACES * HALF], want_sine[PLACES * HALF];
    for (int j = 0; j < HALF; j++) {
        inv_freq[j] = powf(1000000, -(float)j / HALF);
    }
    for (int i = 0; i < PLACES * HALF; i++) {
        const float angle = positions[i / HALF][axis[i % HALF]] * inv_freq[i % HALF];
        want_cosine[i] = (float)cos((double)angle);
        want_sine[i] = (float)sin((double)angle);
    }
    b->ops->angles(b, &positions[0][0], inv_freq, axis, PLACES, HALF, cosine, sine);
    check("angles, cosine", cosine, want_cosine, PLACES * HALF, 1.2e-7);
    check("angles, sine", sine, want_sine, PLACES * HALF, 1.2e-7);
}

static void test_experts(backend *b) {
    enum { N = 11, WIDTH = 26, FFN = 18, EXPERTS = 7, USED = 3 };
    int32_t ids[N * USED];
    float weights[N * USED], *y = room(N * WIDTH), *x = get("moe.x");
    b->ops->route(b, get("moe.logits"), N, EXPERTS, USED, false, ids, weights);
    check("route, plain", weights, get("moe.plain_weights"), N * USED, 5e-7);
    b->ops->route(b, get("moe.logits"), N, EXPERTS, USED, true, ids, weights);
    check("route", weights, get("moe.weights"), N * USED, 5e-7);
    if (memcmp(ids, get("moe.ids"), sizeof ids) != 0) {
        fprintf(stderr, "%s: route: other experts\n", isa);
        failures++;
    }
    const float tied[] = {1, 2, 2, 0, 2, 2, -1};
    b->ops->route(b, tied, 1, EXPERTS, USED, true, ids, weights);
    failures += ids[0] != 1 || ids[1] != 2 || ids[2] != 4;
    tensor gate = weight(DTYPE_F32, get("moe.gate"), WIDTH, FFN, EXPERTS, 1), up = weight(DTYPE_F32, get("moe.up"), WIDTH, FFN, EXPERTS, 1),
           down = weight(DTYPE_F32, get("moe.down"), FFN, WIDTH, EXPERTS, 1);
    float *scratch = room((int64_t)b->ops->moe_scratch(b, N, USED, WIDTH, FFN));
    b->ops->moe(b, &gate, &up, &down, x, N, get("moe.ids"), get("moe.weights"), USED, scratch, y);
    check("moe", y, get("moe.y"), N * WIDTH, 1e-6);
    b->ops->moe(b, &gate, &up, &down, x, 1, get("moe.ids"), get("moe.weights"), USED, scratch, y);
    check("moe, one row", y, get("moe.y"), WIDTH, 1e-6);
}

int main(void) {
    const char *names[KERNEL_ISAS];
    int isas = kernels_isas(names);
    for (int i = 0; i < isas; i++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            isa = names[i];
            setenv("OMNI_CPU", isa, 1);
            backend *b;
            omni_error err;
            if (cpu_backend_create(threads, &b, &err) != OMNI_OK) {
                fprintf(stderr, "%s\n", err.text);
                return 1;
            }
            all = vectors_open(TEST_DATA "/ops.vectors");
            test_linear(b);
            test_convolutions(b);
            test_elementwise(b);
            test_far_scores(b);
            test_attention(b);
            test_angles(b);
            test_experts(b);
            vectors_close(&all);
            cpu_backend_destroy(b);
        }
    }
    setenv("OMNI_CPU", "no such set", 1);
    backend *none;
    failures += cpu_backend_create(1, &none, NULL) == OMNI_OK;
    printf("%d instruction sets, %d failures\n", isas, failures);
    return failures != 0;
}
