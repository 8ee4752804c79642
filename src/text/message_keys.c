#include "text/message_keys.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { LOW_DETAIL = 512 * 512, MOST_STOPS = 64 };
#define MOST_INTEGER 9007199254740992.0

static bool given(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v);
}

static omni_status refuse(omni_error *err, const char *key, const char *why) {
    return fail(err, OMNI_ERR_FORMAT, "\"%.60s\" %s", key, why);
}

/* A number in [low, high], whole if need be; *out stays as it is when the key is not given. */
static omni_status number(const json_t *object, const char *key, double low, double high, bool whole, double *out, omni_error *err) {
    if (!given(object, key)) {
        return OMNI_OK;
    }
    const json_t *v = json_object_get(object, key);
    const double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= low) || !(x <= high) || (whole && x != floor(x))) {
        return fail(err, OMNI_ERR_FORMAT, "\"%s\" must be a %snumber from %g to %g", key, whole ? "whole " : "", low, high);
    }
    *out = x;
    return OMNI_OK;
}

static omni_status count(const json_t *object, const char *key, double low, int64_t *out, omni_error *err) {
    double x = (double)*out;
    TRY(number(object, key, low, MOST_INTEGER, true, &x, err));
    *out = (int64_t)x;
    return OMNI_OK;
}

/* Whether the names, divided by blanks, have the key among them. */
static bool among(const char *names, const char *key) {
    const size_t n = strlen(key);
    for (const char *s = names; *s; s += strspn(s, " ")) {
        const size_t length = strcspn(s, " ");
        if (length == n && memcmp(s, key, n) == 0) {
            return true;
        }
        s += length;
    }
    return false;
}

static omni_status only(const json_t *object, const char *names, const char *of, omni_error *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)object, key, v) {
        if (!among(names, key) && !json_is_null(v)) {
            return fail(err, OMNI_ERR_FORMAT, "\"%.60s\" cannot act in %s; its keys are: %s", key, of, names);
        }
    }
    return OMNI_OK;
}

/* ---- messages ---- */

/* A text that says what the layout does not show: which call a tool answers (answers stand in the calls' order), say. */
static omni_status text_or_none(const json_t *object, const char *key, omni_error *err) {
    return !given(object, key) || json_is_string(json_object_get(object, key)) ? OMNI_OK : refuse(err, key, "must be a text");
}

static omni_status assistant_keys(const json_t *m, omni_error *err) {
    static const char *const reasonings[] = {"reasoning_content", "reasoning", "thinking"};
    for (size_t i = 0, n = 0; i < 3; i++) {
        n += given(m, reasonings[i]);
        if (n > 1) {
            return refuse(err, reasonings[i], "is another name of what is given beside it: give one");
        }
    }
    if (given(m, "annotations") && !json_is_array(json_object_get(m, "annotations"))) { /* where a text was found: nothing to lay out */
        return refuse(err, "annotations", "must be a list");
    }
    if (given(m, "function_call") && json_array_size(json_object_get(m, "tool_calls")) > 0) {
        return refuse(err, "function_call", "cannot act beside tool_calls");
    }
    return only(m, "role content tool_calls function_call reasoning_content reasoning thinking annotations", "an assistant's message", err);
}

omni_status message_role_keys(const json_t *m, chat_role role, omni_error *err) {
    switch (role) {
    case CHAT_SYSTEM:
        return only(m, "role content", "a system message", err);
    case CHAT_USER:
        return only(m, "role content images", "a user's message", err);
    case CHAT_ASSISTANT:
        return assistant_keys(m, err);
    case CHAT_TOOL:
        TRY(text_or_none(m, "tool_call_id", err));
        TRY(text_or_none(m, "name", err));
        TRY(text_or_none(m, "tool_name", err));
        return only(m, "role content tool_call_id name tool_name", "a tool's message", err);
    }
    return OMNI_OK;
}

