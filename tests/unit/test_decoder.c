/* The decoder, opened as a thinker, against vectors of the reference (tests/reference/decoder.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cpu/cpu.h"
#include "engine/decoder_runner.h"
#include "gguf/safetensors.h"
#include "model/rope.h"
#include "model/thinker.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { CONTEXT = 128 };

static backend *b;
static gguf *g;
static thinker *t;
static safetensors *vectors;
static omni_error err;

static const float *values(const char *name, int64_t *first) {
    const st_tensor *x = safetensors_find(vectors, name);
    assert_non_null(x);
    if (first) {
        *first = x->shape[0];
    }
    return x->data;
}

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    must(cpu_backend_create(2, &b, &err));
    must(gguf_open(TEST_DATA "/decoder.gguf", &g, &err));
    must(thinker_open(b, g, false, &t, &err));
    must(thinker_use_encoder(t, 2, t->config.width, 2, &err));
    must(safetensors_open_file(TEST_DATA "/decoder.safetensors", &vectors, &err));
    return 0;
}

static int tear_down(void **state) {
    safetensors_close(vectors);
    thinker_close(t);
    gguf_close(g);
    cpu_backend_destroy(b);
    return 0;
}

static decoder_row *make_rows(int64_t *n) {
    int64_t width = t->config.width, visual_count, media = 0;
    const float *tokens = values("tokens", n), *positions = values("positions", NULL), *embeddings = values("embeddings", NULL);
    const float *visual = values("visual", &visual_count), *deepstack = values("deepstack", NULL);
    decoder_row *rows = calloc((size_t)*n, sizeof *rows);
    assert_non_null(rows);
    for (int64_t i = 0; i < *n; i++) {
        rows[i].token = (int32_t)tokens[i];
        memcpy(rows[i].position, positions + 3 * i, sizeof rows[i].position);
        if (rows[i].token < 0) {
            rows[i].embedding = embeddings + width * media++;
        }
    }
    for (int64_t i = 0; i < visual_count; i++) {
        rows[(int)visual[i]].deepstack = deepstack + i * width;
        rows[(int)visual[i]].deepstack_stride = visual_count * width;
    }
    return rows;
}

static void near(const float *got, const float *want, int64_t n, const char *what) {
    double largest = 0, off = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)want[i]));
        assert_true(isfinite(got[i]));
        off = fmax(off, fabs((double)got[i] - (double)want[i]));
    }
    if (off > 2e-6 * largest) {
        fail_msg("%s: off by %g, largest %g", what, off, largest);
    }
}

/* Runs the whole sequence in passes of chunk rows; captured and logits receive n rows (logits only the last `outputs`). */
static void run(int64_t chunk, int64_t outputs, int layer, float *captured, float *logits) {
    int64_t n, width = t->config.width, vocab = t->config.vocab;
    decoder_row *rows = make_rows(&n);
    for (int64_t i = 0; captured && i < n; i++) {
        rows[i].captured = captured + i * width;
    }
    kv_pool *kv;
    kv_seq seq;
    decoder_runner *x;
    must(kv_pool_create(b, DTYPE_F32, DTYPE_F32, t->config.layers, t->config.kv_heads, t->config.head_dim, CONTEXT, &kv, &err));
    must(kv_seq_init(kv, CONTEXT, &seq, &err));
    must(decoder_runner_create(b, &t->config, &t->weights, kv, chunk, n, 8, &x, &err));
    runner_options o = {.logits = true, .capture_layer = layer, .deepstack_layers = t->deepstack_layers};
    must(decoder_runner_run(x, &(runner_input){.seq = &seq, .rows = rows, .n = n, .outputs = outputs}, 1, &o, &err));
    memcpy(logits, decoder_logits(decoder_runner_decoder(x)), (size_t)(outputs * vocab) * sizeof *logits);
    decoder_runner_destroy(x);
    kv_seq_release(&seq);
    kv_pool_destroy(kv);
    free(rows);
}

/* Every recorded hidden state, among them those at the depth of a deepstack addition, and the logits of every row. */
static void hidden_states(void **state) {
    int64_t n, width = t->config.width, vocab = t->config.vocab;
    values("tokens", &n);
    float *captured = calloc((size_t)(n * width), sizeof *captured), *logits = calloc((size_t)(n * vocab), sizeof *logits);
    for (int layer = 0; layer <= t->config.layers; layer++) {
        run(CONTEXT, n, layer, captured, logits);
        near(captured, values("hidden", NULL) + layer * n * width, n * width, "hidden state");
        near(logits, values("logits", NULL), n * vocab, "logits");
    }
    free(captured);
    free(logits);
}

