/* Fuzzing the tokenizer. The first byte says what the rest is: 'v' a GGUF to read a vocabulary from, anything else text to encode with the
 * vocabulary of the tests. Beyond not crashing: decoding gives back text that encodes to the same ids, and a stream gives the same text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "check.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const tokenizer *t, const char *text, size_t n) {
    token_list ids = {0}, again = {0};
    char *decoded, *out = malloc(token_stream_room(t));
    size_t size, streamed = 0;
    check(tokenizer_encode(t, TOKENIZE_MARKUP, text, n, &ids, NULL) == OMNI_OK);
    ids.count = 0;
    check(tokenizer_encode(t, TOKENIZE_PLAIN, text, n, &ids, NULL) == OMNI_OK);
    check(tokenizer_decode(t, ids.ids, ids.count, true, &decoded, &size, NULL) == OMNI_OK);
    check(utf8_valid(decoded, size));
    check(tokenizer_encode(t, TOKENIZE_PLAIN, decoded, size, &again, NULL) == OMNI_OK);
    check(again.count == ids.count && (ids.count == 0 || memcmp(again.ids, ids.ids, ids.count * sizeof *ids.ids) == 0));
    token_stream stream = {0};
    for (size_t i = 0; i < ids.count; i++) {
        check(tokenizer_kind(t, ids.ids[i]) == TOKEN_NORMAL);
        size_t k = token_stream_push(&stream, t, ids.ids[i], out);
        check(streamed + k <= size && memcmp(decoded + streamed, out, k) == 0);
        streamed += k;
    }
    check(token_stream_flush(&stream, out) == 0 && streamed == size);
    /* Any ids in any order must decode, as a model may say anything. */
    stream = (token_stream){0};
    for (size_t i = 0; i + 1 < n; i += 2) {
        int32_t id = (int32_t)((uint8_t)text[i] | (uint32_t)(uint8_t)text[i + 1] << 8) - 100;
        size_t k = token_stream_push(&stream, t, id, out);
        check(utf8_valid(out, k) && k <= token_stream_room(t));
    }
    free(decoded);
    free(out);
    token_list_free(&ids);
    token_list_free(&again);
}

static tokenizer *open_stored(void) {
    gguf *g = NULL;
    tokenizer *t = NULL;
    check(gguf_open(TEST_DATA "/text/tokenizer.gguf", &g, NULL) == OMNI_OK && tokenizer_open(g, &t, NULL) == OMNI_OK);
    gguf_close(g);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tokenizer *stored;
    if (size == 0) {
        return 0;
    }
    stored = stored ? stored : open_stored();
    if (data[0] != 'v') {
        check_text(stored, (const char *)data + 1, size - 1);
        return 0;
    }
    /* Aligned, as a mapped file is. */
    char *file = aligned_alloc(64, (size + 63) / 64 * 64);
    memcpy(file, data + 1, size - 1);
    gguf *g;
    tokenizer *t;
    if (gguf_open_memory(file, size - 1, "fuzz", &g, NULL) == OMNI_OK) {
        if (tokenizer_open(g, &t, NULL) == OMNI_OK) {
            static const char text[] = "<|im_start|>abcd it's\n\n \xE4\xBD\xA0\xE5\xA5\xBD ab ab cdcdababab e\xCC\x81 \xFF\xF0\x9F";
            check_text(t, text, sizeof text - 1);
            tokenizer_close(t);
        }
        gguf_close(g);
    }
    free(file);
    return 0;
}
