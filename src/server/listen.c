#define _GNU_SOURCE
#include "server/listen.h"

#include <libwebsockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/internal.h"
#include "server/tls.h"
#include "server/websocket.h"

enum { WRITE_BYTES = 32 << 10, HEAD_BYTES = 16 << 10, CONNECTIONS_HEADS = 1024, LINGER_SECONDS = 5 };
/* libwebsockets reads 100 MiB of a body without a length, the chunks' own bytes among them. */
enum { CHUNKED_MOST = 64 << 20 };

/* What libwebsockets keeps for a connection. */
typedef struct connection {
    exchange *x;    /* the request that is being read or answered; NULL between two */
    bool lingering; /* the answer is written, the rest of the body is read and dropped: closing earlier could lose the answer */
} connection;

/* Event thread. */
static struct {
    int live;       /* exchanges */
    int websockets; /* of those */
    bool stop;
    double taking_until; /* while leaving: when new requests are refused */
    double deadline;     /* while draining: when whatever still runs is cut */
    pthread_t signals;
    _Atomic bool signals_end, asked_to_stop, asked_to_reload;
} now;

static server *server_of(struct lws *wsi) {
    return lws_context_user(lws_get_context(wsi));
}

/* ---- answers out ---- */

static const char *reason_of(int status) {
    static const struct {
        int status;
        const char *text;
    } reasons[] = {{101, "Switching Protocols"},
                   {200, "OK"},
                   {204, "No Content"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {411, "Length Required"},
                   {413, "Content Too Large"},
                   {426, "Upgrade Required"},
                   {429, "Too Many Requests"},
                   {500, "Internal Server Error"},
                   {501, "Not Implemented"},
                   {503, "Service Unavailable"}};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if (reasons[i].status == status) {
            return reasons[i].text;
        }
    }
    return "Status";
}

/* With x->lock held. */
static size_t print_head(const server *s, const exchange *x, char *to, size_t room) {
    char date[64];
    const time_t t = time(NULL);
    struct tm utc;
    gmtime_r(&t, &utc);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    FILE *f = fmemopen(to, room, "w");
    if (!f) {
        return 0;
    }
    fprintf(f, "HTTP/1.1 %d %s\r\nDate: %s\r\nServer: omni\r\nX-Content-Type-Options: nosniff\r\n", x->status, reason_of(x->status), date);
    if (x->status != 204) {
        fprintf(f, "Content-Type: %s\r\n", x->type);
    }
    if (!x->chunked) {
        fprintf(f, "Content-Length: %zu\r\n", x->out_size);
    } else if (!x->http_1_0) {
        fprintf(f, "Transfer-Encoding: chunked\r\nCache-Control: no-store\r\n");
    }
    if (s->p.cors) {
        fprintf(f,
                "Access-Control-Allow-Origin: %s\r\nAccess-Control-Allow-Headers: authorization, content-type, x-api-key\r\n"
                "Access-Control-Allow-Methods: GET, POST, OPTIONS\r\nAccess-Control-Max-Age: 600\r\n",
                s->p.cors);
        if (strcmp(s->p.cors, "*") != 0) {
            fprintf(f, "Vary: Origin\r\n");
        }
    }
    for (const char *line = x->head; *line; line = strchr(line, '\n') + 1) {
        fprintf(f, "%.*s\r\n", (int)strcspn(line, "\n"), line);
    }
    fprintf(f, "Connection: %s\r\n\r\n", x->keep_alive ? "keep-alive" : "close");
    const long size = ftell(f);
    return fclose(f) == 0 && size > 0 ? (size_t)size : 0;
}

/* The exchange has ended for the event thread: answered, or its connection is gone. */
static void let_go(connection *c, bool gone) {
    exchange *x = c->x;
    server *s = x->s;
    c->x = NULL;
    now.live--;
    now.websockets -= x->socket != NULL;
    pthread_mutex_lock(&s->lock);
    for (exchange **p = &s->wants_write; *p; p = &(*p)->next_write) {
        if (*p == x) {
            *p = x->next_write;
            break;
        }
    }
    x->listed = true; /* for good: nothing will be written */
    x->wsi = NULL;
    pthread_mutex_unlock(&s->lock);
    if (gone) {
        exchange_lost(x);
    }
    const double seconds = server_now() - x->began;
    pthread_mutex_lock(&x->lock);
    const int status = x->status;
    log_request(&s->log, x, seconds);
    pthread_mutex_unlock(&x->lock);
    metrics_end(&s->metrics, status, gone && !x->socket, seconds);
    exchange_release(x);
}

