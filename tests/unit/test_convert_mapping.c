/* Reading config.json in both spellings, and the list of tensors of the released model at full size, without data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <jansson.h>

#include "convert/config.h"
#include "convert/mapping.h"
#include "convert/vocabulary.h"
#include "scratch.h"

#include "convert_checkpoint.h"

#include <cmocka.h>

static char *data_file(const char *name, size_t *size) {
    char path[512], *text;
    snprintf(path, sizeof path, TEST_DATA "/convert/%s", name);
    assert_int_equal(file_read(path, 1 << 20, &text, size, NULL), OMNI_OK);
    return text;
}

static omni_status parse_file(const char *name, bool talker, model_config *c, omni_error *e) {
    size_t size;
    char *text = data_file(name, &size);
    omni_status status = config_parse(text, size, name, talker, c, e);
    free(text);
    return status;
}

static void test_released_sizes(void **state) {
    model_config *c = malloc(sizeof *c);
    omni_error e = {0};
    assert_int_equal(parse_file("full_config.json", true, c, &e), OMNI_OK);
    assert_int_equal(c->thinker.layers, 48);
    assert_int_equal(c->thinker.vocab_size, 152064);
    assert_int_equal(c->thinker.experts, 128);
    assert_int_equal(c->thinker.experts_used, 8);
    assert_int_equal(c->thinker.rope_sections[0], 24);
    assert_true(c->thinker.rope_theta == 1e6F);
    assert_int_equal(c->talker.experts, 128);
    assert_int_equal(c->talker.shared_ffn, 768);
    assert_int_equal(c->predictor_groups, 16);
    assert_int_equal(c->accept_hidden_layer, 24);
    assert_int_equal(c->code2wav.rates[3], 3);
    assert_int_equal(c->code2wav.transformer.head_dim, 64);
    assert_int_equal(c->vision.grid, 48);
    assert_int_equal(c->vision.deepstack[2], 24);
    assert_int_equal(c->position_id_per_seconds, 13);
    assert_int_equal(c->ids.assistant, 77091);
    assert_int_equal(c->n_speakers, 3);
    assert_string_equal(c->speakers[0].name, "aiden");
    assert_int_equal(c->speakers[1].id, 2301);
    free(c);
}

static void test_spellings_agree(void **state) {
    static const char *const names[][2] = {{"full_config.json", "full_config_old.json"}, {"micro_config.json", "micro_config_old.json"}};
    model_config *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    for (int i = 0; i < 2; i++) {
        omni_error e = {0};
        assert_int_equal(parse_file(names[i][0], true, a, &e), OMNI_OK);
        assert_int_equal(parse_file(names[i][1], true, b, &e), OMNI_OK);
        assert_memory_equal(a, b, sizeof *a);
    }
    free(a);
    free(b);
}

/* The object at a dotted path, and the last part of it. */
static json_t *parent_of(json_t *root, const char *path, const char **last) {
    char part[64];
    json_t *at = root;
    for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
        snprintf(part, sizeof part, "%.*s", (int)(dot - path), path);
        at = json_object_get(at, part);
    }
    *last = path;
    return at;
}

/* Parses the configuration with one field changed (NULL: removed); the error must name field. */
static void refused(const char *path, json_t *value, const char *field) {
    size_t size;
    char *text = data_file("full_config.json", &size);
    json_t *root = json_loadb(text, size, 0, NULL);
    free(text);
    const char *last;
    json_t *parent = parent_of(root, path, &last);
    assert_non_null(json_object_get(parent, last));
    if (value) {
        json_object_set_new(parent, last, value);
    } else {
        json_object_del(parent, last);
    }
    text = json_dumps(root, 0);
    json_decref(root);
    model_config *c = malloc(sizeof *c);
    omni_error e = {0};
    omni_status status = config_parse(text, strlen(text), "config.json", true, c, &e);
    if (status == OMNI_OK || !strstr(e.text, field)) {
        print_message("%s: %s\n", path, e.text);
    }
    assert_int_not_equal(status, OMNI_OK);
    assert_non_null(strstr(e.text, field));
    free(text);
    free(c);
}

