/* What the backend shows of its matrices' inputs, added up, written and read back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/imatrix.h"
#include "convert/imatrix_collect.h"
#include "cpu/cpu.h"
#include "omni.h"

#include <cmocka.h> /* last: it defines a macro named fail */

enum { WIDTH = 24, FFN = 10, EXPERTS = 4, USED = 2, ROWS = 9 };

static float value(int i) {
    return (float)((i * 7919 + 13) % 211 - 105) * 0.01f;
}

static float *values(int n, int seed) {
    float *x = malloc((size_t)n * sizeof *x);
    for (int i = 0; i < n; i++) {
        x[i] = value(i + 1000 * seed);
    }
    return x;
}

static tensor matrix(const char *name, const float *data, int n_dims, int64_t in, int64_t out, int64_t experts) {
    return (tensor){.name = name,
                    .type = DTYPE_F32,
                    .n_dims = n_dims,
                    .ne = {in, out, experts, 1},
                    .size = (size_t)(in * out * experts) * sizeof *data,
                    .data = data};
}

static void expect_means(const imatrix *m, const tensor *t, const double *sums, const double *counts) {
    float *means = NULL;
    omni_error err;
    assert_int_equal(imatrix_find(m, t, &means, &err), OMNI_OK);
    assert_non_null(means);
    for (int64_t e = 0; e < t->ne[2]; e++) {
        for (int64_t i = 0; i < t->ne[0]; i++) {
            double want = counts[e] > 0 ? sums[e * t->ne[0] + i] / counts[e] : 0;
            assert_true(fabs(means[e * t->ne[0] + i] - want) <= 1e-5 * (want + 1e-3));
        }
    }
    free(means);
}

static void sums_are_those_of_the_inputs(void **state) {
    backend *b;
    omni_error err;
    assert_int_equal(cpu_backend_create(2, &b, &err), OMNI_OK);
    float *x = values(ROWS * 2 * WIDTH, 1), *wq = values(WIDTH * 5, 2), *wg = values(WIDTH * FFN * EXPERTS, 3),
          *wu = values(WIDTH * FFN * EXPERTS, 4), *wd = values(FFN * WIDTH * EXPERTS, 5), *y = values(ROWS * WIDTH, 6),
          *plain = values(ROWS * WIDTH, 6);
    const tensor q = matrix("blk.0.attn_q.weight", wq, 2, WIDTH, 5, 1), head = matrix("output.weight", wq, 2, WIDTH, 5, 1),
                 router = matrix("blk.0.ffn_gate_inp.weight", wq, 2, WIDTH, EXPERTS, 1),
                 gate = matrix("blk.0.ffn_gate_exps.weight", wg, 3, WIDTH, FFN, EXPERTS),
                 up = matrix("blk.0.ffn_up_exps.weight", wu, 3, WIDTH, FFN, EXPERTS),
                 down = matrix("blk.0.ffn_down_exps.weight", wd, 3, FFN, WIDTH, EXPERTS);
    int32_t ids[ROWS * USED];
    float weights[ROWS * USED];
    for (int s = 0; s < ROWS * USED; s++) {
        ids[s] = s % USED == 0 ? s % 3 : (s % 3 + 1) % 3; /* the last expert is never chosen */
        weights[s] = 0.5f;
    }
    float *scratch = calloc(b->ops->moe_scratch(b, ROWS, USED, WIDTH, FFN), sizeof *scratch);
    b->ops->moe(b, &gate, &up, &down, x, ROWS, ids, weights, USED, scratch, plain);

    imatrix_collector *c = imatrix_collector_create();
    const input_collector hook = {imatrix_collect, c};
    b->collect_inputs(b, &hook);
    /* Rows with a gap between them, in two calls. */
    b->ops->linear(b, &q, NULL, x, 4, 2 * WIDTH, y, 5);
    b->ops->linear(b, &q, NULL, x + 4 * 2 * WIDTH, ROWS - 4, 2 * WIDTH, y, 5);
    b->ops->linear(b, &head, NULL, x, 1, WIDTH, y, 5);
    b->ops->linear(b, &router, NULL, x, 2, WIDTH, y, EXPERTS);
    b->ops->moe(b, &gate, &up, &down, x, ROWS, ids, weights, USED, scratch, y);
    b->collect_inputs(b, NULL);
    assert_memory_equal(y, plain, ROWS * WIDTH * sizeof *y); /* looking changes nothing */
    b->ops->linear(b, &q, NULL, x, ROWS, WIDTH, y, 5);       /* no longer seen */
    assert_int_equal(imatrix_collected(c), 4);

    double sums[WIDTH] = {0}, in[EXPERTS * WIDTH] = {0}, hidden[EXPERTS * FFN] = {0}, counts[EXPERTS] = {0};
    const double rows = ROWS;
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < WIDTH; i++) {
            sums[i] += pow(x[r * 2 * WIDTH + i], 2);
        }
        for (int k = 0; k < USED; k++) {
            int e = ids[r * USED + k];
            counts[e]++;
            for (int i = 0; i < WIDTH; i++) {
                in[e * WIDTH + i] += pow(x[r * WIDTH + i], 2);
            }
            for (int f = 0; f < FFN; f++) {
                double g = 0, u = 0;
                for (int i = 0; i < WIDTH; i++) {
                    g += (double)x[r * WIDTH + i] * wg[(e * FFN + f) * WIDTH + i];
                    u += (double)x[r * WIDTH + i] * wu[(e * FFN + f) * WIDTH + i];
                }
                hidden[e * FFN + f] += pow(g / (1 + exp(-g)) * u, 2);
            }
        }
    }
    char path[] = "/tmp/imatrix-test-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(imatrix_write(c, path, "corpus", 3, 512, &err), OMNI_OK);
    imatrix *m;
    assert_int_equal(imatrix_open(path, &m, &err), OMNI_OK);
    assert_int_equal(imatrix_entries(m), 4);
    assert_int_equal(imatrix_chunks(m), 3);
    expect_means(m, &q, sums, &rows);
    expect_means(m, &gate, in, counts);
    expect_means(m, &up, in, counts);
    expect_means(m, &down, hidden, counts);
    float *none;
    assert_int_equal(imatrix_find(m, &head, &none, &err), OMNI_OK);
    assert_null(none);
    assert_int_equal(imatrix_find(m, &router, &none, &err), OMNI_OK);
    assert_null(none);
    imatrix_close(m);
    unlink(path);
    imatrix_collector_free(c);
    cpu_backend_destroy(b);
    free(x), free(wq), free(wg), free(wu), free(wd), free(y), free(plain), free(scratch);
}