static int write_some(struct lws *wsi, connection *c) {
    static unsigned char buffer[LWS_PRE + WRITE_BYTES];
    exchange *x = c->x;
    unsigned char *at = buffer + LWS_PRE;
    if (!x) {
        return 0;
    }
    pthread_mutex_lock(&x->lock);
    if (x->status == 0) {
        pthread_mutex_unlock(&x->lock);
        return 0;
    }
    size_t n = 0, body = 0;
    const bool no_body = strcmp(x->method, "HEAD") == 0;
    if (!x->head_written) {
        n = print_head(x->s, x, (char *)at, WRITE_BYTES / 2);
        x->head_written = true;
        if (n == 0) {
            pthread_mutex_unlock(&x->lock);
            return -1;
        }
    }
    body = x->out_size - x->out_sent < WRITE_BYTES - n ? x->out_size - x->out_sent : WRITE_BYTES - n;
    if (!no_body && body > 0) {
        memcpy(at + n, x->out + x->out_sent, body);
        n += body;
    }
    x->out_sent += body;
    x->written += n;
    const bool more = x->out_sent < x->out_size, done = x->ended && !more;
    pthread_cond_broadcast(&x->moved);
    pthread_mutex_unlock(&x->lock);
    if (n > 0) {
        lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, x->s->p.timeout);
        if (lws_write(wsi, at, n, LWS_WRITE_HTTP) < 0) {
            return -1;
        }
    }
    if (more) {
        lws_callback_on_writable(wsi);
    } else if (!done) {
        lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0); /* the model may think as long as it likes */
    } else {
        const bool keep = x->keep_alive;
        c->lingering = !keep && x->body_left > 0;
        let_go(c, false);
        if (c->lingering) {
            lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, LINGER_SECONDS);
            return 0;
        }
        if (!keep) {
            return -1;
        }
        return lws_http_transaction_completed(wsi) ? -1 : 0;
    }
    return 0;
}

void listen_write(exchange *x) {
    server *s = x->s;
    pthread_mutex_lock(&s->lock);
    const bool add = !x->listed;
    if (add) {
        x->listed = true;
        x->next_write = s->wants_write;
        s->wants_write = x;
    }
    if (add && s->context) {
        lws_cancel_service(s->context); /* with the lock: listen_close takes the context away under it */
    }
    pthread_mutex_unlock(&s->lock);
}

