/* GGUF models in parts: any part opens the whole; a part that is missing, foreign or told wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "convert/quantize_file.h"
#include "gguf/describe.h"
#include "gguf/gguf.h"
#include "scratch.h"
/* after the others */
#include <cmocka.h>

static omni_error err;

enum { PARTS = 3, PER_PART = 2, TENSORS = PARTS * PER_PART };

static const char *const NAMES[TENSORS] = {"token_embd.weight",   "blk.0.attn_q.weight",    "blk.0.attn_k.weight",
                                           "blk.0.attn_v.weight", "blk.0.attn_norm.weight", "output.weight"};

static const char *part_name(int i) {
    static char name[4][32];
    static int next;
    next = (next + 1) % 4;
    snprintf(name[next], sizeof name[next], "m-%05d-of-%05d.gguf", i + 1, PARTS);
    return name[next];
}

/* Tensor t of the model: rows of 32 values that tell which tensor they are of. */
static void values_of(int t, float out[32 * 3]) {
    for (int i = 0; i < 32 * 3; i++) {
        out[i] = (float)(t + 1) + (float)i / 128;
    }
}

/* Part i under a name; no, count and total are what its keys say. total < 0: no such key. */
static void write_part(int i, const char *name, uint32_t no, uint32_t count, int total, uint32_t alignment) {
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(in_folder(name), &w, &err), OMNI_OK);
    if (i == 0) {
        gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    }
    gguf_put_u32(w, "general.alignment", alignment);
    gguf_put_u32(w, "split.no", no);
    gguf_put_u32(w, "split.count", count);
    if (total >= 0) {
        gguf_put_i32s(w, "unused", (int32_t[]){1}, 1);
        gguf_put_u32(w, "split.tensors.count", (uint32_t)total);
    }
    for (int k = 0; k < PER_PART; k++) {
        gguf_put_tensor(w, NAMES[i * PER_PART + k], DTYPE_F32, 2, (int64_t[]){32, 3});
    }
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    for (int k = 0; k < PER_PART; k++) {
        float x[32 * 3];
        values_of(i * PER_PART + k, x);
        assert_int_equal(gguf_writer_data(w, (size_t)k, 0, x, sizeof x, &err), OMNI_OK);
    }
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
}

static void write_model(void) {
    for (int i = 0; i < PARTS; i++) {
        write_part(i, part_name(i), (uint32_t)i, PARTS, TENSORS, i == 1 ? 64 : 32);
    }
}

static void any_part_opens_the_whole(void **state) {
    write_model();
    for (int i = 0; i < PARTS; i++) {
        gguf *g;
        assert_int_equal(gguf_open(in_folder(part_name(i)), &g, &err), OMNI_OK);
        assert_int_equal(gguf_part_count(g), PARTS);
        assert_int_equal(gguf_tensor_count(g), TENSORS);
        size_t bytes = 0;
        for (int k = 0; k < PARTS; k++) {
            assert_string_equal(gguf_part_path(g, (size_t)k), in_folder(part_name(k)));
            FILE *f = fopen(in_folder(part_name(k)), "rb");
            fseek(f, 0, SEEK_END);
            bytes += (size_t)ftell(f);
            fclose(f);
        }
        assert_int_equal(gguf_file_size(g), bytes);
        for (int t = 0; t < TENSORS; t++) {
            float want[32 * 3];
            values_of(t, want);
            const tensor *found = gguf_tensor(g, NAMES[t]);
            assert_ptr_equal(found, gguf_tensor_at(g, (size_t)t));
            assert_string_equal(found->name, NAMES[t]);
            gguf_want(g, found);
            assert_memory_equal(found->data, want, sizeof want);
            gguf_forget(g, found);
            assert_memory_equal(found->data, want, sizeof want);
        }
        const char *architecture;
        assert_int_equal(gguf_need_str(g, "general.architecture", &architecture, &err), OMNI_OK);
        assert_string_equal(architecture, "qwen3vlmoe");
        gguf_close(g);
    }
    files_in_folder(true);
}

static void fails(const char *name, omni_status status, const char *text) {
    gguf *g;
    assert_int_equal(gguf_open(in_folder(name), &g, &err), status);
    if (!strstr(err.text, text)) {
        fail_msg("%s", err.text);
    }
    assert_null(g);
    files_in_folder(true);
}

