/* Whole conversions of a very small checkpoint: values and layouts in the files, both spellings and both forms of the experts,
 * types, and what must fail without leaving anything behind. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>

#include "convert/convert.h"
#include "convert/quantize_file.h"
#include "convert/split_file.h"
#include "gguf/gguf.h"
#include "scratch.h"

#include "convert_checkpoint.h"

#include <cmocka.h>

static omni_status convert(const char *type, unsigned parts, convert_result *r, omni_error *e) {
    const convert_options o = {.checkpoint_dir = folder, .out_dir = folder, .name = "micro", .type = type, .parts = parts, .threads = 3};
    return convert_checkpoint(&o, r, e);
}

static void convert_ok(const char *type, convert_result *r) {
    omni_error e = {0};
    if (convert(type, 0, r, &e) != OMNI_OK) {
        print_message("%s\n", e.text);
        fail();
    }
}

static gguf *open_file(const char *name) {
    gguf *g = NULL;
    omni_error e = {0};
    if (gguf_open(in_folder(name), &g, &e) != OMNI_OK) {
        print_message("%s\n", e.text);
        fail();
    }
    return g;
}

static float stored(const gguf *g, const char *name, int64_t i) {
    const tensor *t = gguf_tensor(g, name);
    assert_non_null(t);
    float *row = malloc((size_t)t->ne[0] * sizeof *row);
    dtype_to_f32(t->type, tensor_row(t, i / t->ne[0]), row, t->ne[0]);
    float v = row[i % t->ne[0]];
    free(row);
    return v;
}

/* Every value of a stored tensor is the checkpoint's value whose index is sum of (ne index * stride) + base. */
static void check_layout(const gguf *g, const char *name, const char *source, int64_t base, int64_t s0, int64_t s1, int64_t s2, int64_t s3) {
    const tensor *t = gguf_tensor(g, name);
    assert_non_null(t);
    int64_t at = 0;
    for (int64_t i3 = 0; i3 < t->ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < t->ne[2]; i2++) {
            for (int64_t i1 = 0; i1 < t->ne[1]; i1++) {
                for (int64_t i0 = 0; i0 < t->ne[0]; i0++) {
                    float expected = made_value(source, base + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3);
                    if (stored(g, name, at++) != expected) {
                        print_message("%s at %lld %lld %lld %lld\n", name, (long long)i0, (long long)i1, (long long)i2, (long long)i3);
                        fail();
                    }
                }
            }
        }
    }
}

