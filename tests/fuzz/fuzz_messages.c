/* Fuzzing conversations: the JSON is read as messages and as tools, what parses is laid out as tokens; and the same bytes are read as an
 * answer in pieces, with stop strings. No text from outside may become a control token. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "check.h"
#include "text/answer.h"
#include "text/chat.h"
#include "text/json_text.h"
#include "text/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tokenizer *open_stored(void) {
    gguf *g = NULL;
    tokenizer *t = NULL;
    check(gguf_open(TEST_DATA "/text/tokenizer.gguf", &g, NULL) == OMNI_OK && tokenizer_open(g, &t, NULL) == OMNI_OK);
    gguf_close(g);
    return t;
}

static void check_layout(const chat *c, const tokenizer *t) {
    chat_prompt p = {0};
    check(chat_render(c, t, true, 0, &p, NULL) == OMNI_OK);
    size_t opened = 0, media = 0, turns = 0;
    int32_t start = tokenizer_find(t, "<|im_start|>");
    for (size_t i = 0; i < p.ids.count; i++) {
        opened += p.ids.ids[i] == start;
    }
    for (size_t i = 0; i < p.count; i++) {
        media += p.segments[i].kind != CHAT_TEXT;
    }
    for (size_t i = 0; i < c->count; i++) {
        turns += c->messages[i].role != CHAT_TOOL || i == 0 || c->messages[i - 1].role != CHAT_TOOL;
    }
    turns += 1 + (c->tool_count > 0 && (c->count == 0 || c->messages[0].role != CHAT_SYSTEM));
    check(opened == turns && media == p.media_count);
    chat_prompt_free(&p);
}

/* What was told so far, as a hash of the order of events and of their bytes however they were cut. */
typedef struct told {
    uint64_t hash;
    int kind; /* of the last event */
} told;

static bool tell(told *t, int kind, const char *s, size_t n) {
    if (t->kind != kind) {
        t->hash = t->hash * 31 + (uint64_t)kind;
        t->kind = kind;
    }
    for (size_t i = 0; i < n; i++) {
        t->hash = (t->hash ^ (uint8_t)s[i]) * 0x100000001B3u;
    }
    return true;
}

static bool on_text(void *arg, const char *s, size_t n) {
    check(n > 0 && s);
    return tell(arg, 1, s, n);
}

static bool on_reasoning(void *arg, const char *s, size_t n) {
    check(n > 0 && s);
    return tell(arg, 2, s, n);
}

static bool on_call(void *arg, const char *name, const char *arguments) {
    check(name && arguments);
    ((told *)arg)->kind = 0; /* one call after another are two events */
    return tell(arg, 3, name, strlen(name)) && tell(arg, 3, arguments, strlen(arguments));
}

static uint64_t read_answer(const char *s, size_t size, size_t step, const answer_events *wanted, bool in_reasoning) {
    told got = {0};
    answer_events events = *wanted;
    events.arg = &got;
    answer_parser *p;
    check(answer_create(&events, in_reasoning, &p, NULL) == OMNI_OK);
    for (size_t i = 0; i < size; i += step) {
        check(answer_push(p, s + i, size - i < step ? size - i : step, NULL) == OMNI_OK);
    }
    check(answer_finish(p, NULL) == OMNI_OK);
    answer_destroy(p);
    return got.hash;
}

/* The same events whatever the pieces. */
static void check_answer(const char *s, size_t size) {
    static const answer_events wanted[] = {
        {.on_text = on_text, .on_reasoning = on_reasoning, .on_call = on_call},
        {.on_text = on_text, .on_reasoning = on_reasoning},
        {.on_text = on_text, .on_call = on_call},
    };
    static const size_t steps[] = {1, 7, 65};
    for (int kind = 0; kind < 4; kind++) {
        const answer_events *e = &wanted[kind % 3];
        uint64_t whole = read_answer(s, size, size + 1, e, kind == 3);
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            check(read_answer(s, size, steps[i], e, kind == 3) == whole);
        }
    }
}

/* What is inserted for a tool is JSON, and the same again when it is read and written. */
static void check_tools(const chat *c) {
    for (size_t i = 0; i < c->tool_count; i++) {
        json_t *tool = json_loads(c->tools[i], JSON_ALLOW_NUL, NULL);
        check(tool != NULL);
        char *again = json_text(tool);
        check(again && strcmp(again, c->tools[i]) == 0);
        free(again);
        json_decref(tool);
    }
}

static size_t shown_before_stop(const char *s, size_t size, size_t step) {
    static const char *const strings[] = {"abab", "ba", "\n\nuser", "aaab"};
    stop_matcher *m;
    const char *text;
    size_t n, shown = 0;
    check(stop_create(strings, 4, &m, NULL) == OMNI_OK);
    for (size_t i = 0; i < size; i += step) {
        stop_push(m, s + i, size - i < step ? size - i : step, &text, &n);
        check(text && memcmp(text, s + shown, n) == 0);
        shown += n;
    }
    stop_flush(m, &text, &n);
    stop_destroy(m);
    return shown + n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tokenizer *stored;
    stored = stored ? stored : open_stored();
    const char *s = (const char *)data;
    const message_limits limits = message_limits_default();
    chat c = {0};
    if (messages_parse(s, size, &limits, &c, NULL, NULL) == OMNI_OK) {
        check_layout(&c, stored);
    }
    if (messages_parse_tools(s, size, &limits, &c, NULL) == OMNI_OK) {
        check_layout(&c, stored);
    }
    check_tools(&c);
    chat_free(&c);
    check_answer(s, size);
    check(shown_before_stop(s, size, size + 1) == shown_before_stop(s, size, 1));
    return 0;
}