/* More matrices than the table begins with. */
static void many_matrices_are_kept_apart(void **state) {
    enum { N = 3000 };
    static char names[N][32];
    imatrix_collector *c = imatrix_collector_create();
    omni_error err;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            snprintf(names[i], sizeof names[i], "blk.%d.attn_q.weight", i);
            const tensor t = matrix(names[i], NULL, 2, 2, 1, 1);
            const float x[2] = {(float)i, 2};
            imatrix_collect(c, &t, x, 1, 2, 1, NULL, NULL);
        }
    }
    assert_int_equal(imatrix_collected(c), N);
    char path[] = "/tmp/imatrix-test-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(imatrix_write(c, path, "corpus", 1, 1, &err), OMNI_OK);
    imatrix *m;
    assert_int_equal(imatrix_open(path, &m, &err), OMNI_OK);
    for (int i = 0; i < N; i += 37) {
        const tensor t = matrix(names[i], NULL, 2, 2, 1, 1);
        const double sums[] = {2.0 * i * i, 8}, two = 2;
        expect_means(m, &t, sums, &two);
    }
    imatrix_close(m);
    unlink(path);
    imatrix_collector_free(c);
}

static size_t put(char *to, size_t at, const void *from, size_t size) {
    memcpy(to + at, from, size);
    return at + size;
}

/* Sums and counts that no computation can give, in either kind of file: an error, not importance made up in their place. */
static void values_that_are_no_importance_are_refused(void **state) {
    const float values[] = {NAN, INFINITY, -INFINITY, -1, -1e-30f};
    const tensor t = matrix("blk.0.attn_q.weight", NULL, 2, 3, 1, 1);
    char path[] = "/tmp/imatrix-test-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    omni_error err;
    float *means;
    for (int i = 0; i < 5; i++) {
        for (int counts = 0; counts < 2; counts++) {
            gguf_writer *w;
            imatrix *m;
            const float sums[3] = {1, counts ? 1 : values[i], 2}, count = counts ? values[i] : 4;
            assert_int_equal(gguf_writer_create(path, &w, &err), OMNI_OK);
            gguf_put_str(w, "general.type", "imatrix");
            gguf_put_tensor(w, "blk.0.attn_q.weight.in_sum2", DTYPE_F32, 2, (int64_t[]){3, 1});
            gguf_put_tensor(w, "blk.0.attn_q.weight.counts", DTYPE_F32, 2, (int64_t[]){1, 1});
            assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
            assert_int_equal(gguf_writer_data(w, 0, 0, sums, sizeof sums, &err), OMNI_OK);
            assert_int_equal(gguf_writer_data(w, 1, 0, &count, sizeof count, &err), OMNI_OK);
            assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
            assert_int_equal(imatrix_open(path, &m, &err), OMNI_OK);
            assert_int_equal(imatrix_find(m, &t, &means, &err), OMNI_ERR_FORMAT);
            assert_non_null(strstr(err.text, counts ? "blk.0.attn_q.weight: count 0 is" : "blk.0.attn_q.weight: sum of squares 1 is"));
            assert_null(means);
            imatrix_close(m);
        }
        /* collected from a model that computes such values */
        imatrix_collector *c = imatrix_collector_create();
        const float x[3] = {1, i < 3 ? values[i] : 1e30f, 2};
        imatrix_collect(c, &t, x, 1, 3, 1, NULL, NULL);
        assert_int_equal(imatrix_write(c, path, "corpus", 1, 1, &err), OMNI_ERR_FORMAT);
        assert_non_null(strstr(err.text, "blk.0.attn_q.weight"));
        imatrix_collector_free(c);
    }
    close(file);
    unlink(path);
}

