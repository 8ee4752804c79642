#include "text/token_trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/grammar.h"

typedef struct entry {
    const uint8_t *bytes;
    int32_t size, id;
} entry;

static int by_bytes(const void *a, const void *b) {
    const entry *x = a, *y = b;
    const int32_t n = x->size < y->size ? x->size : y->size;
    const int c = memcmp(x->bytes, y->bytes, (size_t)n);
    return c != 0 ? c : x->size != y->size ? (x->size > y->size) - (x->size < y->size) : (x->id > y->id) - (x->id < y->id);
}

/* Characters of a plain text, or TRIE_NOT_PLAIN. */
static int plain_length(const entry *e) {
    int length = 0;
    if (!utf8_valid((const char *)e->bytes, (size_t)e->size)) {
        return TRIE_NOT_PLAIN;
    }
    for (int32_t i = 0; i < e->size; i++) {
        const uint8_t c = e->bytes[i];
        if (c < 0x20 || c == '"' || c == '\\' || c >= 0x7f) {
            if (c < 0x80) {
                return TRIE_NOT_PLAIN;
            }
        }
        length += (c & 0xc0) != 0x80;
    }
    return length < TRIE_NOT_PLAIN ? length : TRIE_NOT_PLAIN;
}

/* The tokens that a grammar can meet, sorted by their bytes; those of added tokens lie in *added. */
static int32_t collect(const tokenizer *t, int64_t vocabulary, entry *list, uint8_t *added) {
    const int64_t known = (int64_t)tokenizer_size(t), n = known < vocabulary ? known : vocabulary;
    int32_t count = 0;
    for (int32_t id = 0; id < n; id++) {
        size_t size;
        const char *s = tokenizer_piece(t, id, &size);
        const token_kind kind = tokenizer_kind(t, id);
        if (tokenizer_is_end(t, id)) {
            continue;
        }
        if (kind == TOKEN_NORMAL && size > 0 && size <= TRIE_MOST_DEPTH && !memchr(s, GRAMMAR_TOKEN_BYTE, size)) {
            list[count++] = (entry){(const uint8_t *)s, (int32_t)size, id};
        } else if (kind == TOKEN_ADDED) {
            grammar_token_bytes(id, added);
            list[count++] = (entry){added, GRAMMAR_TOKEN_BYTES, id};
            added += GRAMMAR_TOKEN_BYTES;
        }
    }
    qsort(list, (size_t)count, sizeof *list, by_bytes);
    return count;
}

static int32_t common(const entry *a, const entry *b) {
    int32_t i = 0;
    while (i < a->size && i < b->size && a->bytes[i] == b->bytes[i]) {
        i++;
    }
    return i;
}

/* Lays the sorted tokens out as nodes; parent[n] is the node above n. */
static void lay_out(token_trie *trie, const entry *list, int32_t *parent) {
    int32_t path[TRIE_MOST_DEPTH + 1] = {0}, depth = 0, n = 1;
    trie->byte[0] = 0;
    trie->depth[0] = 0;
    trie->first[0] = trie->first[1] = 0;
    parent[0] = -1;
    for (int32_t i = 0; i < trie->count; i++) {
        const int32_t same = i > 0 ? common(&list[i - 1], &list[i]) : 0;
        for (; depth > same; depth--) {
            trie->end[path[depth]] = n;
        }
        for (; depth < list[i].size; n++) {
            trie->byte[n] = list[i].bytes[depth];
            parent[n] = path[depth];
            path[++depth] = n;
            trie->depth[n] = (uint16_t)depth;
            trie->first[n] = i;
        }
        trie->tokens[i] = list[i].id;
    }
    for (; depth >= 0; depth--) {
        trie->end[path[depth]] = n;
    }
    trie->first[n] = trie->count;
    trie->nodes = n;
    /* A node's own tokens are before those below it: first[n + 1] is that of the node behind it. */
}

