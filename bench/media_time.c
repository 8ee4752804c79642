/* How long media take from a file to what the encoders are given: media_time (image|sound|video) FILE TIMES
 *
 * Prints the seconds of CPU of each time, a line each. bench/media_speed.py builds it within two states of the sources; it knows the calls as they
 * are, and as they were before there was media/budget.h. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "media/image.h"
#include "media/patches.h"
#include "media/sound.h"
#include "media/video.h"

#if __has_include("media/budget.h")
static budget own;
static void begin(void) {
    budget_init(&own, NULL);
}
static budget *const limits = &own;
#define IN_BUDGET .budget = &own
#else
static void begin(void) {
}
static const image_limits *const limits = NULL;
#define IN_BUDGET 0
#endif

static const patch_params IMAGE = {.patch = 16, .merge = 2, .temporal = 2, .min_pixels = 3136, .max_pixels = 12845056, .std = {1, 1, 1}};
static const patch_params VIDEO = {.patch = 16, .merge = 2, .temporal = 2, .min_pixels = 131072, .max_pixels = 786432, .std = {1, 1, 1}};

static omni_status load(char kind, const char *path, omni_error *err) {
    omni_status status;
    if (kind == 'i') {
        image im = {0};
        patch_set set = {0};
        status = image_open(path, limits, &im, err);
        status = status == OMNI_OK ? patches_from_image(&im, &IMAGE, &set, err) : status;
        patch_set_free(&set);
        image_free(&im);
    } else if (kind == 's') {
        sound s = {0};
        status = sound_load(path, &(sound_options){IN_BUDGET}, &s, err);
        sound_free(&s);
    } else {
        video v = {0};
        status = video_open(path, &VIDEO, &(video_options){IN_BUDGET}, &v, err);
        video_free(&v);
    }
    return status;
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: media_time (image|sound|video) FILE TIMES\n");
        return 2;
    }
    for (int i = 0; i < atoi(argv[3]); i++) {
        omni_error err = {0};
        const double start = cpu_seconds();
        begin();
        if (load(argv[1][0], argv[2], &err) != OMNI_OK) {
            fprintf(stderr, "media_time: %s\n", err.text);
            return 1;
        }
        printf("%.4f\n", cpu_seconds() - start);
    }
    return 0;
}
