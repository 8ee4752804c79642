#define _GNU_SOURCE /* memmem */
#include "text/answer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/json_text.h"
#include "text/text_buffer.h"

/* ---- stop strings ---- */

/* A string being matched as Knuth, Morris and Pratt do. */
typedef struct stop_string {
    char *s;
    size_t size, matched; /* bytes of it that the text so far ends with */
    size_t *fallback;     /* [k]: longest proper prefix that s[0 .. k) ends with */
} stop_string;

struct stop_matcher {
    stop_string *strings;
    size_t count;
    text_buffer text; /* passed on, then held back */
    size_t passed;
    bool stopped;
};

static size_t advance(const stop_string *x, size_t matched, char c) {
    while (matched > 0 && x->s[matched] != c) {
        matched = x->fallback[matched];
    }
    return matched + (x->s[matched] == c);
}

static omni_status add_string(stop_string *x, const char *s, omni_error *err) {
    x->size = strlen(s);
    if (x->size == 0 || !utf8_valid(s, x->size)) {
        return fail(err, OMNI_ERR_ARGUMENT, "a stop string is %s", x->size == 0 ? "empty" : "not valid UTF-8");
    }
    x->s = strdup(s);
    x->fallback = calloc(x->size + 1, sizeof *x->fallback);
    if (!x->s || !x->fallback) {
        return fail(err, OMNI_ERR_MEMORY, "no memory for a stop string");
    }
    for (size_t k = 2; k <= x->size; k++) {
        x->fallback[k] = advance(x, x->fallback[k - 1], s[k - 1]);
    }
    return OMNI_OK;
}

omni_status stop_create(const char *const *strings, size_t count, stop_matcher **out, omni_error *err) {
    stop_matcher *m = calloc(1, sizeof *m);
    *out = NULL;
    if (m) {
        m->strings = calloc(count + 1, sizeof *m->strings);
    }
    if (!m || !m->strings) {
        free(m);
        return fail(err, OMNI_ERR_MEMORY, "no memory for %zu stop strings", count);
    }
    m->count = count;
    for (size_t i = 0; i < count; i++) {
        omni_status status = add_string(&m->strings[i], strings[i], err);
        if (status != OMNI_OK) {
            stop_destroy(m);
            return status;
        }
    }
    *out = m;
    return OMNI_OK;
}

void stop_destroy(stop_matcher *m) {
    if (!m) {
        return;
    }
    for (size_t i = 0; i < m->count; i++) {
        free(m->strings[i].s);
        free(m->strings[i].fallback);
    }
    free(m->strings);
    text_buffer_free(&m->text);
    free(m);
}

bool stop_push(stop_matcher *m, const char *s, size_t size, const char **text, size_t *text_size) {
    *text = "";
    *text_size = 0;
    if (m->stopped) {
        return true;
    }
    text_drop(&m->text, m->passed);
    m->passed = 0;
    size_t before = m->text.size, held = 0;
    text_put(&m->text, s, size);
    if (m->text.failed) {
        *text = NULL;
        return false;
    }
    for (size_t i = 0; i < size && !m->stopped; i++) {
        size_t longest = 0;
        held = 0;
        for (size_t k = 0; k < m->count; k++) {
            stop_string *x = &m->strings[k];
            x->matched = advance(x, x->matched, s[i]);
            held = x->matched > held ? x->matched : held;
            if (x->matched == x->size) {
                longest = x->size > longest ? x->size : longest;
            }
        }
        if (longest > 0) {
            m->stopped = true;
            m->passed = before + i + 1 - longest;
        }
    }
    if (!m->stopped) {
        m->passed = m->text.size - (size > 0 ? held : before);
    }
    *text = m->text.data ? m->text.data : "";
    *text_size = m->passed;
    return m->stopped;
}

void stop_flush(stop_matcher *m, const char **text, size_t *text_size) {
    *text = "";
    *text_size = 0;
    if (!m->stopped && m->text.size > 0) {
        text_drop(&m->text, m->passed);
        m->passed = m->text.size;
        *text = m->text.data;
        *text_size = m->passed;
    }
    m->stopped = true;
}

/* ---- reasoning and tool calls ---- */

typedef enum answer_state { AT_START, IN_REASONING, IN_TEXT, IN_CALL } answer_state;

