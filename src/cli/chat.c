#define _GNU_SOURCE
#include "cli/chat.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat_commands.h"
#include "cli/commands.h"
#include "cli/complete.h"
#include "cli/history.h"
#include "cli/line_editor.h"
#include "cli/message_text.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

/* OUT.wav, OUT-2.wav, OUT-3.wav, ...; the caller frees it. */
static char *sound_name(const char *path, int number) {
    char *name = NULL;
    const char *dot = strrchr(path, '.');
    if (number == 1 || !dot) {
        return strdup(path);
    }
    return asprintf(&name, "%.*s-%d%s", (int)(dot - path), path, number, dot) < 0 ? NULL : name;
}

typedef struct talk {
    chat_state st;
    answer *a;
    const char *sound_path; /* as given; NULL: no sound */
    int answers;
    line_editor *editor; /* NULL: lines come through a pipe */
    char *message;       /* the last one read, owned */
    bool context_shift;
    int64_t least; /* tokens of a conversation without messages */
    bool ends;     /* told to end, or nobody reads the answers */
    int status;
} talk;

/* ---- reading messages ---- */

static void out_of_memory(talk *c) {
    fprintf(stderr, "omni: out of memory\n");
    c->status = 1;
    c->ends = true;
}

/* A line of standard input without its end; NULL at the end. The caller frees it. */
static char *read_plain(void) {
    char *line = NULL;
    size_t room = 0;
    ssize_t n = getline(&line, &room, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n > 0 && line[n - 1] == '\n') {
        line[--n] = 0;
    }
    if (n > 0 && line[n - 1] == '\r') {
        line[--n] = 0;
    }
    return line;
}

static char *read_line(talk *c) {
    if (!c->editor) {
        return read_plain();
    }
    const char *line = line_editor_read(c->editor, "> ");
    return line ? strdup(line) : NULL;
}

/* The next message, of as many lines as it has, into c->message; false at the end of input. */
static bool read_message(talk *c) {
    free(c->message);
    c->message = read_line(c);
    while (c->message && !c->editor && message_goes_on(c->message)) { /* the editor has seen to it */
        char *line = read_line(c), *longer;
        if (!line) {
            break; /* what was said so far; an open block is found to be one below */
        }
        if (asprintf(&longer, "%s\n%s", c->message, line) < 0) {
            longer = NULL;
        }
        free(line);
        free(c->message);
        c->message = longer;
        if (!longer) {
            out_of_memory(c);
        }
    }
    return c->message != NULL;
}

/* ---- answering ---- */

/* An exit status of an answer, or of a message that could not be answered. */
static void note(talk *c, int status) {
    if (status == 128 + SIGTERM || status == 128 + SIGHUP || c->a->text_failed || (c->a->stream && c->a->sound_failed)) {
        c->status = status;
        c->ends = true;
    } else if (!c->st.terminal && status != 0 && status != 128 + SIGINT) {
        c->status = status;
    }
}

static int generate(talk *c) {
    answer *a = c->a;
    char *name = c->sound_path && !a->stream ? sound_name(c->sound_path, ++c->answers) : NULL;
    a->sound_path = a->stream ? c->sound_path : name;
    int status = answer_run(a, c->st.engine, c->st.conversation, c->st.params, NULL, omni_model_sample_rate(c->st.model));
    a->sound_path = NULL;
    free(name);
    return status;
}

static int64_t prompt_tokens(const talk *c) {
    int64_t tokens = 0;
    omni_conversation_prompt_tokens(c->st.conversation, &tokens, NULL);
    return tokens;
}

/* Whether a person wants the oldest messages to go. */
static bool asked(talk *c) {
    const char *reply = c->editor ? line_editor_read(c->editor, "The context is full. Forget the oldest messages? [Y/n] ") : NULL;
    return reply && (!*reply || *reply == 'y' || *reply == 'Y');
}

/* The conversation ends in a new message of `added` tokens. When it does not fit, or with context_shift when it leaves little room for an answer, the
 * oldest exchanges go. What cannot fit at all is left to omni_generate to refuse. False: a person would rather not. */
static bool make_room(talk *c, int64_t added) {
    const int64_t context = omni_engine_context(c->st.engine), quarter = context / 4, most = c->st.params->max_tokens;
    const int64_t room = most > 0 && most < quarter ? most : quarter;
    const int64_t tokens = prompt_tokens(c);
    if (tokens + (c->context_shift ? room : 1) <= context || c->least + added > context || (!c->context_shift && !c->editor)) {
        return true;
    }
    if (!c->context_shift && !asked(c)) {
        return false;
    }
    size_t dropped = 0, count;
    while (prompt_tokens(c) + room > context && (count = omni_conversation_drop_oldest(c->st.conversation)) > 0) {
        dropped += count;
    }
    if (dropped > 0) {
        fprintf(stderr, "the context of %lld tokens is full: the oldest %zu messages are forgotten\n", (long long)context, dropped);
    }
    return true;
}

/* Answers the last message; one that could not be answered is taken back, so that the next one may be. */
static int answer_last(talk *c) {
    int status = generate(c);
    omni_role role;
    if ((status == 1 && !c->a->sound_failed && !c->a->text_failed) ||
        (status > 128 && omni_conversation_last_role(c->st.conversation, &role) && role == OMNI_USER)) {
        omni_conversation_take_back(c->st.conversation);
        fprintf(stderr, "the message is left out\n");
    }
    return status;
}

