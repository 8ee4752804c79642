#define _GNU_SOURCE
#include "cli/chat_commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/path_words.h"
#include "cli/terminal_text.h"

void chat_media_forget(chat_media *m) {
    for (size_t i = 0; i < m->count; i++) {
        free((char *)m->parts[i].path);
    }
    free(m->parts);
    *m = (chat_media){0};
}

bool chat_media_add(chat_media *m, omni_kind kind, const char *path) {
    omni_part *larger = realloc(m->parts, (m->count + 2) * sizeof *larger);
    char *copy = strdup(path);
    if (larger) {
        m->parts = larger;
    }
    if (!larger || !copy) {
        free(copy);
        fprintf(stderr, "omni: out of memory\n");
        return false;
    }
    m->parts[m->count++] = (omni_part){.kind = kind, .path = copy};
    return true;
}

typedef enum argument_kind { NO_ARGUMENT, MAY_HAVE_ARGUMENT, NEEDS_FILE } argument_kind;

typedef struct chat_command_entry {
    const char *name, *metavar, *help; /* help NULL: another name of the one before */
    argument_kind argument;
    chat_outcome (*run)(chat_state *st, const char *argument);
} chat_command_entry;

static chat_outcome add_files(chat_state *st, omni_kind kind, const char *text) {
    path_words words;
    const char *fault = path_words_split(text, &words);
    if (fault) {
        print_error("omni: %s: %s\n", text, fault);
    } else if (words.count == 0) {
        fprintf(stderr, "omni: which file?\n");
    }
    bool ok = !fault && words.count > 0;
    for (size_t i = 0; ok && i < words.count; i++) {
        if (input_is_standard(words.paths[i])) { /* it would read the lines of the conversation */
            print_error("omni: %s: the conversation reads standard input, which cannot be a file too\n", words.paths[i]);
            ok = false;
        } else if (access(words.paths[i], R_OK) != 0) {
            print_error("omni: %s: %s\n", words.paths[i], strerror(errno));
            ok = false;
        }
    }
    for (size_t i = 0; ok && i < words.count; i++) {
        ok = chat_media_add(&st->media, kind, words.paths[i]);
        if (ok) {
            print_error("%s: goes with the next message\n", words.paths[i]);
        }
    }
    path_words_free(&words);
    /* A person reads the error and tries again. Whoever wrote a pipe's lines ahead meant the next message to be about the file. */
    st->media.failed = st->media.failed || (!ok && !st->terminal);
    return ok ? CHAT_DONE : CHAT_FAILED;
}

static chat_outcome add_image(chat_state *st, const char *text) {
    return add_files(st, OMNI_IMAGE, text);
}

static chat_outcome add_audio(chat_state *st, const char *text) {
    return add_files(st, OMNI_AUDIO, text);
}

static chat_outcome add_video(chat_state *st, const char *text) {
    return add_files(st, OMNI_VIDEO, text);
}

static chat_outcome set_voice(chat_state *st, const char *name) {
    omni_error err = {0};
    if (omni_model_find_voice(st->model, *name ? name : NULL, &st->params->voice, &err) != OMNI_OK) {
        report(&err);
        return CHAT_FAILED;
    }
    print_error("voice: %s\n", st->params->voice);
    return CHAT_DONE;
}

/* Takes the last answer back, with the tool calls and results that led to it; true when a user message is left to be answered. */
static bool take_answer_back(chat_state *st) {
    omni_role role;
    while (omni_conversation_last_role(st->conversation, &role) && (role == OMNI_ASSISTANT || role == OMNI_TOOL)) {
        omni_conversation_take_back(st->conversation);
    }
    return omni_conversation_last_role(st->conversation, &role) && role == OMNI_USER;
}

static chat_outcome regenerate(chat_state *st, const char *none) {
    if (!take_answer_back(st)) {
        fprintf(stderr, "omni: there is no message to answer again\n");
        return CHAT_FAILED;
    }
    st->params->seed++; /* the same one would say the same */
    return CHAT_ANSWER;
}

static chat_outcome undo(chat_state *st, const char *none) {
    if (!take_answer_back(st)) {
        fprintf(stderr, "omni: there is no message to take back\n");
        return CHAT_FAILED;
    }
    omni_conversation_take_back(st->conversation);
    fprintf(stderr, "the last message and its answer are forgotten\n");
    return CHAT_DONE;
}

