#include "text/messages.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/base64.h"
#include "text/json_text.h"

message_limits message_limits_default(void) {
    return (message_limits){.json_size = (size_t)256 << 20, .messages = 10000, .parts = 1000, .media_size = (size_t)128 << 20};
}

/* Where a fault lies: message, and part (WHOLE_MESSAGE: the message itself; VIDEO_SOUND: that entry of the request's "audio" instead). */
enum { WHOLE_MESSAGE = -1, VIDEO_SOUND = -2 };
typedef struct place {
    size_t message;
    long part;
    bool image; /* part counts "images", not "content" */
} place;

static const char *place_name(place at, char text[static 64]) {
    if (at.part >= 0) {
        snprintf(text, 64, "messages[%zu].%s[%ld]", at.message, at.image ? "images" : "content", at.part);
    } else {
        snprintf(text, 64, at.part == VIDEO_SOUND ? "audio[%zu]" : "messages[%zu]", at.message);
    }
    return text;
}

__attribute__((format(printf, 3, 4))) static omni_status wrong(omni_error *err, place at, const char *format, ...) {
    char text[700];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char name[64];
    return fail(err, OMNI_ERR_FORMAT, "%s: %s", place_name(at, name), text);
}

static const char *type_name(const json_t *v) {
    static const char *const names[] = {"an object", "a list", "a string", "an integer", "a number", "true", "false", "null"};
    return v ? names[json_typeof(v)] : "missing";
}

static bool present(const json_t *v) {
    return v && !json_is_null(v);
}

/* Puts the place in front of an error that does not know it. */
static omni_status placed(omni_status status, place at, omni_error *err) {
    char name[64];
    return status == OMNI_OK ? OMNI_OK : fail_in(err, status, "%s", place_name(at, name));
}

/* A string without NUL in it, or NULL. */
static const char *plain_string(const json_t *v) {
    return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v) ? json_string_value(v) : NULL;
}

/* ---- media ---- */

static omni_status add_file(chat_message *m, chat_kind kind, const char *path, const message_limits *limits, place at, omni_error *err) {
    if (limits->forbid_files) {
        return wrong(err, at, "files of this machine cannot be named here; send the %s as a data: URL in base64", chat_kind_name(kind));
    }
    return chat_add_media(m, kind, path, NULL, 0, err);
}

static omni_status add_base64(chat_message *m, chat_kind kind, const char *s, size_t n, const message_limits *limits, place at, omni_error *err) {
    uint8_t *data;
    size_t size;
    TRY(placed(base64_decode(s, n, limits->media_size, &data, &size, err), at, err));
    omni_status status = size > 0 ? chat_add_media(m, kind, NULL, data, size, err) : wrong(err, at, "the %s has no bytes", chat_kind_name(kind));
    free(data);
    return status;
}

/* "data:image/png;base64,....": what stands before the comma may be anything that ends in ";base64". */
static omni_status add_data_url(chat_message *m, chat_kind kind, const char *url, const message_limits *limits, place at, omni_error *err) {
    static const char suffix[] = ";base64";
    const char *comma = strchr(url, ',');
    size_t head = comma ? (size_t)(comma - url) : 0;
    if (head < strlen(suffix) || memcmp(comma - strlen(suffix), suffix, strlen(suffix)) != 0) {
        return wrong(err, at, "a data: URL must be in base64: data:TYPE;base64,DATA");
    }
    return add_base64(m, kind, comma + 1, strlen(comma + 1), limits, at, err);
}

static omni_status add_url(chat_message *m, chat_kind kind, const char *url, const message_limits *limits, place at, omni_error *err) {
    if (*url == 0) {
        return wrong(err, at, "the %s's path is empty", chat_kind_name(kind));
    }
    if (strncmp(url, "data:", 5) == 0) {
        return add_data_url(m, kind, url, limits, at, err);
    }
    if (strncmp(url, "file://", 7) == 0) {
        return add_file(m, kind, url + 7, limits, at, err);
    }
    if (strstr(url, "://")) {
        return wrong(err, at, "\"%.80s\": nothing is fetched from the network; give a file's path, or a data: URL in base64", url);
    }
    return add_file(m, kind, url, limits, at, err);
}

