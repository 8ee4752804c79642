/* The endpoints, and those that tell about the server itself. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "server/internal.h"

enum { MOST_VALUES = 1000000 }; /* of a request, as many as of a conversation in a file */

static const route routes[] = {
    {"GET", "/health", true, true, handle_health},
    {"GET", "/v1/health", true, true, handle_health},
    {"GET", "/ready", true, true, handle_ready},
    {"GET", "/metrics", true, true, handle_metrics},
    {"GET", "/v1/models", true, false, handle_models},
    {"GET", "/props", true, false, handle_props},
    {"GET", "/slots", true, false, handle_slots},
    {"GET", "/v1/audio/voices", true, false, handle_voices},
    {"GET", "/v1/audio/models", true, false, handle_audio_models},
    {"GET", "/openapi.json", true, true, handle_openapi},
    {"GET", "/", true, true, handle_page},
    {"GET", "/page/*", true, true, handle_page_file},
    {"GET", "/v1/realtime", false, false, handle_realtime},
    {"POST", "/tokenize", false, false, handle_tokenize},
    {"POST", "/detokenize", false, false, handle_detokenize},
    {"POST", "/v1/chat/completions", false, false, handle_chat},
    {"POST", "/v1/completions", false, false, handle_completions},
    {"POST", "/v1/responses", false, false, handle_responses},
    {"POST", "/v1/audio/speech", false, false, handle_speech},
    {"POST", "/v1/audio/transcriptions", false, false, handle_transcriptions},
    {"POST", "/v1/audio/translations", false, false, handle_translations},
    {"POST", "/v1/embeddings", false, false, handle_embeddings},
};

/* A path that ends in "*" stands for all that begin so. */
static bool fits(const char *pattern, const char *path) {
    const size_t n = strlen(pattern);
    return pattern[n - 1] == '*' ? strncmp(pattern, path, n - 1) == 0 : strcmp(pattern, path) == 0;
}

/* Endpoints that a flag turns off. */
static bool is_on(const server *s, const route *r) {
    return (s->p.slots || r->handle != handle_slots) && (s->p.page || (r->handle != handle_page && r->handle != handle_page_file));
}

const route *route_find(const server *s, const char *method, const char *path, bool *known) {
    *known = false;
    method = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (fits(routes[i].path, path) && is_on(s, &routes[i])) {
            *known = true;
            if (strcmp(routes[i].method, method) == 0) {
                return &routes[i];
            }
        }
    }
    return NULL;
}

/* ---- answers ---- */