/* In chunks, and with the last layer computed only where it is read, the results are the same bits. */
static void chunks(void **state) {
    int64_t n, width = t->config.width, vocab = t->config.vocab;
    values("tokens", &n);
    float *captured = calloc((size_t)(n * width), sizeof *captured), *logits = calloc((size_t)(n * vocab), sizeof *logits);
    float *captured2 = calloc((size_t)(n * width), sizeof *captured), *logits2 = calloc((size_t)(n * vocab), sizeof *logits);
    run(CONTEXT, n, 2, captured, logits);
    const int64_t sizes[] = {1, 7, 64, 69};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int64_t outputs = 1; outputs < n; outputs += 17) {
            memset(captured2, 0, (size_t)(n * width) * sizeof *captured);
            run(sizes[i], outputs, 2, captured2, logits2);
            assert_memory_equal(captured, captured2, (size_t)(n * width) * sizeof *captured);
            assert_memory_equal(logits + (n - outputs) * vocab, logits2, (size_t)(outputs * vocab) * sizeof *logits);
        }
    }
    free(captured);
    free(logits);
    free(captured2);
    free(logits2);
}

static void opened(void **state) {
    assert_int_equal(t->config.vocab, 48);
    assert_int_equal(t->markup.image, 39); /* by the token's text */
    assert_int_equal(t->markup.audio_end, 45);
    assert_int_equal(t->ids.im_end, 47);
    assert_int_equal(t->ids.user, -1);
    assert_int_equal(t->markup.ids_per_second, 13);
    assert_int_equal(thinker_use_encoder(t, 2, t->config.width + 1, 2, &err), OMNI_ERR_FORMAT);
    must(thinker_use_encoder(t, 2, t->config.width, 9, &err)); /* more feature sets than layers: the rest is unused */
    must(thinker_use_encoder(t, 2, t->config.width, 2, &err));
    thinker *table;
    must(thinker_open(b, g, true, &table, &err));
    assert_non_null(table->weights.token_embd.data);
    assert_null(table->weights.layers);
    thinker_close(table);
}

static void refused(void **state) {
    int64_t n;
    decoder_row *rows = make_rows(&n);
    decoder *d;
    kv_pool *kv;
    must(kv_pool_create(b, DTYPE_F32, DTYPE_F32, t->config.layers, t->config.kv_heads, t->config.head_dim, CONTEXT, &kv, &err));
    must(decoder_create(b, &t->config, &t->weights, 4, 1, 2, &d, &err));
    const int32_t table[] = {0, 1}, last = 1;
    const decoder_row good = {.token = 3, .slot = 0, .at = {0, 0, 1}};
    decoder_row two[] = {good, good};
    decoder_batch one = {.rows = two, .n = 2, .block_table = table, .table_size = 2, .outputs = &last, .output_count = 1, .logits = true};
    assert_int_equal(decoder_forward(d, kv_pool_cache(kv), &one, &err), OMNI_OK);
    const decoder_row wrong[] = {
        {.token = 48, .at = {0, 0, 1}},             /* beyond the vocabulary */
        {.token = -1, .at = {0, 0, 1}},             /* no embedding */
        {.token = 3, .slot = 128, .at = {0, 0, 1}}, /* beyond the cache */
        {.token = 3, .slot = -1, .at = {0, 0, 1}},
        {.token = 3, .at = {0, 1, 1}},
        {.token = 3, .at = {1, 0, 65}},
        {.token = 3, .at = {-1, 0, 1}},
        {.token = 3, .at = {0, -1, 1}},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        two[1] = wrong[i];
        assert_int_equal(decoder_forward(d, kv_pool_cache(kv), &one, &err), OMNI_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, "row 1"));
    }
    two[1] = good;
    decoder_batch many = one;
    many.n = 5;
    assert_int_equal(decoder_forward(d, kv_pool_cache(kv), &many, &err), OMNI_ERR_LIMIT);
    many = one;
    many.output_offset = 1;
    assert_int_equal(decoder_forward(d, kv_pool_cache(kv), &many, &err), OMNI_ERR_LIMIT);
    const int32_t beyond = 2, bad_table[] = {0, 2};
    many = one;
    many.outputs = &beyond;
    assert_int_equal(decoder_forward(d, kv_pool_cache(kv), &many, &err), OMNI_ERR_ARGUMENT);
    many = one;
    many.block_table = bad_table;
    assert_int_equal(decoder_forward(d, kv_pool_cache(kv), &many, &err), OMNI_ERR_ARGUMENT);
    decoder_destroy(d);
    kv_pool_destroy(kv);
    free(rows);
}

