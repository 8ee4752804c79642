/* What a model says on a terminal: words, names of tools and what they are called with are shown, whatever they hold; in a pipe they are as they are.
 * A model that says so is stood in for. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "omni.h"

#define CSI "\xC2\x9B"          /* U+009B, which begins a sequence as ESC [ does */
#define OVERRIDE "\xE2\x80\xAE" /* U+202E: what follows is written from right to left */
#define NASTY "\x1b[2J" CSI OVERRIDE "\x07\x7f"

static omni_status said(omni_engine *engine, omni_conversation *conversation, const omni_generate_params *p, omni_result *result, omni_error *err) {
    static const char text[] = "a" NASTY "b";
    bool go_on = p->on_text(p->arg, text, sizeof text - 1);
    if (p->on_reasoning) {
        go_on = p->on_reasoning(p->arg, text, sizeof text - 1) && go_on;
    }
    go_on = p->on_tool_call(p->arg, "f" NASTY, "{\"x\": \"" NASTY "\"}") && go_on;
    return go_on ? OMNI_OK : OMNI_CANCELLED;
}

#define omni_generate said
#include "cli/answer.c"
#include "cli/progress.c"
#include "cli/stop.c"
#include "cli/terminal_text.c"

#include <cmocka.h> /* last: it defines a macro named fail */

int report(const omni_error *err) {
    return 1;
}

/* What an answer prints on standard output, which is a terminal or a pipe. */
static const char *printed(bool terminal, bool json) {
    static char seen[4096];
    int ends[2], kept = dup(STDOUT_FILENO);
    if (terminal) {
        ends[0] = posix_openpt(O_RDWR | O_NOCTTY);
        assert_int_equal(grantpt(ends[0]) | unlockpt(ends[0]), 0);
        ends[1] = open(ptsname(ends[0]), O_RDWR | O_NOCTTY);
        struct termios t;
        assert_int_equal(tcgetattr(ends[1], &t), 0);
        t.c_oflag &= ~(tcflag_t)OPOST; /* line ends as they were written */
        assert_int_equal(tcsetattr(ends[1], TCSANOW, &t), 0);
    } else {
        assert_int_equal(pipe(ends), 0);
    }
    fflush(stdout);
    assert_true(dup2(ends[1], STDOUT_FILENO) >= 0);
    answer a = {.json = json};
    omni_generate_params p = omni_generate_params_default();
    int status = answer_run(&a, NULL, NULL, &p, NULL, 24000);
    fflush(stdout);
    assert_true(dup2(kept, STDOUT_FILENO) >= 0);
    close(kept);
    close(ends[1]); /* so that what was written has an end: 0 from a pipe, an error from a terminal */
    size_t n = 0;
    for (ssize_t got; n < sizeof seen - 1 && (got = read(ends[0], seen + n, sizeof seen - 1 - n)) > 0;) {
        n += (size_t)got;
    }
    close(ends[0]);
    assert_int_equal(status, 0);
    assert_true(n > 0);
    seen[n] = 0;
    return seen;
}

#define SHOWN "\\u001b[2J\\u009b\\u202e\\u0007\\u007f"

static void a_terminal_shows(void **state) {
    assert_string_equal(printed(true, false), "a" SHOWN "b\n[tool call] f" SHOWN " {\"x\": \"" SHOWN "\"}\n");
}

static void a_pipe_gets_it_as_it_is(void **state) {
    assert_string_equal(printed(false, false), "a" NASTY "b\n[tool call] f" NASTY " {\"x\": \"" NASTY "\"}\n");
}

/* JSON has escapes of its own, so that it is the same everywhere. */
static void json_is_fit_for_both(void **state) {
    static const char begins[] = "{\"text\": \"a" SHOWN "b\", \"reasoning\": \"a" SHOWN "b\", \"tool_calls\": [{\"name\": \"f" SHOWN
                                 "\", \"arguments\": \"{\\\"x\\\": \\\"" SHOWN "\\\"}\"}], \"finish\": ";
    char terminal[4096];
    strcpy(terminal, printed(true, true));
    assert_memory_equal(terminal, begins, strlen(begins));
    assert_string_equal(printed(false, true), terminal);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_terminal_shows), cmocka_unit_test(a_pipe_gets_it_as_it_is),
                                       cmocka_unit_test(json_is_fit_for_both)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
