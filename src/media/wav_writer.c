#include "media/wav_writer.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"

enum { HEADER = 44, PIECE = 4096 };

/* RIFF sizes are 32 bits: "RIFF" counts the header less 8 bytes as well. */
static const uint64_t wav_most = UINT32_MAX - (HEADER - 8) - 1;

struct wav_writer {
    file_out file; /* not used for a stream */
    bool stream, header;
    int rate;
    uint64_t bytes; /* of samples so far */
};

int16_t wav_sample(float x) {
    if (isnan(x)) {
        return 0;
    }
    float scaled = rintf(x * 32767.0f);
    return (int16_t)(scaled > 32767.0f ? 32767.0f : scaled < -32768.0f ? -32768.0f : scaled);
}

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v) {
    put16(p, v);
    put16(p + 2, v >> 16);
}

static void wav_header(uint8_t h[HEADER], int rate, uint32_t riff_size, uint32_t data_size) {
    memcpy(h, "RIFF", 4);
    put32(h + 4, riff_size);
    memcpy(h + 8, "WAVEfmt ", 8);
    put32(h + 16, 16);
    put16(h + 20, 1); /* integer PCM */
    put16(h + 22, 1); /* channels */
    put32(h + 24, (uint32_t)rate);
    put32(h + 28, (uint32_t)rate * 2);
    put16(h + 32, 2);
    put16(h + 34, 16);
    memcpy(h + 36, "data", 4);
    put32(h + 40, data_size);
}

static omni_status stream_out(const void *data, size_t size, omni_error *err) {
    const char *p = data;
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, p, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return fail(err, OMNI_ERR_IO, "standard output: cannot write: %s", n < 0 ? strerror(errno) : "nothing written");
        }
        p += n;
        size -= (size_t)n;
    }
    return OMNI_OK;
}

static omni_status kind_of(const char *path, bool *stream, bool *header, omni_error *err) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    *stream = strcmp(path, "-") == 0;
    *header = *stream || (dot && strcasecmp(dot, ".wav") == 0);
    if (!*header && !(dot && (strcasecmp(dot, ".pcm") == 0 || strcasecmp(dot, ".raw") == 0))) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: speech goes to a .wav, .pcm or .raw file, or to - (standard output)", path);
    }
    return OMNI_OK;
}

omni_status wav_writer_check(const char *path, omni_error *err) {
    bool stream, header;
    TRY(kind_of(path, &stream, &header, err));
    return stream ? OMNI_OK : file_out_check(path, err);
}

omni_status wav_writer_open(const char *path, int rate, wav_writer **out, omni_error *err) {
    *out = NULL;
    bool stream, header;
    TRY(kind_of(path, &stream, &header, err));
    if (rate < 1 || rate > INT32_MAX / 2) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: no sample rate: %d", path, rate);
    }
    wav_writer *w = calloc(1, sizeof *w);
    if (!w) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    *w = (wav_writer){.file = {.fd = -1}, .stream = stream, .header = header, .rate = rate};
    uint8_t h[HEADER];
    omni_status status = OMNI_OK;
    if (stream) {
        wav_header(h, rate, UINT32_MAX, UINT32_MAX);
        status = stream_out(h, HEADER, err);
    } else {
        status = file_out_open(path, &w->file, err);
    }
    if (status == OMNI_OK && !stream && header) {
        /* Filled in again when finished; until then a player that looks at the unfinished file reads to its end. */
        wav_header(h, rate, UINT32_MAX, UINT32_MAX);
        status = file_out_write_at(&w->file, 0, h, HEADER, err);
    }
    if (status != OMNI_OK) {
        wav_writer_abandon(w);
        return status;
    }
    *out = w;
    return OMNI_OK;
}

omni_status wav_writer_write(wav_writer *w, const float *samples, size_t count, omni_error *err) {
    if (!w->stream && w->header && count > (wav_most - w->bytes) / 2) {
        return fail(err, OMNI_ERR_LIMIT, "%s: a WAV file holds at most %llu samples; write .pcm for more", w->file.path,
                    (unsigned long long)(wav_most / 2));
    }
    uint8_t piece[PIECE * 2];
    while (count > 0) {
        size_t n = count < PIECE ? count : PIECE;
        for (size_t i = 0; i < n; i++) {
            put16(piece + 2 * i, (uint16_t)wav_sample(samples[i]));
        }
        if (w->stream) {
            TRY(stream_out(piece, 2 * n, err));
        } else {
            TRY(file_out_write_at(&w->file, (w->header ? HEADER : 0) + w->bytes, piece, 2 * n, err));
        }
        w->bytes += 2 * n;
        samples += n;
        count -= n;
    }
    return OMNI_OK;
}

omni_status wav_writer_finish(wav_writer *w, omni_error *err) {
    omni_status status = OMNI_OK;
    if (!w->stream && ftruncate(w->file.fd, (off_t)((w->header ? HEADER : 0) + w->bytes)) != 0) { /* of a write that failed, a part may be there */
        status = fail(err, OMNI_ERR_IO, "%s: cannot be cut: %s", w->file.path, strerror(errno));
    }
    if (status == OMNI_OK && !w->stream && w->header) {
        uint8_t h[HEADER];
        wav_header(h, w->rate, (uint32_t)(w->bytes + HEADER - 8), (uint32_t)w->bytes);
        status = file_out_write_at(&w->file, 0, h, HEADER, err);
    }
    if (status == OMNI_OK && !w->stream) {
        status = file_out_commit(&w->file, err);
    } else {
        file_out_abandon(&w->file);
    }
    free(w);
    return status;
}

void wav_writer_abandon(wav_writer *w) {
    if (w) {
        file_out_abandon(&w->file);
        free(w);
    }
}
