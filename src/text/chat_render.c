/* The layout of a conversation as tokens and media: see chat.h. */
#include <stdlib.h>
#include <string.h>

#include "text/chat.h"
#include "text/text_buffer.h"

/* Text is gathered until a token or medium comes, and then tokenised as one string: pieces and NFC may reach over the seam between
 * a role's newline and the content, or between two parts of it. The first error is kept and ends all further work. */
typedef struct layout {
    const tokenizer *t;
    size_t most; /* tokens; 0: any number */
    chat_prompt *out;
    text_buffer text;
    size_t begin; /* of the segment of tokens being filled */
    omni_status status;
    omni_error *err;
} layout;

/* Tokenising takes time for every byte. Laying out stops at a text that alone has too many tokens, and once there are far too many; a conversation
 * that is a little too long is laid out whole, so that the error can say how long it is. */
static void check_length(layout *l) {
    enum { COUNTED = 1 << 14 }; /* tokens, in some hundredths of a second */
    const size_t least = tokenizer_least(l->t, l->text.size), so_far = l->out->ids.count;
    if (l->status == OMNI_OK && l->most > 0 && (least > l->most || (so_far > COUNTED && so_far / 2 > l->most))) {
        l->status = fail(
            l->err, OMNI_ERR_LIMIT,
            "the conversation needs at least %zu tokens, %zu of them for %zu bytes of text, and the context is %zu: give a larger one (-c) or less "
            "text",
            so_far + least, least, l->text.size, l->most);
    }
}

static void flush_text(layout *l) {
    if (l->status == OMNI_OK && l->text.failed) {
        l->status = fail(l->err, OMNI_ERR_MEMORY, "no memory to lay out the conversation");
    }
    check_length(l);
    if (l->status == OMNI_OK && l->text.size > 0) {
        l->status = tokenizer_encode(l->t, TOKENIZE_PLAIN, l->text.data, l->text.size, &l->out->ids, l->err);
    }
    l->text.size = 0;
}

static void put_id(layout *l, int32_t id) {
    flush_text(l);
    if (l->status == OMNI_OK) {
        l->status = token_list_push(&l->out->ids, id, l->err);
    }
}

static void put_token(layout *l, const char *name) {
    int32_t id = tokenizer_find(l->t, name);
    token_kind kind = tokenizer_kind(l->t, id);
    if (kind != TOKEN_CONTROL && kind != TOKEN_ADDED) {
        l->status = l->status != OMNI_OK
                        ? l->status
                        : fail(l->err, OMNI_ERR_FORMAT, "the model's vocabulary lacks the token %s, which the chat layout needs", name);
        return;
    }
    put_id(l, id);
}

/* Text of which the added tokens are markup: all of them in our own strings, all but control tokens in what a model said. */
static void put_markup(layout *l, const char *s, size_t n, bool ours) {
    size_t done = 0;
    for (size_t i = 0; i < n && l->status == OMNI_OK;) {
        int32_t id = tokenizer_added_at(l->t, s + i, n - i);
        size_t size = 1;
        if (id >= 0) {
            tokenizer_piece(l->t, id, &size);
        }
        if (id >= 0 && (ours || tokenizer_kind(l->t, id) == TOKEN_ADDED)) {
            text_put(&l->text, s + done, i - done);
            put_id(l, id);
            done = i + size;
        }
        i += size;
    }
    text_put(&l->text, s + done, n - done);
}

static void put_ours(layout *l, const char *s) {
    put_markup(l, s, strlen(s), true);
}

static void add_segment(layout *l, chat_segment segment) {
    chat_prompt *p = l->out;
    if (l->status == OMNI_OK && p->count == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 8;
        chat_segment *segments = realloc(p->segments, capacity * sizeof *segments);
        if (!segments) {
            l->status = fail(l->err, OMNI_ERR_MEMORY, "no memory to lay out the conversation");
        } else {
            p->segments = segments;
            p->capacity = capacity;
        }
    }
    if (l->status == OMNI_OK) {
        p->segments[p->count++] = segment;
    }
}

/* Ends the segment of tokens, if it holds any. */
static void end_tokens(layout *l) {
    flush_text(l);
    if (l->status == OMNI_OK && l->out->ids.count > l->begin) {
        add_segment(l, (chat_segment){.kind = CHAT_TEXT, .begin = l->begin, .count = l->out->ids.count - l->begin});
        l->begin = l->out->ids.count;
    }
}