static void test_values(void **state) {
    write_checkpoint(false, NULL);
    convert_result r;
    convert_ok("f32", &r);
    assert_int_equal(r.count, 3);
    assert_false(r.no_talker);
    assert_non_null(strstr(r.path[1], "/mmproj-micro-f32.gguf"));

    gguf *g = open_file("micro-f32.gguf");
    check_layout(g, "token_embd.weight", "thinker.model.embed_tokens.weight", 0, 1, 32, 0, 0);
    check_layout(g, "output.weight", "thinker.lm_head.weight", 0, 1, 32, 0, 0);
    check_layout(g, "blk.2.attn_output.weight", "thinker.model.layers.2.self_attn.o_proj.weight", 0, 1, 16, 0, 0);
    check_layout(g, "blk.1.ffn_gate_exps.weight", "thinker.model.layers.1.mlp.experts.gate_up_proj", 0, 1, 32, 24 * 32, 0);
    check_layout(g, "blk.1.ffn_up_exps.weight", "thinker.model.layers.1.mlp.experts.gate_up_proj", 12 * 32, 1, 32, 24 * 32, 0);
    check_layout(g, "blk.1.ffn_down_exps.weight", "thinker.model.layers.1.mlp.experts.down_proj", 0, 1, 12, 12 * 32, 0);
    uint32_t deepstacks = 9;
    assert_int_equal(gguf_need_u32(g, "qwen3vlmoe.n_deepstack_layers", &deepstacks, NULL), OMNI_OK);
    assert_int_equal(deepstacks, 2);
    gguf_close(g);

    g = open_file("mmproj-micro-f32.gguf");
    const int64_t frame = 4 * 4;
    check_layout(g, "v.patch_embd.weight", "thinker.visual.patch_embed.proj.weight", 0, 1, 4, 2 * frame, 3 * 2 * frame);
    check_layout(g, "v.patch_embd.weight.1", "thinker.visual.patch_embed.proj.weight", frame, 1, 4, 2 * frame, 3 * 2 * frame);
    check_layout(g, "v.deepstack.2.fc1.weight", "thinker.visual.merger_list.1.mlp.0.weight", 0, 1, 32, 0, 0);
    check_layout(g, "v.blk.1.attn_qkv.bias", "thinker.visual.blocks.1.attn.qkv.bias", 0, 1, 0, 0, 0);
    check_layout(g, "a.conv2d.2.weight", "thinker.audio_tower.conv2d2.weight", 0, 1, 3, 9, 36);
    check_layout(g, "a.conv2d.3.bias", "thinker.audio_tower.conv2d3.bias", 0, 0, 0, 1, 0);
    /* two extra feature sets: three times as many rows, all but the first third zero */
    const tensor *padded = gguf_tensor(g, "mm.a.mlp.2.weight");
    assert_int_equal(padded->ne[1], 3 * 32);
    assert_int_equal(gguf_tensor(g, "mm.a.mlp.2.bias")->ne[0], 3 * 32);
    for (int64_t i = 0; i < 3 * 32 * 8; i++) {
        assert_true(stored(g, "mm.a.mlp.2.weight", i) == (i < 32 * 8 ? made_value("thinker.audio_tower.proj2.weight", i) : 0));
    }
    for (int64_t i = 0; i < 3 * 32; i++) {
        assert_true(stored(g, "mm.a.mlp.2.bias", i) == (i < 32 ? made_value("thinker.audio_tower.proj2.bias", i) : 0));
    }
    for (int i = 0; i < 40 * 8; i++) {
        double angle = i / 8 * exp(-log(10000.0) / 3 * (i % 4));
        assert_true(fabs(stored(g, "a.position_embd.weight", i) - (i % 8 < 4 ? sin(angle) : cos(angle))) < 1e-5);
    }
    float mean[3];
    assert_int_equal(gguf_need_f32s(g, "omni.vision.video_mean", 3, mean, NULL), OMNI_OK);
    assert_true(mean[2] == 0.125F);
    gguf_close(g);

    g = open_file("talker-micro-f32.gguf");
    check_layout(g, "code2wav.conv_in.weight", "code2wav.decoder.0.conv.weight", 0, 7, 1, 8 * 7, 0);
    check_layout(g, "code2wav.decoder.0.conv.weight", "code2wav.decoder.1.block.1.conv.weight", 0, 8 * 6, 6, 1, 0);
    check_layout(g, "code2wav.decoder.1.res.2.conv1.weight", "code2wav.decoder.2.block.4.conv1.conv.weight", 0, 7, 1, 4 * 7, 0);
    check_layout(g, "code2wav.decoder.1.res.2.conv2.weight", "code2wav.decoder.2.block.4.conv2.conv.weight", 0, 1, 1, 4, 0);
    check_layout(g, "code2wav.upsample.1.dwconv.weight", "code2wav.upsample.1.1.dwconv.conv.weight", 0, 7, 1, 0, 0);
    check_layout(g, "code2wav.snake_out.beta", "code2wav.decoder.3.beta", 0, 1, 0, 0, 0);
    check_layout(g, "code2wav.conv_out.weight", "code2wav.decoder.4.conv.weight", 0, 7, 1, 0, 0);
    check_layout(g, "code_predictor.output.1.weight", "talker.code_predictor.lm_head.1.weight", 0, 1, 16, 0, 0);
    check_layout(g, "talker.text_projection.fc2.weight", "talker.text_projection.linear_fc2.weight", 0, 1, 20, 0, 0);
    check_layout(g, "talker.blk.1.ffn_gate_inp_shexp.weight", "talker.model.layers.1.mlp.shared_expert_gate.weight", 0, 1, 0, 0, 0);
    gguf_str *names;
    size_t n;
    assert_int_equal(gguf_need_strs(g, "talker.speaker_names", &names, &n, NULL), OMNI_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(names[2].data, "ethan", 5);
    free(names);
    gguf_close(g);
}

/* The three files, one after the other. */
static char *all_bytes(const convert_result *r, size_t *size) {
    char *all = NULL;
    *size = 0;
    for (size_t i = 0; i < r->count; i++) {
        char *one;
        size_t n;
        assert_int_equal(file_read(r->path[i], 1 << 26, &one, &n, NULL), OMNI_OK);
        all = realloc(all, *size + n);
        memcpy(all + *size, one, n);
        *size += n;
        free(one);
    }
    return all;
}

static void test_same_bytes(void **state) {
    static const char *const types[] = {"f32", "q8_0"};
    for (int t = 0; t < 2; t++) {
        convert_result r;
        size_t n[3];
        char *all[3];
        write_checkpoint(false, NULL);
        convert_ok(types[t], &r);
        all[0] = all_bytes(&r, &n[0]);
        write_checkpoint(true, NULL); /* experts one by one */
        convert_ok(types[t], &r);
        all[1] = all_bytes(&r, &n[1]);
        write_checkpoint(true, &(checkpoint_change){.old_spelling = true});
        convert_ok(types[t], &r);
        all[2] = all_bytes(&r, &n[2]);
        for (int i = 1; i < 3; i++) {
            assert_int_equal(n[i], n[0]);
            assert_memory_equal(all[i], all[0], n[0]);
            free(all[i]);
        }
        free(all[0]);
    }
}

/* An importance matrix changes a conversion as it changes a quantisation: both give the same file. */
static void test_importance(void **state) {
    char imatrix[512], f32[512], plain[512];
    omni_error e = {0};
    gguf_writer *w;
    convert_result r;
    write_checkpoint(true, NULL);
    convert_ok("q4_0", &r);
    gguf *g = open_file("micro-q4_0.gguf");
    const tensor *t = gguf_tensor(g, "blk.0.ffn_up_exps.weight");
    const int64_t columns = t->ne[0], experts = t->ne[2];
    assert_true(t->type == DTYPE_Q4_0 && experts > 1);
    gguf_close(g);
    strcpy(imatrix, in_folder("imatrix.gguf"));
    strcpy(f32, in_folder("micro-f32.gguf"));
    strcpy(plain, in_folder("micro-q4_0.gguf"));
    assert_int_equal(gguf_writer_create(imatrix, &w, &e), OMNI_OK);
    gguf_put_str(w, "general.type", "imatrix");
    gguf_put_tensor(w, "blk.0.ffn_up_exps.weight.in_sum2", DTYPE_F32, 2, (int64_t[]){columns, experts});
    gguf_put_tensor(w, "blk.0.ffn_up_exps.weight.counts", DTYPE_F32, 2, (int64_t[]){1, experts});
    assert_int_equal(gguf_writer_begin(w, &e), OMNI_OK);
    for (int64_t i = 0; i < experts; i++) {
        for (int64_t k = 0; k < columns; k++) {
            const float sum = (float)((7 * k + 3 * i) % 11 * (k % 5));
            assert_int_equal(gguf_writer_data(w, 0, (size_t)(i * columns + k) * 4, &sum, 4, &e), OMNI_OK);
        }
        assert_int_equal(gguf_writer_data(w, 1, (size_t)i * 4, &(float){3}, 4, &e), OMNI_OK);
    }
    assert_int_equal(gguf_writer_finish(w, &e), OMNI_OK);

    size_t n[3];
    char *all[3];
    r.count = 1; /* the thinker's file */
    all[0] = all_bytes(&r, &n[0]);
    const convert_options o = {
        .checkpoint_dir = folder, .out_dir = folder, .name = "micro", .type = "q4_0", .imatrix = imatrix, .parts = CONVERT_THINKER};
    assert_int_equal(convert_checkpoint(&o, &r, &e), OMNI_OK);
    assert_int_equal(r.important, 1);
    all[1] = all_bytes(&r, &n[1]);
    convert_ok("f32", &r);
    const quantize_options q = {.input = f32, .output = plain, .type = "q4_0", .imatrix = imatrix};
    assert_int_equal(quantize_file(&q, NULL, &e), OMNI_OK);
    strcpy(r.path[0], plain);
    r.count = 1;
    all[2] = all_bytes(&r, &n[2]);
    assert_int_equal(n[1], n[2]);
    assert_memory_equal(all[1], all[2], n[1]);
    g = open_file("micro-q4_0.gguf"); /* and it made a difference */
    const size_t values = n[1] - gguf_data_offset(g);
    gguf_close(g);
    assert_memory_not_equal(all[0] + n[0] - values, all[1] + n[1] - values, values);
    for (int i = 0; i < 3; i++) {
        free(all[i]);
    }
}

/* tokenizer.json as the three older files, preprocessor_config.json inside processor_config.json. */
static void respell_side_files(void) {
    char *text;
    size_t size;
    assert_int_equal(file_read(in_folder("tokenizer.json"), 1 << 20, &text, &size, NULL), OMNI_OK);
    json_t *root = json_loadb(text, size, 0, NULL), *model = json_object_get(root, "model"), *merges = json_object_get(model, "merges");
    free(text);
    assert_int_equal(json_dump_file(json_object_get(model, "vocab"), in_folder("vocab.json"), JSON_COMPACT), 0);
    FILE *f = fopen(in_folder("merges.txt"), "w");
    fputs("#version: 0.2\n", f);
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        static const char *const line_ends[] = {"\n", "\r", "\r\n"};
        fprintf(f, "%s %s%s", json_string_value(json_array_get(m, 0)), json_string_value(json_array_get(m, 1)), line_ends[i % 3]);
    }
    fclose(f);
    json_t *added = json_object(), *entry;
    size_t i;
    json_array_foreach(json_object_get(root, "added_tokens"), i, entry) {
        char id[16];
        snprintf(id, sizeof id, "%d", (int)json_integer_value(json_object_get(entry, "id")));
        json_object_set(added, id, entry);
    }
    json_t *config = json_pack("{so}", "added_tokens_decoder", added);
    assert_int_equal(json_dump_file(config, in_folder("tokenizer_config.json"), 0), 0);
    json_decref(config);
    json_decref(root);
    json_t *flat = json_load_file(in_folder("preprocessor_config.json"), 0, NULL);
    json_t *nested = json_pack("{sOsO}", "image_processor", flat, "feature_extractor", flat);
    assert_int_equal(json_dump_file(nested, in_folder("processor_config.json"), 0), 0);
    json_decref(nested);
    json_decref(flat);
    unlink(in_folder("tokenizer.json"));
    unlink(in_folder("preprocessor_config.json"));
}