/* Adds the message with the media that wait for it, and answers it. text may be empty when there are media. */
static int say(talk *c, const char *text) {
    chat_media *media = &c->st.media;
    if (media->failed) {
        print_error("omni: not answered, since not all of its media could be added: %.60s%s\n", text, strlen(text) > 60 ? " ..." : "");
        chat_media_forget(media);
        return 1;
    }
    omni_error err = {0};
    omni_part alone, *parts = media->parts ? media->parts : &alone;
    parts[media->count] = (omni_part){.kind = OMNI_TEXT, .text = text};
    const int64_t before = prompt_tokens(c);
    /* Media are decoded now, which may take long. */
    stop_work_begin(c->st.engine, c->st.conversation);
    omni_status status = omni_conversation_add(c->st.conversation, &(omni_message){OMNI_USER, parts, media->count + (*text != 0)}, &err);
    int number = stop_work_end();
    const bool had_media = media->count > 0;
    chat_media_forget(media); /* one that cannot be read must not spoil every message from here on */
    if (status != OMNI_OK && status != OMNI_CANCELLED) {
        report(&err);
        if (had_media) {
            fprintf(stderr, "the message and its media are left out: try again without the one that is at fault\n");
        }
        return 1;
    }
    if (number) {
        if (status == OMNI_OK) {
            omni_conversation_take_back(c->st.conversation);
        }
        fprintf(stderr, "\nthe message is left out\n");
        return 128 + number;
    }
    if (!make_room(c, prompt_tokens(c) - before)) {
        omni_conversation_take_back(c->st.conversation);
        fprintf(stderr, "the message is left out; /reset begins a new conversation\n");
        return 1;
    }
    return answer_last(c);
}

static void take_message(talk *c) {
    if (message_block_open(c->message)) {
        fprintf(stderr, "omni: not answered: a block begins with \"\"\" and does not end\n");
        note(c, 1);
        return;
    }
    bool block;
    const char *text = message_finish(c->message, &block);
    if (!*text && c->st.media.count == 0) {
        return;
    }
    switch (block ? CHAT_NO_COMMAND : chat_command(&c->st, text)) {
    case CHAT_NO_COMMAND:
        note(c, say(c, text));
        break;
    case CHAT_ANSWER:
        note(c, answer_last(c));
        break;
    case CHAT_FAILED:
        note(c, 1);
        break;
    case CHAT_END:
        c->ends = true;
        break;
    case CHAT_DONE:
        break;
    }
}

static void converse(talk *c) {
    while (!c->ends) {
        if (!read_message(c)) {
            /* Media that no message came for: a person who ends the conversation does not want them answered, a pipe that ends does. */
            if (!c->ends && !c->editor && (c->st.media.count > 0 || c->st.media.failed)) {
                note(c, say(c, ""));
            }
            return;
        }
        message_trim(c->message);
        if (c->editor && *c->message) {
            line_editor_remember(c->editor, c->message);
        }
        take_message(c);
    }
}

int chat(answer *a, omni_model *model, omni_engine *engine, omni_conversation *conversation, omni_generate_params *params, const chat_options *o) {
    talk c = {.st = {model, engine, conversation, params, o->system, {0}, isatty(STDIN_FILENO) == 1},
              .a = a,
              .sound_path = a->sound_path,
              .context_shift = o->context_shift};
    omni_error err = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < o->media_count; i++) {
        ok = chat_media_add(&c.st.media, o->media[i].kind, o->media[i].path);
    }
    if (ok && c.sound_path && strcmp(c.sound_path, "-") == 0) { /* one stream with one header for all answers */
        ok = omni_sound_open(c.sound_path, omni_model_sample_rate(model), &a->stream, &err) == OMNI_OK;
        if (!ok) {
            report(&err);
        }
    }
    struct sigaction former;
    if (c.st.terminal) {
        fprintf(stderr, "omni %s; /help for commands, Ctrl+D to end\n", omni_version());
        char *kept = o->keep_history ? history_default_path() : NULL;
        c.editor = line_editor_create(&(line_editor_params){kept, message_goes_on, complete_command});
        free(kept);
        ok = c.editor != NULL;
        if (!ok) {
            fprintf(stderr, "omni: cannot use the terminal\n");
        }
        /* For Ctrl+C between two things that it stops: until the next prompt there is nothing to stop then. */
        sigaction(SIGINT, &(struct sigaction){.sa_handler = SIG_IGN}, &former);
    }
    c.least = prompt_tokens(&c);
    if (ok) {
        converse(&c);
    }
    if (c.st.terminal) {
        fputc('\n', stderr);
        sigaction(SIGINT, &former, NULL);
    }
    if (a->stream && omni_sound_close(a->stream, &err) != OMNI_OK && c.status == 0) {
        c.status = report(&err);
    }
    a->stream = NULL;
    line_editor_destroy(c.editor);
    free(c.message);
    chat_media_forget(&c.st.media);
    a->sound_path = c.sound_path;
    return ok ? c.status : 1;
}
