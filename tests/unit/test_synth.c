/* Random model files: the sizes are the published ones, and values of every type have the spread that was asked for. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "convert/synth.h"
#include "tensor/tensor.h"

#include <cmocka.h>

/* Values in the published checkpoint, summed over its list of tensors. */
static void test_sizes_are_the_published_ones(void **state) {
    static const struct {
        unsigned part;
        int64_t values;
    } parts[] = {{MAPPING_THINKER, 30532646912}, {MAPPING_TALKER, 3540613057}};
    model_config *c = calloc(1, sizeof *c);
    omni_error err = {0};
    const recipe *f16;
    assert_int_equal(recipe_find("f16", &f16, &err), OMNI_OK);
    assert_int_equal(config_parse(synth_released_config, strlen(synth_released_config), "released", true, c, &err), OMNI_OK);
    for (size_t i = 0; i < 2; i++) {
        mapping m;
        assert_int_equal(mapping_shapes(c, parts[i].part, f16, &m, &err), OMNI_OK);
        int64_t values = 0;
        for (size_t k = 0; k < m.count; k++) {
            const int64_t *ne = m.tensors[k].ne;
            values += ne[0] * ne[1] * ne[2] * ne[3];
        }
        assert_int_equal(values, parts[i].values);
        mapping_free(&m);
    }
    free(c);
}

static void test_spread(void **state) {
    enum { VALUES = 1 << 16 };
    float *values = malloc(VALUES * sizeof *values);
    void *stored = malloc(VALUES * sizeof *values);
    int types = 0;
    for (uint32_t type = 0; type < DTYPE_COUNT; type++) {
        if (!dtype_find(type) || !synth_type_known((dtype)type) || !dtype_computable(type)) {
            continue;
        }
        types++;
        synth_fill((dtype)type, 0, 0.02F, 7, VALUES / dtype_find(type)->block, stored);
        dtype_to_f32((dtype)type, stored, values, VALUES);
        double sum = 0, squares = 0;
        for (int i = 0; i < VALUES; i++) {
            assert_true(isfinite(values[i]));
            sum += values[i];
            squares += (double)values[i] * values[i];
        }
        double mean = sum / VALUES, deviation = sqrt(squares / VALUES - mean * mean);
        /* the codes of some types are not centred, and powers of two are coarse */
        if (fabs(mean) > 0.004 || deviation < 0.013 || deviation > 0.03) {
            print_error("%s: mean %g, standard deviation %g; 0 and 0.02 were wanted\n", dtype_find(type)->name, mean, deviation);
            assert_true(false);
        }
    }
    assert_true(types >= 4);
    free(values);
    free(stored);
}

static void test_refusals(void **state) {
    omni_error err = {0};
    synth_options o = {.path = "unused.gguf", .type = "q9_9", .part = MAPPING_THINKER};
    assert_int_equal(synth_file(&o, NULL, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "q9_9"));
    o.type = "q8_0";
    o.layers = -1;
    assert_int_equal(synth_file(&o, NULL, &err), OMNI_ERR_ARGUMENT);
    o.layers = 1;
    o.part = MAPPING_THINKER | MAPPING_TALKER;
    assert_int_equal(synth_file(&o, NULL, &err), OMNI_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_the_published_ones),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
