/* omni info: what is in a file. */
#include <stdio.h>

#include "cli/args.h"
#include "cli/commands.h"

int command_info(int argc, char **argv) {
    bool json = false;
    const flag flags[] = {{"--json", NULL, FLAG_SET, &json, NULL, "as JSON", 0, 0}};
    const command c = {"info", "FILE", "Prints what is in a GGUF file: sizes, tensors by type, and the memory needed to run it.", NULL, flags, 1};
    const char *path = NULL;
    size_t count = 0;
    int status = args_parse(&c, argc, argv, &path, 1, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 0) {
        fprintf(stderr, "omni info: which file? usage: omni info FILE [--json]\n");
        return 2;
    }
    omni_error err = {0};
    char *text = NULL;
    if (omni_describe(path, json, &text, &err) != OMNI_OK) {
        return report(&err);
    }
    fputs(text, stdout);
    omni_free(text);
    return 0;
}
