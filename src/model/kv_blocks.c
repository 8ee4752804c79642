#include "model/kv_blocks.h"

#include <stdlib.h>
#include <string.h>

struct kv_pool {
    backend *b;
    kv_cache cache;
    int32_t *references; /* [blocks] holders of the block */
    int32_t *sequences;  /* [blocks] how many of them are sequences */
    int32_t *free_list;  /* [blocks] the first free_count are free */
    int64_t free_count;
    int64_t in_use; /* blocks that a sequence holds */
};

static int64_t blocks_for(int64_t positions) {
    return positions / KV_BLOCK + (positions % KV_BLOCK != 0);
}

size_t kv_memory(backend *b, dtype type, int layers, int kv_heads, int head_dim, int64_t positions) {
    const size_t half = b->ops->kv_bytes(b, type, layers, kv_heads, head_dim, blocks_for(positions));
    return half > SIZE_MAX / 2 ? SIZE_MAX : 2 * half;
}

static omni_status check_type(dtype type, int head_dim, omni_error *err) {
    if (type != DTYPE_F32 && type != DTYPE_F16 && type != DTYPE_Q8_0) {
        return fail(err, OMNI_ERR_ARGUMENT, "key/value cache of type number %d; it must be F32, F16 or Q8_0", (int)type);
    }
    if (type == DTYPE_Q8_0 && (head_dim % 32 != 0 || head_dim > KV_Q8_HEAD)) {
        return fail(err, OMNI_ERR_ARGUMENT, "key/value cache in Q8_0 for heads of %d values; that takes a multiple of 32, at most %d", head_dim,
                    KV_Q8_HEAD);
    }
    return OMNI_OK;
}

omni_status kv_pool_create(backend *b, dtype k_type, dtype v_type, int layers, int kv_heads, int head_dim, int64_t positions, kv_pool **out,
                           omni_error *err) {
    *out = NULL;
    TRY(check_type(k_type, head_dim, err));
    TRY(check_type(v_type, head_dim, err));
    /* A slot (block * KV_BLOCK + offset) is an int32. */
    int64_t blocks = blocks_for(positions);
    if (positions <= 0 || layers <= 0 || kv_heads <= 0 || head_dim <= 0 || blocks > INT32_MAX / KV_BLOCK) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "key/value cache of %lld positions, %d layers, %d heads of %d: each must be positive, positions below 2^31", (long long)positions,
                    layers, kv_heads, head_dim);
    }
    size_t k_bytes = b->ops->kv_bytes(b, k_type, layers, kv_heads, head_dim, blocks),
           v_bytes = b->ops->kv_bytes(b, v_type, layers, kv_heads, head_dim, blocks);
    if (k_bytes > SIZE_MAX / 2 || v_bytes > SIZE_MAX / 2) {
        return fail(err, OMNI_ERR_MEMORY, "key/value cache of %lld positions is too large to address", (long long)positions);
    }
    kv_pool *p = calloc(1, sizeof *p);
    if (!p) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the key/value pool");
    }
    p->b = b;
    p->cache = (kv_cache){.k_type = k_type, .v_type = v_type, .layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .blocks = blocks};
    p->references = calloc((size_t)blocks, sizeof *p->references);
    p->sequences = calloc((size_t)blocks, sizeof *p->sequences);
    p->free_list = malloc((size_t)blocks * sizeof *p->free_list);
    omni_status status = OMNI_OK;
    if (!p->references || !p->sequences || !p->free_list) {
        status = fail(err, OMNI_ERR_MEMORY, "out of memory for a list of %lld key/value blocks", (long long)blocks);
    }
    if (status == OMNI_OK) {
        status = b->ops->alloc(b, k_bytes, &p->cache.k, err);
    }
    if (status == OMNI_OK) {
        status = b->ops->alloc(b, v_bytes, &p->cache.v, err);
    }
    if (status != OMNI_OK) {
        kv_pool_destroy(p);
        return status == OMNI_ERR_MEMORY
                   ? fail_in(err, status, "key/value cache of %lld positions (%zu bytes)", (long long)positions, k_bytes + v_bytes)
                   : status;
    }
    for (int64_t i = 0; i < blocks; i++) {
        p->free_list[i] = (int32_t)(blocks - 1 - i); /* block 0 is taken first */
    }
    p->free_count = blocks;
    *out = p;
    return OMNI_OK;
}

void kv_pool_destroy(kv_pool *p) {
    if (!p) {
        return;
    }
    if (p->cache.k) {
        p->b->ops->release(p->b, p->cache.k);
    }
    if (p->cache.v) {
        p->b->ops->release(p->b, p->cache.v);
    }
    free(p->references);
    free(p->sequences);
    free(p->free_list);
    free(p);
}

const kv_cache *kv_pool_cache(const kv_pool *p) {
    return &p->cache;
}

int64_t kv_pool_free(const kv_pool *p) {
    return p->free_count;
}

