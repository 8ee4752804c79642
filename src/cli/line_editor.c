#define _GNU_SOURCE
#include "cli/line_editor.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY = 1000 }; /* lines */

struct line_editor {
    EditLine *edit;
    History *history;
    char *line;
    sigset_t unblocked; /* signals let through while waiting for a key */
};

static volatile sig_atomic_t interrupted;

static void note_interrupt(int number) {
    interrupted = 1;
}

static char *prompt(EditLine *edit) {
    static char text[] = "> ";
    return text;
}

/* For libedit: 1 and the next character; 0 at the end; -1 on Ctrl+C, upon which it gives the line up. SIGINT is blocked elsewhere. */
static int next_character(EditLine *edit, wchar_t *c) {
    line_editor *e;
    el_get(edit, EL_CLIENTDATA, &e);
    mbstate_t state = {0};
    for (;;) {
        struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
        char byte;
        ssize_t n = ppoll(&wait, 1, NULL, &e->unblocked) < 0 ? -1 : read(STDIN_FILENO, &byte, 1);
        if (interrupted || (n < 0 && errno != EINTR)) {
            return -1;
        }
        if (n == 0) {
            return 0;
        }
        size_t used = n < 0 ? (size_t)-2 : mbrtowc(c, &byte, 1, &state);
        if (used == (size_t)-1) {
            *c = 0xFFFD;
        }
        if (used != (size_t)-2) {
            return 1;
        }
    }
}

line_editor *line_editor_create(void) {
    /* libedit thinks in wide characters, and without a locale it drops all but ASCII. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0) {
        setlocale(LC_CTYPE, "C.UTF-8");
    }
    line_editor *e = calloc(1, sizeof *e);
    HistEvent event;
    if (!e || !(e->history = history_init()) || !(e->edit = el_init("omni", stdin, stdout, stderr))) {
        line_editor_destroy(e);
        return NULL;
    }
    history(e->history, &event, H_SETSIZE, HISTORY);
    history(e->history, &event, H_SETUNIQUE, 1);
    el_set(e->edit, EL_CLIENTDATA, e);
    el_set(e->edit, EL_EDITOR, "emacs");
    el_set(e->edit, EL_PROMPT, prompt);
    el_set(e->edit, EL_HIST, history, e->history);
    el_set(e->edit, EL_GETCFN, next_character);
    el_source(e->edit, NULL); /* ~/.editrc */
    return e;
}

char *line_editor_read(line_editor *e) {
    struct sigaction act = {.sa_handler = note_interrupt};
    sigset_t blocked;
    int length = 0;
    const char *line;
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &e->unblocked);
    el_resize(e->edit);
    do {
        if (interrupted) {
            fputc('\n', stderr);
            interrupted = 0;
        }
        line = el_gets(e->edit, &length);
    } while (!line && interrupted);
    sigprocmask(SIG_SETMASK, &e->unblocked, NULL);
    signal(SIGINT, SIG_DFL); /* as it was; answers have a handler of their own */
    free(e->line);
    e->line = line && length > 0 ? strndup(line, strcspn(line, "\n")) : NULL;
    return e->line;
}

void line_editor_remember(line_editor *e, const char *line) {
    HistEvent event;
    history(e->history, &event, H_ENTER, line);
}

void line_editor_destroy(line_editor *e) {
    if (!e) {
        return;
    }
    if (e->edit) {
        el_end(e->edit);
    }
    if (e->history) {
        history_end(e->history);
    }
    free(e->line);
    free(e);
}
