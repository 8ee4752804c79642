/* Grammars: what each accepts and refuses was derived by hand from the notation; masks are compared with a check of every token on its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"
#include "text/grammar_states.h"
#include "text/token_mask.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static tokenizer *t;
static token_trie *trie;
static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    gguf *g;
    must(gguf_open(MODELS "/tiny/qwen3-omni-f16.gguf", &g, &err));
    must(tokenizer_open(g, &t, &err));
    gguf_close(g);
    must(token_trie_create(t, (int64_t)tokenizer_size(t), &trie, &err));
    return 0;
}

static int tear_down(void **state) {
    token_trie_free(trie);
    tokenizer_close(t);
    return 0;
}

static token_grammar *compile(const char *text) {
    token_grammar *g;
    if (token_grammar_create(text, strlen(text), t, trie, &g, &err) != OMNI_OK) {
        fail_msg("%s\n%s", text, err.text);
    }
    return g;
}

/* ---- the notation ---- */

typedef struct example {
    const char *grammar;
    const char *whole[10], *begun[8], *wrong[10]; /* begun: right so far, but not whole */
} example;

static const example examples[] = {
    {"root ::= \"a\" | \"bc\"", {"a", "bc"}, {"", "b"}, {"c", "ab", "bca"}},
    {"root ::= \"\"", {""}, {0}, {"a"}},
    {"root ::= | \"x\"", {"", "x"}, {0}, {"xx"}},
    {"root ::= [a-c]+", {"a", "abc", "ccc"}, {""}, {"d", "ad"}},
    {"root ::= [^a-c\\n]*",
     {"", "d", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"},
     {"\xe2", "\xe2\x82", "\xf0\x9f"},
     {"a", "da", "\n", "\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80"}},
    {"root ::= [\xc3\xa4-\xe2\x82\xac]",
     {"\xc3\xa4", "\xc3\xbf", "\xc4\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xe2\x82\xac"},
     {"\xc3", "\xe2\x82"},
     {"\xc3\xa3", "\xe2\x82\xad", "\xe2\x83", "a"}},
    {"root ::= [-a\\]^]{2}", {"-a", "]^", "^-"}, {"a"}, {"b", "aaa"}},
    {"root ::= \"\\x41\\u00e4\\U0001F600\\n\\t\\\"\\\\\"", {"A\xc3\xa4\xf0\x9f\x98\x80\n\t\"\\"}, {"A"}, {"a"}},
    {"root ::= \"a\"{3}", {"aaa"}, {"aa"}, {"aaaa"}},
    {"root ::= \"a\"{2,}", {"aa", "aaaaa"}, {"a"}, {"b"}},
    {"root ::= \"a\"{1,3} \"b\"", {"ab", "aab", "aaab"}, {"aaa"}, {"b", "aaaab"}},
    {"root ::= \"a\"{,2}", {"", "a", "aa"}, {0}, {"aaa"}},
    {"root ::= \"a\"{0} \"b\"", {"b"}, {""}, {"a", "ab"}},
    {"root ::= (\"ab\" | \"c\")* \"d\"?", {"", "ab", "cabd", "d"}, {"a", "ca"}, {"da", "b"}},
    {"root ::= (\"a\" (\"b\" | \"c\"\n  \"d\"))+ # comment | \"x\"\n\n", {"ab", "acd", "abacd"}, {"ac"}, {"x", "ad"}},
    {"root ::= a\n  | b # two lines\n  | \"c\"\na ::= \"1\"\nb ::= \"2\"", {"1", "2", "c"}, {0}, {"3"}},
    {"root ::=\n  \"a\" b\r\nb ::= \"b\"", {"ab"}, {"a"}, {"b"}},
    {"root ::= .", {"x", "\n", "\xc3\xa4"}, {"\xc3"}, {"xx", "\xff"}},
    /* recursion in the middle, at the end, through several rules */
    {"root ::= \"(\" root \")\" | \"x\"", {"x", "(x)", "((x))"}, {"((x)"}, {")", "(x))", "()"}},
    {"root ::= \"a\" root | \"b\"", {"b", "aaab"}, {"aa"}, {"ba"}},
    {"root ::= s\ns ::= \"[\" (s (\",\" s)*)? \"]\"", {"[]", "[[],[]]", "[[[]]]"}, {"[", "[[]", "[[],"}, {"]", "[,]", "[]]", "[[],]"}},
    {"root ::= e\ne ::= m (\"+\" m)*\nm ::= f (\"*\" f)*\nf ::= [0-9]+ | \"(\" e \")\"",
     {"1", "1+2*3", "(1+2)*3", "((4))"},
     {"1+", "(1"},
     {"+", "1)", "(1))", "1++2"}},
    /* ambiguous: palindromes of even length, and two ways to read the same */
    {"root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"\"", {"", "aa", "abba", "aabbaa", "aaaa"}, {"a", "ab", "aab", "aba"}, {"c"}},
    {"root ::= (\"a\" | \"a\")* (\"a\" | \"ab\") | x\nx ::= \"aab\" \"c\"", {"a", "ab", "aab", "aabc"}, {""}, {"b", "abc"}},
    /* empty rules before and behind calls */
    {"root ::= n p n \"!\"\nn ::= \"\" | n2\nn2 ::= \" \" | \"\"\np ::= n \"p\" p n | \"q\"",
     {"q!", "pq!", " pq!", "ppq  !", " p pq!"},
     {"p", "q", "pq "},
     {"!", "qp!"}},
    {"root ::= l ws\nl ::= [0-9] (\",\" l)? ws\nws ::= [ ]?", {"1", "1,2", "1,2,3", "1,2,3   ", "1 "}, {"1,"}, {",", "1,,"}},
    /* the same call under different stacks */
    {"root ::= \"<\" w \">\" | \"[\" w \"]\" | \"<\" w \"]\"\nw ::= [a-z]+ (\"-\" [a-z]+)* | long\nlong ::= \"0123456789012345678901234567890\" "
     "long?",
     {"<a>", "[a-b]", "<b]"},
     {"<a", "<a-"},
     {"[a>", "<a-]"}},
    {"root ::= \"a\"? \"b\"* (\"c\" \"d\"?)+", {"c", "abbc", "ccdc", "cd"}, {"a", "b"}, {"d", "ba", "cdd"}},
    {"root ::= <think> \"a\"", {0}, {""}, {"<think>a", "a"}},
};

static void test_examples(void **state) {
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        const example *e = &examples[i];
        token_grammar *g = compile(e->grammar);
        for (int kind = 0; kind < 3; kind++) {
            const char *const *list = kind == 0 ? e->whole : kind == 1 ? e->begun : e->wrong;
            for (size_t k = 0; k < (kind == 1 ? 8 : 10) && list[k]; k++) {
                bool begins, whole;
                must(token_grammar_check(g, list[k], strlen(list[k]), &begins, &whole, &err));
                if (begins != (kind < 2) || whole != (kind == 0)) {
                    fail_msg("%s\n\"%s\": begins %d, whole %d", e->grammar, list[k], begins, whole);
                }
            }
        }
        token_grammar_drop(g);
    }
}

