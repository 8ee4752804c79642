/* The filter between an answer's tokens and who gets them: what is shown and what is spoken, for tokens cut in every way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/output.h"
#include "gguf/gguf.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static tokenizer *t;
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
    return 0;
}

static int tear_down(void **state) {
    tokenizer_close(t);
    return 0;
}

/* Everything that a reader was given, in order of coming. */
typedef struct reader {
    char text[4096], reasoning[4096], calls[1024];
    int calls_after_false, left; /* left: callbacks before one returns false; -1: none does */
    bool closed;
} reader;

static bool note(reader *r, char *to, const char *s, size_t n) {
    r->calls_after_false += r->closed;
    strncat(to, s, n);
    if (r->left > 0 && --r->left == 0) {
        r->closed = true;
    }
    return !r->closed;
}

static bool on_text(void *arg, const char *s, size_t n) {
    return note(arg, ((reader *)arg)->text, s, n);
}

static bool on_reasoning(void *arg, const char *s, size_t n) {
    return note(arg, ((reader *)arg)->reasoning, s, n);
}

static bool on_tool_call(void *arg, const char *name, const char *arguments) {
    return note(arg, ((reader *)arg)->calls, name, strlen(name));
}

static bool on_audio(void *arg, const float *samples, size_t count) {
    char none[1] = "";
    return note(arg, none, "", 0);
}

static bool on_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    char none[1] = "";
    return note(arg, none, "", 0);
}

static omni_generate_params listening(reader *r) {
    omni_generate_params p = omni_generate_params_default();
    p.on_text = on_text;
    p.on_reasoning = on_reasoning;
    p.on_tool_call = on_tool_call;
    p.on_audio = on_audio;
    p.on_progress = on_progress;
    p.arg = r;
    r->left = -1;
    return p;
}

static const _Atomic bool never;

/* The tokens through the filter; *latest: tokens in hand, at most, before the talker got their group. */
static void run(const omni_generate_params *p, const int32_t *ids, size_t count, bool leave_out_last, token_list *spoken, size_t *latest) {
    receiver to = {.params = p, .cancelled = &never};
    output o;
    must(output_open(&o, t, &to, true, &err));
    *latest = 0;
    for (size_t i = 0; i < count && !o.stopped; i++) {
        must(output_token(&o, ids[i], NULL, &err));
        if (leave_out_last && i + 1 == count) {
            output_leave_out_last(&o);
        }
        if (!o.stopped) {
            must(output_spoken(&o, false, spoken, &err));
            const size_t behind = i + 1 - spoken->count;
            *latest = behind > *latest ? behind : *latest;
        }
    }
    must(output_finish(&o, &err));
    must(output_spoken(&o, true, spoken, &err));
    output_close(&o);
}

static token_list encode(const char *text) {
    token_list ids = {0};
    must(tokenizer_encode(t, TOKENIZE_MARKUP, text, strlen(text), &ids, &err));
    return ids;
}

/* One token a byte: characters in pieces, and every cut between them. */
static token_list encode_bytes(const char *text) {
    token_list ids = {0};
    for (; *text; text++) {
        int32_t id = -1;
        for (int32_t i = 0; id < 0 && i < (int32_t)tokenizer_size(t); i++) {
            size_t n;
            const char *piece = tokenizer_piece(t, i, &n);
            id = n == 1 && *piece == *text && tokenizer_kind(t, i) == TOKEN_NORMAL ? i : -1;
        }
        assert_true(id >= 0);
        must(token_list_push(&ids, id, &err));
    }
    return ids;
}

static void assert_ids(const token_list *a, const token_list *b, size_t count) {
    assert_int_equal(a->count, count);
    if (count > 0) {
        assert_memory_equal(a->ids, b->ids, count * sizeof *a->ids);
    }
}

static const char *const plain[] = {
    "Hello, world. This is one answer\n\nof several lines: 1 < 2, <b>bold</b>, <tool> and <think> later.\n",  "",  "\n",
    "\xF0\x9F\x90\xB1 caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA9 end", "<", "a <tool_call",
};

/* Without anything to withhold the talker gets the very tokens, whole characters at once, and all but the last that was not fed back. */
static void plain_answers_are_spoken_as_they_are(void **state) {
    static const char *const stop[] = {"a string that does not occur", "<tool_calls", "er of several lines", "\xF0\x9F\x90\xB2"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        for (int kind = 0; kind < 8; kind++) {
            token_list ids = kind & 1 ? encode_bytes(plain[i]) : encode(plain[i]), spoken = {0};
            reader r = {0};
            omni_generate_params p = listening(&r);
            p.stop = stop;
            p.stop_count = kind & 2 ? 4 : 0;
            size_t latest;
            run(&p, ids.ids, ids.count, kind & 4, &spoken, &latest);
            assert_string_equal(r.text, plain[i]);
            assert_ids(&spoken, &ids, ids.count - (kind & 4 && ids.count > 0));
            if (!(kind & 3) && i == 0) {
                assert_true(latest <= 2); /* "<" may begin a tag; newlines wait for nothing */
            }
            token_list_free(&ids);
            token_list_free(&spoken);
        }
    }
}

