#include <string.h>

#include "server/fetch.h"
#include "server/responses.h"

static bool is_given(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return v && !json_is_null(v);
}

static bool is_text(const json_t *object, const char *key, const char *text) {
    const char *v = json_string_value(json_object_get(object, key));
    return v && strcmp(v, text) == 0;
}

static bool refuse(exchange *x, const char *param, const char *text) {
    reply_error(x, 400, param, "invalid_value", "\"%s\" %s", param, text);
    return false;
}

/* ---- parts ---- */

/* A part of an item's content, as chat completions have it; NULL: refused. */
static json_t *as_part(exchange *x, const json_t *part, size_t item, size_t index) {
    const char *type = json_string_value(json_object_get(part, "type"));
    char where[64];
    snprintf(where, sizeof where, "input[%zu].content[%zu]", item, index);
    if (!type) {
        refuse(x, where, "must be an object with a type");
        return NULL;
    }
    if (strcmp(type, "input_text") == 0 || strcmp(type, "output_text") == 0 || strcmp(type, "text") == 0 || strcmp(type, "reasoning_text") == 0) {
        return json_pack("{s:s, s:O?}", "type", "text", "text", json_object_get(part, "text"));
    }
    if (strcmp(type, "refusal") == 0) {
        return json_pack("{s:s, s:O?}", "type", "text", "text", json_object_get(part, "refusal"));
    }
    if (strcmp(type, "input_image") == 0) {
        if (!json_is_string(json_object_get(part, "image_url"))) {
            refuse(x, where, "must have its image_url, a data: URL or, with --allow-fetch, an http(s) URL: files are not kept here");
            return NULL;
        }
        json_t *url = json_pack("{s:O}", "url", json_object_get(part, "image_url"));
        if (is_given(part, "detail")) {
            json_object_set(url, "detail", json_object_get(part, "detail"));
        }
        return json_pack("{s:s, s:o*}", "type", "image_url", "image_url", url);
    }
    if (strcmp(type, "input_audio") == 0 || strcmp(type, "audio_url") == 0 || strcmp(type, "video_url") == 0 || strcmp(type, "image_url") == 0) {
        return json_deep_copy(part);
    }
    reply_error(x, 400, where, "invalid_value", "%s: a part of type %.40s is not taken: input_text, input_image and input_audio are", where, type);
    return NULL;
}

/* A text, or a list of parts; NULL: refused. */
static json_t *as_content(exchange *x, const json_t *content, size_t item) {
    if (!json_is_array(content)) {
        return content ? json_incref((json_t *)content) : json_null();
    }
    json_t *list = json_array();
    size_t i;
    json_t *part;
    json_array_foreach(content, i, part) {
        char where[64];
        snprintf(where, sizeof where, "input[%zu].content[%zu]", item, i);
        json_t *one = fetch_part(x, part, where) ? as_part(x, part, item, i) : NULL;
        if (!one) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, one);
    }
    return list;
}

/* ---- items ---- */

/* The assistant's message at the end of the list, or a new one: its words, its calls and its thoughts come as items of their own. */
static json_t *assistant_at_end(json_t *messages) {
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    if (!is_text(last, "role", "assistant")) {
        last = json_pack("{s:s, s:n}", "role", "assistant", "content");
        json_array_append_new(messages, last);
    }
    return last;
}

static bool add_call(json_t *messages, const json_t *item) {
    json_t *last = assistant_at_end(messages), *calls = json_object_get(last, "tool_calls");
    if (!calls) {
        calls = json_array();
        json_object_set_new(last, "tool_calls", calls);
    }
    return json_array_append_new(calls,
                                 json_pack("{s:O?, s:s, s:{s:O?, s:O?}}", "id", json_object_get(item, "call_id"), "type", "function", "function",
                                           "name", json_object_get(item, "name"), "arguments", json_object_get(item, "arguments"))) == 0;
}

