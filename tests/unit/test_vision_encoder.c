/* The vision encoder on a small model with random weights, against transformers (make_vision_vectors.py). */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cpu/cpu.h"
#include "gguf/safetensors.h"
#include "model/vision_encoder.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { N_MEDIA = 4, WIDTH = 96, OUT = 20, DEEPSTACK = 2, LIMIT = 1 << 20 };

static const int32_t GRIDS[N_MEDIA][3] = {{1, 2, 2}, {1, 6, 10}, {3, 4, 6}, {1, 14, 2}};

static void make_media(patch_set sets[N_MEDIA]) {
    for (int i = 0; i < N_MEDIA; i++) {
        patch_set *s = &sets[i];
        *s = (patch_set){.t = GRIDS[i][0], .h = GRIDS[i][1], .w = GRIDS[i][2], .patch = 4, .temporal = 2};
        size_t n = (size_t)patch_count(s) * WIDTH;
        s->levels = malloc(n);
        assert_non_null(s->levels);
        uint32_t seed = 200 + (uint32_t)i;
        for (size_t k = 0; k < n; k++) {
            seed = seed * 1664525 + 1013904223;
            s->levels[k] = (uint8_t)(seed >> 24);
        }
        for (int k = 0; k < 256; k++) {
            s->value[0][k] = s->value[1][k] = s->value[2][k] = ((float)k - 127.5f) / 127.5f;
        }
    }
}

static void free_media(patch_set sets[N_MEDIA]) {
    for (int i = 0; i < N_MEDIA; i++) {
        patch_set_free(&sets[i]);
    }
}

static double relative_error(const safetensors *file, const char *name, const float *got, size_t n) {
    const st_tensor *want = safetensors_find(file, name);
    assert_non_null(want);
    assert_int_equal(want->size, n * sizeof(float));
    double largest = 0, error = 0;
    for (size_t i = 0; i < n; i++) {
        double w = ((const float *)want->data)[i];
        largest = fmax(largest, fabs(w));
        error = fmax(error, isfinite(got[i]) ? fabs(w - got[i]) : INFINITY);
    }
    return error / largest;
}

typedef struct fixture {
    backend *b;
    gguf *g;
    vision_encoder *v;
    patch_set sets[N_MEDIA];
} fixture;

static int set_up(void **state) {
    static fixture f;
    omni_error err = {0};
    if (cpu_backend_create(2, &f.b, &err) != OMNI_OK || gguf_open(TEST_DATA "/vision/encoder.gguf", &f.g, &err) != OMNI_OK ||
        vision_encoder_open(f.b, f.g, &f.v, &err) != OMNI_OK) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    make_media(f.sets);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    free_media(f->sets);
    vision_encoder_close(f->v);
    gguf_close(f->g);
    cpu_backend_destroy(f->b);
    return 0;
}

static float *backend_floats(backend *b, size_t n) {
    void *p;
    omni_error err;
    assert_int_equal(b->ops->alloc(b, n * sizeof(float), &p, &err), OMNI_OK);
    return p;
}