/* {"path": F}, {"image": F}, {"url": U}, {"image_url": U} or {"image_url": {"url": U}}. */
static omni_status add_media_part(chat_message *m, chat_kind kind, const json_t *part, const message_limits *limits, place at, omni_error *err) {
    static const char *const url_keys[] = {NULL, "image_url", "audio_url", "video_url"};
    const char *const keys[] = {"path", chat_kind_name(kind), url_keys[kind], "url"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(part, keys[i]);
        const char *key = keys[i];
        if (json_is_object(v)) {
            v = json_object_get(v, "url");
            key = "url";
        }
        if (!present(v)) {
            continue;
        }
        const char *s = plain_string(v);
        if (!s) {
            return wrong(err, at, "\"%s\" must be a string, found %s", key, json_is_string(v) ? "one with a NUL in it" : type_name(v));
        }
        return i == 0 ? (*s ? add_file(m, kind, s, limits, at, err) : wrong(err, at, "\"path\" is empty")) : add_url(m, kind, s, limits, at, err);
    }
    return wrong(err, at, "the %s is missing; give its file as \"path\", or as \"%s\": {\"url\": \"data:...;base64,...\"}", chat_kind_name(kind),
                 url_keys[kind]);
}

/* OpenAI's {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}; the format is found from the bytes. */
static omni_status add_input_audio(chat_message *m, const json_t *part, const message_limits *limits, place at, omni_error *err) {
    const json_t *v = json_object_get(json_object_get(part, "input_audio"), "data");
    const char *s = plain_string(v);
    if (!s) {
        return wrong(err, at, "\"input_audio\" must be {\"data\": BASE64, \"format\": NAME}");
    }
    return strncmp(s, "data:", 5) == 0 ? add_data_url(m, CHAT_AUDIO, s, limits, at, err) : add_base64(m, CHAT_AUDIO, s, strlen(s), limits, at, err);
}

/* ---- messages ---- */

/* Adds a medium with what its part says of how it is read. */
static omni_status add_medium(chat_message *m, const char *type, chat_kind kind, const json_t *part, const message_limits *limits, place at,
                              omni_error *err) {
    chat_media_options options;
    TRY(placed(message_part_keys(part, type, kind, &options, err), at, err));
    TRY(strcmp(type, "input_audio") == 0 ? add_input_audio(m, part, limits, at, err) : add_media_part(m, kind, part, limits, at, err));
    m->parts[m->part_count - 1].options = options;
    return OMNI_OK;
}

static omni_status add_part(chat_message *m, const json_t *part, const message_limits *limits, place at, omni_error *err) {
    if (json_is_string(part)) {
        return chat_add_text(m, json_string_value(part), json_string_length(part), err);
    }
    const char *type = plain_string(json_object_get(part, "type"));
    if (!type) {
        return wrong(err, at,
                     "a part must be {\"type\": \"text\", \"text\": ...} or {\"type\": \"image\" | \"audio\" | \"video\", \"path\": ...}, found %s",
                     json_is_object(part) ? "an object without \"type\"" : type_name(part));
    }
    if (strcmp(type, "text") == 0) {
        const json_t *text = json_object_get(part, "text");
        if (!json_is_string(text)) {
            return wrong(err, at, "\"text\" must be a string, found %s", type_name(text));
        }
        TRY(placed(message_text_keys(part, err), at, err));
        return chat_add_text(m, json_string_value(text), json_string_length(text), err);
    }
    if (strcmp(type, "input_audio") == 0) {
        return add_medium(m, type, CHAT_AUDIO, part, limits, at, err);
    }
    static const char *const names[][2] = {{"image", "image_url"}, {"audio", "audio_url"}, {"video", "video_url"}};
    for (int i = 0; i < 3; i++) {
        if (strcmp(type, names[i][0]) == 0 || strcmp(type, names[i][1]) == 0) {
            return add_medium(m, type, (chat_kind)(CHAT_IMAGE + i), part, limits, at, err);
        }
    }
    return wrong(err, at, "type \"%.40s\" is not known; text, image, audio, video, image_url, audio_url, video_url and input_audio are", type);
}