static void write_listed(server *s) {
    pthread_mutex_lock(&s->lock);
    while (s->wants_write) {
        exchange *x = s->wants_write;
        s->wants_write = x->next_write;
        x->listed = false;
        if (x->wsi) {
            lws_callback_on_writable(x->wsi);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- requests in ---- */

static void copy_header(struct lws *wsi, enum lws_token_indexes token, char *to, int room) {
    if (lws_hdr_copy(wsi, to, room, token) < 0) {
        to[0] = 0;
    }
}

static bool read_method(struct lws *wsi, exchange *x) {
    static const struct {
        enum lws_token_indexes token;
        const char *name;
    } methods[] = {{WSI_TOKEN_GET_URI, "GET"}, {WSI_TOKEN_POST_URI, "POST"},   {WSI_TOKEN_HEAD_URI, "HEAD"},    {WSI_TOKEN_OPTIONS_URI, "OPTIONS"},
                   {WSI_TOKEN_PUT_URI, "PUT"}, {WSI_TOKEN_PATCH_URI, "PATCH"}, {WSI_TOKEN_DELETE_URI, "DELETE"}};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (lws_hdr_total_length(wsi, methods[i].token) > 0) {
            snprintf(x->method, sizeof x->method, "%s", methods[i].name);
            return true;
        }
    }
    return false;
}

/* "Bearer KEY" or X-API-Key; from a browser's WebSocket, which can set no headers, the subprotocol openai-insecure-api-key.KEY. */
static void read_key(struct lws *wsi, char *key, int room) {
    static const char prefix[] = "openai-insecure-api-key.";
    char text[1100];
    key[0] = 0;
    copy_header(wsi, WSI_TOKEN_PROTOCOL, text, sizeof text);
    const char *own = strstr(text, prefix);
    if (own) {
        own += sizeof prefix - 1;
        snprintf(key, (size_t)room, "%.*s", (int)strcspn(own, ", "), own);
    }
    copy_header(wsi, WSI_TOKEN_HTTP_AUTHORIZATION, text, sizeof text);
    if (strncasecmp(text, "bearer ", 7) == 0) {
        snprintf(key, (size_t)room, "%s", text + 7 + strspn(text + 7, " "));
    } else if (!own && lws_hdr_custom_length(wsi, "x-api-key:", 10) > 0 && lws_hdr_custom_copy(wsi, key, room, "x-api-key:", 10) < 0) {
        key[0] = 0;
    }
    explicit_bzero(text, sizeof text);
}

/* What can be said before the body is there. False: it has been. */
static bool admit(server *s, struct lws *wsi, exchange *x) {
    char key[1100];
    bool known;
    int wait;
    if (strcmp(x->method, "OPTIONS") == 0) {
        reply_with(x, 204, "", "", 0);
        return false;
    }
    x->route = route_find(s, x->method, x->path, &known);
    if (!x->route) {
        reply_error(x, known ? 405 : 404, NULL, known ? NULL : "not_found",
                    known ? "%s %s: another method is needed" : "%s %s: there is no such endpoint", x->method, x->path);
        return false;
    }
    if (x->route->open) {
        return true;
    }
    read_key(wsi, key, sizeof key);
    const bool may = auth_check(&s->keys, key, x->owner);
    const bool given = key[0] != 0;
    explicit_bzero(key, sizeof key);
    if (!may) {
        reply_header(x, "WWW-Authenticate", "Bearer");
        reply_error(x, 401, NULL, "invalid_api_key",
                    given ? "that API key is not one of this server's" : "an API key is needed: Authorization: Bearer KEY");
        return false;
    }
    if (atomic_load(&s->draining)) {
        reply_error(x, 503, NULL, "shutting_down", "the server is shutting down");
        return false;
    }
    if (x->owner[0]) {
        snprintf(x->who, sizeof x->who, "%s", x->owner);
    } else {
        lws_get_peer_simple(wsi, x->who, sizeof x->who);
    }
    if (!auth_take(&s->keys, x->who, s->p.rate_limit, server_now(), &wait)) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", wait);
        reply_header(x, "Retry-After", seconds);
        reply_error(x, 429, NULL, "rate_limit_exceeded", "more than %d requests a minute (--rate-limit); again in %d s", s->p.rate_limit, wait);
        return false;
    }
    return true;
}

/* Once: libwebsockets tells of a body's end also where there was none. */
static void dispatch(server *s, exchange *x) {
    if (x->dispatched) {
        return;
    }
    x->dispatched = true;
    if (x->route->now) {
        x->route->handle(s, x);
    } else if (!workers_take(&s->workers, x)) {
        reply_header(x, "Retry-After", "1");
        reply_error(x, 429, NULL, "queue_full", "the server is answering as many requests as it may");
    }
}

static int begin(server *s, struct lws *wsi, connection *c, const char *path) {
    exchange *x = exchange_create(s);
    if (!x) {
        return -1;
    }
    char text[64];
    c->x = x;
    x->wsi = wsi;
    now.live++;
    metrics_begin(&s->metrics);
    snprintf(x->path, sizeof x->path, "%s", path);
    copy_header(wsi, WSI_TOKEN_HTTP, text, sizeof text);
    x->http_1_0 = strstr(text, "1.0") != NULL;
    copy_header(wsi, WSI_TOKEN_CONNECTION, text, sizeof text);
    x->keep_alive = strcasestr(text, "close") == NULL && (!x->http_1_0 || strcasestr(text, "keep-alive")) && !atomic_load(&s->leaving);
    copy_header(wsi, WSI_TOKEN_HTTP_CONTENT_TYPE, x->content_type, sizeof x->content_type);
    lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0);
    if (!read_method(wsi, x)) {
        x->keep_alive = false;
        reply_error(x, 405, NULL, NULL, "that method is not known here");
        return 0;
    }
    const bool sends = strcmp(x->method, "POST") == 0 || strcmp(x->method, "PUT") == 0 || strcmp(x->method, "PATCH") == 0;
    const bool counted = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) > 0;
    copy_header(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH, text, sizeof text);
    char *end = text;
    const unsigned long long size = counted && text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (counted && (end == text || *end)) {
        x->keep_alive = false;
        reply_error(x, 400, NULL, NULL, "Content-Length is no number");
        return 0;
    }
    copy_header(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING, text, sizeof text);
    x->in_chunks = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0;
    /* Beside a length, the two would be read differently by a proxy. */
    if (x->in_chunks && (counted || !sends || x->http_1_0 || strcasecmp(text, "chunked") != 0)) {
        x->keep_alive = false;
        reply_error(x, 411, NULL, NULL, "a body must come with its Content-Length, or in chunks (Transfer-Encoding: chunked) without one");
        return 0;
    }
    if (sends && !counted && !x->in_chunks) {
        x->keep_alive = false;
        reply_error(x, 411, NULL, NULL, "Content-Length is needed");
        return 0;
    }
    x->keep_alive = x->keep_alive && !x->in_chunks; /* libwebsockets does not know where the body ends */
    x->body_left = x->in_chunks ? 1 : sends ? size : 0;
    if (size > s->p.max_body) {
        x->keep_alive = false;
        reply_error(x, 413, NULL, "request_too_large", "%llu bytes; requests may have %zu (--max-body)", size, s->p.max_body);
        return 0;
    }
    if (!admit(s, wsi, x)) {
        x->keep_alive = x->keep_alive && size == 0; /* nobody reads the body */
        return 0;
    }
    x->admitted = true;
    if (size == 0 && !x->in_chunks) {
        dispatch(s, x);
    } else {
        lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, s->p.timeout);
        if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_EXPECT) > 0) { /* curl asks before it sends a large body */
            unsigned char line[LWS_PRE + 32] = {0};
            const int n = snprintf((char *)line + LWS_PRE, 32, "HTTP/1.1 100 Continue\r\n\r\n");
            return lws_write(wsi, line + LWS_PRE, (size_t)n, LWS_WRITE_HTTP_HEADERS_CONTINUATION) < 0 ? -1 : 0;
        }
    }
    return 0;
}

