/* The prefix cache: what it finds is what was read, and as much of it as there is; owners, eviction, blocks used in part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "engine/prefix_cache.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

static backend *b;
static omni_error err;
static const content_hash PICTURE = {{1}}, OTHER_PICTURE = {{2}};

static int set_up(void **state) {
    return cpu_backend_create(1, &b, &err);
}

static int tear_down(void **state) {
    cpu_backend_destroy(b);
    return 0;
}

static void must(omni_status s) {
    assert_int_equal(s, OMNI_OK);
}

static kv_pool *make_pool(int64_t blocks) {
    kv_pool *p;
    must(kv_pool_create(b, DTYPE_F32, DTYPE_F32, 1, 1, 2, blocks * KV_BLOCK, &p, &err));
    return p;
}

static prompt_row row(int32_t id, int64_t position) {
    return (prompt_row){.id = id, .media = -1, .position = {(float)position, (float)position, (float)position}};
}

/* A sequence that has read n rows, ids[i] at position i, with what the cache already had; *found: how many those were. */
static kv_seq read_rows(kv_pool *p, prefix_cache *c, const char *owner, const prompt_row *rows, int64_t n, prefix_chain *chain, int64_t *found) {
    kv_seq s;
    int32_t blocks[64];
    must(prefix_chain_init(c, owner, chain, &err));
    must(prefix_chain_add(chain, rows, n, &PICTURE, &err));
    must(kv_seq_init(p, 64 * KV_BLOCK, &s, &err));
    *found = prefix_cache_find(c, chain, n, blocks);
    kv_seq_adopt(&s, blocks, *found);
    assert_true(prefix_cache_make_room(c, (n + KV_BLOCK - 1) / KV_BLOCK - *found / KV_BLOCK));
    must(kv_seq_extend(&s, n - *found, NULL, &err));
    return s;
}

static int64_t found_after(kv_pool *p, prefix_cache *c, const char *owner, const prompt_row *rows, int64_t n) {
    prefix_chain chain;
    int64_t found;
    kv_seq s = read_rows(p, c, owner, rows, n, &chain, &found);
    kv_seq_release(&s);
    prefix_chain_free(&chain);
    return found;
}

static void test_finds_what_was_read(void **state) {
    kv_pool *p = make_pool(20);
    prefix_cache *c;
    must(prefix_cache_create(p, &c, &err));
    prompt_row rows[300];
    for (int i = 0; i < 300; i++) {
        rows[i] = row(i % 7, i);
    }
    prefix_chain chain;
    int64_t found;
    kv_seq s = read_rows(p, c, "ann", rows, 200, &chain, &found);
    assert_int_equal(found, 0);
    assert_int_equal(found_after(p, c, "ann", rows, 200), 0); /* nothing was added */
    prefix_cache_add(c, &chain, &s);
    assert_int_equal(found_after(p, c, "ann", rows, 200), 192); /* while its sequence still lives */
    prefix_cache_add_all(c, &chain, &s);
    kv_seq_release(&s);
    assert_int_equal(found_after(p, c, "ann", rows, 200), 200);
    assert_int_equal(found_after(p, c, "ann", rows, 300), 200);
    assert_int_equal(found_after(p, c, "ann", rows, 100), 100); /* within a block that goes on otherwise */
    assert_int_equal(found_after(p, c, "ann", rows, 64), 64);
    assert_int_equal(found_after(p, c, "ann", rows, 1), 1);
    assert_int_equal(found_after(p, c, "bob", rows, 200), 0);
    assert_int_equal(found_after(p, c, NULL, rows, 200), 0);
    assert_int_equal(found_after(p, c, "an", rows, 200), 0);

    prompt_row changed[200];
    memcpy(changed, rows, sizeof changed);
    changed[70].id++;
    assert_int_equal(found_after(p, c, "ann", changed, 200), 70);
    changed[70] = rows[70];
    changed[3].position[1] += 1;
    assert_int_equal(found_after(p, c, "ann", changed, 200), 3);
    changed[3] = rows[3];
    changed[0].class = ROW_AUDIO;
    assert_int_equal(found_after(p, c, "ann", changed, 200), 0);

    const prefix_counters n = prefix_cache_counters(c);
    assert_int_equal(n.lookups, 14);
    assert_int_equal(n.hits, 8);
    assert_int_equal(n.rows_found, 192 + 200 + 200 + 100 + 64 + 1 + 70 + 3);
    prefix_chain_free(&chain);
    prefix_cache_destroy(c);
    assert_int_equal(kv_pool_free(p), 20);
    kv_pool_destroy(p);
}

