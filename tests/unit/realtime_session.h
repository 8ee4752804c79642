/* A Realtime session without a connection, for tests and the fuzzer: the client's messages are all there at once, the engine computes on the
 * session's own thread, and the session ends when the last message has been read. Include in one file of a program, which has the server's sources
 * but listen.c: what stands for that is here. */
#ifndef OMNI_TESTS_REALTIME_SESSION_H
#define OMNI_TESTS_REALTIME_SESSION_H

#include <stdlib.h>
#include <string.h>

#include "server/listen.h"
#include "server/realtime.h"

/* Called with each message that a client would get. */
static void (*session_told)(const char *text, size_t size);

/* Whether it takes them. */
static bool session_reads = true;

void listen_write(exchange *x) {
    bool room;
    if (!session_reads) {
        return;
    }
    for (websocket_message *m; (m = websocket_take_out(x, &room));) {
        if (session_told) {
            session_told(m->text, m->size);
        }
        free(m);
    }
    if (!x->socket->in.first) {
        x->gone = true;
    }
}

omni_status listen_open(struct server *s, omni_error *err) {
    return OMNI_ERR_UNSUPPORTED;
}

void listen_run(struct server *s) {
}

void listen_close(struct server *s) {
}

static server session_server;

/* False: err says why. */
static bool session_server_open(const char *model, const char *mmproj, const char *talker, omni_error *err) {
    server *s = &session_server;
    omni_model_params p = omni_model_params_default();
    omni_engine_params e = omni_engine_params_default();
    p.model = model;
    p.mmproj = mmproj;
    p.talker = talker;
    p.threads = 1;
    e.parallel = 4;
    s->p = server_params_default();
    s->p.media.forbid_files = true;
    s->name = "tiny";
    metrics_open(&s->metrics);
    transcripts_open(&s->transcripts);
    return omni_model_open(&p, &s->model, err) == OMNI_OK && omni_engine_create(s->model, &e, &s->engine, err) == OMNI_OK;
}

static void session_server_close(void) {
    omni_engine_destroy(session_server.engine);
    omni_model_close(session_server.model);
    transcripts_close(&session_server.transcripts);
    metrics_close(&session_server.metrics);
}

/* The messages of a text, one a line. */
static void session_run(const char *text, size_t size, bool beta, bool transcribes) {
    exchange *x = exchange_create(&session_server);
    websocket *w = x ? websocket_create() : NULL;
    if (w) {
        x->socket = w;
        w->beta = beta;
        w->transcribes = transcribes;
        for (const char *end, *at = text; at < text + size; at = end + 1) {
            end = memchr(at, '\n', (size_t)(text + size - at));
            end = end ? end : text + size;
            if (websocket_receive(x, at, (size_t)(end - at), true) != 0) {
                break;
            }
        }
        if (websocket_receive(x, "{}", 2, true) == 0) { /* so that what the last one comes to is told */
            handle_realtime(&session_server, x);
        }
    }
    exchange_release(x);
}

#endif