/* body_room counts the bytes that were allocated, not those that were announced: announcing costs a client nothing. */
static bool take_body(server *s, exchange *x, const void *data, size_t size) {
    if (!x->admitted || x->dispatched || size == 0) {
        return true; /* refused: what still comes is dropped */
    }
    if (x->body_size + size + 1 > x->body_room) {
        size_t room = x->body_room ? x->body_room : 4096;
        while (room < x->body_size + size + 1) {
            room *= 2;
        }
        const size_t more = room - x->body_room;
        char *grown = atomic_fetch_add(&s->body_bytes, more) + more > s->p.max_bodies ? NULL : realloc(x->body, room);
        if (!grown) {
            atomic_fetch_sub(&s->body_bytes, more);
            return false;
        }
        x->body = grown;
        x->body_room = room;
    }
    memcpy(x->body + x->body_size, data, size);
    x->body_size += size;
    x->body[x->body_size] = 0;
    return true;
}

static void refuse_body(exchange *x, int status, const char *code, const char *text) {
    x->keep_alive = x->admitted = false;
    reply_error(x, status, NULL, code, "%s", text);
}

/* Pieces of a body in chunks. libwebsockets hands them on as they come. */
static void receive_chunks(server *s, exchange *x, const char *data, size_t size) {
    for (size_t at = 0; at < size && x->admitted && !x->chunks.ended && !x->chunks.damaged;) {
        size_t n;
        at += chunks_read(&x->chunks, data + at, size - at, &n);
        if (x->chunks.damaged) {
            refuse_body(x, 400, "invalid_chunks", "the body's chunks are damaged");
        } else if (x->body_size + n > s->p.max_body || x->body_size + n > CHUNKED_MOST) {
            refuse_body(x, 413, "request_too_large",
                        "the body is larger than requests may be (--max-body), or than what may come in chunks (64 MiB)");
        } else if (!take_body(s, x, data + at - n, n)) {
            refuse_body(x, 503, "overloaded", "too much is being received at once");
        }
    }
    if (x->chunks.ended && x->admitted) {
        x->body_left = 0;
        lws_set_timeout(x->wsi, NO_PENDING_TIMEOUT, 0);
        dispatch(s, x);
    }
}

