/* Frames of videos decoded as their packets suggest, against decoding everything: video_frames FILE...; or the first frame of one as a PPM file on
 * standard output: video_frames --first FILE.
 *
 * For each file, several choices of frames are decoded in both ways; what comes must be equal bit for bit. Prints a line a file: how many frames,
 * "planned" (or "all", where the packets do not tell the frames), and pixels decoded with the plan as a percentage of all, for each choice: the first
 * frame, each fifth, 13th, 41st, 100th, nine in the middle, the last. Ends with 1 where frames differ. tests/videos.py runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "media/video_source.h"

enum { MOST = 4096 };

typedef struct frames {
    int64_t n, index[MOST];
    uint64_t hash[MOST], area;
} frames;

static omni_status begin(void *arg, int64_t height, int64_t width, omni_error *err) {
    (void)err;
    ((frames *)arg)->area = (uint64_t)(height * width);
    return OMNI_OK;
}

static omni_status take(void *arg, int64_t index, const uint8_t *rgb, omni_error *err) {
    frames *f = arg;
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (uint64_t i = 0; i < f->area * 3; i++) {
        hash = (hash ^ rgb[i]) * 1099511628211u;
    }
    if (f->n == MOST) {
        return fail(err, OMNI_ERR_LIMIT, "too many frames");
    }
    f->index[f->n] = index;
    f->hash[f->n++] = hash;
    return OMNI_OK;
}

static omni_status begin_picture(void *arg, int64_t height, int64_t width, omni_error *err) {
    (void)err;
    *(int64_t *)arg = width * height * 3;
    printf("P6\n%lld %lld\n255\n", (long long)width, (long long)height);
    return OMNI_OK;
}

static omni_status take_picture(void *arg, int64_t index, const uint8_t *rgb, omni_error *err) {
    (void)index;
    const size_t size = (size_t) * (int64_t *)arg;
    return fwrite(rgb, 1, size, stdout) == size ? OMNI_OK : fail(err, OMNI_ERR_IO, "cannot write");
}

static int first_picture(const char *path) {
    omni_error err = {0};
    budget b;
    budget_init(&b, NULL);
    int64_t size = 0, decoded;
    const video_limits limits = {1000000, &b};
    const video_sink sink = {&size, begin_picture, take_picture};
    if (video_decode(&(video_bytes){.name = path}, &limits, NULL, &(int32_t){0}, 1, &sink, &decoded, &err) != OMNI_OK) {
        fprintf(stderr, "video_frames: %s\n", err.text);
        return 1;
    }
    return 0;
}

/* Pixels that were decoded. */
static double run(const char *path, const int32_t *indices, int64_t n, bool plan, frames *out, int64_t *decoded) {
    omni_error err = {0};
    budget b;
    budget_init(&b, &(budget_limits){.pixels = INT64_C(1) << 50});
    const video_bytes bytes = {.name = path};
    const video_limits limits = {1000000, &b};
    const video_sink sink = {out, begin, take};
    video_info info;
    *out = (frames){0};
    omni_status status = video_scan(&bytes, &limits, &info, &err);
    const bool usable = plan && info.packets.usable;
    if (status == OMNI_OK) {
        status = video_decode(&bytes, &limits, usable ? &info.packets : NULL, indices, n, &sink, decoded, &err);
    }
    *decoded = plan && !info.packets.usable ? -2 : *decoded;
    video_packets_free(&info.packets);
    if (status != OMNI_OK) {
        fprintf(stderr, "video_frames: %s\n", err.text);
        exit(1);
    }
    return (double)atomic_load(&b.frames) - (double)out->n * (double)out->area;
}

/* 0: some of the frames differ. */
static int compare(const char *path, const int32_t *indices, int64_t n, int64_t *frames_there) {
    static frames all, some;
    int64_t decoded, planned;
    const double whole = run(path, indices, n, false, &all, &decoded), part = run(path, indices, n, true, &some, &planned);
    *frames_there = decoded;
    if (planned < 0) {
        printf(planned == -2 ? " all" : " broken");
        return 1;
    }
    printf(" planned %.0f%%", part / whole * 100);
    return all.n == some.n && decoded == planned && memcmp(all.index, some.index, (size_t)all.n * sizeof *all.index) == 0 &&
           memcmp(all.hash, some.hash, (size_t)all.n * sizeof *all.hash) == 0;
}

int main(int argc, char **argv) {
    int failed = 0;
    if (argc == 3 && strcmp(argv[1], "--first") == 0) {
        return first_picture(argv[2]);
    }
    for (int i = 1; i < argc; i++) {
        static int32_t indices[MOST];
        int64_t total = 0;
        printf("%s", argv[i]);
        int same = compare(argv[i], indices, 1, &total); /* frame 0 tells how many there are */
        const int steps[] = {5, 13, 41, 100};
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
            int64_t n = 0;
            for (int64_t at = steps[k] / 2; at < total && n < MOST; at += steps[k]) {
                indices[n++] = (int32_t)at;
            }
            same &= n < 1 || compare(argv[i], indices, n, &total);
        }
        int64_t n = 0;
        for (int64_t at = total / 2; at < total / 2 + 9 && at < total; at++) {
            indices[n++] = (int32_t)at;
        }
        same &= compare(argv[i], indices, n, &total);
        indices[0] = (int32_t)(total - 1);
        same &= compare(argv[i], indices, 1, &total);
        printf(" of %lld: %s\n", (long long)total, same ? "equal" : "DIFFERENT");
        failed |= !same;
    }
    return failed;
}
