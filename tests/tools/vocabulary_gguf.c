/* vocabulary_gguf tokenizer.json OUT.gguf: a vocabulary alone as a GGUF file, for tools that need no model (mask_time, tokenize_tool). */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "convert/vocabulary.h"

enum { ROWS = 152064 }; /* of the released models */

static omni_status write_vocabulary(const vocabulary *v, const char *path, omni_error *err) {
    gguf_writer *w;
    TRY(gguf_writer_create(path, &w, err));
    gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_put_str(w, "tokenizer.ggml.pre", "qwen2");
    gguf_put_strs(w, "tokenizer.ggml.tokens", v->tokens, v->count);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", v->types, v->count);
    gguf_put_strs(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", vocabulary_find(v, "<|im_end|>"));
    const omni_status status = gguf_writer_begin(w, err);
    if (status != OMNI_OK) {
        gguf_writer_abandon(w);
        return status;
    }
    return gguf_writer_finish(w, err);
}

int main(int argc, char **argv) {
    omni_error err = {0};
    char *text = NULL;
    size_t size = 0;
    vocabulary v = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: vocabulary_gguf tokenizer.json OUT.gguf\n");
        return 2;
    }
    omni_status status = file_read(argv[1], (size_t)1 << 30, &text, &size, &err);
    if (status == OMNI_OK) {
        const vocabulary_texts texts = {.tokenizer_json = text, .tokenizer_json_size = size};
        status = vocabulary_parse(&texts, ROWS, argv[1], &v, &err);
        status = status == OMNI_OK ? write_vocabulary(&v, argv[2], &err) : status;
        vocabulary_free(&v);
    }
    free(text);
    if (status != OMNI_OK) {
        fprintf(stderr, "vocabulary_gguf: %s\n", err.text);
    }
    return status == OMNI_OK ? 0 : 1;
}
