/* Key/value blocks: taking and giving back, shared prefixes, the copy before a write, and a full pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "model/kv_blocks.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { LAYERS = 3, HEADS = 2, DIM = 4 };

static backend *b;
static omni_error err;

static int set_up(void **state) {
    return cpu_backend_create(1, &b, &err);
}

static int tear_down(void **state) {
    cpu_backend_destroy(b);
    return 0;
}

static kv_pool *make(dtype type, int64_t positions) {
    kv_pool *p;
    assert_int_equal(kv_pool_create(b, type, type, LAYERS, HEADS, DIM, positions, &p, &err), OMNI_OK);
    return p;
}

static void grow_and_release(void **state) {
    kv_pool *p = make(DTYPE_F32, 200); /* four blocks */
    assert_int_equal(kv_pool_free(p), 4);
    kv_seq s;
    int32_t slots[200];
    assert_int_equal(kv_seq_init(p, 200, &s, &err), OMNI_OK);
    assert_int_equal(kv_seq_extend(&s, 1, slots, &err), OMNI_OK);
    assert_int_equal(kv_seq_extend(&s, 64, slots + 1, &err), OMNI_OK);
    assert_int_equal(s.length, 65);
    assert_int_equal(s.block_count, 2);
    assert_int_equal(kv_pool_free(p), 2);
    for (int i = 0; i < 65; i++) {
        assert_int_equal(slots[i], s.blocks[i / KV_BLOCK] * KV_BLOCK + i % KV_BLOCK);
        assert_int_equal(slots[i], kv_seq_slot(&s, i));
    }
    kv_seq_truncate(&s, 64);
    assert_int_equal(kv_pool_free(p), 3);
    kv_seq_truncate(&s, 100); /* longer than it is: nothing */
    assert_int_equal(s.length, 64);
    assert_int_equal(kv_seq_extend(&s, 136, NULL, &err), OMNI_OK);
    assert_int_equal(kv_pool_free(p), 0);
    kv_seq_release(&s);
    assert_int_equal(kv_pool_free(p), 4);
    kv_seq_release(&s); /* again: nothing */
    kv_pool_destroy(p);
}

static void full(void **state) {
    kv_pool *p = make(DTYPE_F32, 128);
    kv_seq s, other;
    assert_int_equal(kv_seq_init(p, 1000, &s, &err), OMNI_OK);
    assert_int_equal(kv_seq_init(p, 64, &other, &err), OMNI_OK);
    assert_int_equal(kv_seq_extend(&s, 70, NULL, &err), OMNI_OK);
    assert_int_equal(kv_seq_extend(&s, 59, NULL, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "59"));
    assert_int_equal(s.length, 70);
    assert_int_equal(kv_seq_extend(&other, 1, NULL, &err), OMNI_ERR_LIMIT);
    assert_int_equal(kv_seq_extend(&s, 58, NULL, &err), OMNI_OK);
    kv_seq_release(&s);
    assert_int_equal(kv_seq_extend(&other, 65, NULL, &err), OMNI_ERR_LIMIT); /* its own table is full */
    assert_int_equal(kv_seq_extend(&other, 64, NULL, &err), OMNI_OK);
    kv_seq_release(&other);
    kv_pool_destroy(p);
}

/* Writes value + dimension at one position of every layer. */
static void put(kv_pool *p, int32_t slot, float value) {
    float k[HEADS * DIM], v[HEADS * DIM];
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int i = 0; i < HEADS * DIM; i++) {
            k[i] = value + (float)(layer * 100 + i);
            v[i] = -k[i];
        }
        b->ops->kv_write(b, kv_pool_cache(p), layer, &slot, k, v, 1);
    }
}

static float element(kv_pool *p, int layer, int32_t slot, int head, int dim, bool value) {
    const kv_cache *c = kv_pool_cache(p);
    int64_t at = ((((int64_t)layer * c->blocks + slot / KV_BLOCK) * HEADS + head) * KV_BLOCK + slot % KV_BLOCK) * DIM + dim;
    const void *x = value ? c->v : c->k;
    return c->k_type == DTYPE_F16 ? f16_to_f32(((const uint16_t *)x)[at]) : ((const float *)x)[at];
}

static void check(kv_pool *p, int32_t slot, float value) {
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int i = 0; i < HEADS * DIM; i++) {
            assert_float_equal(element(p, layer, slot, i / DIM, i % DIM, false), value + (float)(layer * 100 + i), 0);
            assert_float_equal(element(p, layer, slot, i / DIM, i % DIM, true), -(value + (float)(layer * 100 + i)), 0);
        }
    }
}