omni_status message_call_keys(const json_t *call, omni_error *err) {
    const json_t *function = json_object_get(call, "function"), *type = json_object_get(call, "type");
    if (given(call, "type") && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0)) {
        return refuse(err, "type", "must be function");
    }
    if (!json_is_object(function)) {
        return only(call, "id type index name arguments", "a call", err);
    }
    TRY(only(call, "id type index function", "a call", err));
    return only(function, "name arguments index", "a call's function", err);
}

const char *message_reasoning_key(const json_t *m) {
    return given(m, "thinking") ? "thinking" : given(m, "reasoning") ? "reasoning" : "reasoning_content";
}

/* ---- parts ---- */

omni_status message_text_keys(const json_t *part, omni_error *err) {
    return only(part, "type text", "a text", err);
}

static omni_status read_detail(const json_t *part, chat_media_options *out, omni_error *err) {
    const json_t *inner = json_object_get(part, "image_url"), *v = json_object_get(json_is_object(inner) ? inner : part, "detail");
    const char *detail = json_string_value(v ? v : json_object_get(part, "detail"));
    if (!given(part, "detail") && (!v || json_is_null(v))) {
        return OMNI_OK;
    }
    if (!detail || !among("auto low high original", detail)) {
        return refuse(err, "detail", "must be auto, low, high or original");
    }
    if (strcmp(detail, "low") == 0) { /* as OpenAI's: 512 x 512 pixels at most */
        if (out->max_pixels > 0 || out->height > 0) {
            return refuse(err, "detail", "low contradicts a size that is given beside it");
        }
        out->max_pixels = LOW_DETAIL;
    }
    return OMNI_OK;
}

static omni_status read_size(const json_t *part, chat_media_options *out, omni_error *err) {
    TRY(count(part, "min_pixels", 1, &out->min_pixels, err));
    TRY(count(part, "max_pixels", 1, &out->max_pixels, err));
    TRY(count(part, "total_pixels", 1, &out->total_pixels, err));
    TRY(count(part, "resized_height", 1, &out->height, err));
    TRY(count(part, "resized_width", 1, &out->width, err));
    if (!out->height != !out->width) {
        return refuse(err, out->height ? "resized_height" : "resized_width", "needs the other of resized_height and resized_width");
    }
    if (out->height > 0 && (out->min_pixels > 0 || out->max_pixels > 0 || out->total_pixels > 0)) {
        return refuse(err, out->min_pixels ? "min_pixels" : out->max_pixels ? "max_pixels" : "total_pixels", "cannot act beside resized_height");
    }
    return OMNI_OK;
}

static omni_status read_stretch(const json_t *part, const char *start, const char *end, chat_media_options *out, omni_error *err) {
    TRY(number(part, start, 0, 1e9, false, &out->start, err));
    if (given(part, end)) {
        TRY(number(part, end, 0, 1e9, false, &out->end, err));
        if (out->end <= out->start) {
            return fail(err, OMNI_ERR_FORMAT, "\"%s\" must be later than \"%s\"", end, start);
        }
    }
    return OMNI_OK;
}

static omni_status read_frames(const json_t *part, chat_media_options *out, omni_error *err) {
    if (given(part, "fps")) {
        TRY(number(part, "fps", 0, 1000, false, &out->fps, err));
        if (out->fps <= 0) {
            return refuse(err, "fps", "must be above 0");
        }
    }
    TRY(count(part, "nframes", 2, &out->frames, err));
    TRY(count(part, "min_frames", 1, &out->min_frames, err));
    TRY(count(part, "max_frames", 2, &out->max_frames, err));
    if (out->frames > 0 && (out->fps > 0 || out->min_frames > 0 || out->max_frames > 0)) {
        return refuse(err, out->fps > 0 ? "fps" : out->min_frames > 0 ? "min_frames" : "max_frames", "cannot act beside nframes");
    }
    return OMNI_OK;
}

