/* omni split and omni merge: a GGUF file in parts, and back. */
#include "cli/split.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

bool parse_split_size(const char *who, const char *text, uint64_t *bytes) {
    const size_t n = strspn(text, "0123456789");
    const uint64_t unit = strcmp(text + n, "M") == 0 ? 1000000 : strcmp(text + n, "G") == 0 ? 1000000000 : 0;
    uint64_t value = 0;
    bool fits = n > 0 && unit > 0;
    for (size_t i = 0; fits && i < n; i++) {
        fits = !__builtin_mul_overflow(value, 10, &value) && !__builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value);
    }
    if (!fits || __builtin_mul_overflow(value, unit, bytes) || value == 0) {
        print_error("%s: --split-max-size takes a number and M or G, such as 500M or 2G, not \"%s\"\n", who, text);
        return false;
    }
    return true;
}

void allow_open_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress_show(arg, what, done, total);
    return !stopped_by();
}

static int run(const char *who, omni_status (*function)(const omni_split_params *, omni_split_result *, omni_error *), omni_split_params *p) {
    progress bar;
    progress_init(&bar, true);
    p->progress = show;
    p->progress_arg = &bar;
    allow_open_files();
    stop_watch();
    omni_error err = {0};
    omni_split_result out = {0};
    const omni_status s = function(p, &out, &err);
    progress_clear(&bar);
    if (s == OMNI_CANCELLED) {
        print_error("%s: stopped; nothing half-written was left\n", who);
        return 128 + stopped_by();
    }
    if (s != OMNI_OK) {
        return report(&err);
    }
    const bool large = out.bytes >= 1000000000;
    print_text(stdout, "%s  %.2f %s", out.first, (double)out.bytes / (large ? 1e9 : 1e6), large ? "GB" : "MB");
    if (out.parts > 1) {
        printf(" in %zu parts", out.parts);
    }
    printf(", %zu tensors\n", out.tensors);
    return 0;
}

int command_split(int argc, char **argv) {
    omni_split_params p = omni_split_params_default();
    const char *size = NULL;
    int64_t tensors = 0;
    const flag flags[] = {
        {"--split-max-size", NULL, FLAG_STRING, &size, "N(M|G)", "at most N MB or GB a file, unless one tensor alone takes more (default: no limit)",
         0, 0},
        {"--split-max-tensors", NULL, FLAG_INT, &tensors, "N", "at most N tensors a file (default 128)", 1, 1 << 20},
    };
    const command c = {.name = "split",
                       .arguments = "IN.gguf OUT_PREFIX",
                       .summary = "Writes a model in parts: OUT_PREFIX-00001-of-00003.gguf and so on, as llama.cpp does.",
                       .details =
                           "Wherever a model is read, the path of any of its parts stands for all. The files appear under their names only when\n"
                           "all are complete; omni merge makes one file of them again.",
                       .flags = flags,
                       .flag_count = sizeof flags / sizeof *flags};
    const char *names[2] = {0};
    size_t count = 0;
    const int status = args_parse(&c, argc, argv, names, 2, &count);
    if (status >= 0) {
        return status;
    }
    if (count != 2) {
        print_error("omni split: %s usage: omni split IN.gguf OUT_PREFIX [--split-max-size N(M|G) | --split-max-tensors N]\n",
                    count == 0 ? "which file?" : "what should the names of the parts begin with?");
        return 2;
    }
    if (size && tensors) {
        print_error("omni split: --split-max-size and --split-max-tensors cannot be used together\n");
        return 2;
    }
    if (size && !parse_split_size("omni split", size, &p.max_size)) {
        return 2;
    }
    p.input = names[0];
    p.output = names[1];
    p.max_tensors = (size_t)tensors;
    return run("omni split", omni_split, &p);
}

int command_merge(int argc, char **argv) {
    omni_split_params p = omni_split_params_default();
    const command c = {.name = "merge",
                       .arguments = "PART.gguf OUT.gguf",
                       .summary = "Makes one file of a model in parts, whichever of its parts is given.",
                       .details = "The file appears under its name only when it is complete. The parts stay."};
    const char *names[2] = {0};
    size_t count = 0;
    const int status = args_parse(&c, argc, argv, names, 2, &count);
    if (status >= 0) {
        return status;
    }
    if (count != 2) {
        print_error("omni merge: %s usage: omni merge PART.gguf OUT.gguf\n", count == 0 ? "which file?" : "where to?");
        return 2;
    }
    p.input = names[0];
    p.output = names[1];
    return run("omni merge", omni_merge, &p);
}
