/* What a description counts, against numbers worked out by hand and the pools that will hold the memory. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cpu/cpu.h"
#include "gguf/describe.h"
#include "model/kv_blocks.h"
#include "scratch.h"

#include <cmocka.h> /* last: it defines a macro named fail */

/* A file with these tensors, all of zeros; keys are put by the caller. */
typedef struct spec {
    const char *name;
    dtype type;
    int64_t ne[3];
} spec;

/* Of a pool on the CPU. */
static uint64_t cache_bytes(dtype type, int layers, int kv_heads, int head_dim, uint64_t positions) {
    backend *b;
    assert_int_equal(cpu_backend_create(1, &b, NULL), OMNI_OK);
    const size_t bytes = kv_memory(b, type, layers, kv_heads, head_dim, (int64_t)positions);
    backend_destroy(b);
    return bytes;
}

static gguf *write_and_open(const char *file, void (*keys)(gguf_writer *), const spec *tensors, size_t count) {
    omni_error err = {0};
    gguf_writer *w;
    gguf *g = NULL;
    assert_int_equal(gguf_writer_create(in_folder(file), &w, &err), OMNI_OK);
    keys(w);
    for (size_t i = 0; i < count; i++) {
        gguf_put_tensor(w, tensors[i].name, tensors[i].type, 3, tensors[i].ne);
    }
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    for (size_t i = 0; i < count; i++) {
        size_t n = gguf_writer_tensor_bytes(w, i);
        void *zeros = calloc(1, n);
        assert_int_equal(gguf_writer_data(w, i, 0, zeros, n, &err), OMNI_OK);
        free(zeros);
    }
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
    if (gguf_open(in_folder(file), &g, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return g;
}

static void thinker_keys(gguf_writer *w) {
    gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    gguf_put_str(w, "general.name", "an \x1b[31m evil\xff name");
    gguf_put_u32(w, "qwen3vlmoe.block_count", 3);
    gguf_put_u32(w, "qwen3vlmoe.context_length", 20000);
    gguf_put_u32(w, "qwen3vlmoe.embedding_length", 64);
    gguf_put_u32(w, "qwen3vlmoe.attention.head_count", 4);
    gguf_put_u32(w, "qwen3vlmoe.attention.head_count_kv", 2);
    gguf_put_u32(w, "qwen3vlmoe.attention.key_length", 32);
    gguf_put_u32(w, "qwen3vlmoe.attention.value_length", 32);
    gguf_put_u32(w, "qwen3vlmoe.expert_count", 8);
    gguf_put_u32(w, "qwen3vlmoe.expert_used_count", 2);
}

static const spec thinker_tensors[] = {
    {"token_embd.weight", DTYPE_F16, {64, 100, 1}},        {"output.weight", DTYPE_F16, {64, 100, 1}},
    {"output_norm.weight", DTYPE_F32, {64, 1, 1}},         {"blk.0.attn_norm.weight", DTYPE_F32, {64, 1, 1}},
    {"blk.0.attn_q.weight", DTYPE_Q8_0, {64, 128, 1}},     {"blk.0.ffn_gate_inp.weight", DTYPE_F32, {64, 8, 1}},
    {"blk.0.ffn_up_exps.weight", DTYPE_Q8_0, {64, 32, 8}},
};

static void expect_sum(const tensor_sum *s, uint64_t tensors, uint64_t values, uint64_t bytes) {
    assert_int_equal(s->tensors, tensors);
    assert_int_equal(s->values, values);
    assert_int_equal(s->bytes, bytes);
}

static const tensor_sum *part_named(const description *d, const char *name) {
    for (size_t i = 0; i < d->part_count; i++) {
        if (strcmp(d->parts[i].name, name) == 0) {
            return &d->parts[i].sum;
        }
    }
    fail_msg("no part '%s'", name);
    return NULL;
}

static void a_thinker_is_counted(void **state) {
    gguf *g = write_and_open("t.gguf", thinker_keys, thinker_tensors, sizeof thinker_tensors / sizeof *thinker_tensors);
    description d;
    assert_int_equal(describe_gguf(g, &d, NULL), OMNI_OK);
    assert_string_equal(d.kind, "thinker");
    assert_string_equal(d.architecture, "qwen3vlmoe");
    expect_sum(&d.types[DTYPE_F16], 2, 12800, 25600);
    expect_sum(&d.types[DTYPE_F32], 3, 640, 2560);
    expect_sum(&d.types[DTYPE_Q8_0], 2, 24576, 26112);
    expect_sum(&d.all, 7, 38016, 54272);
    expect_sum(part_named(&d, "token embedding"), 1, 6400, 12800);
    expect_sum(part_named(&d, "output head"), 1, 6400, 12800);
    expect_sum(part_named(&d, "norms"), 2, 128, 512);
    expect_sum(part_named(&d, "attention"), 1, 8192, 8704);
    expect_sum(part_named(&d, "routers"), 1, 512, 2048);
    expect_sum(part_named(&d, "experts"), 1, 16384, 17408);
    assert_int_equal(d.active_values, 38016 - 16384 / 4 * 3);
    assert_null(d.unusable);
    assert_int_equal(d.context_length, 20000);
    assert_int_equal(d.context_count, 2);
    for (size_t i = 0; i < 2; i++) {
        uint64_t positions = i ? 20000 : 8192;
        assert_int_equal(d.contexts[i].positions, positions);
        assert_int_equal(d.contexts[i].f32_bytes, cache_bytes(DTYPE_F32, 3, 2, 32, positions));
        assert_int_equal(d.contexts[i].f16_bytes, cache_bytes(DTYPE_F16, 3, 2, 32, positions));
    }
    assert_int_equal(d.contexts[0].f32_bytes, 8192ull * 3 * 2 * 64 * 4);
    gguf_close(g);

    char *text = NULL;
    omni_error err;
    assert_int_equal(gguf_describe(in_folder("t.gguf"), false, &text, &err), OMNI_OK);
    static const char *const lines[] = {
        "kind          thinker\n",
        "38,016, of which a token meets 25,728\n",
        "name          \"an \\u001b[31m evil\xef\xbf\xbd name\"\n",
        "keys and values of 8192 positions  ",
        " 12.0 MiB in F32, 6.0 MiB in F16\n",
        "keys and values of 20000 positions (the most)  ",
        " 29.3 MiB in F32, 14.7 MiB in F16\n",
        "qwen3vlmoe.block_count = 3\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (!strstr(text, lines[i])) {
            fail_msg("'%s' is not in\n%s", lines[i], text);
        }
    }
    assert_null(strchr(text, '\x1b'));
    free(text);

    assert_int_equal(gguf_describe(in_folder("t.gguf"), true, &text, &err), OMNI_OK);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *memory = json_object_get(root, "memory");
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "kind")), "thinker");
    assert_int_equal(json_integer_value(json_object_get(root, "value_count")), 38016);
    assert_int_equal(json_integer_value(json_object_get(root, "active_value_count")), 25728);
    assert_int_equal(json_array_size(json_object_get(root, "tensors")), 7);
    assert_int_equal(json_array_size(json_object_get(root, "parts")), 6);
    assert_true(json_is_true(json_object_get(root, "usable")));
    assert_int_equal(json_integer_value(json_object_get(memory, "weight_bytes")), 54272);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json_object_get(memory, "key_value"), 1), "f16_bytes")), 15384576);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "metadata"), "qwen3vlmoe.expert_count")), 8);
    json_decref(root);
    free(text);
    files_in_folder(true);
}

