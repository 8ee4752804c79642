#include "engine/encoding.h"

#include <stdlib.h>

#include "tensor/finite.h"

enum { MOST_SETS = 16, CHECKED = 1 << 14 /* values that are looked at together */ };

typedef enum stage { STAGE_SEE, STAGE_ANALYSE, STAGE_HEAR, STAGE_CHECK, STAGE_DONE } stage;

struct encoding {
    const encoders *e;
    media_item *item;
    const void *for_whom;
    embeddings *made;
    stage stage;
    float *sets[MOST_SETS]; /* in made->deepstack */
    mel_analysis *analysis;
    mel_clip clip;
    int64_t checked; /* values of all embeddings */
    float *values;   /* [CHECKED] */
};

static omni_status alloc_rows(backend *b, int64_t rows, int64_t width, embeddings *x, float **out, omni_error *err) {
    const size_t bytes = (size_t)rows * (size_t)width * sizeof(float);
    x->bytes += bytes;
    return b->ops->alloc(b, bytes, (void **)out, err);
}

static omni_status begin_seeing(encoding *x, omni_error *err) {
    const encoders *e = x->e;
    const vision_config *c = vision_encoder_config(e->vision);
    embeddings *made = x->made;
    if (c->deepstack > MOST_SETS) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%d deepstack sets; at most %d are handled", c->deepstack, MOST_SETS);
    }
    made->visual_rows = vision_embeddings(c, &x->item->patches);
    TRY(alloc_rows(e->b, made->visual_rows, c->out, made, &made->visual, err));
    if (c->deepstack > 0) {
        TRY(alloc_rows(e->b, made->visual_rows * c->deepstack, c->out, made, &made->deepstack, err));
    }
    for (int k = 0; k < c->deepstack; k++) {
        x->sets[k] = made->deepstack + k * made->visual_rows * c->out;
    }
    return vision_encoder_begin(e->vision, &x->item->patches, 1, made->visual, x->sets, err);
}

/* A sound alone, so that its bits do not depend on which others are new with it; padded as in the call that it belongs to. */
static omni_status begin_analysis(encoding *x, omni_error *err) {
    const media_item *m = x->item;
    return mel_begin(x->e->mel, &(mel_sound){m->sound.samples, m->samples}, m->longest, &x->analysis, err);
}

static omni_status begin_hearing(encoding *x, omni_error *err) {
    const encoders *e = x->e;
    embeddings *made = x->made;
    x->clip = mel_end(x->analysis);
    x->analysis = NULL;
    made->audio_rows = audio_encoder_rows(e->audio, x->clip.frames);
    TRY(alloc_rows(e->b, made->audio_rows, audio_encoder_width(e->audio), made, &made->audio, err));
    return audio_encoder_begin(e->audio, &x->clip, 1, x->item->longest / audio_encoder_mel(e->audio)->hop, made->audio, err);
}

/* The stage behind this one. */
static omni_status go_on(encoding *x, omni_error *err) {
    x->stage = x->stage == STAGE_SEE && !x->item->has_sound ? STAGE_CHECK : x->stage + 1;
    return x->stage == STAGE_ANALYSE ? begin_analysis(x, err) : x->stage == STAGE_HEAR ? begin_hearing(x, err) : OMNI_OK;
}

omni_status encoding_begin(const encoders *e, media_item *m, const void *for_whom, encoding **out, omni_error *err) {
    *out = NULL;
    media_cache_trim(m->cache, e->b);
    encoding *x = calloc(1, sizeof *x);
    embeddings *made = calloc(1, sizeof *made);
    float *values = malloc(CHECKED * sizeof *values);
    if (!x || !made || !values) {
        free(x);
        free(made);
        free(values);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for embeddings", m->name);
    }
    made->content = m->content;
    *x = (encoding){.e = e, .item = media_item_hold(m), .for_whom = for_whom, .made = made, .values = values};
    x->stage = m->kind == PROMPT_AUDIO ? STAGE_ANALYSE : STAGE_SEE;
    omni_status status = x->stage == STAGE_SEE ? begin_seeing(x, err) : begin_analysis(x, err);
    if (status != OMNI_OK) {
        encoding_free(x);
        return status;
    }
    *out = x;
    return OMNI_OK;
}

void encoding_free(encoding *x) {
    if (x) {
        if (x->made) {
            embeddings_release(x->e->b, x->made);
        }
        mel_abandon(x->analysis);
        mel_clips_free(&x->clip, 1);
        media_item_drop(x->item);
        free(x->values);
        free(x);
    }
}

/* A value that is not finite would vanish in the answer, or spoil it without a word. Some at a time, since the rows are the backend's. */
static omni_status check_some(encoding *x, bool *more, omni_error *err) {
    const encoders *e = x->e;
    const embeddings *made = x->made;
    const vision_config *c = e->vision ? vision_encoder_config(e->vision) : NULL;
    const int64_t visual = made->visual_rows * (c ? c->out : 0), deep = visual * (c ? c->deepstack : 0),
                  audio = made->audio_rows * (e->audio ? audio_encoder_width(e->audio) : 0);
    const struct {
        const float *values;
        int64_t n;
    } parts[] = {{made->visual, visual}, {made->deepstack, deep}, {made->audio, audio}};
    int64_t at = x->checked;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; at -= parts[i++].n) {
        if (at >= parts[i].n) {
            continue;
        }
        const int64_t left = parts[i].n - at, n = left < CHECKED ? left : CHECKED;
        e->b->ops->download(e->b, x->values, parts[i].values + at, (size_t)n * sizeof *x->values);
        x->checked += n;
        if (find_not_finite(DTYPE_F32, x->values, n) >= 0) {
            return fail(err, OMNI_ERR_FORMAT, "%s: the %s encoder computed NaN or infinite values: its weights are damaged", x->item->name,
                        i == 2 ? "audio" : "vision");
        }
        break;
    }
    *more = x->checked < visual + deep + audio;
    return OMNI_OK;
}

omni_status encoding_step(encoding *x, int64_t rows, bool *done, omni_error *err) {
    enum { FRAMES_A_ROW = 16 }; /* the analysis of so many takes no longer than a row of the encoder */
    bool more = false;
    if (x->stage == STAGE_SEE) {
        more = vision_encoder_step(x->e->vision, rows);
    } else if (x->stage == STAGE_ANALYSE) {
        more = mel_step(x->analysis, rows * FRAMES_A_ROW);
    } else if (x->stage == STAGE_HEAR) {
        more = audio_encoder_step(x->e->audio, rows);
    } else if (x->stage == STAGE_CHECK) {
        TRY(check_some(x, &more, err));
    }
    TRY(more ? OMNI_OK : go_on(x, err));
    *done = x->stage == STAGE_DONE;
    if (*done && x->made) {
        media_cache_add(x->item->cache, x->made);
        x->item->embedded = x->made;
        x->made = NULL;
    }
    return OMNI_OK;
}

const media_item *encoding_item(const encoding *x) {
    return x->item;
}

const void *encoding_for(const encoding *x) {
    return x->for_whom;
}
