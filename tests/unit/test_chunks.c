/* Bodies in chunks, in pieces of every size: RFC 9112's own example of trailers and extensions, what is damaged, limits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/chunks.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The body, read `step` bytes at a time; its size in *got, how many bytes were read in *used. */
static chunk_reader read_body(const char *data, size_t size, size_t step, char *body, size_t *got, size_t *used) {
    chunk_reader c = {0};
    *got = *used = 0;
    for (size_t at = 0; at < size && !c.ended && !c.damaged; at = *used) {
        const size_t piece = size - at < step ? size - at : step;
        size_t n = 0;
        char *own = malloc(piece); /* a sanitizer sees what is read behind it */
        assert_non_null(own);
        memcpy(own, data + at, piece);
        const size_t taken = chunks_read(&c, own, piece, &n);
        assert_true(taken > 0 && taken <= piece && n <= taken);
        memcpy(body + *got, own + taken - n, n);
        *got += n;
        *used += taken;
        free(own);
    }
    return c;
}

static void expect(const char *data, const char *expected, const char *rest) {
    char body[256];
    size_t got, used;
    for (size_t step = 1; step <= strlen(data); step++) {
        const chunk_reader c = read_body(data, strlen(data), step, body, &got, &used);
        assert_true(c.ended && !c.damaged);
        assert_int_equal(got, strlen(expected));
        assert_memory_equal(body, expected, got);
        assert_string_equal(data + used, rest);
    }
}

static void test_whole(void **state) {
    (void)state;
    expect("5\r\nhello\r\n0\r\n\r\n", "hello", "");
    expect("5\r\nhello\r\n00A;name=\"v\"\r\n0123456789\r\n0;last\r\nExpires: never\r\nX: y\r\n\r\nGET / ", "hello0123456789", "GET / ");
    expect("4 \r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", "");
    expect("0\r\n\r\n", "", "");
}

static void test_damaged(void **state) {
    (void)state;
    static const char *const cases[] = {
        "\r\n",           "x\r\n",       "-1\r\nh",     "+1\r\nh",         "0x1\r\nh", "1\nh\r\n0\r\n\r\n",    "1\r\nhh", "1\r\nh\n0", "1\r\nh\r\r\n",
        "1\r\nh\r\n\r\n", "1;a\nb\r\nh", " 1\r\nh\r\n", "0\r\nA: b\n\r\n", "0\r\n\rx", "1000000000000000\r\n", "1\r\rh"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step <= strlen(cases[i]); step++) {
            char body[64];
            size_t got, used;
            const chunk_reader c = read_body(cases[i], strlen(cases[i]), step, body, &got, &used);
            if (!c.damaged || c.ended) {
                fail_msg("case %zu was taken", i);
            }
        }
    }
}

static void test_limits(void **state) {
    (void)state;
    static char data[CHUNKS_TRAILERS + 100], body[16];
    size_t got, used;
    for (int more = 0; more < 2; more++) {
        int n = snprintf(data, sizeof data, "1;%*s\r\nh\r\n0\r\n\r\n", CHUNKS_LINE - 1 + more, "x");
        assert_int_equal(read_body(data, (size_t)n, 64, body, &got, &used).damaged, more);
        n = snprintf(data, sizeof data, "0\r\n%*s\r\n\r\n", CHUNKS_TRAILERS + more, "X: y");
        assert_int_equal(read_body(data, (size_t)n, 64, body, &got, &used).damaged, more);
    }
    /* A chunk larger than any body: its size is known, its bytes are handed on. */
    const chunk_reader c = read_body("fffffffffffffff\r\nabc", 20, 20, body, &got, &used);
    assert_true(!c.damaged && !c.ended && c.left == 0xfffffffffffffff - 3 && got == 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_damaged), cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
