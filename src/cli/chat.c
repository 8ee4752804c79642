#define _GNU_SOURCE
#include "cli/chat.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/line_editor.h"

typedef struct pending {
    omni_part *parts; /* media for the next message; paths are owned */
    size_t count;
} pending;

static void forget(pending *p) {
    for (size_t i = 0; i < p->count; i++) {
        free((char *)p->parts[i].path);
    }
    free(p->parts);
    *p = (pending){0};
}

static bool keep(pending *p, omni_kind kind, const char *path) {
    if (access(path, R_OK) != 0) {
        perror(path);
        return false;
    }
    omni_part *larger = realloc(p->parts, (p->count + 2) * sizeof *larger); /* one more for the text */
    char *copy = strdup(path);
    if (larger) {
        p->parts = larger;
    }
    if (!larger || !copy) {
        free(copy);
        fprintf(stderr, "out of memory\n");
        return false;
    }
    p->parts[p->count++] = (omni_part){.kind = kind, .path = copy};
    return true;
}

/* OUT.wav, OUT-2.wav, OUT-3.wav, ...; the caller frees it. */
static char *sound_name(const char *path, int number) {
    char *name = NULL;
    const char *dot = strrchr(path, '.');
    if (number == 1 || !dot || strcmp(path, "-") == 0) {
        return strdup(path);
    }
    return asprintf(&name, "%.*s-%d%s", (int)(dot - path), path, number, dot) < 0 ? NULL : name;
}

static void trim(char *s) {
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1])) {
        s[--n] = 0;
    }
}

typedef struct state {
    omni_model *model;
    omni_session *session;
    omni_generate_params *params;
    const char *system;
    pending media;
    bool terminal; /* a person types */
} state;

static omni_status add_system(state *st, omni_error *err) {
    if (!st->system) {
        return OMNI_OK;
    }
    omni_part part = {.kind = OMNI_TEXT, .text = st->system};
    return omni_session_add(st->session, &(omni_message){OMNI_SYSTEM, &part, 1}, err);
}

/* Carries out a line that starts with '/'; false for /quit. */
static bool order(state *st, char *line) {
    static const char *const names[] = {"/image", "/audio", "/video", "/voice", "/reset", "/quit", "/help"};
    enum { NAMES = sizeof names / sizeof *names };
    char *argument = line + strcspn(line, " \t");
    if (*argument) {
        *argument++ = 0;
        argument += strspn(argument, " \t");
    }
    trim(argument);
    int which = 0;
    while (which < NAMES && strcmp(line, names[which]) != 0) {
        which++;
    }
    omni_error err = {0};
    if (which < 3) {
        if (!*argument) {
            fprintf(stderr, "%s FILE: which file?\n", line);
        } else if (keep(&st->media, which == 0 ? OMNI_IMAGE : which == 1 ? OMNI_AUDIO : OMNI_VIDEO, argument)) {
            fprintf(stderr, "%s: goes with the next message\n", argument);
        }
    } else if (which == 3) {
        if (omni_model_find_voice(st->model, *argument ? argument : NULL, &st->params->voice, &err) != OMNI_OK) {
            report(&err);
        } else {
            fprintf(stderr, "voice: %s\n", st->params->voice);
        }
    } else if (which == 4) {
        forget(&st->media);
        omni_session_reset(st->session);
        if (add_system(st, &err) != OMNI_OK) {
            report(&err);
        }
        fprintf(stderr, "a new conversation\n");
    } else if (which == 5) {
        return false;
    } else if (which == 6) {
        fprintf(stderr, "/image F, /audio F, /video F: add to the next message (an empty line sends them alone); /voice NAME; /reset: forget the "
                        "conversation; /quit or Ctrl+D: end\n"
                        "Ctrl+C stops an answer, or drops the line being typed.\n");
    } else {
        const char *near = args_nearest(line, names, NAMES);
        fprintf(stderr, "unknown: %s; %s%s\n", line, near ? "did you mean " : "see ", near ? near : "/help");
    }
    return true;
}

/* text may be empty when media are waiting. */
static int say(state *st, answer *a, const char *text) {
    omni_error err = {0};
    omni_part alone, *parts = st->media.parts ? st->media.parts : &alone;
    parts[st->media.count] = (omni_part){.kind = OMNI_TEXT, .text = text};
    omni_status status = omni_session_add(st->session, &(omni_message){OMNI_USER, parts, st->media.count + (*text != 0)}, &err);
    const bool had_media = st->media.count > 0;
    forget(&st->media); /* one that cannot be read must not spoil every message from here on */
    if (status != OMNI_OK) {
        report(&err);
        if (had_media) {
            fprintf(stderr, "the message and its media are left out: try again without the one that is at fault\n");
        }
        return 1;
    }
    if (st->terminal) {
        signal(SIGINT, SIG_IGN); /* for Ctrl+C just as the answer ends: until the next prompt there is nothing to stop */
    }
    int exit_status = answer_run(a, st->session, st->params, NULL, omni_model_sample_rate(st->model));
    if (exit_status == 1 && !a->sound_failed && !a->text_failed) {
        omni_session_take_back(st->session); /* it could not be answered: the next one may */
    }
    return exit_status;
}

int chat(answer *a, omni_model *model, omni_session *session, omni_generate_params *params, const char *system, const omni_part *media,
         size_t media_count) {
    state st = {model, session, params, system, {0}, isatty(STDIN_FILENO) == 1};
    const char *path = a->sound_path;
    int answers = 0, status = 0;
    line_editor *editor = NULL;
    char *plain = NULL;
    size_t plain_size = 0;
    for (size_t i = 0; i < media_count; i++) {
        if (!keep(&st.media, media[i].kind, media[i].path)) {
            forget(&st.media);
            return 1;
        }
    }
    if (st.terminal) {
        fprintf(stderr, "omni %s; /help for commands, Ctrl+D to end\n", omni_version());
        if (!(editor = line_editor_create())) {
            fprintf(stderr, "omni: cannot use the terminal\n");
            forget(&st.media);
            return 1;
        }
    }
    for (;;) {
        char *line = st.terminal ? line_editor_read(editor) : getline(&plain, &plain_size, stdin) < 0 ? NULL : plain;
        if (!line) {
            break;
        }
        trim(line);
        bool go_on = true;
        if (*line || st.media.count > 0) {
            if (st.terminal && *line) {
                line_editor_remember(editor, line);
            }
            if (*line == '/') {
                go_on = order(&st, line);
            } else {
                char *name = path ? sound_name(path, ++answers) : NULL;
                a->sound_path = name;
                int s = say(&st, a, line);
                if (s == 128 + SIGTERM || s == 128 + SIGHUP || a->text_failed) { /* told to end, or nobody reads the answers */
                    status = s;
                    go_on = false;
                } else if (!st.terminal && s != 0 && s != 128 + SIGINT) {
                    status = s;
                }
                free(name);
            }
        }
        if (!go_on) {
            break;
        }
    }
    if (st.terminal) {
        fputc('\n', stderr);
    }
    line_editor_destroy(editor);
    free(plain);
    forget(&st.media);
    a->sound_path = path;
    return status;
}
