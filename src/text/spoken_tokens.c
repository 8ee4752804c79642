#include "text/spoken_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "text/text_buffer.h"

typedef struct spoken_token {
    int32_t id;
    size_t end; /* of its text, counted from the first byte kept */
    bool whole, left_out;
} spoken_token;

struct spoken_tokens {
    const tokenizer *t;
    spoken_token *tokens; /* not taken yet */
    size_t count, room;
    text_buffer text;     /* theirs */
    text_buffer verdicts; /* a byte for each byte of the text that is judged: 1 spoken, 0 not */
    bool speaking;        /* the verdict on the last byte before these */
};

omni_status spoken_create(const tokenizer *t, spoken_tokens **out, omni_error *err) {
    spoken_tokens *s = calloc(1, sizeof *s);
    *out = s;
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the answer");
    }
    s->t = t;
    s->speaking = true;
    return OMNI_OK;
}

void spoken_destroy(spoken_tokens *s) {
    if (s) {
        text_buffer_free(&s->text);
        text_buffer_free(&s->verdicts);
        free(s->tokens);
        free(s);
    }
}

static omni_status add_text(spoken_tokens *s, const char *text, size_t size, omni_error *err) {
    text_put(&s->text, text, size);
    return s->text.failed ? fail(err, OMNI_ERR_MEMORY, "out of memory for the answer") : OMNI_OK;
}

omni_status spoken_add(spoken_tokens *s, int32_t id, const char *text, size_t size, bool whole, omni_error *err) {
    if (s->count == s->room) {
        const size_t room = 2 * s->room + 16;
        spoken_token *larger = realloc(s->tokens, room * sizeof *larger);
        if (!larger) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for the answer");
        }
        s->tokens = larger;
        s->room = room;
    }
    TRY(add_text(s, text, size, err));
    s->tokens[s->count++] = (spoken_token){.id = id, .end = s->text.size, .whole = whole};
    return OMNI_OK;
}

omni_status spoken_add_rest(spoken_tokens *s, const char *text, size_t size, omni_error *err) {
    TRY(add_text(s, text, size, err));
    if (s->count > 0) {
        s->tokens[s->count - 1].end = s->text.size;
        s->tokens[s->count - 1].whole = true;
    }
    return OMNI_OK;
}

void spoken_judge(spoken_tokens *s, size_t size, bool spoken) {
    static const char yes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, no[16] = {0};
    for (size_t n; size > 0; size -= n) {
        n = size < sizeof yes ? size : sizeof yes;
        text_put(&s->verdicts, spoken ? yes : no, n);
    }
}

void spoken_leave_out_last(spoken_tokens *s) {
    if (s->count > 0) {
        s->tokens[s->count - 1].left_out = true;
    }
}

/* Tokens [first, first + n), whose text is [begin, end). */
typedef struct group {
    size_t first, n, begin, end;
} group;

static omni_status take_group(const spoken_tokens *s, const group *g, token_list *out, omni_error *err) {
    const spoken_token *tokens = s->tokens + g->first;
    const size_t size = g->end - g->begin;
    size_t spoken = 0;
    for (size_t i = g->begin; i < g->end; i++) {
        spoken += s->verdicts.data[i] != 0;
    }
    if (size == 0 ? s->speaking : spoken == size) {
        for (size_t i = 0; i < g->n; i++) {
            if (!tokens[i].left_out) {
                TRY(token_list_push(out, tokens[i].id, err));
            }
        }
        return OMNI_OK;
    }
    if (spoken == 0 || tokens[g->n - 1].left_out) {
        return OMNI_OK;
    }
    text_buffer kept = {0};
    for (size_t i = g->begin; i < g->end; i++) {
        if (s->verdicts.data[i]) {
            text_put(&kept, s->text.data + i, 1);
        }
    }
    omni_status status = kept.failed ? fail(err, OMNI_ERR_MEMORY, "out of memory for the answer")
                                     : tokenizer_encode(s->t, TOKENIZE_PLAIN, kept.data, kept.size, out, err);
    text_buffer_free(&kept);
    return status;
}

omni_status spoken_take(spoken_tokens *s, bool last, token_list *out, omni_error *err) {
    if (last && s->verdicts.size < s->text.size) {
        spoken_judge(s, s->text.size - s->verdicts.size, false);
    }
    if (s->verdicts.failed) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the answer");
    }
    group g = {0};
    omni_status status = OMNI_OK;
    while (g.first < s->count && status == OMNI_OK) {
        for (g.n = 1; g.first + g.n < s->count && !s->tokens[g.first + g.n - 1].whole;) {
            g.n++;
        }
        const spoken_token *end = &s->tokens[g.first + g.n - 1];
        if ((!end->whole && !last) || end->end > s->verdicts.size) {
            break;
        }
        g.end = end->end;
        status = take_group(s, &g, out, err);
        s->speaking = g.end > g.begin ? s->verdicts.data[g.end - 1] != 0 : s->speaking;
        g.begin = g.end;
        g.first += g.n;
    }
    text_drop(&s->text, g.begin);
    text_drop(&s->verdicts, g.begin);
    s->count -= g.first;
    if (g.first > 0) {
        memmove(s->tokens, s->tokens + g.first, s->count * sizeof *s->tokens);
    }
    for (size_t i = 0; i < s->count; i++) {
        s->tokens[i].end -= g.begin;
    }
    return status;
}