static void test_other_side_files(void **state) {
    files_in_folder(true);
    write_checkpoint(true, NULL);
    convert_result r;
    size_t n, m;
    convert_ok("f16", &r);
    char *a = all_bytes(&r, &n);
    respell_side_files();
    convert_ok("f16", &r);
    char *b = all_bytes(&r, &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    files_in_folder(true);
}

static void test_types(void **state) {
    static const struct {
        const char *file, *tensor;
        dtype f16, bf16, q8_0, q4_k_m;
    } cases[] = {
        {"", "token_embd.weight", DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q5_0},
        {"", "blk.0.ffn_up_exps.weight", DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q5_0},
        {"", "blk.0.ffn_down_exps.weight", DTYPE_F16, DTYPE_BF16, DTYPE_F16, DTYPE_F16}, /* rows of 12 values */
        {"", "blk.0.ffn_gate_inp.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"", "blk.0.attn_q_norm.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"mmproj-", "v.patch_embd.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"mmproj-", "v.position_embd.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"mmproj-", "mm.0.weight", DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q8_0},
        {"mmproj-", "mm.0.bias", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"mmproj-", "a.conv2d.2.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"mmproj-", "a.conv_out.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"talker-", "talker.token_embd.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"talker-", "talker.output.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"talker-", "code_predictor.output.0.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"talker-", "code2wav.token_embd.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"talker-", "code2wav.conv_in.weight", DTYPE_F16, DTYPE_F32, DTYPE_F16, DTYPE_F16},
        {"talker-", "code2wav.upsample.0.dwconv.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"talker-", "code2wav.decoder.0.snake.alpha", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"talker-", "code2wav.blk.0.attn_scale.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {"talker-", "talker.text_projection.fc1.weight", DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q8_0},
    };
    static const char *const types[] = {"f16", "bf16", "q8_0", "q4_k_m"};
    static const uint32_t file_types[] = {1, 32, 7, 15};
    write_checkpoint(true, NULL);
    for (int k = 0; k < 4; k++) {
        convert_result r;
        convert_ok(types[k], &r);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            char name[64];
            snprintf(name, sizeof name, "%smicro-%s.gguf", cases[i].file, types[k]);
            gguf *g = open_file(name);
            const tensor *t = gguf_tensor(g, cases[i].tensor);
            assert_non_null(t);
            assert_int_equal(t->type, k == 0 ? cases[i].f16 : k == 1 ? cases[i].bf16 : k == 2 ? cases[i].q8_0 : cases[i].q4_k_m);
            uint32_t file_type = 99;
            gguf_need_u32(g, "general.file_type", &file_type, NULL);
            assert_int_equal(file_type, file_types[k]);
            gguf_close(g);
        }
    }
    /* values, where they are rounded */
    gguf *g = open_file("micro-q8_0.gguf");
    for (int i = 0; i < 320; i++) {
        assert_true(fabsf(stored(g, "token_embd.weight", i) - made_value("thinker.model.embed_tokens.weight", i)) < 0.5F / 127 + 1e-3F);
    }
    gguf_close(g);
    g = open_file("micro-bf16.gguf");
    for (int i = 0; i < 320; i++) {
        assert_true(stored(g, "token_embd.weight", i) == bf16_to_f32(bf16_from_f32(made_value("thinker.model.embed_tokens.weight", i))));
    }
    gguf_close(g);
}

static void test_no_talker(void **state) {
    files_in_folder(true);
    write_checkpoint(false, &(checkpoint_change){.no_talker = true});
    convert_result r;
    convert_ok("f16", &r);
    assert_true(r.no_talker);
    assert_int_equal(r.count, 2);
    omni_error e = {0};
    assert_int_equal(convert("f16", CONVERT_TALKER, &r, &e), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "no talker"));
    assert_int_equal(convert("f16", CONVERT_MMPROJ, &r, &e), OMNI_OK);
    assert_int_equal(r.count, 1);
}

