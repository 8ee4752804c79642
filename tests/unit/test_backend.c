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
#include "engine/engine.h"
#include "queueing_backend.h"

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
    omni_session *s;
    omni_session_params sp = omni_session_params_default();
    sp.context = 2048;
    sp.batch = rows;
    must(omni_session_create(m, &sp, &s, &err));
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
    must(omni_session_add(s, &(omni_message){OMNI_USER, first, 3}, &err));
    must(omni_generate(s, &p, NULL, &err));
    must(omni_session_add(s, &(omni_message){OMNI_USER, second, 1}, &err));
    must(omni_generate(s, &p, NULL, &err));
    omni_session_destroy(s);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
