#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/internal.h"
#include "server/listen.h"
#include "server/websocket.h"

exchange *exchange_create(struct server *s) {
    exchange *x = calloc(1, sizeof *x);
    if (!x) {
        return NULL;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    x->s = s;
    x->began = server_now();
    atomic_init(&x->holders, 1);
    return x;
}

void exchange_release(exchange *x) {
    if (x && atomic_fetch_sub(&x->holders, 1) == 1) {
        atomic_fetch_sub(&x->s->body_bytes, x->body_room + x->fetched + (x->socket ? x->socket->received + x->socket->out.bytes : 0));
        pthread_mutex_destroy(&x->lock);
        pthread_cond_destroy(&x->moved);
        websocket_free(x->socket);
        free(x->body);
        free(x->out);
        free(x);
    }
}

/* With x->lock held. False: no memory, the answer is cut. */
static bool append(exchange *x, const void *data, size_t size) {
    if (x->out_sent == x->out_size) {
        x->out_sent = x->out_size = 0;
    }
    if (x->out_size + size > x->out_capacity) {
        size_t capacity = x->out_capacity ? x->out_capacity : 1024;
        while (capacity < x->out_size + size) {
            capacity *= 2;
        }
        char *grown = realloc(x->out, capacity);
        if (!grown) {
            return false;
        }
        x->out = grown;
        x->out_capacity = capacity;
    }
    if (size > 0) {
        memcpy(x->out + x->out_size, data, size);
    }
    x->out_size += size;
    return true;
}

void reply_header(exchange *x, const char *name, const char *value) {
    const size_t used = strlen(x->head);
    if (strpbrk(value, "\r\n") || snprintf(x->head + used, sizeof x->head - used, "%s: %s\n", name, value) >= (int)(sizeof x->head - used)) {
        x->head[used] = 0;
    }
}

static void start(exchange *x, int status, const char *type, bool chunked) {
    x->status = status;
    x->chunked = chunked;
    snprintf(x->type, sizeof x->type, "%s", type);
}

void reply_with(exchange *x, int status, const char *type, const void *body, size_t size) {
    pthread_mutex_lock(&x->lock);
    start(x, status, type, false);
    if (!append(x, body, size)) {
        x->status = 503;
    }
    x->ended = true;
    pthread_mutex_unlock(&x->lock);
    listen_write(x);
}

void reply_begin(exchange *x, int status, const char *type) {
    pthread_mutex_lock(&x->lock);
    start(x, status, type, true);
    pthread_mutex_unlock(&x->lock);
    listen_write(x);
}

bool reply_write(exchange *x, const void *data, size_t size) {
    char frame[24];
    pthread_mutex_lock(&x->lock);
    while (!x->gone && x->out_size - x->out_sent > EXCHANGE_HELD) {
        pthread_cond_wait(&x->moved, &x->lock);
    }
    bool good = !x->gone;
    if (good && size > 0) {
        const int n = snprintf(frame, sizeof frame, "%zx\r\n", size);
        good = x->http_1_0 ? append(x, data, size) : append(x, frame, (size_t)n) && append(x, data, size) && append(x, "\r\n", 2);
    }
    pthread_mutex_unlock(&x->lock);
    if (good) {
        listen_write(x);
    }
    return good;
}

void reply_end(exchange *x) {
    pthread_mutex_lock(&x->lock);
    if (!x->http_1_0) {
        (void)append(x, "0\r\n\r\n", 5);
    }
    x->ended = true;
    pthread_mutex_unlock(&x->lock);
    listen_write(x);
}

void reply_cut(exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->keep_alive = false;
    x->ended = true;
    pthread_mutex_unlock(&x->lock);
    listen_write(x);
}

/* "messages[0].content" is "input" where messages are called so: what stands where is the handler's. */
static const char *own_name(const exchange *x, const char *param) {
    for (const param_rename *r = param ? x->renames : NULL; r && r->old; r++) {
        const size_t n = strlen(r->old);
        if (strncmp(param, r->old, n) == 0 && (param[n] == 0 || param[n] == '[' || param[n] == '.')) {
            return r->name;
        }
    }
    return param;
}

void reply_error(exchange *x, int status, const char *param, const char *code, const char *format, ...) {
    char text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *type = status == 401 || status == 403 ? "authentication_error"
                       : status == 429                ? "rate_limit_error"
                       : status >= 500                ? "server_error"
                                                      : "invalid_request_error";
    param = own_name(x, param);
    json_t *inner = json_pack("{s:o*, s:s, s:o*, s:s?}", "message", text_value(text, strlen(text)), "type", type, "param",
                              param ? text_value(param, strlen(param)) : json_null(), "code", code); /* names may be the client's */
    if (x->on_error) {
        x->on_error(x->on_error_arg, inner);
        return;
    }
    answer_json(x, status, json_pack("{s:o*}", "error", inner));
}

void exchange_on_gone(exchange *x, void (*f)(void *arg), void *arg) {
    pthread_mutex_lock(&x->lock);
    x->on_gone = f;
    x->on_gone_arg = arg;
    if (f && x->gone) {
        f(arg);
    }
    pthread_mutex_unlock(&x->lock);
}

bool exchange_gone(exchange *x) {
    pthread_mutex_lock(&x->lock);
    const bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone;
}

void exchange_count(exchange *x, int64_t prompt_tokens, int64_t cached_tokens, int64_t answer_tokens) {
    pthread_mutex_lock(&x->lock);
    x->prompt_tokens += prompt_tokens;
    x->cached_tokens += cached_tokens;
    x->answer_tokens += answer_tokens;
    pthread_mutex_unlock(&x->lock);
}

void exchange_lost(exchange *x) {
    pthread_mutex_lock(&x->lock);
    if (!x->gone && x->on_gone) {
        x->on_gone(x->on_gone_arg);
    }
    x->gone = true;
    pthread_cond_broadcast(&x->moved);
    pthread_mutex_unlock(&x->lock);
}