/* llama.cpp's older files; what is cut off anywhere is refused, and nothing is read past the end. */
static void older_files_are_read(void **state) {
    char bytes[512], path[] = "/tmp/imatrix-test-XXXXXX";
    const char *names[] = {"blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"};
    const int32_t counts[] = {4, 2}, values[] = {3, 6}, chunks = 9, entries = 2;
    size_t n = put(bytes, 0, &entries, 4);
    for (int i = 0; i < 2; i++) {
        const int32_t length = (int32_t)strlen(names[i]);
        n = put(bytes, n, &length, 4);
        n = put(bytes, n, names[i], (size_t)length);
        n = put(bytes, n, &counts[i], 4);
        n = put(bytes, n, &values[i], 4);
        for (int k = 0; k < values[i]; k++) {
            n = put(bytes, n, &(float){(float)(k + 1)}, 4);
        }
    }
    const size_t needed = n;
    n = put(bytes, n, &chunks, 4);
    int file = mkstemp(path);
    assert_true(file >= 0);
    imatrix *m = NULL;
    omni_error err;
    for (size_t size = 0; size <= n; size++) {
        assert_int_equal(ftruncate(file, 0), 0);
        assert_int_equal(pwrite(file, bytes, size, 0), (ssize_t)size);
        assert_int_equal(imatrix_open(path, &m, &err) == OMNI_OK, size >= needed);
        if (size < n) {
            imatrix_close(m);
        }
    }
    assert_int_equal(imatrix_entries(m), 2);
    assert_int_equal(imatrix_chunks(m), 9);
    tensor q = matrix(names[0], NULL, 2, 3, 5, 1), up = matrix(names[1], NULL, 3, 3, 5, 2);
    const double sums[] = {1, 2, 3, 4, 5, 6}, four = 4, twos[] = {2, 2};
    expect_means(m, &q, sums, &four);
    expect_means(m, &up, sums, twos);
    float *none;
    q.ne[0] = 2;
    assert_int_equal(imatrix_find(m, &q, &none, &err), OMNI_ERR_FORMAT);
    q.name = "blk.0.attn_k.weight";
    assert_int_equal(imatrix_find(m, &q, &none, &err), OMNI_OK);
    assert_null(none);
    imatrix_close(m);
    for (size_t at = 0; at < needed; at++) { /* any byte may be anything */
        for (int v = 0; v < 256; v += 17) {
            char changed[512];
            memcpy(changed, bytes, n);
            changed[at] = (char)v;
            assert_int_equal(pwrite(file, changed, n, 0), (ssize_t)n);
            if (imatrix_open(path, &m, &err) == OMNI_OK) {
                imatrix_close(m);
            }
        }
    }
    close(file);
    unlink(path);
}

static char *whole_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *size = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*size);
    assert_int_equal(fread(bytes, 1, *size, f), *size);
    fclose(f);
    return bytes;
}

/* The same file, byte for byte, whatever the number of threads: speech is decoded beside the talker when there are two or more, in chunks that
 * depend on how fast each is. */
static void threads_do_not_matter(void **state) {
    char text[] = "/tmp/imatrix-text-XXXXXX", out[] = "/tmp/imatrix-test-XXXXXX";
    static const char corpus[] = "The sea is wide and deep, and many ships have sailed on it.\nSome came home.\n";
    char *first = NULL;
    size_t first_size = 0;
    int file = mkstemp(text), to = mkstemp(out);
    assert_true(file >= 0 && to >= 0);
    assert_int_equal(write(file, corpus, sizeof corpus - 1), sizeof corpus - 1);
    close(file);
    close(to);
    for (int threads = 1; threads <= 4; threads *= 2) {
        omni_error err;
        omni_imatrix_params p = omni_imatrix_params_default();
        p.model.model = TEST_DATA "/../../models/tiny/qwen3-omni-f16.gguf";
        p.model.talker = TEST_DATA "/../../models/tiny/talker-qwen3-omni-f16.gguf";
        p.model.threads = threads;
        p.text = text;
        p.output = out;
        if (omni_imatrix(&p, NULL, &err) != OMNI_OK) {
            fail_msg("%s", err.text);
        }
        size_t size;
        char *bytes = whole_file(out, &size);
        if (threads == 1) {
            first = bytes;
            first_size = size;
            continue;
        }
        assert_int_equal(size, first_size);
        assert_memory_equal(bytes, first, size);
        free(bytes);
    }
    free(first);
    unlink(text);
    unlink(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_the_inputs),
        cmocka_unit_test(many_matrices_are_kept_apart),
        cmocka_unit_test(values_that_are_no_importance_are_refused),
        cmocka_unit_test(older_files_are_read),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
