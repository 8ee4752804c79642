#include "engine/media_cache.h"

#include <stdlib.h>
#include <string.h>

void media_cache_init(media_cache *c, size_t limit) {
    *c = (media_cache){.limit = limit};
    pthread_mutex_init(&c->lock, NULL);
}

static void unlink_age(media_cache *c, embeddings *x) {
    *(x->older ? &x->older->newer : &c->oldest) = x->newer;
    *(x->newer ? &x->newer->older : &c->newest) = x->older;
}

static void make_newest(media_cache *c, embeddings *x) {
    x->older = c->newest;
    x->newer = NULL;
    *(c->newest ? &c->newest->newer : &c->oldest) = x;
    c->newest = x;
}

void embeddings_release(backend *b, embeddings *x) {
    float *const held[] = {x->visual, x->deepstack, x->audio};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        if (held[i]) {
            b->ops->release(b, held[i]);
        }
    }
    free(x);
}

static void trim(media_cache *c, backend *b, size_t limit) {
    size_t idle = 0;
    pthread_mutex_lock(&c->lock);
    for (const embeddings *x = c->oldest; x; x = x->newer) {
        idle += x->holders == 0 ? x->bytes : 0;
    }
    for (embeddings *x = c->oldest, *next; x && idle > limit; x = next) {
        next = x->newer;
        if (x->holders == 0) {
            unlink_age(c, x);
            idle -= x->bytes;
            c->bytes -= x->bytes;
            embeddings_release(b, x);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

void media_cache_free(media_cache *c, backend *b) {
    trim(c, b, 0);
    pthread_mutex_destroy(&c->lock);
}

void media_cache_trim(media_cache *c, backend *b) {
    trim(c, b, c->limit);
}

void media_cache_drop(media_cache *c, embeddings *x) {
    pthread_mutex_lock(&c->lock);
    x->holders--;
    pthread_mutex_unlock(&c->lock);
}

embeddings *media_cache_find(media_cache *c, const content_hash *content) {
    pthread_mutex_lock(&c->lock);
    embeddings *x = c->newest;
    while (x && memcmp(&x->content, content, sizeof *content) != 0) {
        x = x->older;
    }
    if (x) {
        x->holders++;
        c->hits++;
        unlink_age(c, x);
        make_newest(c, x);
    }
    pthread_mutex_unlock(&c->lock);
    return x;
}

void media_cache_add(media_cache *c, embeddings *x) {
    pthread_mutex_lock(&c->lock);
    x->holders = 1;
    c->bytes += x->bytes;
    c->encoded++;
    make_newest(c, x);
    pthread_mutex_unlock(&c->lock);
}