static void test_errors(void **state) {
    static const struct {
        const char *grammar, *says;
        omni_status status;
    } wrong[] = {
        {"", "no rule \"root\"", OMNI_ERR_FORMAT},
        {"rot ::= \"a\"", "no rule \"root\"", OMNI_ERR_FORMAT},
        {"root ::= \"a\n\"", "line 1, column 10: \" is not closed", OMNI_ERR_FORMAT},
        {"root ::= \"a\" b\n", "line 1, column 14: there is no rule \"b\"", OMNI_ERR_FORMAT},
        {"# x\n\xc3\xa4 ::= \"a\"", "line 2, column 1: expected a rule", OMNI_ERR_FORMAT},
        {"root ::= [a-", "line 1, column 10: [ is not closed", OMNI_ERR_FORMAT},
        {"root ::= [z-a]", "line 1, column 11: a range ends", OMNI_ERR_FORMAT},
        {"root ::= (\"a\"", "line 1, column 10: ( is not closed", OMNI_ERR_FORMAT},
        {"root ::= (\"a\" )) ", "line 1, column 16: expected a term", OMNI_ERR_FORMAT},
        {"root ::= \"\xc3\xa4\" * * ) ", "line 1, column 18: expected a term", OMNI_ERR_FORMAT},
        {"root ::= \"a\"{3,2}", "line 1, column 13: a repetition is", OMNI_ERR_FORMAT},
        {"root ::= \"a\"{}", "a repetition is", OMNI_ERR_FORMAT},
        {"root ::= \"a\"{100001}", "100000 times at most", OMNI_ERR_FORMAT},
        {"root ::= \"\\q\"", "line 1, column 11: an unknown escape", OMNI_ERR_FORMAT},
        {"root ::= \"\\ud800\"", "stands for no character", OMNI_ERR_FORMAT},
        {"root ::= \"\\x4\"", "too few hexadecimal digits", OMNI_ERR_FORMAT},
        {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule is defined twice", OMNI_ERR_FORMAT},
        {"root := \"a\"", "line 1, column 6: expected ::=", OMNI_ERR_FORMAT},
        {"root ::= root \"a\" | \"b\"", "line 1, column 1: rule \"root\" can begin with itself", OMNI_ERR_FORMAT},
        {"root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\" | \"z\"", "can begin with itself", OMNI_ERR_FORMAT},
        {"root ::= \"a\" root", "has no end", OMNI_ERR_FORMAT},
        {"root ::= []", "has no end", OMNI_ERR_FORMAT},
        {"root ::= <nothing>", "line 1, column 10: the vocabulary has no such token", OMNI_ERR_FORMAT},
        {"root ::= <|im_end|>", "no such token", OMNI_ERR_FORMAT},
        {"root ::= ((\"a\"{1000}){1000}){1000}", "more than 400000 states", OMNI_ERR_LIMIT},
        {"root ::= \"\xc3\"", "not valid UTF-8", OMNI_ERR_FORMAT},
        {"root ::= \"a\"*****", "more than 4 repetitions", OMNI_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        token_grammar *g = NULL;
        const omni_status status = token_grammar_create(wrong[i].grammar, strlen(wrong[i].grammar), t, trie, &g, &err);
        if (status != wrong[i].status || g || !strstr(err.text, wrong[i].says)) {
            fail_msg("%s\nstatus %d: %s", wrong[i].grammar, status, status == OMNI_OK ? "accepted" : err.text);
        }
    }
}

/* Grammars that ask for very much: told, or done, soon. */
static void test_hostile(void **state) {
    static char text[1 << 20];
    size_t n = (size_t)sprintf(text, "root ::= r0\n");
    for (int i = 0; i < 20000; i++) { /* a long chain of rules */
        n += (size_t)sprintf(text + n, "r%d ::= r%d \"x\"\n", i, i + 1);
    }
    sprintf(text + n, "r20000 ::= \"y\"\n");
    token_grammar *g;
    omni_status status = token_grammar_create(text, strlen(text), t, trie, &g, &err);
    if (status == OMNI_OK) {
        bool begins, whole;
        status = token_grammar_check(g, "y", 1, &begins, &whole, &err);
        assert_true(status == OMNI_ERR_LIMIT || (status == OMNI_OK && begins));
        token_grammar_drop(g);
    }
    memset(text, '(', 100000);
    memcpy(text, "root ::= ", 9);
    assert_int_equal(token_grammar_create(text, 100000, t, trie, &g, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "200 deep"));
    static const char nothing[] = "root ::= (((\"\"{100000}){100000}){100000}){100000} \"a\"";
    assert_int_equal(token_grammar_create(nothing, strlen(nothing), t, trie, &g, &err), OMNI_ERR_LIMIT);
    /* as many stacks as there are texts of the same length: 2^n */
    static const char wide[] = "root ::= b \"1\" | c \"2\" | \"\"\nb ::= \"x\" root \"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"\nc ::= \"x\" root "
                               "\"cccccccccccccccccccccccccccccccccccc\"";
    g = compile(wide);
    bool begins, whole;
    memset(text, 'x', 64);
    assert_int_equal(token_grammar_check(g, text, 64, &begins, &whole, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "ambiguous"));
    must(token_grammar_check(g, text, 3, &begins, &whole, &err)); /* and it is as it was */
    assert_true(begins && !whole);
    token_grammar_drop(g);
}

/* ---- masks ---- */

/* The bytes that a grammar reads for a token; 0: it is in no grammar. */
static size_t token_bytes(int32_t id, char out[600]) {
    size_t size;
    const char *s = tokenizer_piece(t, id, &size);
    const token_kind kind = tokenizer_kind(t, id);
    if (kind == TOKEN_ADDED) {
        grammar_token_bytes(id, (uint8_t *)out);
        return GRAMMAR_TOKEN_BYTES;
    }
    if (kind != TOKEN_NORMAL || size > 512 || memchr(s, GRAMMAR_TOKEN_BYTE, size)) {
        return 0;
    }
    memcpy(out, s, size);
    return size;
}

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

/* Walks a grammar by tokens that its own masks allow, and asks of every token of the vocabulary at every step whether the text with it is right. */
static void check_masks(const char *text_of, int walks, int steps) {
    token_grammar *g = compile(text_of), *plain = compile(text_of);
    const size_t words = (tokenizer_size(t) + 31) / 32;
    uint32_t *bits = malloc(words * sizeof *bits);
    for (int walk = 0; walk < walks; walk++) {
        token_matcher m;
        int32_t answer[64];
        char text[65 * 600];
        size_t size = 0, count = 0;
        token_matcher_init(&m, g, t, false);
        for (; count < (size_t)steps; count++) {
            memset(bits, 0xff, words * sizeof *bits);
            must(token_matcher_allow(&m, answer, count, bits, &err));
            int32_t chosen = -1;
            uint32_t seen = 0;
            bool begins, whole;
            must(token_grammar_check(plain, text, size, &begins, &whole, &err));
            for (int32_t id = 0; id < (int32_t)tokenizer_size(t); id++) {
                const bool allowed = bits[id / 32] >> (id % 32) & 1;
                const size_t more = token_bytes(id, text + size);
                bool right = tokenizer_is_end(t, id) && whole;
                if (more > 0 && !tokenizer_is_end(t, id)) {
                    bool any;
                    must(token_grammar_check(plain, text, size + more, &right, &any, &err));
                }
                if (allowed != right) {
                    size_t n;
                    const char *piece = tokenizer_piece(t, id, &n);
                    fail_msg("%s\nbehind \"%.*s\", token %d \"%.*s\": mask %d, right %d", text_of, (int)size, text, id, (int)n, piece, allowed,
                             right);
                }
                if (allowed && !tokenizer_is_end(t, id) && random_below(++seen) == 0) {
                    chosen = id;
                }
            }
            if (chosen < 0) {
                break;
            }
            answer[count] = chosen;
            size += token_bytes(chosen, text + size);
        }
    }
    free(bits);
    token_grammar_drop(g);
    token_grammar_drop(plain);
}

static const char json[] = "root ::= object\n"
                           "value ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n"
                           "object ::= \"{\" ws (string ws \":\" ws value (\",\" ws string ws \":\" ws value)*)? ws \"}\"\n"
                           "array ::= \"[\" ws (value (\",\" ws value)*)? ws \"]\"\n"
                           "string ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f\\x7f] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" [0-9a-fA-F]{4}))* \"\\\"\"\n"
                           "number ::= \"-\"? (\"0\" | [1-9] [0-9]{0,15}) (\".\" [0-9]+)? ([eE] [-+]? [0-9]+)?\n"
                           "ws ::= [ \\n]{0,2}\n";

