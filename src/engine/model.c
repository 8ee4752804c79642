/* Opening a model: three files, one backend. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/device.h"
#include "engine/engine.h"
#include "tensor/profile.h"

double engine_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

omni_model_params omni_model_params_default(void) {
    return (omni_model_params){.scheduling.poll = POOL_POLL};
}

omni_status engine_pool_create(int threads, const omni_scheduling *s, pool **out, omni_error *err) {
    cpus chosen;
    TRY(cpus_parse(s->cpu_mask, s->cpu_range, &chosen, err));
    const pool_params p = {threads, s->cpu_mask || s->cpu_range ? &chosen : NULL, s->cpu_strict, s->poll};
    return pool_create_with(&p, out, err);
}

static omni_status open_encoders(omni_model *m, const char *path, omni_error *err) {
    encoders *e = &m->encoders;
    if (vision_encoder_present(m->mmproj_file)) {
        TRY(vision_encoder_open(m->b, m->mmproj_file, &e->vision, err));
        const vision_config *c = vision_encoder_config(e->vision);
        TRY(thinker_use_encoder(m->thinker, c->merge, c->out, c->deepstack, err));
    }
    omni_error why = {0};
    omni_status status = audio_encoder_open(m->b, m->mmproj_file, &e->audio, &why);
    if (status == OMNI_ERR_UNSUPPORTED && e->vision) {
        return OMNI_OK; /* a file with eyes and no ears */
    }
    if (status != OMNI_OK) {
        return fail(err, status, "%s", why.text);
    }
    if (audio_encoder_width(e->audio) != m->thinker->config.width) {
        return fail(err, OMNI_ERR_FORMAT, "%s: sound embeddings are %d wide, the thinker in %s is %d: these files are not of one model", path,
                    audio_encoder_width(e->audio), gguf_path(m->thinker_file), m->thinker->config.width);
    }
    return mel_create(audio_encoder_mel(e->audio), &e->mel, err);
}

static omni_status open_talker(omni_model *m, const char *path, omni_error *err) {
    TRY(talker_open(m->b, m->talker_file, &m->thinker->weights.token_embd, &m->talker, err));
    TRY(code2wav_open(m->b, m->talker_file, &m->code2wav, err));
    const talker_config *c = talker_get_config(m->talker);
    if (c->groups != code2wav_groups(m->code2wav)) {
        return fail(err, OMNI_ERR_FORMAT, "%s: the talker makes %d codes a frame, code2wav takes %d", path, c->groups, code2wav_groups(m->code2wav));
    }
    if (c->accept_hidden_layer > m->thinker->config.layers) {
        return fail(err, OMNI_ERR_FORMAT,
                    "%s: talker.accept_hidden_layer is %d, but the thinker in %s has %d layers: these files are not of one model", path,
                    c->accept_hidden_layer, gguf_path(m->thinker_file), m->thinker->config.layers);
    }
    return OMNI_OK;
}

/* Opened before anything is loaded, so that the progress knows the whole. */
static omni_status open_files(omni_model *m, const omni_model_params *p, uint64_t *to_load, omni_error *err) {
    *to_load = 0;
    TRY(gguf_open(p->model, &m->thinker_file, err));
    if (!p->embeddings_only) {
        *to_load += gguf_file_size(m->thinker_file);
    }
    if (p->mmproj && !p->embeddings_only) {
        TRY(gguf_open(p->mmproj, &m->mmproj_file, err));
        *to_load += gguf_file_size(m->mmproj_file);
    }
    if (p->talker) {
        TRY(gguf_open(p->talker, &m->talker_file, err));
        *to_load += gguf_file_size(m->talker_file);
    }
    return OMNI_OK;
}

