/* Forms: parts and their names, boundaries that nearly are ones, what is damaged, limits. The bodies are as curl, browsers and Python's clients make
 * them, and as RFC 7578 and RFC 2046 allow. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/multipart.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define TYPE "multipart/form-data; boundary=xyz"
#define NAMED "Content-Disposition: form-data; name="

typedef struct form {
    multipart_part parts[MULTIPART_PARTS];
    int count;
    omni_status status;
    omni_error err;
} form;

/* The body lies at the end of its own memory, so that a sanitizer sees what is read behind it. */
static const form *read_form(const char *type, const char *body, size_t size) {
    static form f;
    static char *copy;
    free(copy);
    copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, body, size);
    memset(&f, 0, sizeof f);
    multipart m;
    bool got = true;
    f.status = multipart_open(&m, type, copy, size, &f.err);
    while (f.status == OMNI_OK && got) {
        multipart_part part;
        f.status = multipart_next(&m, &part, &got, &f.err);
        if (f.status == OMNI_OK && got) {
            assert_true(f.count < MULTIPART_PARTS);
            f.parts[f.count++] = part;
        }
    }
    return &f;
}

static void expect(const form *f, int i, const char *name, const char *data) {
    assert_true(i < f->count);
    assert_string_equal(f->parts[i].name, name);
    assert_int_equal(f->parts[i].size, strlen(data));
    assert_memory_equal(f->parts[i].data, data, strlen(data));
}

static const form *text_form(const char *type, const char *body) {
    return read_form(type, body, strlen(body));
}

static void test_parts(void **state) {
    (void)state;
    const form *f =
        text_form(TYPE, "--xyz\r\n" NAMED "\"model\"\r\n\r\nomni\r\n"
                        "--xyz\r\n" NAMED "\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\r\n--xy\r\n--xyzz--\r\n\r\n"
                        "--xyz\r\n" NAMED "\"empty\"\r\n\r\n\r\n--xyz--\r\n");
    assert_int_equal(f->status, OMNI_OK);
    assert_int_equal(f->count, 3);
    expect(f, 0, "model", "omni");
    assert_false(f->parts[0].is_file);
    expect(f, 1, "file", "RIFF\r\n\r\n--xy\r\n--xyzz--\r\n");
    assert_true(f->parts[1].is_file);
    assert_string_equal(f->parts[1].filename, "a.wav");
    expect(f, 2, "empty", "");
    /* A preamble and an epilogue, which are ignored; spaces behind a boundary; lower case; a token for a name. */
    f = text_form("Multipart/Form-Data; charset=utf-8; BOUNDARY=\"x y\\\"z\"",
                  "hello\r\n--x y\"z \t\r\ncontent-disposition:form-data;name=a\r\n\r\n1\r\n--x y\"z--bye\r\n--x y\"z\r\n");
    assert_int_equal(f->status, OMNI_OK);
    assert_int_equal(f->count, 1);
    expect(f, 0, "a", "1");
    /* No parts at all, as a client sends that has nothing to say. */
    f = text_form(TYPE, "--xyz--\r\n");
    assert_int_equal(f->status, OMNI_OK);
    assert_int_equal(f->count, 0);
    /* Bytes of any value. */
    char body[512];
    const int head = snprintf(body, sizeof body, "--xyz\r\n" NAMED "\"b\"\r\nContent-Transfer-Encoding: binary\r\n\r\n");
    for (int i = 0; i < 256; i++) {
        body[head + i] = (char)i;
    }
    const int tail = snprintf(body + head + 256, sizeof body - (size_t)head - 256, "\r\n--xyz--");
    f = read_form(TYPE, body, (size_t)(head + 256 + tail));
    assert_int_equal(f->status, OMNI_OK);
    assert_int_equal(f->parts[0].size, 256);
    assert_memory_equal(f->parts[0].data, body + head, 256);
}

static void test_names(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"\"a b\"", "a b"},
        {"\"a\\\"b\"", "a\"b"},
        {"\"a%22b\"", "a\"b"},
        {"\"a\\\\b\"", "a\\b"},
        {"\"c:\\dir\"", "c:\\dir"},
        {"\"a;b=c\"", "a;b=c"},
        {"\"\xc3\xa4\"", "\xc3\xa4"},
        {"\"include[]\"", "include[]"},
        {"plain; filename=x", "plain"},
        {"\"\"", ""},
        {"\"100%\"", "100%"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char body[300];
        snprintf(body, sizeof body, "--xyz\r\n" NAMED "%s\r\n\r\n1\r\n--xyz--\r\n", pairs[i][0]);
        const form *f = text_form(TYPE, body);
        assert_int_equal(f->status, OMNI_OK);
        expect(f, 0, pairs[i][1], "1");
    }
}

