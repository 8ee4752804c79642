/* Models written in parts: what is in which file, and back to the same bytes; nothing is there after an error. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "convert/split_file.h"
#include "gguf/gguf.h"
#include "scratch.h"
/* after the others */
#include <cmocka.h>

static omni_error err;

enum { TENSORS = 11, NAME_BYTES = 20 }; /* "blk.00.attn_q.weight" */

/* Shapes of all sorts of sizes, one of them larger than any limit below; bytes are no multiples of the alignment. */
static const int64_t WIDTHS[TENSORS] = {33, 1, 700, 64, 5, 5, 5, 9000, 31, 257, 2};

static char *text_of(const char *name, size_t *size) {
    char *data = NULL;
    FILE *f = fopen(in_folder(name), "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    data = malloc(*size + 1);
    assert_int_equal(fread(data, 1, *size, f), *size);
    fclose(f);
    return data;
}

/* A model with keys of every kind. */
static void write_whole(uint32_t alignment) {
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(in_folder("whole.gguf"), &w, &err), OMNI_OK);
    gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    gguf_put_u32(w, "general.alignment", alignment);
    gguf_put_strs(w, "tokens", (gguf_str[]){{"a", 1}, {"", 0}, {"\0b", 2}}, 3);
    gguf_put_bools(w, "truths", (bool[]){true, false}, 2);
    gguf_put_strs(w, "nothing", NULL, 0);
    gguf_put_f32(w, "number", 0.5f);
    for (int i = 0; i < TENSORS; i++) {
        char name[32];
        snprintf(name, sizeof name, "blk.%02d.attn_q.weight", i);
        gguf_put_tensor(w, name, DTYPE_F32, 1, &WIDTHS[i]);
    }
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    for (size_t i = 0; i < TENSORS; i++) {
        float x[9000];
        for (int k = 0; k < 9000; k++) {
            x[k] = (float)i + (float)k / 9000;
        }
        assert_int_equal(gguf_writer_data(w, i, 0, x, (size_t)WIDTHS[i] * 4, &err), OMNI_OK);
    }
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
}

static split_options options(uint64_t bytes, size_t tensors) {
    static char input[600], output[600];
    snprintf(input, sizeof input, "%s/whole.gguf", folder);
    snprintf(output, sizeof output, "%s/m", folder);
    return (split_options){.input = input, .output = output, .max_bytes = bytes, .max_tensors = tensors};
}

static char *part_name(size_t i, size_t n) {
    static char name[64];
    snprintf(name, sizeof name, "m-%05zu-of-%05zu.gguf", i + 1, n);
    return name;
}

/* Value of a key as the file has it, found by its name: little-endian, of that many bytes, behind the type. -1: not there. */
static long raw_key(const char *data, size_t size, const char *key, uint32_t type, int bytes) {
    const size_t n = strlen(key);
    for (size_t i = 8; i + n + 12 < size; i++) {
        uint64_t length;
        memcpy(&length, data + i - 8, 8);
        if (length == n && memcmp(data + i, key, n) == 0) {
            uint32_t found, value = 0;
            memcpy(&found, data + i + n, 4);
            assert_int_equal(found, type);
            memcpy(&value, data + i + n + 4, (size_t)bytes);
            return (long)value;
        }
    }
    return -1;
}

/* Splits; the parts hold tensors in their order, no part could have taken the next one, the keys are llama.cpp's, and merging gives the file again.
 */