static void mark_plain(token_trie *trie, const entry *list, const int32_t *parent) {
    memset(trie->plain, 0, (size_t)trie->nodes);
    for (int32_t n = trie->nodes - 1; n >= 0; n--) {
        for (int32_t i = trie->first[n]; i < trie->first[n + 1]; i++) {
            const int length = plain_length(&list[i]);
            trie->plain[n] = length > trie->plain[n] ? (uint8_t)length : trie->plain[n];
            for (int k = length; k <= TRIE_LENGTHS; k++) {
                trie->up_to[(size_t)k * trie->words + (size_t)list[i].id / 32] |= 1u << (list[i].id % 32);
            }
            if (length != TRIE_NOT_PLAIN) {
                trie->up_to[(size_t)TRIE_LENGTHS * trie->words + (size_t)list[i].id / 32] |= 1u << (list[i].id % 32);
            }
        }
        if (n > 0 && trie->plain[n] > trie->plain[parent[n]]) {
            trie->plain[parent[n]] = trie->plain[n];
        }
    }
}

static omni_status find_ends(const tokenizer *t, int64_t vocabulary, token_trie *trie, omni_error *err) {
    for (int pass = 0; pass < 2; pass++) {
        trie->end_count = 0;
        for (int32_t id = 0; id < (int64_t)tokenizer_size(t) && id < vocabulary; id++) {
            if (tokenizer_is_end(t, id)) {
                if (pass == 1) {
                    trie->ends[trie->end_count] = id;
                }
                trie->end_count++;
            }
        }
        if (pass == 0 && !(trie->ends = calloc((size_t)trie->end_count + 1, sizeof *trie->ends))) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for the vocabulary");
        }
    }
    return OMNI_OK;
}

omni_status token_trie_create(const tokenizer *t, int64_t vocabulary, token_trie **out, omni_error *err) {
    const size_t known = tokenizer_size(t);
    token_trie *trie = calloc(1, sizeof *trie);
    entry *list = calloc(known + 1, sizeof *list);
    uint8_t *added = malloc((known + 1) * GRAMMAR_TOKEN_BYTES);
    int32_t *parent = NULL;
    *out = NULL;
    omni_status status = trie && list && added ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the vocabulary");
    if (status == OMNI_OK) {
        trie->count = collect(t, vocabulary, list, added);
        trie->vocabulary = (int32_t)vocabulary;
        trie->words = ((size_t)vocabulary + 31) / 32;
        size_t nodes = 1;
        for (int32_t i = 0; i < trie->count; i++) {
            nodes += (size_t)(list[i].size - (i > 0 ? common(&list[i - 1], &list[i]) : 0));
        }
        trie->byte = malloc(nodes);
        trie->depth = malloc(nodes * sizeof *trie->depth);
        trie->end = malloc(nodes * sizeof *trie->end);
        trie->plain = malloc(nodes);
        trie->first = malloc((nodes + 1) * sizeof *trie->first);
        trie->tokens = malloc(((size_t)trie->count + 1) * sizeof *trie->tokens);
        trie->up_to = calloc((TRIE_LENGTHS + 1) * trie->words + 1, sizeof *trie->up_to);
        parent = malloc(nodes * sizeof *parent);
        status = trie->byte && trie->depth && trie->end && trie->plain && trie->first && trie->tokens && trie->up_to && parent
                     ? OMNI_OK
                     : fail(err, OMNI_ERR_MEMORY, "out of memory for the vocabulary");
    }
    if (status == OMNI_OK) {
        lay_out(trie, list, parent);
        mark_plain(trie, list, parent);
        status = find_ends(t, vocabulary, trie, err);
    }
    free(list);
    free(added);
    free(parent);
    if (status != OMNI_OK) {
        token_trie_free(trie);
        return status;
    }
    *out = trie;
    return OMNI_OK;
}

void token_trie_free(token_trie *trie) {
    if (trie) {
        void *const all[] = {trie->byte, trie->depth, trie->end, trie->plain, trie->first, trie->tokens, trie->up_to, trie->ends};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            free(all[i]);
        }
        free(trie);
    }
}
