#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { NONE = UINT32_MAX };

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ x >> 32;
}

static uint64_t hash_bytes(uint64_t key, const char *s, size_t n) {
    uint64_t h = key ^ n, word;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&word, s, 8);
        h = mix(h ^ word);
    }
    if (n > 0) {
        word = 0;
        memcpy(&word, s, n);
        h = mix(h ^ word);
    }
    return h;
}

static uint64_t hash_pair(uint64_t key, uint32_t left, uint32_t right) {
    return mix(key ^ ((uint64_t)left << 32 | right));
}

/* A power of two that leaves at least a third of the slots empty. */
static size_t table_size(size_t entries) {
    size_t size = 16;
    while (size < entries + entries / 2) {
        size *= 2;
    }
    return size;
}

omni_status bpe_init(bpe *b, const char *bytes, const uint32_t *offset, size_t pieces, size_t merges, omni_error *err) {
    size_t piece_slots = table_size(pieces), merge_slots = table_size(merges);
    *b = (bpe){.bytes = bytes, .offset = offset, .pieces = pieces, .piece_mask = piece_slots - 1, .merge_mask = merge_slots - 1, .ranks = merges};
    b->piece_slot = calloc(piece_slots, sizeof *b->piece_slot);
    b->merge_slot = calloc(merge_slots, sizeof *b->merge_slot);
    b->whole = calloc(pieces + 1, sizeof *b->whole);
    b->byte_rank = calloc(256 * 256, sizeof *b->byte_rank);
    if (!b->piece_slot || !b->merge_slot || !b->whole || !b->byte_rank) {
        bpe_free(b);
        return fail(err, OMNI_ERR_MEMORY, "no memory for a vocabulary of %zu pieces and %zu merges", pieces, merges);
    }
    if (getrandom(&b->key, sizeof b->key, 0) != (ssize_t)sizeof b->key) {
        b->key = (uintptr_t)b->piece_slot; /* address space randomisation is the next best source */
    }
    memset(b->piece_slot, 0xFF, piece_slots * sizeof *b->piece_slot);
    memset(b->merge_slot, 0xFF, merge_slots * sizeof *b->merge_slot);
    memset(b->byte_id, 0xFF, sizeof b->byte_id);
    memset(b->byte_rank, 0xFF, 256 * 256 * sizeof *b->byte_rank);
    return OMNI_OK;
}

void bpe_free(bpe *b) {
    free(b->piece_slot);
    free(b->merge_slot);
    free((void *)b->whole);
    free(b->byte_rank);
    *b = (bpe){0};
}

/* The slot that holds these bytes, or the empty one where they belong. */
static size_t piece_slot(const bpe *b, const char *s, size_t n) {
    size_t i = hash_bytes(b->key, s, n) & b->piece_mask;
    for (;; i = (i + 1) & b->piece_mask) {
        uint32_t id = b->piece_slot[i];
        if (id == NONE || (b->offset[id + 1] - b->offset[id] == n && memcmp(b->bytes + b->offset[id], s, n) == 0)) {
            return i;
        }
    }
}

void bpe_add_piece(bpe *b, uint32_t id) {
    const char *s = b->bytes + b->offset[id];
    size_t n = b->offset[id + 1] - b->offset[id], i = piece_slot(b, s, n);
    if (n == 0 || b->piece_slot[i] != NONE) {
        return;
    }
    b->piece_slot[i] = id;
    if (n == 1) {
        b->byte_id[(uint8_t)*s] = (int32_t)id;
    }
}

int32_t bpe_find(const bpe *b, const char *s, size_t n) {
    uint32_t id = b->piece_slot[piece_slot(b, s, n)];
    return id == NONE ? -1 : (int32_t)id;
}

static bpe_merge *merge_slot(const bpe *b, uint32_t left, uint32_t right) {
    for (size_t i = hash_pair(b->key, left, right) & b->merge_mask;; i = (i + 1) & b->merge_mask) {
        bpe_merge *m = &b->merge_slot[i];
        if (m->rank == NONE || (m->left == left && m->right == right)) {
            return m;
        }
    }
}

