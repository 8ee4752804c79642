/* What the two files of the queueing backend share. */
#ifndef OMNI_TESTS_QUEUEING_H
#define OMNI_TESTS_QUEUEING_H

#include <stdbool.h>

#include "queueing_backend.h"

typedef struct memory memory;

/* An operation with its arguments, pointers to the backend's memory already what they stand for. */
typedef struct call call;
struct call {
    void (*run)(const ops *o, backend *in, const call *c);
    const char *name;
    tensor w[3];
    kv_cache cache;
    void *copied; /* freed when it is done */
    void *p[10];
    int64_t i[8];
    float f;
    int pointers, numbers;
};

typedef struct queueing_backend {
    backend base; /* first */
    ops table;
    backend *inner;
    memory *m;
    bool queue;
    call *calls;
    size_t count, room;
    queueing_counts counts;
} queueing_backend;

static inline queueing_backend *queueing_of(backend *b) {
    return (queueing_backend *)b;
}

_Noreturn void violation(const char *operation, const char *argument, const char *what, const void *p, size_t bytes);
void *no_null(void *p);
/* What so many bytes at p stand for. Ends the program unless they lie in one piece of live memory. */
void *real(memory *m, const char *operation, const char *argument, const void *p, size_t bytes);
/* Ends the program if p is the backend's. */
void host(backend *b, const char *operation, const char *argument, const void *p, size_t bytes);
/* Queues, or does, what was put together on the stack. */
void submit(backend *b, const call *c);
/* All operations but those on memory and weights. */
void queueing_ops(ops *o);

#endif