static void round_trip(uint64_t bytes, size_t most, uint32_t alignment) {
    enum { U16 = 2, I32 = 5 };
    split_options o = options(bytes, most);
    split_result r;
    write_whole(alignment);
    assert_int_equal(split_file(&o, &r, &err), OMNI_OK);
    assert_int_equal(r.tensors, TENSORS);
    assert_int_equal(files_in_folder(false), r.parts + 1);
    assert_string_equal(r.first, in_folder(part_name(0, r.parts)));
    size_t next = 0, total = 0;
    for (size_t i = 0; i < r.parts; i++) {
        size_t size;
        char *data = text_of(part_name(i, r.parts), &size);
        uint64_t counts[2];
        memcpy(counts, data + 8, sizeof counts);
        assert_true(counts[0] >= 1);
        assert_int_equal(counts[1], i == 0 ? 6 + 3 : 3);
        assert_int_equal(raw_key(data, size, "split.no", U16, 2), i);
        assert_int_equal(raw_key(data, size, "split.count", U16, 2), r.parts);
        assert_int_equal(raw_key(data, size, "split.tensors.count", I32, 4), TENSORS);
        assert_int_equal(raw_key(data, size, "general.alignment", 4, 4), i == 0 ? (long)alignment : -1);
        for (size_t k = 0; k < TENSORS; k++) {
            char name[32];
            snprintf(name, sizeof name, "blk.%02zu.attn_q.weight", k);
            assert_int_equal(memmem(data, size, name, NAME_BYTES) != NULL, k >= next && k < next + counts[0]);
        }
        next += counts[0];
        total += size;
        if (most) {
            assert_int_equal(counts[0], i + 1 < r.parts ? most : TENSORS - most * (r.parts - 1));
        }
        if (bytes) {
            assert_true(size <= bytes || counts[0] == 1);
            if (next < TENSORS && size <= bytes) { /* the next tensor's entry in the header and its data, and at most one padding of the header */
                assert_true(size + 8 + NAME_BYTES + 4 + 8 + 4 + 8 + (size_t)WIDTHS[next] * 4 + 2 * alignment > bytes);
            }
        }
        free(data);
    }
    assert_int_equal(next, TENSORS);
    assert_int_equal(total, r.bytes);
    char from[600], to[600];
    snprintf(from, sizeof from, "%s/%s", folder, part_name(r.parts - 1, r.parts));
    snprintf(to, sizeof to, "%s/merged.gguf", folder);
    o.input = from;
    o.output = to;
    assert_int_equal(merge_file(&o, &r, &err), OMNI_OK);
    assert_int_equal(r.parts, 1);
    assert_string_equal(r.first, to);
    size_t size, whole_size;
    char *merged = text_of("merged.gguf", &size), *whole = text_of("whole.gguf", &whole_size);
    assert_int_equal(size, whole_size);
    assert_int_equal(r.bytes, whole_size);
    assert_memory_equal(merged, whole, size);
    free(merged);
    free(whole);
    files_in_folder(true);
}

static void split_and_merged_is_the_same(void **state) {
    for (size_t most = 1; most <= TENSORS + 1; most++) {
        round_trip(0, most, most % 2 ? 32 : 256);
    }
    for (uint64_t bytes = 1; bytes < 60000; bytes += bytes / 3 + 1) {
        round_trip(bytes, 0, 32);
        round_trip(bytes, 0, 1024);
    }
    round_trip(0, 0, 32); /* 128 tensors a part */
}

/* To the byte: the limit is the file's size. */
static void the_limit_is_of_the_file(void **state) {
    write_whole(32);
    split_options o = options(0, 3);
    assert_int_equal(split_file(&o, NULL, &err), OMNI_OK);
    struct stat st;
    assert_int_equal(stat(in_folder(part_name(0, 4)), &st), 0);
    for (int less = 0; less < 2; less++) {
        o = options((uint64_t)(st.st_size - less), 0);
        split_result r;
        assert_int_equal(split_file(&o, &r, &err), OMNI_OK);
        size_t size;
        char *data = text_of(part_name(0, r.parts), &size);
        assert_int_equal(data[8], less ? 2 : 3);
        free(data);
    }
    files_in_folder(true);
}

static void fails(const split_options *o, omni_status status, const char *text, int files) {
    split_result r = {.parts = 7};
    assert_int_equal(split_file(o, &r, &err), status);
    if (!strstr(err.text, text)) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(r.parts, 0);
    assert_int_equal(files_in_folder(false), files);
}

static bool stop_at_once(void *arg, uint64_t done, uint64_t total) {
    return false;
}

/* Once everything is copied, a folder takes the name of the part that arg names: giving the files their names fails there. */
static bool lay_folder(void *arg, uint64_t done, uint64_t total) {
    if (done == total) {
        assert_int_equal(mkdir(in_folder(arg), 0777), 0);
    }
    return true;
}