/* Rows of media are the same when their content and their number in it are, whatever number the medium has in its conversation. */
static void test_media(void **state) {
    kv_pool *p = make_pool(8);
    prefix_cache *c;
    must(prefix_cache_create(p, &c, &err));
    prompt_row rows[KV_BLOCK];
    for (int i = 0; i < KV_BLOCK; i++) {
        rows[i] = row(99, i);
        rows[i].class = ROW_IMAGE;
        rows[i].media = 0;
        rows[i].media_row = i;
    }
    prefix_chain chains[4];
    const content_hash media[2] = {OTHER_PICTURE, PICTURE};
    for (int k = 0; k < 4; k++) {
        must(prefix_chain_init(c, NULL, &chains[k], &err));
    }
    must(prefix_chain_add(&chains[0], rows, KV_BLOCK, &PICTURE, &err));
    must(prefix_chain_add(&chains[1], rows, KV_BLOCK, &OTHER_PICTURE, &err));
    rows[5].media_row = 4;
    must(prefix_chain_add(&chains[2], rows, KV_BLOCK, &PICTURE, &err));
    rows[5].media_row = 5;
    for (int i = 0; i < KV_BLOCK; i++) {
        rows[i].media = 1;
    }
    must(prefix_chain_add(&chains[3], rows, KV_BLOCK, media, &err));
    assert_memory_not_equal(&chains[0].blocks[0], &chains[1].blocks[0], sizeof(content_hash));
    assert_memory_not_equal(&chains[0].blocks[0], &chains[2].blocks[0], sizeof(content_hash));
    assert_memory_equal(&chains[0].blocks[0], &chains[3].blocks[0], sizeof(content_hash));
    for (int k = 0; k < 4; k++) {
        prefix_chain_free(&chains[k]);
    }
    prefix_cache_destroy(c);
    kv_pool_destroy(p);
}

static void test_eviction(void **state) {
    kv_pool *p = make_pool(6);
    prefix_cache *c;
    must(prefix_cache_create(p, &c, &err));
    prompt_row a[3 * KV_BLOCK], z[3 * KV_BLOCK];
    for (int i = 0; i < 3 * KV_BLOCK; i++) {
        a[i] = row(1, i);
        z[i] = row(2, i);
    }
    prefix_chain chain;
    int64_t found;
    kv_seq s = read_rows(p, c, NULL, a, 3 * KV_BLOCK, &chain, &found);
    prefix_cache_add_all(c, &chain, &s);
    kv_seq_release(&s);
    prefix_chain_free(&chain);
    kv_seq held = read_rows(p, c, NULL, z, 3 * KV_BLOCK, &chain, &found);
    prefix_cache_add_all(c, &chain, &held);
    prefix_chain_free(&chain);
    assert_int_equal(kv_pool_free(p), 0);
    assert_int_equal(prefix_cache_idle(c), 3);
    assert_true(prefix_cache_make_room(c, 0));
    assert_int_equal(kv_pool_free(p), 0);
    assert_true(prefix_cache_make_room(c, 1)); /* the end of the chain goes before its beginning */
    assert_int_equal(kv_pool_free(p), 1);
    assert_int_equal(found_after(p, c, NULL, a, 2 * KV_BLOCK), 2 * KV_BLOCK);
    assert_false(prefix_cache_make_room(c, 4)); /* what a sequence holds stays */
    assert_int_equal(kv_pool_free(p), 3);
    assert_int_equal(found_after(p, c, NULL, z, 3 * KV_BLOCK), 3 * KV_BLOCK);
    assert_int_equal(prefix_cache_counters(c).blocks_evicted, 3);
    kv_seq_release(&held);
    assert_int_equal(prefix_cache_idle(c), 3);
    prefix_cache_clear(c);
    assert_int_equal(kv_pool_free(p), 6);
    prefix_cache_destroy(c);
    kv_pool_destroy(p);
}