static void test_masks(void **state) {
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        check_masks(examples[i].grammar, 2, 8);
    }
    check_masks(json, 12, 40);
    check_masks("root ::= \"\\\"\" [^\"\\\\\\x00-\\x1f\\x7f]{0,20} \"\\\"\"", 8, 30);
    check_masks("root ::= .*", 2, 20);
    check_masks("root ::= [^<]* \"<\" [^\"]{3,} | <think> .{2} </think>", 6, 20);
}

/* The matcher follows an answer token by token, from its beginning, and from another's place. */
static void test_shared(void **state) {
    token_grammar *g = compile("root ::= \"a\" [bc]{2,3} \"d\"");
    const int32_t a = tokenizer_find(t, "a"), b = tokenizer_find(t, "b"), c = tokenizer_find(t, "c"), d = tokenizer_find(t, "d");
    const int32_t one[] = {a, b, c, d}, two[] = {a, c, c, c, d};
    const size_t words = (tokenizer_size(t) + 31) / 32;
    uint32_t *x = malloc(words * sizeof *x), *y = malloc(words * sizeof *y);
    token_matcher m, n, late;
    token_matcher_init(&m, g, t, false);
    token_matcher_init(&n, token_grammar_hold(g), t, false);
    token_matcher_init(&late, g, t, false);
    for (size_t i = 0; i <= 4; i++) {
        memset(x, 0xff, words * sizeof *x);
        memset(y, 0xff, words * sizeof *y);
        must(token_matcher_allow(&m, one, i, x, &err));
        must(token_matcher_allow(&n, two, i, y, &err));
        assert_int_equal(x[d / 32] >> (d % 32) & 1, i == 3);
        assert_int_equal(y[d / 32] >> (d % 32) & 1, i == 3 || i == 4);
        assert_int_equal(x[c / 32] >> (c % 32) & 1, i >= 1 && i <= 3);
    }
    const int32_t end = tokenizer_eos(t);
    assert_true(x[end / 32] >> (end % 32) & 1);
    assert_false(y[end / 32] >> (end % 32) & 1);
    memset(x, 0xff, words * sizeof *x);
    x[c / 32] &= ~(1u << (c % 32)); /* what is not allowed already stays so */
    must(token_matcher_allow(&late, two, 3, x, &err));
    assert_true(x[d / 32] >> (d % 32) & 1);
    assert_false(x[c / 32] >> (c % 32) & 1);
    token_matcher_init(&late, g, t, false);
    const int32_t wrong[] = {a, d};
    assert_int_equal(token_matcher_allow(&late, wrong, 2, x, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "token 2"));
    free(x);
    free(y);
    token_grammar_drop(g);
    token_grammar_drop(g);
}

