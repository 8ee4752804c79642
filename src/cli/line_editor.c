#define _GNU_SOURCE
#include "cli/line_editor.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cli/edit_text.h"
#include "cli/history.h"
#include "cli/keys.h"
#include "cli/screen.h"

struct line_editor {
    line_editor_params params;
    key_reader keys;
    screen screen;
    int own_fd; /* opened here for the screen, or -1 */
    bool plain; /* a terminal without ANSI sequences: lines as its driver gives them */
    struct termios cooked;
    edit_text text;
    history history;
    size_t at;     /* the entry shown; history.count: the message being typed, which */
    char *draft;   /* waits here while an entry is shown */
    char *killed;  /* for Ctrl+Y */
    size_t column; /* wanted when moving between rows */
};

/* ---- signals: blocked but while waiting for a key, so that nothing happens in the middle ---- */

static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT};
enum { WATCHED = sizeof watched / sizeof *watched };
static volatile sig_atomic_t signalled, seen[WATCHED];

static void note_signal(int number) {
    for (int i = 0; i < WATCHED; i++) {
        if (watched[i] == number) {
            seen[i] = 1;
        }
    }
    signalled = 1;
}

typedef struct signal_state {
    sigset_t mask;
    struct sigaction actions[WATCHED];
} signal_state;

static void watch_signals(signal_state *former) {
    sigset_t blocked;
    sigemptyset(&blocked);
    for (int i = 0; i < WATCHED; i++) {
        sigaddset(&blocked, watched[i]);
    }
    sigprocmask(SIG_BLOCK, &blocked, &former->mask);
    for (int i = 0; i < WATCHED; i++) {
        struct sigaction act = {.sa_handler = note_signal};
        sigemptyset(&act.sa_mask);
        sigaction(watched[i], NULL, &former->actions[i]);
        if (watched[i] != SIGHUP || former->actions[i].sa_handler != SIG_IGN) { /* nohup */
            sigaction(watched[i], &act, NULL);
        }
    }
}

static void restore_signals(const signal_state *former) {
    for (int i = 0; i < WATCHED; i++) {
        sigaction(watched[i], &former->actions[i], NULL);
    }
    sigprocmask(SIG_SETMASK, &former->mask, NULL);
}

/* ---- the terminal ---- */

static void take_terminal(line_editor *e) {
    struct termios now;
    if (tcgetattr(STDIN_FILENO, &now) == 0 && (now.c_lflag & ICANON)) { /* else taken already: continued without having been stopped */
        e->cooked = now;
    }
    struct termios raw = e->cooked;
    raw.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INLCR | IGNCR | INPCK | ISTRIP | IXON);
    raw.c_oflag &= ~(tcflag_t)OPOST;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    raw.c_cflag = (raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    screen_write(&e->screen, "\x1b[?2004h"); /* pastes come in brackets */
    screen_measure(&e->screen);
}

static void give_terminal_back(line_editor *e) {
    screen_leave(&e->screen);
    screen_write(&e->screen, "\x1b[?2004l");
    tcsetattr(STDIN_FILENO, TCSADRAIN, &e->cooked);
}

/* ---- history ---- */

static edit_place place_of(const line_editor *e, size_t at) {
    return edit_where(e->text.bytes, e->text.size, at, strlen(e->screen.prompt), e->screen.columns);
}

static void show_entry(line_editor *e, size_t at) {
    if (e->at == e->history.count) {
        free(e->draft);
        e->draft = strdup(e->text.bytes);
    }
    e->at = at;
    edit_set(&e->text, at < e->history.count ? e->history.entries[at] : e->draft ? e->draft : "");
    e->column = place_of(e, e->text.cursor).column;
}

/* A row up or down in the text; false when there is none. */
static bool move_row(line_editor *e, bool up, bool go_on) {
    const edit_place now = place_of(e, e->text.cursor);
    const size_t last = place_of(e, e->text.size).row;
    if (up ? now.row == 0 : now.row >= last) {
        return false;
    }
    e->column = go_on ? e->column : now.column;
    const size_t row = up ? now.row - 1 : now.row + 1;
    size_t at = e->text.cursor;
    for (;;) { /* the last character of the row whose column is not over the wanted one */
        const size_t following = up ? edit_previous(&e->text, at) : edit_next(&e->text, at);
        const edit_place p = place_of(e, following);
        if (following == at || (up ? p.row < row : p.row > row)) {
            break;
        }
        at = following;
        if (up ? p.row == row && p.column <= e->column : p.row == row && p.column >= e->column) {
            break;
        }
    }
    e->text.cursor = at;
    return true;
}

