/* The code above tensor/ops.h on a backend that queues and whose memory is out of the host's reach (queueing_backend.h): whole conversations give the
 * bits that they give on the CPU backend; and that backend does notice what it is there for. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "dialogue.h"
#include "engine/engine.h"
#include "model/talker_model.h"
#include "queueing_backend.h"
#include "tensor/fused.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

/* ---- conversations ---- */

static omni_model *open_on(backend *b) {
    omni_model *m;
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    must(model_open_on(b, &p, &m, &err));
    return m;
}

typedef struct heard {
    char text[4096];
    size_t text_size;
    float *samples;
    size_t count;
} heard;

static bool take_text(void *arg, const char *text, size_t size) {
    heard *h = arg;
    assert_true(h->text_size + size < sizeof h->text);
    memcpy(h->text + h->text_size, text, size);
    h->text_size += size;
    return true;
}

static bool take_audio(void *arg, const float *samples, size_t count) {
    heard *h = arg;
    h->samples = realloc(h->samples, (h->count + count) * sizeof *samples);
    assert_non_null(h->samples);
    memcpy(h->samples + h->count, samples, count * sizeof *samples);
    h->count += count;
    return true;
}

static bool mask(void *arg, const int32_t *answer, size_t count, uint32_t *allowed) {
    allowed[count % 4] &= 0xfff0ffff;
    return true;
}

/* Two turns, the second from the cache; what both gave. */
static heard converse(omni_model *m, bool greedy, int rows) {
    heard h = {0};
    dialogue *s;
    dialogue_params sp = dialogue_params_default();
    dialogue_set_context(&sp, 2048);
    sp.engine.batch = rows;
    must(dialogue_create(m, &sp, &s, &err));
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = greedy;
    p.seed = 7;
    const omni_logit_bias bias[] = {{5, 1}, {9, -1}};
    if (!greedy) { /* everything that sampling reads of the backend's memory */
        p.text.repeat_penalty = 1.1f;
        p.text.frequency_penalty = p.text.presence_penalty = 0.1f;
        p.logit_bias = bias;
        p.logit_bias_count = 2;
        p.mask = mask;
    }
    p.ignore_eos = true;
    p.max_tokens = 12;
    p.max_frames = 14;
    p.speak = true;
    p.on_text = take_text;
    p.on_audio = take_audio;
    p.arg = &h;
    const omni_part first[] = {{.kind = OMNI_IMAGE, .path = MODELS "/media/picture.jpg"},
                               {.kind = OMNI_AUDIO, .path = MODELS "/media/question.ogg"},
                               {.kind = OMNI_TEXT, .text = "What is this?"}},
                    second[] = {{.kind = OMNI_TEXT, .text = "Go on, please."}};
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, first, 3}, &err));
    must(omni_generate(s->engine, s->conversation, &p, NULL, &err));
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, second, 1}, &err));
    must(omni_generate(s->engine, s->conversation, &p, NULL, &err));
    dialogue_destroy(s);
    assert_true(h.text_size > 0 && h.count > 0);
    return h;
}

static void check_same(int threads, bool queue, bool greedy, int rows) {
    backend *plain, *strict;
    must(cpu_backend_create(threads, &plain, &err));
    must(queueing_backend_create(threads, queue, &strict, &err));
    omni_model *a = open_on(plain), *b = open_on(strict);
    heard x = converse(a, greedy, rows), y = converse(b, greedy, rows);
    assert_int_equal(x.text_size, y.text_size);
    assert_memory_equal(x.text, y.text, x.text_size);
    assert_int_equal(x.count, y.count);
    assert_memory_equal(x.samples, y.samples, x.count * sizeof *x.samples);
    free(x.samples);
    free(y.samples);
    omni_model_close(a);
    omni_model_close(b); /* ends the program if something was not released */
}

static void every_modality_at_once(void **state) {
    check_same(1, false, true, 0);
}

static void every_modality_queued(void **state) {
    check_same(1, true, false, 0);
}

/* Two threads: speech is decoded on a backend beside. Small batches: a prompt takes several passes. */
static void queued_with_a_backend_beside(void **state) {
    check_same(2, true, false, 48);
}

