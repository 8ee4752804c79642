/* Byte-level BPE as Qwen's: NFC, split by the pattern that tokenizer.json gives, bytes, merges by rank. Everything is read from a
 * GGUF's own keys (tokenizer.ggml.model "gpt2", .pre "qwen2", .tokens, .token_type, .merges); ids equal those of the `tokenizers` library.
 *
 * Two ways to encode, which differ only in added tokens (those that tokenizer.json lists under "added_tokens", such as <|im_end|>,
 * <think> and <tool_call>; the GGUF gives them the token types "control" and "user defined"):
 *   TOKENIZE_PLAIN   for text from outside: no added token is ever recognised, "<|im_end|>" typed by a user becomes ordinary
 *                    pieces ("<", "|", "im", ...), so text cannot smuggle in markup;
 *   TOKENIZE_MARKUP  for strings of our own: every added token is recognised, the leftmost first, the longest of several.
 * Text need not be valid UTF-8: each malformed sequence is first replaced by U+FFFD (see utf8_decode for where it ends).
 *
 * An open tokenizer is not changed by any call that takes it const: any number of threads may share it. */
#ifndef OMNI_TEXT_TOKENIZER_H
#define OMNI_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "gguf/gguf.h"

typedef struct tokenizer tokenizer;

typedef enum token_kind {
    TOKEN_NORMAL,  /* made by merges */
    TOKEN_CONTROL, /* added, special: markup that is never shown (<|im_start|>, <|audio_pad|>) */
    TOKEN_ADDED,   /* added, not special: markup that is part of an answer's text (<think>, <tool_call>) */
    TOKEN_UNUSED,  /* a row of the vocabulary without meaning; never encoded, decodes to nothing */
} token_kind;

/* A growing list of token ids; {0} is an empty one. */
typedef struct token_list {
    int32_t *ids;
    size_t count, capacity;
} token_list;

omni_status token_list_push(token_list *l, int32_t id, omni_error *err);
void token_list_free(token_list *l);

/* Builds the tables; the GGUF may be closed afterwards. A vocabulary that lacks one of the 256 bytes, merges of unknown pieces, and
 * other tokenizer models or patterns are errors that name the key and the entry. */
omni_status tokenizer_open(gguf *g, tokenizer **out, omni_error *err);
void tokenizer_close(tokenizer *t);

/* Ids are 0 .. tokenizer_size - 1: the vocabulary's rows, padding included. */
size_t tokenizer_size(const tokenizer *t);
/* The id of the token with exactly this text ("<|im_start|>", "assistant"); added tokens are looked up first. -1 when there is none. */
int32_t tokenizer_find(const tokenizer *t, const char *text);
/* TOKEN_UNUSED for ids out of range. */
token_kind tokenizer_kind(const tokenizer *t, int32_t id);
/* The bytes that a token stands for (*size of them, owned by the tokenizer, not NUL-terminated; may be part of a character).
 * Nothing (*size 0) for unused tokens and ids out of range. */
const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *size);
/* Tokens that n bytes of text have at least, whatever they are: told without reading them, to refuse what cannot fit before it costs anything. */
size_t tokenizer_least(const tokenizer *t, size_t n);
/* tokenizer.ggml.eos_token_id, or -1 when the file names none. */
int32_t tokenizer_eos(const tokenizer *t);
/* Whether an answer ends at this token: the file's end of sequence, turn or message, <|im_end|> and <|endoftext|>. */
bool tokenizer_is_end(const tokenizer *t, int32_t id);

typedef enum tokenize_mode { TOKENIZE_PLAIN, TOKENIZE_MARKUP } tokenize_mode;

/* Appends the ids of n bytes of text to *out. Time grows as n log n at worst, whatever the text. On an error out keeps what it had. */
omni_status tokenizer_encode(const tokenizer *t, tokenize_mode mode, const char *text, size_t n, token_list *out, omni_error *err);

/* The longest added token (of kind TOKEN_CONTROL or TOKEN_ADDED) that the n bytes at s begin with, or -1. */
int32_t tokenizer_added_at(const tokenizer *t, const char *s, size_t n);

/* The bytes of count tokens joined; control tokens are left out unless with_control. Malformed UTF-8 that a model may produce is not
 * repaired. *out is NUL-terminated and the caller's to free(). */
omni_status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t count, bool with_control, char **out, size_t *out_size, omni_error *err);

/* Streaming: whole characters only. {0} starts one. */
typedef struct token_stream {
    char pending[4]; /* the unfinished character at the end */
    size_t pending_size;
} token_stream;

/* Room that one call of token_stream_push may need for a token of the tokenizer. */
size_t token_stream_room(const tokenizer *t);
/* Writes the text that a further token completes to out (token_stream_room bytes), valid UTF-8 with malformed sequences replaced by
 * U+FFFD as the whole answer's would be; returns its size, which may be 0. Control tokens give nothing. */
size_t token_stream_push(token_stream *s, const tokenizer *t, int32_t id, char *out);
/* At the end: an unfinished character becomes U+FFFD. Room for 3 bytes. */
size_t token_stream_flush(token_stream *s, char *out);

#endif
