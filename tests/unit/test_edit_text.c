/* Where characters of a text being edited stand on a terminal: counted by hand, a cell a letter, two for wide ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cli/edit_text.c"

#include <cmocka.h>

static void places(void **state) {
    static const struct {
        const char *text;
        size_t at, prompt, columns, row, column;
    } cases[] = {
        {"abc", 0, 2, 80, 0, 2},
        {"abc", 3, 2, 80, 0, 5},
        {"ab\xE4\xB8\xAD"
         "c",
         5, 2, 80, 0, 6}, /* a wide character */
        {"ab\xE4\xB8\xAD"
         "c",
         6, 2, 80, 0, 7},
        {"e\xCC\x81x", 3, 0, 80, 0, 1}, /* a mark takes no cell */
        {"a\tb", 2, 0, 80, 0, 8},       /* to the next multiple of eight */
        {"a\tb", 3, 3, 80, 0, 9},
        {"\x01"
         "b",
         1, 0, 80, 0, 2}, /* shown as two */
        {"ab\ncd", 3, 4, 80, 1, EDIT_INDENT},
        {"ab\ncd", 5, 4, 80, 1, EDIT_INDENT + 2},
        {"abcde", 4, 0, 4, 1, 0}, /* the row is full */
        {"abcde", 5, 0, 4, 1, 1},
        {"abc", 0, 9, 4, 2, 1},                      /* a prompt of more than a row */
        {"\xE4\xB8\xAD\xE4\xB8\xAD", 3, 0, 3, 1, 0}, /* the second does not fit beside the first */
        {"\xE4\xB8\xAD\xE4\xB8\xAD", 6, 0, 3, 1, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        edit_place p = edit_where(cases[i].text, strlen(cases[i].text), cases[i].at, cases[i].prompt, cases[i].columns);
        if (p.row != cases[i].row || p.column != cases[i].column) {
            fail_msg("case %zu: row %zu, column %zu", i, p.row, p.column);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(places)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