static void share(dtype type) {
    kv_pool *p = make(type, 5 * KV_BLOCK);
    kv_seq a, c;
    int32_t slot;
    assert_int_equal(kv_seq_init(p, 128, &a, &err), OMNI_OK);
    for (int i = 0; i < 70; i++) {
        assert_int_equal(kv_seq_extend(&a, 1, &slot, &err), OMNI_OK);
        put(p, slot, (float)i);
    }
    assert_int_equal(kv_seq_fork(&a, 67, 128, &c, &err), OMNI_OK);
    assert_int_equal(kv_pool_free(p), 3); /* nothing taken yet */
    assert_int_equal(c.blocks[1], a.blocks[1]);
    assert_int_equal(kv_seq_extend(&c, 1, &slot, &err), OMNI_OK);
    put(p, slot, 500);
    assert_int_equal(c.blocks[0], a.blocks[0]); /* the full block stays shared */
    assert_int_not_equal(c.blocks[1], a.blocks[1]);
    assert_int_equal(kv_pool_free(p), 2);
    for (int i = 0; i < 67; i++) {
        check(p, kv_seq_slot(&c, i), (float)i);
    }
    check(p, kv_seq_slot(&c, 67), 500);
    check(p, kv_seq_slot(&a, 67), 67);
    /* The first one holds its block alone again: no copy. */
    int32_t own = a.blocks[1];
    assert_int_equal(kv_seq_extend(&a, 1, &slot, &err), OMNI_OK);
    assert_int_equal(a.blocks[1], own);
    kv_seq_release(&a);
    assert_int_equal(kv_pool_free(p), 3);
    check(p, kv_seq_slot(&c, 3), 3); /* the shared block outlives its first owner */
    kv_seq d;
    assert_int_equal(kv_seq_fork(&c, 64, 128, &d, &err), OMNI_OK); /* whole blocks: nothing to copy */
    assert_int_equal(kv_seq_extend(&d, 1, &slot, &err), OMNI_OK);
    assert_int_equal(d.blocks[0], c.blocks[0]);
    assert_int_equal(kv_pool_free(p), 2);
    assert_int_equal(kv_seq_fork(&c, 69, 128, &a, &err), OMNI_ERR_ARGUMENT);
    kv_seq_release(&c);
    kv_seq_release(&d);
    assert_int_equal(kv_pool_free(p), 5);
    kv_pool_destroy(p);
}

static void shared_f32(void **state) {
    share(DTYPE_F32);
}

static void shared_f16(void **state) {
    share(DTYPE_F16);
}

/* Copying a shared block needs a free one; without, the sequence stays as it was. */
static void full_when_copying(void **state) {
    kv_pool *p = make(DTYPE_F32, KV_BLOCK);
    kv_seq a, c;
    assert_int_equal(kv_seq_init(p, 64, &a, &err), OMNI_OK);
    assert_int_equal(kv_seq_extend(&a, 10, NULL, &err), OMNI_OK);
    assert_int_equal(kv_seq_fork(&a, 10, 64, &c, &err), OMNI_OK);
    assert_int_equal(kv_seq_extend(&c, 1, NULL, &err), OMNI_ERR_LIMIT);
    assert_int_equal(c.length, 10);
    kv_seq_release(&a);
    assert_int_equal(kv_seq_extend(&c, 1, NULL, &err), OMNI_OK);
    kv_seq_release(&c);
    kv_pool_destroy(p);
}

static void refused(void **state) {
    kv_pool *p;
    assert_int_equal(kv_pool_create(b, DTYPE_Q8_0, DTYPE_Q8_0, LAYERS, HEADS, DIM, 64, &p, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(kv_pool_create(b, DTYPE_F32, DTYPE_F32, LAYERS, HEADS, DIM, 0, &p, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(kv_pool_create(b, DTYPE_F32, DTYPE_F32, LAYERS, HEADS, DIM, INT64_MAX, &p, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(kv_memory(b, DTYPE_F32, 1 << 20, 1 << 20, 1 << 20, 1 << 30), SIZE_MAX);
    assert_int_equal(kv_memory(b, DTYPE_F16, 2, 3, 4, 65), (size_t)2 * 2 * 3 * 4 * 128 * 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(grow_and_release), cmocka_unit_test(full),    cmocka_unit_test(shared_f32),
                                       cmocka_unit_test(shared_f16),       cmocka_unit_test(refused), cmocka_unit_test(full_when_copying)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
