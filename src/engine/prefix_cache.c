#include "engine/prefix_cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* One for each block of the pool; it is in the cache when rows > 0. Lists hold block numbers, -1 at their ends. */
typedef struct entry {
    content_hash name;         /* of a full block */
    content_hash parent;       /* name of the block before, or of the chain's start */
    uint64_t digest[KV_BLOCK]; /* of its rows */
    int32_t rows;              /* KV_BLOCK: full */
    int32_t next_child;        /* in the list of its parent's bucket */
    int32_t older, newer;      /* by last use */
} entry;

struct prefix_cache {
    kv_pool *pool;
    uint8_t salt[32];
    entry *entries;    /* [blocks] */
    int32_t *children; /* [buckets] heads of lists, by parent */
    uint64_t buckets;  /* a power of two */
    int32_t oldest, newest;
    prefix_counters counters;
};

omni_status prefix_cache_create(kv_pool *pool, prefix_cache **out, omni_error *err) {
    *out = NULL;
    const size_t blocks = (size_t)kv_pool_cache(pool)->blocks;
    prefix_cache *c = calloc(1, sizeof *c);
    if (!c) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the prefix cache");
    }
    *c = (prefix_cache){.pool = pool, .buckets = 16, .oldest = -1, .newest = -1};
    while (c->buckets < 2 * blocks) {
        c->buckets *= 2;
    }
    c->entries = calloc(blocks, sizeof *c->entries);
    c->children = malloc(c->buckets * sizeof *c->children);
    if (!c->entries || !c->children || getrandom(c->salt, sizeof c->salt, 0) != (ssize_t)sizeof c->salt) {
        prefix_cache_destroy(c);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the prefix cache of %zu blocks", blocks);
    }
    for (uint64_t i = 0; i < c->buckets; i++) {
        c->children[i] = -1;
    }
    *out = c;
    return OMNI_OK;
}

void prefix_cache_destroy(prefix_cache *c) {
    if (c) {
        if (c->entries && c->children) {
            prefix_cache_clear(c);
        }
        free(c->entries);
        free(c->children);
        free(c);
    }
}

/* ---- chains ---- */

omni_status prefix_chain_init(const prefix_cache *c, const char *owner, prefix_chain *out, omni_error *err) {
    *out = (prefix_chain){0};
    const content_part parts[] = {{c->salt, sizeof c->salt}, {owner ? owner : "", owner ? strlen(owner) + 1 : 0}};
    return content_hash_of(parts, 2, &out->start, err);
}

void prefix_chain_free(prefix_chain *chain) {
    free(chain->blocks);
    free(chain->rows);
    *chain = (prefix_chain){0};
}

static omni_status reserve(prefix_chain *chain, int64_t n, omni_error *err) {
    if (n <= chain->room) {
        return OMNI_OK;
    }
    int64_t room = (n + n / 2 + KV_BLOCK) / KV_BLOCK * KV_BLOCK;
    uint64_t *rows = realloc(chain->rows, (size_t)room * sizeof *rows);
    chain->rows = rows ? rows : chain->rows;
    content_hash *blocks = realloc(chain->blocks, (size_t)(room / KV_BLOCK) * sizeof *blocks);
    chain->blocks = blocks ? blocks : chain->blocks;
    if (!rows || !blocks) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the names of %lld rows", (long long)n);
    }
    chain->room = room;
    return OMNI_OK;
}

/* Everything that a row's keys and values depend on besides the rows before it. */
static omni_status row_digest(const prefix_chain *chain, const prompt_row *row, const content_hash *media, uint64_t *out, omni_error *err) {
    struct {
        int32_t id, class, media_row;
        float position[3];
    } key = {row->id, row->class, row->media < 0 ? -1 : row->media_row, {row->position[0], row->position[1], row->position[2]}};
    const content_hash *content = row->media < 0 ? &chain->start : &media[row->media];
    const content_part parts[] = {{chain->start.bytes, sizeof chain->start.bytes}, {&key, sizeof key}, {content->bytes, sizeof content->bytes}};
    content_hash h;
    TRY(content_hash_of(parts, 3, &h, err));
    memcpy(out, h.bytes, sizeof *out);
    return OMNI_OK;
}