static void receive_body(server *s, struct lws *wsi, exchange *x, const void *data, size_t size) {
    if (x->in_chunks) {
        if (x->admitted && !x->dispatched) {
            lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, s->p.timeout);
            receive_chunks(s, x, data, size);
        }
        return;
    }
    x->body_left -= size < x->body_left ? size : x->body_left;
    if (!take_body(s, x, data, size)) {
        refuse_body(x, 503, "overloaded", "too much is being received at once");
    } else if (x->admitted) {
        lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, s->p.timeout);
    }
}

/* ---- WebSockets ---- */

/* A page of another origin may not: WebSockets are outside of what browsers hold pages to. Programs send no Origin. */
static bool same_origin(const server *s, struct lws *wsi) {
    char origin[300], host[300];
    copy_header(wsi, WSI_TOKEN_ORIGIN, origin, sizeof origin);
    copy_header(wsi, WSI_TOKEN_HOST, host, sizeof host);
    const char *name = strstr(origin, "://");
    return lws_hdr_total_length(wsi, WSI_TOKEN_ORIGIN) <= 0 || (name && strcasecmp(name + 3, host) == 0) ||
           (s->p.cors && (strcmp(s->p.cors, "*") == 0 || strcmp(s->p.cors, origin) == 0));
}

static void read_wishes(struct lws *wsi, websocket *w) {
    char text[300];
    if (lws_hdr_custom_length(wsi, "openai-beta:", 12) > 0 && lws_hdr_custom_copy(wsi, text, sizeof text, "openai-beta:", 12) > 0) {
        w->beta = strstr(text, "realtime=v1") != NULL;
    }
    copy_header(wsi, WSI_TOKEN_PROTOCOL, text, sizeof text);
    w->beta |= strstr(text, "openai-beta.realtime-v1") != NULL;
    for (int i = 0; lws_hdr_copy_fragment(wsi, text, sizeof text, WSI_TOKEN_HTTP_URI_ARGS, i) >= 0; i++) {
        w->transcribes |= strcmp(text, "intent=transcription") == 0;
    }
}

/* False: refused, with an answer. */
static bool admit_websocket(server *s, struct lws *wsi, exchange *x) {
    if (!admit(s, wsi, x)) {
        return false;
    }
    if (x->route->handle != handle_realtime) {
        reply_error(x, 400, NULL, NULL, "%s is no WebSocket: /v1/realtime is", x->path);
        return false;
    }
    if (!same_origin(s, wsi)) {
        reply_error(x, 403, NULL, "origin_not_allowed", "pages of another origin may not connect: --cors ORIGIN lets one");
        return false;
    }
    if (now.websockets >= WEBSOCKET_MOST) {
        reply_header(x, "Retry-After", "1");
        reply_error(x, 429, NULL, "too_many_sessions", "the server has %d WebSockets open, as many as it may", now.websockets);
        return false;
    }
    x->socket = websocket_create();
    if (!x->socket) {
        reply_error(x, 503, NULL, NULL, "out of memory");
        return false;
    }
    now.websockets++;
    read_wishes(wsi, x->socket);
    return true;
}