static void a_failure_leaves_nothing(void **state) {
    write_whole(32);
    split_options o = options(0, 4);
    o.progress = stop_at_once;
    fails(&o, OMNI_CANCELLED, "stopped", 1);
    char name[64];
    for (size_t i = 0; i < 3; i++) {
        strcpy(name, part_name(i, 3));
        o = options(0, 4);
        o.progress = lay_folder;
        o.arg = name;
        fails(&o, OMNI_ERR_IO, name, 2);
        assert_int_equal(rmdir(in_folder(name)), 0);
        assert_int_equal(mkdir(in_folder(name), 0777), 0); /* there from the start */
        o.progress = NULL;
        fails(&o, OMNI_ERR_IO, "is a folder", 2);
        assert_int_equal(rmdir(in_folder(name)), 0);
    }
    struct rlimit limit, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    few = limit;
    few.rlim_cur = 10;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    o = options(0, 1);
    split_result r;
    omni_status status = split_file(&o, &r, &err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(status, OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "Too many open files"));
    assert_int_equal(files_in_folder(true), 1);
}

static void mistakes_are_named(void **state) {
    split_options o = options(0, 4);
    fails(&o, OMNI_ERR_IO, "whole.gguf: cannot open", 0);
    write_whole(32);
    o.output = "/nowhere/at/all";
    fails(&o, OMNI_ERR_IO, "/nowhere/at/all-00001-of-00003.gguf: cannot create", 1);
    o.output = "";
    fails(&o, OMNI_ERR_ARGUMENT, "begin with", 1);
    /* a model in parts is split anew, but not over itself */
    o = options(0, 4);
    assert_int_equal(split_file(&o, NULL, &err), OMNI_OK);
    char input[600];
    snprintf(input, sizeof input, "%s", in_folder(part_name(1, 3)));
    o.input = input;
    fails(&o, OMNI_ERR_ARGUMENT, "same file", 4);
    o.max_tensors = 6;
    split_result r;
    assert_int_equal(split_file(&o, &r, &err), OMNI_OK);
    assert_int_equal(r.parts, 2);
    /* merging */
    o.output = in_folder(part_name(2, 3));
    assert_int_equal(merge_file(&o, &r, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "same file"));
    o = options(0, 0);
    o.output = in_folder("out.gguf");
    assert_int_equal(merge_file(&o, &r, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "nothing to merge"));
    files_in_folder(true);
    /* more parts than a name has room for */
    gguf_writer *w;
    const gguf_split split = {.max_tensors = 1};
    assert_int_equal(gguf_writer_create_split(in_folder("many"), &split, &w, &err), OMNI_OK);
    for (int i = 0; i <= GGUF_MOST_PARTS; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%d", i);
        gguf_put_tensor(w, name, DTYPE_F32, 1, (int64_t[]){1});
    }
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "10000 parts of 10000 tensors; at most 9999"));
    gguf_writer_abandon(w);
    assert_int_equal(files_in_folder(true), 0);
}

/* What fits into one file has the ordinary name and no keys of parts, when that is asked for; else it is part 1 of 1, as llama.cpp writes it. */
static void one_part(void **state) {
    for (int plain = 0; plain < 2; plain++) {
        gguf_writer *w;
        gguf *g;
        const gguf_split split = {.max_bytes = 1000000, .whole_without_number = plain};
        assert_int_equal(gguf_writer_create_split(in_folder("m"), &split, &w, &err), OMNI_OK);
        gguf_put_str(w, "a", "b");
        assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
        assert_int_equal(gguf_writer_part_count(w), 1);
        const char *name = plain ? "m.gguf" : part_name(0, 1);
        assert_string_equal(gguf_writer_part_path(w, 0), in_folder(name));
        assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
        assert_int_equal(gguf_open(in_folder(name), &g, &err), OMNI_OK);
        assert_int_equal(gguf_key_count(g), plain ? 1 : 4);
        assert_int_equal(gguf_find(g, "split.count") >= 0, !plain);
        gguf_close(g);
        files_in_folder(true);
    }
}

/* The keys of parts are the writer's own. */
static void keys_of_parts_are_the_writers(void **state) {
    for (int i = 0; i < 3; i++) {
        static const char *const keys[] = {"split.no", "split.count", "split.tensors.count"};
        gguf_writer *w;
        const gguf_split split = {.max_tensors = 1};
        assert_int_equal(gguf_writer_create_split(in_folder("m"), &split, &w, &err), OMNI_OK);
        gguf_put_u32(w, keys[i], 1);
        assert_int_equal(gguf_writer_begin(w, &err), OMNI_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, keys[i]));
        gguf_writer_abandon(w);
        assert_int_equal(files_in_folder(true), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_and_merged_is_the_same),
        cmocka_unit_test(the_limit_is_of_the_file),
        cmocka_unit_test(a_failure_leaves_nothing),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(one_part),
        cmocka_unit_test(keys_of_parts_are_the_writers),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
