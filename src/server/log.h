/* One line a request, and what happens to the server itself, on standard error. Nothing of what was asked or answered unless log_content is set. */
#ifndef OMNI_SERVER_LOG_H
#define OMNI_SERVER_LOG_H

#include <pthread.h>
#include <stdbool.h>

#include "server/exchange.h"

typedef struct server_log {
    pthread_mutex_t lock;
    bool json, content;
} server_log;

void log_open(server_log *l, bool json, bool content);
void log_close(server_log *l);
/* level: "info", "warning", "error". */
void log_event(server_log *l, const char *level, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* After the answer, or what of it was written when the client went. */
void log_request(server_log *l, const exchange *x, double seconds);

#endif