/* A thinker that was saved by itself gives the bytes that it gives as a part of the whole. */
static void a_thinker_alone_is_converted(void **state) {
    char *bytes[2][2];
    size_t size[2][2];
    for (int alone = 0; alone < 2; alone++) {
        files_in_folder(true);
        write_checkpoint(false, &(checkpoint_change){.thinker_alone = alone});
        convert_result r;
        omni_error e = {0};
        omni_status status = convert("f16", alone ? 0 : CONVERT_THINKER | CONVERT_MMPROJ, &r, &e);
        if (status != OMNI_OK) {
            fail_msg("%s", e.text);
        }
        assert_int_equal(r.count, 2);
        assert_int_equal(r.no_talker, alone);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(file_read(r.path[i], 1 << 26, &bytes[alone][i], &size[alone][i], NULL), OMNI_OK);
        }
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(size[0][i], size[1][i]);
        assert_memory_equal(bytes[0][i], bytes[1][i], size[0][i]);
        free(bytes[0][i]);
        free(bytes[1][i]);
    }
    files_in_folder(true);
}

/* The conversion fails with this text in its error, and the folder holds what it held before. */
static void fails(const char *type, omni_status status, const char *text) {
    int before = files_in_folder(false);
    convert_result r;
    omni_error e = {0};
    omni_status got = convert(type, 0, &r, &e);
    if (got != status || !strstr(e.text, text)) {
        print_message("%d: %s\n", got, e.text);
    }
    assert_int_equal(got, status);
    assert_non_null(strstr(e.text, text));
    assert_int_equal(files_in_folder(false), before);
}

