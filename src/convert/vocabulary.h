/* The tokenizer's files as GGUF wants them: a list of tokens (in GPT-2's byte alphabet) with their kinds, and the merges. */
#ifndef OMNI_CONVERT_VOCABULARY_H
#define OMNI_CONVERT_VOCABULARY_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gguf/gguf.h"

/* Kinds as GGUF numbers them. */
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5 };

typedef struct vocabulary {
    gguf_str *tokens; /* [count]: every row of the embedding table; ids that the tokenizer lacks are "[PADn]" */
    int32_t *types;   /* [count] */
    size_t count;
    gguf_str *merges; /* "left right", most frequent first */
    size_t n_merges;
    const char *chat_template; /* NULL: the checkpoint has none */
    uint32_t padding_id;       /* UINT32_MAX: none named */
    json_t *json[4];           /* what the strings above point into */
    char *memory[3];
} vocabulary;

/* The files' texts; NULL for one that does not exist. Needed: tokenizer_json, or vocab_json with merges_txt and tokenizer_config. */
typedef struct vocabulary_texts {
    const char *tokenizer_json, *vocab_json, *merges_txt, *tokenizer_config, *chat_jinja, *chat_json;
    size_t tokenizer_json_size, vocab_json_size, merges_txt_size, tokenizer_config_size, chat_jinja_size, chat_json_size;
} vocabulary_texts;

/* rows: config.json's vocab_size. The texts must outlive the vocabulary. Release with vocabulary_free, whatever the outcome. */
omni_status vocabulary_parse(const vocabulary_texts *texts, uint32_t rows, const char *dir, vocabulary *out, omni_error *err);
void vocabulary_free(vocabulary *v);

/* UINT32_MAX when absent. */
uint32_t vocabulary_find(const vocabulary *v, const char *token);

#endif
