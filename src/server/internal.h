/* What the files of the server share. */
#ifndef OMNI_SERVER_INTERNAL_H
#define OMNI_SERVER_INTERNAL_H

#include <jansson.h>
#include <pthread.h>

#include "server/auth.h"
#include "server/exchange.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/text.h"
#include "server/transcripts.h"
#include "server/workers.h"

typedef struct server {
    server_params p;
    omni_model *model;
    omni_tokenizer *tokenizer;
    omni_engine *engine;
    const char *name; /* of the model, in answers */
    int64_t started;  /* seconds since 1970 */
    auth keys;
    metrics metrics;
    server_log log;
    workers workers;
    transcripts transcripts;
    _Atomic bool leaving;        /* asked to stop: /ready says so, and connections end with their answers */
    _Atomic bool draining;       /* and no new requests any more */
    _Atomic int wyoming_running; /* requests of its clients, and speeches that have begun: what the end waits for */
    _Atomic size_t body_bytes;
    _Atomic int fetching; /* downloads that run (fetch.h) */
    _Atomic uint64_t ids;
    struct lws_context *context;
    pthread_mutex_t lock;         /* guards the list of exchanges that have something to write */
    struct exchange *wants_write; /* linked by next_write */
} server;

double server_now(void); /* seconds, monotonic */
/* "chatcmpl-..." and the like: a prefix and 24 characters that do not come again. */
void server_id(server *s, const char *prefix, char id[64]);

/* Which handler answers what. Handlers of `now` are quick and run on the event thread, others on a worker. */
typedef struct route {
    const char *method, *path;
    bool now, open; /* open: without a key */
    void (*handle)(server *s, exchange *x);
} route;

/* NULL: there is no such path; *known: there is, with another method. */
const route *route_find(const server *s, const char *method, const char *path, bool *known);

/* One function an endpoint. */
void handle_health(server *s, exchange *x);
void handle_ready(server *s, exchange *x);
void handle_page(server *s, exchange *x);
void handle_page_file(server *s, exchange *x);
void handle_openapi(server *s, exchange *x);
void handle_models(server *s, exchange *x);
void handle_props(server *s, exchange *x);
void handle_slots(server *s, exchange *x);
void handle_metrics(server *s, exchange *x);
void handle_tokenize(server *s, exchange *x);
void handle_detokenize(server *s, exchange *x);
void handle_embeddings(server *s, exchange *x);
void handle_voices(server *s, exchange *x);
void handle_audio_models(server *s, exchange *x);
void handle_speech(server *s, exchange *x);
void handle_transcriptions(server *s, exchange *x);
void handle_translations(server *s, exchange *x);
void handle_chat(server *s, exchange *x);
void handle_completions(server *s, exchange *x);
void handle_responses(server *s, exchange *x);
void handle_realtime(server *s, exchange *x);

/* The body as JSON object, or NULL once an error has been answered; the caller's to json_decref. */
json_t *request_object(exchange *x);
/* Answers with JSON; takes the reference. */
void answer_json(exchange *x, int status, json_t *value);
/* Answers with what an error of the library comes to. */
void answer_error(exchange *x, omni_status status, const omni_error *err);
/* The same as an object, for a stream that has begun. */
json_t *error_object(omni_status status, const omni_error *err);

#endif