omni_status message_part_keys(const json_t *part, const char *type, chat_kind kind, chat_media_options *out, omni_error *err) {
    *out = (chat_media_options){0};
    const json_t *inner = json_object_get(part, type);
    if (json_is_object(inner)) {
        const char *names = strcmp(type, "input_audio") == 0 ? "data format" : kind == CHAT_IMAGE ? "url detail" : "url";
        TRY(only(inner, names, type, err));
    }
    if (kind == CHAT_IMAGE) {
        TRY(only(part, "type path image image_url url detail min_pixels max_pixels resized_height resized_width", "an image", err));
        TRY(read_size(part, out, err));
        return read_detail(part, out, err);
    }
    if (kind == CHAT_AUDIO) {
        TRY(only(part, "type path audio audio_url input_audio url audio_start audio_end", "an audio", err));
        return read_stretch(part, "audio_start", "audio_end", out, err);
    }
    TRY(only(part,
             "type path video video_url url fps nframes min_frames max_frames min_pixels max_pixels total_pixels resized_height resized_width "
             "video_start video_end",
             "a video", err));
    TRY(read_frames(part, out, err));
    TRY(read_size(part, out, err));
    return read_stretch(part, "video_start", "video_end", out, err);
}

/* ---- the answer ---- */

message_answer message_answer_none(void) {
    return (message_answer){.temperature = NAN,
                            .top_p = NAN,
                            .min_p = NAN,
                            .repeat_penalty = NAN,
                            .presence_penalty = NAN,
                            .frequency_penalty = NAN,
                            .top_k = -1,
                            .seed = -1,
                            .top_logprobs = -1};
}

void message_answer_free(message_answer *a) {
    for (size_t i = 0; i < a->stop_count; i++) {
        free(a->stop[i]);
    }
    free(a->stop);
    free(a->bias);
    free(a->grammar);
    free(a->json_schema);
    free(a->tool_name);
    *a = message_answer_none();
}

static omni_status read_stop(const json_t *v, message_answer *out, omni_error *err) {
    const size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > MOST_STOPS) {
        return fail(err, OMNI_ERR_LIMIT, "\"stop\" has %zu texts; up to %d are taken", n, MOST_STOPS);
    }
    out->stop = calloc(n + 1, sizeof *out->stop);
    for (size_t i = 0; out->stop && i < n; i++) {
        const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
        const char *s = json_string_value(one);
        if (!s || !*s || strlen(s) != json_string_length(one)) {
            return refuse(err, "stop", "must be a text, or a list of texts, none of them empty");
        }
        if (!(out->stop[i] = strdup(s))) {
            break;
        }
        out->stop_count++;
    }
    return out->stop && out->stop_count == n ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
}

/* OpenAI's: an object of ids and numbers. */
static omni_status read_bias(const json_t *v, message_answer *out, omni_error *err) {
    if (!json_is_object(v)) {
        return refuse(err, "logit_bias", "must be an object of token ids and numbers, as {\"15043\": -100}");
    }
    const char *key;
    json_t *bias;
    out->has_bias = true;
    out->bias = calloc(json_object_size(v) + 1, sizeof *out->bias);
    if (!out->bias) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    json_object_foreach((json_t *)v, key, bias) {
        char *end = NULL;
        errno = 0;
        const long id = *key >= '0' && *key <= '9' ? strtol(key, &end, 10) : -1;
        if (id < 0 || id > INT32_MAX || errno != 0 || *end) {
            return fail(err, OMNI_ERR_FORMAT, "\"logit_bias\": \"%.60s\" is no token's id", key);
        }
        const double x = json_number_value(bias);
        if (!json_is_number(bias) || !(x >= -100) || !(x <= 100)) {
            return fail(err, OMNI_ERR_FORMAT, "\"logit_bias\": that of token %ld must be a number from -100 to 100", id);
        }
        out->bias[out->bias_count++] = (message_bias){(int32_t)id, (float)x};
    }
    return OMNI_OK;
}

static omni_status read_logprobs(const json_t *root, message_answer *out, omni_error *err) {
    const json_t *v = json_object_get(root, "logprobs");
    if (given(root, "logprobs")) {
        if (!json_is_boolean(v)) {
            return refuse(err, "logprobs", "must be true or false; how many tokens are told is top_logprobs");
        }
        out->has_logprobs = true;
        out->logprobs = json_is_true(v);
    }
    double top = -1;
    TRY(number(root, "top_logprobs", 0, 20, true, &top, err));
    out->top_logprobs = (int64_t)top;
    return top > 0 && !out->logprobs ? refuse(err, "top_logprobs", "needs \"logprobs\": true") : OMNI_OK;
}

