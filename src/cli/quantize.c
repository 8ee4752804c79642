/* omni quantize: a GGUF file with its matrices in another type. */
#include <stdio.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress_show(arg, what, done, total);
    return !stopped_by();
}

static void print_size(const char *name, uint64_t bytes) {
    bool large = bytes >= 1000000000;
    print_text(stdout, "%s  %.2f %s", name, (double)bytes / (large ? 1e9 : 1e6), large ? "GB" : "MB");
}

int command_quantize(int argc, char **argv) {
    omni_quantize_params p = omni_quantize_params_default();
    int64_t threads = 0;
    const flag flags[] = {
        {"--imatrix", NULL, FLAG_STRING, &p.imatrix, "F", "importance matrix (omni imatrix, or llama.cpp's; default: none)", 0, 0},
        {"--allow-requantize", NULL, FLAG_SET, &p.allow_requantize, NULL, "take a file below Q8_0 as well; loses more than from the original", 0, 0},
        {"--threads", "-t", FLAG_INT, &threads, "N", "threads (default one a core)", 1, 512},
    };
    const command c = {
        .name = "quantize",
        .arguments = "IN.gguf OUT.gguf TYPE",
        .summary = "Writes a thinker, encoders or talker file with its matrices in another type.",
        .details =
            "TYPE: q4_k_m, q5_k_m (mixes that keep sensitive matrices in Q6_K), q6_k, q8_0, q5_k, q4_k, q5_1, q5_0, q4_1, q4_0, f16, bf16, f32.\n"
            "Routers, norms, codec tables and convolutions keep their type; the code predictor and the encoders never go below Q8_0.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags};
    const char *names[3] = {0};
    size_t count = 0;
    int status = args_parse(&c, argc, argv, names, 3, &count);
    if (status >= 0) {
        return status;
    }
    if (count != 3) {
        print_error("omni quantize: %s usage: omni quantize IN.gguf OUT.gguf TYPE [--imatrix F] [-t N]\n", count == 0   ? "which file?"
                                                                                                           : count == 1 ? "where to?"
                                                                                                                        : "which type?");
        return 2;
    }
    progress bar;
    progress_init(&bar, true);
    p.input = names[0];
    p.output = names[1];
    p.type = names[2];
    p.threads = (int)threads;
    p.progress = show;
    p.progress_arg = &bar;
    stop_watch();
    omni_error err = {0};
    omni_quantized out = {0};
    omni_status s = omni_quantize(&p, &out, &err);
    progress_clear(&bar);
    if (s == OMNI_CANCELLED) {
        print_error("omni quantize: stopped; nothing half-written was left\n");
        return 128 + stopped_by();
    }
    if (s != OMNI_OK) {
        return report(&err);
    }
    print_size(p.output, out.bytes_after);
    printf(", %zu of %zu tensors changed (%.2f MB before)\n", out.changed, out.tensors, (double)out.bytes_before / 1e6);
    if (p.imatrix && out.important == 0) {
        print_error("omni quantize: %s knows none of the matrices of %s: it made no difference\n", p.imatrix, p.input);
    }
    return 0;
}
