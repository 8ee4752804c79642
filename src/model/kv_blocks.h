/* Key/value memory in blocks of KV_BLOCK positions, shared by any number of sequences.
 *
 * A pool owns a kv_cache and counts references to its blocks. A sequence is a table of blocks and a length; kv_seq_fork gives
 * a second sequence the same blocks, and a block that more than one sequence holds is copied before one of them writes to it. */
#ifndef OMNI_MODEL_KV_BLOCKS_H
#define OMNI_MODEL_KV_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/ops.h"

typedef struct kv_pool kv_pool;

/* Types: F32, F16 or Q8_0, the last for heads of a multiple of 32, at most KV_Q8_HEAD values. positions: cached positions in all, rounded
 * up to whole blocks. */
omni_status kv_pool_create(backend *b, dtype k_type, dtype v_type, int layers, int kv_heads, int head_dim, int64_t positions, kv_pool **out,
                           omni_error *err);
/* Every sequence of the pool must be released before. NULL is fine. */
void kv_pool_destroy(kv_pool *p);
const kv_cache *kv_pool_cache(const kv_pool *p);
int64_t kv_pool_free(const kv_pool *p);   /* blocks that nobody holds */
int64_t kv_pool_in_use(const kv_pool *p); /* blocks that a sequence holds */
/* How many hold the block: sequences, and those that called kv_pool_hold. 0: it is free. */
int32_t kv_pool_holders(const kv_pool *p, int32_t block);
/* One holder more of a block that is not free, and one fewer; the last one frees it. */
void kv_pool_hold(kv_pool *p, int32_t block);
void kv_pool_drop(kv_pool *p, int32_t block);
/* Bytes of keys and values, both of one type, for this many positions; SIZE_MAX when too large. */
size_t kv_memory(backend *b, dtype type, int layers, int kv_heads, int head_dim, int64_t positions);

typedef struct kv_seq {
    kv_pool *pool;
    int32_t *blocks; /* [block_count] */
    int64_t block_count, capacity;
    int64_t length; /* positions in use */
} kv_seq;

/* An empty sequence with room in its table for max_positions, so that growing allocates nothing on the host. */
omni_status kv_seq_init(kv_pool *p, int64_t max_positions, kv_seq *out, omni_error *err);
/* Gives back every block and frees the table. Also right for a zeroed struct. */
void kv_seq_release(kv_seq *s);
/* Makes *out an independent sequence with the first length positions of s, sharing their blocks. */
omni_status kv_seq_fork(const kv_seq *s, int64_t length, int64_t max_positions, kv_seq *out, omni_error *err);
/* Makes blocks the first positions of an empty sequence, which becomes one more holder of each. length: how many positions, at most all of theirs;
 * the last block may be used in part, and is copied before something is written behind. Its table must have room (kv_seq_init). */
void kv_seq_adopt(kv_seq *s, const int32_t *blocks, int64_t length);
/* Adds n positions; slots[i] receives block * KV_BLOCK + offset of each (slots may be NULL; kv_seq_slot gives them too). Takes blocks from the pool;
 * a last block that others hold too is copied first (queued on the backend). When the pool is too full: OMNI_ERR_LIMIT with the numbers, and the
 * sequence stays as it was. */
omni_status kv_seq_extend(kv_seq *s, int64_t n, int32_t *slots, omni_error *err);
/* block * KV_BLOCK + offset of a position below the length. */
static inline int32_t kv_seq_slot(const kv_seq *s, int64_t position) {
    return s->blocks[position / KV_BLOCK] * KV_BLOCK + (int32_t)(position % KV_BLOCK);
}
/* Forgets the positions from length on. */
void kv_seq_truncate(kv_seq *s, int64_t length);

#endif