static void what_does_not_fit_is_named(void **state) {
    for (int missing = 0; missing < PARTS; missing++) {
        char text[80];
        write_model();
        unlink(in_folder(part_name(missing)));
        snprintf(text, sizeof text, "part %d of 3: %s: cannot open", missing + 1, in_folder(part_name(missing)));
        fails(part_name(missing == 0), OMNI_ERR_IO, text);
    }
    write_model();
    assert_int_equal(rename(in_folder(part_name(0)), in_folder("model.gguf")), 0);
    fails("model.gguf", OMNI_ERR_FORMAT, "model.gguf: is part 1 of 3 of a model; its name must end in -00001-of-00003.gguf");
    write_model();
    write_part(1, part_name(2), 1, PARTS, TENSORS, 32); /* part 2 twice */
    fails(part_name(0), OMNI_ERR_FORMAT, "m-00003-of-00003.gguf: is part 2 of 3");
    write_model();
    write_part(2, part_name(1), 1, PARTS, TENSORS, 32); /* the same tensors twice */
    fails(part_name(0), OMNI_ERR_FORMAT, "m-00003-of-00003.gguf: tensor 'blk.0.attn_norm.weight' is in an earlier part, too");
    write_model();
    write_part(1, part_name(1), 1, PARTS, TENSORS + 1, 32); /* of another split */
    fails(part_name(0), OMNI_ERR_FORMAT, "m-00002-of-00003.gguf: is part 2 of 3 of a model of 7 tensors");
    for (int i = 0; i < PARTS; i++) {
        write_part(i, part_name(i), (uint32_t)i, PARTS, TENSORS + 1, 32);
    }
    fails(part_name(0), OMNI_ERR_FORMAT, "6 tensors in 3 parts, but split.tensors.count is 7");
    write_model();
    write_part(0, part_name(0), 3, PARTS, TENSORS, 32);
    fails(part_name(0), OMNI_ERR_FORMAT, "says that it is part 3 (split.no, from 0) of 3");
    write_part(0, part_name(0), 0, PARTS, -1, 32);
    fails(part_name(0), OMNI_ERR_FORMAT, "split.tensors.count");
    write_part(0, part_name(0), 0, 4000000000u, TENSORS, 32);
    fails(part_name(0), OMNI_ERR_FORMAT, "of 4000000000");
    write_model();
    FILE *f = fopen(in_folder(part_name(2)), "wb");
    fputs("GGUF", f);
    fclose(f);
    fails(part_name(1), OMNI_ERR_FORMAT, "part 3 of 3: ");
    /* split.count 0 or 1: merged, or one part; nothing else is looked for */
    for (uint32_t count = 0; count < 2; count++) {
        gguf *g;
        write_part(0, "whole.gguf", 0, count, TENSORS, 32);
        assert_int_equal(gguf_open(in_folder("whole.gguf"), &g, &err), OMNI_OK);
        assert_int_equal(gguf_tensor_count(g), PER_PART);
        gguf_close(g);
    }
    files_in_folder(true);
}

/* Part 1 of a model in parts used to become half a model. */
static void all_parts_are_quantised_and_described(void **state) {
    write_model();
    quantize_result r;
    char input[600];
    snprintf(input, sizeof input, "%s", in_folder(part_name(0)));
    quantize_options o = {.input = input, .output = in_folder("out.gguf"), .type = "q8_0", .threads = 1};
    assert_int_equal(quantize_file(&o, &r, &err), OMNI_OK);
    assert_int_equal(r.tensors, TENSORS);
    gguf *g;
    assert_int_equal(gguf_open(in_folder("out.gguf"), &g, &err), OMNI_OK);
    assert_int_equal(gguf_tensor_count(g), TENSORS);
    assert_int_equal(gguf_find(g, "split.count"), -1);
    assert_int_equal(gguf_find(g, "split.no"), -1);
    gguf_close(g);
    for (int i = 0; i < PARTS; i++) {
        o.output = in_folder(part_name(i)); /* none of them may be written over */
        assert_int_equal(quantize_file(&o, &r, &err), OMNI_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, "same file"));
    }
    char *text;
    assert_int_equal(gguf_describe(in_folder(part_name(1)), false, &text, &err), OMNI_OK);
    assert_non_null(strstr(text, "files         3\n"));
    free(text);
    assert_int_equal(gguf_describe(in_folder(part_name(1)), true, &text, &err), OMNI_OK);
    assert_non_null(strstr(text, "\"files\": 3"));
    assert_non_null(strstr(text, "\"tensors\": 6"));
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    for (int t = 0; t < TENSORS; t++) { /* where a tensor lies: in which part, and how far into that file */
        json_t *entry = json_array_get(json_object_get(root, "tensors"), (size_t)t);
        float want[32 * 3], found[32 * 3];
        values_of(t, want);
        assert_string_equal(json_string_value(json_object_get(entry, "name")), NAMES[t]);
        FILE *f = fopen(in_folder(part_name((int)json_integer_value(json_object_get(entry, "part")) - 1)), "rb");
        fseek(f, (long)json_integer_value(json_object_get(entry, "offset")), SEEK_SET);
        assert_int_equal(fread(found, 1, sizeof found, f), sizeof found);
        fclose(f);
        assert_memory_equal(found, want, sizeof want);
    }
    json_decref(root);
    free(text);
    files_in_folder(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_part_opens_the_whole),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(all_parts_are_quantised_and_described),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
