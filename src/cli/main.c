/* omni: picks the command. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/lost_file.h"
#include "cli/terminal_text.h"

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "answer text, images, sound and video with text and speech; without -p, a conversation", command_run},
    {"speak", "say a text", command_speak},
    {"serve", "answer over HTTP, in the shapes of OpenAI's API", command_serve},
    {"convert", "make GGUF files of a published checkpoint", command_convert},
    {"bench", "how fast everything is on this machine", command_bench},
    {"imatrix", "what matters to a model, for quantize --imatrix", command_imatrix},
    {"quantize", "make the matrices of a GGUF file smaller", command_quantize},
    {"split", "write a GGUF file in several parts", command_split},
    {"merge", "make one GGUF file of a model in parts", command_merge},
    {"synth", "write a random model file of the released sizes, for measuring", command_synth},
    {"info", "what is in a GGUF file, and the memory needed to run it", command_info},
    {"tokenize", "token ids and pieces of a text", command_tokenize},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static int run_command(const char *name, int argc, char **argv) {
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return commands[i].run(argc, argv);
        }
    }
    return 2;
}

bool command_exists(const char *name) {
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return true;
        }
    }
    return false;
}

bool command_has_flag(const char *name) {
    for (int i = 0; i < COMMANDS; i++) {
        if (commands[i].run(3, (char *[]){(char *)commands[i].name, "--help=has", (char *)name, NULL}) == 0) {
            return true;
        }
    }
    return false;
}

static int print_command_help(const char *name, const char *form) {
    char word[32];
    snprintf(word, sizeof word, "--help=%s", form);
    return run_command(name, 2, (char *[]){(char *)name, word, NULL});
}

/* Output that could not be written (a full disk, a reader that went away) is a failure, however late it is noticed. */
static int finish(int status) {
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (status == 0) {
            print_error("omni: cannot write to standard output\n");
            status = 1;
        }
    }
    return status;
}

static void usage(FILE *to) {
    fprintf(to, "omni %s: Qwen3-Omni in C. usage: omni COMMAND [flags]\n\n", omni_version());
    for (int i = 0; i < COMMANDS; i++) {
        fprintf(to, "  %-10s%s\n", commands[i].name, commands[i].summary);
    }
    fprintf(to, "\nomni COMMAND --help lists a command's flags; --help=man prints a manual page, --help=bash, zsh or fish a completion script.\n"
                "Defaults: a model's folder in OMNI_MODEL; flags in ~/.config/omni/config, a \"threads = 4\" a line.\n");
}

int report(const omni_error *err) {
    print_error("omni: %s\n", err->text);
    return 1;
}

/* A closed descriptor would be given to the next file that is opened, and what is printed land in it. What stands in its place is opened the
 * wrong way round, so that reading and writing fail as they do on a closed one. */
static void fill_standard_descriptors(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) {
            _exit(1); /* no way to say why */
        }
    }
}

int main(int argc, char **argv) {
    fill_standard_descriptors();
    signal(SIGXFSZ, SIG_IGN); /* a file over the limit of its size (ulimit -f) is an error of write(), too */
    report_lost_files();
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error of write(), reported like any other */
    signal(SIGXFSZ, SIG_IGN); /* as is a file over the limit of ulimit -f */
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    const char *word = argv[1];
    if (command_exists(word)) {
        return finish(run_command(word, argc - 1, argv + 1));
    }
    if (strcmp(word, "help") == 0 && argc > 2 && command_exists(argv[2])) { /* omni help run */
        return finish(run_command(argv[2], 2, (char *[]){argv[2], "--help", NULL}));
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        usage(stdout);
        return finish(0);
    }
    if (strcmp(word, "--version") == 0) {
        printf("omni %s\n", omni_version());
        return finish(0);
    }
    const char *names[COMMANDS];
    command_name list[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) {
        names[i] = commands[i].name;
        list[i] = (command_name){commands[i].name, commands[i].summary};
    }
    if (strncmp(word, "--help=", 7) == 0) {
        return finish(help_program_as(word + 7, list, COMMANDS, print_command_help));
    }
    const char *near = args_nearest(word, names, COMMANDS);
    if (near) {
        print_error("omni: unknown command \"%s\"; did you mean %s?\n", word, near);
    } else {
        print_error("omni: unknown command \"%s\"; see omni --help\n", word);
    }
    return 2;
}
