/* What a request has ready for whoever reads it: a queue with one writer, the engine's step, and one reader. */
#ifndef OMNI_ENGINE_EVENTS_H
#define OMNI_ENGINE_EVENTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/error.h"
#include "omni.h"

typedef struct event_node event_node;

typedef struct event_queue {
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t changed;
    event_node *first, *last;
    event_node *handed_out; /* what the last call of events_next gave; its memory is valid until the next */
    size_t bytes;           /* of text waiting */
    int64_t samples;        /* waiting */
    size_t most_bytes;      /* beyond one of these limits events_full says so */
    int64_t most_samples;
    bool progressed;  /* a progress has not been read yet: only the newest counts */
    const char *what; /* as given: it stays */
    uint64_t done, total;
    bool ended;   /* the end is in the queue, or has been read */
    bool starved; /* there was no memory for an event: what was to be said is lost. The writer's */
    void (*wakeup)(void *arg);
    void *wakeup_arg;
} event_queue;

/* most_bytes, most_samples: limits of what may wait. */
omni_status events_init(event_queue *q, size_t most_bytes, int64_t most_samples, omni_error *err);
void events_destroy(event_queue *q);

/* The writer's. Everything is copied; false: out of memory, or the end has been written. */
bool events_text(event_queue *q, omni_event_kind kind, const char *text, size_t size); /* OMNI_EVENT_TEXT, OMNI_EVENT_REASONING */
bool events_call(event_queue *q, const char *name, const char *arguments);
/* The bytes of the tokens are not copied: they must stay as long as the queue. */
bool events_token(event_queue *q, const omni_token *token, const omni_token *top, size_t top_count);
bool events_audio(event_queue *q, const float *samples, size_t count);
void events_progress(event_queue *q, const char *what, uint64_t done, uint64_t total); /* what is not copied: a literal */
/* More waits than the limits allow: the writer should not make more. */
bool events_full(event_queue *q);
/* The last event. drop: what waits is thrown away first. */
void events_end(event_queue *q, bool drop);

/* Whether the end has been written. */
bool events_ended(event_queue *q);

/* The reader's. Waits for at most timeout seconds (less than 0: for ever). False when nothing has come. OMNI_EVENT_DONE comes again and again once it
 * has come; its result, status and error are the caller's to fill in. */
bool events_next(event_queue *q, double timeout, omni_event *out);
/* Called, from the writer's thread, whenever something new has come, and at once, from the caller's, if something waits; NULL: nothing is. Must not
 * call back into the request. */
void events_set_wakeup(event_queue *q, void (*wakeup)(void *arg), void *arg);

#endif