/* ---- editing ---- */

static void kill_text(line_editor *e, size_t from, size_t to) {
    if (to > from) {
        free(e->killed);
        e->killed = strndup(e->text.bytes + from, to - from);
        edit_erase(&e->text, from, to);
    }
}

static void transpose(line_editor *e) {
    edit_text *t = &e->text;
    const size_t start = edit_line_start(t, t->cursor), end = edit_line_end(t, t->cursor);
    const size_t middle = t->cursor == end ? edit_previous(t, t->cursor) : t->cursor;
    if (middle <= start || middle >= end) {
        return;
    }
    const size_t from = edit_previous(t, middle), to = edit_next(t, middle);
    char *moved = strndup(t->bytes + from, middle - from);
    if (moved) {
        edit_erase(t, from, middle);
        t->cursor = from + (to - middle);
        edit_insert(t, moved, strlen(moved));
        free(moved);
    }
}

static void insert(line_editor *e, const char *s, size_t n) {
    if (e->text.size + n > PASTE_MOST || !edit_insert(&e->text, s, n)) {
        screen_write(&e->screen, "\a");
        return;
    }
    /* A mark may have joined the character before. */
    if (e->text.cursor < e->text.size) {
        const size_t floor = edit_floor(e->text.bytes, e->text.size, e->text.cursor);
        e->text.cursor = floor == e->text.cursor ? floor : edit_next(&e->text, floor);
    }
}

static void list_completions(line_editor *e, const completions *c) {
    edit_text *t = &e->text;
    const size_t cursor = t->cursor;
    t->cursor = t->size;
    screen_draw(&e->screen, t);
    screen_leave(&e->screen);
    for (size_t i = 0; i < c->count && i < 100; i++) {
        screen_write(&e->screen, c->texts[i]);
        screen_write(&e->screen, i + 1 < c->count && i + 1 < 100 ? "  " : "\r\n");
    }
    t->cursor = cursor;
}

static void complete(line_editor *e) {
    completions c = {0};
    edit_text *t = &e->text;
    if (!e->params.complete || !e->params.complete(t->bytes ? t->bytes : "", t->cursor, &c)) {
        insert(e, "\t", 1);
        return;
    }
    size_t same = c.count > 0 ? strlen(c.texts[0]) : 0;
    for (size_t i = 1; i < c.count; i++) {
        size_t n = 0;
        while (n < same && c.texts[i][n] == c.texts[0][n]) {
            n++;
        }
        same = n;
    }
    same = c.count > 0 ? edit_floor(c.texts[0], strlen(c.texts[0]), same) : 0;
    const size_t typed = t->cursor - c.from;
    if (c.count == 0) {
        screen_write(&e->screen, "\a");
    } else if (same > typed || c.count == 1) {
        edit_erase(t, c.from, t->cursor);
        insert(e, c.texts[0], same);
    } else {
        list_completions(e, &c);
    }
    for (size_t i = 0; i < c.count; i++) {
        free(c.texts[i]);
    }
    free(c.texts);
}

typedef enum step { STEP_ON, STEP_SEND, STEP_END } step;

static step enter(line_editor *e) {
    edit_text *t = &e->text;
    t->cursor = t->size;
    if (t->bytes && e->params.goes_on && e->params.goes_on(t->bytes)) {
        t->size = t->cursor = strlen(t->bytes);
        insert(e, "\n", 1);
        return STEP_ON;
    }
    return STEP_SEND;
}

static void drop(line_editor *e) {
    e->text.cursor = e->text.size;
    screen_draw(&e->screen, &e->text);
    screen_leave(&e->screen);
    edit_set(&e->text, "");
    e->at = e->history.count;
}

static void suspend(line_editor *e) {
    give_terminal_back(e);
    kill(0, SIGTSTP); /* as the terminal's driver does it: the whole group */
    sigset_t continued;
    sigemptyset(&continued);
    sigaddset(&continued, SIGCONT);
    sigtimedwait(&continued, NULL, &(struct timespec){0});
    take_terminal(e);
}

