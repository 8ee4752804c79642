/* Byte-pair merging: pieces of text looked up by their bytes, and pairs of pieces merged by rank.
 * Filled once (bpe_init, bpe_add_piece ..., bpe_add_merge ...), then read only: bpe_encode may run in any number of threads. */
#ifndef OMNI_TEXT_BPE_H
#define OMNI_TEXT_BPE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A pair of ids that merge into one; rank is the merge's place in the list, the lowest goes first. */
typedef struct bpe_merge {
    uint32_t left, right, rank, id;
} bpe_merge;

typedef struct bpe {
    /* The vocabulary's bytes: piece id is bytes[offset[id] .. offset[id + 1]). Borrowed. */
    const char *bytes;
    const uint32_t *offset;
    size_t pieces;
    /* Hash tables with open addressing; sizes are powers of two. The key is another one each time: a file whose pieces were made to meet in
     * one slot would keep the program busy for hours. */
    uint64_t key;
    uint32_t *piece_slot; /* id, or UINT32_MAX */
    size_t piece_mask;
    bpe_merge *merge_slot; /* rank UINT32_MAX: empty */
    size_t merge_mask;
    size_t ranks;         /* all ranks are below */
    int32_t byte_id[256]; /* id of each single byte, -1 while unknown */
    /* Rank of the merge of two single bytes, [first * 256 + second], UINT32_MAX for none: every piece starts from these. */
    uint32_t *byte_rank;
    /* What merging the bytes of a piece gives: 0 not known yet, 1 the piece itself, 2 something else. Found out on first use. */
    _Atomic uint8_t *whole;
} bpe;

omni_status bpe_init(bpe *b, const char *bytes, const uint32_t *offset, size_t pieces, size_t merges, omni_error *err);
void bpe_free(bpe *b);
/* Of several pieces with the same bytes the first one counts. */
void bpe_add_piece(bpe *b, uint32_t id);
/* After all pieces. Of several merges of the same pair the last one counts, as in the reference. */
void bpe_add_merge(bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* Id of the piece with exactly these bytes, or -1. */
int32_t bpe_find(const bpe *b, const char *s, size_t n);

/* A symbol of a long piece: its id, the rank of the pair it starts, and its neighbours' indices (UINT32_MAX: none). */
typedef struct bpe_symbol {
    int32_t id;
    uint32_t rank, next, prior;
} bpe_symbol;

/* Working memory of one thread; {0} is an empty one. Grows to 44 bytes for each byte of the longest piece. */
typedef struct bpe_scratch {
    int32_t *ids;
    uint32_t *rank;
    size_t room;
    bpe_symbol *symbols;
    uint64_t *queue, *heap;
    size_t long_room;
} bpe_scratch;
void bpe_scratch_free(bpe_scratch *s);

/* Ids of the n > 0 bytes of one pretoken, merged: *ids points into the scratch and holds *count of them until its next use. */
omni_status bpe_encode(const bpe *b, bpe_scratch *scratch, const char *s, size_t n, const int32_t **ids, size_t *count, omni_error *err);

#endif