/* ---- fused operations ---- */

/* A backend that does all of a layer's steps by itself: it counts them, and composes them like everybody. */
static int fused_calls[6];

static void own_attention_input(backend *b, const layer_shape *s, const layer_weights *w, const kv_cache *cache, int layer, const layer_rows *rows,
                                const float *x, float *q, float *scratch) {
    fused_calls[0]++;
    ops_composed.attention_input(b, s, w, cache, layer, rows, x, q, scratch);
}

static void own_linear_add(backend *b, const tensor *w, const float *x, int64_t rows, float *y, float *scratch) {
    fused_calls[1]++;
    ops_composed.linear_add(b, w, x, rows, y, scratch);
}

static void own_moe_input(backend *b, const layer_shape *s, const layer_weights *w, const float *x, int64_t rows, float *n, int32_t *ids,
                          float *expert_weights, float *scratch) {
    fused_calls[2]++;
    ops_composed.moe_input(b, s, w, x, rows, n, ids, expert_weights, scratch);
}

static void own_moe_add(backend *b, const layer_shape *s, const layer_weights *w, float *n, int64_t rows, const int32_t *ids,
                        const float *expert_weights, float *x, float *scratch) {
    fused_calls[3]++;
    ops_composed.moe_add(b, s, w, n, rows, ids, expert_weights, x, scratch);
}

static void own_mlp_add(backend *b, const layer_shape *s, const layer_weights *w, int64_t rows, float *x, float *scratch) {
    fused_calls[4]++;
    ops_composed.mlp_add(b, s, w, rows, x, scratch);
}

static void own_head_sample(backend *b, const float *norm, float eps, const tensor *head, const float *x, int64_t rows, float *hidden, float *logits,
                            const sample_row *params, int32_t *ids) {
    fused_calls[5]++;
    ops_composed.head_sample(b, norm, eps, head, x, rows, hidden, logits, params, ids);
}

/* Much more than composing takes, all of which is then there. */
static size_t own_scratch(backend *b, const layer_shape *s, int64_t rows) {
    return 3 * ops_composed.scratch(b, s, rows);
}

static void a_backend_has_some_steps_in_one(void **state) {
    static const fused_ops all = {.scratch = own_scratch,
                                  .attention_input = own_attention_input,
                                  .linear_add = own_linear_add,
                                  .moe_input = own_moe_input,
                                  .moe_add = own_moe_add,
                                  .mlp_add = own_mlp_add,
                                  .head_sample = own_head_sample},
                           one = {.linear_add = own_linear_add};
    const fused_ops *const lists[] = {NULL, &all, &one};
    heard h[3];
    for (int i = 0; i < 3; i++) {
        backend *b;
        memset(fused_calls, 0, sizeof fused_calls);
        must(queueing_backend_create(1, true, &b, &err));
        b->fused = lists[i];
        const layer_shape s = {.width = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 128};
        assert_int_equal(fused_scratch(b, &s, 10), (i == 1 ? 3 : 1) * ops_composed.scratch(b, &s, 10));
        omni_model *m = open_on(b);
        h[i] = converse(m, true, 0);
        for (int k = 0; k < 6; k++) {
            assert_int_equal(fused_calls[k] > 0, i == 1 || (i == 2 && k == 1));
        }
        assert_int_equal(fused_calls[2], fused_calls[3]);
        assert_int_equal(h[i].text_size, h[0].text_size);
        assert_memory_equal(h[i].text, h[0].text, h[0].text_size);
        assert_int_equal(h[i].count, h[0].count);
        assert_memory_equal(h[i].samples, h[0].samples, h[0].count * sizeof *h[0].samples);
        omni_model_close(m);
    }
    for (int i = 0; i < 3; i++) {
        free(h[i].samples);
    }
}

/* ---- what a step says to the backend ---- */

enum { MOST_STEPS = 100 };

typedef struct step_counts {
    queueing_counts n;
    int chunks; /* of sound */
} step_counts;