int64_t kv_pool_in_use(const kv_pool *p) {
    return p->in_use;
}

int32_t kv_pool_holders(const kv_pool *p, int32_t block) {
    return p->references[block];
}

void kv_pool_hold(kv_pool *p, int32_t block) {
    p->references[block]++;
}

void kv_pool_drop(kv_pool *p, int32_t block) {
    if (--p->references[block] == 0) {
        p->free_list[p->free_count++] = block;
    }
}

/* The same two for sequences, which are counted. */
static void sequence_holds(kv_pool *p, int32_t block) {
    p->in_use += p->sequences[block]++ == 0;
    kv_pool_hold(p, block);
}

static void sequence_drops(kv_pool *p, int32_t block) {
    p->in_use -= --p->sequences[block] == 0;
    kv_pool_drop(p, block);
}

static int32_t take_block(kv_pool *p) {
    int32_t block = p->free_list[--p->free_count];
    sequence_holds(p, block);
    return block;
}

omni_status kv_seq_init(kv_pool *p, int64_t max_positions, kv_seq *out, omni_error *err) {
    *out = (kv_seq){0};
    if (max_positions <= 0 || max_positions > INT32_MAX) {
        return fail(err, OMNI_ERR_ARGUMENT, "a sequence of at most %lld positions: it must be between 1 and 2^31 - 1", (long long)max_positions);
    }
    int64_t capacity = blocks_for(max_positions);
    int32_t *blocks = malloc((size_t)capacity * sizeof *blocks);
    if (!blocks) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a table of %lld key/value blocks", (long long)capacity);
    }
    *out = (kv_seq){.pool = p, .blocks = blocks, .capacity = capacity};
    return OMNI_OK;
}

void kv_seq_release(kv_seq *s) {
    for (int64_t i = 0; i < s->block_count; i++) {
        sequence_drops(s->pool, s->blocks[i]);
    }
    free(s->blocks);
    *s = (kv_seq){0};
}

omni_status kv_seq_fork(const kv_seq *s, int64_t length, int64_t max_positions, kv_seq *out, omni_error *err) {
    *out = (kv_seq){0};
    if (length < 0 || length > s->length || length > max_positions) {
        return fail(err, OMNI_ERR_ARGUMENT, "cannot share %lld positions of a sequence of %lld with one of at most %lld", (long long)length,
                    (long long)s->length, (long long)max_positions);
    }
    TRY(kv_seq_init(s->pool, max_positions, out, err));
    kv_seq_adopt(out, s->blocks, length);
    return OMNI_OK;
}

void kv_seq_adopt(kv_seq *s, const int32_t *blocks, int64_t length) {
    s->length = length;
    s->block_count = blocks_for(length);
    for (int64_t i = 0; i < s->block_count; i++) {
        s->blocks[i] = blocks[i];
        sequence_holds(s->pool, blocks[i]);
    }
}

omni_status kv_seq_extend(kv_seq *s, int64_t n, int32_t *slots, omni_error *err) {
    kv_pool *p = s->pool;
    if (n < 0 || n > s->capacity * KV_BLOCK - s->length) {
        return fail(err, OMNI_ERR_LIMIT, "a sequence of %lld positions cannot take %lld more: its table has room for %lld", (long long)s->length,
                    (long long)n, (long long)(s->capacity * KV_BLOCK));
    }
    if (n == 0) {
        return OMNI_OK;
    }
    int64_t offset = s->length % KV_BLOCK;
    bool shared = offset != 0 && p->references[s->blocks[s->block_count - 1]] > 1;
    int64_t fresh = blocks_for(s->length + n) - s->block_count;
    if (fresh + shared > p->free_count) {
        return fail(err, OMNI_ERR_LIMIT,
                    "the key/value cache is full: %lld more positions need %lld blocks of %d, %lld of %lld are free; shorten the conversation or "
                    "enlarge the context",
                    (long long)n, (long long)(fresh + shared), KV_BLOCK, (long long)p->free_count, (long long)p->cache.blocks);
    }
    if (shared) {
        int32_t *last = &s->blocks[s->block_count - 1];
        int32_t own = take_block(p);
        p->b->ops->kv_copy(p->b, &p->cache, own, *last);
        sequence_drops(p, *last);
        *last = own;
    }
    for (int64_t i = 0; i < fresh; i++) {
        s->blocks[s->block_count++] = take_block(p);
    }
    for (int64_t i = 0; slots && i < n; i++) {
        slots[i] = kv_seq_slot(s, s->length + i);
    }
    s->length += n;
    return OMNI_OK;
}

void kv_seq_truncate(kv_seq *s, int64_t length) {
    if (length < 0 || length >= s->length) {
        return;
    }
    int64_t keep = blocks_for(length);
    while (s->block_count > keep) {
        sequence_drops(s->pool, s->blocks[--s->block_count]);
    }
    s->length = length;
}