static void test_missing_fields(void **state) {
#define TEXT(s, f) s "." f
#define DECODER(s)                                                                                                                                   \
    TEXT(s, "num_hidden_layers"), TEXT(s, "hidden_size"), TEXT(s, "num_attention_heads"), TEXT(s, "num_key_value_heads"), TEXT(s, "rms_norm_eps"),   \
        TEXT(s, "max_position_embeddings"), TEXT(s, "rope_parameters.rope_theta")
    static const char *const needed[] = {
        DECODER("thinker_config.text_config"),
        DECODER("talker_config.text_config"),
        DECODER("talker_config.code_predictor_config"),
        DECODER("code2wav_config"),
        "thinker_config.text_config",
        "thinker_config.text_config.vocab_size",
        "thinker_config.text_config.num_experts_per_tok",
        "thinker_config.text_config.moe_intermediate_size",
        "thinker_config.text_config.norm_topk_prob",
        "thinker_config.text_config.rope_parameters.mrope_section",
        "thinker_config.position_id_per_seconds",
        "thinker_config.audio_config",
        "thinker_config.audio_config.num_mel_bins",
        "thinker_config.audio_config.d_model",
        "thinker_config.audio_config.encoder_layers",
        "thinker_config.audio_config.encoder_attention_heads",
        "thinker_config.audio_config.encoder_ffn_dim",
        "thinker_config.audio_config.output_dim",
        "thinker_config.audio_config.downsample_hidden_size",
        "thinker_config.audio_config.max_source_positions",
        "thinker_config.audio_config.n_window",
        "thinker_config.audio_config.n_window_infer",
        "thinker_config.vision_config",
        "thinker_config.vision_config.depth",
        "thinker_config.vision_config.hidden_size",
        "thinker_config.vision_config.num_heads",
        "thinker_config.vision_config.intermediate_size",
        "thinker_config.vision_config.out_hidden_size",
        "thinker_config.vision_config.patch_size",
        "thinker_config.vision_config.temporal_patch_size",
        "thinker_config.vision_config.spatial_merge_size",
        "thinker_config.vision_config.in_channels",
        "thinker_config.vision_config.num_position_embeddings",
        "thinker_config.vision_config.deepstack_visual_indexes",
        "talker_config",
        "talker_config.accept_hidden_layer",
        "talker_config.num_code_groups",
        "talker_config.thinker_hidden_size",
        "talker_config.codec_pad_id",
        "talker_config.codec_bos_id",
        "talker_config.codec_eos_token_id",
        "talker_config.codec_nothink_id",
        "talker_config.codec_think_bos_id",
        "talker_config.codec_think_eos_id",
        "talker_config.speaker_id",
        "talker_config.text_config.vocab_size",
        "talker_config.text_config.shared_expert_intermediate_size",
        "talker_config.text_config.intermediate_size",
        "talker_config.text_config.moe_intermediate_size",
        "talker_config.code_predictor_config.vocab_size",
        "talker_config.code_predictor_config.intermediate_size",
        "talker_config.code_predictor_config.num_code_groups",
        "code2wav_config",
        "code2wav_config.codebook_size",
        "code2wav_config.num_quantizers",
        "code2wav_config.sliding_window",
        "code2wav_config.decoder_dim",
        "code2wav_config.upsample_rates",
        "code2wav_config.upsampling_ratios",
        "code2wav_config.intermediate_size",
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        const char *last = strrchr(needed[i], '.');
        refused(needed[i], NULL, last ? last + 1 : needed[i]);
    }
}

