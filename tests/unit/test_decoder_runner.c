/* Sequences stepped together give what each gives alone: the same tokens and the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "engine/decoder_runner.h"
#include "model/thinker.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { SEQUENCES = 20, STEPS = 12, LONGEST = 150, CONTEXT = LONGEST + STEPS };

static backend *b;
static gguf *g;
static thinker *t;
static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    must(cpu_backend_create(3, &b, &err));
    must(gguf_open(TEST_DATA "/decoder.gguf", &g, &err));
    must(thinker_open(b, g, false, &t, &err));
    return 0;
}

static int tear_down(void **state) {
    thinker_close(t);
    gguf_close(g);
    cpu_backend_destroy(b);
    return 0;
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

typedef struct conversation {
    decoder_row prompt[LONGEST];
    int64_t length;
    float position[3]; /* of its last row */
    int32_t tokens[STEPS];
    float *logits; /* [STEPS, vocab] */
    int made;
    kv_seq seq;
} conversation;

/* Lengths around block and pass sizes, positions that are not whole numbers. */
static conversation *make_conversations(void) {
    static const int lengths[SEQUENCES] = {1, 2, 3, 7, 15, 16, 17, 31, 33, 62, 63, 64, 65, 66, 90, 127, 128, 129, 149, LONGEST};
    conversation *all = calloc(SEQUENCES, sizeof *all);
    assert_non_null(all);
    uint32_t random = 7;
    for (int s = 0; s < SEQUENCES; s++) {
        conversation *c = &all[s];
        c->length = lengths[s];
        c->logits = calloc((size_t)(STEPS * t->config.vocab), sizeof *c->logits);
        assert_non_null(c->logits);
        for (int64_t i = 0; i < c->length; i++) {
            c->prompt[i].token = (int32_t)(next_random(&random) % (uint32_t)t->config.vocab);
            for (int axis = 0; axis < 3; axis++) {
                c->prompt[i].position[axis] = (float)i + (float)(s % 3) / 3;
            }
        }
        memcpy(c->position, c->prompt[c->length - 1].position, sizeof c->position);
    }
    return all;
}

static void free_conversations(conversation *all) {
    for (int s = 0; s < SEQUENCES; s++) {
        kv_seq_release(&all[s].seq);
        free(all[s].logits);
    }
    free(all);
}

static void take_result(conversation *c, decoder_runner *x, int64_t result) {
    int64_t vocab = t->config.vocab;
    const float *logits = decoder_logits(decoder_runner_decoder(x)) + result * vocab;
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    memcpy(c->logits + c->made * vocab, logits, (size_t)vocab * sizeof *logits);
    c->tokens[c->made++] = best;
}

static const runner_options with_logits = {.logits = true};

static void alone(conversation *c, decoder_runner *x, kv_pool *kv) {
    must(kv_seq_init(kv, CONTEXT, &c->seq, &err));
    must(decoder_runner_run(x, &(runner_input){.seq = &c->seq, .rows = c->prompt, .n = c->length, .outputs = 1}, 1, &with_logits, &err));
    take_result(c, x, 0);
    while (c->made < STEPS) {
        decoder_row row = thinker_next_row(c->tokens[c->made - 1], c->position);
        must(decoder_runner_run(x, &(runner_input){.seq = &c->seq, .rows = &row, .n = 1, .outputs = 1}, 1, &with_logits, &err));
        take_result(c, x, 0);
    }
    kv_seq_release(&c->seq);
}

/* Each call brings two more conversations: their prompts share passes with the steps of those that came before. */
static void together(conversation *all, decoder_runner *x, kv_pool *kv) {
    int started = 0;
    for (bool busy = true; busy;) {
        runner_input inputs[SEQUENCES];
        conversation *who[SEQUENCES];
        decoder_row rows[SEQUENCES];
        int64_t n = 0;
        for (int s = 0; s < started; s++) {
            conversation *c = &all[s];
            if (c->made < STEPS) {
                rows[n] = thinker_next_row(c->tokens[c->made - 1], c->position);
                inputs[n] = (runner_input){.seq = &c->seq, .rows = &rows[n], .n = 1, .outputs = 1};
                who[n++] = c;
            }
        }
        for (int i = 0; i < 2 && started < SEQUENCES; i++, started++) {
            conversation *c = &all[started];
            must(kv_seq_init(kv, CONTEXT, &c->seq, &err));
            inputs[n] = (runner_input){.seq = &c->seq, .rows = c->prompt, .n = c->length, .outputs = 1};
            who[n++] = c;
        }
        if (n > 0) {
            must(decoder_runner_run(x, inputs, n, &with_logits, &err));
        }
        for (int64_t i = 0; i < n; i++) {
            take_result(who[i], x, i);
        }
        busy = n > 0;
    }
}