static void test_failures(void **state) {
    files_in_folder(true);
    write_checkpoint(true, &(checkpoint_change){.leave_out = "talker.model.layers.1.mlp.experts.2.up_proj.weight"});
    fails("f16", OMNI_ERR_FORMAT, "talker.model.layers.1.mlp.experts.2.up_proj.weight is missing");
    write_checkpoint(false, &(checkpoint_change){.leave_out = "code2wav.decoder.4.conv.bias"});
    fails("f16", OMNI_ERR_FORMAT, "code2wav.decoder.4.conv.bias is missing; config.json asks for it with the shape [1]");
    write_checkpoint(false, &(checkpoint_change){.extra = "thinker.model.layers.3.input_layernorm.weight"});
    fails("f16", OMNI_ERR_FORMAT, "thinker.model.layers.3.input_layernorm.weight");
    write_checkpoint(false, &(checkpoint_change){.extra = "surprise"});
    fails("f16", OMNI_ERR_FORMAT, "surprise");
    write_checkpoint(false, &(checkpoint_change){.large = "thinker.lm_head.weight"});
    fails("f16", OMNI_ERR_UNSUPPORTED, "thinker.lm_head.weight holds -70000");
    write_checkpoint(false, NULL);
    fails("q9_9", OMNI_ERR_ARGUMENT, "q9_9\" is none of f32, f16");
    fails("q2_k", OMNI_ERR_UNSUPPORTED, "read but not made");

    unlink(in_folder("preprocessor_config.json"));
    fails("f16", OMNI_ERR_FORMAT, "preprocessor_config.json");
    write_checkpoint(false, NULL);
    unlink(in_folder("tokenizer.json"));
    fails("f16", OMNI_ERR_FORMAT, "tokenizer.json");
    write_checkpoint(false, NULL);
    unlink(in_folder("config.json"));
    fails("f16", OMNI_ERR_IO, "config.json");
}