static void talker_keys(gguf_writer *w) {
    gguf_put_str(w, "general.architecture", "qwen3omni_talker");
    gguf_put_u32(w, "talker.block_count", 3);
    gguf_put_u32(w, "talker.head_count_kv", 1);
    gguf_put_u32(w, "talker.head_dim", 32);
    gguf_put_u32(w, "talker.context_length", 1000);
    gguf_put_u32(w, "code_predictor.block_count", 2);
    gguf_put_u32(w, "code_predictor.head_count_kv", 2);
    gguf_put_u32(w, "code_predictor.head_dim", 16);
    gguf_put_u32(w, "code_predictor.num_code_groups", 16);
    gguf_put_u32(w, "code2wav.block_count", 2);
    gguf_put_u32(w, "code2wav.head_count_kv", 4);
    gguf_put_u32(w, "code2wav.head_dim", 8);
    gguf_put_u32(w, "code2wav.sliding_window", 72);
}

static void a_talker_is_counted(void **state) {
    static const spec tensors[] = {{"talker.output.weight", DTYPE_F16, {32, 2, 1}},
                                   {"code_predictor.output.0.weight", DTYPE_F16, {32, 3, 1}},
                                   {"code2wav.conv_in.weight", DTYPE_F32, {32, 4, 1}}};
    gguf *g = write_and_open("t.gguf", talker_keys, tensors, 3);
    description d;
    assert_int_equal(describe_gguf(g, &d, NULL), OMNI_OK);
    assert_string_equal(d.kind, "talker");
    assert_int_equal(d.part_count, 3);
    expect_sum(part_named(&d, "talker"), 1, 64, 128);
    expect_sum(part_named(&d, "code_predictor"), 1, 96, 192);
    expect_sum(part_named(&d, "code2wav"), 1, 128, 512);
    assert_int_equal(d.context_count, 1); /* the most is less than a session's usual context */
    assert_int_equal(d.contexts[0].positions, 1000);
    assert_int_equal(d.contexts[0].f32_bytes, cache_bytes(DTYPE_F32, 3, 1, 32, 1000));
    assert_int_equal(d.fixed_bytes, cache_bytes(DTYPE_F32, 2, 2, 16, 17) + 2u * 4 * 16 * (2 * 71 + 64) * 4);
    assert_int_equal(d.active_values, 0);
    gguf_close(g);
    files_in_folder(true);
}