static omni_status add_content(chat_message *m, const json_t *content, const message_limits *limits, place at, omni_error *err) {
    if (json_is_string(content)) {
        return json_string_length(content) > 0 ? chat_add_text(m, json_string_value(content), json_string_length(content), err) : OMNI_OK;
    }
    if (!json_is_array(content)) {
        if (!present(content) && m->call_count > 0) {
            return OMNI_OK;
        }
        return wrong(err, at, "\"content\" must be a string or a list of parts, found %s", type_name(content));
    }
    if (json_array_size(content) > limits->parts) {
        return fail(err, OMNI_ERR_LIMIT, "messages[%zu]: %zu parts; up to %zu are taken", at.message, json_array_size(content), limits->parts);
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        at.part = (long)i;
        TRY(add_part(m, json_array_get(content, i), limits, at, err));
    }
    return OMNI_OK;
}

/* Ollama's pictures of a message, which stand in front of its text: [BASE64, ...]. */
static omni_status add_images(chat_message *m, const json_t *images, const message_limits *limits, place at, omni_error *err) {
    if (!json_is_array(images)) {
        return wrong(err, at, "\"images\" must be a list of pictures in base64, found %s", type_name(images));
    }
    if (json_array_size(images) > limits->parts) {
        return fail(err, OMNI_ERR_LIMIT, "messages[%zu]: %zu images; up to %zu are taken", at.message, json_array_size(images), limits->parts);
    }
    at.image = true;
    for (size_t i = 0; i < json_array_size(images); i++) {
        at.part = (long)i;
        const char *s = plain_string(json_array_get(images, i));
        if (!s) {
            return wrong(err, at, "must be a picture in base64, found %s", type_name(json_array_get(images, i)));
        }
        TRY(strncmp(s, "data:", 5) == 0 ? add_data_url(m, CHAT_IMAGE, s, limits, at, err) : add_base64(m, CHAT_IMAGE, s, strlen(s), limits, at, err));
    }
    return OMNI_OK;
}

/* key: what holds the call, for errors. */
static omni_status add_call(chat_message *m, const json_t *call, place at, const char *key, omni_error *err) {
    const json_t *function = json_object_get(call, "function");
    function = json_is_object(function) ? function : call;
    const char *name = plain_string(json_object_get(function, "name"));
    if (!name) {
        return wrong(err, at, "%s must be {\"function\": {\"name\": NAME, \"arguments\": JSON}}", key);
    }
    omni_status keys = message_call_keys(call, err);
    if (keys != OMNI_OK) {
        return placed(fail_in(err, keys, "%s", key), at, err);
    }
    const json_t *arguments = json_object_get(function, "arguments");
    if (json_is_string(arguments) && !plain_string(arguments)) {
        return wrong(err, at, "%s: \"arguments\" has a NUL in it", key);
    }
    char *text = json_is_string(arguments) || !present(arguments) ? NULL : json_text(arguments);
    if (present(arguments) && !json_is_string(arguments) && !text) {
        return fail(err, OMNI_ERR_MEMORY, "no memory for the conversation");
    }
    const char *given = json_is_string(arguments) ? json_string_value(arguments) : text ? text : "{}";
    omni_status status = chat_add_call(m, plain_string(json_object_get(call, "id")), name, given, err);
    free(text);
    return status;
}