/* Many random sequences with common beginnings in a small pool. What each block holds is kept beside it: what is found must be what was read. While
 * nothing has been given back, it must also be the longest beginning that any earlier sequence had. */
static void test_random(void **state) {
    enum { BLOCKS = 24, MOST = 5 * KV_BLOCK, READ = 400 };
    static int32_t held[BLOCKS][KV_BLOCK], read[READ][MOST];
    static int64_t lengths[READ];
    uint32_t seed = 7;
#define RANDOM(n) ((seed = seed * 1664525u + 1013904223u) >> 8) % (uint32_t)(n)
    for (int round = 0; round < 20; round++) {
        kv_pool *p = make_pool(BLOCKS);
        prefix_cache *c;
        must(prefix_cache_create(p, &c, &err));
        int64_t reads = 0;
        for (int k = 0; k < READ / 20; k++, reads++) {
            int32_t *ids = read[reads];
            int64_t n = 1 + RANDOM(MOST), shared = 0;
            if (reads > 0 && RANDOM(4)) {
                const int64_t from = RANDOM(reads);
                shared = RANDOM(lengths[from] + 1);
                shared = shared < n ? shared : n;
                memcpy(ids, read[from], (size_t)shared * sizeof *ids);
            }
            for (int64_t i = shared; i < n; i++) {
                ids[i] = (int32_t)(RANDOM(3));
            }
            lengths[reads] = n;
            prompt_row rows[MOST];
            for (int64_t i = 0; i < n; i++) {
                rows[i] = row(ids[i], i);
            }
            int64_t best = 0, found;
            for (int64_t r = 0; r < reads; r++) {
                int64_t same = 0;
                while (same < n && same < lengths[r] && read[r][same] == ids[same]) {
                    same++;
                }
                best = same > best ? same : best;
            }
            prefix_chain chain;
            const uint64_t evicted = prefix_cache_counters(c).blocks_evicted;
            int32_t blocks[MOST / KV_BLOCK + 1];
            must(prefix_chain_init(c, "x", &chain, &err));
            for (int64_t i = 0, some; i < n; i += some) { /* in pieces of any size */
                some = 1 + RANDOM(n - i);
                must(prefix_chain_add(&chain, rows + i, some, NULL, &err));
            }
            kv_seq s;
            must(kv_seq_init(p, MOST, &s, &err));
            found = prefix_cache_find(c, &chain, n, blocks);
            if (evicted == 0) {
                assert_int_equal(found, best);
            }
            assert_true(found <= best);
            for (int64_t i = 0; i < found; i++) {
                assert_int_equal(held[blocks[i / KV_BLOCK]][i % KV_BLOCK], ids[i]);
            }
            kv_seq_adopt(&s, blocks, found);
            assert_true(prefix_cache_make_room(c, MOST / KV_BLOCK + 1));
            if (found % KV_BLOCK) { /* as the pool copies a shared block */
                int32_t before = s.blocks[found / KV_BLOCK];
                must(kv_seq_extend(&s, n - found, NULL, &err));
                memcpy(held[s.blocks[found / KV_BLOCK]], held[before], sizeof *held);
            } else {
                must(kv_seq_extend(&s, n - found, NULL, &err));
            }
            for (int64_t i = found; i < n; i++) {
                held[s.blocks[i / KV_BLOCK]][i % KV_BLOCK] = ids[i];
            }
            prefix_cache_add_all(c, &chain, &s);
            kv_seq_release(&s);
            prefix_chain_free(&chain);
        }
        assert_true(round > 0 || prefix_cache_counters(c).blocks_evicted > 0);
        prefix_cache_destroy(c);
        assert_int_equal(kv_pool_free(p), BLOCKS);
        kv_pool_destroy(p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_what_was_read),
        cmocka_unit_test(test_media),
        cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