/* The head of a request for a WebSocket. The exchange waits at the connection until that has become one. Less than 0: refused, close. */
static int begin_websocket(server *s, struct lws *wsi) {
    unsigned char answer[LWS_PRE + 4096];
    exchange *x = exchange_create(s);
    if (!x) {
        return -1;
    }
    now.live++;
    metrics_begin(&s->metrics);
    copy_header(wsi, WSI_TOKEN_GET_URI, x->path, sizeof x->path);
    if (read_method(wsi, x) && admit_websocket(s, wsi, x)) {
        x->status = 101;
        x->ended = true;
        lws_set_opaque_user_data(wsi, x);
        return 0;
    }
    pthread_mutex_lock(&x->lock);
    x->status = x->status ? x->status : 400;
    size_t n = print_head(s, x, (char *)answer + LWS_PRE, 2048);
    const size_t body = x->out_size < 2048 ? x->out_size : 2048;
    if (body > 0) {
        memcpy(answer + LWS_PRE + n, x->out, body);
    }
    x->written = n + body;
    x->out_sent = x->out_size;
    pthread_mutex_unlock(&x->lock);
    if (n > 0) {
        lws_write(wsi, answer + LWS_PRE, n + body, LWS_WRITE_HTTP);
    }
    connection only = {.x = x};
    let_go(&only, false);
    return -1;
}

static int open_websocket(server *s, struct lws *wsi, connection *c) {
    exchange *x = lws_get_opaque_user_data(wsi);
    lws_set_opaque_user_data(wsi, NULL);
    *c = (connection){.x = x};
    if (!x) {
        return -1;
    }
    x->wsi = wsi;
    x->dispatched = true;
    if (!workers_take(&s->workers, x)) {
        lws_close_reason(wsi, (enum lws_close_status)1013, (unsigned char *)"no thread can be had", 20);
        return -1;
    }
    return 0;
}

static int close_websocket(struct lws *wsi, int code, const char *reason) {
    lws_close_reason(wsi, (enum lws_close_status)code, (unsigned char *)reason, strlen(reason));
    return -1;
}

static int receive(struct lws *wsi, connection *c, const void *data, size_t size) {
    exchange *x = c->x;
    if (!x) {
        return -1;
    }
    if (lws_frame_is_binary(wsi)) {
        return close_websocket(wsi, 1003, "text messages alone are taken");
    }
    const bool last = lws_is_final_fragment(wsi) && lws_remaining_packet_payload(wsi) == 0;
    const int code = websocket_receive(x, data, size, last);
    if (code != 0) {
        return close_websocket(wsi, code, code == 1009 ? "a message of more bytes than are taken" : "too much is being received at once");
    }
    pthread_mutex_lock(&x->lock);
    const bool full = x->socket->in.bytes >= WEBSOCKET_IN_HELD;
    pthread_mutex_unlock(&x->lock);
    if (full && !x->socket->paused) {
        x->socket->paused = true;
        lws_rx_flow_control(wsi, 0);
    }
    return 0;
}

static int write_message(struct lws *wsi, connection *c) {
    exchange *x = c->x;
    bool room;
    if (!x) {
        return -1;
    }
    if (atomic_load(&x->s->draining)) {
        websocket_wake(x);
    }
    websocket_message *m = websocket_take_out(x, &room);
    if (room && x->socket->paused) {
        x->socket->paused = false;
        lws_rx_flow_control(wsi, 1);
    }
    if (m) {
        lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, x->s->p.timeout);
        const int n = lws_write(wsi, (unsigned char *)m->text, m->size, LWS_WRITE_TEXT);
        free(m);
        lws_callback_on_writable(wsi);
        return n < 0 ? -1 : 0;
    }
    lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0);
    pthread_mutex_lock(&x->lock);
    const int code = x->socket->close_code;
    pthread_mutex_unlock(&x->lock);
    return code != 0 ? close_websocket(wsi, code, x->socket->close_reason) : 0;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t size) {
    connection *c = user;
    switch (reason) {
    case LWS_CALLBACK_FILTER_NETWORK_CONNECTION:
        return atomic_load(&server_of(wsi)->draining) ? -1 : 0;
    case LWS_CALLBACK_FILTER_HTTP_CONNECTION:
        return 0;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE: /* libwebsockets would go over to HTTP/2 */
        return strcasecmp(in, "websocket") == 0 ? begin_websocket(server_of(wsi), wsi) : -1;
    case LWS_CALLBACK_HTTP:
        return c->x ? -1 : begin(server_of(wsi), wsi, c, in);
    case LWS_CALLBACK_HTTP_BODY:
        if (c->x) {
            receive_body(server_of(wsi), wsi, c->x, in, size);
        }
        return 0;
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        if (c->lingering) {
            return -1;
        }
        if (c->x && c->x->admitted && !c->x->in_chunks) {
            lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0);
            dispatch(server_of(wsi), c->x);
        } else if (c->x && c->x->admitted && !c->x->dispatched) {
            refuse_body(c->x, 413, "request_too_large", "the body has more chunks than are read");
        }
        return 0;
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return write_some(wsi, c);
    case LWS_CALLBACK_CLOSED_HTTP:
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
        if (c && c->x) {
            let_go(c, true);
        }
        return 0;
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        write_listed(server_of(wsi));
        return 0;
    case LWS_CALLBACK_ESTABLISHED:
        return open_websocket(server_of(wsi), wsi, c);
    case LWS_CALLBACK_RECEIVE:
        return receive(wsi, c, in, size);
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return write_message(wsi, c);
    case LWS_CALLBACK_CLOSED:
        if (c && c->x) {
            let_go(c, true);
        }
        return 0;
    case LWS_CALLBACK_WSI_DESTROY: { /* of one that did not become a WebSocket after all */
        connection never = {.x = lws_get_opaque_user_data(wsi)};
        if (never.x) {
            lws_set_opaque_user_data(wsi, NULL);
            let_go(&never, true);
        }
        return 0;
    }
    default:
        return 0;
    }
}