static omni_status add_assistant(chat_message *m, const json_t *message, place at, omni_error *err) {
    const char *key = message_reasoning_key(message);
    const json_t *calls = json_object_get(message, "tool_calls"), *one = json_object_get(message, "function_call"),
                 *reasoning = json_object_get(message, key);
    if (present(calls) && !json_is_array(calls)) {
        return wrong(err, at, "\"tool_calls\" must be a list, found %s", type_name(calls));
    }
    for (size_t i = 0; i < json_array_size(calls); i++) {
        char entry[48];
        snprintf(entry, sizeof entry, "tool_calls[%zu]", i);
        TRY(add_call(m, json_array_get(calls, i), at, entry, err));
    }
    if (present(one)) { /* OpenAI's older form */
        TRY(add_call(m, one, at, "function_call", err));
    }
    if (present(reasoning)) {
        const char *s = plain_string(reasoning);
        if (!s) {
            return wrong(err, at, "\"%s\" must be a string, found %s", key, type_name(reasoning));
        }
        m->reasoning = strdup(s);
        if (!m->reasoning) {
            return fail(err, OMNI_ERR_MEMORY, "no memory for the conversation");
        }
    }
    return OMNI_OK;
}

static omni_status add_message(chat *c, const json_t *message, const message_limits *limits, place at, omni_error *err) {
    static const struct {
        const char *name;
        chat_role role;
    } roles[] = {
        {"system", CHAT_SYSTEM},       {"developer", CHAT_SYSTEM}, {"user", CHAT_USER},
        {"assistant", CHAT_ASSISTANT}, {"tool", CHAT_TOOL},        {"function", CHAT_TOOL},
    };
    if (!json_is_object(message)) {
        return wrong(err, at, "a message must be {\"role\": ..., \"content\": ...}, found %s", type_name(message));
    }
    const char *name = plain_string(json_object_get(message, "role"));
    for (size_t i = 0; name && i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(name, roles[i].name) == 0) {
            chat_message *m;
            TRY(placed(message_role_keys(message, roles[i].role, err), at, err));
            TRY(chat_add_message(c, roles[i].role, &m, err));
            if (m->role == CHAT_ASSISTANT) {
                TRY(add_assistant(m, message, at, err));
            }
            if (present(json_object_get(message, "images"))) {
                TRY(add_images(m, json_object_get(message, "images"), limits, at, err));
            }
            return add_content(m, json_object_get(message, "content"), limits, at, err);
        }
    }
    return wrong(err, at, "\"role\" must be system, user, assistant or tool, found %s%.40s", name ? "" : type_name(json_object_get(message, "role")),
                 name ? name : "");
}

static omni_status add_tools(chat *c, const json_t *tools, const message_limits *limits, omni_error *err) {
    if (!json_is_array(tools)) {
        return fail(err, OMNI_ERR_FORMAT, "tools: must be a list, found %s", type_name(tools));
    }
    if (json_array_size(tools) > limits->messages) {
        return fail(err, OMNI_ERR_LIMIT, "tools: %zu of them; up to %zu are taken", json_array_size(tools), limits->messages);
    }
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        if (!plain_string(json_object_get(json_is_object(function) ? function : tool, "name"))) {
            return fail(err, OMNI_ERR_FORMAT, "tools[%zu]: must be {\"type\": \"function\", \"function\": {\"name\": NAME, ...}}", i);
        }
        char *text = json_text(tool);
        if (!text) {
            return fail(err, OMNI_ERR_MEMORY, "no memory for the tools");
        }
        omni_status status = chat_add_tool(c, text, err);
        free(text);
        TRY(status);
    }
    return OMNI_OK;
}

static omni_status add_sounds(chat_message *sounds, const json_t *list, const message_limits *limits, omni_error *err) {
    if (!json_is_array(list)) {
        return fail(err, OMNI_ERR_FORMAT, "audio: must be a list of sounds, found %s", type_name(list));
    }
    if (json_array_size(list) > limits->parts) {
        return fail(err, OMNI_ERR_LIMIT, "audio: %zu sounds; up to %zu are taken", json_array_size(list), limits->parts);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const place at = {.message = i, .part = VIDEO_SOUND};
        const char *url = plain_string(json_array_get(list, i));
        TRY(url ? add_url(sounds, CHAT_AUDIO, url, limits, at, err) : wrong(err, at, "must be a path or a data: URL"));
    }
    return OMNI_OK;
}

