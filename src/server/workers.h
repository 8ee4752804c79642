/* Threads that answer requests: as many as are busy, each kept for a while when it has nothing to do. */
#ifndef OMNI_SERVER_WORKERS_H
#define OMNI_SERVER_WORKERS_H

#include <pthread.h>
#include <stdbool.h>

#include "server/exchange.h"

enum { WORKERS_IDLE = 8 }; /* threads that wait for work at most */

typedef struct worker_job {
    struct worker_job *next;
    exchange *x;
} worker_job;

typedef struct workers {
    struct server *s;
    pthread_mutex_t lock;
    pthread_cond_t came, left;
    worker_job *first, *last;
    int threads, idle, most;
    bool closing;
} workers;

void workers_init(workers *w, struct server *s, int most);
/* Has x->route->handle called on a thread; takes a holder of x. False: there are as many as may be, or no thread can be had. */
bool workers_take(workers *w, exchange *x);
/* Waits for all. */
void workers_close(workers *w);

#endif
