/* The encoders: 30 seconds of noise, from samples to embeddings, and one picture of 1024 x 1024, from pixels to embeddings. */
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

enum { SECONDS = 30, SIDE = 1024 };

typedef struct audio_work {
    const encoders *e;
    float *samples;
    int64_t count;
    float *embeds;
} audio_work;

static omni_status hear(void *arg, omni_error *err) {
    audio_work *a = arg;
    mel_sound whole = {a->samples, a->count};
    mel_clip clip;
    int64_t frames;
    TRY(mel_run(a->e->mel, &whole, 1, 0, &clip, &frames, err));
    omni_status status = audio_encoder_run(a->e->audio, &clip, 1, 0, a->embeds, err);
    mel_clips_free(&clip, 1);
    return status;
}

omni_status bench_audio(bench *x, omni_error *err) {
    if (!bench_wants(x, "audio")) {
        return OMNI_OK;
    }
    const mel_config *c = audio_encoder_mel(x->encoders.audio);
    audio_work a = {.e = &x->encoders, .count = (int64_t)SECONDS * c->rate};
    int64_t rows = audio_encoder_rows(a.e->audio, a.count / c->hop + 1);
    a.samples = malloc((size_t)a.count * sizeof *a.samples);
    omni_status status = a.samples ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    if (status == OMNI_OK) {
        bench_noise(a.samples, a.count, 3);
        status = x->b->ops->alloc(x->b, (size_t)(rows * audio_encoder_width(a.e->audio)) * sizeof(float), (void **)&a.embeds, err);
    }
    if (status == OMNI_OK) {
        bench_work w = {NULL, hear, &a, SECONDS};
        status = bench_rate(x, "audio", "s/s", &w, err);
    }
    if (a.embeds) {
        x->b->ops->release(x->b, a.embeds);
    }
    free(a.samples);
    return status;
}

typedef struct vision_work {
    bench *x;
    const vision_config *c;
    image im;
    float *embeds, *deepstack[16];
} vision_work;

static omni_status see(void *arg, omni_error *err) {
    vision_work *v = arg;
    patch_set set = {0};
    TRY(patches_from_image(&v->im, &v->c->image, &set, err));
    omni_status status = vision_encoder_run(v->x->encoders.vision, &set, 1, v->embeds, v->deepstack, err);
    patch_set_free(&set);
    return status;
}

omni_status bench_vision(bench *x, omni_error *err) {
    if (!bench_wants(x, "image")) {
        return OMNI_OK;
    }
    vision_work v = {.x = x, .c = vision_encoder_config(x->encoders.vision)};
    const ops *o = x->b->ops;
    int sets = v.c->deepstack;
    if (sets > (int)(sizeof v.deepstack / sizeof *v.deepstack)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%d deepstack sets", sets);
    }
    size_t bytes = (size_t)SIDE * SIDE * 3;
    uint8_t *pixels = malloc(bytes);
    if (!pixels) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    uint32_t state = 5;
    for (size_t i = 0; i < bytes; i++) {
        pixels[i] = (uint8_t)bench_random(&state);
    }
    v.im.width = v.im.height = SIDE;
    v.im.rgb = pixels;
    patch_set set = {0};
    omni_status status = patches_from_image(&v.im, &v.c->image, &set, err);
    size_t row_bytes = status == OMNI_OK ? (size_t)(vision_embeddings(v.c, &set) * v.c->out) * sizeof(float) : 0;
    patch_set_free(&set);
    status = status == OMNI_OK ? o->alloc(x->b, row_bytes, (void **)&v.embeds, err) : status;
    for (int i = 0; status == OMNI_OK && i < sets; i++) {
        status = o->alloc(x->b, row_bytes, (void **)&v.deepstack[i], err);
    }
    if (status == OMNI_OK) {
        bench_work w = {NULL, see, &v, 1};
        status = bench_rate(x, "image", "img/s", &w, err);
    }
    for (int i = 0; i < sets; i++) {
        if (v.deepstack[i]) {
            o->release(x->b, v.deepstack[i]);
        }
    }
    if (v.embeds) {
        o->release(x->b, v.embeds);
    }
    free(pixels);
    return status;
}
