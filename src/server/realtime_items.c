#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "server/fetch.h"
#include "server/realtime.h"
#include "server/wav.h"
#include "text/base64.h"

enum { MOST_PARTS = 64, MOST_ID = 63 };

static bool is_text(const json_t *object, const char *key, const char *text) {
    const char *v = json_string_value(json_object_get(object, key));
    return v && strcmp(v, text) == 0;
}

void rt_item_free(rt_item *item) {
    if (item) {
        json_decref(item->told);
        json_decref(item->asked);
        free(item);
    }
}

rt_item *rt_item_find(const rt_session *r, const char *id, size_t *at) {
    for (size_t i = 0; id && i < r->item_count; i++) {
        if (strcmp(r->items[i]->id, id) == 0) {
            *at = i;
            return r->items[i];
        }
    }
    return NULL;
}

/* ---- sound ---- */

json_t *rt_sound_part(rt_format f, const void *data, size_t size) {
    static const wav_coding codings[] = {[RT_PCM] = WAV_PCM, [RT_PCMU] = WAV_MULAW, [RT_PCMA] = WAV_ALAW};
    unsigned char head[WAV_HEAD];
    wav_head(head, codings[f], rt_rate(f), 1, rt_width(f), (uint32_t)size);
    return json_pack("{s:s, s:{s:o*, s:s}}", "type", "input_audio", "input_audio", "data", base64_value(head, sizeof head, data, size), "format",
                     "wav");
}

rt_item *rt_item_of_sound(rt_session *r, const char *id, const void *data, size_t size) {
    rt_item *item = calloc(1, sizeof *item);
    if (!item) {
        return NULL;
    }
    server_id(r->s, "item_", item->id);
    if (id[0]) {
        snprintf(item->id, sizeof item->id, "%s", id);
    }
    item->seconds = (double)size / rt_width(r->config.in) / rt_rate(r->config.in);
    item->told = json_pack("{s:s, s:s, s:s, s:s, s:s, s:[{s:s, s:n}]}", "id", item->id, "object", "realtime.item", "type", "message", "status",
                           "completed", "role", "user", "content", "type", "input_audio", "transcript");
    item->asked = json_pack("{s:s, s:s, s:[o*]}", "type", "message", "role", "user", "content", rt_sound_part(r->config.in, data, size));
    return item;
}

/* ---- reading ---- */

/* Appends a part as it is told and as it is asked; what it is must fit its author. */
static bool read_part(rt_session *r, rt_item *item, const json_t *part, const char *role, size_t i) {
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *text = json_object_get(part, "text"), *transcript = json_object_get(part, "transcript");
    json_t *told = json_object_get(item->told, "content"), *asked = json_object_get(item->asked, "content");
    const bool user = strcmp(role, "user") == 0, assistant = strcmp(role, "assistant") == 0;
    char where[64];
    snprintf(where, sizeof where, "item.content[%zu]", i);
    if (type && (strcmp(type, assistant ? "output_text" : "input_text") == 0 || strcmp(type, "text") == 0)) {
        if (!json_is_string(text)) {
            return rt_refuse(r, where, "invalid_value", "%s: \"text\" must be a text", where);
        }
        json_array_append_new(told, json_pack("{s:s, s:O}", "type", assistant ? "output_text" : "input_text", "text", text));
        json_array_append_new(asked, json_pack("{s:s, s:O}", "type", "input_text", "text", text));
        return true;
    }
    if (type && assistant && (strcmp(type, "output_audio") == 0 || strcmp(type, "audio") == 0)) {
        if (!json_is_string(transcript)) {
            return rt_refuse(r, where, "invalid_value", "%s: sound of the assistant needs its \"transcript\", which is what the model reads", where);
        }
        json_array_append_new(told, json_pack("{s:s, s:O}", "type", "output_audio", "transcript", transcript));
        json_array_append_new(asked, json_pack("{s:s, s:O}", "type", "output_text", "text", transcript));
        return true;
    }
    if (type && user && strcmp(type, "input_audio") == 0) {
        const json_t *audio = json_object_get(part, "audio");
        uint8_t *data = NULL;
        size_t size = 0;
        omni_error err = {0};
        if (!json_is_string(audio) || json_string_length(audio) == 0) {
            return rt_refuse(r, where, "invalid_value", "%s: \"audio\" must be sound in base64", where);
        }
        if (base64_decode(json_string_value(audio), json_string_length(audio), WEBSOCKET_MESSAGE_MOST, &data, &size, &err) != OMNI_OK) {
            return rt_refuse(r, where, "invalid_value", "%s: \"audio\" is no base64: %s", where, err.text);
        }
        json_array_append_new(told, json_pack("{s:s, s:O?}", "type", "input_audio", "transcript", json_is_string(transcript) ? transcript : NULL));
        json_array_append_new(asked, rt_sound_part(r->config.in, data, size));
        free(data);
        return true;
    }
    if (type && user && strcmp(type, "input_image") == 0) {
        json_t *own = json_copy((json_t *)part); /* what is told keeps the URL that was sent, what is asked has the picture */
        const bool good = own && fetch_part(r->x, own, where);
        const json_t *url = json_object_get(own, "image_url");
        if (!own) {
            return rt_refuse(r, NULL, NULL, "out of memory");
        }
        if (!good) {
            json_decref(own);
            return false;
        }
        if (!json_is_string(url) || strncmp(json_string_value(url), "data:", 5) != 0) {
            json_decref(own);
            return rt_refuse(r, where, "invalid_value", "%s: \"image_url\" must be a data: URL, or with --allow-fetch an http(s) URL", where);
        }
        json_array_append(told, (json_t *)part);
        json_array_append_new(asked, own);
        return true;
    }
    return rt_refuse(r, where, "invalid_value", "%s: a part of type \"%.40s\" cannot be in a message of \"%s\"", where, type ? type : "", role);
}