static void compare(dtype type, int64_t rows, int64_t table) {
    conversation *one = make_conversations(), *many = make_conversations();
    kv_pool *kv;
    decoder_runner *x;
    must(kv_pool_create(b, type, type, t->config.layers, t->config.kv_heads, t->config.head_dim, SEQUENCES * 3 * KV_BLOCK, &kv, &err));
    must(decoder_runner_create(b, &t->config, &t->weights, kv, 512, SEQUENCES, SEQUENCES * 4, &x, &err));
    for (int s = 0; s < SEQUENCES; s++) {
        alone(&one[s], x, kv);
    }
    decoder_runner_destroy(x);
    must(decoder_runner_create(b, &t->config, &t->weights, kv, rows, SEQUENCES, table, &x, &err));
    together(many, x, kv);
    for (int s = 0; s < SEQUENCES; s++) {
        assert_int_equal(many[s].made, STEPS);
        assert_memory_equal(one[s].tokens, many[s].tokens, sizeof one[s].tokens);
        assert_memory_equal(one[s].logits, many[s].logits, (size_t)(STEPS * t->config.vocab) * sizeof(float));
    }
    decoder_runner_destroy(x);
    free_conversations(one);
    free_conversations(many);
    assert_int_equal(kv_pool_free(kv), SEQUENCES * 3);
    kv_pool_destroy(kv);
}

static void twenty_together(void **state) {
    compare(DTYPE_F32, 512, SEQUENCES * 4);
}

static void small_passes(void **state) {
    compare(DTYPE_F32, 37, 5); /* passes end because of rows and because of the table */
}

static void half_precision_cache(void **state) {
    compare(DTYPE_F16, 100, SEQUENCES * 4);
}

/* A sequence that shares a computed prefix goes on as if it had computed it. */
static void shared_prefix(void **state) {
    conversation *all = make_conversations();
    conversation *c = &all[SEQUENCES - 1], *fork = &all[0];
    kv_pool *kv;
    decoder_runner *x;
    must(kv_pool_create(b, DTYPE_F32, DTYPE_F32, t->config.layers, t->config.kv_heads, t->config.head_dim, 8 * KV_BLOCK, &kv, &err));
    must(decoder_runner_create(b, &t->config, &t->weights, kv, 64, 2, 16, &x, &err));
    int64_t kept = 100;
    must(kv_seq_init(kv, CONTEXT, &c->seq, &err));
    must(decoder_runner_run(x, &(runner_input){.seq = &c->seq, .rows = c->prompt, .n = c->length, .outputs = 1}, 1, &with_logits, &err));
    take_result(c, x, 0);
    must(kv_seq_fork(&c->seq, kept, CONTEXT, &fork->seq, &err));
    runner_input rest = {.seq = &fork->seq, .rows = c->prompt + kept, .n = c->length - kept, .outputs = 1};
    must(decoder_runner_run(x, &rest, 1, &with_logits, &err));
    take_result(fork, x, 0);
    assert_memory_equal(c->logits, fork->logits, (size_t)t->config.vocab * sizeof(float));
    free_conversations(all);
    decoder_runner_destroy(x);
    kv_pool_destroy(kv);
}

static bool stop_at_second(void *arg, int64_t done, int64_t total) {
    int *calls = arg;
    assert_true(done < total);
    return ++*calls < 2;
}

static void failures_change_nothing(void **state) {
    conversation *all = make_conversations();
    kv_pool *kv;
    decoder_runner *x;
    must(kv_pool_create(b, DTYPE_F32, DTYPE_F32, t->config.layers, t->config.kv_heads, t->config.head_dim, 3 * KV_BLOCK, &kv, &err));
    must(decoder_runner_create(b, &t->config, &t->weights, kv, 40, 2, 16, &x, &err));
    conversation *a = &all[SEQUENCES - 1], *c = &all[15];
    must(kv_seq_init(kv, CONTEXT, &a->seq, &err));
    must(kv_seq_init(kv, CONTEXT, &c->seq, &err));
    runner_input both[] = {{.seq = &c->seq, .rows = c->prompt, .n = c->length, .outputs = 1},
                           {.seq = &a->seq, .rows = a->prompt, .n = a->length, .outputs = 1}};
    assert_int_equal(decoder_runner_run(x, both, 2, &with_logits, &err), OMNI_ERR_LIMIT); /* the pool holds one of them */
    assert_int_equal(a->seq.length + c->seq.length, 0);
    assert_int_equal(kv_pool_free(kv), 3);
    const runner_input twice[] = {{.seq = &c->seq, .rows = c->prompt, .n = 2}, {.seq = &c->seq, .rows = c->prompt + 2, .n = 1, .outputs = 1}};
    assert_int_equal(decoder_runner_run(x, twice, 2, &with_logits, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(c->seq.length, 0);
    int calls = 0;
    runner_options stops = {.logits = true, .progress = stop_at_second, .arg = &calls};
    assert_int_equal(decoder_runner_run(x, both, 1, &stops, &err), OMNI_CANCELLED);
    assert_int_equal(calls, 2);
    assert_int_equal(c->seq.length, 0);
    c->prompt[100].token = 1 << 20;
    assert_int_equal(decoder_runner_run(x, both, 1, &with_logits, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(kv_pool_free(kv), 3);
    both[0].outputs = 3;
    assert_int_equal(decoder_runner_run(x, both, 1, &with_logits, &err), OMNI_ERR_LIMIT);
    free_conversations(all);
    decoder_runner_destroy(x);
    kv_pool_destroy(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(twenty_together), cmocka_unit_test(small_passes), cmocka_unit_test(half_precision_cache),
                                       cmocka_unit_test(shared_prefix), cmocka_unit_test(failures_change_nothing)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