static void what_is_withheld_is_not_spoken(void **state) {
    static const struct {
        const char *text, *stop, *shown, *spoken, *reasoning, *calls;
    } cases[] = {
        {"Say this. STOP and not this", "STOP", "Say this. ", "Say this. ", "", ""},
        {"Say this. STOP and not this", " ST", "Say this.", "Say this.", "", ""},
        {"Say this. STOP and not this", "is. STO", "Say th", "Say th", "", ""},
        {"unbelievable", "liev", "unbe", "unbe", "", ""},
        {"STOP", "STOP", "", "", "", ""},
        {"aaaaab", "aab", "aaa", "aaa", "", ""},
        {"caf\xC3\xA9 \xF0\x9F\x90\xB1\xF0\x9F\x90\xB2!", "\xF0\x9F\x90\xB2", "caf\xC3\xA9 \xF0\x9F\x90\xB1", "caf\xC3\xA9 \xF0\x9F\x90\xB1", "", ""},
        {"STO STOQ STOP", "STOP", "STO STOQ ", "STO STOQ ", "", ""},
        {"<think>\nI wonder\n</think>\n\nYes.", NULL, "Yes.", "Yes.", "I wonder", ""},
        {"<think>a STOP b</think>c", "STOP", "", "", "a ", ""},
        {"Look:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\nDone", NULL, "Look:Done", "Look:\nDone", "", "f"},
        {"Look<tool_call>\n{\"name\": \"f\"", NULL, "Look<tool_call>\n{\"name\": \"f\"", "Look", "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int bytes = 0; bytes < 2; bytes++) {
            token_list ids = bytes ? encode_bytes(cases[i].text) : encode(cases[i].text), spoken = {0};
            reader r = {0};
            omni_generate_params p = listening(&r);
            p.stop = &cases[i].stop;
            p.stop_count = cases[i].stop != NULL;
            size_t latest, size;
            char *heard;
            run(&p, ids.ids, ids.count, false, &spoken, &latest);
            must(tokenizer_decode(t, spoken.ids, spoken.count, true, &heard, &size, &err));
            assert_string_equal(heard, cases[i].spoken);
            assert_string_equal(r.text, cases[i].shown);
            assert_string_equal(r.reasoning, cases[i].reasoning);
            assert_string_equal(r.calls, cases[i].calls);
            free(heard);
            token_list_free(&ids);
            token_list_free(&spoken);
        }
    }
}

/* Whatever callback says no, none is called again: not that one, not another. */
static void no_means_no(void **state) {
    static const char text[] = "<think>a b c</think>Text, and <tool_call>{\"name\": \"f\"}</tool_call> more text.";
    token_list ids = encode(text);
    for (int left = 1; left < 40; left++) {
        reader r = {0};
        omni_generate_params p = listening(&r);
        r.left = left;
        receiver to = {.params = &p, .cancelled = &never};
        output o;
        omni_status status = OMNI_OK;
        must(output_open(&o, t, &to, true, &err));
        for (size_t i = 0; i < ids.count; i++) { /* on and on, as no caller should */
            omni_status now = output_token(&o, ids.ids[i], NULL, &err);
            status = status == OMNI_OK ? now : status;
            receiver_audio(&to, &(float){0}, 1);
            receiver_audio(&to, &(float){0}, 1);
        }
        output_finish(&o, &err);
        assert_true(r.closed);
        assert_int_equal(status, OMNI_CANCELLED);
        assert_int_equal(r.calls_after_false, 0);
        output_close(&o);
    }
    token_list_free(&ids);
}

static void after_a_cancel_nobody_is_called(void **state) {
    _Atomic bool cancelled = false;
    reader r = {0};
    omni_generate_params p = listening(&r);
    receiver to = {.params = &p, .cancelled = &cancelled};
    assert_true(receiver_text(&to, "a", 1));
    atomic_store(&cancelled, true);
    r.closed = true; /* counts every call from here on */
    assert_false(receiver_text(&to, "b", 1));
    assert_false(receiver_reasoning(&to, "b", 1));
    assert_false(receiver_call(&to, "b", "{}"));
    assert_false(receiver_audio(&to, &(float){0}, 1));
    assert_int_equal(r.calls_after_false, 0);
    assert_string_equal(r.text, "a");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_answers_are_spoken_as_they_are),
        cmocka_unit_test(what_is_withheld_is_not_spoken),
        cmocka_unit_test(no_means_no),
        cmocka_unit_test(after_a_cancel_nobody_is_called),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