static bool read_message(rt_session *r, rt_item *item, const json_t *value) {
    const json_t *content = json_object_get(value, "content");
    const char *role = json_string_value(json_object_get(value, "role"));
    if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0)) {
        return rt_refuse(r, "item.role", "invalid_value", "\"item.role\" must be user, assistant or system");
    }
    if (!json_is_array(content) || json_array_size(content) == 0 || json_array_size(content) > MOST_PARTS) {
        return rt_refuse(r, "item.content", "invalid_value", "\"item.content\" must be a list of 1 to %d parts", MOST_PARTS);
    }
    json_object_set_new(item->told, "role", json_string(role));
    json_object_set_new(item->told, "content", json_array());
    item->asked = json_pack("{s:s, s:s, s:[]}", "type", "message", "role", role, "content");
    size_t i;
    json_t *part;
    bool good = true;
    json_array_foreach(content, i, part) {
        good = good && read_part(r, item, part, role, i);
    }
    fetch_forget(r->x); /* from here on the item counts it; limits are those of one message */
    return good;
}

static bool read_strings(rt_session *r, rt_item *item, const json_t *value, const char *const keys[]) {
    for (; *keys; keys++) {
        const json_t *v = json_object_get(value, *keys);
        char where[48];
        snprintf(where, sizeof where, "item.%s", *keys);
        if (!json_is_string(v)) {
            return rt_refuse(r, where, "missing_required_parameter", "\"%s\" must be a text", where);
        }
        json_object_set(item->told, *keys, (json_t *)v);
    }
    return true;
}

static bool known_call(const rt_session *r, const char *id) {
    for (size_t i = 0; i < r->item_count; i++) {
        if (is_text(r->items[i]->told, "type", "function_call") && is_text(r->items[i]->told, "call_id", id)) {
            return true;
        }
    }
    return false;
}