static step control(line_editor *e, char letter) {
    edit_text *t = &e->text;
    switch (letter) {
    case 'A':
        t->cursor = edit_line_start(t, t->cursor);
        break;
    case 'B':
        t->cursor = edit_previous(t, t->cursor);
        break;
    case 'C':
        drop(e);
        break;
    case 'D':
        if (t->size == 0) {
            return STEP_END;
        }
        edit_erase(t, t->cursor, edit_next(t, t->cursor));
        break;
    case 'E':
        t->cursor = edit_line_end(t, t->cursor);
        break;
    case 'F':
        t->cursor = edit_next(t, t->cursor);
        break;
    case 'K':
        kill_text(e, t->cursor, edit_line_end(t, t->cursor));
        break;
    case 'L':
        screen_clear(&e->screen);
        break;
    case 'T':
        transpose(e);
        break;
    case 'U':
        kill_text(e, edit_line_start(t, t->cursor), t->cursor);
        break;
    case 'W': {
        size_t from = t->cursor;
        while (from > 0 && strchr(" \t\n", t->bytes[from - 1])) {
            from--;
        }
        while (from > 0 && !strchr(" \t\n", t->bytes[from - 1])) {
            from--;
        }
        kill_text(e, from, t->cursor);
        break;
    }
    case 'Y':
        if (e->killed) {
            insert(e, e->killed, strlen(e->killed));
        }
        break;
    case 'Z':
        suspend(e);
        break;
    case '\\':
        give_terminal_back(e);
        raise(SIGQUIT);
        take_terminal(e);
        break;
    default:
        break;
    }
    return STEP_ON;
}

static step carry_out(line_editor *e, const key *k, bool again) {
    edit_text *t = &e->text;
    const bool up = k->kind == KEY_UP || (k->kind == KEY_CONTROL && *k->text == 'P');
    if (up || k->kind == KEY_DOWN || (k->kind == KEY_CONTROL && *k->text == 'N')) {
        if (!move_row(e, up, again) && (up ? e->at > 0 : e->at < e->history.count)) {
            show_entry(e, up ? e->at - 1 : e->at + 1);
        }
        return STEP_ON;
    }
    switch (k->kind) {
    case KEY_TEXT:
    case KEY_PASTE:
        insert(e, k->text, k->size);
        break;
    case KEY_PASTE_TOO_LARGE:
        screen_leave(&e->screen);
        screen_write(&e->screen, "what was pasted is larger than 8 MiB, and left out\r\n");
        break;
    case KEY_CONTROL:
        return control(e, *k->text);
    case KEY_ENTER:
        return enter(e);
    case KEY_NEWLINE:
        insert(e, "\n", 1);
        break;
    case KEY_TAB:
        complete(e);
        break;
    case KEY_BACKSPACE:
        edit_erase(t, edit_previous(t, t->cursor), t->cursor);
        break;
    case KEY_DELETE:
        edit_erase(t, t->cursor, edit_next(t, t->cursor));
        break;
    case KEY_LEFT:
        t->cursor = edit_previous(t, t->cursor);
        break;
    case KEY_RIGHT:
        t->cursor = edit_next(t, t->cursor);
        break;
    case KEY_HOME:
        t->cursor = edit_line_start(t, t->cursor);
        break;
    case KEY_END_OF_LINE:
        t->cursor = edit_line_end(t, t->cursor);
        break;
    case KEY_WORD_LEFT:
        t->cursor = edit_word_left(t, t->cursor);
        break;
    case KEY_WORD_RIGHT:
        t->cursor = edit_word_right(t, t->cursor);
        break;
    case KEY_ERASE_WORD_LEFT:
        kill_text(e, edit_word_left(t, t->cursor), t->cursor);
        break;
    case KEY_ERASE_WORD_RIGHT:
        kill_text(e, t->cursor, edit_word_right(t, t->cursor));
        break;
    case KEY_CLOSED:
        return STEP_END;
    default:
        break;
    }
    return STEP_ON;
}

/* Signals that have come. Returns the one that is to end the program, or 0. */
static int take_signals(line_editor *e) {
    int ends = 0;
    signalled = 0;
    for (int i = 0; i < WATCHED; i++) {
        if (!seen[i]) {
            continue;
        }
        seen[i] = 0;
        if (watched[i] == SIGINT) {
            drop(e);
        } else if (watched[i] == SIGWINCH) {
            screen_measure(&e->screen);
        } else if (watched[i] == SIGCONT) {
            take_terminal(e);
            screen_forget(&e->screen);
        } else {
            ends = watched[i];
        }
    }
    return ends;
}