/* The second is the subprotocol that browsers name; a WebSocket without any has the first. */
static const struct lws_protocols protocols[] = {
    {"http", on_event, sizeof(connection), 0, 0, NULL, 0}, {"realtime", on_event, sizeof(connection), 0, 0, NULL, 0}, {NULL, NULL, 0, 0, 0, NULL, 0}};

/* ---- signals ---- */

static void *wait_for_signals(void *arg) {
    server *s = arg;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    const struct timespec tick = {0, 100000000};
    while (!atomic_load(&now.signals_end)) {
        const int signal = sigtimedwait(&set, NULL, &tick);
        if (signal == SIGTERM || signal == SIGINT) {
            atomic_store(&now.asked_to_stop, true);
        } else if (signal == SIGHUP) {
            atomic_store(&now.asked_to_reload, true);
        }
        if (signal > 0 || atomic_load(&s->leaving)) {
            lws_cancel_service(s->context);
        }
    }
    return NULL;
}

static void reload(server *s) {
    omni_error err = {0};
    if (auth_reload(&s->keys, s->p.api_key_file, &err) != OMNI_OK) {
        log_event(&s->log, "error", "SIGHUP: %s", err.text);
    } else {
        log_event(&s->log, "info", "SIGHUP: keys read again");
    }
    if (!s->p.tls_cert) {
        return;
    }
    if (tls_check(s->p.tls_cert, s->p.tls_key, &err) != OMNI_OK) {
        log_event(&s->log, "error", "SIGHUP: %s; the certificate stays as it was", err.text);
    } else if (lws_tls_cert_updated(s->context, s->p.tls_cert, s->p.tls_key, NULL, 0, NULL, 0) != 0) {
        log_event(&s->log, "error", "SIGHUP: %s: libwebsockets does not take it", s->p.tls_cert);
    } else {
        log_event(&s->log, "info", "SIGHUP: certificate read again");
    }
}

static void look_at_signals(server *s) {
    if (atomic_exchange(&now.asked_to_reload, false)) {
        reload(s);
    }
    if (atomic_exchange(&now.asked_to_stop, false)) {
        if (atomic_exchange(&s->leaving, true)) { /* asked twice */
            atomic_store(&s->draining, true);
            now.deadline = 0;
        } else {
            now.taking_until = server_now() + s->p.drain;
            if (s->p.drain > 0) {
                log_event(&s->log, "info", "not ready any more: requests are still taken for %d s (--drain)", s->p.drain);
            }
        }
    }
    if (atomic_load(&s->leaving) && !atomic_load(&s->draining) && server_now() >= now.taking_until) {
        atomic_store(&s->draining, true);
        now.deadline = server_now() + s->p.grace;
        log_event(&s->log, "info", "shutting down: %d requests run, %d s for them", now.live + atomic_load(&s->wyoming_running), s->p.grace);
        lws_callback_on_writable_all_protocol(s->context, &protocols[0]); /* WebSockets are told */
        lws_callback_on_writable_all_protocol(s->context, &protocols[1]);
    }
    if (atomic_load(&s->draining) && ((now.live == 0 && atomic_load(&s->wyoming_running) == 0) || server_now() >= now.deadline)) {
        now.stop = true;
    }
}