/* The checkpoint in the folder, its values as another type. */
static void store_as(dtype type) {
    safetensors *s;
    omni_error e;
    assert_int_equal(safetensors_open_file(in_folder("model.safetensors"), &s, &e), OMNI_OK);
    const size_t n = safetensors_count(s), bytes = dtype_row_bytes(type, 1);
    char *header = malloc(512 * n + 16);
    size_t used = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        const st_tensor *t = safetensors_at(s, i);
        used += (size_t)sprintf(header + used, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "{", t->name, dtype_find((uint32_t)type)->name);
        for (int d = 0; d < t->n_dims; d++) {
            used += (size_t)sprintf(header + used, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        }
        used += (size_t)sprintf(header + used, "],\"data_offsets\":[%zu,%zu]}", at, at + t->size / 4 * bytes);
        at += t->size / 4 * bytes;
    }
    header[used++] = '}';
    uint8_t *data = malloc(at);
    at = 0;
    for (size_t i = 0; i < n; i++) {
        const st_tensor *t = safetensors_at(s, i);
        dtype_from_f32(type, t->data, data + at, (int64_t)(t->size / 4));
        at += t->size / 4 * bytes;
    }
    safetensors_close(s);
    FILE *f = fopen(in_folder("model.safetensors"), "wb");
    const uint64_t length = used;
    fwrite(&length, sizeof length, 1, f);
    fwrite(header, 1, used, f);
    fwrite(data, 1, at, f);
    fclose(f);
    free(header);
    free(data);
}