/* As Python's requests writes it with urllib3 before 2. */
static void test_other_names(void **state) {
    (void)state;
    const form *f = text_form(TYPE, "--xyz\r\n" NAMED "\"file\"; filename*=utf-8''na%C3%AFve.wav\r\n\r\n1\r\n--xyz--\r\n");
    assert_int_equal(f->status, OMNI_OK);
    expect(f, 0, "file", "1");
    assert_true(f->parts[0].is_file);
    assert_string_equal(f->parts[0].filename, "");
}

static void test_damaged(void **state) {
    (void)state;
    static const struct {
        const char *type, *body;
        omni_status status;
    } cases[] = {
        {"application/json", "{}", OMNI_ERR_FORMAT},
        {"", "--xyz--", OMNI_ERR_FORMAT},
        {"multipart/form-data", "--xyz--", OMNI_ERR_FORMAT},
        {"multipart/form-data; boundary=", "--", OMNI_ERR_FORMAT},
        {"multipart/form-data; boundary=\"xyz", "--xyz--", OMNI_ERR_FORMAT},
        {"multipart/form-data; boundary=xyz; boundary=abc", "--xyz--", OMNI_ERR_FORMAT},
        {"multipart/form-database; boundary=xyz", "--xyz--", OMNI_ERR_FORMAT},
        {"multipart/form-data; boundary=1234567890123456789012345678901234567890123456789012345678901234567890x",
         "--1234567890123456789012345678901234567890123456789012345678901234567890x--", OMNI_ERR_FORMAT},
        {TYPE, "", OMNI_ERR_FORMAT},
        {TYPE, "--abc--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "\"a\"\r\n\r\n1", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "\"a\"\r\n\r\n1\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "\"a\"\r\n", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\nContent-Type: text/plain\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\nContent-Disposition: form-data\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "\"a\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "a; name=b\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "\"a%0d%0ab\"\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "a\r\n" NAMED "b\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "a\r\n folded\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "a\nX: y\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
        {TYPE, "--xyz\r\n" NAMED "a\r\nContent-Transfer-Encoding: base64\r\n\r\nMQ==\r\n--xyz--", OMNI_ERR_UNSUPPORTED},
        {TYPE, "--xyz\r\n" NAMED "a; filename*=utf-8''b; filename*=utf-8''c\r\n\r\n1\r\n--xyz--", OMNI_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const form *f = text_form(cases[i].type, cases[i].body);
        if (f->status != cases[i].status) {
            fail_msg("case %zu: status %d (%s)", i, (int)f->status, f->err.text);
        }
        assert_true(f->err.text[0]);
    }
    /* Cut anywhere before its last boundary is whole, a form is an error. */
    static const char whole[] = "--xyz\r\n" NAMED "\"a\"\r\n\r\n1\r\n--xyz\r\n" NAMED "\"b\"\r\n\r\n\r\n--xyz--";
    for (size_t n = 0; n < sizeof whole - 1; n++) {
        assert_int_equal(read_form(TYPE, whole, n)->status, OMNI_ERR_FORMAT);
    }
    assert_int_equal(read_form(TYPE, whole, sizeof whole - 1)->status, OMNI_OK);
}

static void test_limits(void **state) {
    (void)state;
    static char body[MULTIPART_PARTS * 64 + 2 * MULTIPART_HEAD];
    for (int more = 0; more < 2; more++) {
        int n = 0;
        for (int i = 0; i < MULTIPART_PARTS + more; i++) {
            n += snprintf(body + n, sizeof body - (size_t)n, "--xyz\r\n" NAMED "a\r\n\r\n1\r\n");
        }
        snprintf(body + n, sizeof body - (size_t)n, "--xyz--");
        const form *f = text_form(TYPE, body);
        assert_int_equal(f->status, more ? OMNI_ERR_LIMIT : OMNI_OK);
        assert_int_equal(f->count, MULTIPART_PARTS);
        /* Header lines, the empty one included. */
        const int known = (int)strlen(NAMED "a\r\nX: \r\n\r\n");
        snprintf(body, sizeof body, "--xyz\r\n" NAMED "a\r\nX: %*s\r\n\r\n1\r\n--xyz--", MULTIPART_HEAD - known + more, "x");
        assert_int_equal(text_form(TYPE, body)->status, more ? OMNI_ERR_LIMIT : OMNI_OK);
        char name[MULTIPART_NAME + 1];
        memset(name, 'n', sizeof name);
        name[MULTIPART_NAME - 1 + more] = 0;
        snprintf(body, sizeof body, "--xyz\r\n" NAMED "\"%s\"\r\n\r\n1\r\n--xyz--", name);
        assert_int_equal(text_form(TYPE, body)->status, more ? OMNI_ERR_FORMAT : OMNI_OK);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts), cmocka_unit_test(test_names), cmocka_unit_test(test_other_names),
                                       cmocka_unit_test(test_damaged), cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
