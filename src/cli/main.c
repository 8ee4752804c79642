/* omni: picks the command. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/lost_file.h"

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "answer text, images, sound and video with text and speech; without -p, a conversation", command_run},
    {"speak", "say a text", command_speak},
    {"convert", "make GGUF files of a published checkpoint", command_convert},
    {"bench", "how fast everything is on this machine", command_bench},
    {"imatrix", "what matters to a model, for quantize --imatrix", command_imatrix},
    {"quantize", "make the matrices of a GGUF file smaller", command_quantize},
    {"synth", "write a random model file of the released sizes, for measuring", command_synth},
    {"info", "what is in a GGUF file, and the memory needed to run it", command_info},
    {"tokenize", "token ids and pieces of a text", command_tokenize},
};

enum { COMMANDS = sizeof commands / sizeof *commands };

/* Output that could not be written (a full disk, a reader that went away) is a failure, however late it is noticed. */
static int finish(int status) {
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (status == 0) {
            fprintf(stderr, "omni: cannot write to standard output\n");
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
    fprintf(to, "\nomni COMMAND --help lists a command's flags.\n");
}

int report(const omni_error *err) {
    fprintf(stderr, "omni: %s\n", err->text);
    return 1;
}

int main(int argc, char **argv) {
    report_lost_files();
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error of write(), reported like any other */
    signal(SIGXFSZ, SIG_IGN); /* as is a file over the limit of ulimit -f */
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) {
        names[i] = commands[i].name;
        if (strcmp(argv[1], commands[i].name) == 0) {
            return finish(commands[i].run(argc - 1, argv + 1));
        }
    }
    if (strcmp(argv[1], "help") == 0 && argc > 2) { /* omni help run */
        for (int i = 0; i < COMMANDS; i++) {
            if (strcmp(argv[2], commands[i].name) == 0) {
                return finish(commands[i].run(2, (char *[]){argv[2], "--help", NULL}));
            }
        }
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return finish(0);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("omni %s\n", omni_version());
        return finish(0);
    }
    const char *near = args_nearest(argv[1], names, COMMANDS);
    if (near) {
        fprintf(stderr, "omni: unknown command \"%s\"; did you mean %s?\n", argv[1], near);
    } else {
        fprintf(stderr, "omni: unknown command \"%s\"; see omni --help\n", argv[1]);
    }
    return 2;
}