static void no_keys(gguf_writer *w) {
    gguf_put_u32(w, "general.architecture", 7); /* of the wrong type */
}

static void unknown_files_are_described_all_the_same(void **state) {
    spec tensors[40];
    char names[40][16];
    for (int i = 0; i < 40; i++) {
        snprintf(names[i], sizeof names[i], "part%d.weight", i);
        tensors[i] = (spec){names[i], i == 7 ? DTYPE_IQ2_S : DTYPE_F32, {256, 1, 1}};
    }
    gguf *g = write_and_open("t.gguf", no_keys, tensors, 40);
    description d;
    assert_int_equal(describe_gguf(g, &d, NULL), OMNI_OK);
    assert_string_equal(d.kind, "other");
    assert_string_equal(d.architecture, "");
    assert_int_equal(d.part_count, DESCRIBE_MAX_PARTS);
    assert_int_equal(part_named(&d, "other")->tensors, 40 - (DESCRIBE_MAX_PARTS - 1));
    assert_string_equal(d.unusable->name, "part7.weight");
    assert_int_equal(d.context_count, 0);
    char *text = NULL;
    omni_error err;
    assert_int_equal(describe_gguf_render(g, &d, false, &text, &err), OMNI_OK);
    assert_non_null(strstr(text, "tensor 'part7.weight' is stored as IQ2_S"));
    free(text);
    gguf_close(g);
    files_in_folder(true);
}

