/* Every weight format as a whole model: a random thinker whose rows fit every block (256 columns), or the F32 file given as argument
 * (scripts/parity.sh), is written in each type, and the logits of random tokens are set against those of the original. Three bounds a type, at every
 * instruction set that this processor has:
 *  - against the original: what the format and our quantiser lose (root mean square error of the logits over that of the exact ones, and the mean KL
 *    divergence); types that omni only reads are rounded to nearest here, and lose more than in files of better quantisers;
 *  - against the same file with its weights as float32: what the rounding of inputs to 8 bits adds;
 *  - between instruction sets: the same first choices, but for near ties. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tools/logits.h"
#include "block_encoders.h"
#include "convert/quantize_file.h"
#include "convert/recipe.h"
#include "cpu/kernels.h"
#include "scratch.h"

#include <cmocka.h> /* last: it defines a macro named fail */

enum { LENGTH = 48 };

/* Errors: 1.2 times what was measured with any instruction set, KL divergences 1.4 times. */
typedef struct bound {
    double error, kl;
} bound;
static const struct {
    const char *type;
    bound own, c;     /* against the original: the random thinker here; the text model of tiny_omni.py's variant c, seed 0 */
    double computing; /* error against float32 computation with the same weights */
} BOUNDS[] = {
    {"f32", {5e-6, 1e-9}, {5e-6, 1e-9}, 5e-6},          {"f16", {0.001, 4.7e-07}, {0.00046, 8.2e-08}, 5e-6},
    {"bf16", {0.0078, 3e-05}, {0.0035, 5e-06}, 5e-6},   {"q8_0", {0.036, 0.00062}, {0.015, 8.5e-05}, 0.025},
    {"q6_k", {0.084, 0.0035}, {0.035, 0.00048}, 0.025}, {"q5_k_m", {0.17, 0.014}, {0.059, 0.0014}, 0.025},
    {"q4_k_m", {0.3, 0.045}, {0.1, 0.0043}, 0.025},     {"q5_k", {0.17, 0.014}, {0.059, 0.0014}, 0.025},
    {"q4_k", {0.32, 0.049}, {0.11, 0.0051}, 0.025},     {"q5_1", {0.17, 0.014}, {0.058, 0.0013}, 0.025},
    {"q5_0", {0.19, 0.018}, {0.068, 0.0018}, 0.025},    {"q4_1", {0.33, 0.052}, {0.11, 0.0052}, 0.025},
    {"q4_0", {0.38, 0.071}, {0.13, 0.0067}, 0.025},     {"iq4_nl", {0.41, 0.083}, {0.13, 0.0069}, 0.025},
    {"iq4_xs", {0.37, 0.068}, {0.13, 0.0069}, 0.025},   {"mxfp4", {0.52, 0.13}, {0.19, 0.014}, 0.025},
    {"q3_k", {0.67, 0.22}, {0.24, 0.023}, 0.025},       {"q2_k", {1.2, 0.67}, {0.48, 0.091}, 0.025},
};
enum { N_TYPES = sizeof BOUNDS / sizeof *BOUNDS };

static const char *original; /* an F32 file */
static bool given;           /* on the command line */

static void need(omni_status status, const omni_error *err) {
    if (status != OMNI_OK) {
        fail_msg("%s", err->text);
    }
}

/* ---- a random thinker ---- */

enum { WIDTH = 256, LAYERS = 2, HEADS = 8, KV_HEADS = 2, HEAD_DIM = 32, EXPERTS = 4, VOCAB = 1824 };

static float normal(uint64_t *state) {
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*state >> 40) * 0x1p-24f - 0.5f;
    }
    return sum * 1.7320508f;
}

static void put(gguf_writer *w, const char *name, int n_dims, int64_t a, int64_t b, int64_t c) {
    gguf_put_tensor(w, name, DTYPE_F32, n_dims, (int64_t[]){a, b, c});
}

