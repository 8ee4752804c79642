/* Writing GGUF: round trips, mistakes of the caller, threads, interrupted writing. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/pool.h"
#include "gguf/gguf.h"
#include "scratch.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static gguf *open_data(const char *name) {
    char path[512];
    gguf *g = NULL;
    omni_error err = {0};
    snprintf(path, sizeof path, TEST_DATA "/gguf/%s", name);
    if (gguf_open(path, &g, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return g;
}

static void put_everything(gguf_writer *w) {
    gguf_put_str(w, "general.architecture", "qwen3omni_talker");
    gguf_put_u32(w, "x.u32", 4000000000u);
    gguf_put_f32(w, "x.f32", -0.25f);
    gguf_put_bool(w, "x.bool", true);
    gguf_put_strn(w, "x.strn", "a\0b", 3);
    gguf_put_i32s(w, "x.i32s", (int32_t[]){-1, 2, 3}, 3);
    gguf_put_u32s(w, "x.u32s", (uint32_t[]){4000000000u}, 1);
    gguf_put_f32s(w, "x.f32s", (float[]){1.5f, 2.5f}, 2);
    gguf_put_bools(w, "x.bools", (bool[]){false, true}, 2);
    gguf_put_strs(w, "x.strs", (gguf_str[]){{"ab", 2}, {"", 0}}, 2);
    gguf_put_i32s(w, "x.none", NULL, 0);
    assert_int_equal(gguf_put_tensor(w, "one", DTYPE_F32, 1, (int64_t[]){5}), 0);
    assert_int_equal(gguf_put_tensor(w, "two", DTYPE_Q8_0, 3, (int64_t[]){64, 3, 2}), 1);
}

static const float five[5] = {1, 2, 3, 4, 5};
static uint8_t blocks[6 * 68];

static void what_is_written_is_read_back(void **state) {
    omni_error err = {0};
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(in_folder("a.gguf"), &w, &err), OMNI_OK);
    put_everything(w);
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    assert_int_equal(gguf_writer_tensor_bytes(w, 1), sizeof blocks);
    for (size_t i = 0; i < sizeof blocks; i++) {
        blocks[i] = (uint8_t)(i * 7);
    }
    /* In pieces, out of order. */
    assert_int_equal(gguf_writer_data(w, 1, 200, blocks + 200, sizeof blocks - 200, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 1, 0, blocks, 100, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 0, 0, five, sizeof five, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 1, 100, blocks + 100, 100, &err), OMNI_OK);
    assert_int_not_equal(access(in_folder("a.gguf"), F_OK), 0);
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
    assert_int_equal(files_in_folder(false), 1);

    gguf *g;
    const char *s;
    uint32_t u;
    float f[2];
    int32_t i32[3];
    bool b[2];
    assert_int_equal(gguf_open(in_folder("a.gguf"), &g, &err), OMNI_OK);
    assert_int_equal(gguf_key_count(g), 11);
    assert_int_equal(gguf_need_str(g, "general.architecture", &s, &err), OMNI_OK);
    assert_string_equal(s, "qwen3omni_talker");
    assert_int_equal(gguf_need_u32(g, "x.u32", &u, &err), OMNI_OK);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(gguf_need_f32(g, "x.f32", f, &err), OMNI_OK);
    assert_true(f[0] == -0.25f);
    assert_int_equal(gguf_maybe_bool(g, "x.bool", false, b, &err), OMNI_OK);
    assert_true(b[0]);
    assert_int_equal(gguf_need_i32s(g, "x.i32s", 3, i32, &err), OMNI_OK);
    assert_true(i32[0] == -1 && i32[2] == 3);
    assert_int_equal(gguf_need_f32s(g, "x.u32s", 1, f, &err), OMNI_OK);
    assert_true(f[0] == 4e9f);
    assert_int_equal(gguf_need_f32s(g, "x.f32s", 2, f, &err), OMNI_OK);
    assert_true(f[0] == 1.5f && f[1] == 2.5f);
    assert_int_equal(gguf_need_bools(g, "x.bools", 2, b, &err), OMNI_OK);
    assert_true(!b[0] && b[1]);
    gguf_str *strings;
    size_t n;
    assert_int_equal(gguf_need_strs(g, "x.strs", &strings, &n, &err), OMNI_OK);
    assert_true(n == 2 && strings[0].size == 2 && strings[1].size == 0);
    free(strings);
    assert_int_equal(gguf_need_i32s(g, "x.none", 0, i32, &err), OMNI_OK);
    assert_memory_equal(gguf_tensor(g, "one")->data, five, sizeof five);
    assert_memory_equal(gguf_tensor(g, "two")->data, blocks, sizeof blocks);
    assert_int_equal(gguf_file_size(g) % 32, 0);
    gguf_close(g);
    files_in_folder(true);
}