void answer_json(exchange *x, int status, json_t *value) {
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(value);
    if (text) {
        reply_with(x, status, "application/json", text, strlen(text));
    } else {
        static const char none[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
        reply_with(x, 503, "application/json", none, sizeof none - 1);
    }
    free(text);
}

/* The field that an error of the library begins with: "\"temperature\" must be ...", or "messages[0].content[1]: ...". */
static const char *param_of(const char *text, char param[64]) {
    const bool quoted = text[0] == '"';
    const char *name = text + quoted;
    const size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789.[]");
    if (n == 0 || n >= 64 || name[n] != (quoted ? '"' : ':')) {
        return NULL;
    }
    memcpy(param, name, n);
    param[n] = 0;
    return param;
}

static int status_of(omni_status status) {
    switch (status) {
    case OMNI_ERR_ARGUMENT:
    case OMNI_ERR_FORMAT:
    case OMNI_ERR_UNSUPPORTED:
    case OMNI_ERR_LIMIT:
        return 400;
    case OMNI_ERR_BUSY:
        return 429;
    case OMNI_CANCELLED:
    case OMNI_ERR_MEMORY:
        return 503;
    default:
        return 500;
    }
}

/* Programs that shorten a conversation which has become too long know it by this code, or by the words that answer_error begins with. */
static bool is_too_long(omni_status status, const omni_error *err) {
    return status == OMNI_ERR_LIMIT && strstr(err->text, "and the context is");
}

static const char *code_of(omni_status status, const omni_error *err) {
    switch (status) {
    case OMNI_ERR_BUSY:
        return "queue_full";
    case OMNI_ERR_LIMIT:
        return is_too_long(status, err) ? "context_length_exceeded" : "limit_exceeded";
    case OMNI_CANCELLED:
        return "shutting_down";
    default:
        return NULL;
    }
}

void answer_error(exchange *x, omni_status status, const omni_error *err) {
    char param[64];
    if (status == OMNI_ERR_BUSY) {
        reply_header(x, "Retry-After", "1");
    }
    if (is_too_long(status, err)) {
        reply_error(x, status_of(status), NULL, code_of(status, err), "This model's maximum context length is %lld tokens: %s",
                    (long long)omni_engine_context(x->s->engine), err->text);
        return;
    }
    reply_error(x, status_of(status), param_of(err->text, param), code_of(status, err), "%s", err->text);
}

json_t *error_object(omni_status status, const omni_error *err) {
    return json_pack("{s:{s:o*, s:s, s:n, s:s?}}", "error", "message", text_value(err->text, strlen(err->text)), "type",
                     status_of(status) < 500 ? "invalid_request_error" : "server_error", "param", "code", code_of(status, err));
}

/* Text may hold U+0000, as answers may, which come back as history; everything else is read up to the first one. */
static bool may_hold_nul(const char *key) {
    static const char *const texts[] = {"content", "text", "reasoning_content", "prompt", "input"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strcmp(key, texts[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* The field of value, or of what it holds, that has U+0000 and may not; NULL: none. key: that of value itself. */
static const char *field_with_nul(const char *key, const json_t *value) {
    const char *name, *found = NULL;
    json_t *one;
    size_t i;
    if (json_is_string(value)) {
        return strlen(json_string_value(value)) < json_string_length(value) && !may_hold_nul(key) ? key : NULL;
    }
    json_array_foreach((json_t *)value, i, one) {
        if ((found = field_with_nul(key, one)) != NULL) {
            return found;
        }
    }
    json_object_foreach((json_t *)value, name, one) {
        if ((found = field_with_nul(name, one)) != NULL) {
            return found;
        }
    }
    return NULL;
}

json_t *request_object(exchange *x) {
    omni_error err;
    json_t *root = NULL;
    const char *field;
    if (json_parse(x->body ? x->body : "", x->body_size, MOST_VALUES, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &root, &err) != OMNI_OK) {
        reply_error(x, err.code == OMNI_ERR_MEMORY ? 503 : 400, NULL, "invalid_json", "the body cannot be read: %s", err.text);
    } else if (!json_is_object(root)) {
        json_decref(root);
        root = NULL;
        reply_error(x, 400, NULL, "invalid_json", "the body must be a JSON object");
    } else if ((field = field_with_nul("", root)) != NULL) {
        reply_error(x, 400, field, "invalid_value", "%s may not hold \\u0000", field);
        json_decref(root);
        root = NULL;
    }
    return root;
}

/* ---- the server itself ---- */

void handle_health(server *s, exchange *x) {
    reply_with(x, 200, "application/json", "{\"status\":\"ok\"}", 15);
}

void handle_ready(server *s, exchange *x) {
    if (atomic_load(&s->leaving)) {
        reply_error(x, 503, NULL, "shutting_down", "the server is shutting down");
    } else {
        reply_with(x, 200, "application/json", "{\"status\":\"ready\"}", 18);
    }
}

void handle_metrics(server *s, exchange *x) {
    const omni_engine_counters e = omni_engine_count(s->engine);
    char *text = metrics_text(&s->metrics, &e, s->p.engine.parallel);
    if (text) {
        reply_with(x, 200, "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
        free(text);
    } else {
        reply_error(x, 503, NULL, NULL, "out of memory");
    }
}

static json_t *modalities(const server *s, bool out) {
    json_t *list = json_array();
    json_array_append_new(list, json_string("text"));
    if (out && omni_model_voice_count(s->model) > 0) {
        json_array_append_new(list, json_string("audio"));
    }
    return list;
}

/* {"object": "list", "data": [{"id", "object", "created", "owned_by", "meta"}]} */
void handle_models(server *s, exchange *x) {
    json_t *one = json_pack("{s:s, s:s, s:I, s:s, s:{s:I, s:I, s:o*}}", "id", s->name, "object", "model", "created", (json_int_t)s->started,
                            "owned_by", "omni", "meta", "n_ctx", (json_int_t)omni_engine_context(s->engine), "n_vocab",
                            (json_int_t)omni_model_vocabulary(s->model), "output_modalities", modalities(s, true));
    answer_json(x, 200, json_pack("{s:s, s:[o*]}", "object", "list", "data", one));
}

static json_t *voices(const server *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < omni_model_voice_count(s->model); i++) {
        const char *name = omni_model_voice(s->model, i);
        json_array_append_new(list, json_pack("{s:s, s:s}", "id", name, "name", name));
    }
    return list;
}

void handle_voices(server *s, exchange *x) {
    answer_json(x, 200, json_pack("{s:o*}", "voices", voices(s)));
}

void handle_props(server *s, exchange *x) {
    answer_json(x, 200,
                json_pack("{s:s, s:s, s:i, s:{s:I}, s:o*, s:o*, s:b}", "model", s->name, "build_info", "omni", "total_slots", s->p.engine.parallel,
                          "default_generation_settings", "n_ctx", (json_int_t)omni_engine_context(s->engine), "output_modalities",
                          modalities(s, true), "voices", voices(s), "realtime", true));
}

void handle_slots(server *s, exchange *x) {
    const omni_engine_counters e = omni_engine_count(s->engine);
    json_t *list = json_array();
    for (int i = 0; i < s->p.engine.parallel; i++) {
        json_array_append_new(list, json_pack("{s:i, s:I, s:b}", "id", i, "n_ctx", (json_int_t)omni_engine_context(s->engine), "is_processing",
                                              i < e.waiting_or_running));
    }
    answer_json(x, 200, list);
}

void handle_embeddings(server *s, exchange *x) {
    reply_error(x, 501, NULL, "not_supported", "this model makes no embeddings: its hidden states were not trained to be compared");
}

/* {"content": TEXT, "parse_special": false} -> {"tokens": [ID, ...]} */
void handle_tokenize(server *s, exchange *x) {
    json_t *root = request_object(x), *list = json_array();
    if (!root) {
        json_decref(list);
        return;
    }
    const json_t *content = json_object_get(root, "content");
    int32_t *ids = NULL;
    size_t count = 0;
    omni_error err = {0};
    if (!json_is_string(content)) {
        reply_error(x, 400, "content", NULL, "\"content\" must be a text");
    } else {
        const omni_status status = omni_tokenize(s->tokenizer, json_string_value(content), json_string_length(content),
                                                 json_is_true(json_object_get(root, "parse_special")), &ids, &count, &err);
        for (size_t i = 0; i < count; i++) {
            json_array_append_new(list, json_integer(ids[i]));
        }
        omni_free(ids);
        if (status != OMNI_OK) {
            answer_error(x, status, &err);
        } else {
            answer_json(x, 200, json_pack("{s:O}", "tokens", list));
        }
    }
    json_decref(list);
    json_decref(root);
}

/* {"tokens": [ID, ...]} -> {"content": TEXT}; bytes that are no characters become U+FFFD. */
void handle_detokenize(server *s, exchange *x) {
    json_t *root = request_object(x);
    if (!root) {
        return;
    }
    const json_t *tokens = json_object_get(root, "tokens");
    size_t size = 0, room = 1;
    char *text = NULL;
    bool good = json_is_array(tokens);
    for (size_t i = 0; good && i < json_array_size(tokens); i++) {
        const json_t *t = json_array_get(tokens, i);
        const json_int_t id = json_integer_value(t);
        size_t n = 0;
        good = json_is_integer(t) && id >= 0 && id < omni_model_vocabulary(s->model);
        const char *piece = good ? omni_token_bytes(s->tokenizer, (int32_t)id, &n) : NULL;
        if (piece && n > 0) {
            if (size + n + 1 > room) {
                room = 2 * (size + n + 1);
                text = realloc(text, room);
                if (!text) {
                    break;
                }
            }
            memcpy(text + size, piece, n);
            size += n;
        }
    }
    if (!good) {
        reply_error(x, 400, "tokens", NULL, "\"tokens\" must be a list of tokens' ids");
    } else {
        answer_json(x, 200, json_pack("{s:o*}", "content", text_value(text, size)));
    }
    free(text);
    json_decref(root);
}