/* <think> ... </think> is free where the model may reason, and so are the line ends behind it; the answer does not end before the rest. */
static void test_reasoning(void **state) {
    token_grammar *g = compile("root ::= \"ab\"");
    const int32_t a = tokenizer_find(t, "a"), b = tokenizer_find(t, "b"), think = tokenizer_find(t, "<think>"),
                  think_end = tokenizer_find(t, "</think>"), end = tokenizer_eos(t);
    assert_true(think >= 0 && think_end >= 0 && end >= 0);
    int32_t line = -1;
    for (int32_t id = 0; id < (int32_t)tokenizer_size(t); id++) {
        size_t size;
        const char *s = tokenizer_piece(t, id, &size);
        line = size == 1 && *s == '\n' ? id : line;
    }
    const int32_t answer[] = {think, b, line, think_end, line, a, b};
    const size_t words = (tokenizer_size(t) + 31) / 32;
    uint32_t *bits = malloc(words * sizeof *bits);
    token_matcher m;
#define IS_SET(id) (bits[(id) / 32] >> ((id) % 32) & 1)
    for (int may = 0; may < 2; may++) {
        token_matcher_init(&m, g, t, may == 1);
        memset(bits, 0xff, words * sizeof *bits);
        must(token_matcher_allow(&m, answer, 0, bits, &err));
        assert_true(IS_SET(a) && !IS_SET(b) && !IS_SET(end));
        assert_int_equal(IS_SET(think), may);
    }
    for (size_t i = 1; i <= 7; i++) {
        memset(bits, 0xff, words * sizeof *bits);
        must(token_matcher_allow(&m, answer, i, bits, &err));
        const bool free_text = i < 4;
        assert_int_equal(IS_SET(a), free_text || i == 4 || i == 5);
        assert_int_equal(IS_SET(b), free_text || i == 6);
        assert_int_equal(IS_SET(line), free_text || i == 4);
        assert_int_equal(IS_SET(end), i == 7);
    }
    free(bits);
    token_grammar_drop(g);
}

/* Memory that runs out is given back, and the answer goes on. */
static void test_long(void **state) {
    token_grammar *g = compile("root ::= (\"x\" root \"y\" | \"z\") w\nw ::= \"0123456789abcdefghijklmnopqrstuvwxyz\"?");
    enum { DEEP = 20000 };
    char *text = malloc(2 * DEEP + 1);
    bool begins, whole;
    memset(text, 'x', DEEP);
    text[DEEP] = 'z';
    memset(text + DEEP + 1, 'y', DEEP);
    must(token_grammar_check(g, text, 2 * DEEP + 1, &begins, &whole, &err));
    assert_true(begins && whole);
    must(token_grammar_check(g, text, 2 * DEEP, &begins, &whole, &err));
    assert_true(begins && !whole);
    free(text);
    token_grammar_drop(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples), cmocka_unit_test(test_errors),    cmocka_unit_test(test_hostile), cmocka_unit_test(test_masks),
        cmocka_unit_test(test_shared),   cmocka_unit_test(test_reasoning), cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests_name("grammar", tests, set_up, tear_down);
}
