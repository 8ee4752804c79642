#define _GNU_SOURCE
#include "server/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/error.h"
#include "server/fetch.h"
#include "server/internal.h"
#include "server/listen.h"
#include "server/websocket.h"
#include "server/wyoming.h"

double server_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void server_id(server *s, const char *prefix, char id[64]) {
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) {
        random = (uint64_t)time(NULL) << 20;
    }
    snprintf(id, 64, "%s%016llx%08llx", prefix, (unsigned long long)random, (unsigned long long)atomic_fetch_add(&s->ids, 1) & 0xffffffff);
}

server_params server_params_default(void) {
    return (server_params){.host = "127.0.0.1",
                           .port = 8080,
                           .wyoming_port = -1,
                           .engine = omni_engine_params_default(),
                           .media = omni_conversation_params_default(),
                           .max_body = (size_t)64 << 20,
                           .max_bodies = (size_t)1 << 30,
                           .timeout = 60,
                           .grace = 30,
                           .page = true};
}

enum { MORE_WORKERS = 64 };

static omni_status open_parts(server *s, omni_error *err) {
    const server_params *p = &s->p;
    if (auth_open(&s->keys, p->api_keys, p->api_key_count, p->api_key_file, err) != OMNI_OK) {
        return err->code;
    }
    const omni_status status = omni_engine_create(s->model, &p->engine, &s->engine, err);
    return status == OMNI_OK ? omni_engine_start(s->engine, err) : status;
}

omni_status server_run(omni_model *model, omni_tokenizer *tokenizer, const server_params *p, omni_error *err) {
    static server whole; /* large: not on the stack */
    server *s = &whole;
    sigset_t ours, before;
    *s = (server){.p = *p, .model = model, .tokenizer = tokenizer, .name = p->alias, .started = (int64_t)time(NULL)};
    s->p.host = p->host ? p->host : "127.0.0.1";
    s->p.media.forbid_files = true;
    s->p.media.context = p->engine.context;
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ours, &before); /* every thread made from here on inherits it */
    signal(SIGPIPE, SIG_IGN);
    pthread_mutex_init(&s->lock, NULL);
    log_open(&s->log, p->log_json, p->log_content);
    metrics_open(&s->metrics);
    transcripts_open(&s->transcripts);
    workers_init(&s->workers, s, p->engine.parallel + p->engine.queue + MORE_WORKERS + WEBSOCKET_MOST);
    const bool fetches = s->p.allow_fetch && fetch_open();
    omni_status status = s->p.allow_fetch && !fetches ? fail(err, OMNI_ERR_MEMORY, "libcurl cannot be set up") : open_parts(s, err);
    wyoming *home = NULL;
    status = status == OMNI_OK && s->p.wyoming_port >= 0 ? wyoming_open(s, &home, err) : status;
    status = status == OMNI_OK ? listen_open(s, err) : status;
    if (status == OMNI_OK) {
        wyoming_announce(home);
        listen_run(s);
        wyoming_close(home);
        listen_close(s);
        workers_close(&s->workers);
        log_event(&s->log, "info", "stopped");
    } else {
        wyoming_close(home);
        workers_close(&s->workers);
    }
    omni_engine_destroy(s->engine);
    if (fetches) {
        fetch_close();
    }
    transcripts_close(&s->transcripts);
    metrics_close(&s->metrics);
    auth_close(&s->keys);
    log_close(&s->log);
    pthread_mutex_destroy(&s->lock);
    while (sigtimedwait(&ours, NULL, &(struct timespec){0}) > 0) { /* asked again and again: it has ended */
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}
