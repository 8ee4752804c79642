/* Any bytes as each of a checkpoint's text files: config.json with and without a talker, the preprocessor's settings, the tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "convert/config.h"
#include "convert/vocabulary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void tokenizer(const vocabulary_texts *texts) {
    vocabulary v;
    if (vocabulary_parse(texts, 400, "folder", &v, NULL) == OMNI_OK) {
        size_t bytes = 0;
        for (size_t i = 0; i < v.count; i++) {
            bytes += strlen(v.tokens[i].data) != v.tokens[i].size;
        }
        for (size_t i = 0; i < v.n_merges; i++) {
            bytes += strlen(v.merges[i].data) != v.merges[i].size;
        }
        check(bytes == 0);
        check(vocabulary_find(&v, v.tokens[399].data) != UINT32_MAX);
    }
    vocabulary_free(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1); /* as file_read gives it: NUL behind the end */
    model_config *c = malloc(sizeof *c);
    memcpy(text, data, size);
    text[size] = '\0';
    omni_error err;
    config_parse(text, size, "config.json", true, c, &err);
    if (config_parse(text, size, "config.json", false, c, &err) == OMNI_OK) {
        check(c->thinker.head_dim > 0 && c->vision.grid > 0);
    }
    for (int i = 0; i < 3; i++) {
        const preprocessor_texts texts = {i == 0 ? text : NULL, i == 1 ? text : "{}", i == 2 ? text : NULL, size, i == 1 ? size : 2, size};
        config_parse_preprocessing(&texts, "folder", c, &err);
    }
    tokenizer(&(vocabulary_texts){.tokenizer_json = text, .tokenizer_json_size = size, .chat_jinja = text, .chat_jinja_size = size});
    tokenizer(&(vocabulary_texts){.vocab_json = text,
                                  .vocab_json_size = size,
                                  .merges_txt = "#version: 0.2\na b\n",
                                  .merges_txt_size = 18,
                                  .tokenizer_config = text,
                                  .tokenizer_config_size = size});
    tokenizer(&(vocabulary_texts){.vocab_json = "{\"a\": 3}",
                                  .vocab_json_size = 8,
                                  .merges_txt = text,
                                  .merges_txt_size = size,
                                  .tokenizer_config = "{}",
                                  .tokenizer_config_size = 2,
                                  .chat_json = text,
                                  .chat_json_size = size});
    free(c);
    free(text);
    return 0;
}