void bpe_add_merge(bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {
    *merge_slot(b, left, right) = (bpe_merge){left, right, rank, id};
    if (b->offset[left + 1] - b->offset[left] == 1 && b->offset[right + 1] - b->offset[right] == 1) {
        b->byte_rank[(uint8_t)b->bytes[b->offset[left]] * 256 + (uint8_t)b->bytes[b->offset[right]]] = rank;
    }
}

static uint32_t pair_rank(const bpe *b, int32_t left, int32_t right) {
    return merge_slot(b, (uint32_t)left, (uint32_t)right)->rank;
}

static bool grow(bpe_scratch *s, size_t n) {
    if (n <= s->room) {
        return true;
    }
    free(s->ids);
    free(s->rank);
    size_t room = n < 256 ? 256 : n;
    s->ids = calloc(room, sizeof *s->ids);
    s->rank = calloc(room, sizeof *s->rank);
    s->room = s->ids && s->rank ? room : 0;
    return s->room > 0;
}

static bool grow_long(bpe_scratch *s, size_t n) {
    if (n <= s->long_room) {
        return true;
    }
    free(s->symbols);
    free(s->queue);
    free(s->heap);
    s->symbols = calloc(n, sizeof *s->symbols);
    s->queue = calloc(n, sizeof *s->queue);
    s->heap = calloc(n, 2 * sizeof *s->heap);
    s->long_room = s->symbols && s->queue && s->heap ? n : 0;
    return s->long_room > 0;
}

void bpe_scratch_free(bpe_scratch *s) {
    free(s->ids);
    free(s->rank);
    free(s->symbols);
    free(s->queue);
    free(s->heap);
    *s = (bpe_scratch){0};
}

/* Few symbols: look for the lowest rank each time, the leftmost of equals. rank[i] is that of the pair (i, i + 1). */
static size_t merge_few(const bpe *b, bpe_scratch *s, size_t n) {
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (s->rank[i] < s->rank[best]) {
                best = i;
            }
        }
        if (s->rank[best] == NONE) {
            break;
        }
        s->ids[best] = (int32_t)merge_slot(b, (uint32_t)s->ids[best], (uint32_t)s->ids[best + 1])->id;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            s->ids[i] = s->ids[i + 1];
            s->rank[i - 1] = s->rank[i];
        }
        if (best + 1 < n) {
            s->rank[best] = pair_rank(b, s->ids[best], s->ids[best + 1]);
        }
        if (best > 0) {
            s->rank[best - 1] = pair_rank(b, s->ids[best - 1], s->ids[best]);
        }
    }
    return n;
}

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t v = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) {
            break;
        }
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (heap[child] >= v) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = v;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t v) {
    size_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2] > v; i = (i - 1) / 2) {
        heap[i] = heap[(i - 1) / 2];
    }
    heap[i] = v;
}

/* (rank, place) of each pair that merges, in that order. Fills s->queue; SIZE_MAX when out of memory. */
static size_t sort_pairs(const bpe *b, bpe_scratch *s, size_t n) {
    uint32_t *start = calloc(b->ranks + 1, sizeof *start);
    if (!start) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        if (s->rank[i] != NONE) {
            start[s->rank[i] + 1]++;
        }
    }
    for (size_t r = 0; r < b->ranks; r++) {
        start[r + 1] += start[r];
    }
    size_t count = start[b->ranks];
    for (size_t i = 0; i < n; i++) {
        if (s->rank[i] != NONE) {
            s->queue[start[s->rank[i]]++] = (uint64_t)s->rank[i] << 32 | i;
        }
    }
    free(start);
    return count;
}

/* Recomputes the rank of the pair that starts at symbol i and enters it into the heap. */
static void offer(const bpe *b, bpe_scratch *s, size_t *heap_size, uint32_t i) {
    bpe_symbol *x = &s->symbols[i];
    x->rank = x->next == NONE ? NONE : pair_rank(b, x->id, s->symbols[x->next].id);
    if (x->rank != NONE) {
        heap_push(s->heap, heap_size, (uint64_t)x->rank << 32 | i);
    }
}

/* The same entries as a heap, for pieces too short to be worth a counter a rank. Returns their number. */
static size_t heap_pairs(bpe_scratch *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (s->rank[i] != NONE) {
            s->heap[count++] = (uint64_t)s->rank[i] << 32 | i;
        }
    }
    for (size_t i = count / 2; i-- > 0;) {
        sift_down(s->heap, count, i);
    }
    return count;
}

