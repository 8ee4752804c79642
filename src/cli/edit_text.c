#include "cli/edit_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool edit_insert(edit_text *t, const char *s, size_t n) {
    if (t->size + n + 1 > t->room) {
        size_t room = 2 * (t->size + n + 1);
        char *larger = realloc(t->bytes, room);
        if (!larger) {
            return false;
        }
        t->bytes = larger;
        t->room = room;
    }
    memmove(t->bytes + t->cursor + n, t->bytes + t->cursor, t->size - t->cursor);
    if (n > 0) {
        memcpy(t->bytes + t->cursor, s, n);
    }
    t->size += n;
    t->cursor += n;
    t->bytes[t->size] = 0;
    return true;
}

bool edit_set(edit_text *t, const char *s) {
    t->size = t->cursor = 0;
    return edit_insert(t, s, strlen(s));
}

void edit_erase(edit_text *t, size_t from, size_t to) {
    if (to > from) {
        memmove(t->bytes + from, t->bytes + to, t->size - to + 1);
        t->size -= to - from;
        t->cursor = from;
    }
}

void edit_free(edit_text *t) {
    free(t->bytes);
    *t = (edit_text){0};
}

/* ---- characters ---- */

static size_t code_at(const char *s, size_t n, utf8proc_int32_t *code) {
    utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, code);
    if (length <= 0) {
        *code = 0xFFFD;
        return 1;
    }
    return (size_t)length;
}

size_t edit_character(const char *s, size_t n) {
    utf8proc_int32_t code, following, state = 0;
    size_t size = code_at(s, n, &code);
    while (size < n) {
        size_t length = code_at(s + size, n - size, &following);
        if (utf8proc_grapheme_break_stateful(code, following, &state)) {
            break;
        }
        code = following;
        size += length;
    }
    return size;
}

/* Terminals agree on single code points; of a cluster, they show emoji that are joined, or have a skin colour, as one. */
static size_t cluster_width(const char *s, size_t n) {
    size_t width = 0;
    utf8proc_int32_t code, before = 0;
    for (size_t i = 0; i < n;) {
        i += code_at(s + i, n - i, &code);
        if (before != 0x200D && !(code >= 0x1F3FB && code <= 0x1F3FF && before)) {
            width += (size_t)utf8proc_charwidth(code);
        }
        before = code;
    }
    return width;
}

size_t edit_line_start(const edit_text *t, size_t at) {
    while (at > 0 && t->bytes[at - 1] != '\n') {
        at--;
    }
    return at;
}

size_t edit_line_end(const edit_text *t, size_t at) {
    while (at < t->size && t->bytes[at] != '\n') {
        at++;
    }
    return at;
}

size_t edit_floor(const char *s, size_t size, size_t at) {
    size_t i = at;
    while (i > 0 && s[i - 1] != '\n') { /* characters do not go over the end of a line */
        i--;
    }
    while (i < at) {
        size_t n = edit_character(s + i, size - i);
        if (i + n > at) {
            break;
        }
        i += n;
    }
    return i;
}

size_t edit_previous(const edit_text *t, size_t at) {
    return at == 0 ? 0 : edit_floor(t->bytes, t->size, at - 1);
}

size_t edit_next(const edit_text *t, size_t at) {
    return at < t->size ? at + edit_character(t->bytes + at, t->size - at) : at;
}

/* Letters and digits of any script. */
static bool in_word(const edit_text *t, size_t at) {
    utf8proc_int32_t code;
    code_at(t->bytes + at, t->size - at, &code);
    const utf8proc_category_t c = utf8proc_category(code);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NO) || code == '_';
}

size_t edit_word_left(const edit_text *t, size_t at) {
    size_t before;
    while (at > 0 && !in_word(t, before = edit_previous(t, at))) {
        at = before;
    }
    while (at > 0 && in_word(t, before = edit_previous(t, at))) {
        at = before;
    }
    return at;
}

size_t edit_word_right(const edit_text *t, size_t at) {
    while (at < t->size && !in_word(t, at)) {
        at = edit_next(t, at);
    }
    while (at < t->size && in_word(t, at)) {
        at = edit_next(t, at);
    }
    return at;
}

/* ---- places ---- */

size_t edit_step(edit_place *p, const char *s, size_t n, size_t columns) {
    const unsigned char c = (unsigned char)*s;
    if (c == '\n') {
        *p = (edit_place){p->row + 1, EDIT_INDENT};
        return 0;
    }
    if (c == '\t' && p->column >= columns) {
        *p = (edit_place){p->row + 1, 0};
    }
    size_t width = c == '\t' ? 8 - p->column % 8 : c < 0x20 || c == 0x7F ? 2 : cluster_width(s, n);
    if (c == '\t' && p->column + width > columns) {
        width = columns - p->column;
    }
    if (p->column + width > columns) {
        *p = (edit_place){p->row + 1, 0};
    }
    p->column += width;
    return width;
}

edit_place edit_where(const char *s, size_t size, size_t at, size_t prompt, size_t columns) {
    edit_place p = {prompt / columns, prompt % columns};
    for (size_t i = 0; i < at;) {
        size_t n = edit_character(s + i, size - i);
        edit_step(&p, s + i, n, columns);
        i += n;
    }
    if (at < size && s[at] != '\n') { /* a wide character may not fit any more */
        edit_place after = p;
        size_t width = edit_step(&after, s + at, edit_character(s + at, size - at), columns);
        if (after.row > p.row) {
            return (edit_place){after.row, after.column - width};
        }
    }
    if (p.column >= columns) {
        return at < size && s[at] == '\n' ? (edit_place){p.row, columns - 1} : (edit_place){p.row + 1, 0};
    }
    return p;
}
