/* Conversations and their layout as tokens:
 *     <|im_start|>ROLE\nCONTENT<|im_end|>\n ... <|im_start|>assistant\n
 * Media stand in their content as <|vision_start|>IMAGE<|vision_end|>, <|vision_start|>VIDEO<|vision_end|>, <|audio_start|>AUDIO<|audio_end|>,
 * where the capitals become a segment of their own, which the model side expands to one position an embedding.
 * Tools, tool calls and reasoning are laid out as Qwen3's published template does; an answer's reasoning is left out once the user
 * has spoken again. The ids are those of the whole rendered string given to the reference tokenizer, with one difference that is wanted:
 * text from outside (system, user, tool answers, tools) never yields an added token. In assistant turns, which hold what a model said,
 * <think>, <tool_call> and the other added tokens that are not control tokens are markup; control tokens are not. */
#ifndef OMNI_TEXT_CHAT_H
#define OMNI_TEXT_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"

typedef enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL } chat_role;
typedef enum chat_kind { CHAT_TEXT, CHAT_IMAGE, CHAT_AUDIO, CHAT_VIDEO } chat_kind;

/* How a medium is read, as its part says; 0: not given. The meanings are those of qwen-omni-utils 0.0.9. */
typedef struct chat_media_options {
    double fps, start, end;                 /* frames a second; seconds of the video or sound */
    int64_t frames, min_frames, max_frames; /* nframes, or limits on what fps gives */
    int64_t min_pixels, max_pixels, total_pixels;
    int64_t height, width; /* resized_height, resized_width */
} chat_media_options;

/* One part of a message. All memory is the conversation's. */
typedef struct chat_part {
    chat_kind kind;
    char *text; /* CHAT_TEXT: size bytes, NUL-terminated behind them */
    char *path; /* media: a file, or NULL when data holds the file's bytes */
    uint8_t *data;
    size_t size; /* bytes of text or data */
    chat_media_options options;
} chat_part;

typedef struct chat_call {
    char *id; /* NULL: none given */
    char *name;
    char *arguments; /* JSON text, laid out as it is */
} chat_call;

typedef struct chat_message {
    chat_role role;
    chat_part *parts;
    size_t part_count;
    char *reasoning; /* assistant: what stood in <think>, NULL when none is given apart from the content */
    chat_call *calls;
    size_t call_count;
    /* Assistant: the ids that the model gave, <|im_end|> left out. When there are any, they are laid out in place of parts, reasoning and
     * calls: a conversation that goes on then keeps its key/value cache, which a second tokenisation of the text might not fit. */
    token_list answer;
} chat_message;

typedef struct chat {
    chat_message *messages;
    size_t count;
    char **tools; /* JSON text each, as OpenAI's "tools" list has them */
    size_t tool_count;
} chat;

void chat_free(chat *c);
void chat_message_free(chat_message *m);
const char *chat_role_name(chat_role role);
const char *chat_kind_name(chat_kind kind);

/* Each appends; strings and bytes are copied. *out may be NULL; it is valid until the next message is added. */
omni_status chat_add_message(chat *c, chat_role role, chat_message **out, omni_error *err);
omni_status chat_add_text(chat_message *m, const char *text, size_t size, omni_error *err);
/* A media file's path, or (path NULL) its size bytes. */
omni_status chat_add_media(chat_message *m, chat_kind kind, const char *path, const void *data, size_t size, omni_error *err);
omni_status chat_add_call(chat_message *m, const char *id, const char *name, const char *arguments, omni_error *err);
omni_status chat_add_tool(chat *c, const char *json, omni_error *err);
/* Takes messages from the end of the conversation until count are left: undoes what failed half-way. */
void chat_truncate(chat *c, size_t count);
/* Takes out count messages from first on. */
void chat_remove(chat *c, size_t first, size_t count);
void chat_truncate_tools(chat *c, size_t count);

/* What the model reads, in order: tokens, and media between their brackets. */
typedef struct chat_segment {
    chat_kind kind;         /* CHAT_TEXT: tokens */
    size_t begin, count;    /* tokens: ids[begin .. begin + count) of the prompt */
    const chat_part *media; /* others: the part, owned by the conversation */
    size_t index;           /* others: its number among all media of the conversation, from 0 */
} chat_segment;

typedef struct chat_prompt {
    token_list ids;
    chat_segment *segments;
    size_t count, capacity;
    size_t media_count;
} chat_prompt;

/* Lays out the whole conversation; with ask, followed by the opening of an assistant turn. *out must be empty ({0}); it refers to the
 * conversation's parts. A vocabulary without the markup's tokens is an error that names the token. What certainly has more than most tokens (0: any
 * number) is OMNI_ERR_LIMIT before it is tokenised; what has a few more may be laid out. */
omni_status chat_render(const chat *c, const tokenizer *t, bool ask, size_t most, chat_prompt *out, omni_error *err);
void chat_prompt_free(chat_prompt *p);

#endif