static void huge_keys(gguf_writer *w) {
    gguf_put_str(w, "general.architecture", "qwen3omni");
    gguf_put_u32(w, "qwen3omni.block_count", UINT32_MAX);
    gguf_put_u32(w, "qwen3omni.context_length", UINT32_MAX);
    gguf_put_u32(w, "qwen3omni.attention.head_count_kv", UINT32_MAX);
    gguf_put_u32(w, "qwen3omni.attention.key_length", UINT32_MAX);
}

static void absurd_sizes_do_not_wrap(void **state) {
    gguf *g = write_and_open("t.gguf", huge_keys, NULL, 0);
    description d;
    assert_int_equal(describe_gguf(g, &d, NULL), OMNI_OK);
    assert_int_equal(d.contexts[1].f32_bytes, UINT64_MAX);
    char *text = NULL;
    omni_error err;
    assert_int_equal(describe_gguf_render(g, &d, false, &text, &err), OMNI_OK);
    assert_non_null(strstr(text, "too large to count"));
    free(text);
    assert_int_equal(describe_gguf_render(g, &d, true, &text, &err), OMNI_OK);
    assert_non_null(strstr(text, "\"f32_bytes\": null"));
    free(text);
    gguf_close(g);
    files_in_folder(true);
}

static void every_type_of_key_is_valid_json(void **state) {
    char *text = NULL;
    omni_error err;
    assert_int_equal(gguf_describe(TEST_DATA "/gguf/keys.gguf", true, &text, &err), OMNI_OK);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL), *m = json_object_get(root, "metadata");
    assert_non_null(root);
    assert_int_equal(json_object_size(m), 29);
    static const struct {
        const char *key;
        json_int_t value;
    } integers[] = {{"t.u8", 200},
                    {"t.i8", -100},
                    {"t.u16", 60000},
                    {"t.i16", -30000},
                    {"t.u32", 4000000000},
                    {"t.i32", -2000000000},
                    {"t.i64", -9000000000000000000}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        assert_int_equal(json_integer_value(json_object_get(m, integers[i].key)), integers[i].value);
    }
    assert_string_equal(json_string_value(json_object_get(m, "t.u64")), "18000000000000000000");
    assert_string_equal(json_string_value(json_object_get(m, "t.inf")), "inf");
    assert_true(json_real_value(json_object_get(m, "t.f64")) == 1e300);
    assert_true(json_is_true(json_object_get(m, "t.yes")));
    assert_int_equal(json_string_length(json_object_get(m, "t.nul")), 3);
    json_t *list = json_object_get(m, "a.i16");
    assert_string_equal(json_string_value(json_object_get(list, "array_of")), "i16");
    assert_int_equal(json_integer_value(json_object_get(list, "count")), 2);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(list, "first"), 0)), -32768);
    json_decref(root);
    free(text);
}

static void checkpoints_are_described(void **state) {
    char *text = NULL;
    omni_error err;
    assert_int_equal(gguf_describe(TEST_DATA "/gguf/shards", false, &text, &err), OMNI_OK);
    assert_non_null(strstr(text, "checkpoint: safetensors, 2 files"));
    free(text);
    assert_int_equal(gguf_describe(TEST_DATA "/gguf/trace.safetensors", true, &text, &err), OMNI_OK);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(json_integer_value(json_object_get(root, "value_count")), 3 * 12 + 5 + 1);
    assert_int_equal(json_array_size(json_object_get(root, "tensors")), 6);
    json_decref(root);
    free(text);
    assert_int_equal(gguf_describe(in_folder("none"), false, &text, &err), OMNI_ERR_IO);
    assert_null(text);
    assert_int_equal(gguf_describe(TEST_DATA "/gguf/shards/model.safetensors.index.json", false, &text, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "not a GGUF file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thinker_is_counted),
        cmocka_unit_test(a_talker_is_counted),
        cmocka_unit_test(unknown_files_are_described_all_the_same),
        cmocka_unit_test(absurd_sizes_do_not_wrap),
        cmocka_unit_test(every_type_of_key_is_valid_json),
        cmocka_unit_test(checkpoints_are_described),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
