/* Building conversations. How they are laid out is in chat_render.c. */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

static omni_status no_memory(omni_error *err) {
    return fail(err, OMNI_ERR_MEMORY, "no memory for the conversation");
}

/* A NUL-terminated copy of n bytes; NULL when out of memory. */
static char *copy(const void *s, size_t n) {
    char *out = n < SIZE_MAX ? malloc(n + 1) : NULL;
    if (out) {
        if (n > 0) {
            memcpy(out, s, n);
        }
        out[n] = 0;
    }
    return out;
}

/* Makes room for one more element of a list that grows at powers of two. */
static void *room_for_one(void *list, size_t count, size_t element) {
    bool full = count < 4 ? count == 0 : (count & (count - 1)) == 0;
    if (!full) {
        return list;
    }
    size_t room = count < 4 ? 4 : count * 2;
    return room > SIZE_MAX / element ? NULL : realloc(list, room * element);
}

const char *chat_role_name(chat_role role) {
    static const char *const names[] = {"system", "user", "assistant", "tool"};
    return names[role];
}

const char *chat_kind_name(chat_kind kind) {
    static const char *const names[] = {"text", "image", "audio", "video"};
    return names[kind];
}

void chat_message_free(chat_message *m) {
    for (size_t i = 0; i < m->part_count; i++) {
        free(m->parts[i].text);
        free(m->parts[i].path);
        free(m->parts[i].data);
    }
    for (size_t i = 0; i < m->call_count; i++) {
        free(m->calls[i].id);
        free(m->calls[i].name);
        free(m->calls[i].arguments);
    }
    free(m->parts);
    free(m->calls);
    free(m->reasoning);
    token_list_free(&m->answer);
    *m = (chat_message){0};
}

void chat_remove(chat *c, size_t first, size_t count) {
    for (size_t i = 0; i < count; i++) {
        chat_message_free(&c->messages[first + i]);
    }
    memmove(c->messages + first, c->messages + first + count, (c->count - first - count) * sizeof *c->messages);
    c->count -= count;
}

void chat_truncate(chat *c, size_t count) {
    while (c->count > count) {
        chat_message_free(&c->messages[--c->count]);
    }
}

void chat_truncate_tools(chat *c, size_t count) {
    while (c->tool_count > count) {
        free(c->tools[--c->tool_count]);
    }
}

void chat_free(chat *c) {
    chat_truncate(c, 0);
    chat_truncate_tools(c, 0);
    free(c->messages);
    free(c->tools);
    *c = (chat){0};
}

omni_status chat_add_message(chat *c, chat_role role, chat_message **out, omni_error *err) {
    chat_message *messages = room_for_one(c->messages, c->count, sizeof *messages);
    if (!messages) {
        return no_memory(err);
    }
    c->messages = messages;
    messages[c->count] = (chat_message){.role = role};
    if (out) {
        *out = &messages[c->count];
    }
    c->count++;
    return OMNI_OK;
}

static omni_status add_part(chat_message *m, chat_part part, omni_error *err) {
    chat_part *parts = room_for_one(m->parts, m->part_count, sizeof *parts);
    if (parts) {
        m->parts = parts;
    }
    if (!parts || (!part.text && !part.path && !part.data)) {
        free(part.text);
        free(part.path);
        free(part.data);
        return no_memory(err);
    }
    parts[m->part_count++] = part;
    return OMNI_OK;
}

omni_status chat_add_text(chat_message *m, const char *text, size_t size, omni_error *err) {
    return add_part(m, (chat_part){.kind = CHAT_TEXT, .text = copy(text, size), .size = size}, err);
}

omni_status chat_add_media(chat_message *m, chat_kind kind, const char *path, const void *data, size_t size, omni_error *err) {
    if (path) {
        return add_part(m, (chat_part){.kind = kind, .path = copy(path, strlen(path))}, err);
    }
    return add_part(m, (chat_part){.kind = kind, .data = (uint8_t *)copy(data, size), .size = size}, err);
}

omni_status chat_add_call(chat_message *m, const char *id, const char *name, const char *arguments, omni_error *err) {
    chat_call *calls = room_for_one(m->calls, m->call_count, sizeof *calls);
    if (!calls) {
        return no_memory(err);
    }
    m->calls = calls;
    chat_call call = {id ? copy(id, strlen(id)) : NULL, copy(name, strlen(name)), copy(arguments, strlen(arguments))};
    if ((id && !call.id) || !call.name || !call.arguments) {
        free(call.id);
        free(call.name);
        free(call.arguments);
        return no_memory(err);
    }
    calls[m->call_count++] = call;
    return OMNI_OK;
}

omni_status chat_add_tool(chat *c, const char *json, omni_error *err) {
    char **tools = room_for_one(c->tools, c->tool_count, sizeof *tools);
    if (!tools) {
        return no_memory(err);
    }
    c->tools = tools;
    tools[c->tool_count] = copy(json, strlen(json));
    if (!tools[c->tool_count]) {
        return no_memory(err);
    }
    c->tool_count++;
    return OMNI_OK;
}
