/* What a conversation in JSON says beside its texts and media: how a part's medium is read, and how the answer shall be made. Every key acts,
 * or is refused by its name; those that ask for what happens anyway ("n": 1), or that no model would see ("tool_call_id"), are taken. */
#ifndef OMNI_TEXT_MESSAGE_KEYS_H
#define OMNI_TEXT_MESSAGE_KEYS_H

#include <jansson.h>

#include "base/error.h"
#include "text/chat.h"

/* An entry of "logit_bias": {"15043": -100}. */
typedef struct message_bias {
    int32_t id;
    float bias;
} message_bias;

/* "tool_choice". */
typedef enum message_tools {
    MESSAGE_TOOLS_NOT_GIVEN,
    MESSAGE_TOOLS_AUTO,
    MESSAGE_TOOLS_NONE,
    MESSAGE_TOOLS_REQUIRED,
    MESSAGE_TOOLS_NAMED,
} message_tools;

/* Of an object with "messages": OpenAI's names, and those that vLLM and llama.cpp add. */
typedef struct message_answer {
    double temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty; /* NAN: not given */
    int64_t top_k;                                                                         /* -1: not given; 0: all */
    int64_t max_tokens;                                                                    /* 0: not given */
    int64_t seed;                                                                          /* -1: not given */
    char **stop;
    size_t stop_count;
    bool has_bias;
    message_bias *bias; /* has_bias: [bias_count]; minus infinity is not among them */
    size_t bias_count;
    bool has_logprobs, logprobs;
    int64_t top_logprobs;        /* -1: not given */
    char *grammar, *json_schema; /* at most one of them; NULL: not given */
    message_tools tools;
    char *tool_name; /* MESSAGE_TOOLS_NAMED */
    bool one_call;   /* parallel_tool_calls false */
    char named[32];  /* one of the keys above that was given; "": none was */
} message_answer;

/* Nothing given. */
message_answer message_answer_none(void);
void message_answer_free(message_answer *a);

/* All keys of a message with that role; values of "content", "images" and calls are not looked at. Errors here and below name the key, not its place.
 */
omni_status message_role_keys(const json_t *message, chat_role role, omni_error *err);
/* Of an entry of "tool_calls", and of "function_call". */
omni_status message_call_keys(const json_t *call, omni_error *err);
/* The name under which an assistant's message gives its reasoning: OpenAI-compatible servers and Ollama have different ones. */
const char *message_reasoning_key(const json_t *message);
omni_status message_part_keys(const json_t *part, const char *type, chat_kind kind, chat_media_options *out, omni_error *err);
/* CHAT_TEXT's parts. */
omni_status message_text_keys(const json_t *part, omni_error *err);
/* All keys of the object with "messages"; values of "messages", "tools", "fps", "use_audio_in_video" and "audio" are not looked at. On failure
 * nothing is left in *out. */
omni_status message_answer_keys(const json_t *root, message_answer *out, omni_error *err);

#endif