/* All keys and tensors of the package's files, copied: the same keys, the same bytes. */
static void files_are_copied_unchanged(void **state) {
    static const char *const names[] = {"keys.gguf", "types.gguf", "q8_0.gguf"};
    for (size_t f = 0; f < 3; f++) {
        omni_error err = {0};
        gguf *g = open_data(names[f]);
        gguf_writer *w;
        assert_int_equal(gguf_writer_create(in_folder("copy.gguf"), &w, &err), OMNI_OK);
        for (size_t i = 0; i < gguf_key_count(g); i++) {
            gguf_put_copy(w, g, i);
        }
        for (size_t i = 0; i < gguf_tensor_count(g); i++) {
            const tensor *t = gguf_tensor_at(g, i);
            assert_int_equal(gguf_put_tensor(w, t->name, t->type, t->n_dims, t->ne), i);
        }
        assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
        for (size_t i = 0; i < gguf_tensor_count(g); i++) {
            const tensor *t = gguf_tensor_at(g, i);
            assert_int_equal(gguf_writer_data(w, i, 0, t->data, t->size, &err), OMNI_OK);
        }
        assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
        char *a, *b;
        size_t n, m;
        assert_int_equal(file_read(gguf_path(g), 1 << 20, &a, &n, &err), OMNI_OK);
        assert_int_equal(file_read(in_folder("copy.gguf"), 1 << 20, &b, &m, &err), OMNI_OK);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
        gguf_close(g);
    }
    files_in_folder(true);
}

static void another_alignment_is_honoured(void **state) {
    omni_error err = {0};
    gguf_writer *w;
    gguf *g;
    assert_int_equal(gguf_writer_create(in_folder("a.gguf"), &w, &err), OMNI_OK);
    gguf_put_u32(w, "general.alignment", 4096);
    gguf_put_tensor(w, "one", DTYPE_F32, 1, (int64_t[]){5});
    gguf_put_tensor(w, "two", DTYPE_F32, 1, (int64_t[]){5});
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 0, 0, five, sizeof five, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 1, 0, five, sizeof five, &err), OMNI_OK);
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
    assert_int_equal(gguf_open(in_folder("a.gguf"), &g, &err), OMNI_OK);
    assert_int_equal(gguf_file_size(g), 3 * 4096);
    assert_memory_equal(gguf_tensor(g, "two")->data, five, sizeof five);
    gguf_close(g);
    files_in_folder(true);
}