static const content_hash *parent_of(const prefix_chain *chain, int64_t block) {
    return block == 0 ? &chain->start : &chain->blocks[block - 1];
}

omni_status prefix_chain_add(prefix_chain *chain, const prompt_row *rows, int64_t n, const content_hash *media, omni_error *err) {
    TRY(reserve(chain, chain->count + n, err));
    for (int64_t i = 0; i < n; i++) {
        TRY(row_digest(chain, &rows[i], media, &chain->rows[chain->count], err));
        if ((chain->count + 1) % KV_BLOCK == 0) {
            const int64_t block = chain->count / KV_BLOCK;
            const content_hash *parent = parent_of(chain, block);
            const content_part parts[] = {{parent->bytes, sizeof parent->bytes}, {chain->rows + block * KV_BLOCK, KV_BLOCK * sizeof *chain->rows}};
            TRY(content_hash_of(parts, 2, &chain->blocks[block], err));
        }
        chain->count++;
    }
    return OMNI_OK;
}

/* ---- lists ---- */

static int32_t *bucket_of(const prefix_cache *c, const content_hash *parent) {
    uint64_t h;
    memcpy(&h, parent->bytes, sizeof h);
    return &c->children[h & (c->buckets - 1)];
}

static void unlink_age(prefix_cache *c, int32_t block) {
    entry *e = &c->entries[block];
    *(e->older < 0 ? &c->oldest : &c->entries[e->older].newer) = e->newer;
    *(e->newer < 0 ? &c->newest : &c->entries[e->newer].older) = e->older;
}

static void make_newest(prefix_cache *c, int32_t block) {
    entry *e = &c->entries[block];
    e->older = c->newest;
    e->newer = -1;
    *(c->newest < 0 ? &c->oldest : &c->entries[c->newest].newer) = block;
    c->newest = block;
}

static void forget(prefix_cache *c, int32_t block) {
    entry *e = &c->entries[block];
    for (int32_t *at = bucket_of(c, &e->parent); *at >= 0; at = &c->entries[*at].next_child) {
        if (*at == block) {
            *at = e->next_child;
            break;
        }
    }
    unlink_age(c, block);
    e->rows = 0;
    kv_pool_drop(c->pool, block);
}