/* Many symbols: the first pairs sorted by (rank, place), those that merges make in a heap. Entries are not removed when a pair changes;
 * one whose rank is no longer the pair's is skipped. A merge makes two pairs at most, and there are n - 1 merges, so the heap needs no
 * more than 2 n entries. Returns the number of symbols left, SIZE_MAX when out of memory. */
static size_t merge_many(const bpe *b, bpe_scratch *s, size_t n) {
    bool sorted = n >= b->ranks / 8;
    size_t heap_size = sorted ? 0 : heap_pairs(s, n), queue_size = sorted ? sort_pairs(b, s, n) : 0, queued = 0;
    if (queue_size == SIZE_MAX) {
        return SIZE_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        s->symbols[i] = (bpe_symbol){s->ids[i], s->rank[i], i + 1 < n ? (uint32_t)(i + 1) : NONE, i > 0 ? (uint32_t)(i - 1) : NONE};
    }
    while (heap_size > 0 || queued < queue_size) {
        uint64_t top;
        if (heap_size == 0 || (queued < queue_size && s->queue[queued] < s->heap[0])) {
            top = s->queue[queued++];
        } else {
            top = s->heap[0];
            s->heap[0] = s->heap[--heap_size];
            sift_down(s->heap, heap_size, 0);
        }
        uint32_t i = (uint32_t)top, rank = (uint32_t)(top >> 32);
        bpe_symbol *x = &s->symbols[i];
        if (x->rank != rank) {
            continue;
        }
        bpe_symbol *gone = &s->symbols[x->next];
        x->id = (int32_t)merge_slot(b, (uint32_t)x->id, (uint32_t)gone->id)->id;
        x->next = gone->next;
        gone->rank = NONE;
        if (x->next != NONE) {
            s->symbols[x->next].prior = i;
        }
        offer(b, s, &heap_size, i);
        if (x->prior != NONE) {
            offer(b, s, &heap_size, x->prior);
        }
    }
    size_t count = 0;
    for (uint32_t i = 0; i != NONE; i = s->symbols[i].next) {
        s->ids[count++] = s->symbols[i].id;
    }
    return count;
}

static omni_status merge_bytes(const bpe *b, bpe_scratch *scratch, const char *s, size_t n, size_t *count, omni_error *err) {
    enum { FEW = 32 };
    if (n >= INT32_MAX || !grow(scratch, n) || (n > FEW && !grow_long(scratch, n))) {
        return fail(err, OMNI_ERR_MEMORY, "no memory to tokenize %zu bytes without a break; shorten the text", n);
    }
    for (size_t i = 0; i < n; i++) {
        scratch->ids[i] = b->byte_id[(uint8_t)s[i]];
        scratch->rank[i] = i + 1 < n ? b->byte_rank[(uint8_t)s[i] * 256 + (uint8_t)s[i + 1]] : NONE;
    }
    *count = n <= FEW ? merge_few(b, scratch, n) : merge_many(b, scratch, n);
    if (*count == SIZE_MAX) {
        return fail(err, OMNI_ERR_MEMORY, "no memory to tokenize %zu bytes without a break; shorten the text", n);
    }
    return OMNI_OK;
}

omni_status bpe_encode(const bpe *b, bpe_scratch *scratch, const char *s, size_t n, const int32_t **ids, size_t *count, omni_error *err) {
    int32_t id = bpe_find(b, s, n);
    uint8_t whole = id < 0 ? 2 : atomic_load_explicit(&b->whole[id], memory_order_relaxed);
    if (whole == 1) {
        if (!grow(scratch, 1)) {
            return fail(err, OMNI_ERR_MEMORY, "no memory to tokenize");
        }
        scratch->ids[0] = id;
        *count = 1;
    } else {
        TRY(merge_bytes(b, scratch, s, n, count, err));
        if (whole == 0) {
            whole = *count == 1 && scratch->ids[0] == id ? 1 : 2;
            atomic_store_explicit(&b->whole[id], whole, memory_order_relaxed);
        }
    }
    *ids = scratch->ids;
    return OMNI_OK;
}
