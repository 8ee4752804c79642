/* Resizing and patches against torchvision and transformers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "gguf/safetensors.h"
#include "media/patches.h"
#include "media/resize.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

enum { LIMIT = 1 << 20 };

/* As in make_vision_vectors.py. */
static uint8_t *noise(size_t n, uint32_t seed) {
    uint8_t *out = malloc(n);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        out[i] = (uint8_t)(seed >> 24);
    }
    return out;
}

static void equals_torchvision(void **state) {
    char *data;
    size_t size, at = 0;
    omni_error err;
    int cases = 0;
    assert_int_equal(file_read(TEST_DATA "/vision/resize.bin", LIMIT, &data, &size, &err), OMNI_OK);
    while (at < size) {
        int32_t v[5]; /* height, width, out height, out width, seed */
        assert_in_range(size - at, sizeof v, size);
        memcpy(v, data + at, sizeof v);
        at += sizeof v;
        size_t in = (size_t)v[0] * (size_t)v[1] * 3, n = (size_t)v[2] * (size_t)v[3] * 3;
        uint8_t *rgb = noise(in, (uint32_t)v[4]), *got = malloc(n);
        assert_non_null(got);
        for (size_t i = 0; v[4] % 2 && i < in; i++) {
            rgb[i] = rgb[i] > 127 ? 255 : 0;
        }
        resizer *r;
        assert_int_equal(resizer_create(v[0], v[1], v[2], v[3], &r, &err), OMNI_OK);
        resizer_run(r, rgb, got);
        assert_memory_equal(got, data + at, n);
        resizer_run(r, rgb, got); /* a second image finds the same weights */
        assert_memory_equal(got, data + at, n);
        resizer_destroy(r);
        free(rgb);
        free(got);
        at += n;
        cases++;
    }
    free(data);
    assert_int_equal(cases, 8);
}

static void targets_equal_smart_resize(void **state) {
    char *data;
    size_t size;
    omni_error err;
    int cases = 0, refused = 0, used;
    long long h, w, factor, low, high, oh, ow;
    assert_int_equal(file_read(TEST_DATA "/vision/resize_target.txt", LIMIT, &data, &size, &err), OMNI_OK);
    for (char *p = data; sscanf(p, "%lld %lld %lld %lld %lld %lld %lld%n", &h, &w, &factor, &low, &high, &oh, &ow, &used) == 7; p += used) {
        int64_t gh = 0, gw = 0;
        omni_status status = resize_target(h, w, factor, low, high, &gh, &gw, &err);
        assert_int_equal(status, oh ? OMNI_OK : OMNI_ERR_LIMIT);
        assert_int_equal(gh, oh);
        assert_int_equal(gw, ow);
        refused += status != OMNI_OK;
        cases++;
    }
    free(data);
    assert_int_equal(cases, 159);
    assert_in_range(refused, 1, 100);
    int64_t gh, gw;
    assert_int_equal(resize_target(0, 5, 32, 0, 4096, &gh, &gw, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(resize_target(5, 5, 32, 1 << 30, 1 << 30, &gh, &gw, &err), OMNI_ERR_LIMIT);
}

static const patch_params PARAMS = {
    .patch = 4, .merge = 2, .temporal = 2, .min_pixels = 400, .max_pixels = 900, .mean = {0.48f, 0.5f, 0.40625f}, .std = {0.25f, 0.5f, 0.3f}};

/* Every step-th value of the patches equals the stored ones, bit for bit. */
static void compare(const safetensors *file, const char *name, const patch_set *s, int step) {
    const st_tensor *want = safetensors_find(file, name);
    char grid_name[64];
    snprintf(grid_name, sizeof grid_name, "%s_grid", name);
    const st_tensor *grid = safetensors_find(file, grid_name);
    assert_non_null(want);
    assert_non_null(grid);
    const float *g = grid->data, *expected = want->data;
    assert_int_equal(s->t, (int)g[0]);
    assert_int_equal(s->h, (int)g[1]);
    assert_int_equal(s->w, (int)g[2]);
    int64_t rows = patch_count(s), width = patch_width(&PARAMS), columns = (width + step - 1) / step;
    assert_int_equal(want->size, (size_t)(rows * columns) * sizeof(float));
    float *values = malloc((size_t)(rows * width) * sizeof *values);
    assert_non_null(values);
    patch_values(s, 0, 1, values); /* in two pieces */
    patch_values(s, 1, rows - 1, values + width);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++) {
            if (values[r * width + c * step] != expected[r * columns + c]) {
                fail_msg("%s: patch %lld, value %lld: %.9g, expected %.9g", name, (long long)r, (long long)(c * step),
                         (double)values[r * width + c * step], (double)expected[r * columns + c]);
            }
        }
    }
    free(values);
}

static void patches_equal_transformers(void **state) {
    safetensors *file;
    omni_error err;
    patch_set s;
    patch_writer *w;
    assert_int_equal(safetensors_open_file(TEST_DATA "/vision/patches.safetensors", &file, &err), OMNI_OK);
    image im = {.width = 30, .height = 21, .rgb = noise(21 * 30 * 3, 100)};
    assert_int_equal(patches_from_image(&im, &PARAMS, &s, &err), OMNI_OK);
    compare(file, "image", &s, 1);
    patch_set_free(&s);
    image_free(&im);

    const size_t frame = 20 * 50 * 3;
    uint8_t *rgb = noise(5 * frame, 101);
    assert_int_equal(patches_begin(5, 20, 50, &PARAMS, &w, &err), OMNI_OK);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(patches_frame(w, rgb + i * frame, &err), OMNI_OK);
    }
    assert_int_equal(patches_frame(w, rgb, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(patches_end(w, &s, &err), OMNI_OK);
    compare(file, "video", &s, 7);
    patch_set_free(&s);

    assert_int_equal(patches_begin(4, 20, 50, &PARAMS, &w, &err), OMNI_OK); /* ends after one frame of four */
    assert_int_equal(patches_frame(w, rgb, &err), OMNI_OK);
    assert_int_equal(patches_end(w, &s, &err), OMNI_OK);
    compare(file, "one", &s, 7);
    patch_set_free(&s);
    free(rgb);

    assert_int_equal(patches_begin(4, 20, 50, &PARAMS, &w, &err), OMNI_OK);
    assert_int_equal(patches_end(w, &s, &err), OMNI_ERR_FORMAT);
    safetensors_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_torchvision),
        cmocka_unit_test(targets_equal_smart_resize),
        cmocka_unit_test(patches_equal_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