void message_options_free(message_options *o) {
    chat_message_free(&o->sounds);
    message_answer_free(&o->answer);
}

static omni_status read_options(const json_t *root, const message_limits *limits, message_options *o, omni_error *err) {
    const json_t *fps = json_object_get(root, "fps"), *sound = json_object_get(root, "use_audio_in_video"), *audio = json_object_get(root, "audio");
    *o = (message_options){.has_fps = present(fps), .has_use_audio_in_video = present(sound), .answer = message_answer_none()};
    if (o->has_fps) {
        o->fps = json_number_value(fps);
        if (!json_is_number(fps) || !(o->fps > 0) || !isfinite(o->fps)) {
            return fail(err, OMNI_ERR_FORMAT, "fps: must be a number above 0");
        }
    }
    if (o->has_use_audio_in_video) {
        if (!json_is_boolean(sound)) {
            return fail(err, OMNI_ERR_FORMAT, "use_audio_in_video: must be true or false, found %s", type_name(sound));
        }
        o->use_audio_in_video = json_is_true(sound);
    }
    TRY(message_answer_keys(root, &o->answer, err));
    return present(audio) ? add_sounds(&o->sounds, audio, limits, err) : OMNI_OK;
}

static omni_status load(const char *json, size_t size, const message_limits *limits, json_t **out, omni_error *err) {
    enum { MAX_VALUES = 1000000 };
    if (size > limits->json_size) {
        return fail(err, OMNI_ERR_LIMIT, "%zu bytes of JSON; up to %zu are taken", size, limits->json_size);
    }
    return json_parse(json, size, MAX_VALUES, JSON_ALLOW_NUL, out, err);
}

static omni_status add_all(chat *c, const json_t *root, const message_limits *limits, message_options *options, omni_error *err) {
    const json_t *list = json_is_array(root) ? root : json_object_get(root, "messages");
    if (!json_is_array(list)) {
        return fail(err, OMNI_ERR_FORMAT, "a conversation must be a list of messages, or an object with the list \"messages\"");
    }
    if (json_array_size(list) == 0) {
        return fail(err, OMNI_ERR_FORMAT, "messages: the list is empty");
    }
    if (json_array_size(list) > limits->messages) {
        return fail(err, OMNI_ERR_LIMIT, "messages: %zu of them; up to %zu are taken", json_array_size(list), limits->messages);
    }
    if (json_is_object(root)) {
        TRY(read_options(root, limits, options, err));
        if (present(json_object_get(root, "tools"))) {
            TRY(add_tools(c, json_object_get(root, "tools"), limits, err));
        }
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        TRY(add_message(c, json_array_get(list, i), limits, (place){.message = i, .part = WHOLE_MESSAGE}, err));
    }
    return OMNI_OK;
}

omni_status messages_parse(const char *json, size_t size, const message_limits *limits, chat *c, message_options *options, omni_error *err) {
    json_t *root = NULL;
    if (options) {
        *options = (message_options){.answer = message_answer_none()};
    }
    TRY(load(json, size, limits, &root, err));
    size_t messages = c->count, tools = c->tool_count;
    message_options read = {.answer = message_answer_none()};
    omni_status status = add_all(c, root, limits, &read, err);
    json_decref(root);
    if (status == OMNI_OK && options) {
        *options = read;
    } else {
        message_options_free(&read);
    }
    if (status != OMNI_OK) {
        chat_truncate(c, messages);
        chat_truncate_tools(c, tools);
    }
    return status;
}

omni_status messages_parse_tools(const char *json, size_t size, const message_limits *limits, chat *c, omni_error *err) {
    json_t *root = NULL;
    TRY(load(json, size, limits, &root, err));
    size_t tools = c->tool_count;
    omni_status status = add_tools(c, root, limits, err);
    json_decref(root);
    if (status != OMNI_OK) {
        chat_truncate_tools(c, tools);
    }
    return status;
}
