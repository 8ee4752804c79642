#include "server/workers.h"

#include <signal.h>
#include <stdlib.h>

#include "server/internal.h"

void workers_init(workers *w, struct server *s, int most) {
    *w = (workers){.s = s, .most = most};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->came, NULL);
    pthread_cond_init(&w->left, NULL);
}

static void *work(void *arg) {
    workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        worker_job *job = w->first;
        if (job) {
            w->first = job->next;
            w->last = w->first ? w->last : NULL;
            pthread_mutex_unlock(&w->lock);
            job->x->route->handle(w->s, job->x);
            exchange_release(job->x);
            free(job);
            pthread_mutex_lock(&w->lock);
        } else if (w->closing || w->idle >= WORKERS_IDLE) {
            break;
        } else {
            w->idle++;
            pthread_cond_wait(&w->came, &w->lock);
            w->idle--;
        }
    }
    w->threads--;
    pthread_cond_signal(&w->left);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* With the lock held: the signals are the event thread's. */
static bool start_thread(workers *w) {
    pthread_t thread;
    pthread_attr_t detached;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    const bool good = pthread_create(&thread, &detached, work, w) == 0;
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    w->threads += good;
    return good;
}

bool workers_take(workers *w, exchange *x) {
    worker_job *job = calloc(1, sizeof *job);
    if (!job) {
        return false;
    }
    job->x = x;
    pthread_mutex_lock(&w->lock);
    int waiting = 0;
    for (const worker_job *j = w->first; j; j = j->next) {
        waiting++;
    }
    bool good = !w->closing && (w->idle > waiting || (w->threads < w->most && start_thread(w)));
    if (good) {
        atomic_fetch_add(&x->holders, 1);
        *(w->last ? &w->last->next : &w->first) = job;
        w->last = job;
        pthread_cond_signal(&w->came);
    }
    pthread_mutex_unlock(&w->lock);
    if (!good) {
        free(job);
    }
    return good;
}

void workers_close(workers *w) {
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_broadcast(&w->came);
    while (w->threads > 0) {
        pthread_cond_wait(&w->left, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->came);
    pthread_cond_destroy(&w->left);
}