struct answer_parser {
    answer_events events;
    answer_state state;
    bool skip_newlines; /* the next ones belong to the tag before */
    bool show_newlines; /* but are passed on, as that tag was */
    text_buffer text;   /* not passed on yet */
    size_t judged;      /* bytes of it that on_spoken knows of */
    size_t searched;    /* IN_CALL: no closing tag begins before this place */
};

static const char THINK[] = "<think>", THINK_END[] = "</think>", CALL[] = "<tool_call>", CALL_END[] = "</tool_call>";
enum { MOST_NEWLINES = 64 }; /* held back at the end of a stretch, since the tag that may follow takes them along */

omni_status answer_create(const answer_events *events, bool in_reasoning, answer_parser **out, omni_error *err) {
    answer_parser *p = calloc(1, sizeof *p);
    *out = p;
    if (!p) {
        return fail(err, OMNI_ERR_MEMORY, "no memory for the answer");
    }
    p->events = *events;
    p->state = in_reasoning ? IN_REASONING : AT_START;
    p->skip_newlines = p->state == IN_REASONING;
    p->show_newlines = !events->on_reasoning;
    return OMNI_OK;
}

void answer_destroy(answer_parser *p) {
    if (p) {
        text_buffer_free(&p->text);
        free(p);
    }
}

static bool emit(const answer_parser *p, const char *s, size_t n, bool reasoning) {
    bool (*callback)(void *, const char *, size_t) = reasoning ? p->events.on_reasoning : p->events.on_text;
    return n == 0 || !callback || callback(p->events.arg, s, n);
}

/* The first n bytes of the text that are not judged yet are spoken, or are not. */
static void judge(answer_parser *p, size_t n, bool spoken) {
    if (n > p->judged) {
        if (p->events.on_spoken) {
            p->events.on_spoken(p->events.arg, n - p->judged, spoken);
        }
        p->judged = n;
    }
}

/* Done with n bytes, of which those not judged are not spoken. */
static void drop(answer_parser *p, size_t n) {
    judge(p, n, false);
    text_drop(&p->text, n);
    p->judged -= n;
}

/* Whether the reader of the current state's text gets the tags around it, too. */
static bool is_raw(const answer_parser *p) {
    return p->state == IN_REASONING ? !p->events.on_reasoning : !p->events.on_call;
}

/* Bytes at the end of s that may be the beginning of the tag. */
static size_t partial_tag(const char *s, size_t n, const char *tag) {
    size_t most = strlen(tag) - 1;
    for (size_t k = n < most ? n : most; k > 0; k--) {
        if (memcmp(s + n - k, tag, k) == 0) {
            return k;
        }
    }
    return 0;
}

static size_t less_newlines(const char *s, size_t n) {
    size_t end = n;
    while (end > 0 && s[end - 1] == '\n' && n - end < MOST_NEWLINES) {
        end--;
    }
    return end;
}

/* Decides whether the answer opens with <think>. Returns false while that is open. */
static bool parse_start(answer_parser *p, bool last, bool *go_on) {
    size_t i = 0, size = strlen(THINK);
    while (i < p->text.size && i < MOST_NEWLINES && memchr(" \t\r\n", p->text.data[i], 4)) {
        i++;
    }
    size_t left = p->text.size - i;
    if (i < MOST_NEWLINES && left >= size && memcmp(p->text.data + i, THINK, size) == 0) {
        p->state = IN_REASONING;
        p->skip_newlines = true;
        p->show_newlines = is_raw(p);
        *go_on = !is_raw(p) || emit(p, p->text.data, i + size, false);
        drop(p, i + size);
        return true;
    }
    if (!last && left < size && i < MOST_NEWLINES && memcmp(p->text.data + i, THINK, left) == 0) {
        return false;
    }
    p->state = IN_TEXT;
    return true;
}

