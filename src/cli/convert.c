/* omni convert: a published checkpoint to GGUF files. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/split.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress_show(arg, what, done, total);
    return !stopped_by();
}

/* "thinker,mmproj" to OMNI_PART_...; 0 after explaining an unknown name. */
static unsigned parse_parts(const char *text) {
    static const struct {
        const char *name;
        unsigned part;
    } names[] = {{"thinker", OMNI_PART_THINKER}, {"mmproj", OMNI_PART_MMPROJ}, {"talker", OMNI_PART_TALKER}};
    unsigned parts = 0;
    while (*text) {
        size_t n = strcspn(text, ","), i = 0;
        while (i < 3 && !(strlen(names[i].name) == n && strncmp(names[i].name, text, n) == 0)) {
            i++;
        }
        if (i == 3) {
            print_error("omni convert: --parts takes a list of thinker, mmproj and talker, not \"%.*s\"\n", (int)n, text);
            return 0;
        }
        parts |= names[i].part;
        text += n + (text[n] == ',');
    }
    if (parts == 0) {
        print_error("omni convert: --parts is empty: give a list of thinker, mmproj and talker\n");
    }
    return parts;
}

int command_convert(int argc, char **argv) {
    omni_convert_params p = omni_convert_params_default();
    const char *parts = NULL, *size = NULL;
    int64_t threads = 0;
    const flag flags[] = {
        {"--outdir", "-o", FLAG_STRING, &p.out_dir, "OUT_DIR", "where the files go; made when missing (required)", 0, 0},
        {"--type", NULL, FLAG_STRING, &p.type, "TYPE", "f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m ... (default f16)", 0, 0},
        {"--imatrix", NULL, FLAG_STRING, &p.imatrix, "F", "importance matrix (omni imatrix, or llama.cpp's; default: none)", 0, 0},
        {"--name", NULL, FLAG_STRING, &p.name, "NAME", "NAME-TYPE.gguf and so on (default qwen3-omni)", 0, 0},
        {"--parts", NULL, FLAG_STRING, &parts, "LIST", "which of thinker,mmproj,talker (default all)", 0, 0},
        {"--split-max-size", NULL, FLAG_STRING, &size, "N(M|G)", "what takes more than N MB or GB becomes several files (default: one each)", 0, 0},
        {"--threads", "-t", FLAG_INT, &threads, "N", "threads (default one a core)", 1, 512},
    };
    const command c = {.name = "convert",
                       .arguments = "CHECKPOINT_DIR",
                       .summary = "Makes NAME-TYPE.gguf, mmproj-NAME-TYPE.gguf and talker-NAME-TYPE.gguf of a published checkpoint.",
                       .details =
                           "CHECKPOINT_DIR holds config.json, tokenizer.json, the preprocessor configs and *.safetensors. Files appear under their\n"
                           "names only when complete. Routers, norms, codec tables and convolutions stay at F16 or better whatever the type.",
                       .flags = flags,
                       .flag_count = sizeof flags / sizeof *flags};
    const char *dir = NULL;
    size_t count = 0;
    int status = args_parse(&c, argc, argv, &dir, 1, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 0 || !p.out_dir) {
        print_error("omni convert: %s usage: omni convert CHECKPOINT_DIR -o OUT_DIR [--type TYPE]\n",
                    count == 0 ? "which checkpoint?" : "where should the files go? give -o OUT_DIR;");
        return 2;
    }
    if (size && !parse_split_size("omni convert", size, &p.split_max_size)) {
        return 2;
    }
    if (parts && (p.parts = parse_parts(parts)) == 0) {
        return 2;
    }
    progress bar;
    progress_init(&bar, true);
    p.checkpoint = dir;
    p.threads = (int)threads;
    p.progress = show;
    p.progress_arg = &bar;
    if (p.split_max_size) {
        allow_open_files();
    }
    stop_watch();
    omni_error err = {0};
    omni_converted out = {0};
    omni_status s = omni_convert(&p, &out, &err);
    progress_clear(&bar);
    for (size_t i = 0; i < out.count; i++) {
        bool large = out.bytes[i] >= 1000000000;
        print_text(stdout, "%s  %.2f %s", out.path[i], (double)out.bytes[i] / (large ? 1e9 : 1e6), large ? "GB" : "MB");
        if (out.split[i] > 1) {
            printf(" in %zu parts", out.split[i]);
        }
        printf("\n");
    }
    if (s == OMNI_CANCELLED) {
        print_error("omni convert: stopped; nothing half-written was left\n");
        return 128 + stopped_by();
    }
    if (s != OMNI_OK) {
        return report(&err);
    }
    if (p.imatrix && out.important == 0) {
        print_error("omni convert: %s knows none of the matrices that become blocks: it made no difference\n", p.imatrix);
    }
    if (!out.has_talker) {
        print_error("omni convert: this checkpoint has no talker (a Thinking release, say): no talker file, text answers only\n");
    }
    return 0;
}