/* Every step of one answer to a short text, or of speaking it, on one thread: nothing is decoded beside. */
static int record(omni_model *m, bool speak, step_counts *steps) {
    omni_engine *e;
    omni_engine_params ep = omni_engine_params_default();
    ep.context = 2048;
    must(omni_engine_create(m, &ep, &e, &err));
    omni_conversation *c;
    must(omni_conversation_create(m, NULL, &c, &err));
    const omni_part text = {.kind = OMNI_TEXT, .text = "Tell me a story about the sea, please."};
    must(omni_conversation_add(c, &(omni_message){OMNI_USER, &text, 1}, &err));
    omni_generate_params p = omni_generate_params_default();
    p.ignore_eos = true;
    p.max_tokens = 24;
    p.max_frames = 24;
    omni_request *r;
    must(speak ? omni_request_speak(e, text.text, &p, &r, &err) : omni_request_submit(e, c, &p, &r, &err));
    int n = 0;
    bool done = false;
    for (omni_event event; !done && n < MOST_STEPS; n++) {
        queueing_backend_count(m->b);
        omni_engine_step(e);
        steps[n] = (step_counts){.n = queueing_backend_count(m->b)};
        while (!done && omni_request_next(r, 0, &event)) {
            steps[n].chunks += event.kind == OMNI_EVENT_AUDIO;
            done = event.kind == OMNI_EVENT_DONE;
            assert_true(!done || event.status == OMNI_OK);
        }
    }
    assert_true(done);
    omni_request_free(r);
    omni_conversation_free(c);
    omni_engine_destroy(e);
    return n;
}

/* Operations of a layer for rows that are all wanted: ten for attention; norm, MLP and sum; what experts take besides. */
static int64_t layer_operations(const decoder_config *c) {
    return 10 + 2 + (c->experts ? 3 : 4) + (c->experts && c->shared_ffn ? 6 : 0);
}

/* A decode step: one block of what the pass is about up, one token down. */
static void a_token_takes_one_upload(void **state) {
    backend *b;
    must(queueing_backend_create(1, true, &b, &err));
    omni_model *m = open_on(b);
    step_counts steps[MOST_STEPS];
    const int n = record(m, false, steps);
    const decoder_config *c = &m->thinker->config;
    assert_true(n >= 24);
    for (int i = 0; i < 24; i++) { /* a token a step; the first one reads the prompt and fills the request's history */
        const queueing_counts *s = &steps[i].n;
        assert_int_equal(s->downloads, 1);
        assert_int_equal(s->downloaded, sizeof(int32_t));
        assert_true(s->uploads <= (i == 0 ? 2 : 1));
        if (i > 0) {
            assert_int_equal(s->uploads, 1);
            assert_true(s->uploaded <= 1024);
            assert_int_equal(s->operations, c->layers * layer_operations(c) + 5); /* angles, embed; norm, head, sample */
        }
    }
    omni_model_close(m);
}

/* A frame of speech: what its row is made of and what the talker's pass is about up, its codes down; the code predictor has been told everything when
 * it was made. A chunk of sound takes one more each way. */
static void a_frame_takes_two_uploads(void **state) {
    backend *b;
    must(queueing_backend_create(1, true, &b, &err));
    omni_model *m = open_on(b);
    step_counts steps[MOST_STEPS];
    const int n = record(m, true, steps);
    const decoder_config *c = &m->talker->c.decoder, *p = &m->talker->predictor.config;
    int frames = 0, chunks = 0;
    for (int i = 1; i < n && steps[i].n.operations > 0; i++) { /* the first step reads the prompt */
        const queueing_counts *s = &steps[i].n;
        assert_int_equal(s->uploads, 2 + steps[i].chunks);
        assert_int_equal(s->downloads, 1 + steps[i].chunks);
        assert_true(s->uploaded <= 1024 + 1024 * steps[i].chunks);
        frames++;
        chunks += steps[i].chunks;
        if (steps[i].chunks == 0) {
            /* projection, last frame's sum, angles; norm, head, code 0; the sum kept */
            const int64_t own = 4 + 1 + 1 + c->layers * layer_operations(c) + 3 + 1;
            /* hidden state and code 0 in place; each pass: norm, head, code, embed, add; the first one has twice the rows, of which half are
             * gathered: normed rows, cos, sin, and x, which is copied back */
            const int64_t predictor = 4 + (m->talker->c.groups - 1) * (p->layers * layer_operations(p) + 5) + 5;
            assert_int_equal(s->operations, own + predictor);
        }
    }
    assert_true(frames > 4 && chunks > 1);
    omni_model_close(m);
}

