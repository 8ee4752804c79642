/* Decoding against Pillow: each file under media/image has the RGB values that Pillow gives beside it, as a PPM, upright and over white as the
 * reference pipeline makes them. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <png.h>

#include "base/file.h"
#include "media/image.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

static const char FOLDER[] = TEST_DATA "/media/image";
enum { LIMIT = 1 << 20, PATH = 512 };

/* Calls what() for each picture (not its PPM); returns how many there were. */
static int each_picture(void (*what)(const char *path)) {
    DIR *d = opendir(FOLDER);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] != '.' && !strstr(e->d_name, ".ppm")) {
            char path[PATH];
            snprintf(path, sizeof path, "%s/%s", FOLDER, e->d_name);
            what(path);
            n++;
        }
    }
    closedir(d);
    return n;
}

static int unequal;

static void compare(const char *path) {
    char ppm[PATH + 8], *data;
    size_t size;
    int width, height, begin;
    omni_error err = {0};
    snprintf(ppm, sizeof ppm, "%s.ppm", path);
    assert_int_equal(file_read(ppm, LIMIT, &data, &size, &err), OMNI_OK);
    assert_int_equal(sscanf(data, "P6 %d %d 255%n", &width, &height, &begin), 2);
    assert_int_equal(size, (size_t)begin + 1 + (size_t)width * (size_t)height * 3);
    image im;
    if (image_open(path, NULL, &im, &err) != OMNI_OK) {
        print_error("%s\n", err.text);
        unequal++;
        free(data);
        return;
    }
    /* HEIC and AVIF in colour: versions of libheif and libavif round differently on the way to RGB, as libswscale does */
    const int tolerance = strstr(path, "ycbcr") ? 1 : !strstr(path, "rgb") ? 0 : strstr(path, ".avif") ? 3 : strstr(path, ".heic") ? 1 : 0;
    bool equal = im.width == width && im.height == height;
    for (size_t i = 0; equal && i < (size_t)width * (size_t)height * 3; i++) {
        equal = abs(im.rgb[i] - (uint8_t)data[(size_t)begin + 1 + i]) <= tolerance;
    }
    if (!equal) {
        print_error("%s differs from Pillow's values: %d x %d\n", path, im.width, im.height);
        unequal++;
    }
    image_free(&im);
    free(data);
}

static void equals_pillow(void **state) {
    assert_in_range(each_picture(compare), 100, 1000);
    assert_int_equal(unequal, 0);
}

/* A shortened or altered file gives an error or a picture, and no error leaves memory behind. */
static void damage(const char *path) {
    char *data;
    size_t size;
    omni_error err;
    image im;
    budget limits;
    assert_int_equal(file_read(path, LIMIT, &data, &size, &err), OMNI_OK);
    uint8_t *copy = malloc(size + 1);
    assert_non_null(copy);
    for (size_t cut = 0; cut < size; cut += 1 + size / 60) {
        memcpy(copy, data, cut);
        budget_init(&limits, &(budget_limits){.pixels = 1 << 20});
        omni_status status = image_decode(copy, cut, "cut", &limits, &im, &err);
        if (status == OMNI_OK) {
            image_free(&im);
        } else {
            assert_null(im.rgb);
            assert_int_equal(atomic_load(&limits.held), 0);
            assert_non_null(strstr(err.text, "cut: "));
        }
        if (cut < size / 3) {
            assert_int_not_equal(status, OMNI_OK);
        }
    }
    uint32_t random = (uint32_t)size;
    for (int i = 0; i < 60; i++) {
        memcpy(copy, data, size);
        random = random * 1664525 + 1013904223;
        copy[random % size] ^= (uint8_t)(1 << (random >> 29));
        budget_init(&limits, &(budget_limits){.pixels = 1 << 20});
        if (image_decode(copy, size, "flipped", &limits, &im, &err) == OMNI_OK) {
            image_free(&im);
        }
        assert_int_equal(atomic_load(&limits.held), 0);
    }
    free(copy);
    free(data);
}

static void survives_damage(void **state) {
    assert_in_range(each_picture(damage), 40, 1000);
}

static void states_limits(void **state) {
    static const char *const names[] = {"baseline.jpg", "rgb.png", "lossy.webp", "plain.gif", "animation.webp"};
    omni_error err;
    image im;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH];
        snprintf(path, sizeof path, "%s/%s", FOLDER, names[i]);
        budget b;
        budget_init(&b, &(budget_limits){.pixels = 200});
        assert_int_equal(image_open(path, &b, &im, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "--max-pixels (now 200)"));
        assert_non_null(strstr(err.text, names[i]));
        budget_init(&b, &(budget_limits){.memory = 1500});
        assert_int_equal(image_open(path, &b, &im, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "limit of 1500 bytes"));
        assert_non_null(strstr(err.text, "--max-media-memory"));
        budget_init(&b, &(budget_limits){.file_bytes = 100});
        assert_int_equal(image_open(path, &b, &im, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "100"));
        assert_int_equal(atomic_load(&b.held), 0);
    }
    assert_int_equal(image_open(TEST_DATA "/media/image/none.png", NULL, &im, &err), OMNI_ERR_IO);
    assert_int_equal(image_decode("plain text", 10, "notes.txt", NULL, &im, &err), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "notes.txt"));
    assert_int_equal(image_decode("", 0, "empty", NULL, &im, &err), OMNI_ERR_UNSUPPORTED);
}

