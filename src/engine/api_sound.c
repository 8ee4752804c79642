/* The parts of omni.h that write sound: files, and encoders that hand bytes on. */
#include <stdlib.h>

#include "base/error.h"
#include "media/sound_encoder.h"
#include "media/sound_file.h"
#include "media/sound_stretch.h"
#include "omni.h"

/* ---- sound files ---- */

struct omni_sound {
    sound_file *file;
};

omni_status omni_sound_open(const char *path, int sample_rate, omni_sound **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!path || !out || sample_rate <= 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_sound_open needs a path, a rate over 0 and a place for the sound");
    }
    omni_sound *s = calloc(1, sizeof *s);
    omni_status status = s ? sound_file_open(path, sample_rate, &s->file, err) : fail(err, OMNI_ERR_MEMORY, "out of memory");
    if (status != OMNI_OK) {
        free(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

omni_status omni_sound_check(const char *path, omni_error *err) {
    return path ? sound_file_check(path, err) : fail(err, OMNI_ERR_ARGUMENT, "omni_sound_check needs a path");
}

omni_status omni_sound_write(omni_sound *s, const float *samples, size_t count, omni_error *err) {
    if (!s || (count > 0 && !samples)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_sound_write needs a sound and samples");
    }
    return sound_file_write(s->file, samples, count, err);
}

omni_status omni_sound_close(omni_sound *s, omni_error *err) {
    if (!s) {
        return OMNI_OK;
    }
    omni_status status = sound_file_finish(s->file, err);
    free(s);
    return status;
}

/* ---- encoders ---- */

struct omni_encoder {
    omni_encoder_params p;
    sound_encoder *encoder;
    sound_stretch *stretch; /* before it; NULL: at the speed that it has */
};

omni_encoder_params omni_encoder_params_default(void) {
    return (omni_encoder_params){.format = "wav", .sample_rate = 24000};
}

const char *omni_sound_type(const char *format) {
    const sound_format *f = format ? sound_format_named(format) : NULL;
    return f ? sound_format_type(f) : NULL;
}

static omni_status hand_on(void *arg, uint64_t at, const void *data, size_t size, omni_error *err) {
    const omni_encoder *e = arg;
    return e->p.write(e->p.arg, data, size) ? OMNI_OK : fail(err, OMNI_CANCELLED, "the encoded sound was not taken");
}

static omni_status encode(void *arg, const float *samples, size_t count, omni_error *err) {
    return sound_encoder_write(((omni_encoder *)arg)->encoder, samples, count, err);
}

omni_status omni_encoder_open(const omni_encoder_params *params, omni_encoder **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!params || !params->format || !params->write || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_encoder_open needs a format, a callback and a place for the encoder");
    }
    const sound_format *f = sound_format_named(params->format);
    if (!f) {
        return fail(err, OMNI_ERR_ARGUMENT, "no sound format \"%.40s\": there are wav, pcm16, pcm_f32, mulaw, alaw, mp3, opus, flac, aac",
                    params->format);
    }
    omni_encoder *e = calloc(1, sizeof *e);
    if (!e) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    e->p = *params;
    omni_status status = OMNI_OK;
    if (params->speed != 0 && params->speed != 1) {
        status = sound_stretch_open(params->sample_rate, params->speed, &(sound_taker){encode, e}, &e->stretch, err);
    }
    status = status != OMNI_OK ? status : sound_encoder_open(f, params->sample_rate, &(sound_sink){hand_on, e, false}, &e->encoder, err);
    if (status != OMNI_OK) {
        omni_encoder_free(e);
        return status;
    }
    *out = e;
    return OMNI_OK;
}

omni_status omni_encoder_write(omni_encoder *e, const float *samples, size_t count, omni_error *err) {
    if (!e || (count > 0 && !samples)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_encoder_write needs an encoder and samples");
    }
    return e->stretch ? sound_stretch_write(e->stretch, samples, count, err) : sound_encoder_write(e->encoder, samples, count, err);
}

omni_status omni_encoder_close(omni_encoder *e, omni_error *err) {
    if (!e) {
        return OMNI_OK;
    }
    omni_status status = e->stretch ? sound_stretch_flush(e->stretch, err) : OMNI_OK;
    if (status == OMNI_OK) {
        status = sound_encoder_finish(e->encoder, err);
        e->encoder = NULL;
    }
    omni_encoder_free(e);
    return status;
}

void omni_encoder_free(omni_encoder *e) {
    if (e) {
        sound_encoder_abandon(e->encoder);
        sound_stretch_free(e->stretch);
        free(e);
    }
}
