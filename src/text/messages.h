/* Conversations given as JSON, in the forms that clients use:
 *   a list of messages, or an object with "messages" and optionally "tools", "fps", "use_audio_in_video" and "audio" (a list of sounds of
 *   videos that have none of their own, each a path or a data: URL);
 *   a message: {"role": "system" | "developer" | "user" | "assistant" | "tool" | "function", "content"}, content a string, null or a list of parts;
 *   for an assistant also "tool_calls" or "function_call", and "reasoning_content" ("reasoning", "thinking"); for a user "images", pictures in base64
 *   that come before the content;
 *   a part: {"type": "text", "text"}, {"type": "image" | "audio" | "video", "path"} (or the kind's own name as key: "image": FILE);
 *   OpenAI's {"type": "image_url", "image_url": {"url"}} (also "video_url", "audio_url"; the url a data: URL in base64, file:///PATH or a path),
 *   and {"type": "input_audio", "input_audio": {"data": BASE64, "format"}}.
 * Beside what a part is, it may say how it is read (fps, nframes, min_frames, max_frames, video_start, video_end, audio_start, audio_end, min_pixels,
 * max_pixels, total_pixels, resized_height, resized_width, as qwen-omni-utils has them; OpenAI's detail), and the object how the answer is made
 * (temperature, max_tokens, ...; text/message_keys.h). Other keys are refused by name.
 * Errors say which message, which part and what to do. */
#ifndef OMNI_TEXT_MESSAGES_H
#define OMNI_TEXT_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "text/chat.h"
#include "text/message_keys.h"

typedef struct message_limits {
    size_t json_size;  /* bytes of JSON */
    size_t messages;   /* messages of a conversation */
    size_t parts;      /* parts of a message */
    size_t media_size; /* bytes of one file given in base64, decoded */
    bool forbid_files; /* refuse paths: a server's clients may send bytes, not name files of the server */
} message_limits;

/* 256 MiB, 10000, 1000, 128 MiB, files allowed. */
message_limits message_limits_default(void);

/* What an object beside its messages may say. */
typedef struct message_options {
    bool has_fps, has_use_audio_in_video;
    double fps; /* > 0 */
    bool use_audio_in_video;
    message_answer answer; /* temperature and the like */
    chat_message sounds;   /* "audio": its parts. message_options_free releases them. */
} message_options;

void message_options_free(message_options *o);

/* Appends the conversation to *c; on an error c is as it was and *options is empty. options may be NULL. */
omni_status messages_parse(const char *json, size_t size, const message_limits *limits, chat *c, message_options *options, omni_error *err);
/* Appends a list of tools ([{"type": "function", "function": {"name", ...}}]); on an error c is as it was. */
omni_status messages_parse_tools(const char *json, size_t size, const message_limits *limits, chat *c, omni_error *err);

#endif
