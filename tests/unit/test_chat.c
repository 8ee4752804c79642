/* The layout of conversations against ids of the reference (chat.json, made by tests/reference/make_text_vectors.py), stop strings, and
 * reading answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "text/answer.h"
#include "text/chat.h"
#include "text/messages.h"

#include <cmocka.h> /* last: it has a macro named fail */

static tokenizer *tok;

static int set_up(void **state) {
    gguf *g;
    omni_error err;
    if (gguf_open(TEST_DATA "/text/tokenizer.gguf", &g, &err) != OMNI_OK || tokenizer_open(g, &tok, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    gguf_close(g);
    return 0;
}

static int tear_down(void **state) {
    tokenizer_close(tok);
    return 0;
}

static chat parse(const char *json) {
    chat c = {0};
    omni_error err = {0};
    const message_limits limits = message_limits_default();
    if (messages_parse(json, strlen(json), &limits, &c, NULL, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return c;
}

static chat_prompt render(const chat *c, bool ask) {
    chat_prompt p = {0};
    omni_error err = {0};
    if (chat_render(c, tok, ask, 0, &p, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return p;
}

/* The prompt with one placeholder token for each medium. */
static token_list flatten(const chat_prompt *p) {
    static const char *const pads[] = {NULL, "<|image_pad|>", "<|audio_pad|>", "<|video_pad|>"};
    token_list all = {0};
    for (size_t i = 0; i < p->count; i++) {
        const chat_segment *s = &p->segments[i];
        if (s->kind != CHAT_TEXT) {
            assert_int_equal(s->media->kind, s->kind);
            token_list_push(&all, tokenizer_find(tok, pads[s->kind]), NULL);
            continue;
        }
        assert_true(s->count > 0);
        for (size_t k = 0; k < s->count; k++) {
            token_list_push(&all, p->ids.ids[s->begin + k], NULL);
        }
    }
    return all;
}

static void layouts_equal_the_reference(void **state) {
    json_t *cases = json_load_file(TEST_DATA "/text/chat.json", 0, NULL);
    assert_true(json_array_size(cases) >= 25);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *want = json_object_get(one, "ids");
        char *text = json_dumps(json_object_get(one, "conversation"), 0);
        chat c = parse(text);
        chat_prompt p = render(&c, json_is_true(json_object_get(one, "ask")));
        token_list all = flatten(&p);
        bool equal = all.count == json_array_size(want);
        for (size_t k = 0; k < all.count && equal; k++) {
            equal = all.ids[k] == json_integer_value(json_array_get(want, k));
        }
        if (!equal) {
            char *got;
            size_t size;
            tokenizer_decode(tok, all.ids, all.count, true, &got, &size, NULL);
            fail_msg("case %zu: other ids than the reference's: %s", i, got);
        }
        free(text);
        token_list_free(&all);
        chat_prompt_free(&p);
        chat_free(&c);
    }
    json_decref(cases);
}

static void media_are_numbered_in_order(void **state) {
    chat c = parse("[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"path\":\"a\"},{\"type\":\"audio\",\"path\":\"b\"}]},"
                   "{\"role\":\"user\",\"content\":[{\"type\":\"video\",\"path\":\"c\"},{\"type\":\"image\",\"path\":\"d\"}]}]");
    chat_prompt p = render(&c, false);
    static const chat_kind kinds[] = {CHAT_IMAGE, CHAT_AUDIO, CHAT_VIDEO, CHAT_IMAGE};
    size_t seen = 0;
    for (size_t i = 0; i < p.count; i++) {
        if (p.segments[i].kind != CHAT_TEXT) {
            const char path[2] = {(char)('a' + seen), 0};
            assert_int_equal(p.segments[i].kind, kinds[seen]);
            assert_int_equal(p.segments[i].index, seen);
            assert_string_equal(p.segments[i].media->path, path);
            seen++;
        }
    }
    assert_int_equal(seen, 4);
    assert_int_equal(p.media_count, 4);
    chat_prompt_free(&p);
    chat_free(&c);
}

static char *shown(const chat *c) {
    chat_prompt p = render(c, false);
    token_list all = flatten(&p);
    char *out;
    size_t size;
    assert_int_equal(tokenizer_decode(tok, all.ids, all.count, true, &out, &size, NULL), OMNI_OK);
    token_list_free(&all);
    chat_prompt_free(&p);
    return out;
}

/* An answer kept as ids is laid out as it was given; its reasoning goes once the user has spoken again. */
static void answers_kept_as_ids(void **state) {
    chat c = {0};
    chat_message *m;
    static const char said[] = "<think>\nhm\n</think>\n\nYes";
    assert_int_equal(chat_add_message(&c, CHAT_USER, &m, NULL), OMNI_OK);
    assert_int_equal(chat_add_text(m, "a?", 2, NULL), OMNI_OK);
    assert_int_equal(chat_add_message(&c, CHAT_ASSISTANT, &m, NULL), OMNI_OK);
    assert_int_equal(tokenizer_encode(tok, TOKENIZE_MARKUP, said, strlen(said), &m->answer, NULL), OMNI_OK);
    char *out = shown(&c);
    assert_string_equal(out, "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\n\nYes<|im_end|>\n");
    free(out);
    assert_int_equal(chat_add_message(&c, CHAT_USER, &m, NULL), OMNI_OK);
    assert_int_equal(chat_add_text(m, "b?", 2, NULL), OMNI_OK);
    out = shown(&c);
    assert_string_equal(out, "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nb?<|im_end|>\n");
    free(out);
    chat_truncate(&c, 1);
    out = shown(&c);
    assert_string_equal(out, "<|im_start|>user\na?<|im_end|>\n");
    free(out);
    chat_free(&c);
}

/* ---- stop strings ---- */

typedef struct gathered {
    char text[512];
    size_t size;
} gathered;

static bool gather(void *arg, const char *s, size_t n) {
    gathered *g = arg;
    assert_true(g->size + n < sizeof g->text);
    memcpy(g->text + g->size, s, n);
    g->size += n;
    g->text[g->size] = 0;
    return true;
}

/* Gives text in pieces of step bytes; returns whether it stopped. */
static bool run_stops(const char *const *strings, size_t count, const char *text, size_t step, gathered *out) {
    stop_matcher *m;
    const char *s;
    size_t n, size = strlen(text);
    bool stopped = false;
    *out = (gathered){0};
    assert_int_equal(stop_create(strings, count, &m, NULL), OMNI_OK);
    for (size_t i = 0; i < size; i += step) {
        stopped = stop_push(m, text + i, size - i < step ? size - i : step, &s, &n);
        assert_non_null(s);
        gather(out, s, n);
    }
    stop_flush(m, &s, &n);
    gather(out, s, n);
    stop_destroy(m);
    return stopped;
}

static void stop_strings_end_the_answer(void **state) {
    static const struct {
        const char *strings[3];
        size_t count;
        const char *text, *want;
        bool stopped;
    } cases[] = {
        {{"STOP"}, 1, "one STO two STOP three", "one STO two ", true},
        {{"STOP"}, 1, "one STO two STO", "one STO two STO", false},
        {{"aab"}, 1, "aaaaab", "aaa", true},
        {{"abab!", "ba?"}, 2, "xababa?", "xaba", true},
        {{"b", "abc"}, 2, "abc", "a", true},
        {{"cd", "bcd", "abcx"}, 3, "abcde", "a", true},
        {{"\n\nUser:"}, 1, "hi\n\n\nUser: x", "hi\n", true},
        {{"\xE5\x88\x86"}, 1, "\xE5\x88\x87\xE5\x88\x86x", "\xE5\x88\x87", true},
        {{"x"}, 0, "anything", "anything", false},
        {{"x"}, 1, "", "", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 30; step++) {
            gathered got;
            assert_int_equal(run_stops(cases[i].strings, cases[i].count, cases[i].text, step, &got), cases[i].stopped);
            assert_string_equal(got.text, cases[i].want);
        }
    }
}

static void stop_strings_hold_back_no_more_than_they_must(void **state) {
    static const char *const strings[] = {"END", "\n##"};
    stop_matcher *m;
    const char *s;
    size_t n;
    assert_int_equal(stop_create(strings, 2, &m, NULL), OMNI_OK);
    assert_false(stop_push(m, "abcEN", 5, &s, &n));
    assert_int_equal(n, 3);
    assert_false(stop_push(m, "", 0, &s, &n));
    assert_int_equal(n, 0);
    assert_false(stop_push(m, "E", 1, &s, &n));
    assert_int_equal(n, 2);
    assert_false(stop_push(m, "x\n#", 3, &s, &n));
    assert_int_equal(n, 2);
    assert_memory_equal(s, "Ex", 2);
    assert_true(stop_push(m, "#more", 5, &s, &n));
    assert_int_equal(n, 0);
    assert_true(stop_push(m, "more", 4, &s, &n));
    assert_int_equal(n, 0);
    stop_destroy(m);
    static const char *const empty[] = {""}, *const malformed[] = {"\xFF"};
    assert_int_equal(stop_create(empty, 1, &m, NULL), OMNI_ERR_ARGUMENT);
    assert_int_equal(stop_create(malformed, 1, &m, NULL), OMNI_ERR_ARGUMENT);
}

/* ---- reading answers ---- */

/* Events as text: T(...) R(...) C(name arguments), neighbours of a kind joined. */
typedef struct events {
    gathered log, spoken;
    char last;
    size_t allowed; /* callbacks before one returns false; 0: all */
} events;

static bool log_event(events *e, char kind, const char *s, size_t n) {
    if (e->last != kind) {
        const char open[3] = {kind, '(', 0};
        gather(&e->log, ")", e->last != 0);
        gather(&e->log, open, 2);
    }
    e->last = kind;
    gather(&e->log, s, n);
    return e->allowed == 0 || --e->allowed > 0;
}

static bool on_text(void *arg, const char *s, size_t n) {
    return log_event(arg, 'T', s, n);
}

static bool on_reasoning(void *arg, const char *s, size_t n) {
    return log_event(arg, 'R', s, n);
}

static bool on_call(void *arg, const char *name, const char *arguments) {
    events *e = arg;
    char text[256];
    snprintf(text, sizeof text, "%s %s", name, arguments);
    bool go_on = log_event(e, 'C', text, strlen(text));
    gather(&e->log, ")", 1);
    e->last = 0;
    return go_on;
}

static const answer_events handlers = {.on_text = on_text, .on_reasoning = on_reasoning, .on_call = on_call};

static void run_answer(const char *text, size_t step, bool in_reasoning, events *e) {
    answer_events with = handlers;
    answer_parser *p;
    size_t size = strlen(text);
    *e = (events){0};
    with.arg = e;
    assert_int_equal(answer_create(&with, in_reasoning, &p, NULL), OMNI_OK);
    for (size_t i = 0; i < size; i += step) {
        assert_int_equal(answer_push(p, text + i, size - i < step ? size - i : step, NULL), OMNI_OK);
    }
    assert_int_equal(answer_finish(p, NULL), OMNI_OK);
    answer_destroy(p);
    gather(&e->log, ")", e->last != 0);
}

static void answers_are_taken_apart(void **state) {
    static const struct {
        const char *text, *want;
        bool in_reasoning;
    } cases[] = {
        {"Hello", "T(Hello)", false},
        {"", "", false},
        {"  \n plain", "T(  \n plain)", false},
        {"<think>\nhm <b>\n</think>\n\nYes\n", "R(hm <b>)T(Yes\n)", false},
        {"\n<think>a</think>b", "R(a)T(b)", false},
        {"a\n\n</think>\n\nb", "R(a)T(b)", true},
        {"<think>never closed", "R(never closed)", false},
        {"<thin", "T(<thin)", false},
        {"x <think>y</think>", "T(x <think>y</think>)", false},
        {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, \"\\u00e9\"]}}\n</tool_call>", "C(f {\"a\": [1, 2.5, \"\xC3\xA9\"]})",
         false},
        {"Look:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\"}\n</tool_call>\nend",
         "T(Look:)C(f {})C(g {})T(end)", false},
        {"<think>t</think>\n\n<tool_call>{\"name\": \"f\", \"arguments\": \"{}\"}</tool_call>", "R(t)C(f {})", false},
        {"<tool_call>\nnot json\n</tool_call>!", "T(<tool_call>\nnot json\n</tool_call>!)", false},
        {"<tool_call>{\"name\": 1}</tool_call>", "T(<tool_call>{\"name\": 1}</tool_call>)", false},
        {"a<tool_call>{\"name\": \"f\"", "T(a<tool_call>{\"name\": \"f\")", false},
        {"a <tool_cal", "T(a <tool_cal)", false},
        {"1 < 2 <\n\n tool", "T(1 < 2 <\n\n tool)", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 80; step++) {
            events e;
            run_answer(cases[i].text, step, cases[i].in_reasoning, &e);
            assert_string_equal(e.log.text, cases[i].want);
        }
    }
}

static void what_nobody_asks_for_is_text(void **state) {
    static const char text[] = "<think>\na\n</think>\n\nb\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>";
    static const struct {
        bool reasoning, calls;
        const char *want;
    } cases[] = {
        {false, false, "T(<think>\na\n</think>\n\nb\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>)"},
        {true, false, "R(a)T(b\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>)"},
        {false, true, "T(<think>\na\n</think>\n\nb)C(f {})"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < sizeof text; step++) {
            events e = {0};
            answer_events with = {
                .on_text = on_text, .on_reasoning = cases[i].reasoning ? on_reasoning : NULL, .on_call = cases[i].calls ? on_call : NULL, .arg = &e};
            answer_parser *p;
            assert_int_equal(answer_create(&with, false, &p, NULL), OMNI_OK);
            for (size_t k = 0; k < strlen(text); k += step) {
                size_t left = strlen(text) - k;
                assert_int_equal(answer_push(p, text + k, left < step ? left : step, NULL), OMNI_OK);
            }
            assert_int_equal(answer_finish(p, NULL), OMNI_OK);
            answer_destroy(p);
            gather(&e.log, ")", e.last != 0);
            assert_string_equal(e.log.text, cases[i].want);
        }
    }
}

static void on_spoken(void *arg, size_t size, bool spoken) {
    events *e = arg;
    while (size-- > 0) {
        gather(&e->spoken, spoken ? "1" : "0", 1);
    }
}

/* The talker's share does not depend on who reads; that somebody speaks changes nothing for the reader. */
static void what_is_spoken(void **state) {
    static const struct {
        const char *text, *want; /* spoken */
    } cases[] = {
        {"Hello", "Hello"},
        {"", ""},
        {"  \n plain\n\n", "  \n plain\n\n"},
        {"<think>\nhm <b>\n</think>\n\nYes\n", "Yes\n"},
        {"\n<think>a</think>b", "b"},
        {"<think>never closed", ""},
        {"<thin", "<thin"},
        {"x <think>y</think>", "x <think>y</think>"},
        {"Look:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\"}\n</tool_call>\nend", "Look:\nend"},
        {"<think>t</think>\n\n<tool_call>{\"name\": \"f\", \"arguments\": \"{}\"}</tool_call>", ""},
        {"1<tool_call>\nnot json\n</tool_call>!", "1!"},
        {"a<tool_call>{\"name\": \"f\"", "a"},
        {"a <tool_cal", "a <tool_cal"},
        {"1 < 2 <\n\n tool", "1 < 2 <\n\n tool"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t size = strlen(cases[i].text);
        for (size_t step = 1; step < size + 2; step++) {
            for (int kind = 0; kind < 4; kind++) {
                events e[2] = {0};
                for (int speak = 0; speak < 2; speak++) {
                    answer_events with = {.on_text = on_text,
                                          .on_reasoning = kind & 1 ? on_reasoning : NULL,
                                          .on_call = kind & 2 ? on_call : NULL,
                                          .arg = &e[speak],
                                          .on_spoken = speak ? on_spoken : NULL};
                    answer_parser *p;
                    assert_int_equal(answer_create(&with, false, &p, NULL), OMNI_OK);
                    for (size_t k = 0; k < size; k += step) {
                        assert_int_equal(answer_push(p, cases[i].text + k, size - k < step ? size - k : step, NULL), OMNI_OK);
                    }
                    assert_int_equal(answer_finish(p, NULL), OMNI_OK);
                    answer_destroy(p);
                }
                assert_int_equal(e[0].log.size, e[1].log.size);
                assert_memory_equal(e[0].log.text, e[1].log.text, e[0].log.size);
                char spoken[256] = "";
                assert_int_equal(e[1].spoken.size, size);
                for (size_t k = 0, n = 0; k < size; k++) {
                    if (e[1].spoken.text[k] == '1') {
                        spoken[n++] = cases[i].text[k];
                    }
                }
                assert_string_equal(spoken, cases[i].want);
            }
        }
    }
}

/* Up to 63 blanks may stand before <think>; however the text arrives, the answer is read the same. */
static void blanks_before_thinking(void **state) {
    char text[100];
    for (size_t blanks = 0; blanks < 80; blanks++) {
        memset(text, "\n \t\r"[blanks % 4], blanks);
        strcpy(text + blanks, "<think>a</think>b");
        for (size_t step = 1; step <= strlen(text); step++) {
            events e;
            run_answer(text, step, false, &e);
            if (blanks < 64) {
                assert_string_equal(e.log.text, "R(a)T(b)");
            } else {
                assert_int_equal(e.log.text[0], 'T');
                assert_non_null(strstr(e.log.text, "<think>a</think>b)"));
            }
        }
    }
}

static void a_zero_byte_is_no_blank(void **state) {
    static const char text[] = "\0<think>a";
    events e = {0};
    answer_events with = handlers;
    answer_parser *p;
    with.arg = &e;
    assert_int_equal(answer_create(&with, false, &p, NULL), OMNI_OK);
    assert_int_equal(answer_push(p, text, sizeof text - 1, NULL), OMNI_OK);
    assert_int_equal(answer_finish(p, NULL), OMNI_OK);
    answer_destroy(p);
    assert_int_equal(e.last, 'T');
}

static void answers_stop_when_told(void **state) {
    events e = {.allowed = 2};
    answer_events with = handlers;
    answer_parser *p;
    with.arg = &e;
    assert_int_equal(answer_create(&with, false, &p, NULL), OMNI_OK);
    assert_int_equal(answer_push(p, "one ", 4, NULL), OMNI_OK);
    assert_int_equal(answer_push(p, "two ", 4, NULL), OMNI_CANCELLED);
    answer_destroy(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_equal_the_reference),
        cmocka_unit_test(media_are_numbered_in_order),
        cmocka_unit_test(answers_kept_as_ids),
        cmocka_unit_test(stop_strings_end_the_answer),
        cmocka_unit_test(stop_strings_hold_back_no_more_than_they_must),
        cmocka_unit_test(answers_are_taken_apart),
        cmocka_unit_test(what_nobody_asks_for_is_text),
        cmocka_unit_test(what_is_spoken),
        cmocka_unit_test(blanks_before_thinking),
        cmocka_unit_test(a_zero_byte_is_no_blank),
        cmocka_unit_test(answers_stop_when_told),
    };
    return cmocka_run_group_tests_name("chat", tests, set_up, tear_down);
}