/* Every mistake of a caller is told by gguf_writer_begin and leaves no file. */
static void mistakes_in_declarations_are_told(void **state) {
    for (int mistake = 0; mistake < 10; mistake++) {
        omni_error err = {0};
        gguf_writer *w;
        assert_int_equal(gguf_writer_create(in_folder("bad.gguf"), &w, &err), OMNI_OK);
        gguf_put_u32(w, "k", 1);
        gguf_put_tensor(w, "t", DTYPE_F32, 1, (int64_t[]){5});
        const char *words = "";
        switch (mistake) {
        case 0:
            gguf_put_f32(w, "k", 1);
            words = "key 'k' declared twice";
            break;
        case 1:
            gguf_put_u32(w, "", 1);
            words = "the name of key ''";
            break;
        case 2:
            gguf_put_u32(w, "\xff", 1);
            words = "must be UTF-8";
            break;
        case 3:
            gguf_put_tensor(w, "t", DTYPE_F32, 1, (int64_t[]){5});
            words = "tensor 't' declared twice";
            break;
        case 4:
            gguf_put_tensor(w, "a-name-of-sixty-four-bytes-is-longer-than-any-other-reader-takes", DTYPE_F32, 1, (int64_t[]){5});
            words = "1 to 63 bytes";
            break;
        case 5:
            gguf_put_tensor(w, "u", DTYPE_Q8_0, 2, (int64_t[]){33, 2});
            words = "tensor 'u': 2 dimensions, rows of 33 values and type Q8_0";
            break;
        case 6:
            gguf_put_tensor(w, "u", DTYPE_F32, 2, (int64_t[]){5, 0});
            words = "tensor 'u'";
            break;
        case 7:
            gguf_put_tensor(w, "u", DTYPE_F32, 3, (int64_t[]){INT64_MAX / 2, 5, 5});
            words = "tensor 'u'";
            break;
        case 8:
            gguf_put_u32(w, "general.alignment", 48);
            words = "general.alignment 48";
            break;
        default:
            gguf_put_tensor(w, "u", DTYPE_F32, 5, (int64_t[]){1, 1, 1, 1, 1});
            words = "tensor 'u': 5 dimensions";
        }
        gguf_put_u32(w, "later", 1); /* does no harm, and does not replace the first error */
        assert_int_equal(gguf_writer_begin(w, &err), OMNI_ERR_ARGUMENT);
        if (!strstr(err.text, words) || !strstr(err.text, "bad.gguf")) {
            fail_msg("'%s' does not mention '%s'", err.text, words);
        }
        assert_int_equal(gguf_writer_finish(w, &err), OMNI_ERR_ARGUMENT);
        assert_int_equal(files_in_folder(false), 0);
    }
}