static void test_bad_values(void **state) {
    refused("thinker_config.text_config.num_hidden_layers", json_string("48"), "num_hidden_layers");
    refused("thinker_config.text_config.num_hidden_layers", json_integer(0), "num_hidden_layers");
    refused("thinker_config.text_config.num_hidden_layers", json_integer(1 << 30), "num_hidden_layers");
    refused("thinker_config.text_config.num_hidden_layers", json_integer(-1), "num_hidden_layers");
    refused("thinker_config.text_config.num_hidden_layers", json_real(48.5), "num_hidden_layers");
    refused("thinker_config.text_config.hidden_act", json_string("relu"), "hidden_act");
    refused("thinker_config.text_config.num_key_value_heads", json_integer(5), "num_key_value_heads");
    refused("thinker_config.text_config.head_dim", json_integer(127), "head_dim");
    refused("thinker_config.text_config.mlp_only_layers", json_pack("[i]", 3), "mlp_only_layers");
    refused("thinker_config.text_config.num_experts_per_tok", json_integer(129), "num_experts_per_tok");
    refused("thinker_config.text_config.num_local_experts", json_integer(64), "num_local_experts");
    refused("thinker_config.text_config.rope_parameters.rope_type", json_string("yarn"), "rope_type");
    refused("thinker_config.text_config.rope_parameters.mrope_section", json_pack("[iii]", 24, 20, 21), "mrope_section");
    refused("thinker_config.text_config.rope_parameters.mrope_section", json_pack("[ii]", 24, 20), "mrope_section");
    refused("thinker_config.text_config.rms_norm_eps", json_string("1e-6"), "rms_norm_eps");
    refused("thinker_config.image_token_id", json_integer(152064), "image_token_id");
    refused("thinker_config.vision_config.num_position_embeddings", json_integer(2305), "num_position_embeddings");
    refused("thinker_config.vision_config.deepstack_visual_indexes", json_pack("[ii]", 8, 8), "deepstack_visual_indexes");
    refused("thinker_config.vision_config.deepstack_visual_indexes", json_pack("[i]", 27), "deepstack_visual_indexes");
    refused("thinker_config.vision_config.temporal_patch_size", json_integer(3), "temporal_patch_size");
    refused("thinker_config.audio_config.output_dim", json_integer(1024), "output_dim");
    refused("talker_config.accept_hidden_layer", json_integer(49), "accept_hidden_layer");
    refused("talker_config.codec_pad_id", json_integer(3072), "codec_pad_id");
    refused("talker_config.speaker_id", json_pack("{s:i}", "chelsie", 5000), "speaker_id.chelsie");
    refused("talker_config.speaker_id", json_object(), "speaker_id");
    refused("talker_config.num_code_groups", json_integer(15), "num_code_groups");
    refused("talker_config.code_predictor_config.hidden_size", json_integer(512), "hidden_size");
    refused("code2wav_config.num_quantizers", json_integer(15), "num_quantizers");
    refused("code2wav_config.decoder_dim", json_integer(1544), "decoder_dim");
    refused("code2wav_config.upsample_rates", json_pack("[is]", 8, "5"), "upsample_rates");
    refused("code2wav_config.upsample_rates", json_array(), "upsample_rates");
}

/* Config, tokenizer and preprocessing, cut and damaged at random places: an error or a result, never a crash. */
static void test_damaged_json(void **state) {
    size_t config_size, tokenizer_size;
    char *config = data_file("micro_config.json", &config_size), *tokenizer = data_file("micro_tokenizer.json", &tokenizer_size);
    model_config *c = malloc(sizeof *c);
    uint32_t random = 12345;
    int errors = 0;
    for (int i = 0; i < 800; i++) {
        bool first = i % 2 == 0;
        size_t size = first ? config_size : tokenizer_size;
        char *copy = malloc(size + 1);
        memcpy(copy, first ? config : tokenizer, size);
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 4) % size;
        if (i % 4 < 2) {
            size = at;
        } else {
            random = random * 1664525u + 1013904223u;
            copy[at] = (char)(random >> 13);
        }
        omni_error e = {0};
        omni_status status;
        if (first) {
            status = config_parse(copy, size, "config.json", true, c, &e);
        } else {
            vocabulary v;
            const vocabulary_texts texts = {.tokenizer_json = copy, .tokenizer_json_size = size};
            status = vocabulary_parse(&texts, 400, "folder", &v, &e);
            vocabulary_free(&v);
        }
        if (status != OMNI_OK) {
            assert_true(e.text[0] != '\0');
            errors++;
        }
        free(copy);
    }
    assert_true(errors > 400); /* every cut one at least */
    free(config);
    free(tokenizer);
    free(c);
}

/* ---- the released model's tensors ---- */

static const recipe *recipe_of(const char *name) {
    const recipe *r = NULL;
    assert_int_equal(recipe_find(name, &r, NULL), OMNI_OK);
    return r;
}

