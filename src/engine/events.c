#include "engine/events.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct event_node {
    event_node *next;
    omni_event event;
    size_t bytes;
    _Alignas(max_align_t) char data[]; /* what the event points to */
};

omni_status events_init(event_queue *q, size_t most_bytes, int64_t most_samples, omni_error *err) {
    *q = (event_queue){.most_bytes = most_bytes, .most_samples = most_samples};
    pthread_condattr_t clock;
    if (pthread_mutex_init(&q->lock, NULL) != 0) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a request's events");
    }
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    int e = pthread_cond_init(&q->changed, &clock);
    pthread_condattr_destroy(&clock);
    if (e != 0) {
        pthread_mutex_destroy(&q->lock);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a request's events");
    }
    return OMNI_OK;
}

static void drop_all(event_queue *q) {
    while (q->first) {
        event_node *n = q->first;
        q->first = n->next;
        free(n);
    }
    q->last = NULL;
    q->bytes = 0;
    q->samples = 0;
    q->progressed = false;
}

void events_destroy(event_queue *q) {
    drop_all(q);
    free(q->handed_out);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
}

static event_node *make(omni_event_kind kind, size_t bytes) {
    event_node *n = malloc(sizeof *n + bytes);
    if (n) {
        *n = (event_node){.event = {.kind = kind}};
    }
    return n;
}

/* Tells the reader; the lock is held. */
static void announce(event_queue *q) {
    pthread_cond_broadcast(&q->changed);
    if (q->wakeup) {
        q->wakeup(q->wakeup_arg);
    }
}

static bool append(event_queue *q, event_node *n) {
    if (!n) {
        q->starved = true;
        return false;
    }
    pthread_mutex_lock(&q->lock);
    bool open = !q->ended;
    if (open) {
        *(q->last ? &q->last->next : &q->first) = n;
        q->last = n;
        q->bytes += n->bytes;
        q->samples += (int64_t)n->event.count;
        announce(q);
    }
    pthread_mutex_unlock(&q->lock);
    if (!open) {
        free(n);
    }
    return open;
}

bool events_text(event_queue *q, omni_event_kind kind, const char *text, size_t size) {
    event_node *n = make(kind, size + 1);
    if (n) {
        memcpy(n->data, text, size);
        n->data[size] = 0;
        n->event.text = n->data;
        n->event.size = n->bytes = size;
    }
    return append(q, n);
}

bool events_call(event_queue *q, const char *name, const char *arguments) {
    const size_t first = strlen(name) + 1, second = strlen(arguments) + 1;
    event_node *n = make(OMNI_EVENT_TOOL_CALL, first + second);
    if (n) {
        n->event.name = memcpy(n->data, name, first);
        n->event.text = memcpy(n->data + first, arguments, second);
        n->event.size = second - 1;
        n->bytes = first + second;
    }
    return append(q, n);
}

bool events_token(event_queue *q, const omni_token *token, const omni_token *top, size_t top_count) {
    const size_t bytes = (top_count + 1) * sizeof *token;
    event_node *n = make(OMNI_EVENT_TOKEN, bytes);
    if (n) {
        omni_token *list = (omni_token *)(void *)n->data;
        list[0] = *token;
        memcpy(list + 1, top, top_count * sizeof *top);
        n->event.token = list;
        n->event.top = list + 1;
        n->event.top_count = top_count;
        n->bytes = bytes;
    }
    return append(q, n);
}

bool events_audio(event_queue *q, const float *samples, size_t count) {
    event_node *n = make(OMNI_EVENT_AUDIO, count * sizeof *samples);
    if (n) {
        memcpy(n->data, samples, count * sizeof *samples);
        n->event.samples = (const float *)(const void *)n->data;
        n->event.count = count;
    }
    return append(q, n);
}

void events_progress(event_queue *q, const char *what, uint64_t done, uint64_t total) {
    pthread_mutex_lock(&q->lock);
    if (!q->ended) {
        q->progressed = true;
        q->what = what;
        q->done = done;
        q->total = total;
        announce(q);
    }
    pthread_mutex_unlock(&q->lock);
}

bool events_full(event_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool full = q->bytes > q->most_bytes || q->samples > q->most_samples;
    pthread_mutex_unlock(&q->lock);
    return full;
}

void events_end(event_queue *q, bool drop) {
    pthread_mutex_lock(&q->lock);
    if (drop) {
        drop_all(q);
    }
    q->ended = true;
    announce(q);
    pthread_mutex_unlock(&q->lock);
}

bool events_ended(event_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool ended = q->ended;
    pthread_mutex_unlock(&q->lock);
    return ended;
}

void events_set_wakeup(event_queue *q, void (*wakeup)(void *arg), void *arg) {
    pthread_mutex_lock(&q->lock);
    q->wakeup = wakeup;
    q->wakeup_arg = arg;
    if (wakeup && (q->first || q->progressed || q->ended)) {
        wakeup(arg);
    }
    pthread_mutex_unlock(&q->lock);
}

/* What comes next, if anything has come; else *out stays as it is. The lock is held. */
static bool take(event_queue *q, omni_event *out) {
    if (q->progressed) {
        q->progressed = false;
        *out = (omni_event){.kind = OMNI_EVENT_PROGRESS, .name = q->what, .done = q->done, .total = q->total};
        return true;
    }
    event_node *n = q->first;
    if (n) {
        free(q->handed_out);
        q->handed_out = n;
        q->first = n->next;
        q->last = n->next ? q->last : NULL;
        q->bytes -= n->bytes;
        q->samples -= (int64_t)n->event.count;
        *out = n->event;
        return true;
    }
    if (q->ended) {
        *out = (omni_event){.kind = OMNI_EVENT_DONE};
    }
    return q->ended;
}

bool events_next(event_queue *q, double timeout, omni_event *out) {
    struct timespec until;
    timeout = isnan(timeout) ? 0 : timeout;
    if (timeout > 0) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        const double whole = timeout < 1e9 ? timeout : 1e9;
        until.tv_sec += (time_t)whole;
        until.tv_nsec += (long)((whole - (double)(time_t)whole) * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    }
    pthread_mutex_lock(&q->lock);
    bool got = take(q, out);
    for (int e = 0; !got && timeout != 0 && e != ETIMEDOUT; got = take(q, out)) {
        e = timeout < 0 ? pthread_cond_wait(&q->changed, &q->lock) : pthread_cond_timedwait(&q->changed, &q->lock, &until);
    }
    pthread_mutex_unlock(&q->lock);
    return got;
}
