/* What earlier requests have left in the key/value pool, found again by what was read.
 *
 * A block of KV_BLOCK rows is named by a hash of its rows chained from the block before, so a name stands for everything from the first row on.
 * The first name of a chain is made of the owner, so blocks of different owners never meet, and of random bytes of the cache's own. The cache is one
 * holder of each block it knows (model/kv_blocks.h); those that nobody else holds are given back, least recently used first, when room is needed.
 * Behind the last full block that matches, a block may match in its first rows: those count too, and the sequence copies the block before it writes.
 *
 * Not for two threads at once. */
#ifndef OMNI_ENGINE_PREFIX_CACHE_H
#define OMNI_ENGINE_PREFIX_CACHE_H

#include "engine/content_hash.h"
#include "model/kv_blocks.h"
#include "model/prompt.h"

typedef struct prefix_cache prefix_cache;

/* The pool must outlive the cache. */
omni_status prefix_cache_create(kv_pool *pool, prefix_cache **out, omni_error *err);
void prefix_cache_destroy(prefix_cache *c); /* NULL is fine; its blocks are given back */

/* The names of a sequence's rows so far. */
typedef struct prefix_chain {
    content_hash start;
    content_hash *blocks; /* [count / KV_BLOCK] names of the full ones */
    uint64_t *rows;       /* [count] a digest of each row alone */
    int64_t count, room;
    int64_t added; /* full blocks that the cache has been told of */
} prefix_chain;

/* owner: any name, or NULL. */
omni_status prefix_chain_init(const prefix_cache *c, const char *owner, prefix_chain *out, omni_error *err);
void prefix_chain_free(prefix_chain *chain); /* a zeroed one is fine */
/* The next n rows. media[row.media]: the hash of the content that the row's embedding comes from. */
omni_status prefix_chain_add(prefix_chain *chain, const prompt_row *rows, int64_t n, const content_hash *media, omni_error *err);

/* How many of the first rows of the chain, at most `most`, stand in known blocks. blocks[most / KV_BLOCK + 1] receives those blocks, the last perhaps
 * used in part: kv_seq_adopt takes them, before anything else is asked of the cache. */
int64_t prefix_cache_find(prefix_cache *c, const prefix_chain *chain, int64_t most, int32_t *blocks);
/* Remembers the full blocks of seq, whose first rows the chain names, that have not been added yet. */
void prefix_cache_add(prefix_cache *c, prefix_chain *chain, const kv_seq *seq);
/* The same and the last block, which is not full. For a sequence that will not grow any more. */
void prefix_cache_add_all(prefix_cache *c, prefix_chain *chain, const kv_seq *seq);
/* Gives blocks back until the pool has n free ones; false when it cannot. */
bool prefix_cache_make_room(prefix_cache *c, int64_t n);
/* Blocks that make_room could free. */
int64_t prefix_cache_idle(const prefix_cache *c);
/* Forgets everything. */
void prefix_cache_clear(prefix_cache *c);

typedef struct prefix_counters {
    uint64_t lookups, hits; /* hits: lookups that found at least a row */
    uint64_t rows_asked, rows_found;
    uint64_t blocks_added, blocks_evicted;
} prefix_counters;

prefix_counters prefix_cache_counters(const prefix_cache *c);

#endif