/* NaN and infinities of every part, stored and made as every type: the tensor is named, nothing is written. */
static void values_that_are_not_finite_are_refused(void **state) {
    static const char *const names[] = {
        "thinker.model.embed_tokens.weight",
        "thinker.model.layers.1.mlp.experts.down_proj",
        "thinker.model.layers.0.self_attn.q_norm.weight",
        "thinker.model.norm.weight",
        "thinker.audio_tower.conv2d1.weight",
        "thinker.audio_tower.layers.0.fc1.bias",
        "thinker.visual.patch_embed.proj.weight",
        "thinker.visual.pos_embed.weight",
        "talker.codec_head.weight",
        "talker.code_predictor.lm_head.0.weight",
        "code2wav.decoder.0.conv.weight",
        "code2wav.pre_transformer.norm.weight",
    };
    static const dtype stored[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0", "q4_k_m"};
    const float values[] = {NAN, INFINITY, -INFINITY};
    files_in_folder(true);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (size_t k = 0; k < 3; k++) {
            write_checkpoint(false, &(checkpoint_change){.damaged = names[i], .damage = values[(i + k) % 3]});
            if (stored[k] != DTYPE_F32) {
                store_as(stored[k]);
            }
            for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
                char text[160];
                snprintf(text, sizeof text, "model.safetensors: tensor %s holds %s", names[i],
                         (i + k) % 3 == 0   ? ""
                         : (i + k) % 3 == 1 ? "inf"
                                            : "-inf");
                fails(types[t], OMNI_ERR_FORMAT, text);
            }
        }
    }
    files_in_folder(true);
}

/* Files of a few megabytes that would become gigabytes of values. */
static void too_many_values_are_refused(void **state) {
    enum { VALUES = 3000000 };
    static const char *const names[] = {"tokenizer.json", "config.json", "model.safetensors.index.json", "model.safetensors"};
    char *text = malloc(3 * VALUES + 16);
    files_in_folder(true);
    for (size_t k = 0; k < 4; k++) {
        write_checkpoint(false, NULL);
        size_t n = 0;
        const bool header = k == 3;
        const int values = k == 1 ? VALUES / 3 : VALUES; /* a config.json may have 4 MiB */
        if (k == 2) {
            unlink(in_folder("model.safetensors"));
        }
        if (header) {
            const uint64_t length = 3 * (uint64_t)values + 6;
            memcpy(text, &length, 8);
            n = 8;
        }
        n += (size_t)sprintf(text + n, "{\"a\":[");
        for (int i = 0; i < values; i++) {
            memcpy(text + n, "{},", 3);
            n += 3;
        }
        put_file(names[k], text, n);
        convert_result r;
        omni_error e = {0};
        omni_status status = convert("f16", 0, &r, &e);
        assert_int_equal(status, OMNI_ERR_LIMIT);
        assert_non_null(strstr(e.text, names[k]));
        assert_non_null(strstr(e.text, "values of JSON; up to 2000000 are taken"));
    }
    free(text);
    files_in_folder(true);
}

static void test_misshapen(void **state) {
    files_in_folder(true);
    write_checkpoint(false, &(checkpoint_change){.misshape = "thinker.visual.blocks.1.mlp.linear_fc1.weight"});
    fails("f16", OMNI_ERR_FORMAT, "linear_fc1.weight has the shape [13, 8]; config.json asks for [12, 8]");
    write_checkpoint(true, &(checkpoint_change){.misshape = "talker.model.layers.0.mlp.experts.1.down_proj.weight"});
    fails("f16", OMNI_ERR_FORMAT, "experts.1.down_proj.weight has the shape [17, 6]; config.json asks for [16, 6]");
}

static void test_truncated(void **state) {
    files_in_folder(true);
    write_checkpoint(true, NULL);
    char *whole;
    size_t size;
    assert_int_equal(file_read(in_folder("model.safetensors"), 1 << 26, &whole, &size, NULL), OMNI_OK);
    for (size_t i = 1; i <= 50; i++) {
        put_file("model.safetensors", whole, size * i / 51);
        convert_result r;
        omni_error e = {0};
        assert_int_not_equal(convert("f16", 0, &r, &e), OMNI_OK);
        assert_non_null(strstr(e.text, "model.safetensors"));
    }
    free(whole);
}

static int calls;

static bool cancel_soon(void *arg) {
    return ++calls > 3;
}

static void count_bytes(void *arg, uint64_t done, uint64_t total) {
    uint64_t *last = arg;
    assert_true(done >= last[0] && done <= total);
    last[0] = done;
    last[1] = total;
}

