#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "queueing.h"

/* ---- memory ---- */

#define RANGE ((size_t)1 << 36) /* addresses, never used twice */

typedef struct piece {
    uintptr_t begin; /* as the host sees it */
    size_t bytes, mapped;
    bool live;
} piece;

/* Shared by a backend and those beside it. */
struct memory {
    pthread_mutex_t lock;
    int holders;
    char *seen, *real; /* two ranges: the one that nobody can touch, and what it stands for */
    size_t used;
    piece *pieces; /* by address */
    size_t count, room;
};

_Noreturn void violation(const char *operation, const char *argument, const char *what, const void *p, size_t bytes) {
    fprintf(stderr, "queueing backend: %s: %s: %s (%zu bytes at %p)\n", operation, argument, what, bytes, p);
    abort();
}

void *no_null(void *p) {
    if (!p || p == MAP_FAILED) {
        violation("host", "memory", "out of memory", p, 0);
    }
    return p;
}

static size_t page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void *reserve_range(void) {
    return no_null(mmap(NULL, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}

static memory *memory_create(void) {
    memory *m = no_null(calloc(1, sizeof *m));
    pthread_mutex_init(&m->lock, NULL);
    m->holders = 1;
    m->seen = reserve_range();
    m->real = reserve_range();
    return m;
}

static void memory_drop(memory *m) {
    pthread_mutex_lock(&m->lock);
    const bool last = --m->holders == 0;
    pthread_mutex_unlock(&m->lock);
    if (last) {
        for (size_t i = 0; i < m->count; i++) {
            if (m->pieces[i].live) {
                violation("destroy", "memory", "never released", (void *)m->pieces[i].begin, m->pieces[i].bytes);
            }
        }
        munmap(m->seen, RANGE);
        munmap(m->real, RANGE);
        pthread_mutex_destroy(&m->lock);
        free(m->pieces);
        free(m);
    }
}

static bool is_backend(const memory *m, const void *p) {
    return (uintptr_t)p - (uintptr_t)m->seen < RANGE;
}

/* The piece that begins last at or before p; NULL: none. Under the lock. */
static piece *piece_of(memory *m, const void *p) {
    size_t low = 0, high = m->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (m->pieces[middle].begin <= (uintptr_t)p) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 ? &m->pieces[low - 1] : NULL;
}

void *real(memory *m, const char *operation, const char *argument, const void *p, size_t bytes) {
    if (!p) {
        violation(operation, argument, "NULL", p, bytes);
    }
    if (!is_backend(m, p)) {
        violation(operation, argument, "not the backend's memory", p, bytes);
    }
    pthread_mutex_lock(&m->lock);
    const piece *x = piece_of(m, p);
    if (!x || !x->live) {
        violation(operation, argument, "memory that is not in use", p, bytes);
    }
    const size_t offset = (uintptr_t)p - x->begin;
    if (offset > x->bytes || bytes > x->bytes - offset) {
        violation(operation, argument, "beyond the end of the memory", p, bytes);
    }
    pthread_mutex_unlock(&m->lock);
    return m->real + ((uintptr_t)p - (uintptr_t)m->seen);
}

/* Ends at the end of a page, before a page that nobody may touch. */
static omni_status q_alloc(backend *b, size_t bytes, void **out, omni_error *err) {
    memory *m = queueing_of(b)->m;
    const size_t page = page_size(), rounded = (bytes + 63) & ~(size_t)63, mapped = (rounded + page) / page * page;
    *out = NULL;
    pthread_mutex_lock(&m->lock);
    omni_status status = bytes < RANGE && m->used + mapped + page < RANGE && mprotect(m->real + m->used, mapped, PROT_READ | PROT_WRITE) == 0
                             ? OMNI_OK
                             : fail(err, OMNI_ERR_MEMORY, "out of memory for %zu bytes", bytes);
    if (status == OMNI_OK) {
        if (m->count == m->room) {
            m->room = 2 * m->room + 64;
            m->pieces = no_null(realloc(m->pieces, m->room * sizeof *m->pieces));
        }
        *out = m->seen + m->used + mapped - rounded;
        m->pieces[m->count++] = (piece){.begin = (uintptr_t)*out, .bytes = bytes, .mapped = mapped, .live = true};
        m->used += mapped + page;
    }
    pthread_mutex_unlock(&m->lock);
    return status;
}

/* ---- the queue ---- */

static void run_call(queueing_backend *q, const call *c) {
    c->run(q->inner->ops, q->inner, c);
    free(c->copied);
}

static void flush(queueing_backend *q) {
    for (size_t i = 0; i < q->count; i++) {
        run_call(q, &q->calls[i]);
    }
    q->count = 0;
}

static void q_release(backend *b, void *p) {
    queueing_backend *q = queueing_of(b);
    memory *m = q->m;
    if (!p) {
        return;
    }
    flush(q);
    real(m, "release", "memory", p, 0);
    pthread_mutex_lock(&m->lock);
    piece *x = piece_of(m, p);
    if (x->begin != (uintptr_t)p) {
        violation("release", "memory", "not what alloc gave", p, x->bytes);
    }
    x->live = false;
    char *first = m->real + ((uintptr_t)p - (uintptr_t)m->seen) + ((x->bytes + 63) & ~(size_t)63) - x->mapped;
    no_null(mmap(first, x->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
    pthread_mutex_unlock(&m->lock);
}

void submit(backend *b, const call *c) {
    queueing_backend *q = queueing_of(b);
    if (!q->queue) {
        run_call(q, c);
        return;
    }
    if (q->count == q->room) {
        q->room = 2 * q->room + 256;
        q->calls = no_null(realloc(q->calls, q->room * sizeof *q->calls));
    }
    q->calls[q->count++] = *c;
}

/* ---- moving ---- */

static void run_copy(const ops *o, backend *in, const call *c) {
    o->copy(in, c->p[0], c->p[1], (size_t)c->i[0]);
}

static void run_upload(const ops *o, backend *in, const call *c) {
    o->upload(in, c->p[0], c->copied, (size_t)c->i[0]);
}

static void q_copy(backend *b, void *to, const void *from, size_t bytes) {
    queueing_backend *q = queueing_of(b);
    call c = {.name = "copy", .run = run_copy, .i = {(int64_t)bytes}};
    q->counts.operations++;
    c.p[0] = real(q->m, "copy", "to", to, bytes);
    c.p[1] = real(q->m, "copy", "from", from, bytes);
    submit(b, &c);
}

void host(backend *b, const char *operation, const char *argument, const void *p, size_t bytes) {
    if (is_backend(queueing_of(b)->m, p)) {
        violation(operation, argument, "the backend's memory, where the host's is due", p, bytes);
    }
}

static void q_upload(backend *b, void *to, const void *from, size_t bytes) {
    queueing_backend *q = queueing_of(b);
    call c = {.name = "upload", .run = run_upload, .i = {(int64_t)bytes}};
    host(b, "upload", "from", from, bytes);
    q->counts.uploads++;
    q->counts.uploaded += (int64_t)bytes;
    c.p[0] = real(q->m, "upload", "to", to, bytes);
    c.copied = no_null(malloc(bytes + 1));
    if (bytes > 0) {
        memcpy(c.copied, from, bytes);
    }
    submit(b, &c);
}

static void q_download(backend *b, void *to, const void *from, size_t bytes) {
    queueing_backend *q = queueing_of(b);
    host(b, "download", "to", to, bytes);
    q->counts.downloads++;
    q->counts.downloaded += (int64_t)bytes;
    const void *at = real(q->m, "download", "from", from, bytes);
    flush(q);
    q->inner->ops->download(q->inner, to, at, bytes);
}

/* ---- weights ---- */

static size_t q_packed_size(backend *b, weight_use use, const tensor *t) {
    backend *in = queueing_of(b)->inner;
    const size_t packed = in->ops->packed_size(in, use, t);
    return packed ? packed : t->size;
}

static void q_pack(backend *b, weight_use use, tensor *t, void *to, void (*done)(void *arg, size_t begin, size_t end), void *arg) {
    queueing_backend *q = queueing_of(b);
    const size_t packed = q->inner->ops->packed_size(q->inner, use, t), size = t->size;
    void *at = real(q->m, "pack", "memory", to, packed ? packed : size);
    host(b, "pack", "t->data", t->data, size);
    flush(q);
    if (packed) {
        q->inner->ops->pack(q->inner, use, t, at, done, arg);
    } else {
        memcpy(at, t->data, size);
        if (done) {
            done(arg, 0, size);
        }
    }
    t->data = to;
}

/* ---- the backend ---- */

static void q_enter(backend *b) {
    backend_enter(queueing_of(b)->inner);
}

static void q_leave(backend *b) {
    backend_leave(queueing_of(b)->inner);
}

static void q_give_way(backend *b, bool give) {
    flush(queueing_of(b)); /* what is queued has the whole machine, as it would have had */
    queueing_of(b)->inner->give_way(queueing_of(b)->inner, give);
}

static void q_destroy(backend *b) {
    queueing_backend *q = queueing_of(b);
    flush(q);
    backend_destroy(q->inner);
    memory_drop(q->m);
    free(q->calls);
    free(q);
}

static omni_status q_create_beside(backend *b, backend **out, omni_error *err);

static backend *wrap(backend *inner, memory *m, bool queue) {
    queueing_backend *q = no_null(calloc(1, sizeof *q));
    q->table = (ops){.alloc = q_alloc,
                     .release = q_release,
                     .upload = q_upload,
                     .download = q_download,
                     .copy = q_copy,
                     .packed_size = q_packed_size,
                     .pack = q_pack};
    queueing_ops(&q->table);
    q->inner = inner;
    q->m = m;
    q->queue = queue;
    q->base = (backend){.ops = &q->table,
                        .name = "queueing",
                        .description = inner->description,
                        .prompt_rows = inner->prompt_rows,
                        .batch_invariant = inner->batch_invariant,
                        .rounds_floats = inner->rounds_floats,
                        .enter = q_enter,
                        .leave = q_leave,
                        .create_beside = q_create_beside,
                        .give_way = q_give_way,
                        .destroy = q_destroy};
    return &q->base;
}

static omni_status q_create_beside(backend *b, backend **out, omni_error *err) {
    queueing_backend *q = queueing_of(b);
    backend *inner;
    *out = NULL;
    omni_status status = q->inner->create_beside(q->inner, &inner, err);
    if (status == OMNI_OK && inner) {
        pthread_mutex_lock(&q->m->lock);
        q->m->holders++;
        pthread_mutex_unlock(&q->m->lock);
        *out = wrap(inner, q->m, q->queue);
    }
    return status;
}

omni_status queueing_backend_create(int threads, bool queue, backend **out, omni_error *err) {
    backend *inner;
    *out = NULL;
    omni_status status = cpu_backend_create(threads, &inner, err);
    if (status == OMNI_OK) {
        *out = wrap(inner, memory_create(), queue);
    }
    return status;
}

queueing_counts queueing_backend_count(backend *b) {
    const queueing_counts n = queueing_of(b)->counts;
    queueing_of(b)->counts = (queueing_counts){0};
    return n;
}