static bool read_whole(rt_session *r, rt_item *item, const json_t *value) {
    static const char *const call[] = {"name", "arguments", NULL}, *const output[] = {"call_id", "output", NULL};
    const char *type = json_string_value(json_object_get(value, "type"));
    item->told = json_pack("{s:s, s:s, s:s, s:s}", "id", item->id, "object", "realtime.item", "type", type ? type : "", "status", "completed");
    if (!item->told) {
        return rt_refuse(r, "item.type", "invalid_value", "\"item.type\" is no text that can be kept");
    }
    if (type && strcmp(type, "message") == 0) {
        return read_message(r, item, value);
    }
    if (type && strcmp(type, "function_call") == 0) {
        char id[64];
        server_id(r->s, "call_", id);
        const json_t *given = json_object_get(value, "call_id");
        if (!read_strings(r, item, value, call)) {
            return false;
        }
        json_object_set_new(item->told, "call_id", json_is_string(given) ? json_incref((json_t *)given) : json_string(id));
        item->asked = json_incref(item->told);
        return true;
    }
    if (type && strcmp(type, "function_call_output") == 0) {
        if (!read_strings(r, item, value, output)) {
            return false;
        }
        item->asked = json_incref(item->told);
        return known_call(r, json_string_value(json_object_get(value, "call_id"))) ||
               rt_refuse(r, "item.call_id", "invalid_tool_call_id", "\"item.call_id\" is of no call in the conversation");
    }
    return rt_refuse(r, "item.type", "invalid_value", "\"item.type\" must be message, function_call or function_call_output");
}

rt_item *rt_item_read(rt_session *r, const json_t *value) {
    const json_t *id = json_object_get(value, "id");
    size_t at;
    if (!json_is_object(value)) {
        rt_refuse(r, "item", "missing_required_parameter", "\"item\" must be an object");
        return NULL;
    }
    if (id && !json_is_null(id) && (!json_is_string(id) || json_string_length(id) == 0 || json_string_length(id) > MOST_ID)) {
        rt_refuse(r, "item.id", "invalid_value", "\"item.id\" must be a text of 1 to %d bytes", MOST_ID);
        return NULL;
    }
    if (rt_item_find(r, json_string_value(id), &at)) {
        rt_refuse(r, "item.id", "item_already_exists", "the conversation has an item of that id");
        return NULL;
    }
    rt_item *item = calloc(1, sizeof *item);
    if (!item) {
        rt_refuse(r, NULL, NULL, "out of memory");
        return NULL;
    }
    server_id(r->s, "item_", item->id);
    if (json_is_string(id)) {
        snprintf(item->id, sizeof item->id, "%s", json_string_value(id));
    }
    if (!read_whole(r, item, value)) {
        rt_item_free(item);
        return NULL;
    }
    return item;
}

/* ---- the conversation ---- */

size_t rt_weight(const json_t *value) {
    size_t all = 64, i;
    const char *key;
    json_t *one;
    if (json_is_string(value)) {
        all += json_string_length(value);
    }
    json_array_foreach(value, i, one) {
        all += rt_weight(one);
    }
    json_object_foreach((json_t *)value, key, one) {
        all += rt_weight(one);
    }
    return all;
}

/* What the conversation object has of items from `at` on no longer holds. */
static void forget_from(rt_session *r, size_t at) {
    if (at < r->asked) {
        omni_conversation_free(r->conversation);
        r->conversation = NULL;
        r->asked = 0;
    }
}

void rt_items_forget(rt_session *r) {
    forget_from(r, 0);
}

void rt_item_tell(rt_session *r, const rt_item *item, const char *type) {
    size_t at = 0;
    rt_item_find(r, item->id, &at);
    json_t *fields = json_pack("{s:O}", "item", item->told);
    json_object_set_new(fields, "previous_item_id", at > 0 ? json_string(r->items[at - 1]->id) : json_null());
    rt_tell(r, type, fields);
}

bool rt_item_insert(rt_session *r, rt_item *item, size_t at) {
    item->bytes = rt_weight(item->told) + rt_weight(item->asked);
    if (r->item_count >= RT_ITEMS || r->item_bytes + item->bytes > RT_ITEM_BYTES) {
        rt_item_free(item);
        return rt_refuse(r, "item", "conversation_full", "a conversation may have %d items of %d MiB: delete some", RT_ITEMS, RT_ITEM_BYTES >> 20);
    }
    if (atomic_fetch_add(&r->s->body_bytes, item->bytes) + item->bytes > r->s->p.max_bodies) {
        atomic_fetch_sub(&r->s->body_bytes, item->bytes);
        rt_item_free(item);
        return rt_refuse(r, "item", "overloaded", "the server holds as much of its clients as it may");
    }
    if (r->item_count == r->item_room) {
        const size_t room = 2 * r->item_room + 16;
        rt_item **grown = realloc(r->items, room * sizeof *grown);
        if (!grown) {
            atomic_fetch_sub(&r->s->body_bytes, item->bytes);
            rt_item_free(item);
            return rt_refuse(r, NULL, NULL, "out of memory");
        }
        r->items = grown;
        r->item_room = room;
    }
    forget_from(r, at);
    memmove(r->items + at + 1, r->items + at, (r->item_count - at) * sizeof *r->items);
    r->items[at] = item;
    r->item_count++;
    r->item_bytes += item->bytes;
    rt_item_tell(r, item, "conversation.item.added");
    if (!item->growing) {
        rt_item_tell(r, item, "conversation.item.done");
    }
    return true;
}

