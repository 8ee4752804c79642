/* omni quantize's work: types, values, keys, importance matrices, refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/imatrix.h"
#include "convert/quantize_file.h"
#include "gguf/gguf.h"

#include <cmocka.h> /* last: it defines a macro named fail */

enum { WIDTH = 256, ROWS = 12, EXPERTS = 3 };

static char folder[] = "/tmp/quantize-test-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[8][256];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static float value(size_t i) {
    return (float)((i * 2654435761u >> 7) % 20011) / 20011 - 0.5f;
}

typedef struct spec {
    const char *name;
    dtype type;
    int n_dims;
    int64_t ne[3];
} spec;

static const spec MODEL[] = {
    {"token_embd.weight", DTYPE_F32, 2, {WIDTH, ROWS}},
    {"output.weight", DTYPE_F16, 2, {WIDTH, ROWS}},
    {"blk.0.attn_norm.weight", DTYPE_F32, 1, {WIDTH}},
    {"blk.0.attn_q.weight", DTYPE_BF16, 2, {WIDTH, ROWS}},
    {"blk.0.attn_v.weight", DTYPE_Q8_0, 2, {WIDTH, ROWS}},
    {"blk.0.ffn_gate_inp.weight", DTYPE_F32, 2, {WIDTH, EXPERTS}},
    {"blk.0.ffn_up_exps.weight", DTYPE_F32, 3, {WIDTH, ROWS, EXPERTS}},
    {"blk.0.ffn_down_exps.weight", DTYPE_F32, 3, {96, ROWS, EXPERTS}},
    {"blk.0.attn_output.weight", DTYPE_F32, 2, {33, ROWS}},
};
enum { N_TENSORS = sizeof MODEL / sizeof *MODEL };

static int64_t values_of(const spec *s) {
    return s->ne[0] * (s->n_dims > 1 ? s->ne[1] : 1) * (s->n_dims > 2 ? s->ne[2] : 1);
}

static void write_tensors(gguf_writer *w, const spec *specs, size_t n) {
    omni_error err;
    for (size_t i = 0; i < n; i++) {
        gguf_put_tensor(w, specs[i].name, specs[i].type, specs[i].n_dims, specs[i].ne);
    }
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    for (size_t i = 0; i < n; i++) {
        int64_t count = values_of(&specs[i]);
        float *x = malloc((size_t)count * sizeof *x);
        for (int64_t k = 0; k < count; k++) {
            x[k] = value(i * 1000003 + (size_t)k);
        }
        size_t bytes = gguf_writer_tensor_bytes(w, i);
        void *data = malloc(bytes);
        dtype_from_f32(specs[i].type, x, data, count);
        assert_int_equal(gguf_writer_data(w, i, 0, data, bytes, &err), OMNI_OK);
        free(data);
        free(x);
    }
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
}

static void write_model(const char *path) {
    gguf_writer *w;
    omni_error err;
    assert_int_equal(gguf_writer_create(path, &w, &err), OMNI_OK);
    gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    gguf_put_u32(w, "general.file_type", 0);
    gguf_put_u32(w, "qwen3vlmoe.block_count", 1);
    gguf_put_u32(w, "qwen3vlmoe.expert_count", EXPERTS);
    gguf_put_strs(w, "tokenizer.ggml.tokens", (gguf_str[]){{"a", 1}, {"bc", 2}}, 2);
    write_tensors(w, MODEL, N_TENSORS);
}

static omni_status quantize(const char *from, const char *to, const char *type, const char *important, bool again, quantize_result *r,
                            omni_error *e) {
    const quantize_options o = {
        .input = in_folder(from), .output = in_folder(to), .type = type, .imatrix = important, .allow_requantize = again, .threads = 2};
    return quantize_file(&o, r, e);
}

static gguf *open_file(const char *name) {
    gguf *g = NULL;
    omni_error err;
    assert_int_equal(gguf_open(in_folder(name), &g, &err), OMNI_OK);
    return g;
}