static omni_status copy_json(const json_t *v, char **out, omni_error *err) {
    free(*out);
    *out = json_print(v, JSON_COMPACT | JSON_ENCODE_ANY);
    return *out ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
}

/* What the answer must be: response_format as OpenAI has it, and with a "schema" beside json_object as llama-server does; its grammar and
 * json_schema. */
static omni_status read_form(const json_t *root, message_answer *out, omni_error *err) {
    const json_t *format = json_object_get(root, "response_format"), *grammar = json_object_get(root, "grammar");
    const json_t *schema = json_object_get(root, "json_schema");
    const char *type = json_string_value(json_object_get(format, "type"));
    const bool json = type && strcmp(type, "json_object") == 0, by_schema = type && strcmp(type, "json_schema") == 0;
    if (given(root, "response_format") && !json && !by_schema && (!type || strcmp(type, "text") != 0)) {
        return refuse(err, "response_format", "must be of \"type\" text, json_object or json_schema");
    }
    if (given(root, "grammar") + given(root, "json_schema") + (json || by_schema) > 1) {
        return refuse(err, given(root, "grammar") ? "grammar" : "json_schema", "cannot act beside another form of the answer: give one");
    }
    if (given(root, "grammar")) {
        const char *s = json_string_value(grammar);
        if (!s || strlen(s) != json_string_length(grammar)) {
            return refuse(err, "grammar", "must be a text");
        }
        out->grammar = strdup(s);
        return out->grammar ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    if (given(root, "json_schema")) {
        return copy_json(schema, &out->json_schema, err);
    }
    if (json) {
        TRY(only(format, "type schema", "response_format", err));
        out->json_schema = given(format, "schema") ? NULL : strdup("{\"type\":\"object\"}");
        return given(format, "schema") ? copy_json(json_object_get(format, "schema"), &out->json_schema, err)
               : out->json_schema      ? OMNI_OK
                                       : fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    if (by_schema) {
        const json_t *named = json_object_get(format, "json_schema");
        TRY(only(format, "type json_schema", "response_format", err));
        if (!json_is_object(named) || !given(named, "schema")) {
            return refuse(err, "response_format", "of type json_schema needs \"json_schema\": {\"name\", \"schema\"}");
        }
        TRY(only(named, "name description schema strict", "response_format's json_schema", err));
        return copy_json(json_object_get(named, "schema"), &out->json_schema, err);
    }
    return OMNI_OK;
}

static omni_status read_tool_choice(const json_t *root, message_answer *out, omni_error *err) {
    static const char *const names[] = {[MESSAGE_TOOLS_AUTO] = "auto", [MESSAGE_TOOLS_NONE] = "none", [MESSAGE_TOOLS_REQUIRED] = "required"};
    const json_t *v = json_object_get(root, "tool_choice"), *parallel = json_object_get(root, "parallel_tool_calls");
    const char *s = json_string_value(v), *type = json_string_value(json_object_get(v, "type"));
    if (given(root, "parallel_tool_calls") && !json_is_boolean(parallel)) {
        return refuse(err, "parallel_tool_calls", "must be true or false");
    }
    out->one_call = json_is_false(parallel);
    if (!given(root, "tool_choice")) {
        return OMNI_OK;
    }
    for (int i = MESSAGE_TOOLS_AUTO; s && i <= MESSAGE_TOOLS_REQUIRED; i++) {
        out->tools = strcmp(s, names[i]) == 0 ? (message_tools)i : out->tools;
    }
    const char *name = json_string_value(json_object_get(json_object_get(v, "function"), "name"));
    if (json_is_object(v) && type && strcmp(type, "function") == 0 && name) {
        out->tools = MESSAGE_TOOLS_NAMED;
        out->tool_name = strdup(name);
        return out->tool_name ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    return out->tools != MESSAGE_TOOLS_NOT_GIVEN
               ? OMNI_OK
               : refuse(err, "tool_choice", "must be auto, none, required or {\"type\": \"function\", \"function\": {\"name\": ...}}");
}

/* Keys that ask for what happens anyway, with the values that do. */
static bool asks_for_nothing(const char *key, const json_t *v) {
    const char *s = json_string_value(v);
    const double x = json_number_value(v);
    return strcmp(key, "model") == 0 || strcmp(key, "user") == 0 || strcmp(key, "metadata") == 0 ||
           (strcmp(key, "stream") == 0 && json_is_boolean(v)) || (strcmp(key, "n") == 0 && json_is_number(v) && x == 1) ||
           (strcmp(key, "tool_choice") == 0 && s && strcmp(s, "auto") == 0) || (strcmp(key, "store") == 0 && json_is_false(v)) ||
           (strcmp(key, "parallel_tool_calls") == 0 && json_is_true(v)) ||
           (strcmp(key, "response_format") == 0 && json_string_value(json_object_get(v, "type")) &&
            strcmp(json_string_value(json_object_get(v, "type")), "text") == 0);
}

static omni_status read_answer(const json_t *root, message_answer *out, omni_error *err) {
    static const char ours[] =
        "temperature top_p min_p top_k repetition_penalty repeat_penalty presence_penalty frequency_penalty logit_bias logprobs "
        "top_logprobs max_tokens max_completion_tokens seed stop response_format grammar json_schema tool_choice parallel_tool_calls",
                      others[] = "messages tools fps use_audio_in_video audio";
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)root, key, v) {
        if (json_is_null(v) || among(others, key) || asks_for_nothing(key, v)) {
            continue;
        }
        if (!among(ours, key)) {
            return fail(err, OMNI_ERR_FORMAT, "\"%.60s\" cannot act%s; the keys beside messages are: %s %s", key,
                        strcmp(key, "n") == 0 ? " with more than 1" : "", others + strlen("messages "), ours);
        }
        snprintf(out->named, sizeof out->named, "%s", key);
    }
    TRY(number(root, "temperature", 0, 100, false, &out->temperature, err));
    TRY(number(root, "top_p", 0, 1, false, &out->top_p, err));
    TRY(number(root, "min_p", 0, 1, false, &out->min_p, err));
    TRY(number(root, "repetition_penalty", 0.01, 100, false, &out->repeat_penalty, err));
    TRY(number(root, "repeat_penalty", 0.01, 100, false, &out->repeat_penalty, err));
    TRY(number(root, "presence_penalty", -100, 100, false, &out->presence_penalty, err));
    TRY(number(root, "frequency_penalty", -100, 100, false, &out->frequency_penalty, err));
    TRY(read_logprobs(root, out, err));
    TRY(given(root, "logit_bias") ? read_bias(json_object_get(root, "logit_bias"), out, err) : OMNI_OK);
    double top_k = -1, seed = -1;
    TRY(number(root, "top_k", -1, 1 << 30, true, &top_k, err));
    out->top_k = given(root, "top_k") ? (int64_t)fmax(top_k, 0) : -1; /* -1 is vLLM's "all" */
    TRY(number(root, "seed", -1, MOST_INTEGER, true, &seed, err));
    out->seed = (int64_t)seed;
    TRY(count(root, "max_tokens", 1, &out->max_tokens, err));
    const int64_t other = out->max_tokens;
    TRY(count(root, "max_completion_tokens", 1, &out->max_tokens, err));
    if (other > 0 && other != out->max_tokens) {
        return refuse(err, "max_tokens", "contradicts max_completion_tokens");
    }
    if (given(root, "repetition_penalty") && given(root, "repeat_penalty")) {
        return refuse(err, "repeat_penalty", "is another name of repetition_penalty: give one");
    }
    TRY(read_form(root, out, err));
    TRY(read_tool_choice(root, out, err));
    return given(root, "stop") ? read_stop(json_object_get(root, "stop"), out, err) : OMNI_OK;
}

omni_status message_answer_keys(const json_t *root, message_answer *out, omni_error *err) {
    *out = message_answer_none();
    omni_status status = read_answer(root, out, err);
    if (status != OMNI_OK) {
        message_answer_free(out);
    }
    return status;
}
