/* The tokenizer for scripts: tokenize_tool MODEL.gguf plain|markup < RECORDS prints the ids of each record, a line each. A record is its
 * length (4 bytes, little endian) and that many bytes, so that any text can be given. tokenize_tool MODEL.gguf bench FILE... encodes
 * each file a few times and prints the best rate (by processor time). */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "text/tokenizer.h"

/* Processor time, so that a busy machine does not make the tokenizer look slow. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static omni_status records(const tokenizer *t, tokenize_mode mode, omni_error *err) {
    unsigned char head[4];
    char *text = NULL;
    token_list ids = {0};
    omni_status status = OMNI_OK;
    while (status == OMNI_OK && fread(head, 1, 4, stdin) == 4) {
        size_t n = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        free(text);
        text = malloc(n + 1);
        if (!text || fread(text, 1, n, stdin) != n) {
            status = fail(err, OMNI_ERR_IO, "a record is shorter than it says");
            break;
        }
        ids.count = 0;
        status = tokenizer_encode(t, mode, text, n, &ids, err);
        for (size_t i = 0; i < ids.count; i++) {
            printf("%s%d", i ? " " : "", ids.ids[i]);
        }
        putchar('\n');
    }
    free(text);
    token_list_free(&ids);
    return status;
}

static omni_status bench(const tokenizer *t, const char *path, omni_error *err) {
    char *text;
    size_t n;
    TRY(file_read(path, (size_t)1 << 30, &text, &n, err));
    token_list ids = {0};
    omni_status status = OMNI_OK;
    double best = 1e30;
    for (int i = 0; i < 5 && status == OMNI_OK; i++) {
        ids.count = 0;
        double start = now();
        status = tokenizer_encode(t, TOKENIZE_PLAIN, text, n, &ids, err);
        double took = now() - start;
        best = took < best ? took : best;
    }
    if (status == OMNI_OK) {
        printf("%s: %zu bytes, %zu tokens, %.1f MB/s\n", path, n, ids.count, 1e-6 * (double)n / best);
    }
    free(text);
    token_list_free(&ids);
    return status;
}

int main(int argc, char **argv) {
    omni_error err = {0};
    gguf *g = NULL;
    tokenizer *t = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: tokenize_tool MODEL.gguf plain|markup < RECORDS\n       tokenize_tool MODEL.gguf bench FILE...\n");
        return 2;
    }
    omni_status status = gguf_open(argv[1], &g, &err);
    double start = now();
    if (status == OMNI_OK) {
        status = tokenizer_open(g, &t, &err);
    }
    if (status == OMNI_OK && strcmp(argv[2], "bench") == 0) {
        printf("opened in %.0f ms\n", 1e3 * (now() - start));
        for (int i = 3; i < argc && status == OMNI_OK; i++) {
            status = bench(t, argv[i], &err);
        }
    } else if (status == OMNI_OK) {
        status = records(t, strcmp(argv[2], "markup") == 0 ? TOKENIZE_MARKUP : TOKENIZE_PLAIN, &err);
    }
    if (status != OMNI_OK) {
        fprintf(stderr, "tokenize_tool: %s\n", err.text);
    }
    tokenizer_close(t);
    gguf_close(g);
    return status == OMNI_OK ? 0 : 1;
}