/* A value that is not finite, in any place of any type, whether the tensor is changed or copied; and one that the new type cannot hold. */
static void values_that_are_not_finite_are_refused(void **state) {
    static const struct {
        dtype stored;
        size_t at; /* bytes from the tensor's start */
        const char *bytes;
        int size;
    } cases[] = {
        {DTYPE_F32, 12, "\0\0\xc0\x7f", 4}, {DTYPE_F32, 1020, "\0\0\x80\xff", 4}, {DTYPE_F16, 6, "\0\x7c", 2},    {DTYPE_BF16, 510, "\xc1\x7f", 2},
        {DTYPE_Q8_0, 34, "\0\x7e", 2},      {DTYPE_Q4_K, 2, "\0\xfe", 2},         {DTYPE_Q6_K, 208, "\0\x7c", 2},
    };
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_writer *w;
        omni_error e = {0};
        quantize_result r;
        assert_int_equal(gguf_writer_create(in_folder("in.gguf"), &w, &e), OMNI_OK);
        gguf_put_str(w, "general.architecture", "qwen3vlmoe");
        const struct spec one = {"blk.0.attn_q.weight", cases[i].stored, 2, {256, 4}};
        write_tensors(w, &one, 1);
        gguf *g = open_file("in.gguf");
        const long at = (long)(gguf_data_offset(g) + cases[i].at);
        gguf_close(g);
        FILE *f = fopen(in_folder("in.gguf"), "r+b");
        fseek(f, at, SEEK_SET);
        fwrite(cases[i].bytes, 1, (size_t)cases[i].size, f);
        fclose(f);
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            assert_int_equal(quantize("in.gguf", "out.gguf", types[t], NULL, true, &r, &e), OMNI_ERR_FORMAT);
            assert_non_null(strstr(e.text, "in.gguf: tensor blk.0.attn_q.weight holds NaN or an infinite value (row 0, value"));
            assert_int_not_equal(access(in_folder("out.gguf"), F_OK), 0);
        }
    }
    static const struct {
        float value;
        const char *type, *advice;
    } large[] = {
        {65520, "f16", "F16 cannot hold; take bf16 or f32"}, {-3.4e38F, "bf16", "BF16 cannot hold; take f32"}, {1e7F, "q8_0", "Q8_0 cannot hold"}};
    for (size_t i = 0; i < 3; i++) {
        gguf_writer *w;
        omni_error e = {0};
        quantize_result r;
        float x[64] = {0};
        x[5] = large[i].value;
        assert_int_equal(gguf_writer_create(in_folder("in.gguf"), &w, &e), OMNI_OK);
        gguf_put_str(w, "general.architecture", "qwen3vlmoe");
        gguf_put_tensor(w, "blk.0.attn_q.weight", DTYPE_F32, 2, (int64_t[]){32, 2});
        assert_int_equal(gguf_writer_begin(w, &e), OMNI_OK);
        assert_int_equal(gguf_writer_data(w, 0, 0, x, sizeof x, &e), OMNI_OK);
        assert_int_equal(gguf_writer_finish(w, &e), OMNI_OK);
        assert_int_equal(quantize("in.gguf", "out.gguf", large[i].type, NULL, false, &r, &e), OMNI_ERR_UNSUPPORTED);
        assert_non_null(strstr(e.text, large[i].advice));
    }
}