/* Keys and vocabulary are those of the tiny model in the tree. */
static void write_thinker(const char *path) {
    static const struct {
        const char *key;
        uint32_t value;
    } own[] = {{"general.file_type", 0},
               {"qwen3vlmoe.embedding_length", WIDTH},
               {"qwen3vlmoe.block_count", LAYERS},
               {"qwen3vlmoe.attention.head_count", HEADS},
               {"qwen3vlmoe.attention.head_count_kv", KV_HEADS},
               {"qwen3vlmoe.attention.key_length", HEAD_DIM},
               {"qwen3vlmoe.attention.value_length", HEAD_DIM},
               {"qwen3vlmoe.feed_forward_length", WIDTH},
               {"qwen3vlmoe.expert_feed_forward_length", WIDTH},
               {"qwen3vlmoe.expert_count", EXPERTS},
               {"qwen3vlmoe.expert_used_count", EXPERTS}, /* so that no router's near tie decides the result */
               {"qwen3vlmoe.n_deepstack_layers", 0}};
    gguf *tiny;
    gguf_writer *w;
    omni_error err;
    need(gguf_open(TEST_DATA "/../../models/tiny/qwen3-omni-f16.gguf", &tiny, &err), &err);
    need(gguf_writer_create(path, &w, &err), &err);
    for (size_t i = 0; i < gguf_key_count(tiny); i++) {
        const gguf_str name = gguf_key_name(tiny, i);
        size_t k = 0, n = sizeof own / sizeof *own;
        while (k < n && (strlen(own[k].key) != name.size || memcmp(own[k].key, name.data, name.size) != 0)) {
            k++;
        }
        if (k < n) {
            gguf_put_u32(w, own[k].key, own[k].value);
        } else {
            gguf_put_copy(w, tiny, i);
        }
    }
    gguf_close(tiny);
    put(w, "token_embd.weight", 2, WIDTH, VOCAB, 1);
    put(w, "output.weight", 2, WIDTH, VOCAB, 1);
    put(w, "output_norm.weight", 1, WIDTH, 1, 1);
    for (int i = 0; i < LAYERS; i++) {
        const struct {
            const char *name;
            int n_dims;
            int64_t ne[3];
        } layer[] = {{"attn_norm", 1, {WIDTH, 1, 1}},
                     {"attn_q", 2, {WIDTH, HEADS * HEAD_DIM, 1}},
                     {"attn_k", 2, {WIDTH, KV_HEADS * HEAD_DIM, 1}},
                     {"attn_v", 2, {WIDTH, KV_HEADS * HEAD_DIM, 1}},
                     {"attn_output", 2, {HEADS * HEAD_DIM, WIDTH, 1}},
                     {"attn_q_norm", 1, {HEAD_DIM, 1, 1}},
                     {"attn_k_norm", 1, {HEAD_DIM, 1, 1}},
                     {"ffn_norm", 1, {WIDTH, 1, 1}},
                     {"ffn_gate_inp", 2, {WIDTH, EXPERTS, 1}},
                     {"ffn_gate_exps", 3, {WIDTH, WIDTH, EXPERTS}},
                     {"ffn_up_exps", 3, {WIDTH, WIDTH, EXPERTS}},
                     {"ffn_down_exps", 3, {WIDTH, WIDTH, EXPERTS}}};
        for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, layer[k].name);
            put(w, name, layer[k].n_dims, layer[k].ne[0], layer[k].ne[1], layer[k].ne[2]);
        }
    }
    need(gguf_writer_begin(w, &err), &err);
    uint64_t state = 1;
    for (size_t i = 0; i < 3 + 12 * LAYERS; i++) {
        const size_t n = gguf_writer_tensor_bytes(w, i) / sizeof(float);
        float *x = malloc(n * sizeof *x);
        for (size_t k = 0; k < n; k++) { /* norms near one; matrices keep the size of what goes through them */
            x[k] = n <= WIDTH ? 1 + 0.1f * normal(&state) : normal(&state) / 16;
        }
        need(gguf_writer_data(w, i, 0, x, n * sizeof *x, &err), &err);
        free(x);
    }
    need(gguf_writer_finish(w, &err), &err);
}

static int set_up(void **state) {
    if (make_folder(state) != 0) {
        return -1;
    }
    if (!original) {
        static char path[512];
        strcpy(path, in_folder("f32.gguf"));
        write_thinker(path);
        original = path;
    }
    return 0;
}

/* ---- files in every type ---- */

