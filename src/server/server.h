/* `omni serve`: the library's engine behind HTTP, in the shapes of OpenAI's clients.
 *
 *   event thread (listen.c)          libwebsockets: connections, headers, bodies in, answers out; never waits
 *   worker threads (workers.c)       one for each request that is being answered: reads it, submits it to the engine, writes what comes (chat.c, ...)
 *   engine's thread                  the library's own
 *
 * What the three share is an exchange (exchange.h): one request and its answer, or one WebSocket (websocket.h). Of the
 * project omni.h and base/ are used here, text/base64.h, and of media/ what reads sound and finds speech in it. */
#ifndef OMNI_SERVER_SERVER_H
#define OMNI_SERVER_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "omni.h"

typedef struct server_params {
    const char *host; /* address to listen on; NULL: 127.0.0.1 */
    int port;         /* 0: any free one, which the first line of the log tells */
    int wyoming_port; /* the same for Wyoming (wyoming.h), which a later line tells; -1: none */
    omni_engine_params engine;
    omni_conversation_params media; /* limits of what a request brings; forbid_files is always set */
    const char *const *api_keys;    /* without any, and without a file of them, everybody may ask */
    size_t api_key_count;
    const char *api_key_file; /* a key a line; "#" begins a comment. Read again at SIGHUP */
    const char *cors;         /* Access-Control-Allow-Origin; NULL: none */
    const char *tls_cert, *tls_key;
    const char *alias; /* the model's name in answers */
    size_t max_body;   /* bytes of one request */
    size_t max_bodies; /* bytes of all that are being received or answered */
    int timeout;       /* seconds that a connection may stay without progress */
    int drain;         /* seconds after SIGTERM in which requests are still taken while /ready says no: load balancers look at it by the second */
    int grace;         /* seconds that running answers get after that */
    int rate_limit;    /* requests a minute of one key, or of one address without keys; 0: any number */
    bool slots;        /* GET /slots tells what is running */
    bool allow_fetch;  /* http and https URLs of media are fetched, from public addresses only (fetch.h) */
    bool page;         /* GET / is the page */
    bool log_json, log_content;
} server_params;

server_params server_params_default(void);

/* Serves until SIGTERM or SIGINT; then drains, and whatever runs may end within the grace. The first line on standard error says where it listens. */
omni_status server_run(omni_model *model, omni_tokenizer *tokenizer, const server_params *p, omni_error *err);

#endif