static void types_and_values(void **state) {
    static const dtype want[] = {DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_F32, DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_F32, DTYPE_Q4_K, DTYPE_Q8_0, DTYPE_F16};
    quantize_result r;
    omni_error e = {0};
    write_model(in_folder("in.gguf"));
    assert_int_equal(quantize("in.gguf", "out.gguf", "Q4_K_M", NULL, false, &r, &e), OMNI_OK);
    assert_int_equal(r.tensors, N_TENSORS);
    assert_int_equal(r.changed, 7);
    gguf *a = open_file("in.gguf"), *b = open_file("out.gguf");
    assert_int_equal(gguf_key_count(b), gguf_key_count(a) + 1); /* general.quantization_version */
    uint32_t file_type = 0;
    assert_int_equal(gguf_need_u32(b, "general.file_type", &file_type, &e), OMNI_OK);
    assert_int_equal(file_type, 15);
    assert_int_equal(gguf_array_count(b, "tokenizer.ggml.tokens", NULL), 2);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const tensor *s = gguf_tensor(a, MODEL[i].name), *t = gguf_tensor(b, MODEL[i].name);
        assert_non_null(t);
        assert_int_equal(t->type, want[i]);
        int64_t n = values_of(&MODEL[i]);
        float *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y);
        dtype_to_f32(s->type, s->data, x, n);
        dtype_to_f32(t->type, t->data, y, n);
        for (int64_t k = 0; k < n; k++) {
            assert_true(fabsf(x[k] - y[k]) <= (t->type == DTYPE_Q4_K ? 0.06f : t->type == DTYPE_F32 ? 0 : 0.02f));
        }
        free(x);
        free(y);
    }
    gguf_close(a);
    gguf_close(b);
}

static void quantised_files_need_permission(void **state) {
    quantize_result r;
    omni_error e = {0};
    write_model(in_folder("in.gguf"));
    assert_int_equal(quantize("in.gguf", "out.gguf", "q4_k_m", NULL, false, &r, &e), OMNI_OK);
    assert_int_equal(quantize("out.gguf", "again.gguf", "q5_k_m", NULL, false, &r, &e), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "token_embd.weight is quantised already (Q4_K)"));
    assert_int_equal(access(in_folder("again.gguf"), F_OK), -1);
    assert_int_equal(quantize("out.gguf", "again.gguf", "q5_k_m", NULL, true, &r, &e), OMNI_OK);
    /* The same type again changes nothing and needs none. */
    assert_int_equal(quantize("out.gguf", "same.gguf", "q4_k_m", NULL, false, &r, &e), OMNI_OK);
    assert_int_equal(r.changed, 0);
    gguf *a = open_file("out.gguf"), *b = open_file("same.gguf");
    for (size_t i = 0; i < N_TENSORS; i++) {
        const tensor *s = gguf_tensor(a, MODEL[i].name), *t = gguf_tensor(b, MODEL[i].name);
        assert_int_equal(s->size, t->size);
        assert_memory_equal(s->data, t->data, s->size);
    }
    gguf_close(a);
    gguf_close(b);
    assert_int_equal(quantize("in.gguf", "in.gguf", "q4_k_m", NULL, false, &r, &e), OMNI_ERR_ARGUMENT);
    assert_int_equal(quantize("in.gguf", "x.gguf", "q9", NULL, false, &r, &e), OMNI_ERR_ARGUMENT);
    assert_int_equal(quantize("in.gguf", "x.gguf", "iq4_xs", NULL, false, &r, &e), OMNI_ERR_UNSUPPORTED);
    assert_int_equal(quantize("none.gguf", "x.gguf", "q8_0", NULL, false, &r, &e), OMNI_ERR_IO);
}

static bool stop_at_once(void *arg, uint64_t done, uint64_t total) {
    return false;
}

static void stopping_leaves_nothing(void **state) {
    omni_error e = {0};
    write_model(in_folder("in.gguf"));
    const quantize_options o = {
        .input = in_folder("in.gguf"), .output = in_folder("stopped.gguf"), .type = "q8_0", .threads = 1, .progress = stop_at_once};
    assert_int_equal(quantize_file(&o, NULL, &e), OMNI_CANCELLED);
    assert_int_equal(access(in_folder("stopped.gguf"), F_OK), -1);
}

