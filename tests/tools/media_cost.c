/* What loading media costs: media_cost (image|sound|video) FILE...
 *
 * Loads the files one after the other within one budget, as one message, with the released model's sizes and no limit of context, and prints one
 * line: seconds of CPU, megabytes of peak memory beyond what the process had before, "ok" or the error. tests/bombs.py runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "media/image.h"
#include "media/patches.h"
#include "media/sound.h"
#include "media/video.h"

static const patch_params IMAGE = {.patch = 16, .merge = 2, .temporal = 2, .min_pixels = 3136, .max_pixels = 12845056, .std = {1, 1, 1}};
static const patch_params VIDEO = {.patch = 16, .merge = 2, .temporal = 2, .min_pixels = 131072, .max_pixels = 786432, .std = {1, 1, 1}};

/* What one file has become: kept until all are loaded, as in a message. */
typedef struct loaded {
    patch_set set;
    video v;
    sound s;
} loaded;

static omni_status load_image(const char *path, budget *b, patch_set *set, omni_error *err) {
    image im;
    TRY(image_open(path, b, &im, err));
    omni_status status = patches_reserve(1, im.height, im.width, &IMAGE, b, path, NULL, err);
    status = status == OMNI_OK ? patches_from_image(&im, &IMAGE, set, err) : status;
    image_free(&im);
    return status;
}

static double megabytes(void) {
    char line[256];
    long peak = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f)) {
        (void)sscanf(line, "VmHWM: %ld kB", &peak);
    }
    if (f) {
        fclose(f);
    }
    return (double)peak / 1024;
}

static double seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: media_cost (image|sound|video) FILE...\n");
        return 2;
    }
    budget b;
    omni_error err = {0};
    omni_status status = OMNI_OK;
    budget_init(&b, NULL);
    loaded *all = calloc((size_t)argc, sizeof *all);
    if (!all) {
        return 2;
    }
    const double memory = megabytes(), time = seconds();
    for (int i = 2; i < argc && status == OMNI_OK; i++) {
        loaded *x = &all[i];
        status = argv[1][0] == 'i'   ? load_image(argv[i], &b, &x->set, &err)
                 : argv[1][0] == 's' ? sound_load(argv[i], &(sound_options){.budget = &b}, &x->s, &err)
                                     : video_open(argv[i], &VIDEO, &(video_options){.budget = &b}, &x->v, &err);
    }
    printf("%.3f %.1f %s\n", seconds() - time, megabytes() - memory, status == OMNI_OK ? "ok" : err.text);
    for (int i = 2; i < argc; i++) {
        patch_set_free(&all[i].set);
        video_free(&all[i].v);
        sound_free(&all[i].s);
    }
    free(all);
    return status == OMNI_OK ? 0 : 1;
}