static void put_media(layout *l, const chat_part *part) {
    bool sound = part->kind == CHAT_AUDIO;
    put_token(l, sound ? "<|audio_start|>" : "<|vision_start|>");
    end_tokens(l);
    add_segment(l, (chat_segment){.kind = part->kind, .media = part, .index = l->out->media_count++});
    put_token(l, sound ? "<|audio_end|>" : "<|vision_end|>");
}

static void put_content(layout *l, const chat_message *m) {
    for (size_t i = 0; i < m->part_count; i++) {
        const chat_part *part = &m->parts[i];
        if (part->kind == CHAT_TEXT) {
            text_put(&l->text, part->text, part->size);
        } else {
            put_media(l, part);
        }
    }
}

static void open_turn(layout *l, chat_role role) {
    put_token(l, "<|im_start|>");
    text_puts(&l->text, chat_role_name(role));
}

static void close_turn(layout *l) {
    put_token(l, "<|im_end|>");
    text_puts(&l->text, "\n");
}

/* A stretch of text inside another. */
typedef struct span {
    const char *s;
    size_t n;
} span;

static span trim_newlines(span x, bool front, bool back) {
    while (front && x.n > 0 && x.s[0] == '\n') {
        x.s++;
        x.n--;
    }
    while (back && x.n > 0 && x.s[x.n - 1] == '\n') {
        x.n--;
    }
    return x;
}

/* The first or last place of a tag in x, NULL when there is none. */
static const char *find_tag(span x, const char *tag, bool last) {
    size_t size = strlen(tag);
    const char *found = NULL;
    for (size_t i = 0; i + size <= x.n; i++) {
        if (memcmp(x.s + i, tag, size) == 0) {
            found = x.s + i;
            if (!last) {
                break;
            }
        }
    }
    return found;
}

/* Takes "...<think>REASONING</think>CONTENT" apart as the template does; without </think> all is content. */
static void split_reasoning(span all, span *reasoning, span *content) {
    static const char open_tag[] = "<think>", close_tag[] = "</think>";
    const char *first = find_tag(all, close_tag, false), *last = find_tag(all, close_tag, true);
    *reasoning = (span){all.s, 0};
    *content = all;
    if (!first) {
        return;
    }
    *reasoning = trim_newlines((span){all.s, (size_t)(first - all.s)}, false, true);
    const char *opened = find_tag(*reasoning, open_tag, true);
    if (opened) {
        opened += strlen(open_tag);
        *reasoning = (span){opened, (size_t)(reasoning->s + reasoning->n - opened)};
    }
    last += strlen(close_tag);
    *content = trim_newlines((span){last, (size_t)(all.s + all.n - last)}, true, false);
}

static void put_calls(layout *l, const chat_message *m, bool has_content) {
    for (size_t i = 0; i < m->call_count; i++) {
        if (i > 0 || has_content) {
            text_puts(&l->text, "\n");
        }
        put_ours(l, "<tool_call>\n{\"name\": \"");
        text_puts(&l->text, m->calls[i].name);
        text_puts(&l->text, "\", \"arguments\": ");
        text_puts(&l->text, m->calls[i].arguments);
        put_ours(l, "}\n</tool_call>");
    }
}

/* An answer kept as ids. Its reasoning is left out when old. */
static void put_answer(layout *l, const token_list *answer, bool old) {
    int32_t close = tokenizer_find(l->t, "</think>");
    size_t from = 0;
    for (size_t i = 0; i < answer->count && old; i++) {
        from = answer->ids[i] == close ? i + 1 : from;
    }
    if (from > 0) {
        char *text = NULL;
        size_t size = 0;
        if (l->status == OMNI_OK) {
            l->status = tokenizer_decode(l->t, answer->ids + from, answer->count - from, false, &text, &size, l->err);
        }
        if (l->status == OMNI_OK) {
            span content = trim_newlines((span){text, size}, true, false);
            put_markup(l, content.s, content.n, false);
        }
        free(text);
        return;
    }
    for (size_t i = 0; i < answer->count; i++) {
        put_id(l, answer->ids[i]);
    }
}