static bool add_output(exchange *x, json_t *messages, const json_t *item, size_t index) {
    json_t *content = as_content(x, json_object_get(item, "output"), index);
    return content && json_array_append_new(messages, json_pack("{s:s, s:O?, s:o*}", "role", "tool", "tool_call_id", json_object_get(item, "call_id"),
                                                                "content", content)) == 0;
}

/* Only what was thought since the last question is shown to the model; the library's layout leaves earlier thoughts out. */
static bool add_reasoning(exchange *x, json_t *messages, const json_t *item) {
    bytes text = {0};
    size_t i;
    json_t *part;
    json_array_foreach(json_object_get(item, "content"), i, part) {
        const json_t *t = json_object_get(part, "text");
        bytes_add(&text, json_string_value(t), json_string_length(t));
    }
    if (text.size > 0) {
        json_t *message = json_pack("{s:s, s:n, s:o*}", "role", "assistant", "content", "reasoning_content", text_value(text.data, text.size));
        json_array_append_new(messages, message);
    }
    bytes_free(&text);
    return true;
}

static bool add_message(exchange *x, json_t *messages, const json_t *item, size_t index) {
    json_t *content = as_content(x, json_object_get(item, "content"), index);
    if (!content) {
        return false;
    }
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    if (is_text(item, "role", "assistant") && is_text(last, "role", "assistant") && json_is_null(json_object_get(last, "content")) &&
        !json_object_get(last, "tool_calls")) {
        return json_object_set_new(last, "content", content) == 0; /* after its thoughts */
    }
    return json_array_append_new(messages, json_pack("{s:O?, s:o*}", "role", json_object_get(item, "role"), "content", content)) == 0;
}

bool responses_add_item(exchange *x, json_t *messages, const json_t *item, size_t index) {
    char where[64];
    snprintf(where, sizeof where, "input[%zu]", index);
    const char *type = json_string_value(json_object_get(item, "type"));
    if (!json_is_object(item)) {
        return refuse(x, where, "must be an object");
    }
    if (!type || strcmp(type, "message") == 0) {
        return add_message(x, messages, item, index);
    }
    if (strcmp(type, "function_call") == 0) {
        return add_call(messages, item);
    }
    if (strcmp(type, "function_call_output") == 0) {
        return add_output(x, messages, item, index);
    }
    if (strcmp(type, "reasoning") == 0) {
        return add_reasoning(x, messages, item);
    }
    reply_error(x, 400, where, "invalid_value",
                "%s: an item of type %.40s is not taken: message, function_call, function_call_output and reasoning are, and nothing is kept here",
                where, type);
    return false;
}

static bool read_input(exchange *x, const json_t *root, json_t *messages) {
    const json_t *input = json_object_get(root, "input"), *instructions = json_object_get(root, "instructions");
    if (is_given(root, "instructions")) {
        if (!json_is_string(instructions)) {
            return refuse(x, "instructions", "must be a text");
        }
        json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "system", "content", instructions));
    }
    if (json_is_string(input)) {
        return json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "user", "content", input)) == 0;
    }
    if (!json_is_array(input) || json_array_size(input) == 0) {
        return refuse(x, "input", "must be a text, or a list of items");
    }
    size_t i;
    json_t *item;
    json_array_foreach(input, i, item) {
        if (!responses_add_item(x, messages, item, i)) {
            return false;
        }
    }
    return true;
}

/* ---- tools and the form of the answer ---- */

bool responses_read_tools(exchange *x, const json_t *root, json_t *chat) {
    const json_t *tools = json_object_get(root, "tools"), *choice = json_object_get(root, "tool_choice");
    if (is_given(root, "tools")) {
        json_t *list = json_array();
        size_t i;
        json_t *tool;
        json_object_set_new(chat, "tools", list);
        json_array_foreach(tools, i, tool) {
            if (!is_text(tool, "type", "function")) {
                return refuse(x, "tools", "must be functions: this server calls none by itself");
            }
            json_t *function = json_copy(tool);
            json_object_del(function, "type");
            json_array_append_new(list, json_pack("{s:s, s:o*}", "type", "function", "function", function));
        }
        if (!json_is_array(tools)) {
            return refuse(x, "tools", "must be a list");
        }
    }
    if (is_text(choice, "type", "function")) {
        json_object_set_new(chat, "tool_choice",
                            json_pack("{s:s, s:{s:O?}}", "type", "function", "function", "name", json_object_get(choice, "name")));
    } else if (is_given(root, "tool_choice")) {
        json_object_set(chat, "tool_choice", (json_t *)choice);
    }
    return true;
}