void rt_item_weigh(rt_session *r, rt_item *item) {
    const size_t now = rt_weight(item->told) + rt_weight(item->asked);
    atomic_fetch_add(&r->s->body_bytes, now - item->bytes); /* less, too: it wraps */
    r->item_bytes += now - item->bytes;
    item->bytes = now;
}

void rt_item_create(rt_session *r, const json_t *event) {
    const json_t *after = json_object_get(event, "previous_item_id");
    const char *id = json_string_value(after);
    size_t at = r->item_count;
    if (id && strcmp(id, "root") == 0) {
        at = 0;
    } else if (id) {
        if (!rt_item_find(r, id, &at)) {
            rt_refuse(r, "previous_item_id", "item_not_found", "the conversation has no item \"%.63s\"", id);
            return;
        }
        at++;
    } else if (after && !json_is_null(after)) {
        rt_refuse(r, "previous_item_id", "invalid_value", "\"previous_item_id\" must be an item's id, \"root\" or null");
        return;
    }
    rt_item *item = rt_item_read(r, json_object_get(event, "item"));
    if (item) {
        rt_item_insert(r, item, at);
    }
}

/* The item that an event names; NULL: an error has been told. */
static rt_item *named(rt_session *r, const json_t *event, size_t *at) {
    const char *id = json_string_value(json_object_get(event, "item_id"));
    rt_item *item = rt_item_find(r, id, at);
    if (!id) {
        rt_refuse(r, "item_id", "missing_required_parameter", "\"item_id\" must be an item's id");
    } else if (!item) {
        rt_refuse(r, "item_id", "item_not_found", "the conversation has no item \"%.63s\"", id);
    }
    return item;
}

/* As it is told, with the sound of the user's parts. */
void rt_item_retrieve(rt_session *r, const json_t *event) {
    size_t at, i;
    json_t *part;
    const rt_item *item = named(r, event, &at);
    if (!item) {
        return;
    }
    json_t *whole = json_deep_copy(item->told);
    json_array_foreach(json_object_get(whole, "content"), i, part) {
        const json_t *asked = json_array_get(json_object_get(item->asked, "content"), i);
        const json_t *data = json_object_get(json_object_get(asked, "input_audio"), "data");
        uint8_t *wav = NULL;
        size_t size = 0;
        if (data && base64_decode(json_string_value(data), json_string_length(data), RT_ITEM_BYTES, &wav, &size, NULL) == OMNI_OK &&
            size >= WAV_HEAD) {
            json_object_set_new(part, "audio", base64_value(NULL, 0, wav + WAV_HEAD, size - WAV_HEAD));
        }
        free(wav);
    }
    rt_tell(r, "conversation.item.retrieved", json_pack("{s:o*}", "item", whole));
}

void rt_item_delete(rt_session *r, const json_t *event) {
    size_t at;
    rt_item *item = named(r, event, &at);
    if (!item) {
        return;
    }
    if (item->growing) {
        rt_refuse(r, "item_id", "item_in_progress", "the item is being made: cancel its response first");
        return;
    }
    forget_from(r, at);
    r->item_bytes -= item->bytes;
    atomic_fetch_sub(&r->s->body_bytes, item->bytes);
    r->item_count--;
    memmove(r->items + at, r->items + at + 1, (r->item_count - at) * sizeof *r->items);
    rt_tell(r, "conversation.item.deleted", json_pack("{s:s}", "item_id", item->id));
    rt_item_free(item);
}