static void config_limits(void **state) {
    const decoder_config good = t->config;
    must(decoder_config_check(&good, "test", &err));
    decoder_config c = good;
    c.kv_heads = 3;
    assert_int_equal(decoder_config_check(&c, "test", &err), OMNI_ERR_FORMAT);
    c = good;
    c.head_dim = 7;
    assert_int_equal(decoder_config_check(&c, "test", &err), OMNI_ERR_FORMAT);
    c = good;
    c.experts_used = 5;
    assert_int_equal(decoder_config_check(&c, "test", &err), OMNI_ERR_FORMAT);
    c = good;
    c.norm_eps = NAN;
    assert_int_equal(decoder_config_check(&c, "test", &err), OMNI_ERR_FORMAT);
    c = good;
    c.rope_sections[1] = -1;
    assert_int_equal(decoder_config_check(&c, "test", &err), OMNI_ERR_FORMAT);
    decoder_weights w;
    c = good;
    c.layers = 4; /* the file has three */
    assert_int_equal(decoder_weights_load(b, g, "", &c, false, &w, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "blk.3."));
    c = good;
    c.expert_ffn = 9;
    assert_int_equal(decoder_weights_load(b, g, "", &c, false, &w, &err), OMNI_ERR_FORMAT);
}

/* Sections {12, 10, 10} of 32 pairs: height at 1, 4, ... 28, width at 2, 5, ... 29, time elsewhere. */
static void rotary_axes(void **state) {
    const int sections[] = {12, 10, 10}, plain[3] = {0};
    int counts[3] = {0};
    for (int j = 0; j < 32; j++) {
        counts[rope_axis(sections, j)]++;
        assert_int_equal(rope_axis(plain, j), 0);
    }
    assert_int_equal(counts[0], 12);
    assert_int_equal(counts[1], 10);
    assert_int_equal(rope_axis(sections, 28), 1);
    assert_int_equal(rope_axis(sections, 29), 2);
    assert_int_equal(rope_axis(sections, 31), 0);
}

/* Opens what a damaged file still is and runs a few rows of it: an error or any values, never a crash. */
static void use_damaged(const void *data, size_t size, int *opened_count) {
    gguf *file;
    thinker *x;
    if (gguf_open_memory(data, size, "damaged", &file, &err) != OMNI_OK) {
        return;
    }
    if (thinker_open(b, file, false, &x, &err) == OMNI_OK) {
        ++*opened_count;
        const decoder_config *c = &x->config;
        kv_pool *kv;
        kv_seq seq;
        decoder_runner *runner;
        if (thinker_memory(x, DTYPE_F16, 64, 4, 1) < (size_t)1 << 28) { /* an absurd but valid context or size */
            must(kv_pool_create(b, DTYPE_F16, DTYPE_F16, c->layers, c->kv_heads, c->head_dim, 64, &kv, &err));
            must(kv_seq_init(kv, 64, &seq, &err));
            must(decoder_runner_create(b, c, &x->weights, kv, 4, 1, 4, &runner, &err));
            decoder_row rows[4] = {{.token = 1}, {.token = 2}, {.token = 3}, {.token = 0}};
            runner_options o = {.logits = true, .capture_layer = c->layers};
            must(decoder_runner_run(runner, &(runner_input){.seq = &seq, .rows = rows, .n = 4, .outputs = 1}, 1, &o, &err));
            decoder_runner_destroy(runner);
            kv_seq_release(&seq);
            kv_pool_destroy(kv);
        }
        thinker_close(x);
    }
    gguf_close(file);
}

static void damaged(void **state) {
    char *data;
    size_t size;
    must(file_read(TEST_DATA "/decoder.gguf", 1 << 24, &data, &size, &err));
    int opened_count = 0;
    use_damaged(data, size, &opened_count);
    assert_int_equal(opened_count, 1);
    uint32_t random = 1;
    for (int i = 0; i < 600; i++) {
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % (i % 3 ? 5000 : size); /* mostly in the header */
        char kept = data[at];
        data[at] ^= (char)(1 << (random >> 5 & 7));
        use_damaged(data, size, &opened_count);
        data[at] = kept;
    }
    assert_true(opened_count > 1 && opened_count < 601);
    for (size_t cut = 0; cut < size; cut += 1 + size / 100) {
        char *part = malloc(cut + 1); /* its own block, so that a read past the end is seen */
        assert_non_null(part);
        memcpy(part, data, cut);
        use_damaged(part, cut, &opened_count);
        free(part);
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hidden_states), cmocka_unit_test(chunks),        cmocka_unit_test(opened),
                                       cmocka_unit_test(refused),       cmocka_unit_test(config_limits), cmocka_unit_test(rotary_axes),
                                       cmocka_unit_test(damaged)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