/* ---- the loop ---- */

static void emit_log(int level, const char *line) {
    fprintf(stderr, "libwebsockets: %s", line);
}

omni_status listen_open(struct server *s, omni_error *err) {
    struct lws_context_creation_info info = {0};
    lws_set_log_level(LLL_ERR, emit_log);
    info.port = s->p.port;
    info.iface = s->p.host;
    info.protocols = protocols;
    info.gid = info.uid = -1;
    info.user = s;
    info.timeout_secs = (unsigned)s->p.timeout;
    info.timeout_secs_ah_idle = (unsigned)s->p.timeout; /* until the first head is whole */
    info.keepalive_timeout = s->p.timeout;
    info.max_http_header_data = HEAD_BYTES;
    info.max_http_header_pool = CONNECTIONS_HEADS;
    info.pt_serv_buf_size = 64 << 10;
    static lws_retry_bo_t alive; /* WebSockets without a sign of life are asked for one, and closed without an answer */
    alive = (lws_retry_bo_t){.secs_since_valid_ping = (uint16_t)(s->p.timeout < 60000 ? (s->p.timeout + 1) / 2 : 30000),
                             .secs_since_valid_hangup = (uint16_t)(s->p.timeout < 60000 ? s->p.timeout + 1 : 60000)};
    info.retry_and_idle_policy = &alive;
    info.alpn = "http/1.1";
    info.vhost_name = "omni";
    info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_DISABLE_IPV6 * (strchr(s->p.host, ':') == NULL);
    if (s->p.tls_cert) {
        const omni_status status = tls_check(s->p.tls_cert, s->p.tls_key, err);
        if (status != OMNI_OK) {
            return status;
        }
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
        info.ssl_cert_filepath = s->p.tls_cert;
        info.ssl_private_key_filepath = s->p.tls_key;
    }
    s->context = lws_create_context(&info);
    struct lws_vhost *vhost = s->context ? lws_create_vhost(s->context, &info) : NULL;
    const int port = vhost ? lws_get_vhost_listen_port(vhost) : 0;
    if (port <= 0) {
        err->code = OMNI_ERR_IO;
        snprintf(err->text, sizeof err->text,
                 "cannot listen on %s, port %d: the address is not this machine's, the port is taken, or the certificate "
                 "cannot be used",
                 s->p.host, s->p.port);
        listen_close(s);
        return OMNI_ERR_IO;
    }
    now.live = now.websockets = 0;
    now.stop = false;
    atomic_store(&now.signals_end, false);
    if (pthread_create(&now.signals, NULL, wait_for_signals, s) != 0) {
        err->code = OMNI_ERR_MEMORY;
        snprintf(err->text, sizeof err->text, "no thread for signals can be had");
        listen_close(s);
        return OMNI_ERR_MEMORY;
    }
    const bool six = strchr(s->p.host, ':') != NULL;
    log_event(&s->log, "info", "listening on %s://%s%s%s:%d", s->p.tls_cert ? "https" : "http", six ? "[" : "", s->p.host, six ? "]" : "", port);
    return OMNI_OK;
}

void listen_run(struct server *s) {
    while (!now.stop && lws_service(s->context, 0) >= 0) {
        look_at_signals(s);
    }
    atomic_store(&s->leaving, true);
    atomic_store(&s->draining, true);
    atomic_store(&now.signals_end, true);
    pthread_join(now.signals, NULL);
}

void listen_close(struct server *s) {
    pthread_mutex_lock(&s->lock);
    struct lws_context *context = s->context;
    s->context = NULL; /* workers do not wake it any more */
    pthread_mutex_unlock(&s->lock);
    if (context) {
        lws_context_destroy(context); /* closes every connection, and so lets every exchange go */
    }
}
