#include "engine/chunk_decoder.h"

#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "engine/engine.h"

struct chunk_decoder {
    backend *b; /* its own */
    code2wav_runner *runner;
    code2wav_stream *stream; /* of the chunk */
    int groups;
    int32_t *codes;
    float *samples;
    chunk chunk;
    bool busy; /* started and not taken: the caller's side alone */

    pthread_t thread;
    bool running; /* the thread exists */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool wanted, ready, stop; /* under mutex */
    omni_status status;
    omni_error err;
};

static void *work(void *arg) {
    chunk_decoder *d = arg;
    backend_enter(d->b); /* for good: nobody else has this thread */
    pthread_mutex_lock(&d->mutex);
    for (;;) {
        while (!d->wanted && !d->stop) {
            pthread_cond_wait(&d->changed, &d->mutex);
        }
        if (!d->wanted) {
            break;
        }
        pthread_mutex_unlock(&d->mutex);
        double start = engine_now();
        d->status = code2wav_push(d->runner, d->stream, d->codes, d->chunk.frames, d->samples, &d->chunk.count, &d->err);
        d->chunk.seconds = engine_now() - start;
        pthread_mutex_lock(&d->mutex);
        d->wanted = false;
        d->ready = true;
        pthread_cond_broadcast(&d->changed);
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

omni_status chunk_decoder_create(const code2wav *m, backend *beside, int64_t max_frames, int64_t runner_frames, chunk_decoder **out,
                                 omni_error *err) {
    *out = NULL;
    chunk_decoder *d = calloc(1, sizeof *d);
    if (!d) {
        backend_destroy(beside);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the decoder of speech");
    }
    d->b = beside;
    d->groups = code2wav_groups(m);
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->codes = calloc((size_t)(max_frames * d->groups), sizeof *d->codes);
    d->samples = calloc((size_t)(max_frames * code2wav_upsample(m)), sizeof *d->samples);
    omni_status s = d->codes && d->samples ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the decoder of speech");
    if (s == OMNI_OK) {
        s = code2wav_runner_create(m, d->b, runner_frames, &d->runner, err);
    }
    if (s == OMNI_OK) {
        int e = thread_start(&d->thread, work, d);
        d->running = e == 0;
        s = e == 0 ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "cannot start the thread that decodes speech: %s", strerror(e));
    }
    if (s != OMNI_OK) {
        chunk_decoder_destroy(d);
        return s;
    }
    *out = d;
    return OMNI_OK;
}

void chunk_decoder_destroy(chunk_decoder *d) {
    if (!d) {
        return;
    }
    if (d->running) {
        pthread_mutex_lock(&d->mutex);
        d->stop = true;
        pthread_cond_broadcast(&d->changed);
        pthread_mutex_unlock(&d->mutex);
        pthread_join(d->thread, NULL);
    }
    code2wav_runner_destroy(d->runner);
    backend_destroy(d->b);
    pthread_mutex_destroy(&d->mutex);
    pthread_cond_destroy(&d->changed);
    free(d->codes);
    free(d->samples);
    free(d);
}

void chunk_decoder_start(chunk_decoder *d, code2wav_stream *stream, const int32_t *codes, int64_t frames) {
    d->stream = stream;
    memcpy(d->codes, codes, (size_t)(frames * d->groups) * sizeof *codes);
    d->chunk = (chunk){.codes = d->codes, .samples = d->samples, .frames = frames};
    d->busy = true;
    pthread_mutex_lock(&d->mutex);
    d->wanted = true;
    d->ready = false;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mutex);
}

bool chunk_decoder_busy(const chunk_decoder *d) {
    return d->busy;
}

bool chunk_decoder_take(chunk_decoder *d, bool wait, chunk *out, omni_status *status, omni_error *err) {
    if (!d->busy) {
        return false;
    }
    pthread_mutex_lock(&d->mutex);
    while (wait && !d->ready) {
        pthread_cond_wait(&d->changed, &d->mutex);
    }
    bool ready = d->ready;
    pthread_mutex_unlock(&d->mutex);
    if (!ready) {
        return false;
    }
    d->busy = false;
    *out = d->chunk;
    *status = d->status;
    if (d->status != OMNI_OK && err) {
        *err = d->err;
    }
    return true;
}
