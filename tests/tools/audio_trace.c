/* audio_trace OUT.safetensors MMPROJ|- SOUND...: what the sound path computes for these files as the sounds of one prompt:
 * "sound.N" (16 kHz samples), "inputs.input_features", "inputs.feature_attention_mask" and, with an mmproj file, "audio_embeds".
 * tests/reference/check_audio.py compares them with the reference. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "gguf/safetensors.h"
#include "media/mel.h"
#include "media/sound.h"
#include "model/audio_encoder.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static omni_status trace_embeds(st_writer *w, backend *b, gguf *g, const mel_clip *clips, int n, omni_error *err) {
    audio_encoder *e;
    TRY(audio_encoder_open(b, g, &e, err));
    int64_t rows = 0, width = audio_encoder_width(e);
    for (int i = 0; i < n; i++) {
        rows += audio_encoder_rows(e, clips[i].frames);
    }
    const size_t bytes = (size_t)(rows * width) * sizeof(float);
    void *embeds = NULL;
    float *host = malloc(bytes);
    omni_status status = host ? b->ops->alloc(b, bytes, &embeds, err) : fail(err, OMNI_ERR_MEMORY, "out of memory");
    const double start = now();
    if (status == OMNI_OK) {
        status = audio_encoder_run(e, clips, n, 0, embeds, err);
    }
    if (status == OMNI_OK) {
        b->ops->download(b, host, embeds, bytes);
        printf("encoder: %lld embeddings in %.3f s\n", (long long)rows, now() - start);
        st_writer_f32(w, "audio_embeds", 2, (const int64_t[]){rows, width}, host);
    }
    if (embeds) {
        b->ops->release(b, embeds);
    }
    free(host);
    audio_encoder_close(e);
    return status;
}

static omni_status trace(st_writer *w, gguf *g, backend *b, char **files, int n, omni_error *err) {
    mel_config config = {.rate = 16000, .n_fft = 400, .hop = 160, .bins = 128};
    if (g) {
        audio_encoder *e;
        TRY(audio_encoder_open(b, g, &e, err));
        config = *audio_encoder_mel(e);
        audio_encoder_close(e);
    }
    mel *m;
    TRY(mel_create(&config, &m, err));
    mel_sound *sounds = calloc((size_t)n, sizeof *sounds);
    mel_clip *clips = calloc((size_t)n, sizeof *clips);
    omni_status status = sounds && clips ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    double start = now(), seconds = 0;
    for (int i = 0; i < n && status == OMNI_OK; i++) {
        sound s;
        status = sound_load(files[i], &(sound_options){.rate = config.rate}, &s, err);
        if (status == OMNI_OK) {
            char name[32];
            snprintf(name, sizeof name, "sound.%d", i);
            st_writer_f32(w, name, 1, &s.count, s.samples);
            sounds[i] = (mel_sound){.samples = s.samples, .count = s.count};
            seconds += (double)s.count / config.rate;
        }
    }
    printf("decoding: %.2f s of sound in %.3f s\n", seconds, now() - start);
    int64_t frames = 0;
    start = now();
    if (status == OMNI_OK) {
        status = mel_run(m, sounds, n, 0, clips, &frames, err);
    }
    if (status == OMNI_OK) {
        const double took = now() - start;
        printf("mel: %.3f s, %.0f times real time\n", took, seconds / took);
        float *features = malloc((size_t)(n * config.bins * frames) * sizeof(float));
        int64_t *mask = malloc((size_t)(n * frames) * sizeof(int64_t));
        if (features && mask) {
            mel_features(m, clips, n, frames, features, mask);
            st_writer_f32(w, "inputs.input_features", 3, (const int64_t[]){n, config.bins, frames}, features);
            st_writer_i64(w, "inputs.feature_attention_mask", 2, (const int64_t[]){n, frames}, mask);
        }
        free(features);
        free(mask);
        status = g ? trace_embeds(w, b, g, clips, n, err) : OMNI_OK;
        mel_clips_free(clips, n);
    }
    for (int i = 0; i < n && sounds; i++) {
        free((void *)sounds[i].samples);
    }
    free(sounds);
    free(clips);
    mel_free(m);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: audio_trace OUT.safetensors MMPROJ|- SOUND...\n");
        return 2;
    }
    omni_error err = {0};
    gguf *g = NULL;
    backend *b = NULL;
    st_writer *w = NULL;
    omni_status status = cpu_backend_create(0, &b, &err);
    if (status == OMNI_OK && strcmp(argv[2], "-") != 0) {
        status = gguf_open(argv[2], &g, &err);
    }
    if (status == OMNI_OK) {
        status = st_writer_create(argv[1], &w, &err);
    }
    if (status == OMNI_OK) {
        status = trace(w, g, b, argv + 3, argc - 3, &err);
        if (status == OMNI_OK) {
            status = st_writer_finish(w, &err);
        } else {
            st_writer_abandon(w);
        }
    }
    gguf_close(g);
    if (b) {
        cpu_backend_destroy(b);
    }
    if (status != OMNI_OK) {
        fprintf(stderr, "audio_trace: %s\n", err.text);
        return 1;
    }
    return 0;
}
