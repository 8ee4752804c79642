/* omni_bench on the tiny model: every row comes once, with sane numbers; rows can be chosen, and the caller can stop it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "omni.h"

#include <cmocka.h>

#define TINY TEST_DATA "/../../models/tiny/"

typedef struct seen {
    char names[64][48];
    int count, stop_after;
} seen;

static bool on_row(void *arg, const omni_bench_row *r) {
    seen *s = arg;
    assert_true(s->count < 64);
    for (int i = 0; i < s->count; i++) {
        assert_string_not_equal(s->names[i], r->name);
    }
    strncpy(s->names[s->count++], r->name, sizeof s->names[0] - 1);
    assert_true(isfinite(r->median) && r->median > 0 && r->min <= r->median && r->median <= r->max && r->samples >= 1);
    if (r->bytes > 0) {
        assert_true(r->flops > 0 && r->memory_limit > 0 && r->compute_limit > 0);
        assert_true(fabs(r->memory_share * r->memory_limit - r->bytes_per_second) < 1e-6 * r->bytes_per_second);
    }
    return s->count != s->stop_after;
}

static bool has(const seen *s, const char *name) {
    for (int i = 0; i < s->count; i++) {
        if (strcmp(s->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static omni_bench_params tiny(seen *s) {
    omni_bench_params p = omni_bench_params_default();
    p.model = TINY "qwen3-omni-f16.gguf";
    p.mmproj = TINY "mmproj-qwen3-omni-f16.gguf";
    p.talker = TINY "talker-qwen3-omni-f16.gguf";
    p.repetitions = 2;
    p.generate = 4;
    p.threads = 2;
    p.on_row = on_row;
    p.arg = s;
    return p;
}

static void test_rows(void **state) {
    static const char *const names[] = {"memory read", "float32 FMA", "pp64",          "tg4",    "tg16 b8",        "engine tg4", "engine tg16 b8",
                                        "audio",       "image",       "speech frames", "talker", "code predictor", "code2wav"};
    seen s = {0};
    omni_error err = {0};
    omni_bench_params p = tiny(&s);
    p.only = "pp64,tg4,tg16 b8,engine,audio,image,speech,talker,code,speak,answer";
    omni_status status = omni_bench(&p, &err);
    if (status != OMNI_OK) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(status, OMNI_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!has(&s, names[i])) {
            print_error("no row %s\n", names[i]);
        }
        assert_true(has(&s, names[i]));
    }
    assert_false(has(&s, "pp512"));
}

static void test_stop(void **state) {
    seen s = {.stop_after = 3};
    omni_error err = {0};
    omni_bench_params p = tiny(&s);
    assert_int_equal(omni_bench(&p, &err), OMNI_CANCELLED);
    assert_int_equal(s.count, 3);
}

static void test_refusals(void **state) {
    omni_error err = {0};
    omni_bench_params p = omni_bench_params_default();
    assert_int_equal(omni_bench(&p, &err), OMNI_ERR_ARGUMENT);
    p.synthetic = "q9_9";
    assert_int_equal(omni_bench(&p, &err), OMNI_ERR_ARGUMENT);
    p = tiny(&(seen){0});
    p.repetitions = -1;
    assert_int_equal(omni_bench(&p, &err), OMNI_ERR_ARGUMENT);

    static const struct {
        unsigned parts;
        const char *only, *say;
    } nothing[] = {{OMNI_BENCH_AUDIO, NULL, "mmproj"},
                   {OMNI_BENCH_THINKER | OMNI_BENCH_CODE2WAV, NULL, "talker"},
                   {0, "qq", "qq"}, /* such rows measure nothing, which must not look like success */
                   {0, "tg99999", "tg99999"}};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        seen s = {0};
        p = tiny(&s);
        p.mmproj = p.talker = NULL;
        p.parts = nothing[i].parts;
        p.only = nothing[i].only;
        assert_int_equal(omni_bench(&p, &err), OMNI_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, nothing[i].say));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