static bool same_hash(const content_hash *a, const content_hash *b) {
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* The known block that is the chain's full block of this number; -1: none. */
static int32_t find_full(const prefix_cache *c, const prefix_chain *chain, int64_t block) {
    const content_hash *parent = parent_of(chain, block);
    for (int32_t at = *bucket_of(c, parent); at >= 0; at = c->entries[at].next_child) {
        if (c->entries[at].rows == KV_BLOCK && same_hash(&c->entries[at].name, &chain->blocks[block])) {
            return at;
        }
    }
    return -1;
}

/* The known block, behind the same rows, that has most rows in common with the chain's block of this number, of which n rows count. */
static int32_t find_part(const prefix_cache *c, const prefix_chain *chain, int64_t block, int64_t n, int64_t *common) {
    const content_hash *parent = parent_of(chain, block);
    const uint64_t *rows = chain->rows + block * KV_BLOCK;
    int32_t best = -1;
    *common = 0;
    for (int32_t at = *bucket_of(c, parent); at >= 0; at = c->entries[at].next_child) {
        const entry *e = &c->entries[at];
        int64_t same = 0;
        while (same_hash(&e->parent, parent) && same < n && same < e->rows && e->digest[same] == rows[same]) {
            same++;
        }
        if (same > *common) {
            *common = same;
            best = at;
        }
    }
    return best;
}

/* The known ones of a chain's blocks become the newest, the first of all last: without it the others could not be found. */
static void touch(prefix_cache *c, const int32_t *blocks, int64_t n) {
    for (int64_t i = n; i-- > 0;) {
        if (c->entries[blocks[i]].rows > 0) {
            unlink_age(c, blocks[i]);
            make_newest(c, blocks[i]);
        }
    }
}

/* ---- finding, adding, giving back ---- */

int64_t prefix_cache_find(prefix_cache *c, const prefix_chain *chain, int64_t most, int32_t *blocks) {
    most = most < chain->count ? most : chain->count;
    int64_t full = 0, common = 0;
    for (int32_t at; (full + 1) * KV_BLOCK <= most && (at = find_full(c, chain, full)) >= 0;) {
        blocks[full++] = at;
    }
    const int64_t left = most - full * KV_BLOCK;
    const int32_t part = left > 0 ? find_part(c, chain, full, left < KV_BLOCK ? left : KV_BLOCK, &common) : -1;
    if (part >= 0) {
        blocks[full] = part;
    }
    touch(c, blocks, full + (part >= 0));
    const int64_t found = full * KV_BLOCK + common;
    c->counters.lookups++;
    c->counters.hits += found > 0;
    c->counters.rows_asked += (uint64_t)most;
    c->counters.rows_found += (uint64_t)found;
    return found;
}

static void add(prefix_cache *c, const prefix_chain *chain, int64_t block, int64_t rows, int32_t at) {
    entry *e = &c->entries[at];
    if (e->rows > 0) { /* known: shared with the request that has computed it */
        return;
    }
    e->parent = *parent_of(chain, block);
    if (rows == KV_BLOCK) {
        e->name = chain->blocks[block];
    }
    memcpy(e->digest, chain->rows + block * KV_BLOCK, (size_t)rows * sizeof *e->digest);
    e->rows = (int32_t)rows;
    int32_t *bucket = bucket_of(c, &e->parent);
    e->next_child = *bucket;
    *bucket = at;
    kv_pool_hold(c->pool, at);
    make_newest(c, at);
    c->counters.blocks_added++;
}

void prefix_cache_add(prefix_cache *c, prefix_chain *chain, const kv_seq *seq) {
    const int64_t rows = seq->length < chain->count ? seq->length : chain->count;
    for (; (chain->added + 1) * KV_BLOCK <= rows; chain->added++) {
        if (find_full(c, chain, chain->added) < 0) {
            add(c, chain, chain->added, KV_BLOCK, seq->blocks[chain->added]);
            touch(c, seq->blocks, chain->added + 1);
        }
    }
}

void prefix_cache_add_all(prefix_cache *c, prefix_chain *chain, const kv_seq *seq) {
    prefix_cache_add(c, chain, seq);
    const int64_t rows = seq->length < chain->count ? seq->length : chain->count, left = rows - chain->added * KV_BLOCK;
    int64_t common = 0;
    if (left > 0 && (find_part(c, chain, chain->added, left, &common) < 0 || common < left)) {
        add(c, chain, chain->added, left, seq->blocks[chain->added]);
        touch(c, seq->blocks, chain->added + 1);
    }
}

bool prefix_cache_make_room(prefix_cache *c, int64_t n) {
    for (int32_t at = c->oldest, next; at >= 0 && kv_pool_free(c->pool) < n; at = next) {
        next = c->entries[at].newer;
        if (kv_pool_holders(c->pool, at) == 1) {
            forget(c, at);
            c->counters.blocks_evicted++;
        }
    }
    return kv_pool_free(c->pool) >= n;
}

int64_t prefix_cache_idle(const prefix_cache *c) {
    int64_t n = 0;
    for (int32_t at = c->oldest; at >= 0; at = c->entries[at].newer) {
        n += kv_pool_holders(c->pool, at) == 1;
    }
    return n;
}

void prefix_cache_clear(prefix_cache *c) {
    while (c->oldest >= 0) {
        forget(c, c->oldest);
    }
}

prefix_counters prefix_cache_counters(const prefix_cache *c) {
    return c->counters;
}
