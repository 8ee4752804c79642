/* omni bench: how fast everything is, as a table, JSON or CSV. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

typedef enum format { FORMAT_TABLE, FORMAT_JSON, FORMAT_CSV } format;

typedef struct printer {
    format format;
    progress bar;
    int rows;
} printer;

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    printer *p = arg;
    p->bar.bytes = strcmp(what, "writing random weights") == 0;
    progress_show(&p->bar, what, done, total);
    return !stopped_by();
}

static void table_row(printer *p, const omni_bench_row *r) {
    if (p->rows == 0) {
        printf("| %-26s | %10s | %10s | %10s | %-8s | %2s | %8s | %6s | %8s | %6s | %8s |\n", "test", "median", "min", "max", "unit", "n", "GB/s",
               "of mem", "GFLOP/s", "of FMA", "peak GB");
        printf("| %.26s | %.9s: | %.9s: | %.9s: | %.8s | %.1s: | %.7s: | %.5s: | %.7s: | %.5s: | %.7s: |\n", "--------------------------",
               "---------", "---------", "---------", "--------", "-", "-------", "-----", "-------", "-----", "-------");
    }
    printf("| %-26s | %10.4g | %10.4g | %10.4g | %-8s | %2d | ", r->name, r->median, r->min, r->max, r->unit, r->samples);
    if (r->bytes > 0) {
        printf("%8.2f | %5.1f%% | %8.2f | %5.1f%% | ", r->bytes_per_second / 1e9, 100 * r->memory_share, r->flops_per_second / 1e9,
               100 * r->compute_share);
    } else {
        printf("%8s | %6s | %8s | %6s | ", "", "", "", "");
    }
    printf("%8.2f |\n", r->peak_memory / 1e9);
    if (r->profile) {
        printf("\n%s\n", r->profile);
    }
}

/* The names of rows are plain text; only a profile needs its line ends escaped. */
static void json_string(const char *s) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '\n') {
            fputs("\\n", stdout);
        } else if (*s == '"' || *s == '\\') {
            printf("\\%c", *s);
        } else {
            putchar(*s);
        }
    }
    putchar('"');
}

static void json_row(printer *p, const omni_bench_row *r) {
    printf("%s\n {\"test\": ", p->rows ? "," : "[");
    json_string(r->name);
    printf(", \"unit\": \"%s\", \"samples\": %d, \"median\": %.6g, \"min\": %.6g, \"max\": %.6g, \"bytes\": %.6g, \"flops\": %.6g, "
           "\"bytes_per_second\": %.6g, \"flops_per_second\": %.6g, \"memory_share\": %.4g, \"compute_share\": %.4g, \"memory_limit\": %.6g, "
           "\"compute_limit\": %.6g, \"peak_memory\": %.6g",
           r->unit, r->samples, r->median, r->min, r->max, r->bytes, r->flops, r->bytes_per_second, r->flops_per_second, r->memory_share,
           r->compute_share, r->memory_limit, r->compute_limit, r->peak_memory);
    if (r->profile) {
        fputs(", \"profile\": ", stdout);
        json_string(r->profile);
    }
    putchar('}');
}

static void csv_row(printer *p, const omni_bench_row *r) {
    if (p->rows == 0) {
        puts("test,unit,samples,median,min,max,bytes,flops,bytes_per_second,flops_per_second,memory_share,compute_share,memory_limit,compute_limit,"
             "peak_memory");
    }
    printf("\"%s\",%s,%d,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.4g,%.4g,%.6g,%.6g,%.6g\n", r->name, r->unit, r->samples, r->median, r->min, r->max,
           r->bytes, r->flops, r->bytes_per_second, r->flops_per_second, r->memory_share, r->compute_share, r->memory_limit, r->compute_limit,
           r->peak_memory);
}

static bool print_row(void *arg, const omni_bench_row *r) {
    printer *p = arg;
    progress_clear(&p->bar);
    if (p->format == FORMAT_TABLE) {
        table_row(p, r);
    } else if (p->format == FORMAT_JSON) {
        json_row(p, r);
    } else {
        csv_row(p, r);
    }
    p->rows++;
    fflush(stdout);
    return !stopped_by();
}

/* "audio,vision" to OMNI_BENCH_...; false after explaining an unknown name. */
static bool parse_parts(const char *text, unsigned *parts) {
    static const struct {
        const char *name;
        unsigned part;
    } names[] = {{"thinker", OMNI_BENCH_THINKER},
                 {"audio", OMNI_BENCH_AUDIO},
                 {"vision", OMNI_BENCH_VISION},
                 {"talker", OMNI_BENCH_TALKER},
                 {"code2wav", OMNI_BENCH_CODE2WAV}};
    enum { COUNT = sizeof names / sizeof *names };
    for (*parts = 0; text && *text;) {
        size_t n = strcspn(text, ","), i = 0;
        while (i < COUNT && !(strlen(names[i].name) == n && strncmp(names[i].name, text, n) == 0)) {
            i++;
        }
        if (i == COUNT) {
            print_error("omni bench: --parts takes a list of thinker, audio, vision, talker and code2wav, not \"%.*s\"\n", (int)n, text);
            return false;
        }
        *parts |= names[i].part;
        text += n + (text[n] == ',');
    }
    return true;
}

