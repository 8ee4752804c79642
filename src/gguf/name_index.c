#define _GNU_SOURCE
#include "gguf/name_index.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static inline uint64_t rotate(uint64_t x, int by) {
    return x << by | x >> (64 - by);
}

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3 (Aumasson and Bernstein, 2012). */
static uint64_t hash(const name_index *x, const char *name, size_t size) {
    uint64_t v[4] = {x->key[0] ^ 0x736f6d6570736575u, x->key[1] ^ 0x646f72616e646f6du, x->key[0] ^ 0x6c7967656e657261u,
                     x->key[1] ^ 0x7465646279746573u};
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, name + i, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)size << 56;
    for (size_t j = 0; i + j < size; j++) {
        last |= (uint64_t)(uint8_t)name[i + j] << (8 * j);
    }
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int j = 0; j < 3; j++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The slot that holds the name, or the free one where it belongs. */
static uint32_t *slot_of(const name_index *x, const char *name, size_t size) {
    for (size_t i = hash(x, name, size);; i++) {
        uint32_t *slot = &x->slots[i & x->slot_mask];
        if (*slot == 0) {
            return slot;
        }
        const name_entry *e = &x->entries[*slot - 1];
        if (e->size == size && memcmp(e->name, name, size) == 0) {
            return slot;
        }
    }
}

/* Room for one more name, with at least half of the slots free. */
static bool grow(name_index *x) {
    if (x->count == x->capacity) {
        size_t capacity = x->capacity ? 2 * x->capacity : 64;
        name_entry *entries = realloc(x->entries, capacity * sizeof *entries);
        if (!entries) {
            return false;
        }
        x->entries = entries;
        uint32_t *slots = calloc(2 * capacity, sizeof *slots);
        if (!slots) {
            return false;
        }
        if (!x->slots && getrandom(x->key, sizeof x->key, 0) != (ssize_t)sizeof x->key) {
            x->key[0] = (uint64_t)(uintptr_t)slots; /* address space randomisation is the next best source */
            x->key[1] = (uint64_t)(uintptr_t)&x;
        }
        free(x->slots);
        x->slots = slots;
        x->slot_mask = 2 * capacity - 1;
        x->capacity = capacity;
        for (size_t i = 0; i < x->count; i++) {
            *slot_of(x, entries[i].name, entries[i].size) = (uint32_t)i + 1;
        }
    }
    return true;
}

omni_status name_index_add(name_index *x, const char *name, size_t size, size_t *position, omni_error *err) {
    if (x->count >= INT32_MAX || !grow(x)) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a table of %zu names", x->count + 1);
    }
    uint32_t *slot = slot_of(x, name, size);
    if (*slot == 0) {
        x->entries[x->count] = (name_entry){name, size};
        *slot = (uint32_t)++x->count;
    }
    *position = *slot - 1;
    return OMNI_OK;
}

int64_t name_index_find(const name_index *x, const char *name, size_t size) {
    return x->count ? (int64_t)*slot_of(x, name, size) - 1 : -1;
}

void name_index_free(name_index *x) {
    free(x->entries);
    free(x->slots);
    *x = (name_index){0};
}
