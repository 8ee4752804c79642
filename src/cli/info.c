/* omni info: what is in a file. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/terminal_text.h"

int command_info(int argc, char **argv) {
    bool json = false;
    const flag flags[] = {{"--json", NULL, FLAG_SET, &json, NULL, "as JSON", 0, 0}};
    const command c = {.name = "info",
                       .arguments = "FILE",
                       .summary = "Prints what is in a GGUF file: sizes, tensors by type, and the memory needed to run it.",
                       .flags = flags,
                       .flag_count = 1};
    const char *path = NULL;
    size_t count = 0;
    int status = args_parse(&c, argc, argv, &path, 1, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 0) {
        print_error("omni info: which file? usage: omni info FILE [--json]\n");
        return 2;
    }
    omni_error err = {0};
    char *text = NULL;
    if (omni_describe(path, json, &text, &err) != OMNI_OK) {
        return report(&err);
    }
    write_text(stdout, text, strlen(text));
    omni_free(text);
    return 0;
}