/* As omni quantize, for types that it does not make. */
static void write_read_only(const recipe *r, const char *path) {
    gguf *g;
    gguf_writer *w;
    omni_error err;
    need(gguf_open(original, &g, &err), &err);
    need(gguf_writer_create(path, &w, &err), &err);
    recipe_model m = {.part = PART_THINKER};
    need(gguf_maybe_u32(g, "qwen3vlmoe.block_count", 0, &m.layers, &err), &err);
    need(gguf_maybe_u32(g, "qwen3vlmoe.expert_count", 0, &m.experts, &err), &err);
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        gguf_put_copy(w, g, i);
    }
    const size_t n = gguf_tensor_count(g);
    dtype *types = calloc(n, sizeof *types);
    for (size_t i = 0; i < n; i++) {
        const tensor *t = gguf_tensor_at(g, i);
        types[i] = recipe_type(r, &m, recipe_class(PART_THINKER, t->name, t->n_dims), t->name, t->ne[0]);
        gguf_put_tensor(w, t->name, types[i], t->n_dims, t->ne);
    }
    need(gguf_writer_begin(w, &err), &err);
    for (size_t i = 0; i < n; i++) {
        const tensor *t = gguf_tensor_at(g, i);
        const size_t row = dtype_row_bytes(types[i], t->ne[0]);
        char *bytes = malloc(row);
        for (int64_t k = 0; k < tensor_rows(t); k++) {
            const float *x = tensor_row(t, k);
            if (!encode_row(types[i], x, bytes, t->ne[0])) {
                dtype_from_f32(types[i], x, bytes, t->ne[0]);
            }
            need(gguf_writer_data(w, i, (size_t)k * row, bytes, row, &err), &err);
        }
        free(bytes);
    }
    need(gguf_writer_finish(w, &err), &err);
    free(types);
    gguf_close(g);
}

static void write_type(const char *type, const char *path) {
    const recipe *r;
    omni_error err;
    need(recipe_find(type, &r, &err), &err);
    if (!dtype_writable((uint32_t)r->base)) {
        write_read_only(r, path);
        return;
    }
    const quantize_options o = {.input = original, .output = path, .type = type};
    need(quantize_file(&o, NULL, &err), &err);
}

/* ---- logits ---- */

static int64_t vocab;

static float *logits_of(const char *path, const char *isa, bool no_repack) {
    reader r;
    omni_error err;
    float *logits;
    int32_t ids[LENGTH];
    setenv("OMNI_CPU", isa, 1);
    need(reader_open(&r, path, no_repack, LENGTH, &err), &err);
    unsetenv("OMNI_CPU");
    vocab = r.vocab;
    random_ids(ids, LENGTH, vocab, 1);
    need(reader_read(&r, ids, LENGTH, &logits, &err), &err);
    reader_close(&r);
    return logits;
}

static int64_t largest_of(const float *row) {
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++) {
        best = row[i] > row[best] ? i : best;
    }
    return best;
}

/* Rows whose first choices differ although the plain version's logits of the two are further apart than rounding may move them. */
static int other_choices(const float *plain, const float *got, double error) {
    int n = 0;
    for (int64_t r = 0; r < LENGTH; r++, plain += vocab, got += vocab) {
        n += plain[largest_of(plain)] - plain[largest_of(got)] > error;
    }
    return n;
}

static void every_type_stays_within_its_bounds(void **state) {
    const char *names[KERNEL_ISAS];
    const int isas = kernels_isas(names);
    float *exact = logits_of(original, "generic", true);
    int failures = 0;
    for (int i = 0; i < N_TYPES; i++) {
        const bound *b = given ? &BOUNDS[i].c : &BOUNDS[i].own;
        char path[512];
        strcpy(path, in_folder("typed.gguf"));
        write_type(BOUNDS[i].type, path);
        float *same_weights = logits_of(path, names[isas - 1], true), *plain = NULL;
        for (int l = 0; l < isas; l++) {
            float *got = logits_of(path, names[l], false);
            plain = plain ? plain : got;
            distance from_original = {0}, from_same = {0};
            distance_add(&from_original, exact, got, LENGTH, vocab);
            distance_add(&from_same, same_weights, got, LENGTH, vocab);
            const double error = distance_error(&from_original), kl = from_original.kl / LENGTH, computing = distance_error(&from_same);
            const double size = sqrt(from_same.exact_squares / (double)(LENGTH * vocab));
            const int others = other_choices(plain, got, BOUNDS[i].computing * size);
            const bool good = error <= b->error && kl <= b->kl && computing <= BOUNDS[i].computing && others == 0;
            failures += !good;
            printf("%-7s %-10s %s: error %.5f of %g, KL %.2e of %g, computing %.5f of %g, %d other choices\n", BOUNDS[i].type, names[l],
                   good ? "good" : "WRONG", error, b->error, kl, b->kl, computing, BOUNDS[i].computing, others);
            if (got != plain) {
                free(got);
            }
        }
        free(plain);
        free(same_weights);
        unlink(path);
    }
    free(exact);
    assert_int_equal(failures, 0);
}

int main(int argc, char **argv) {
    original = argc > 1 ? argv[1] : NULL;
    given = original != NULL;
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_type_stays_within_its_bounds)};
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