static step edit(line_editor *e, int *ends) {
    step s = STEP_ON;
    bool vertical = false;
    screen_draw(&e->screen, &e->text);
    while (s == STEP_ON) {
        const key k = keys_read(&e->keys, &signalled);
        if (k.kind == KEY_SIGNAL) {
            if ((*ends = take_signals(e)) != 0) {
                return STEP_END;
            }
        } else {
            s = carry_out(e, &k, vertical);
            vertical = k.kind == KEY_UP || k.kind == KEY_DOWN;
        }
        if (s != STEP_ON || !keys_waiting(&e->keys)) {
            screen_draw(&e->screen, &e->text);
        }
    }
    return s;
}

/* Without ANSI sequences: the terminal's driver edits. */
static step read_plain(line_editor *e, int *ends) {
    step s = STEP_ON;
    screen_write(&e->screen, e->screen.prompt);
    while (s == STEP_ON) {
        const key k = keys_read(&e->keys, &signalled);
        if (k.kind == KEY_SIGNAL) {
            const bool dropped = seen[0];
            if ((*ends = take_signals(e)) != 0) {
                return STEP_END;
            }
            if (dropped) {
                screen_write(&e->screen, "\n");
                screen_write(&e->screen, e->screen.prompt);
            }
        } else if (k.kind == KEY_TEXT || k.kind == KEY_PASTE || k.kind == KEY_TAB) {
            insert(e, k.kind == KEY_TAB ? "\t" : k.text, k.kind == KEY_TAB ? 1 : k.size);
        } else if (k.kind == KEY_ENTER) {
            s = enter(e);
        } else if (k.kind == KEY_CLOSED) {
            s = e->text.size > 0 ? STEP_SEND : STEP_END;
        }
    }
    return s;
}

char *line_editor_read(line_editor *e, const char *prompt) {
    signal_state former;
    int ends = 0;
    fflush(stdout);
    edit_set(&e->text, "");
    e->at = e->history.count;
    e->screen.prompt = prompt;
    watch_signals(&former);
    e->keys.unblocked = &former.mask;
    step s;
    if (e->plain) {
        s = read_plain(e, &ends);
    } else {
        take_terminal(e);
        s = edit(e, &ends);
        e->text.cursor = e->text.size;
        screen_draw(&e->screen, &e->text);
        give_terminal_back(e);
    }
    restore_signals(&former);
    if (ends) {
        signal(ends, SIG_DFL);
        raise(ends);
    }
    return s == STEP_SEND ? e->text.bytes : NULL;
}

line_editor *line_editor_create(const line_editor_params *params) {
    line_editor *e = calloc(1, sizeof *e);
    if (!e) {
        return NULL;
    }
    const char *kind = getenv("TERM");
    e->params = *params;
    e->plain = !kind || !*kind || strcmp(kind, "dumb") == 0;
    e->own_fd = -1;
    e->keys.fd = STDIN_FILENO;
    e->screen.fd = isatty(STDOUT_FILENO)   ? STDOUT_FILENO
                   : isatty(STDERR_FILENO) ? STDERR_FILENO
                                           : (e->own_fd = open("/dev/tty", O_WRONLY | O_CLOEXEC));
    if (e->screen.fd < 0) {
        e->screen.fd = STDIN_FILENO; /* terminals are mostly open both ways */
    }
    if (!edit_set(&e->text, "") || !edit_set(&e->screen.shown, "") || tcgetattr(STDIN_FILENO, &e->cooked) != 0) {
        line_editor_destroy(e);
        return NULL;
    }
    history_open(&e->history, params->history);
    return e;
}

void line_editor_remember(line_editor *e, const char *message) {
    history_add(&e->history, message);
}

void line_editor_destroy(line_editor *e) {
    if (!e) {
        return;
    }
    if (e->own_fd >= 0) {
        close(e->own_fd);
    }
    history_free(&e->history);
    keys_free(&e->keys);
    screen_free(&e->screen);
    edit_free(&e->text);
    free(e->draft);
    free(e->killed);
    free(e);
}
