/* One HTTP request and its answer. The event thread makes it and writes its answer out; one handler reads it and answers.
 *
 * A handler calls reply_with once; or reply_begin, reply_write any number of times, reply_end (or reply_cut). It may be on any thread. */
#ifndef OMNI_SERVER_EXCHANGE_H
#define OMNI_SERVER_EXCHANGE_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "omni.h"
#include "server/chunks.h"

struct server;
struct lws;

enum { EXCHANGE_HELD = 256 << 10 }; /* bytes of an answer that may wait for the client before its handler waits, too */

/* Handlers that ask as chat completions do, but have other names for fields: errors name those. An entry with old NULL ends the list. */
typedef struct param_rename {
    const char *old, *name;
} param_rename;

typedef struct exchange {
    struct server *s;
    struct lws *wsi; /* event thread only; NULL once the connection is gone */
    char method[8], path[256];
    char owner[68];         /* whose cached prefixes it finds: a digest of its key; "" without keys */
    char who[68];           /* whose requests --rate-limit counts: its owner, without keys its address */
    char content_type[256]; /* of the body; "": none was named, or a longer one */
    char *body;             /* body_size bytes and a zero byte */
    size_t body_size, body_room;
    uint64_t body_left; /* bytes that are still to come; in chunks 1 until the last has */
    bool in_chunks;
    chunk_reader chunks;
    /* Of --allow-fetch (fetch.h), the handler's: URLs so far, bytes of all their media and what is held of them, server_now() when the time for all
     * is over (0: none was fetched). */
    int fetches;
    size_t fetched_size, fetched;
    double fetch_until;
    double began; /* server_now() when its head was there */
    bool keep_alive, http_1_0;
    const struct route *route;
    const param_rename *renames; /* of its handler; NULL: none */
    struct websocket *socket;    /* of one that has become a WebSocket (websocket.h); NULL: plain HTTP */
    /* Where reply_error goes instead of to the client, for a WebSocket: it takes the error's object, {"message", "type", "param", "code"}. */
    void (*on_error)(void *arg, json_t *error);
    void *on_error_arg;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t moved; /* bytes were written, or the client is gone */
    int status;           /* of the answer; 0: none yet */
    char head[1024];      /* extra header lines, "name: value\n" */
    char type[96];
    bool chunked, ended, gone;
    char *out; /* out_size bytes, of which out_sent have been written */
    size_t out_size, out_sent, out_capacity;
    uint64_t written;
    void (*on_gone)(void *arg);
    void *on_gone_arg;

    bool admitted, dispatched, head_written; /* event thread: its body is wanted; a handler has it */
    bool listed;                             /* server.lock */
    struct exchange *next_write;
    _Atomic int holders;
    int64_t prompt_tokens, cached_tokens, answer_tokens; /* for the log; guarded by lock: the event thread logs when the client is gone */
} exchange;

exchange *exchange_create(struct server *s);
void exchange_release(exchange *x); /* one holder less; the last one frees it */

void reply_header(exchange *x, const char *name, const char *value);
void reply_with(exchange *x, int status, const char *type, const void *body, size_t size);
/* An answer of unknown length. */
void reply_begin(exchange *x, int status, const char *type);
/* Waits while too much is held. False: the client is gone, nobody will read any more. */
bool reply_write(exchange *x, const void *data, size_t size);
void reply_end(exchange *x);
/* In place of reply_end, after an error: the connection is closed without the end, which tells the client that the answer is not whole. */
void reply_cut(exchange *x);
/* OpenAI's form: {"error": {"message", "type", "param", "code"}}; param and code may be NULL. */
void reply_error(exchange *x, int status, const char *param, const char *code, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* f(arg) is called once, from the event thread, when the client goes away, or at once if it has. NULL: no more. */
void exchange_on_gone(exchange *x, void (*f)(void *arg), void *arg);
bool exchange_gone(exchange *x);
/* Adds to what the log says. */
void exchange_count(exchange *x, int64_t prompt_tokens, int64_t cached_tokens, int64_t answer_tokens);

/* What the event thread does: the client is gone. */
void exchange_lost(exchange *x);

#endif