static void check_full(bool split) {
    tensor_list l = list_read("full", split);
    st_tensor *tensors = calloc(l.count, sizeof *tensors);
    const st_tensor **pointers = calloc(l.count, sizeof(*pointers));
    int64_t values = 0;
    for (size_t i = 0; i < l.count; i++) {
        tensors[i] = (st_tensor){.name = l.items[i].name, .type = DTYPE_BF16, .n_dims = l.items[i].n_dims, .file = "shard"};
        memcpy(tensors[i].shape, l.items[i].shape, sizeof l.items[i].shape);
        pointers[i] = &tensors[i];
        values += listed_values(&l.items[i]);
    }
    assert_int_equal(values, 35259818545);
    model_config *c = malloc(sizeof *c);
    omni_error e = {0};
    assert_int_equal(parse_file("full_config.json", true, c, &e), OMNI_OK);
    mapping m;
    omni_status status = mapping_build(c, pointers, l.count, 7, recipe_of("q8_0"), "folder", &m, &e);
    if (status != OMNI_OK) {
        print_message("%s\n", e.text);
    }
    assert_int_equal(status, OMNI_OK);
    /* Every value of the checkpoint is stored exactly once; beyond it only what docs/formats.md says: sinusoids and padding. */
    int64_t stored = 0;
    int *uses = calloc(l.count, sizeof *uses);
    for (size_t i = 0; i < m.count; i++) {
        const mapped_tensor *t = &m.tensors[i];
        if (t->n_sources) {
            stored += t->source_values;
        } else {
            assert_string_equal(t->name, "a.position_embd.weight");
        }
        for (size_t k = 0; k < t->n_sources; k++) {
            uses[t->sources[k] - tensors]++;
        }
        if (i + 1 < m.count) {
            assert_string_not_equal(t->name, m.tensors[i + 1].name);
        }
    }
    assert_int_equal(stored, values);
    for (size_t i = 0; i < l.count; i++) {
        bool two = strstr(tensors[i].name, "experts.gate_up_proj") || strcmp(tensors[i].name, "thinker.visual.patch_embed.proj.weight") == 0;
        assert_int_equal(uses[i], two ? 2 : 1);
    }
    /* one missing, anywhere */
    for (size_t leave_out = 0; leave_out < l.count; leave_out += 1 + l.count / 60) {
        const st_tensor *kept = pointers[leave_out];
        pointers[leave_out] = pointers[l.count - 1];
        mapping none;
        assert_int_equal(mapping_build(c, pointers, l.count - 1, 7, recipe_of("f16"), "folder", &none, &e), OMNI_ERR_FORMAT);
        assert_non_null(strstr(e.text, kept->name));
        pointers[leave_out] = kept;
    }
    free(uses);
    mapping_free(&m);
    free(c);
    free(pointers);
    free(tensors);
    free(l.items);
}

/* Ids that only the talker's part, only the thinker's or only the file's top names: checkpoints differ in where they put them. */
static void test_places_of_ids(void **state) {
    static const char *const names[] = {"im_start_token_id",  "im_end_token_id",  "system_token_id",  "user_token_id",
                                        "assistant_token_id", "tts_pad_token_id", "tts_bos_token_id", "tts_eos_token_id"};
    for (int place = 0; place < 3; place++) {
        size_t size;
        char *text = data_file("micro_config.json", &size);
        json_t *root = json_loadb(text, size, 0, NULL);
        free(text);
        json_t *const places[] = {root, json_object_get(root, "thinker_config"), json_object_get(root, "talker_config")};
        for (size_t i = 0; i < 8; i++) {
            for (int k = 0; k < 3; k++) {
                json_object_del(places[k], names[i]);
            }
            assert_int_equal(json_object_set_new(places[place], names[i], json_integer((json_int_t)(11 + i))), 0);
        }
        text = json_dumps(root, 0);
        json_decref(root);
        model_config c;
        omni_error e = {0};
        assert_int_equal(config_parse(text, strlen(text), "config.json", true, &c, &e), OMNI_OK);
        free(text);
        const uint32_t read[] = {c.ids.im_start,  c.ids.im_end,  c.ids.system,  c.ids.user,
                                 c.ids.assistant, c.ids.tts_pad, c.ids.tts_bos, c.ids.tts_eos};
        for (size_t i = 0; i < 8; i++) {
            assert_int_equal(read[i], 11 + i);
        }
    }
}

static void test_full_fused(void **state) {
    check_full(false);
}

static void test_full_one_by_one(void **state) {
    check_full(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released_sizes),  cmocka_unit_test(test_spellings_agree), cmocka_unit_test(test_missing_fields),
        cmocka_unit_test(test_bad_values),      cmocka_unit_test(test_damaged_json),    cmocka_unit_test(test_full_fused),
        cmocka_unit_test(test_full_one_by_one), cmocka_unit_test(test_places_of_ids),
    };
    (void)files_in_folder;
    (void)make_folder;
    (void)remove_folder;
    (void)write_checkpoint;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
