/* The event thread: libwebsockets, and nothing that waits. */
#ifndef OMNI_SERVER_LISTEN_H
#define OMNI_SERVER_LISTEN_H

#include "server/exchange.h"

struct server;

omni_status listen_open(struct server *s, omni_error *err);
/* Until a signal ends it and what was running has been answered or cut. */
void listen_run(struct server *s);
void listen_close(struct server *s);

/* From any thread: x has something to write. */
void listen_write(exchange *x);

#endif
