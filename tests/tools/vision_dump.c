/* vision_dump MMPROJ.gguf OUT.safetensors [--fps X] [--image FILE | --video FILE]...
 * Writes what the vision input and encoder make of the files, for tests/reference/check_vision.py: for images, and for videos, the
 * patches (image.pixel_values), grids, embeddings and deepstack features, all of them in one call of the encoder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "gguf/safetensors.h"
#include "media/image.h"
#include "media/video.h"
#include "model/vision_encoder.h"

static omni_error err;

static void need(omni_status status) {
    if (status != OMNI_OK) {
        fprintf(stderr, "vision_dump: %s\n", err.text);
        exit(1);
    }
}

static void *memory(size_t bytes) {
    void *p = malloc(bytes + 1);
    if (!p) {
        exit(1);
    }
    return p;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void write_rows(backend *b, st_writer *w, const char *kind, const char *name, const float *values, int64_t rows, int64_t width) {
    char full[128];
    float *host = memory((size_t)(rows * width) * sizeof *host);
    b->ops->download(b, host, values, (size_t)(rows * width) * sizeof *host);
    snprintf(full, sizeof full, "%s.%s", kind, name);
    st_writer_f32(w, full, 2, (const int64_t[]){rows, width}, host);
    free(host);
}

static void dump(backend *b, vision_encoder *v, st_writer *w, const char *kind, const patch_set *sets, size_t n) {
    const vision_config *c = vision_encoder_config(v);
    int64_t patches = 0, embeddings = 0, width = patch_width(&c->image);
    int64_t *grid = memory(n * 3 * sizeof *grid);
    for (size_t i = 0; i < n; i++) {
        grid[i * 3] = sets[i].t;
        grid[i * 3 + 1] = sets[i].h;
        grid[i * 3 + 2] = sets[i].w;
        patches += patch_count(&sets[i]);
        embeddings += vision_embeddings(c, &sets[i]);
    }
    float *values = memory((size_t)(patches * width) * sizeof *values), *to = values;
    for (size_t i = 0; i < n; i++) {
        patch_values(&sets[i], 0, patch_count(&sets[i]), to);
        to += patch_count(&sets[i]) * width;
    }
    char name[64];
    snprintf(name, sizeof name, "%s.grid", kind);
    st_writer_i64(w, name, 2, (const int64_t[]){(int64_t)n, 3}, grid);
    snprintf(name, sizeof name, "%s.pixel_values", kind);
    st_writer_f32(w, name, 2, (const int64_t[]){patches, width}, values);
    free(values);
    free(grid);

    void *out;
    float **deepstack = memory((size_t)(c->deepstack + 1) * sizeof *deepstack);
    for (int k = 0; k <= c->deepstack; k++) {
        need(b->ops->alloc(b, (size_t)(embeddings * c->out) * sizeof(float), &out, &err));
        deepstack[k] = out;
    }
    float *embeds = deepstack[c->deepstack];
    double start = now();
    need(vision_encoder_run(v, sets, n, embeds, deepstack, &err));
    fprintf(stderr, "%s: %lld patches, %.2f s\n", kind, (long long)patches, now() - start);
    write_rows(b, w, kind, "embeds", embeds, embeddings, c->out);
    for (int k = 0; k < c->deepstack; k++) {
        snprintf(name, sizeof name, "deepstack_embeds.%d", k);
        write_rows(b, w, kind, name, deepstack[k], embeddings, c->out);
    }
    for (int k = 0; k <= c->deepstack; k++) {
        b->ops->release(b, deepstack[k]);
    }
    free(deepstack);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: vision_dump MMPROJ.gguf OUT.safetensors [--fps X] [--image FILE | --video FILE]...\n");
        return 2;
    }
    backend *b;
    gguf *g;
    vision_encoder *v;
    st_writer *w;
    need(cpu_backend_create(0, &b, &err));
    need(gguf_open(argv[1], &g, &err));
    need(vision_encoder_open(b, g, &v, &err));
    need(st_writer_create(argv[2], &w, &err));
    const vision_config *c = vision_encoder_config(v);
    patch_set *images = memory((size_t)argc * sizeof *images), *videos = memory((size_t)argc * sizeof *videos);
    size_t n_images = 0, n_videos = 0;
    double fps = 2;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--fps") == 0) {
            fps = atof(argv[i + 1]);
        } else if (strcmp(argv[i], "--image") == 0) {
            image im;
            need(image_open(argv[i + 1], NULL, &im, &err));
            need(patches_from_image(&im, &c->image, &images[n_images++], &err));
            image_free(&im);
        } else {
            video clip;
            need(video_open(argv[i + 1], &c->video, &(video_options){.fps = fps}, &clip, &err));
            fprintf(stderr, "%s: %lld of %lld frames, %.4f frames a second, %d x %d\n", argv[i + 1], (long long)clip.frames,
                    (long long)clip.file_frames, clip.file_fps, clip.width, clip.height);
            videos[n_videos++] = clip.patches;
            clip.patches = (patch_set){0};
            video_free(&clip);
        }
    }
    if (n_images) {
        dump(b, v, w, "image", images, n_images);
    }
    if (n_videos) {
        dump(b, v, w, "video", videos, n_videos);
    }
    need(st_writer_finish(w, &err));
    for (size_t i = 0; i < n_images; i++) {
        patch_set_free(&images[i]);
    }
    for (size_t i = 0; i < n_videos; i++) {
        patch_set_free(&videos[i]);
    }
    free(images);
    free(videos);
    vision_encoder_close(v);
    gguf_close(g);
    cpu_backend_destroy(b);
    return 0;
}
