/* omni synth: a random model file of real size, for measuring this program and others. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress_show(arg, what, done, total);
    return !stopped_by();
}

int command_synth(int argc, char **argv) {
    omni_synth_params p = omni_synth_params_default();
    const char *part = "thinker";
    int64_t threads = 0, layers = 0, seed = 0;
    const flag flags[] = {
        {"--type", NULL, FLAG_STRING, &p.type, "TYPE", "f32, f16, bf16, q8_0, q4_0, q4_k, q6_k, q4_k_m, ... (default q8_0)", 0, 0},
        {"--layers", NULL, FLAG_INT, &layers, "N", "decoder layers of the thinker (default: as released); give a talker's file the same number", 1,
         1024},
        {"--parts", NULL, FLAG_STRING, &part, "<thinker|mmproj|talker>", "thinker, mmproj (the encoders) or talker (default thinker)", 0, 0},
        {"--seed", "-s", FLAG_INT, &seed, "N", "another seed, other values (default 0)", 0, 9007199254740992.0},
        {"--threads", "-t", FLAG_INT, &threads, "N", "threads (default one a core)", 1, 512},
    };
    const command c = {.name = "synth",
                       .arguments = "OUT.gguf",
                       .summary = "Writes a model file of the released sizes with random weights, to measure speed without a download.",
                       .details = "The thinker's file also runs in other engines that know the architecture qwen3vlmoe. What it says is noise.",
                       .flags = flags,
                       .flag_count = sizeof flags / sizeof *flags};
    size_t count = 0;
    int status = args_parse(&c, argc, argv, &p.path, 1, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 0) {
        print_error("omni synth: which file should be written? usage: omni synth OUT.gguf [--type TYPE] [--layers N]\n");
        return 2;
    }
    p.part = strcmp(part, "thinker") == 0  ? OMNI_PART_THINKER
             : strcmp(part, "mmproj") == 0 ? OMNI_PART_MMPROJ
             : strcmp(part, "talker") == 0 ? OMNI_PART_TALKER
                                           : 0;
    if (!p.part) {
        print_error("omni synth: --parts takes one of thinker, mmproj and talker, not \"%s\"\n", part);
        return 2;
    }
    progress bar;
    progress_init(&bar, true);
    p.layers = (int)layers;
    p.threads = (int)threads;
    p.seed = (uint64_t)seed;
    p.progress = show;
    p.progress_arg = &bar;
    stop_watch();
    omni_error err = {0};
    uint64_t bytes = 0;
    omni_status s = omni_synth(&p, &bytes, &err);
    progress_clear(&bar);
    if (s == OMNI_CANCELLED) {
        print_error("omni synth: stopped; nothing half-written was left\n");
        return 128 + stopped_by();
    }
    if (s != OMNI_OK) {
        return report(&err);
    }
    print_text(stdout, "%s  %.2f GB\n", p.path, (double)bytes / 1e9);
    return 0;
}
