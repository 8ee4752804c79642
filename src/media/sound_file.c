#include "media/sound_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "media/sound_encoder.h"

struct sound_file {
    file_out file; /* not used for a stream */
    bool stream;
    uint64_t size;  /* bytes that are whole in the file */
    uint64_t begin; /* of them, those that were there before any samples */
    bool failed;    /* to write samples */
    sound_encoder *encoder;
};

static omni_status write_stream(void *arg, uint64_t at, const void *data, size_t size, omni_error *err) {
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

static omni_status write_file(void *arg, uint64_t at, const void *data, size_t size, omni_error *err) {
    sound_file *f = arg;
    TRY(file_out_write_at(&f->file, at, data, size, err));
    f->size = at + size > f->size ? at + size : f->size;
    return OMNI_OK;
}

static omni_status format_of(const char *path, const sound_format **format, omni_error *err) {
    *format = strcmp(path, "-") == 0 ? sound_format_named("wav") : sound_format_of_path(path);
    if (!*format) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "%s: speech goes to a .wav, .mp3, .opus, .ogg, .flac or .aac file, as samples alone to .pcm, .raw, .f32, .ulaw or .alaw, "
                    "or to - (standard output)",
                    path);
    }
    return sound_format_check(*format, err) == OMNI_OK ? OMNI_OK : fail_in(err, OMNI_ERR_UNSUPPORTED, "%s", path);
}

omni_status sound_file_check(const char *path, omni_error *err) {
    const sound_format *format;
    TRY(format_of(path, &format, err));
    return strcmp(path, "-") == 0 ? OMNI_OK : file_out_check(path, err);
}

omni_status sound_file_open(const char *path, int rate, sound_file **out, omni_error *err) {
    *out = NULL;
    const sound_format *format;
    TRY(format_of(path, &format, err));
    sound_file *f = calloc(1, sizeof *f);
    if (!f) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    *f = (sound_file){.file = {.fd = -1}, .stream = strcmp(path, "-") == 0};
    omni_status status = f->stream ? OMNI_OK : file_out_open(path, &f->file, err);
    if (status == OMNI_OK) {
        const sound_sink sink = {f->stream ? write_stream : write_file, f, !f->stream};
        status = sound_encoder_open(format, rate, &sink, &f->encoder, err);
    }
    if (status != OMNI_OK) {
        sound_file_abandon(f);
        return status;
    }
    f->begin = f->size;
    *out = f;
    return OMNI_OK;
}

omni_status sound_file_write(sound_file *f, const float *samples, size_t count, omni_error *err) {
    const omni_status status = sound_encoder_write(f->encoder, samples, count, err);
    f->failed |= status != OMNI_OK;
    return status;
}

omni_status sound_file_finish(sound_file *f, omni_error *err) {
    omni_status status = OMNI_OK;
    if (!f->stream && f->failed && f->size <= f->begin) { /* a file without sound would take the place of an older one */
        status = fail(err, OMNI_ERR_IO, "%s: nothing of the sound could be written", f->file.path);
        sound_encoder_abandon(f->encoder);
    } else if (!f->stream && ftruncate(f->file.fd, (off_t)f->size) != 0) { /* of a write that failed, a part may be there */
        status = fail(err, OMNI_ERR_IO, "%s: cannot be cut: %s", f->file.path, strerror(errno));
        sound_encoder_abandon(f->encoder);
    } else {
        status = sound_encoder_finish(f->encoder, err);
    }
    f->encoder = NULL;
    if (status == OMNI_OK && !f->stream) {
        status = file_out_commit(&f->file, err);
    }
    sound_file_abandon(f);
    return status;
}

void sound_file_abandon(sound_file *f) {
    if (f) {
        sound_encoder_abandon(f->encoder);
        file_out_abandon(&f->file);
        free(f);
    }
}
