/* Fuzzing grammars: what compiles is walked by its own masks. The input is the grammar, up to a NUL; the bytes behind it choose the tokens. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "text/token_mask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 12 };

static tokenizer *open_stored(void) {
    gguf *g = NULL;
    tokenizer *t = NULL;
    check(gguf_open(TEST_DATA "/text/tokenizer.gguf", &g, NULL) == OMNI_OK && tokenizer_open(g, &t, NULL) == OMNI_OK);
    gguf_close(g);
    return t;
}

/* Every token that the mask allows can be said, and the text that the tokens make begins one of the grammar's. */
static void walk(token_grammar *g, const tokenizer *t, const token_trie *trie, const uint8_t *choices, size_t count) {
    token_matcher m;
    int32_t answer[STEPS];
    uint32_t *bits = malloc((trie->words + 1) * sizeof *bits);
    check(bits != NULL);
    token_matcher_init(&m, g, t, false);
    for (size_t n = 0; n < STEPS; n++) {
        memset(bits, 0xff, trie->words * sizeof *bits);
        const omni_status status = token_matcher_allow(&m, answer, n, bits, NULL);
        check(status == OMNI_OK || status == OMNI_ERR_LIMIT);
        int32_t chosen = -1, wanted = n < count ? choices[n] : 0;
        for (int32_t id = 0; status == OMNI_OK && id < trie->vocabulary; id++) {
            if ((bits[id / 32] >> (id % 32) & 1) && !tokenizer_is_end(t, id)) {
                chosen = id;
                if (wanted-- == 0) {
                    break;
                }
            }
        }
        if (chosen < 0) {
            break;
        }
        answer[n] = chosen;
    }
    free(bits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tokenizer *t;
    static token_trie *trie;
    if (!t) {
        t = open_stored();
        check(token_trie_create(t, (int64_t)tokenizer_size(t), &trie, NULL) == OMNI_OK);
    }
    const uint8_t *end = memchr(data, 0, size);
    const size_t text = end ? (size_t)(end - data) : size;
    token_grammar *g = NULL;
    omni_error err = {0};
    const omni_status status = token_grammar_create((const char *)data, text, t, trie, &g, &err);
    check((status == OMNI_OK) == (g != NULL) && (status == OMNI_OK || err.text[0]));
    if (g) {
        bool begins, whole;
        check(token_grammar_check(g, (const char *)data, text < 200 ? text : 200, &begins, &whole, &err) != OMNI_ERR_FORMAT);
        walk(g, t, trie, data + text + (end != NULL), size - text - (end != NULL));
        token_grammar_drop(g);
    }
    return 0;
}
