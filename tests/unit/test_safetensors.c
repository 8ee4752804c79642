/* Reading and writing safetensors: files of the PyPI package, shards, damage, traces. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/json.h"
#include "gguf/safetensors.h"
#include "scratch.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static safetensors *open_data(const char *name) {
    char path[512];
    safetensors *s = NULL;
    omni_error err = {0};
    snprintf(path, sizeof path, TEST_DATA "/gguf/%s", name);
    if (safetensors_open_file(path, &s, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return s;
}

static void expect_values(const st_tensor *t, const float *want, int64_t n) {
    float got[16];
    dtype_to_f32(t->type, t->data, got, n);
    for (int64_t i = 0; i < n; i++) {
        assert_true(got[i] == want[i]);
    }
}

static void files_of_the_package_are_read(void **state) {
    safetensors *s = open_data("trace.safetensors");
    float values[12];
    assert_int_equal(safetensors_count(s), 6);
    const st_tensor *t = safetensors_find(s, "a.f32");
    assert_true(t->type == DTYPE_F32 && t->n_dims == 2 && t->shape[0] == 3 && t->shape[1] == 4 && t->size == 48);
    for (int i = 0; i < 12; i++) {
        values[i] = (float)i / 8;
    }
    expect_values(t, values, 12);
    for (int i = 0; i < 12; i++) {
        values[i] = (float)i / 8 + 1;
    }
    t = safetensors_find(s, "b.f16");
    assert_int_equal(t->type, DTYPE_F16);
    expect_values(t, values, 12);
    for (int i = 0; i < 12; i++) {
        values[i] = -(float)i / 8;
    }
    t = safetensors_find(s, "c.bf16");
    assert_int_equal(t->type, DTYPE_BF16);
    expect_values(t, values, 12);
    t = safetensors_find(s, "d.i64");
    assert_true(t->type == DTYPE_I64 && t->n_dims == 1 && t->shape[0] == 5);
    int64_t last;
    memcpy(&last, (const char *)t->data + 32, sizeof last);
    assert_int_equal(last, 4);
    t = safetensors_find(s, "e.scalar");
    assert_true(t->n_dims == 0 && t->size == 4);
    expect_values(t, (float[]){2.5f}, 1);
    t = safetensors_find(s, "f.empty");
    assert_true(t->n_dims == 2 && t->shape[0] == 0 && t->size == 0);
    assert_null(safetensors_find(s, "none"));
    assert_null(safetensors_find(s, "__metadata__"));
    assert_non_null(strstr(t->file, "trace.safetensors"));
    for (size_t i = 0; i < safetensors_count(s); i++) {
        assert_ptr_equal(safetensors_find(s, safetensors_at(s, i)->name), safetensors_at(s, i));
        safetensors_forget(s, safetensors_at(s, i));
    }
    safetensors_close(s);
}

static void shards_are_joined(void **state) {
    safetensors *s = NULL;
    omni_error err = {0};
    assert_int_equal(safetensors_open(TEST_DATA "/gguf/shards", &s, &err), OMNI_OK);
    assert_int_equal(safetensors_count(s), 3);
    const st_tensor *x = safetensors_find(s, "x.weight"), *y = safetensors_find(s, "y.weight");
    assert_true(x->type == DTYPE_BF16 && x->shape[0] == 4 && x->shape[1] == 3);
    assert_true(y->type == DTYPE_F32 && y->shape[0] == 2 && y->shape[1] == 4);
    assert_string_equal(x->file, TEST_DATA "/gguf/shards/model-00001-of-00002.safetensors");
    assert_string_equal(y->file, TEST_DATA "/gguf/shards/model-00002-of-00002.safetensors");
    safetensors_forget(s, y);
    safetensors_close(s);
}

/* ---- folders ---- */

