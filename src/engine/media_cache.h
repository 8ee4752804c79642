/* Embeddings of media, found again by owner and content. */
#ifndef OMNI_ENGINE_MEDIA_CACHE_H
#define OMNI_ENGINE_MEDIA_CACHE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/content_hash.h"
#include "tensor/ops.h"

/* Embeddings of one content, in the backend's memory. */
typedef struct embeddings {
    content_hash content;
    int64_t visual_rows, audio_rows;
    float *visual;    /* [visual_rows, width] */
    float *deepstack; /* [deepstack layers, visual_rows, width]; NULL when there are none */
    float *audio;     /* [audio_rows, width] */
    size_t bytes;
    int holders;
    struct embeddings *older, *newer; /* by last use */
} embeddings;

/* Those of a model. Any thread may look at counts; only the step encodes, and releases what nobody holds beyond the limit. */
typedef struct media_cache {
    pthread_mutex_t lock;
    embeddings *oldest, *newest;
    size_t bytes, limit; /* of all; of those that nobody holds any more */
    uint64_t hits, encoded;
} media_cache;

void media_cache_init(media_cache *c, size_t limit);
void media_cache_free(media_cache *c, backend *b); /* nobody must hold any */
/* Those of this content, held by one more; NULL: there are none. */
embeddings *media_cache_find(media_cache *c, const content_hash *content);
/* x, which has none yet, gets its first holder; the cache frees it. */
void media_cache_add(media_cache *c, embeddings *x);
void media_cache_drop(media_cache *c, embeddings *x);
/* Least recently used ones that nobody holds go until they take no more than the limit. */
void media_cache_trim(media_cache *c, backend *b);
/* What is in no cache. */
void embeddings_release(backend *b, embeddings *x);

#endif
