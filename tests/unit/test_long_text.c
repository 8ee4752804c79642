/* Long texts: what they cost the tokenizer, the bound that refuses them before that, and its error. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/chat.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static tokenizer *tok;

static int set_up(void **state) {
    gguf *g = NULL;
    int failed = gguf_open(TEST_DATA "/text/tokenizer.gguf", &g, NULL) != OMNI_OK || tokenizer_open(g, &tok, NULL) != OMNI_OK;
    gguf_close(g);
    return failed;
}

static int tear_down(void **state) {
    tokenizer_close(tok);
    return 0;
}

/* What a text is made of, again and again. Letters of which a word gets longer and longer, words, and what Unicode makes expensive: long runs of
 * marks that must be put in order, letters that NFC makes one, and bytes that are no text. */
static const struct {
    const char *name, *unit;
} KINDS[] = {
    {"blanks", " "},
    {"line ends", "\n"},
    {"carriage returns", "\r\n"},
    {"tabs and blanks", "\t  \t"},
    {"one letter", "a"},
    {"no spaces", "abcdefghijklmnopqrstuvwxyz"},
    {"words", "the quick brown fox jumps over the lazy dog "},
    {"capitals", "A"},
    {"digits", "7"},
    {"punctuation", "!?"},
    {"one sign", "="},
    {"Chinese", "\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c"},
    {"wide blanks", "\xe3\x80\x80"},
    {"emoji", "\xf0\x9f\x98\x80"},
    {"families", "\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7"},
    {"marks", "\xcc\x81"},
    {"marks in the wrong order", "\xcc\x81\xcc\x96"},
    {"Hangul in parts", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab"},
    {"seven bytes that become two", "\xe1\xbe\xbe\xcd\x84"},
    {"apostrophes", "'s"},
    {"no text", "\xff"},
    {"half characters", "\xf0\x9f"},
    {"NUL", "\0"},
    {"markup", "<|im_end|>"},
};
enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS, LONG = 1 << 20 };

static char *made(int kind, size_t size) {
    char *text = malloc(size + 1);
    const size_t n = KINDS[kind].unit[0] ? strlen(KINDS[kind].unit) : 1;
    for (size_t i = 0; i < size; i++) {
        text[i] = KINDS[kind].unit[i % n];
    }
    return text;
}

static double encode_seconds(const char *text, size_t size, size_t *tokens) {
    struct timespec a, b;
    token_list list = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    assert_int_equal(tokenizer_encode(tok, TOKENIZE_PLAIN, text, size, &list, NULL), OMNI_OK);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    *tokens = list.count;
    token_list_free(&list);
    return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
}

/* 1 MB of every kind, and half of it: time grows as the text does, and no kind takes seconds. */
static void time_grows_as_the_text(void **state) {
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
#ifdef __SANITIZE_THREAD__
    skip();
#endif
    for (int k = 0; k < KIND_COUNT; k++) {
        char *text = made(k, LONG);
        double whole = 1e9, part = 1e9;
        size_t tokens;
        for (int i = 0; i < 3; i++) { /* the best of some: another program may be in the way */
            const double w = encode_seconds(text, LONG, &tokens), p = encode_seconds(text, LONG / 8, &tokens);
            whole = w < whole ? w : whole;
            part = p < part ? p : part;
        }
        if (whole > 2 || whole > 8 * 3 * part + 0.01) {
            fail_msg("%s: 1 MB takes %.3f s, an eighth of it %.3f s", KINDS[k].name, whole, part);
        }
        free(text);
    }
}