static void put_file(const char *name, const void *data, size_t n) {
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void copy_data(const char *from, const char *to) {
    char path[512], *data;
    size_t n;
    snprintf(path, sizeof path, TEST_DATA "/gguf/%s", from);
    assert_int_equal(file_read(path, 1 << 20, &data, &n, NULL), OMNI_OK);
    put_file(to, data, n);
    free(data);
}

static void expect_refused(omni_status want, const char *words) {
    safetensors *s = NULL;
    omni_error err = {0};
    omni_status status = safetensors_open(folder, &s, &err);
    if (status != want || err.code != want || !strstr(err.text, words)) {
        fail_msg("%d '%s', not '%s'", status, err.text, words);
    }
    assert_null(s);
}

static void a_folder_with_one_file_is_read(void **state) {
    safetensors *s = NULL;
    omni_error err = {0};
    expect_refused(OMNI_ERR_IO, "holds neither model.safetensors nor model.safetensors.index.json");
    copy_data("weights.safetensors", "model.safetensors");
    assert_int_equal(safetensors_open(folder, &s, &err), OMNI_OK);
    assert_int_equal(safetensors_count(s), 3);
    safetensors_close(s);
    /* A checkpoint holds weights only. */
    copy_data("trace.safetensors", "model.safetensors");
    s = NULL;
    assert_int_not_equal(safetensors_open(folder, &s, &err), OMNI_OK);
    assert_true(strstr(err.text, "tensor 'd.i64': stored as I64; only F32, F16 and BF16") || strstr(err.text, "tensor 'f.empty': dimension 0"));
    files_in_folder(true);
}

static void put_index(const char *text) {
    put_file("model.safetensors.index.json", text, strlen(text));
}

static void damaged_indexes_are_refused(void **state) {
    copy_data("shards/model-00001-of-00002.safetensors", "a.safetensors");
    copy_data("shards/model-00002-of-00002.safetensors", "b.safetensors");
    static const struct {
        const char *index;
        omni_status status;
        const char *words;
    } cases[] = {
        {"", OMNI_ERR_FORMAT, "index.json: the index: not JSON"},
        {"[]", OMNI_ERR_FORMAT, "the index is not a JSON object"},
        {"{}", OMNI_ERR_FORMAT, "weight_map is missing"},
        {"{\"weight_map\": {}}", OMNI_ERR_FORMAT, "weight_map is empty"},
        {"{\"weight_map\": {\"x.bias\": \"a.safetensors\", \"x.bias\": \"b.safetensors\"}}", OMNI_ERR_FORMAT, "duplicate object key"},
        {"{\"weight_map\": {\"x.bias\": 1}}", OMNI_ERR_FORMAT, "tensor 'x.bias' is placed in '(not a string)'"},
        {"{\"weight_map\": {\"x.bias\": \"../a.safetensors\"}}", OMNI_ERR_FORMAT, "no name of a .safetensors file in the same folder"},
        {"{\"weight_map\": {\"x.bias\": \"/etc/a.safetensors\"}}", OMNI_ERR_FORMAT, "'/etc/a.safetensors'"},
        {"{\"weight_map\": {\"x.bias\": \"..\"}}", OMNI_ERR_FORMAT, "'..'"},
        {"{\"weight_map\": {\"x.bias\": \"\"}}", OMNI_ERR_FORMAT, "no name of a .safetensors"},
        {"{\"weight_map\": {\"x.bias\": \"passwd\"}}", OMNI_ERR_FORMAT, "no name of a .safetensors"},
        {"{\"weight_map\": {\"x.bias\": \"c.safetensors\"}}", OMNI_ERR_IO, "c.safetensors: cannot open"},
        {"{\"weight_map\": {\"x.bias\": \"a.safetensors\", \"y.weight\": \"b.safetensors\"}}", OMNI_ERR_FORMAT, "tensor 'x.weight' of /tmp"},
        {"{\"weight_map\": {\"x.bias\": \"a.safetensors\", \"x.weight\": \"a.safetensors\", \"z\": \"b.safetensors\", \"y.weight\": "
         "\"b.safetensors\"}}",
         OMNI_ERR_FORMAT, "tensor 'z' should be in b.safetensors, but no shard holds it"},
        {"{\"weight_map\": {\"x.bias\": \"a.safetensors\", \"x.weight\": \"b.safetensors\", \"y.weight\": \"b.safetensors\"}}", OMNI_ERR_FORMAT,
         "tensor 'x.weight' should be in b.safetensors, but is in"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_index(cases[i].index);
        expect_refused(cases[i].status, cases[i].words);
    }
    /* The same tensor in two shards. */
    copy_data("shards/model-00001-of-00002.safetensors", "b.safetensors");
    put_index("{\"weight_map\": {\"x.bias\": \"a.safetensors\", \"x.weight\": \"b.safetensors\"}}");
    expect_refused(OMNI_ERR_FORMAT, "is also in");
    files_in_folder(true);
}

/* ---- damage ---- */

/* Opens a copy in memory of exactly its size, so that AddressSanitizer sees every byte read too many. */
static omni_status open_copy(const void *data, size_t size, omni_error *err) {
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    safetensors *s = NULL;
    memset(err, 0, sizeof *err);
    omni_status status = safetensors_open_memory(copy, size, "name.safetensors", &s, err);
    assert_true((status == OMNI_OK) == (s != NULL));
    if (s) {
        for (size_t i = 0; i < safetensors_count(s); i++) {
            const st_tensor *t = safetensors_at(s, i);
            assert_true((const uint8_t *)t->data >= copy && (const uint8_t *)t->data + t->size <= copy + size);
        }
        safetensors_close(s);
    } else {
        assert_int_equal(err->code, status);
        assert_int_equal(strncmp(err->text, "name.safetensors: ", 18), 0);
    }
    free(copy);
    return status;
}

/* A file of a header and so many bytes of data. */
static size_t build(uint8_t *out, const char *header, size_t data) {
    uint64_t n = strlen(header);
    memcpy(out, &n, 8);
    memcpy(out + 8, header, n);
    memset(out + 8 + n, 0, data);
    return 8 + n + data;
}

static void damaged_headers_are_refused_with_their_place(void **state) {
    static const struct {
        const char *header;
        size_t data; /* bytes */
        omni_status status;
        const char *words;
    } cases[] = {
        {"", 0, OMNI_ERR_FORMAT, "the header: not JSON"},
        {"{", 0, OMNI_ERR_FORMAT, "the header: not JSON"},
        {"[]", 0, OMNI_ERR_FORMAT, "the header is not a JSON object"},
        {"{}", 4, OMNI_ERR_FORMAT, "4 bytes of data, but the tensors take only 0"},
        {"{\"__metadata__\":3}", 0, OMNI_ERR_FORMAT, "__metadata__ in the header is not an object"},
        {"{\"a\":7}", 0, OMNI_ERR_FORMAT, "the header's entry for 'a' is not an object"},
        {"{\"a\":{}}", 0, OMNI_ERR_FORMAT, "tensor 'a': its entry lacks dtype"},
        {"{\"\":{}}", 0, OMNI_ERR_FORMAT, "a name of 0 bytes"},
        {"{\"a\\u001b\":{}}", 0, OMNI_ERR_FORMAT, "control characters"},
        {"{\"a\\u009b\":{}}", 0, OMNI_ERR_FORMAT, "control characters"},
        {"{\"a\\u0000\":{}}", 0, OMNI_ERR_FORMAT, "the header: not JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, OMNI_ERR_FORMAT, "data_offsets of two numbers"},
        {"{\"a\":{\"dtype\":\"Q9\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_UNSUPPORTED, "tensor 'a': stored as Q9"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "9 dimensions"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "tensor 'a': dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "tensor 'a': dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "tensor 'a': dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "tensor 'a': dimension 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "do not take the 4 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "the header: not JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, OMNI_ERR_FORMAT, "2 values of type F32 do not take the 4 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, OMNI_ERR_FORMAT,
         "tensor 'a': data_offsets [0, 8] do not lie in the file's 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, OMNI_ERR_FORMAT, "data_offsets [4, 0]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, OMNI_ERR_FORMAT, "data_offsets [-4, 0]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5, OMNI_ERR_FORMAT, "5 bytes of data, but the tensors take only 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6, OMNI_ERR_FORMAT,
         "no tensor covers the bytes from data offset 0 to 2"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6,
         OMNI_ERR_FORMAT, "tensors 'a' and 'b' overlap at data offset 2"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         OMNI_ERR_FORMAT, "overlap at data offset 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         OMNI_ERR_FORMAT, "duplicate object key"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}   ", 4, OMNI_OK, ""},
        {"{\"a\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[3,7]}}", 7, OMNI_OK,
         ""},
        {"{}", 0, OMNI_OK, ""},
    };
    uint8_t file[1024];
    omni_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = build(file, cases[i].header, cases[i].data);
        omni_status status = open_copy(file, n, &err);
        if (status != cases[i].status || !strstr(err.text, cases[i].words)) {
            fail_msg("case %zu gave %d '%s', not '%s'", i, status, err.text, cases[i].words);
        }
    }
    assert_int_equal(open_copy("short", 5, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "5 bytes are too few"));
    assert_int_equal(open_copy("\xff\xff\xff\xff\xff\xff\xff\xff", 8, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "the header claims 18446744073709551615 bytes, but the file has 8"));
    size_t large = (33u << 20) + 8;
    uint8_t *padded = calloc(1, large);
    memcpy(padded, &(uint64_t){33u << 20}, 8);
    assert_int_equal(open_copy(padded, large, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "over the limit"));
    free(padded);
}

/* Nesting as deep as the header allows must not exhaust the stack. */
static void deep_nesting_is_refused(void **state) {
    size_t depth = JSON_MOST_VALUES / 5 - 1;
    uint8_t *file = malloc(8 + depth);
    memcpy(file, &(uint64_t){depth}, 8);
    memset(file + 8, '[', depth);
    omni_error err;
    assert_int_equal(open_copy(file, 8 + depth, &err), OMNI_ERR_FORMAT);
    free(file);
}

static void cuts_and_flips_do_no_harm(void **state) {
    char *whole;
    size_t n;
    omni_error err;
    assert_int_equal(file_read(TEST_DATA "/gguf/trace.safetensors", 1 << 20, &whole, &n, &err), OMNI_OK);
    for (size_t cut = 0; cut < n; cut++) {
        assert_int_not_equal(open_copy(whole, cut, &err), OMNI_OK);
    }
    uint64_t header;
    int refused = 0;
    memcpy(&header, whole, 8);
    for (size_t at = 0; at < 8 + header; at++) {
        for (int bit = 0; bit < 8; bit++) {
            whole[at] ^= (char)(1 << bit);
            refused += open_copy(whole, n, &err) != OMNI_OK;
            whole[at] ^= (char)(1 << bit);
        }
    }
    assert_true(refused > 1000);
    free(whole);
}

static void paths_that_hold_no_file_are_told(void **state) {
    safetensors *s = NULL;
    omni_error err;
    assert_int_equal(safetensors_open_file(in_folder("none"), &s, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "none: cannot open"));
    put_file("empty", "", 0);
    assert_int_equal(safetensors_open_file(in_folder("empty"), &s, &err), OMNI_ERR_FORMAT);
    assert_null(s);
    safetensors_close(NULL);
    files_in_folder(true);
}

/* ---- writing ---- */

static void traces_are_written_and_read_back(void **state) {
    omni_error err = {0};
    st_writer *w;
    safetensors *s = NULL;
    const float f[6] = {1, 2, 3, 4, 5, 6};
    const int64_t ids[3] = {7, -8, 1ll << 40};
    assert_int_equal(st_writer_create(in_folder("t.safetensors"), &w, &err), OMNI_OK);
    st_writer_f32(w, "layer \"0\"", 3, (int64_t[]){1, 2, 3}, f);
    st_writer_f32(w, "odd", 1, (int64_t[]){4}, f); /* with the others 11 values: wide ones laid behind them would lie askew */
    st_writer_i64(w, "ids", 1, (int64_t[]){3}, ids);
    st_writer_f32(w, "scalar", 0, NULL, f + 2);
    st_writer_f32(w, "none", 2, (int64_t[]){0, 4}, NULL);
    assert_int_equal(st_writer_finish(w, &err), OMNI_OK);
    assert_int_equal(files_in_folder(false), 1);
    assert_int_equal(safetensors_open_file(in_folder("t.safetensors"), &s, &err), OMNI_OK);
    assert_int_equal(safetensors_count(s), 5);
    const st_tensor *t = safetensors_find(s, "layer \"0\"");
    assert_true(t->n_dims == 3 && t->shape[2] == 3);
    assert_memory_equal(t->data, f, sizeof f);
    t = safetensors_find(s, "ids");
    assert_int_equal(t->type, DTYPE_I64);
    assert_int_equal((uintptr_t)t->data % 8, 0);
    assert_memory_equal(t->data, ids, sizeof ids);
    expect_values(safetensors_find(s, "scalar"), f + 2, 1);
    assert_int_equal(safetensors_find(s, "none")->size, 0);
    safetensors_close(s);
    files_in_folder(true);
}

static void mistakes_of_the_writer_are_told(void **state) {
    omni_error err = {0};
    const float f[2] = {0};
    for (int mistake = 0; mistake < 4; mistake++) {
        st_writer *w;
        assert_int_equal(st_writer_create(in_folder("t.safetensors"), &w, &err), OMNI_OK);
        st_writer_f32(w, "a", 1, (int64_t[]){2}, f);
        const char *words = "";
        switch (mistake) {
        case 0:
            st_writer_f32(w, "a", 1, (int64_t[]){2}, f);
            words = "tensor 'a': written twice";
            break;
        case 1:
            st_writer_f32(w, "b", 2, (int64_t[]){2, -1}, f);
            words = "tensor 'b': dimension 1";
            break;
        case 2:
            st_writer_f32(w, "b", 9, (int64_t[]){1, 1, 1, 1, 1, 1, 1, 1, 1}, f);
            words = "more than 8 dimensions";
            break;
        default:
            st_writer_f32(w, "\xff", 1, (int64_t[]){2}, f);
            words = "not UTF-8";
        }
        assert_int_equal(st_writer_finish(w, &err), OMNI_ERR_ARGUMENT);
        if (!strstr(err.text, words) || !strstr(err.text, "t.safetensors")) {
            fail_msg("'%s' does not mention '%s'", err.text, words);
        }
        assert_int_equal(files_in_folder(false), 0);
    }
    st_writer *w;
    assert_int_equal(st_writer_create(in_folder("none/t"), &w, &err), OMNI_ERR_IO);
    st_writer_abandon(NULL);
}

static void dying_before_the_end_leaves_no_file(void **state) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        st_writer *w;
        if (st_writer_create(in_folder("t.safetensors"), &w, NULL) == OMNI_OK) {
            st_writer_f32(w, "a", 1, (int64_t[]){1}, (float[]){1});
            raise(SIGKILL);
        }
        _exit(1);
    }
    int ended;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
    assert_int_not_equal(access(in_folder("t.safetensors"), F_OK), 0);
    files_in_folder(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_the_package_are_read),
        cmocka_unit_test(shards_are_joined),
        cmocka_unit_test(a_folder_with_one_file_is_read),
        cmocka_unit_test(damaged_indexes_are_refused),
        cmocka_unit_test(damaged_headers_are_refused_with_their_place),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(cuts_and_flips_do_no_harm),
        cmocka_unit_test(paths_that_hold_no_file_are_told),
        cmocka_unit_test(traces_are_written_and_read_back),
        cmocka_unit_test(mistakes_of_the_writer_are_told),
        cmocka_unit_test(dying_before_the_end_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