static chat_outcome reset(chat_state *st, const char *none) {
    omni_error err = {0};
    chat_media_forget(&st->media);
    omni_conversation_reset(st->conversation);
    omni_engine_forget(st->engine);
    if (st->system) {
        omni_part part = {.kind = OMNI_TEXT, .text = st->system};
        if (omni_conversation_add(st->conversation, &(omni_message){OMNI_SYSTEM, &part, 1}, &err) != OMNI_OK) {
            report(&err);
            return CHAT_FAILED;
        }
    }
    fprintf(stderr, "a new conversation\n");
    return CHAT_DONE;
}

static chat_outcome end(chat_state *st, const char *none) {
    return CHAT_END;
}

static chat_outcome help(chat_state *st, const char *none);

static const chat_command_entry entries[] = {
    {"/image", "FILE ...", "add pictures to the next message (an empty line sends them alone)", NEEDS_FILE, add_image},
    {"/audio", "FILE ...", "add sounds", NEEDS_FILE, add_audio},
    {"/video", "FILE ...", "add videos", NEEDS_FILE, add_video},
    {"/voice", "[NAME]", "speak with this voice; without a name, with the default one", MAY_HAVE_ARGUMENT, set_voice},
    {"/regen", "", "answer the last message again", NO_ARGUMENT, regenerate},
    {"/undo", "", "forget the last message and its answer", NO_ARGUMENT, undo},
    {"/reset", "", "forget the conversation", NO_ARGUMENT, reset},
    {"/clear", "", NULL, NO_ARGUMENT, reset},
    {"/help", "", "this list", NO_ARGUMENT, help},
    {"/?", "", NULL, NO_ARGUMENT, help},
    {"/quit", "", "end (or Ctrl+D)", NO_ARGUMENT, end},
    {"/exit", "", NULL, NO_ARGUMENT, end},
    {"/bye", "", NULL, NO_ARGUMENT, end},
};

enum { ENTRIES = sizeof entries / sizeof *entries };

const char *chat_command_name(size_t i) {
    return i < ENTRIES ? entries[i].name : NULL;
}

bool chat_command_takes_file(size_t i) {
    return i < ENTRIES && entries[i].argument == NEEDS_FILE;
}

static chat_outcome help(chat_state *st, const char *none) {
    for (size_t i = 0; i < ENTRIES;) {
        char names[64];
        int used = snprintf(names, sizeof names, "%s", entries[i].name);
        size_t next = i + 1;
        for (; next < ENTRIES && !entries[next].help; next++) {
            used += snprintf(names + used, sizeof names - (size_t)used, ", %s", entries[next].name);
        }
        fprintf(stderr, "  %-9s%s%s%*s%s\n", names, *entries[i].metavar ? " " : "", entries[i].metavar,
                (int)(used < 9 ? 14 : 23 - used) - (int)strlen(entries[i].metavar) - (*entries[i].metavar != 0), "", entries[i].help);
        i = next;
    }
    fprintf(stderr,
            "A file's name may be quoted, or dropped on the terminal. A command without an argument stands alone on its line; a line that begins\n"
            "with anything else is text. A \\ at a line's end goes on with the next line, and \"\"\" begins a block that \"\"\" ends.\n"
            "Ctrl+C stops an answer, or drops the line being typed.\n");
    return CHAT_DONE;
}

static void hint(const char *word) {
    const char *names[ENTRIES];
    for (size_t i = 0; i < ENTRIES; i++) {
        names[i] = entries[i].name;
    }
    print_error("unknown: %s; did you mean %s? (to send it as text, begin with a space)\n", word, args_nearest(word, names, ENTRIES));
}

/* On a terminal: one word of letters behind the slash (no path) that is nearly a command. */
static bool is_near_miss(const chat_state *st, const char *word) {
    const char *names[ENTRIES];
    for (size_t i = 0; i < ENTRIES; i++) {
        names[i] = entries[i].name;
    }
    return st->terminal && word[1 + strspn(word + 1, "abcdefghijklmnopqrstuvwxyz")] == 0 && args_nearest(word, names, ENTRIES);
}

chat_outcome chat_command(chat_state *st, const char *line) {
    char word[16];
    const size_t size = strcspn(line, " \t\r\n");
    const char *argument = line + size + strspn(line + size, " \t");
    if (*line != '/' || size >= sizeof word) {
        return CHAT_NO_COMMAND;
    }
    memcpy(word, line, size);
    word[size] = 0;
    for (size_t i = 0; i < ENTRIES; i++) {
        if (strcmp(word, entries[i].name) == 0) {
            return entries[i].argument == NO_ARGUMENT && *argument ? CHAT_NO_COMMAND : entries[i].run(st, argument);
        }
    }
    if (is_near_miss(st, word)) {
        hint(word);
        return CHAT_FAILED;
    }
    return CHAT_NO_COMMAND;
}
