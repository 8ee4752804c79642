#define _GNU_SOURCE
#include "server/websocket.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/internal.h"
#include "server/listen.h"

enum { TOO_LARGE = 1009, NO_MEMORY = 1013 };

websocket *websocket_create(void) {
    return calloc(1, sizeof(websocket));
}

static void empty(websocket_queue *q) {
    while (q->first) {
        websocket_message *m = q->first;
        q->first = m->next;
        free(m);
    }
}

void websocket_free(websocket *w) {
    if (w) {
        empty(&w->in);
        empty(&w->out);
        bytes_free(&w->partial);
        free(w);
    }
}

static websocket_message *message_of(const char *text, size_t size) {
    websocket_message *m = malloc(sizeof *m + WEBSOCKET_HEAD + size + 1);
    if (m) {
        *m = (websocket_message){.size = size, .text = (char *)(m + 1) + WEBSOCKET_HEAD};
        memcpy(m->text, text, size);
        m->text[size] = 0;
    }
    return m;
}

/* Bytes of memory: of many small messages what lies around them is most. */
static size_t held_by(const websocket_message *m) {
    return sizeof *m + WEBSOCKET_HEAD + m->size + 1;
}

static void put(websocket_queue *q, websocket_message *m) {
    *(q->last ? &q->last->next : &q->first) = m;
    q->last = m;
    q->bytes += held_by(m);
}

static websocket_message *take(websocket_queue *q) {
    websocket_message *m = q->first;
    if (m) {
        q->first = m->next;
        q->last = q->first ? q->last : NULL;
        q->bytes -= held_by(m);
        m->next = NULL;
    }
    return m;
}

/* ---- the connection's thread ---- */

/* With the lock held: until something has moved. False: the time is up. */
static bool wait_until(exchange *x, double until) {
    const struct timespec at = {(time_t)until, (long)(1e9 * (until - floor(until)))};
    return pthread_cond_timedwait(&x->moved, &x->lock, &at) != ETIMEDOUT;
}

websocket_message *websocket_wait(exchange *x, double seconds) {
    websocket *w = x->socket;
    const double until = server_now() + seconds;
    websocket_message *m = NULL;
    pthread_mutex_lock(&x->lock);
    for (bool late = false; !m && !late && !w->woken && !x->gone;) {
        m = w->out.bytes < WEBSOCKET_OUT_FULL ? take(&w->in) : NULL;
        late = !m && !wait_until(x, until);
    }
    w->woken = false;
    w->received -= m ? m->size : 0;
    pthread_mutex_unlock(&x->lock);
    if (m) {
        atomic_fetch_sub(&x->s->body_bytes, m->size);
        listen_write(x); /* there may be room for more from the client */
    }
    return m;
}

void websocket_pause(exchange *x, double seconds) {
    const double until = server_now() + seconds;
    pthread_mutex_lock(&x->lock);
    while (!x->socket->woken && !x->gone && wait_until(x, until)) {
    }
    x->socket->woken = false;
    pthread_mutex_unlock(&x->lock);
}

void websocket_send(exchange *x, const char *text, size_t size) {
    websocket *w = x->socket;
    websocket_message *m = message_of(text, size);
    pthread_mutex_lock(&x->lock);
    const bool leaves = x->gone || w->close_code != 0;
    if (m && !leaves && size > WEBSOCKET_OUT_HELD / 4 && atomic_load(&x->s->body_bytes) + held_by(m) > x->s->p.max_bodies) {
        free(m); /* small ones are spared: of those WEBSOCKET_OUT_FULL is the bound */
        m = NULL;
    }
    if (!m || leaves) {
        free(m);
        w->close_code = m || x->gone ? w->close_code : NO_MEMORY;
    } else {
        put(&w->out, m);
        atomic_fetch_add(&x->s->body_bytes, held_by(m));
    }
    pthread_mutex_unlock(&x->lock);
    listen_write(x);
}

bool websocket_has_room(exchange *x) {
    pthread_mutex_lock(&x->lock);
    const bool room = x->socket->out.bytes < WEBSOCKET_OUT_HELD;
    pthread_mutex_unlock(&x->lock);
    return room;
}

void websocket_close(exchange *x, int code, const char *reason) {
    pthread_mutex_lock(&x->lock);
    if (x->socket->close_code == 0) {
        x->socket->close_code = code;
        snprintf(x->socket->close_reason, sizeof x->socket->close_reason, "%s", reason);
    }
    pthread_mutex_unlock(&x->lock);
    listen_write(x);
}

void websocket_wake(void *arg) {
    exchange *x = arg;
    pthread_mutex_lock(&x->lock);
    x->socket->woken = true;
    pthread_cond_signal(&x->moved);
    pthread_mutex_unlock(&x->lock);
}

/* ---- the event thread ---- */

/* What clients send counts as bodies do. */
static bool count(exchange *x, size_t size) {
    if (atomic_fetch_add(&x->s->body_bytes, size) + size > x->s->p.max_bodies) {
        atomic_fetch_sub(&x->s->body_bytes, size);
        return false;
    }
    pthread_mutex_lock(&x->lock);
    x->socket->received += size;
    pthread_mutex_unlock(&x->lock);
    return true;
}

int websocket_receive(exchange *x, const void *data, size_t size, bool last) {
    websocket *w = x->socket;
    const size_t most = x->s->p.max_body < WEBSOCKET_MESSAGE_MOST ? x->s->p.max_body : WEBSOCKET_MESSAGE_MOST;
    if (w->partial.size + size > most) {
        return TOO_LARGE;
    }
    if (!count(x, size)) {
        return NO_MEMORY;
    }
    bytes_add(&w->partial, data, size);
    if (w->partial.failed) {
        return NO_MEMORY;
    }
    if (!last) {
        return 0;
    }
    websocket_message *m = message_of(w->partial.data ? w->partial.data : "", w->partial.size);
    bytes_free(&w->partial);
    if (!m) {
        return NO_MEMORY;
    }
    pthread_mutex_lock(&x->lock);
    put(&w->in, m);
    pthread_cond_signal(&x->moved);
    pthread_mutex_unlock(&x->lock);
    return 0;
}

websocket_message *websocket_take_out(exchange *x, bool *room) {
    pthread_mutex_lock(&x->lock);
    websocket *w = x->socket;
    const size_t before = w->out.bytes;
    websocket_message *m = take(&w->out);
    *room = w->in.bytes < WEBSOCKET_IN_HELD;
    if (m) {
        x->written += m->size;
        atomic_fetch_sub(&x->s->body_bytes, held_by(m));
        if ((before >= WEBSOCKET_OUT_HELD && w->out.bytes < WEBSOCKET_OUT_HELD) || before >= WEBSOCKET_OUT_FULL) {
            w->woken = true;
            pthread_cond_signal(&x->moved);
        }
    }
    pthread_mutex_unlock(&x->lock);
    return m;
}