/* ---- what was played ---- */

/* Seconds that a character takes, about: 14 letters a second, 4.5 of the scripts that write syllables or words with one. */
static double seconds_of(utf8proc_int32_t c) {
    const bool whole = (c >= 0x2E80 && c < 0xA4D0) || (c >= 0xAC00 && c < 0xD7B0) || (c >= 0xF900 && c < 0xFB00) || (c >= 0x20000 && c < 0x32000);
    return whole ? 1 / 4.5 : 1 / 14.0;
}

double rt_seconds_of(const char *text, size_t size) {
    double all = 0;
    for (size_t at = 0; at < size;) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(size - at), &c);
        all += n > 0 ? seconds_of(c) : 0;
        at += n > 0 ? (size_t)n : 1;
    }
    return all;
}

/* Bytes of text that lie within a share of it: whole words, those that had begun left out. */
static size_t words_within(const char *text, size_t size, double share) {
    const double most = share * rt_seconds_of(text, size);
    double all = 0;
    size_t good = 0;
    for (size_t at = 0; at < size;) {
        utf8proc_int32_t c;
        const utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(size - at), &c);
        const double one = n > 0 ? seconds_of(c) : 0;
        if (one > 0.1 || c == ' ' || c == '\n') {
            good = at; /* a word has ended before this */
        }
        all += one;
        if (all > most + 1e-9) {
            return good;
        }
        at += n > 0 ? (size_t)n : 1;
    }
    return size;
}

static void truncate_item(rt_session *r, rt_item *item, size_t at, const json_t *event) {
    const json_t *end = json_object_get(event, "audio_end_ms"), *index = json_object_get(event, "content_index");
    json_t *told = json_array_get(json_object_get(item->told, "content"), 0), *asked = json_array_get(json_object_get(item->asked, "content"), 0);
    if (!item->spoken || !is_text(told, "type", "output_audio")) {
        rt_refuse(r, "item_id", "invalid_value", "only what the assistant has said as sound can be truncated");
        return;
    }
    if (index && (!json_is_integer(index) || json_integer_value(index) != 0)) {
        rt_refuse(r, "content_index", "invalid_value", "\"content_index\" must be 0");
        return;
    }
    if (!json_is_integer(end) || json_integer_value(end) < 0) {
        rt_refuse(r, "audio_end_ms", "invalid_value", "\"audio_end_ms\" must be a whole number, 0 or more");
        return;
    }
    const double played = (double)json_integer_value(end) / 1000;
    if (played > item->seconds + 0.001) {
        rt_refuse(r, "audio_end_ms", "invalid_value", "the item has %d ms of sound, less than %lld", (int)(item->seconds * 1000),
                  (long long)json_integer_value(end));
        return;
    }
    const json_t *words = json_object_get(told, "transcript");
    const char *text = json_string_value(words);
    const size_t size = json_string_length(words);
    const double all = item->words > item->seconds ? item->words : item->seconds; /* the sound may have been cut before its words were said */
    json_t *kept = json_stringn(text, all > 0 && played < all ? words_within(text, size, played / all) : size);
    forget_from(r, at);
    json_object_set(told, "transcript", kept);
    json_object_set_new(asked, "text", kept);
    item->seconds = item->words = played;
    rt_tell(r, "conversation.item.truncated",
            json_pack("{s:s, s:i, s:o}", "item_id", item->id, "content_index", 0, "audio_end_ms", json_integer(json_integer_value(end))));
}

void rt_item_truncate(rt_session *r, const json_t *event) {
    size_t at;
    rt_item *item = named(r, event, &at);
    if (!item) {
        return;
    }
    const bool waits = r->answer_when_free;
    if (item->growing && rt_response_active(r) && rt_response_active(r)->item == item) {
        r->answer_when_free = false;                                    /* a turn that waits is answered with what was heard */
        rt_response_stop(r, rt_response_active(r), "client_cancelled"); /* it is not heard any more */
    }
    truncate_item(r, item, at, event);
    if (waits && !r->answer_when_free) {
        rt_response_begin(r);
    }
}