static omni_status open_all(omni_model *m, const omni_model_params *p, omni_error *err) {
    uint64_t to_load;
    const char *wanted = getenv("OMNI_PROFILE");
    if (wanted && *wanted && *wanted != '0') {
        TRY(profile_install(m->b, err));
    }
    m->encoders.b = m->b;
    TRY(open_files(m, p, &to_load, err));
    m->b->loading = (weights_progress){.tell = p->progress, .arg = p->progress_arg, .total = to_load};
    TRY(thinker_open(m->b, m->thinker_file, p->embeddings_only, &m->thinker, err));
    TRY(tokenizer_open(m->thinker_file, &m->tokenizer, err));
    TRY(constraint_model_reasons(m->thinker_file, &m->reasons, err));
    if (m->mmproj_file) {
        TRY(open_encoders(m, p->mmproj, err));
    }
    if (m->talker_file) {
        TRY(open_talker(m, p->talker, err));
    }
    /* Tensors that are used where the file has them were not counted. */
    if (p->progress && !p->progress(p->progress_arg, "loading", to_load, to_load)) {
        return fail(err, OMNI_CANCELLED, "cancelled");
    }
    return OMNI_OK;
}

omni_status model_open_on(backend *b, const omni_model_params *params, omni_model **out, omni_error *err) {
    *out = NULL;
    omni_model *m = calloc(1, sizeof *m);
    if (!m) {
        backend_destroy(b);
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    enum { IDLE_EMBEDDINGS = 256 << 20 }; /* bytes of those that no conversation holds */
    media_cache_init(&m->media_cache, IDLE_EMBEDDINGS);
    constraint_cache_init(&m->constraints);
    pthread_mutex_init(&m->computing, NULL);
    m->b = b;
    backend_enter(b);
    omni_status status = open_all(m, params, err);
    backend_leave(b);
    b->loading = (weights_progress){0};
    if (status != OMNI_OK) {
        omni_model_close(m);
        return status;
    }
    *out = m;
    return OMNI_OK;
}

omni_status omni_model_open(const omni_model_params *params, omni_model **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!params || !params->model || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_model_open needs the path of a thinker file and a place for the model");
    }
    backend *b;
    TRY(device_open(params, &b, err));
    return model_open_on(b, params, out, err);
}

/* OMNI_PROFILE=1: what the model's operations took, on standard error. */
static void print_profile(backend *b) {
    char *text = b && b->profile ? profile_text(b->profile) : NULL;
    if (text) {
        fputs(text, stderr);
    }
    free(text);
    if (b) {
        profile_remove(b);
    }
}

void omni_model_close(omni_model *m) {
    if (!m) {
        return;
    }
    print_profile(m->b);
    encoding_free(m->encoding);
    media_cache_free(&m->media_cache, m->b);
    constraint_cache_free(&m->constraints);
    pthread_mutex_destroy(&m->computing);
    code2wav_close(m->code2wav);
    talker_close(m->talker);
    mel_free(m->encoders.mel);
    audio_encoder_close(m->encoders.audio);
    vision_encoder_close(m->encoders.vision);
    tokenizer_close(m->tokenizer);
    thinker_close(m->thinker);
    gguf_close(m->talker_file);
    gguf_close(m->mmproj_file);
    gguf_close(m->thinker_file);
    backend_destroy(m->b);
    free(m);
}

size_t omni_model_voice_count(const omni_model *m) {
    return m && m->talker ? talker_voice_count(m->talker) : 0;
}

const char *omni_model_voice(const omni_model *m, size_t i) {
    return m && m->talker && i < talker_voice_count(m->talker) ? talker_voice_name(m->talker, i) : NULL;
}

omni_status omni_model_find_voice(const omni_model *m, const char *name, const char **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!m || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_model_find_voice needs a model and a place for the name");
    }
    if (!m->talker) {
        return fail(err, OMNI_ERR_ARGUMENT, "there are no voices without a talker file (--talker)");
    }
    size_t i;
    TRY(talker_find_voice(m->talker, name, &i, err));
    *out = talker_voice_name(m->talker, i);
    return OMNI_OK;
}

int omni_model_sample_rate(const omni_model *m) {
    return m && m->code2wav ? code2wav_sample_rate(m->code2wav) : 0;
}

int64_t omni_model_context(const omni_model *m) {
    return m ? m->thinker->context : 0;
}

int64_t omni_model_vocabulary(const omni_model *m) {
    return m ? m->thinker->config.vocab : 0;
}
