#define _GNU_SOURCE
#include "cli/screen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void put(screen *s, const char *text, size_t n) {
    if (s->out_size + n > s->out_room) {
        size_t room = 2 * (s->out_size + n);
        char *larger = realloc(s->out, room);
        if (!larger) {
            return; /* an incomplete picture; the message is not touched */
        }
        s->out = larger;
        s->out_room = room;
    }
    memcpy(s->out + s->out_size, text, n);
    s->out_size += n;
}

static void put_text(screen *s, const char *text) {
    put(s, text, strlen(text));
}

static void flush(screen *s) {
    const char *from = s->out;
    while (s->out_size > 0) {
        ssize_t n = write(s->fd, from, s->out_size);
        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            break; /* the terminal is gone: reading from it says so */
        }
        from += n > 0 ? n : 0;
        s->out_size -= n > 0 ? (size_t)n : 0;
    }
    s->out_size = 0;
}

static void go_to(screen *s, edit_place to) {
    char text[32];
    if (to.row != s->cursor.row) {
        const bool up = to.row < s->cursor.row;
        snprintf(text, sizeof text, "\x1b[%zu%c", up ? s->cursor.row - to.row : to.row - s->cursor.row, up ? 'A' : 'B');
        put_text(s, text);
    }
    put_text(s, "\r");
    if (to.column > 0) {
        snprintf(text, sizeof text, "\x1b[%zuC", to.column);
        put_text(s, text);
    }
    s->cursor = to;
}

static size_t prompt_columns(const screen *s) {
    return strlen(s->prompt);
}

static edit_place where(const screen *s, const edit_text *t, size_t at) {
    return edit_where(t->bytes, t->size, at, prompt_columns(s), s->columns);
}

bool screen_measure(screen *s) {
    struct winsize w = {0};
    ioctl(s->fd, TIOCGWINSZ, &w);
    const size_t columns = w.ws_col >= 4 ? w.ws_col : w.ws_col ? 4 : 80, rows = w.ws_row >= 2 ? w.ws_row : w.ws_row ? 2 : 24;
    if (columns == s->columns && rows == s->rows) {
        return false;
    }
    s->columns = columns;
    s->rows = rows;
    if (s->drawn) {
        const size_t row = where(s, &s->shown, s->shown.cursor).row;
        s->top = 0;
        s->cursor = (edit_place){row < rows ? row : rows - 1, 0};
        go_to(s, (edit_place){0, 0});
        put_text(s, "\x1b[J");
        s->drawn = false;
    }
    return true;
}

/* Draws from byte at on, which stands at the cursor, as far as the terminal goes. */
static void put_from(screen *s, const edit_text *t, size_t at) {
    static const char blanks[] = "        ";
    const size_t bottom = s->top + s->rows;
    edit_place p = s->cursor;
    while (at < t->size) {
        const char *c = t->bytes + at;
        const size_t n = edit_character(c, t->size - at);
        const edit_place before = p;
        const size_t width = edit_step(&p, c, n, s->columns);
        if (p.row >= bottom) {
            p = before;
            break;
        }
        if (*c == '\n') {
            put_text(s, "\r\n");
            put(s, blanks, EDIT_INDENT);
        } else if (*c == '\t') {
            put(s, blanks, width);
        } else if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            put(s, (char[]){'^', (char)(*c ^ 0x40)}, 2);
        } else {
            put(s, c, n);
        }
        at += n;
    }
    if (p.column >= s->columns && at >= t->size && p.row + 1 < bottom) { /* makes the terminal go on in the next row now */
        put_text(s, " \r\x1b[K");
        p = (edit_place){p.row + 1, 0};
    }
    s->cursor = p;
}

/* The byte from which on the two differ, at a character's start in both. */
static size_t common(const edit_text *a, const edit_text *b) {
    size_t n = 0;
    while (n < a->size && n < b->size && a->bytes[n] == b->bytes[n]) {
        n++;
    }
    for (;;) {
        size_t in_a = edit_floor(a->bytes, a->size, n), in_b = edit_floor(b->bytes, b->size, in_a);
        if (in_b == n) {
            return n;
        }
        n = in_b;
    }
}

/* The first character that begins in the row or below. */
static size_t row_start(const screen *s, const edit_text *t, size_t row, edit_place *p) {
    size_t at = 0;
    *p = (edit_place){0, prompt_columns(s)};
    while (at < t->size) {
        const size_t n = edit_character(t->bytes + at, t->size - at);
        edit_place after = *p;
        const size_t width = edit_step(&after, t->bytes + at, n, s->columns);
        if (after.row >= row) {
            if (t->bytes[at] != '\n') {
                *p = (edit_place){after.row, after.column - width};
                return at;
            }
            *p = after;
            return at + n;
        }
        *p = after;
        at += n;
    }
    return at;
}

void screen_draw(screen *s, const edit_text *t) {
    const edit_place cursor = where(s, t, t->cursor), end = where(s, t, t->size);
    size_t top = s->top;
    if (cursor.row < top) {
        top = cursor.row;
    } else if (cursor.row >= top + s->rows) {
        top = cursor.row - s->rows + 1;
    }
    if (top + s->rows > end.row + 1) {
        top = end.row + 1 > s->rows ? end.row + 1 - s->rows : 0;
    }
    const size_t from = common(&s->shown, t);
    const edit_place place = where(s, t, from);
    if (!s->drawn || top != s->top || place.row < top) {
        if (s->drawn) {
            go_to(s, (edit_place){s->top, 0});
        } else {
            put_text(s, "\r");
        }
        put_text(s, "\x1b[J");
        s->top = top;
        edit_place first = {0, prompt_columns(s)};
        size_t at = 0;
        if (top == 0) {
            put_text(s, s->prompt);
        } else {
            at = row_start(s, t, top, &first);
            for (size_t i = 0; i < first.column; i++) {
                put_text(s, " ");
            }
        }
        s->cursor = first;
        s->drawn = true;
        put_from(s, t, at);
    } else if (from < t->size || from < s->shown.size) {
        if (place.row < top + s->rows) {
            if (from < s->shown.size || place.row != s->cursor.row || place.column != s->cursor.column) {
                go_to(s, place);
            }
            if (from < s->shown.size) {
                put_text(s, "\x1b[J");
            }
            put_from(s, t, from);
        }
    }
    if (cursor.row != s->cursor.row || cursor.column != s->cursor.column) {
        go_to(s, cursor);
    }
    s->shown.cursor = 0;
    s->shown.size = 0;
    edit_insert(&s->shown, t->bytes, t->size);
    s->shown.cursor = t->cursor;
    flush(s);
}

void screen_leave(screen *s) {
    if (s->drawn) {
        edit_place end = where(s, &s->shown, s->shown.size);
        if (end.row >= s->top + s->rows) {
            end.row = s->top + s->rows - 1;
        }
        if (end.row != s->cursor.row || end.column != s->cursor.column) {
            go_to(s, end);
        }
        put_text(s, end.column > 0 || end.row == 0 || s->shown.bytes[s->shown.size - 1] == '\n' ? "\r\n" : "\r");
    }
    flush(s);
    screen_forget(s);
}

void screen_forget(screen *s) {
    edit_set(&s->shown, "");
    s->cursor = (edit_place){0, 0};
    s->top = 0;
    s->drawn = false;
}

void screen_clear(screen *s) {
    put_text(s, "\x1b[H\x1b[2J");
    screen_forget(s);
}

void screen_write(screen *s, const char *text) {
    put_text(s, text);
    flush(s);
}

void screen_free(screen *s) {
    edit_free(&s->shown);
    free(s->out);
}