/* ---- the backend itself ---- */

static backend *strict;

static void *room(size_t bytes) {
    void *p;
    must(strict->ops->alloc(strict, bytes, &p, &err));
    return p;
}

static void *host_memory(size_t bytes) {
    static char memory[4096] __attribute__((aligned(64)));
    assert_true(bytes <= sizeof memory);
    return memory;
}

/* Whether what it does ends the program. */
static bool ends(void (*what)(void)) {
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's, and a sanitizer's */
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(0);
        }
        must(queueing_backend_create(1, true, &strict, &err));
        what();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGABRT || WTERMSIG(status) == SIGSEGV);
}

static void use_it_well(void) {
    float *x = room(64), *y = room(64), host[16] = {1, 2, 3}, out[16];
    strict->ops->upload(strict, x, host, sizeof host);
    memset(host, 0, sizeof host); /* it has a copy */
    strict->ops->add(strict, x, 16, y);
    strict->ops->add(strict, x + 1, 15, y);
    strict->ops->download(strict, out, y, sizeof out);
    strict->ops->release(strict, x);
    strict->ops->release(strict, y);
    backend_destroy(strict);
    if (out[0] != 3 || out[1] != 5 || out[2] != 3 || out[3] != 0) {
        abort();
    }
}

static void read_its_memory(void) {
    volatile float *x = room(64);
    *(volatile float *)host_memory(4) = x[0];
}

static void write_its_memory(void) {
    volatile float *x = room(64);
    x[0] = 1;
}

static void give_host_memory(void) {
    strict->ops->add(strict, host_memory(64), 16, room(64));
}

static void upload_from_it(void) {
    strict->ops->upload(strict, room(64), room(64), 64);
}

static void download_to_it(void) {
    strict->ops->download(strict, room(64), room(64), 64);
}

static void go_beyond(void) {
    float *x = room(64);
    strict->ops->add(strict, x + 1, 16, x);
}

static void use_after_release(void) {
    float *x = room(64), *y = room(64);
    strict->ops->release(strict, x);
    strict->ops->add(strict, x, 16, y);
}

static void use_host_weights(void) {
    const tensor w = {.type = DTYPE_F32, .n_dims = 2, .ne = {4, 4, 1, 1}, .size = 64, .data = host_memory(64)};
    strict->ops->linear(strict, &w, NULL, room(16), 1, 4, room(16), 4);
}

static void mark_in_host_memory(void) {
    const sample_row row = {.greedy = true, .repeat_penalty = 2, .history = host_memory(8), .suppress_from = 4, .suppress_keep = -1};
    strict->ops->sample(strict, room(16), 1, 4, &row, room(4));
}

static void give_ids_of_the_host(void) {
    strict->ops->gather_rows(strict, room(64), host_memory(4), 1, 4, room(64));
}

static void leak(void) {
    room(64);
    backend_destroy(strict);
}

static void it_notices(void **state) {
    assert_false(ends(use_it_well));
    void (*const wrong[])(void) = {read_its_memory,
                                   write_its_memory,
                                   give_host_memory,
                                   upload_from_it,
                                   download_to_it,
                                   go_beyond,
                                   use_after_release,
                                   use_host_weights,
                                   mark_in_host_memory,
                                   give_ids_of_the_host,
                                   leak};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (!ends(wrong[i])) {
            fail_msg("violation %zu went through", i);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_notices),
        cmocka_unit_test(every_modality_at_once),
        cmocka_unit_test(every_modality_queued),
        cmocka_unit_test(queued_with_a_backend_beside),
        cmocka_unit_test(a_backend_has_some_steps_in_one),
        cmocka_unit_test(a_token_takes_one_upload),
        cmocka_unit_test(a_frame_takes_two_uploads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
