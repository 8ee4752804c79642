/* Which type every tensor gets, on the published sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/mapping.h"
#include "convert/recipe.h"
#include "convert/synth.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static const recipe *recipe_of(const char *name) {
    const recipe *r = NULL;
    assert_int_equal(recipe_find(name, &r, NULL), OMNI_OK);
    return r;
}

static void shapes(unsigned part, const char *type, mapping *m) {
    model_config *c = calloc(1, sizeof *c);
    omni_error err = {0};
    assert_int_equal(config_parse(synth_released_config, strlen(synth_released_config), "released", true, c, &err), OMNI_OK);
    assert_int_equal(mapping_shapes(c, part, recipe_of(type), m, &err), OMNI_OK);
    free(c);
}

static const unsigned PARTS[] = {PART_THINKER, PART_MMPROJ, PART_TALKER};

static void classes_follow_from_the_names(void **state) {
    for (int p = 0; p < 3; p++) {
        mapping m;
        shapes(PARTS[p], "f16", &m);
        assert_true(m.count > 100);
        for (size_t i = 0; i < m.count; i++) {
            const mapped_tensor *t = &m.tensors[i];
            if (recipe_class(PARTS[p], t->name, t->n_dims) != t->weight) {
                fail_msg("%s: class %d by its name, %d in the mapping", t->name, recipe_class(PARTS[p], t->name, t->n_dims), t->weight);
            }
        }
        mapping_free(&m);
    }
}

static dtype type_in(const mapping *m, const char *name) {
    for (size_t i = 0; i < m->count; i++) {
        if (strcmp(m->tensors[i].name, name) == 0) {
            return m->tensors[i].type;
        }
    }
    fail_msg("%s is missing", name);
    return DTYPE_F32;
}

static void mixes_keep_what_must_stay_precise(void **state) {
    static const struct {
        unsigned part;
        const char *tensor;
        dtype q4_k_m, q5_k_m, q6_k, q8_0;
    } cases[] = {
        {PART_THINKER, "token_embd.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "output.weight", DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "output_norm.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {PART_THINKER, "blk.0.ffn_gate_inp.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {PART_THINKER, "blk.0.attn_q.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.0.attn_k.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.0.attn_output.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.0.attn_v.weight", DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.6.attn_v.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.8.attn_v.weight", DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.47.ffn_down_exps.weight", DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.7.ffn_down_exps.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_THINKER, "blk.0.ffn_up_exps.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_MMPROJ, "v.blk.0.attn_qkv.weight", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0},
        {PART_MMPROJ, "v.blk.0.ffn_down.weight", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16}, /* rows of 4304 values */
        {PART_MMPROJ, "v.patch_embd.weight.1", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16},
        {PART_MMPROJ, "a.conv_out.weight", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16},
        {PART_TALKER, "talker.token_embd.weight", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16},
        {PART_TALKER, "talker.output.weight", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16},
        {PART_TALKER, "talker.blk.0.attn_v.weight", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0},
        {PART_TALKER, "talker.blk.0.ffn_up_exps.weight", DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
        {PART_TALKER, "talker.blk.0.ffn_gate_inp_shexp.weight", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
        {PART_TALKER, "talker.blk.0.ffn_down_shexp.weight", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0},
        {PART_TALKER, "code_predictor.output.0.weight", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16},
        {PART_TALKER, "code_predictor.blk.0.ffn_down.weight", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0},
        {PART_TALKER, "code2wav.blk.0.attn_q.weight", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0},
        {PART_TALKER, "code2wav.decoder.0.conv.weight", DTYPE_F16, DTYPE_F16, DTYPE_F16, DTYPE_F16},
        {PART_TALKER, "code2wav.decoder.0.snake.alpha", DTYPE_F32, DTYPE_F32, DTYPE_F32, DTYPE_F32},
    };
    const char *const types[] = {"q4_k_m", "q5_k_m", "q6_k", "q8_0"};
    for (int p = 0; p < 3; p++) {
        for (int t = 0; t < 4; t++) {
            mapping m;
            shapes(PARTS[p], types[t], &m);
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
                const dtype want[] = {cases[i].q4_k_m, cases[i].q5_k_m, cases[i].q6_k, cases[i].q8_0};
                if (cases[i].part == PARTS[p] && type_in(&m, cases[i].tensor) != want[t]) {
                    fail_msg("%s: %s under %s", cases[i].tensor, dtype_find(type_in(&m, cases[i].tensor))->name, types[t]);
                }
            }
            mapping_free(&m);
        }
    }
}

/* Half of the layers' attention values and outputs of the experts, as llama.cpp takes of 48 layers. */
static void half_the_layers_are_more_precise(void **state) {
    mapping m;
    shapes(PART_THINKER, "q4_k_m", &m);
    int better = 0;
    for (size_t i = 0; i < m.count; i++) {
        better += m.tensors[i].type == DTYPE_Q6_K;
    }
    assert_int_equal(better, 2 * 24 + 1);
    mapping_free(&m);
}

static void rows_that_do_not_fit_get_the_next_type(void **state) {
    const recipe_model m = {.part = PART_THINKER, .layers = 48, .experts = 128};
    const char *name = "blk.6.ffn_up.weight";
    assert_int_equal(recipe_type(recipe_of("q4_k_m"), &m, WEIGHT_MATRIX, name, 512), DTYPE_Q4_K);
    assert_int_equal(recipe_type(recipe_of("q4_k_m"), &m, WEIGHT_MATRIX, name, 96), DTYPE_Q5_0);
    assert_int_equal(recipe_type(recipe_of("q5_k_m"), &m, WEIGHT_MATRIX, name, 96), DTYPE_Q5_1);
    assert_int_equal(recipe_type(recipe_of("q6_k"), &m, WEIGHT_MATRIX, name, 96), DTYPE_Q8_0);
    assert_int_equal(recipe_type(recipe_of("q4_0"), &m, WEIGHT_MATRIX, name, 96), DTYPE_Q4_0);
    assert_int_equal(recipe_type(recipe_of("q4_k_m"), &m, WEIGHT_MATRIX, name, 48), DTYPE_F16);
    const recipe_model tied = {.part = PART_THINKER, .layers = 48, .experts = 8, .tied = true};
    assert_int_equal(recipe_type(recipe_of("q4_k_m"), &tied, WEIGHT_MATRIX, "token_embd.weight", 512), DTYPE_Q6_K);
    assert_int_equal(recipe_type(recipe_of("q4_k_m"), &tied, WEIGHT_MATRIX, "blk.6.attn_v.weight", 512), DTYPE_Q8_0);
    const recipe *r;
    omni_error err = {0};
    assert_int_equal(recipe_find("Q4_K_M", &r, &err), OMNI_OK);
    assert_int_equal(r->file_type, 15);
    assert_int_equal(recipe_find("q4_k_x", &r, &err), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "q5_k_m"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_follow_from_the_names),
        cmocka_unit_test(mixes_keep_what_must_stay_precise),
        cmocka_unit_test(half_the_layers_are_more_precise),
        cmocka_unit_test(rows_that_do_not_fit_get_the_next_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
