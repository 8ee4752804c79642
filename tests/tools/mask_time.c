/* What constrained output costs: mask_time MODEL.gguf [GRAMMAR.gbnf...] walks answers at random through each grammar (without one: JSON of any
 * kind, and lists of words) over the model's vocabulary, and prints the time to compile it and the times of the masks, the first answer apart, in
 * which nothing is known yet. `vocabulary_gguf` makes such a file of a tokenizer.json alone. Times are processor time of the one thread. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "text/json_schema.h"
#include "text/token_mask.h"

enum { ANSWERS = 50, LONGEST = 400 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

/* One that the mask allows; an end of the answer only where there is nothing else, or one time in four. */
static int32_t choose(const uint32_t *bits, const tokenizer *t, int64_t n) {
    int32_t chosen = -1, end = -1;
    uint32_t seen = 0;
    for (int32_t id = 0; id < n; id++) {
        if (bits[id / 32] >> (id % 32) & 1) {
            if (tokenizer_is_end(t, id)) {
                end = id;
            } else if (random_below(++seen) == 0) {
                chosen = id;
            }
        }
    }
    return end >= 0 && (chosen < 0 || random_below(4) == 0) ? end : chosen;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, double *times, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += times[i];
    }
    qsort(times, n, sizeof *times, by_value);
    printf("  %s: %zu masks, mean %.4f ms, median %.4f, 99%% %.4f, longest %.4f\n", what, n, 1e3 * sum / (double)(n ? n : 1),
           n ? 1e3 * times[n / 2] : 0, n ? 1e3 * times[n * 99 / 100] : 0, n ? 1e3 * times[n - 1] : 0);
}

static omni_status measure(const char *name, const char *text, size_t size, const tokenizer *t, const token_trie *trie, omni_error *err) {
    static double first[LONGEST], later[ANSWERS * LONGEST];
    static int32_t answer[LONGEST];
    const int64_t n = (int64_t)tokenizer_size(t);
    token_grammar *g;
    size_t first_count = 0, later_count = 0;
    double start = now();
    char *made = NULL;
    if (*text == '{') {
        TRY(json_schema_to_grammar(text, size, &made, err));
        text = made;
        size = strlen(made);
    }
    const omni_status created = token_grammar_create(text, size, t, trie, &g, err);
    free(made);
    TRY(created);
    const double compiled = now() - start;
    uint32_t *bits = malloc(((size_t)n / 32 + 1) * sizeof *bits);
    omni_status status = bits ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    for (int i = 0; status == OMNI_OK && i < ANSWERS; i++) {
        token_matcher m;
        token_matcher_init(&m, g, t, false);
        for (size_t count = 0; status == OMNI_OK && count < LONGEST; count++) {
            memset(bits, 0xff, ((size_t)n / 32 + 1) * sizeof *bits);
            start = now();
            status = token_matcher_allow(&m, answer, count, bits, err);
            const double took = now() - start;
            if (i == 0) {
                first[first_count++] = took;
            } else {
                later[later_count++] = took;
            }
            answer[count] = choose(bits, t, n);
            if (answer[count] < 0 || tokenizer_is_end(t, answer[count])) {
                break;
            }
        }
    }
    printf("%s: compiled in %.2f ms\n", name, 1e3 * compiled);
    print_times("first answer", first, first_count);
    print_times("later ones", later, later_count);
    free(bits);
    token_grammar_drop(g);
    return status;
}

static omni_status measure_all(int argc, char **argv, omni_error *err) {
    static const char json[] =
        "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, \"age\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": "
        "150}, "
        "\"tags\": {\"type\": \"array\", \"items\": {\"type\": \"string\", \"maxLength\": 200}, \"maxItems\": 10}, \"address\": {\"type\": "
        "\"object\", "
        "\"properties\": {\"street\": {\"type\": \"string\"}, \"zip\": {\"type\": \"string\", \"pattern\": \"^[0-9]{5}$\"}, \"country\": {\"enum\": "
        "[\"DE\", \"FR\", \"US\"]}}, \"required\": [\"street\", \"zip\"]}, \"score\": {\"type\": \"number\"}, \"born\": {\"type\": \"string\", "
        "\"format\": \"date\"}}, \"required\": [\"name\", \"age\", \"tags\"]}",
                      any[] = "{}", words[] = "root ::= [a-z]+ (\", \" [a-z]+)* \".\"";
    gguf *g;
    tokenizer *t = NULL;
    token_trie *trie = NULL;
    TRY(gguf_open(argv[1], &g, err));
    omni_status status = tokenizer_open(g, &t, err);
    gguf_close(g);
    TRY(status);
    const double start = now();
    status = token_trie_create(t, (int64_t)tokenizer_size(t), &trie, err);
    if (status == OMNI_OK) {
        printf("%zu tokens, %d of them and %d nodes in the tree, which was made in %.1f ms, once for a model\n", tokenizer_size(t), trie->count,
               trie->nodes, 1e3 * (now() - start));
    }
    for (int i = 2; status == OMNI_OK && i < argc; i++) {
        char *text;
        size_t size;
        status = file_read(argv[i], (size_t)1 << 30, &text, &size, err);
        if (status == OMNI_OK) {
            status = measure(argv[i], text, size, t, trie, err);
            free(text);
        }
    }
    if (status == OMNI_OK && argc == 2) {
        status = measure("a record's schema", json, sizeof json - 1, t, trie, err);
        status = status == OMNI_OK ? measure("any JSON", any, sizeof any - 1, t, trie, err) : status;
        status = status == OMNI_OK ? measure("words", words, sizeof words - 1, t, trie, err) : status;
    }
    token_trie_free(trie);
    tokenizer_close(t);
    return status;
}

int main(int argc, char **argv) {
    omni_error err = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: mask_time MODEL.gguf [GRAMMAR.gbnf or SCHEMA.json...]\n");
        return 2;
    }
    const omni_status status = measure_all(argc, argv, &err);
    if (status != OMNI_OK) {
        fprintf(stderr, "mask_time: %s\n", err.text);
    }
    return status == OMNI_OK ? 0 : 1;
}