/* Columns of one expert matter: those columns of that expert come back better than without; an expert that was never reached is as without. */
static void importance_matrices_are_used(void **state) {
    quantize_result r;
    omni_error e = {0};
    write_model(in_folder("in.gguf"));
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(in_folder("imatrix.gguf"), &w, &e), OMNI_OK);
    gguf_put_str(w, "general.type", "imatrix");
    gguf_put_u32(w, "imatrix.chunk_count", 7);
    gguf_put_tensor(w, "blk.0.ffn_up_exps.weight.in_sum2", DTYPE_F32, 2, (int64_t[]){WIDTH, EXPERTS});
    gguf_put_tensor(w, "blk.0.ffn_up_exps.weight.counts", DTYPE_F32, 2, (int64_t[]){1, EXPERTS});
    float sums[EXPERTS * WIDTH] = {0}, counts[EXPERTS] = {2, 0, 5};
    for (int i = 0; i < WIDTH; i++) {
        sums[i] = i % 4 ? 1e-3f : 50;
        sums[WIDTH + i] = 9; /* of an expert without rows: not used */
        sums[2 * WIDTH + i] = 3;
    }
    assert_int_equal(gguf_writer_begin(w, &e), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 0, 0, sums, sizeof sums, &e), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 1, 0, counts, sizeof counts, &e), OMNI_OK);
    assert_int_equal(gguf_writer_finish(w, &e), OMNI_OK);
    assert_int_equal(quantize("in.gguf", "plain.gguf", "q4_k", NULL, false, &r, &e), OMNI_OK);
    assert_int_equal(r.important, 0);
    assert_int_equal(quantize("in.gguf", "weighted.gguf", "q4_k", in_folder("imatrix.gguf"), false, &r, &e), OMNI_OK);
    assert_int_equal(r.important, 1);
    gguf *a = open_file("in.gguf"), *b = open_file("plain.gguf"), *c = open_file("weighted.gguf");
    uint32_t entries = 0;
    assert_int_equal(gguf_need_u32(c, "quantize.imatrix.entries_count", &entries, &e), OMNI_OK);
    assert_int_equal(entries, 1);
    const char *name = "blk.0.ffn_up_exps.weight";
    tensor p = *gguf_tensor(b, name), q = *gguf_tensor(c, name), x = *gguf_tensor(a, name);
    size_t expert = p.size / EXPERTS;
    assert_memory_equal((const char *)p.data + expert, (const char *)q.data + expert, expert);
    double plain = 0, weighted = 0;
    for (int row = 0; row < ROWS; row++) {
        float y[WIDTH], z[WIDTH];
        dtype_to_f32(p.type, tensor_row(&p, row), y, WIDTH);
        dtype_to_f32(q.type, tensor_row(&q, row), z, WIDTH);
        const float *exact = tensor_row(&x, row);
        for (int i = 0; i < WIDTH; i += 4) {
            plain += pow(y[i] - exact[i], 2);
            weighted += pow(z[i] - exact[i], 2);
        }
    }
    assert_true(weighted < 0.7 * plain);
    gguf_close(a);
    gguf_close(b);
    gguf_close(c);
    /* A matrix of another shape, and a file that is none. */
    imatrix *m;
    float *means;
    assert_int_equal(imatrix_open(in_folder("imatrix.gguf"), &m, &e), OMNI_OK);
    assert_int_equal(imatrix_chunks(m), 7);
    tensor other = {.name = name, .type = DTYPE_F32, .n_dims = 3, .ne = {WIDTH / 2, ROWS, EXPERTS, 1}};
    assert_int_equal(imatrix_find(m, &other, &means, &e), OMNI_ERR_FORMAT);
    other.name = "unknown";
    assert_int_equal(imatrix_find(m, &other, &means, &e), OMNI_OK);
    assert_null(means);
    imatrix_close(m);
    assert_int_equal(imatrix_open(in_folder("in.gguf"), &m, &e), OMNI_ERR_FORMAT);
}

static int make_folder(void **state) {
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    static const char *const files[] = {"in.gguf", "out.gguf", "again.gguf", "same.gguf", "imatrix.gguf", "plain.gguf", "weighted.gguf"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        unlink(in_folder(files[i]));
    }
    return rmdir(folder); /* fails when anything else was left behind */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_that_are_not_finite_are_refused), cmocka_unit_test(types_and_values),
        cmocka_unit_test(quantised_files_need_permission),        cmocka_unit_test(stopping_leaves_nothing),
        cmocka_unit_test(importance_matrices_are_used),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