/* What a TIFF holds in a way that the decoder does not know is an error, never a black picture. */
static void refuses_what_it_cannot_read(void **state) {
    enum { COMPRESSION = 0x0103, PLAIN = 1 };
    static const int kinds[] = {6, 7, 9, 10, 34661, 34677, 34712, 34925, 50001, 999}; /* old and new JPEG, JBIG, JPEG 2000, LZMA, WebP, ... */
    omni_error err;
    char *data;
    size_t size;
    assert_int_equal(file_read(TEST_DATA "/media/image/rgb.tiff", LIMIT, &data, &size, &err), OMNI_OK);
    assert_memory_equal(data, "II*", 4);
    size_t at = 0;
    for (size_t i = 8; i + 12 <= size && !at; i++) { /* little-endian: tag, SHORT, one value */
        at = memcmp(data + i, (const uint8_t[]){COMPRESSION & 255, COMPRESSION >> 8, 3, 0, 1, 0, 0, 0, PLAIN, 0}, 10) == 0 ? i + 8 : 0;
    }
    assert_int_not_equal(at, 0);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        data[at] = (char)kinds[i];
        data[at + 1] = (char)(kinds[i] >> 8);
        image im;
        const omni_status status = image_decode(data, size, "kind.tiff", NULL, &im, &err);
        if (status != OMNI_ERR_UNSUPPORTED && status != OMNI_ERR_FORMAT) {
            fail_msg("compression %d: status %d", kinds[i], status);
        }
        assert_non_null(strstr(err.text, "kind.tiff: "));
    }
    free(data);
    /* compressed data that ends too early, or is damaged */
    assert_int_equal(file_read(TEST_DATA "/media/image/deflate.tiff", LIMIT, &data, &size, &err), OMNI_OK);
    for (size_t i = 40; i < 140; i += 20) {
        data[i] ^= 0x55;
        image im;
        if (image_decode(data, size, "bad.tiff", NULL, &im, &err) == OMNI_OK) {
            fail_msg("deflated data damaged at %zu: no error", i);
        }
        data[i] ^= 0x55;
    }
    free(data);
}

typedef struct written {
    uint8_t bytes[1 << 16];
    size_t size;
} written;

static void on_write(png_structp png, png_bytep data, size_t n) {
    written *w = png_get_io_ptr(png);
    assert_true(n <= sizeof w->bytes - w->size);
    memcpy(w->bytes + w->size, data, n);
    w->size += n;
}

/* A PNG of one pixel whose text of 7 million letters, packed to a few thousand bytes, stands in it 100 times. */
static void skips_texts(void **state) {
    enum { LETTERS = 7000000, TIMES = 100 };
    written *w = calloc(1, sizeof *w);
    char *letters = calloc(1, LETTERS + 1);
    assert_true(w && letters);
    memset(letters, 'a', LETTERS);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    assert_true(png && info && setjmp(png_jmpbuf(png)) == 0);
    png_set_write_fn(png, w, on_write, NULL);
    png_set_IHDR(png, info, 1, 1, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    char key[] = "k";
    png_text text = {.compression = PNG_TEXT_COMPRESSION_zTXt, .key = key, .text = letters, .text_length = LETTERS};
    png_set_text(png, info, &text, 1);
    png_write_info(png, info);
    size_t end = w->size, begin = 8 + 25; /* behind the signature and IHDR */
    png_write_row(png, (const uint8_t[]){1, 2, 3});
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    assert_memory_equal(w->bytes + begin + 4, "zTXt", 4);

    size_t chunk = end - begin, size = w->size + (TIMES - 1) * chunk;
    uint8_t *all = malloc(size);
    assert_non_null(all);
    memcpy(all, w->bytes, end);
    for (size_t i = 1; i < TIMES; i++) {
        memcpy(all + begin + i * chunk, w->bytes + begin, chunk);
    }
    memcpy(all + begin + TIMES * chunk, w->bytes + end, w->size - end);
    omni_error err;
    image im;
    clock_t start = clock();
    assert_int_equal(image_decode(all, size, "texts", NULL, &im, &err), OMNI_OK);
    assert_true(clock() - start < CLOCKS_PER_SEC); /* unpacking takes three seconds */
    assert_memory_equal(im.rgb, ((const uint8_t[]){1, 2, 3}), 3);
    image_free(&im);
    free(all);
    free(letters);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow), cmocka_unit_test(survives_damage),
        cmocka_unit_test(states_limits), cmocka_unit_test(refuses_what_it_cannot_read),
        cmocka_unit_test(skips_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