static void test_progress_and_cancelling(void **state) {
    files_in_folder(true);
    write_checkpoint(true, NULL);
    int before = files_in_folder(false);
    uint64_t seen[2] = {0};
    convert_options o = {.checkpoint_dir = folder, .out_dir = folder, .type = "f32", .threads = 1, .progress = count_bytes, .arg = seen};
    o.cancelled = cancel_soon;
    omni_error e = {0};
    assert_int_equal(convert_checkpoint(&o, NULL, &e), OMNI_CANCELLED);
    assert_int_equal(files_in_folder(false), before);
    o.cancelled = NULL;
    seen[0] = 0;
    assert_int_equal(convert_checkpoint(&o, NULL, &e), OMNI_OK);
    assert_true(seen[0] == seen[1] && seen[1] > 0);
    assert_int_equal(files_in_folder(false), before + 3);
}

/* A limit on the size of files stands for the full disk. */
static void test_full_disk(void **state) {
    files_in_folder(true);
    write_checkpoint(true, NULL);
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 50000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int before = files_in_folder(false);
    convert_result r;
    omni_error e = {0};
    omni_status status = convert("f32", 0, &r, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, OMNI_ERR_IO);
    assert_non_null(strstr(e.text, ".gguf"));
    assert_int_equal(files_in_folder(false), before);
}

/* Each file in parts: merged they are the files that are written whole, to the byte; what fits keeps its name. */
static void parts_merge_to_the_whole(void **state) {
    convert_result whole, r;
    omni_error e = {0};
    write_checkpoint(true, NULL);
    convert_ok("f16", &whole);
    uint64_t largest = 0, smallest = UINT64_MAX;
    for (size_t i = 0; i < whole.count; i++) {
        assert_int_equal(whole.split[i], 1);
        largest = whole.bytes[i] > largest ? whole.bytes[i] : largest;
        smallest = whole.bytes[i] < smallest ? whole.bytes[i] : smallest;
    }
    convert_options o = {.checkpoint_dir = folder, .out_dir = in_folder("parts"), .name = "micro", .type = "f16", .split_max_size = smallest / 3};
    assert_int_equal(convert_checkpoint(&o, &r, &e), OMNI_OK);
    assert_int_equal(r.count, whole.count);
    for (size_t i = 0; i < r.count; i++) {
        char merged[600];
        assert_true(r.split[i] >= 3);
        snprintf(merged, sizeof merged, "%s/merged.gguf", o.out_dir);
        const split_options m = {.input = r.path[i], .output = merged};
        assert_int_equal(merge_file(&m, NULL, &e), OMNI_OK);
        convert_result a = {.count = 1}, b = {.count = 1};
        size_t n[2];
        strcpy(a.path[0], merged);
        strcpy(b.path[0], whole.path[i]);
        char *data[2] = {all_bytes(&a, &n[0]), all_bytes(&b, &n[1])};
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(data[0], data[1], n[0]);
        free(data[0]);
        free(data[1]);
    }
    o.split_max_size = largest + 1000; /* room for the three keys */
    o.out_dir = folder;
    assert_int_equal(convert_checkpoint(&o, &r, &e), OMNI_OK);
    for (size_t i = 0; i < r.count; i++) {
        assert_int_equal(r.split[i], 1);
        assert_string_equal(r.path[i], whole.path[i]);
        assert_int_equal(r.bytes[i], whole.bytes[i]);
    }
    DIR *d = opendir(in_folder("parts"));
    for (struct dirent *f = readdir(d); f; f = readdir(d)) {
        char path[sizeof f->d_name + 8];
        snprintf(path, sizeof path, "parts/%s", f->d_name);
        unlink(in_folder(path));
    }
    closedir(d);
    assert_int_equal(rmdir(in_folder("parts")), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_other_side_files),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_no_talker),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
        cmocka_unit_test(too_many_values_are_refused),
        cmocka_unit_test(a_thinker_alone_is_converted),
        cmocka_unit_test(test_misshapen),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_progress_and_cancelling),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_importance),
        cmocka_unit_test(parts_merge_to_the_whole),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
