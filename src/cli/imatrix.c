/* omni imatrix: reads a corpus and writes down what matters to each matrix. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/stop.h"

static bool show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress_show(arg, what, done, total);
    return !stopped_by();
}

static omni_kind kind_of(const char *name) {
    return strcmp(name, "--image") == 0 ? OMNI_IMAGE : strcmp(name, "--audio") == 0 ? OMNI_AUDIO : OMNI_VIDEO;
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
        fprintf(stderr, "omni imatrix: stopped; nothing was written\n");
        return 128 + stopped_by();
    }
    if (s != OMNI_OK) {
        return report(&err);
    }
    printf("%s  %zu matrices, %zu pieces, %lld tokens\n", p->output, out.matrices, out.pieces, (long long)out.tokens);
    return 0;
}

int command_imatrix(int argc, char **argv) {
    omni_imatrix_params p = omni_imatrix_params_default();
    int64_t pieces = 0, piece_bytes = 0;
    thread_options threads;
    thread_options_init(&threads);
    flag_list media = {0};
    const flag own[] = {
        {"--model", "-m", FLAG_STRING, &p.model.model, "F", "thinker GGUF (required); F16, BF16 or F32 tells most", 0, 0},
        {"--mmproj", NULL, FLAG_STRING, &p.model.mmproj, "F", "encoders GGUF, for media", 0, 0},
        {"--talker", NULL, FLAG_STRING, &p.model.talker, "F", "talker GGUF: a bit of every answer is spoken, and its matrices looked at too", 0, 0},
        {"--file", "-f", FLAG_STRING, &p.text, "TEXT_FILE", "a corpus: some hundred kilobytes of text such as the model will meet", 0, 0},
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
        "imatrix",
        "",
        "Collects how large the inputs of each matrix are, column by column, for omni quantize --imatrix.",
        "The file has the layout of llama.cpp's llama-imatrix; either program takes the other's. The head (output.weight) is left out.",
        flags,
        sizeof flags / sizeof *flags};
    size_t count = 0;
    p.output = "imatrix.gguf";
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    omni_part *parts = status < 0 ? calloc(media.count + 1, sizeof *parts) : NULL;
    if (status < 0 && !parts) {
        fprintf(stderr, "omni imatrix: out of memory\n");
        status = 1;
    } else if (status < 0 && (!p.model.model || (!p.text && media.count == 0))) {
        fprintf(stderr, "omni imatrix: %s; usage: omni imatrix --model F -f TEXT_FILE -o imatrix.gguf\n",
                !p.model.model ? "which model?" : "nothing to read: give a text with -f, or media");
        status = 2;
    }
    if (status < 0) {
        for (size_t i = 0; i < media.count; i++) {
            parts[i] = (omni_part){.kind = kind_of(media.entries[i].name), .path = media.entries[i].value};
        }
        p.media = parts;
        p.media_count = media.count;
        thread_options_finish(&threads, &p.model.threads, &p.model.scheduling);
        p.max_pieces = (int)pieces;
        p.piece_bytes = (size_t)piece_bytes;
        status = finish(&p);
    }
    free(parts);
    free(media.entries);
    return status;
}