static void mistakes_in_data_are_told(void **state) {
    omni_error err = {0};
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(in_folder("bad.gguf"), &w, &err), OMNI_OK);
    put_everything(w);
    assert_int_equal(gguf_writer_data(w, 0, 0, five, 4, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "the header has not been written"));
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(gguf_writer_data(w, 2, 0, five, 4, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "no such tensor"));
    assert_int_equal(gguf_writer_data(w, 0, 8, five, 20, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "tensor 'one': 20 bytes at 8 do not fit into its 20"));
    assert_int_equal(gguf_writer_data(w, 0, SIZE_MAX, five, 8, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(gguf_writer_data(w, 1, 0, blocks, sizeof blocks, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 0, 4, five, 8, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 0, 0, five, 5, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(gguf_writer_data(w, 0, 11, five, 4, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(gguf_writer_data(w, 0, 6, five, 1, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "bytes 6 to 7 were written before"));
    assert_int_equal(gguf_writer_data(w, 0, 0, five, 4, &err), OMNI_OK);
    assert_int_equal(gguf_writer_data(w, 0, 16, five, 4, &err), OMNI_OK);
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "tensor 'one': data from byte 12 of 20 was never written"));
    assert_int_equal(files_in_folder(false), 0);

    assert_int_equal(gguf_writer_create(in_folder("none/bad.gguf"), &w, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "none/bad.gguf"));
    assert_int_equal(gguf_writer_create(in_folder("bad.gguf"), &w, &err), OMNI_OK);
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "finished before its header"));
    gguf_writer_abandon(NULL);
    assert_int_equal(files_in_folder(false), 0);
}

static void write_rows(void *arg, int64_t begin, int64_t end, int thread) {
    omni_error err;
    for (int64_t i = begin; i < end; i++) {
        uint8_t row[64];
        memset(row, (int)i, sizeof row);
        if (gguf_writer_data(arg, 0, (size_t)i * 64, row, 64, &err) != OMNI_OK) {
            abort();
        }
    }
}

static void threads_write_at_once(void **state) {
    enum { ROWS = 2000 };
    omni_error err = {0};
    gguf_writer *w;
    pool *p;
    gguf *g;
    assert_int_equal(pool_create(4, &p, &err), OMNI_OK);
    assert_int_equal(gguf_writer_create(in_folder("t.gguf"), &w, &err), OMNI_OK);
    gguf_put_tensor(w, "t", DTYPE_F32, 2, (int64_t[]){16, ROWS});
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    pool_for(p, ROWS, 3, write_rows, w);
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
    pool_destroy(p);
    assert_int_equal(gguf_open(in_folder("t.gguf"), &g, &err), OMNI_OK);
    const uint8_t *data = gguf_tensor(g, "t")->data;
    for (int i = 0; i < ROWS * 64; i++) {
        assert_int_equal(data[i], (uint8_t)(i / 64));
    }
    gguf_close(g);
    files_in_folder(true);
}

/* A process that dies while it writes leaves the old file under the name, and no new one where there was none. */
static void dying_while_writing_leaves_the_name_alone(void **state) {
    for (int old = 0; old < 2; old++) {
        if (old) {
            FILE *f = fopen(in_folder("out.gguf"), "w");
            fputs("old", f);
            fclose(f);
        }
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            gguf_writer *w;
            if (gguf_writer_create(in_folder("out.gguf"), &w, NULL) == OMNI_OK) {
                gguf_put_tensor(w, "t", DTYPE_F32, 1, (int64_t[]){5});
                if (gguf_writer_begin(w, NULL) == OMNI_OK && gguf_writer_data(w, 0, 0, five, 12, NULL) == OMNI_OK) {
                    raise(SIGKILL);
                }
            }
            _exit(1);
        }
        int ended;
        assert_int_equal(waitpid(child, &ended, 0), child);
        assert_true(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
        struct stat st;
        assert_int_equal(stat(in_folder("out.gguf"), &st), old ? 0 : -1);
        if (old) {
            assert_int_equal(st.st_size, 3);
        }
    }
    files_in_folder(true);
}

/* 50,000 tensors: opened and looked up in well under a second (a search through the list would take minutes). */
static void many_tensors_are_found_by_name(void **state) {
    enum { N = 50000 };
    omni_error err = {0};
    gguf_writer *w;
    gguf *g;
    char name[64];
    assert_int_equal(gguf_writer_create(in_folder("many.gguf"), &w, &err), OMNI_OK);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%d.weight", i);
        gguf_put_tensor(w, name, DTYPE_F32, 1, (int64_t[]){1});
    }
    assert_int_equal(gguf_writer_begin(w, &err), OMNI_OK);
    for (int i = 0; i < N; i++) {
        float v = (float)i;
        assert_int_equal(gguf_writer_data(w, (size_t)i, 0, &v, sizeof v, &err), OMNI_OK);
    }
    assert_int_equal(gguf_writer_finish(w, &err), OMNI_OK);
    assert_int_equal(gguf_open(in_folder("many.gguf"), &g, &err), OMNI_OK);
    for (int i = N - 1; i >= 0; i--) {
        snprintf(name, sizeof name, "blk.%d.weight", i);
        const tensor *t = gguf_tensor(g, name);
        assert_non_null(t);
        assert_true(*(const float *)t->data == (float)i);
    }
    gguf_close(g);
    files_in_folder(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(files_are_copied_unchanged),
        cmocka_unit_test(another_alignment_is_honoured),
        cmocka_unit_test(mistakes_in_declarations_are_told),
        cmocka_unit_test(mistakes_in_data_are_told),
        cmocka_unit_test(threads_write_at_once),
        cmocka_unit_test(dying_while_writing_leaves_the_name_alone),
        cmocka_unit_test(many_tensors_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
