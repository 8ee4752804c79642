/* omni imatrix: reads a corpus and writes down what matters to each matrix. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/terminal_text.h"

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress_show(arg, what, done, total);
    return !stopped_by();
}

static int finish(omni_imatrix_params *p) {
    progress bar;
    progress_init(&bar, false);
    p->progress = show;
    p->progress_arg = &bar;
    stop_watch();
    omni_error err = {0};
    omni_imatrix_result out = {0};
    omni_status s = omni_imatrix(p, &out, &err);
    progress_clear(&bar);
    if (s == OMNI_CANCELLED) {
        print_error("omni imatrix: stopped; nothing was written\n");
        return 128 + stopped_by();
    }
    if (s != OMNI_OK) {
        return report(&err);
    }
    print_text(stdout, "%s  %zu matrices, %zu pieces, %lld tokens\n", p->output, out.matrices, out.pieces, (long long)out.tokens);
    return 0;
}

static bool reads_twice(const char *text, const flag_list *media) {
    const char **paths = calloc(media->count + 1, sizeof *paths);
    for (size_t i = 0; paths && i < media->count; i++) {
        paths[i] = media->entries[i].value;
    }
    if (paths) {
        paths[media->count] = text;
    }
    const bool twice = paths && input_read_twice("imatrix", paths, media->count + 1);
    free(paths);
    return twice;
}

int command_imatrix(int argc, char **argv) {
    omni_imatrix_params p = omni_imatrix_params_default();
    int64_t pieces = 0, piece_bytes = 0;
    thread_options threads;
    thread_options_init(&threads);
    flag_list media = {0};
    const flag own[] = {
        {"--model", "-m", FLAG_STRING, &p.model.model, "F", "thinker GGUF, F16, BF16 or F32 at best, or a folder with one (default: $OMNI_MODEL)", 0,
         0},
        {"--mmproj", NULL, FLAG_STRING, &p.model.mmproj, "F", "encoders GGUF, for media (default: that of --model's folder, if it is one)", 0, 0},
        {"--talker", NULL, FLAG_STRING, &p.model.talker, "F",
         "talker GGUF: a bit of every answer is spoken, and its matrices looked at too (default: none)", 0, 0},
        {"--file", "-f", FLAG_STRING, &p.text, "TEXT_FILE",
         "a corpus: some hundred kilobytes of text such as the model will meet; - reads standard input (default: none)", 0, 0},
        {"--image", NULL, FLAG_ENTRY, &media, "F", "a picture; may be repeated", 0, 0},
        {"--audio", NULL, FLAG_ENTRY, &media, "F", "a sound; may be repeated", 0, 0},
        {"--video", NULL, FLAG_ENTRY, &media, "F", "a video; may be repeated", 0, 0},
        {"--output", "-o", FLAG_STRING, &p.output, "OUT.gguf", "the importance matrix (default imatrix.gguf)", 0, 0},
        {"--pieces", NULL, FLAG_INT, &pieces, "N", "pieces of the text at most (default all)", 1, 1 << 30},
        {"--piece-bytes", NULL, FLAG_INT, &piece_bytes, "N", "bytes of text read at once (default 2048)", 16, 1 << 20},
    };
    enum { OWN = sizeof own / sizeof *own };
    flag flags[OWN + THREAD_FLAGS];
    memcpy(flags, own, sizeof own);
    thread_options_flags(&threads, flags + OWN);
    const command c = {
        .name = "imatrix",
        .arguments = "",
        .summary = "Collects how large the inputs of each matrix are, column by column, for omni quantize --imatrix.",
        .details = "The file has the layout of llama.cpp's llama-imatrix; either program takes the other's. The head (output.weight) is left out.",
        .flags = flags,
        .flag_count = sizeof flags / sizeof *flags};
    size_t count = 0;
    p.output = "imatrix.gguf";
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    omni_part *parts = NULL;
    model_files files = {p.model.model, p.model.mmproj, NULL, {0}};
    if (status < 0) {
        status = model_files_find("imatrix", media.count > 0 ? WANT_MMPROJ : 0, &files);
        p.model.model = files.model;
        p.model.mmproj = files.mmproj;
    }
    if (status < 0 && !p.text && media.count == 0) {
        print_error("omni imatrix: nothing to read: give a text with -f, or media; usage: omni imatrix --model F -f TEXT_FILE -o imatrix.gguf\n");
        status = 2;
    }
    if (status < 0) {
        status = reads_twice(p.text, &media) ? 2 : (parts = input_media(&media)) ? -1 : 1;
    }
    if (status < 0) {
        p.media = parts;
        p.media_count = media.count;
        thread_options_finish(&threads, &p.model.threads, &p.model.scheduling);
        p.max_pieces = (int)pieces;
        p.piece_bytes = (size_t)piece_bytes;
        status = finish(&p);
    }
    free(parts);
    free(media.entries);
    model_files_free(&files);
    return status;
}