/* "text": {"format": {"type": "json_schema", "name", "schema", "strict"}} */
static bool read_format(exchange *x, const json_t *root, json_t *chat) {
    const json_t *format = json_object_get(json_object_get(root, "text"), "format");
    if (!format || json_is_null(format)) {
        return true;
    }
    if (!json_is_object(format)) {
        return refuse(x, "text.format", "must be an object");
    }
    if (is_text(format, "type", "json_schema")) {
        json_t *schema = json_copy((json_t *)format);
        json_object_del(schema, "type");
        json_object_set_new(chat, "response_format", json_pack("{s:s, s:o*}", "type", "json_schema", "json_schema", schema));
    } else {
        json_object_set(chat, "response_format", (json_t *)format);
    }
    return true;
}

static bool read_logprobs(const json_t *root, json_t *chat) {
    bool wanted = is_given(root, "top_logprobs");
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(root, "include"), i, one) {
        const char *name = json_string_value(one);
        wanted |= name && strcmp(name, "message.output_text.logprobs") == 0;
    }
    if (wanted) {
        json_object_set_new(chat, "logprobs", json_true());
        if (is_given(root, "top_logprobs")) {
            json_object_set(chat, "top_logprobs", json_object_get(root, "top_logprobs"));
        }
    }
    return true;
}

/* What needs a memory, or a time of its own, that this server does not have. */
static bool check_unkept(exchange *x, const json_t *root) {
    if (is_given(root, "previous_response_id")) {
        return refuse(x, "previous_response_id", "cannot be found: no response is kept here, send the whole conversation as input");
    }
    if (is_given(root, "conversation")) {
        return refuse(x, "conversation", "cannot be found: no conversation is kept here, send all of it as input");
    }
    if (is_given(root, "prompt")) {
        return refuse(x, "prompt", "cannot be found: no prompts are kept here");
    }
    if (json_is_true(json_object_get(root, "background"))) {
        return refuse(x, "background", "must be false: no response is kept here");
    }
    if (is_given(root, "truncation") && !is_text(root, "truncation", "disabled")) {
        return refuse(x, "truncation", "must be disabled: nothing of a conversation is left out here");
    }
    return true;
}

json_t *responses_as_chat(exchange *x, const json_t *root) {
    static const char *const same[] = {"temperature",
                                       "top_p",
                                       "min_p",
                                       "top_k",
                                       "seed",
                                       "repetition_penalty",
                                       "stop",
                                       "repeat_penalty",
                                       "logit_bias",
                                       "presence_penalty",
                                       "frequency_penalty",
                                       "parallel_tool_calls",
                                       "stream",
                                       "fps",
                                       "use_audio_in_video",
                                       NULL};
    json_t *messages = json_array(), *chat = json_pack("{s:o*}", "messages", messages);
    for (const char *const *key = same; *key; key++) {
        if (is_given(root, *key)) {
            json_object_set(chat, *key, json_object_get(root, *key));
        }
    }
    if (is_given(root, "max_output_tokens")) {
        json_object_set(chat, "max_completion_tokens", json_object_get(root, "max_output_tokens"));
    }
    if (check_unkept(x, root) && read_input(x, root, messages) && responses_read_tools(x, root, chat) && read_format(x, root, chat) &&
        read_logprobs(root, chat)) {
        return chat;
    }
    json_decref(chat);
    return NULL;
}