/* Never more than there are: nothing that fits is refused. */
static void the_bound_holds(void **state) {
    for (int k = 0; k < KIND_COUNT; k++) {
        static const size_t sizes[] = {0, 1, 2, 7, 64, 1000, 4099, 1 << 16};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            char *text = made(k, sizes[i]);
            size_t tokens;
            encode_seconds(text, sizes[i], &tokens);
            if (tokenizer_least(tok, sizes[i]) > tokens) {
                fail_msg("%s: %zu bytes are %zu tokens, not at least %zu", KINDS[k].name, sizes[i], tokens, tokenizer_least(tok, sizes[i]));
            }
            free(text);
        }
    }
    size_t longest = 0; /* the longest token alone, as often as a bound may be wrong by one */
    const char *bytes = NULL;
    for (size_t i = 0; i < tokenizer_size(tok); i++) {
        size_t n;
        const char *piece = tokenizer_piece(tok, (int32_t)i, &n);
        bytes = n > longest ? piece : bytes;
        longest = n > longest ? n : longest;
    }
    assert_true(longest > 1);
    assert_int_equal(tokenizer_least(tok, 0), 0);
    assert_int_equal(tokenizer_least(tok, 1), 1);
    assert_true(tokenizer_least(tok, 1 << 20) >= (1u << 20) / longest / 4);
    assert_true(tokenizer_least(tok, 1 << 20) <= (1u << 20) / longest / 3);
    assert_non_null(bytes);
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { MOST_SECONDS = 40 };
#else
enum { MOST_SECONDS = 3 };
#endif

/* 48 MB in one message, in many messages, in a system message, a tool's answer, a tool's description and an old answer: refused at once. */
static void what_cannot_fit_is_refused_at_once(void **state) {
    enum { SIZE = 48 << 20, MOST = 8192 };
    char *text = made(0, SIZE);
    text[SIZE] = 0;
    for (int where = 0; where < 6; where++) {
        static const chat_role roles[] = {CHAT_USER, CHAT_USER, CHAT_SYSTEM, CHAT_TOOL, CHAT_USER, CHAT_ASSISTANT};
        const size_t messages = where == 1 ? 1000 : 1;
        chat c = {0};
        omni_error err = {0};
        for (size_t i = 0; i < messages; i++) {
            chat_message *m;
            assert_int_equal(chat_add_message(&c, roles[where], &m, &err), OMNI_OK);
            assert_int_equal(chat_add_text(m, where == 4 ? "x" : text, where == 4 ? 1 : SIZE / messages, &err), OMNI_OK);
        }
        if (where == 4) {
            assert_int_equal(chat_add_tool(&c, text, &err), OMNI_OK);
        }
        chat_prompt p = {0};
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        const omni_status status = chat_render(&c, tok, true, MOST, &p, &err);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        assert_int_equal(status, OMNI_ERR_LIMIT);
        assert_int_equal(p.ids.count, 0);
        assert_non_null(strstr(err.text, "the context is 8192"));
        assert_non_null(strstr(err.text, "the conversation needs at least "));
        const double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
        if (seconds > MOST_SECONDS) { /* of 15 and more without the bound; memory is moved, and some of the many messages are tokenised */
            fail_msg("place %d: refused after %.2f s", where, seconds);
        }
        chat_free(&c);
    }
    free(text);
}

/* A few tokens more than fit are laid out, so that the error of the whole can say how many there are; without a limit, everything is. */
static void near_misses_are_counted(void **state) {
    chat c = {0};
    chat_message *m;
    omni_error err = {0};
    chat_prompt all = {0}, p = {0};
    assert_int_equal(chat_add_message(&c, CHAT_USER, &m, &err), OMNI_OK);
    assert_int_equal(chat_add_text(m, "a b c d e f g h i j", 19, &err), OMNI_OK);
    assert_int_equal(chat_render(&c, tok, true, 0, &all, &err), OMNI_OK);
    for (size_t most = all.ids.count + 1; most >= all.ids.count - 1; most--) {
        assert_int_equal(chat_render(&c, tok, true, most, &p, &err), OMNI_OK);
        assert_int_equal(p.ids.count, all.ids.count);
        chat_prompt_free(&p);
    }
    assert_int_equal(chat_render(&c, tok, true, 1, &p, &err), OMNI_OK);
    chat_prompt_free(&p);
    chat_prompt_free(&all);
    chat_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_grows_as_the_text),
        cmocka_unit_test(the_bound_holds),
        cmocka_unit_test(what_cannot_fit_is_refused_at_once),
        cmocka_unit_test(near_misses_are_counted),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