/* Passes on text up to the tag that ends the stretch. Returns false when more input is needed; *go_on turns false on a callback's wish. */
static bool parse_stretch(answer_parser *p, bool last, bool *go_on) {
    const char *tag = p->state == IN_REASONING ? THINK_END : p->state == IN_TEXT ? CALL : CALL_END;
    const bool raw = is_raw(p), reasoning = p->state == IN_REASONING && !raw;
    size_t skip = 0;
    while (p->skip_newlines && skip < p->text.size && p->text.data[skip] == '\n') {
        skip++;
    }
    *go_on = !p->show_newlines || emit(p, p->text.data, skip, false);
    drop(p, skip);
    if (p->text.size == 0 || !*go_on) {
        return false;
    }
    p->skip_newlines = false;
    if (raw && p->state == IN_TEXT && !p->events.on_spoken) {
        *go_on = emit(p, p->text.data, p->text.size, false);
        drop(p, p->text.size);
        return false;
    }
    const char *s = p->text.data, *found = memmem(s, p->text.size, tag, strlen(tag));
    if (found) {
        size_t at = (size_t)(found - s);
        judge(p, at, p->state == IN_TEXT);
        *go_on = emit(p, s, raw ? at + strlen(tag) : less_newlines(s, at), reasoning);
        drop(p, at + strlen(tag));
        p->skip_newlines = p->state != IN_TEXT;
        p->show_newlines = raw;
        p->state = p->state == IN_TEXT ? IN_CALL : IN_TEXT;
        p->searched = 0;
        return true;
    }
    size_t keep = last ? 0 : partial_tag(s, p->text.size, tag);
    size_t n = last || raw ? p->text.size - keep : less_newlines(s, p->text.size - keep);
    judge(p, p->text.size - keep, p->state == IN_TEXT); /* newlines before a tag make no sound: no need to wait for it */
    *go_on = emit(p, s, n, reasoning);
    drop(p, n);
    return false;
}

/* The JSON between the tags as an event; false when it is none. */
static bool emit_call(answer_parser *p, const char *s, size_t n, bool *go_on) {
    json_error_t error;
    json_t *call = json_loadb(s, n, 0, &error);
    const char *name = json_string_value(json_object_get(call, "name"));
    const json_t *arguments = json_object_get(call, "arguments");
    char *text = !name ? NULL : json_is_string(arguments) ? strdup(json_string_value(arguments)) : arguments ? json_text(arguments) : strdup("{}");
    if (text) {
        *go_on = p->events.on_call(p->events.arg, name, text);
    }
    free(text);
    json_decref(call);
    return text != NULL;
}

static bool parse_call(answer_parser *p, bool last, bool *go_on) {
    size_t size = strlen(CALL_END);
    const char *s = p->text.data;
    const char *found = p->text.size > p->searched ? memmem(s + p->searched, p->text.size - p->searched, CALL_END, size) : NULL;
    if (!found && !last) {
        judge(p, p->text.size, false); /* whatever comes, the block is not spoken, the closing tag neither */
        p->searched = p->text.size >= size ? p->text.size - size + 1 : 0;
        return false;
    }
    size_t n = found ? (size_t)(found - s) : p->text.size;
    bool is_call = found && emit_call(p, s, n, go_on);
    if (!is_call) {
        *go_on = emit(p, CALL, strlen(CALL), false) && emit(p, s, n + (found ? size : 0), false);
    }
    drop(p, n + (found ? size : 0));
    p->state = IN_TEXT;
    p->skip_newlines = is_call;
    p->show_newlines = false;
    return found != NULL;
}

static omni_status parse(answer_parser *p, bool last, omni_error *err) {
    bool more = p->text.size > 0 || (last && p->state == IN_CALL), go_on = true;
    while (more && go_on) {
        if (p->state == AT_START) {
            more = parse_start(p, last, &go_on);
        } else if (p->state == IN_CALL && !is_raw(p)) {
            more = parse_call(p, last, &go_on);
        } else {
            more = parse_stretch(p, last, &go_on);
        }
    }
    return go_on ? OMNI_OK : fail(err, OMNI_CANCELLED, "stopped by the caller");
}

omni_status answer_push(answer_parser *p, const char *s, size_t size, omni_error *err) {
    text_put(&p->text, s, size);
    if (p->text.failed) {
        return fail(err, OMNI_ERR_MEMORY, "no memory for the answer");
    }
    return size == 0 ? OMNI_OK : parse(p, false, err);
}

omni_status answer_finish(answer_parser *p, omni_error *err) {
    return parse(p, true, err);
}