int command_bench(int argc, char **argv) {
    omni_bench_params p = omni_bench_params_default();
    const char *parts = NULL, *cache_k = NULL, *cache_v = NULL;
    int64_t layers = 0, repetitions = 0, generate = 0, batch = 0;
    thread_options threads;
    thread_options_init(&threads);
    bool json = false, csv = false;
    const flag own[] = {
        {"--model", "-m", FLAG_STRING, &p.model, "F", "thinker GGUF, or a folder with the three files (default: none)", 0, 0},
        {"--mmproj", NULL, FLAG_STRING, &p.mmproj, "F", "encoders GGUF (default: that of --model's folder, if it is one)", 0, 0},
        {"--talker", NULL, FLAG_STRING, &p.talker, "F", "talker GGUF (default: that of --model's folder, if it is one)", 0, 0},
        {"--synthetic", NULL, FLAG_STRING, &p.synthetic, "TYPE", "random weights of the released sizes instead: q4_k_m, q8_0, ... (default: none)", 0,
         0},
        {"--layers", NULL, FLAG_INT, &layers, "N", "layers of the random thinker (default: as released)", 1, 1024},
        {"--parts", NULL, FLAG_STRING, &parts, "LIST", "which of thinker,audio,vision,talker,code2wav (default all)", 0, 0},
        {"--only", NULL, FLAG_STRING, &p.only, "ROWS", "these tests, by name or by the letters it begins with: pp512,tg,audio (default: all)", 0, 0},
        {"--repetitions", "-r", FLAG_INT, &repetitions, "N", "of each test (default 5)", 1, 1000},
        {"--n-gen", "-n", FLAG_INT, &generate, "N", "tokens of a decode test (default 32)", 1, 4096},
        {"--max-seconds", NULL, FLAG_FLOAT, &p.max_seconds, "X", "fewer repetitions of a test that takes longer (default 60)", 0.1, 100000},
        {"--batch-size", "-b", FLAG_INT, &batch, "N", "rows of prompts computed at once (default 512; on a card 2048)", 1, 65536},
        {"--cache-type-k", "-ctk", FLAG_STRING, &cache_k, "<f32|f16|q8_0>", "keys are kept as (default f32)", 0, 0},
        {"--cache-type-v", "-ctv", FLAG_STRING, &cache_v, "<f32|f16|q8_0>", "values are kept as (default f32)", 0, 0},
        {"--device", NULL, FLAG_STRING, &p.device, "cpu|cuda[:N]|auto", "where the model is computed (default cpu)", 0, 0},
        {"--no-repack", NULL, FLAG_SET, &p.no_repack, NULL, "leave weights as the files have them", 0, 0},
        {"--profile", NULL, FLAG_SET, &p.profile, NULL, "where the time goes, an operation a line (not in CSV)", 0, 0},
        {"--scratch", NULL, FLAG_STRING, &p.scratch_dir, "DIR", "where random files lie while they are used (default $TMPDIR or /tmp)", 0, 0},
        {"--json", NULL, FLAG_SET, &json, NULL, "as JSON", 0, 0},
        {"--csv", NULL, FLAG_SET, &csv, NULL, "as CSV", 0, 0},
    };
    enum { OWN = sizeof own / sizeof *own };
    flag flags[OWN + THREAD_FLAGS];
    memcpy(flags, own, sizeof own);
    thread_options_flags(&threads, flags + OWN);
    const command c = {
        .name = "bench",
        .arguments = "",
        .summary = "Measures speed: prompts, decoding, batches, encoders, speech, and the machine itself.",
        .details =
            "ppN reads a prompt of N tokens; tgN decodes N tokens, with \"@ dD\" after D cached positions (filled with noise, which takes as\n"
            "long to read), with \"bB\" in B sequences at once. Each row is set against what the machine's memory and arithmetic did in tests of\n"
            "our own just before and after it. Bytes and operations are counted in the repetition that warms up.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags,
        .no_default_model = true};
    size_t count = 0;
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    if (status >= 0) {
        return status;
    }
    if (!parse_parts(parts, &p.parts) || !options_cache_type(cache_k, &p.cache_type_k) || !options_cache_type(cache_v, &p.cache_type_v)) {
        return 2;
    }
    const char *wrong = !p.model && !p.mmproj && !p.talker && !p.synthetic ? "what should be measured? give --model F or --synthetic TYPE"
                        : (p.model || p.mmproj || p.talker) && p.synthetic ? "files and --synthetic exclude each other"
                        : layers > 0 && !p.synthetic                       ? "--layers is for --synthetic: a file has the layers that it has"
                        : json && csv                                      ? "--json and --csv exclude each other"
                                                                           : NULL;
    if (wrong) {
        print_error("omni bench: %s\n", wrong);
        return 2;
    }
    model_files files = {p.model, p.mmproj, p.talker, {0}};
    if (p.model && (status = model_files_find("bench", WANT_MMPROJ | WANT_TALKER, &files)) >= 0) {
        model_files_free(&files);
        return status;
    }
    p.model = files.model;
    p.mmproj = files.mmproj;
    p.talker = files.talker;
    printer out = {.format = json ? FORMAT_JSON : csv ? FORMAT_CSV : FORMAT_TABLE};
    progress_init(&out.bar, false);
    p.layers = (int)layers;
    p.repetitions = (int)repetitions;
    p.generate = (int)generate;
    p.batch = (int)batch;
    thread_options_finish(&threads, &p.threads, &p.scheduling);
    p.progress = show;
    p.on_row = print_row;
    p.arg = &out;
    stop_watch();
    omni_error err = {0};
    omni_status s = omni_bench(&p, &err);
    model_files_free(&files);
    progress_clear(&out.bar);
    if (out.format == FORMAT_JSON) {
        puts(out.rows ? "\n]" : "[]");
    }
    if (s == OMNI_CANCELLED) {
        print_error("omni bench: stopped\n");
        return 128 + stopped_by();
    }
    return s == OMNI_OK ? 0 : report(&err);
}
