#include "server/wyoming_frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"

enum { MOST_VALUES = 20000 };

static omni_status read_object(const char *text, size_t size, const char *what, json_t **out, omni_error *err) {
    const omni_status status = json_parse(text, size, MOST_VALUES, JSON_REJECT_DUPLICATES, out, err);
    if (status != OMNI_OK) {
        return fail_in(err, status, "%s", what);
    }
    return json_is_object(*out) ? OMNI_OK : fail(err, OMNI_ERR_FORMAT, "%s is no JSON object", what);
}

/* A number of bytes; none given: 0. */
static omni_status read_length(const json_t *head, const char *key, size_t most, size_t *out, omni_error *err) {
    const json_t *v = json_object_get(head, key);
    const json_int_t n = json_integer_value(v);
    *out = 0;
    if (v && !json_is_null(v) && (!json_is_integer(v) || n < 0)) {
        return fail(err, OMNI_ERR_FORMAT, "\"%s\" must be a whole number, 0 or more", key);
    }
    if ((unsigned long long)n > most) {
        return fail(err, OMNI_ERR_LIMIT, "\"%s\" may be %zu", key, most);
    }
    *out = (size_t)n;
    return OMNI_OK;
}

static omni_status read_head(const json_t *head, wyoming_frame *out, size_t *data_size, omni_error *err) {
    const json_t *type = json_object_get(head, "type"), *data = json_object_get(head, "data");
    if (!json_is_string(type) || json_string_length(type) >= sizeof out->type || strlen(json_string_value(type)) != json_string_length(type)) {
        return fail(err, OMNI_ERR_FORMAT, "an event must have a \"type\", a text of less than %zu bytes", sizeof out->type);
    }
    if (data && !json_is_null(data) && !json_is_object(data)) {
        return fail(err, OMNI_ERR_FORMAT, "\"data\" must be an object");
    }
    snprintf(out->type, sizeof out->type, "%s", json_string_value(type));
    TRY(read_length(head, "data_length", WYOMING_DATA, data_size, err));
    return read_length(head, "payload_length", WYOMING_PAYLOAD, &out->payload_size, err);
}

/* Behind the line all is there. */
static omni_status read_rest(const char *bytes, size_t line, size_t data_size, const json_t *head, wyoming_frame *out, omni_error *err) {
    json_t *more = NULL, *data = json_object_get(head, "data");
    if (data_size > 0) {
        const omni_status status = read_object(bytes + line, data_size, "an event's data", &more, err);
        if (status != OMNI_OK) {
            json_decref(more);
            return status;
        }
    }
    out->data = json_is_object(data) ? json_incref(data) : json_object();
    const bool good = out->data && (!more || json_object_update(out->data, more) == 0);
    json_decref(more);
    out->payload = bytes + line + data_size;
    out->size = line + data_size + out->payload_size;
    return good ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
}

omni_status wyoming_read(const char *bytes, size_t size, wyoming_frame *out, size_t *need, omni_error *err) {
    const char *end = memchr(bytes, '\n', size < WYOMING_LINE ? size : WYOMING_LINE);
    json_t *head = NULL;
    size_t data_size = 0;
    *out = (wyoming_frame){0};
    *need = size + 1;
    if (!end) {
        return size < WYOMING_LINE ? OMNI_OK : fail(err, OMNI_ERR_LIMIT, "the line of an event may have %d bytes", WYOMING_LINE);
    }
    const size_t line = (size_t)(end - bytes) + 1;
    omni_status status = read_object(bytes, line, "an event's line", &head, err);
    status = status == OMNI_OK ? read_head(head, out, &data_size, err) : status;
    if (status == OMNI_OK) {
        *need = line + data_size + out->payload_size;
        status = *need <= size ? read_rest(bytes, line, data_size, head, out, err) : OMNI_OK;
    }
    if (status != OMNI_OK || *need > size) {
        json_decref(out->data);
        *out = (wyoming_frame){0};
    }
    json_decref(head);
    return status;
}

char *wyoming_write(const char *type, json_t *data, size_t payload_size, size_t *size) {
    char *text = json_object_size(data) > 0 ? json_print(data, JSON_COMPACT) : NULL, *whole = NULL;
    const bool lost = json_object_size(data) > 0 && !text;
    const size_t room = text ? strlen(text) : 0, most = room + strlen(type) + 160;
    json_decref(data);
    if (!lost && (whole = malloc(most))) {
        int n = snprintf(whole, most, "{\"type\":\"%s\"", type);
        n += room > 0 ? snprintf(whole + n, most - (size_t)n, ",\"data_length\":%zu", room) : 0;
        n += payload_size > 0 ? snprintf(whole + n, most - (size_t)n, ",\"payload_length\":%zu", payload_size) : 0;
        n += snprintf(whole + n, most - (size_t)n, "}\n");
        memcpy(whole + n, text ? text : "", room);
        *size = (size_t)n + room;
    }
    free(text);
    return whole;
}
