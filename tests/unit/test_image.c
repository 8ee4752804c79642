/* Decoding against Pillow: each file under media/image has the RGB values that Pillow gives beside it, as a PPM. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        fail_msg("%s", err.text);
    }
    if (im.width != width || im.height != height || memcmp(im.rgb, data + begin + 1, (size_t)width * (size_t)height * 3) != 0) {
        fail_msg("%s differs from Pillow's values", path);
    }
    image_free(&im);
    free(data);
}

static void equals_pillow(void **state) {
    assert_in_range(each_picture(compare), 40, 1000);
}

/* A shortened or altered file gives an error or a picture, and no error leaves memory behind. */
static void damage(const char *path) {
    char *data;
    size_t size;
    omni_error err;
    image im;
    image_limits limits = {.pixels = 1 << 20};
    assert_int_equal(file_read(path, LIMIT, &data, &size, &err), OMNI_OK);
    uint8_t *copy = malloc(size + 1);
    assert_non_null(copy);
    for (size_t cut = 0; cut < size; cut += 1 + size / 60) {
        memcpy(copy, data, cut);
        omni_status status = image_decode(copy, cut, "cut", &limits, &im, &err);
        if (status == OMNI_OK) {
            image_free(&im);
        } else {
            assert_null(im.rgb);
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
        if (image_decode(copy, size, "flipped", &limits, &im, &err) == OMNI_OK) {
            image_free(&im);
        }
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
        assert_int_equal(image_open(path, &(image_limits){.pixels = 200}, &im, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "limit of 200 pixels"));
        assert_non_null(strstr(err.text, names[i]));
        assert_int_equal(image_open(path, &(image_limits){.bytes = 100}, &im, &err), OMNI_ERR_LIMIT);
        assert_non_null(strstr(err.text, "100"));
    }
    assert_int_equal(image_open(TEST_DATA "/media/image/none.png", NULL, &im, &err), OMNI_ERR_IO);
    assert_int_equal(image_decode("plain text", 10, "notes.txt", NULL, &im, &err), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "notes.txt"));
    assert_int_equal(image_decode("", 0, "empty", NULL, &im, &err), OMNI_ERR_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow),
        cmocka_unit_test(survives_damage),
        cmocka_unit_test(states_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