static void equals_transformers(void **state) {
    fixture *f = *state;
    const vision_config *c = vision_encoder_config(f->v);
    omni_error err;
    assert_int_equal(c->hidden, 24);
    assert_int_equal(c->out, OUT);
    assert_int_equal(c->grid, 5);
    assert_int_equal(c->deepstack, DEEPSTACK);
    assert_int_equal(c->image.min_pixels, 64);
    assert_int_equal(c->video.max_pixels, 786432);
    size_t n = 0;
    for (int i = 0; i < N_MEDIA; i++) {
        n += (size_t)vision_embeddings(c, &f->sets[i]) * OUT;
    }
    float *embeds = backend_floats(f->b, n), *deep[DEEPSTACK] = {backend_floats(f->b, n), backend_floats(f->b, n)}, *host = malloc(n * sizeof *host);
    assert_non_null(host);
    if (vision_encoder_run(f->v, f->sets, N_MEDIA, embeds, deep, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    safetensors *file;
    assert_int_equal(safetensors_open_file(TEST_DATA "/vision/encoder.safetensors", &file, &err), OMNI_OK);
    const char *names[] = {"embeds", "deepstack.0", "deepstack.1"};
    float *const results[] = {embeds, deep[0], deep[1]};
    for (int i = 0; i < 3; i++) {
        f->b->ops->download(f->b, host, results[i], n * sizeof *host);
        double error = relative_error(file, names[i], host, n);
        if (!(error < 1e-5)) {
            fail_msg("%s: error %.3g of the largest value", names[i], error);
        }
    }
    safetensors_close(file);

    /* One medium alone, after larger ones: the same values, bit for bit. */
    size_t before = 0, own = (size_t)vision_embeddings(c, &f->sets[2]) * OUT;
    for (int i = 0; i < 2; i++) {
        before += (size_t)vision_embeddings(c, &f->sets[i]) * OUT;
    }
    float *alone = backend_floats(f->b, n), *host_alone = malloc(n * sizeof *host_alone);
    assert_non_null(host_alone);
    f->b->ops->download(f->b, host, embeds, n * sizeof *host);
    assert_int_equal(vision_encoder_run(f->v, &f->sets[2], 1, alone, deep, &err), OMNI_OK);
    f->b->ops->download(f->b, host_alone, alone, own * sizeof *host_alone);
    assert_memory_equal(host_alone, host + before, own * sizeof *host);
    free(host);
    free(host_alone);
    f->b->ops->release(f->b, alone);
    for (int i = 0; i < 3; i++) {
        f->b->ops->release(f->b, results[i]);
    }
}

/* All media in units of so many rows: the bits of one call. */
static void units_make_no_difference(void **state) {
    fixture *f = *state;
    const vision_config *c = vision_encoder_config(f->v);
    omni_error err;
    size_t n = 0;
    for (int i = 0; i < N_MEDIA; i++) {
        n += (size_t)vision_embeddings(c, &f->sets[i]) * OUT;
    }
    const size_t bytes = n * sizeof(float);
    float *got[3], *whole[3], *host = malloc(bytes);
    for (int i = 0; i < 3; i++) {
        got[i] = backend_floats(f->b, n);
        whole[i] = malloc(bytes);
        assert_true(host && whole[i]);
    }
    assert_int_equal(vision_encoder_run(f->v, f->sets, N_MEDIA, got[0], got + 1, &err), OMNI_OK);
    for (int i = 0; i < 3; i++) {
        f->b->ops->download(f->b, whole[i], got[i], bytes);
    }
    memset(host, 0x55, bytes);
    int units = 0;
    static const int64_t rows[] = {0, 1, 3, 7, 64, 1 << 20};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        for (int i = 0; i < 3; i++) {
            f->b->ops->upload(f->b, got[i], host, bytes);
        }
        const int before = units;
        assert_int_equal(vision_encoder_begin(f->v, f->sets, N_MEDIA, got[0], got + 1, &err), OMNI_OK);
        for (units = 1; vision_encoder_step(f->v, rows[k]); units++) {
        }
        assert_false(vision_encoder_step(f->v, rows[k]));
        assert_true(k < 2 || units < before); /* larger ones, fewer of them */
        for (int i = 0; i < 3; i++) {
            float *now = malloc(bytes);
            assert_non_null(now);
            f->b->ops->download(f->b, now, got[i], bytes);
            assert_memory_equal(now, whole[i], bytes);
            free(now);
        }
    }
    /* What was left in the middle does not matter to the next. */
    assert_int_equal(vision_encoder_begin(f->v, f->sets, N_MEDIA, got[0], got + 1, &err), OMNI_OK);
    for (int i = 0; i < 20; i++) {
        assert_true(vision_encoder_step(f->v, 5));
    }
    assert_int_equal(vision_encoder_run(f->v, f->sets, N_MEDIA, got[0], got + 1, &err), OMNI_OK);
    f->b->ops->download(f->b, host, got[0], bytes);
    assert_memory_equal(host, whole[0], bytes);
    free(host);
    for (int i = 0; i < 3; i++) {
        f->b->ops->release(f->b, got[i]);
        free(whole[i]);
    }
}

static void refuses_other_grids(void **state) {
    fixture *f = *state;
    omni_error err;
    patch_set s = f->sets[0];
    s.h = 3;
    assert_int_equal(vision_encoder_run(f->v, &s, 1, NULL, NULL, &err), OMNI_ERR_ARGUMENT);
    s = f->sets[0];
    s.patch = 8;
    assert_int_equal(vision_encoder_run(f->v, &s, 1, NULL, NULL, &err), OMNI_ERR_ARGUMENT);
}

/* A file whose header bytes are altered opens or gives an error. */
static void survives_damage(void **state) {
    fixture *f = *state;
    char *data;
    size_t size;
    omni_error err;
    int opened = 0, refused = 0;
    assert_int_equal(file_read(TEST_DATA "/vision/encoder.gguf", LIMIT, &data, &size, &err), OMNI_OK);
    for (size_t at = 24; at < 6000; at += 7) {
        char kept = data[at];
        data[at] = (char)(kept ^ (1 << at % 8));
        gguf *g;
        if (gguf_open_memory(data, size, "altered", &g, &err) == OMNI_OK) {
            vision_encoder *v;
            if (vision_encoder_open(f->b, g, &v, &err) == OMNI_OK) {
                vision_encoder_close(v);
                opened++;
            } else {
                assert_non_null(strstr(err.text, "altered"));
                refused++;
            }
            gguf_close(g);
        }
        data[at] = kept;
    }
    free(data);
    assert_in_range(opened, 1, 10000);
    assert_in_range(refused, 1, 10000);
}

/* A flag that asks for a merger whose tensors are not there would silently change the answer. */
static void deepstack_flags_need_tensors(void **state) {
    fixture *f = *state;
    static const char key[] = "clip.vision.is_deepstack_layers";
    char *data;
    size_t size;
    omni_error err;
    assert_int_equal(file_read(TEST_DATA "/vision/encoder.gguf", LIMIT, &data, &size, &err), OMNI_OK);
    char *flags = memmem(data, size, key, strlen(key));
    assert_non_null(flags);
    flags += strlen(key) + 4 + 4 + 8; /* the key's type, the elements', their number */
    assert_memory_equal(flags, "\1\0\1", 3);
    flags[1] = 1;
    gguf *g;
    vision_encoder *v;
    assert_int_equal(gguf_open_memory(data, size, "altered", &g, &err), OMNI_OK);
    assert_int_equal(vision_encoder_open(f->b, g, &v, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "names layer 1"));
    gguf_close(g);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_transformers), cmocka_unit_test(units_make_no_difference),     cmocka_unit_test(refuses_other_grids),
        cmocka_unit_test(survives_damage),     cmocka_unit_test(deepstack_flags_need_tensors),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