/* old: the user has spoken since, so that reasoning is left out. */
static void put_assistant(layout *l, const chat_message *m, bool old) {
    open_turn(l, CHAT_ASSISTANT);
    text_puts(&l->text, "\n");
    text_buffer joined = {0};
    bool media = false;
    for (size_t i = 0; i < m->part_count; i++) {
        media |= m->parts[i].kind != CHAT_TEXT;
        if (m->parts[i].kind == CHAT_TEXT) {
            text_put(&joined, m->parts[i].text, m->parts[i].size);
        }
    }
    if (joined.failed && l->status == OMNI_OK) {
        l->status = fail(l->err, OMNI_ERR_MEMORY, "no memory to lay out the conversation");
    }
    span content = {joined.data ? joined.data : "", joined.data ? joined.size : 0}, reasoning = {"", 0};
    if (m->answer.count > 0) {
        put_answer(l, &m->answer, old);
    } else if (media) {
        put_content(l, m);
        put_calls(l, m, true);
    } else {
        if (m->reasoning) {
            reasoning = (span){m->reasoning, strlen(m->reasoning)};
        } else {
            split_reasoning(content, &reasoning, &content);
        }
        reasoning = trim_newlines(reasoning, true, true);
        if (!old && reasoning.n > 0) {
            put_ours(l, "<think>\n");
            put_markup(l, reasoning.s, reasoning.n, false);
            put_ours(l, "\n</think>\n\n");
            content = trim_newlines(content, true, false);
        }
        put_markup(l, content.s, content.n, false);
        put_calls(l, m, content.n > 0);
    }
    close_turn(l);
    text_buffer_free(&joined);
}

static void put_system(layout *l, const chat *c) {
    bool has_system = c->count > 0 && c->messages[0].role == CHAT_SYSTEM;
    if (!has_system && c->tool_count == 0) {
        return;
    }
    open_turn(l, CHAT_SYSTEM);
    text_puts(&l->text, "\n");
    if (has_system) {
        put_content(l, &c->messages[0]);
    }
    if (c->tool_count > 0) {
        put_ours(l, has_system ? "\n\n" : "");
        put_ours(l, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
        for (size_t i = 0; i < c->tool_count; i++) {
            text_puts(&l->text, "\n");
            text_puts(&l->text, c->tools[i]);
        }
        put_ours(l, "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
                    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>");
    }
    close_turn(l);
}

static bool begins(const chat_part *p, const char *tag) {
    size_t n = strlen(tag);
    return p->kind == CHAT_TEXT && p->size >= n && memcmp(p->text, tag, n) == 0;
}

static bool ends(const chat_part *p, const char *tag) {
    size_t n = strlen(tag);
    return p->kind == CHAT_TEXT && p->size >= n && memcmp(p->text + p->size - n, tag, n) == 0;
}

/* Index of the last message in which the user asks something, as against handing over a tool's answer. */
static size_t last_query(const chat *c) {
    for (size_t i = c->count; i-- > 0;) {
        const chat_message *m = &c->messages[i];
        bool tool_answer = m->part_count > 0 && begins(&m->parts[0], "<tool_response>") && ends(&m->parts[m->part_count - 1], "</tool_response>");
        if (m->role == CHAT_USER && !tool_answer) {
            return i;
        }
    }
    return c->count > 0 ? c->count - 1 : 0;
}

/* Answers of tools stand in a user turn, several in a row in the same one. */
static void put_tool_answer(layout *l, const chat *c, size_t i) {
    if (i == 0 || c->messages[i - 1].role != CHAT_TOOL) {
        open_turn(l, CHAT_USER);
    }
    put_ours(l, "\n<tool_response>\n");
    put_content(l, &c->messages[i]);
    put_ours(l, "\n</tool_response>");
    if (i + 1 == c->count || c->messages[i + 1].role != CHAT_TOOL) {
        close_turn(l);
    }
}

omni_status chat_render(const chat *c, const tokenizer *t, bool ask, size_t most, chat_prompt *out, omni_error *err) {
    layout l = {.t = t, .most = most, .out = out, .err = err};
    put_system(&l, c);
    size_t query = last_query(c);
    for (size_t i = 0; i < c->count && l.status == OMNI_OK; i++) {
        const chat_message *m = &c->messages[i];
        if (m->role == CHAT_ASSISTANT) {
            put_assistant(&l, m, i <= query);
        } else if (m->role == CHAT_TOOL) {
            put_tool_answer(&l, c, i);
        } else if (m->role == CHAT_USER || i > 0) {
            open_turn(&l, m->role);
            text_puts(&l.text, "\n");
            put_content(&l, m);
            close_turn(&l);
        }
    }
    if (ask) {
        open_turn(&l, CHAT_ASSISTANT);
        text_puts(&l.text, "\n");
    }
    end_tokens(&l);
    text_buffer_free(&l.text);
    if (l.status != OMNI_OK) {
        chat_prompt_free(out);
    }
    return l.status;
}

void chat_prompt_free(chat_prompt *p) {
    token_list_free(&p->ids);
    free(p->segments);
    *p = (chat_prompt){0};
}
