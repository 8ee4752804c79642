/* Error texts: prefixes, and what they may not contain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/utf8.h"

/* Before cmocka.h, which defines a macro named fail. */
static omni_status set(omni_error *err, const char *text) {
    return fail(err, OMNI_ERR_FORMAT, "%s", text);
}

#include <cmocka.h>

static void texts_are_fit_for_terminals(void **state) {
    static const char *const cases[][2] = {
        {"plain text, 三 \xef\xbf\xbd\n\t", "plain text, 三 \xef\xbf\xbd\n\t"},
        {"\x1b[31mred\x7f\r", "?[31mred??"},
        {"a\xff\xc3 b", "a?? b"},
        {"cut \xe4\xb8", "cut ??"},
        {"\xc2\x9b", "??"}, /* an escape sequence's start as one character */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        omni_error err;
        assert_int_equal(set(&err, cases[i][0]), OMNI_ERR_FORMAT);
        assert_int_equal(err.code, OMNI_ERR_FORMAT);
        assert_string_equal(err.text, cases[i][1]);
    }
}

static void prefixes_go_before_the_text(void **state) {
    omni_error err;
    set(&err, "missing");
    assert_int_equal(fail_in(&err, OMNI_ERR_IO, "file %d\x01", 3), OMNI_ERR_IO);
    assert_int_equal(err.code, OMNI_ERR_IO);
    assert_string_equal(err.text, "file 3?: missing");
    assert_int_equal(fail_in(NULL, OMNI_ERR_IO, "x"), OMNI_ERR_IO);
    assert_int_equal(set(NULL, "x"), OMNI_ERR_FORMAT);
}

/* A text that is too long is cut, and not in the middle of a character. */
static void long_texts_are_cut(void **state) {
    char text[3001];
    for (size_t i = 0; i < 3000; i += 3) {
        memcpy(text + i, "三", 3);
    }
    text[3000] = 0;
    omni_error err;
    for (int shift = 0; shift < 3; shift++) {
        set(&err, text + 3 * shift);
        assert_int_equal(strlen(err.text), sizeof err.text - 1);
        fail_in(&err, OMNI_ERR_IO, "%.*s", shift, "ab");
        assert_int_equal(strlen(err.text), sizeof err.text - 1);
        assert_true(utf8_valid(err.text, strlen(err.text)));
    }
    fail_in(&err, OMNI_ERR_IO, "%s", text);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_true(utf8_valid(err.text, strlen(err.text)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_fit_for_terminals),
        cmocka_unit_test(prefixes_go_before_the_text),
        cmocka_unit_test(long_texts_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
