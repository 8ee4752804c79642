/* From the messages of a session to the rows that the thinker reads. */
#include <stdlib.h>

#include "engine/engine.h"

/* The laid-out ids with a marker for every medium (model/positions.h); the caller frees *out. */
static omni_status mark_media(const chat_prompt *laid, int32_t **out, int64_t *count, omni_error *err) {
    int32_t *ids = malloc((laid->ids.count + laid->media_count + 1) * sizeof *ids);
    if (!ids) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a prompt of %zu tokens", laid->ids.count);
    }
    int64_t n = 0;
    for (size_t i = 0; i < laid->count; i++) {
        const chat_segment *s = &laid->segments[i];
        if (s->kind != CHAT_TEXT) {
            ids[n++] = prompt_mark((int32_t)s->index);
            continue;
        }
        for (size_t k = 0; k < s->count; k++) {
            ids[n++] = laid->ids.ids[s->begin + k];
        }
    }
    *out = ids;
    *count = n;
    return OMNI_OK;
}

static omni_status encode_media(omni_session *s, receiver *to, trace *t, conversation *out, omni_error *err) {
    const encoders *e = &s->model->encoders;
    medium **all = calloc(s->media_count + 1, sizeof *all);
    out->media = calloc(s->media_count + 1, sizeof *out->media);
    out->inputs = calloc(s->media_count + 1, sizeof *out->inputs);
    out->media_count = (int32_t)s->media_count;
    if (!all || !out->media || !out->inputs) {
        free(all);
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < s->media_count; i++) {
        all[i] = &s->media[i];
    }
    omni_status status = media_encode(e, all, s->media_count, to, t, err);
    free(all);
    for (size_t i = 0; status == OMNI_OK && i < s->media_count; i++) {
        const medium *m = &s->media[i];
        out->media[i] = medium_prompt(e, m);
        out->inputs[i] = (thinker_media){m->visual, m->audio, m->deepstack, m->visual_rows * s->model->thinker->config.width};
    }
    return status;
}

/* Encoding may take minutes: what cannot fit is refused before. */
static omni_status check_room(const omni_session *s, const chat_prompt *laid, omni_error *err) {
    int64_t rows = (int64_t)laid->ids.count;
    for (size_t i = 0; i < s->media_count; i++) {
        rows += medium_least_rows(&s->model->encoders, &s->media[i]);
    }
    return rows <= s->params.context
               ? OMNI_OK
               : fail(err, OMNI_ERR_LIMIT,
                      "the conversation needs %lld tokens, media included, and the context is %lld: give a larger one (-c) or start anew",
                      (long long)rows, (long long)s->params.context);
}

omni_status conversation_prepare(omni_session *s, receiver *to, trace *t, conversation *out, omni_error *err) {
    *out = (conversation){0};
    chat_prompt laid = {0};
    int32_t *ids = NULL;
    int64_t count = 0;
    omni_status status = chat_render(&s->chat, s->model->tokenizer, true, &laid, err);
    if (status == OMNI_OK) {
        status = check_room(s, &laid, err);
    }
    if (status == OMNI_OK) {
        status = encode_media(s, to, t, out, err);
    }
    if (status == OMNI_OK) {
        status = mark_media(&laid, &ids, &count, err);
    }
    if (status == OMNI_OK) {
        status = prompt_expand(&s->model->thinker->markup, ids, count, out->media, out->media_count, s->params.context, &out->prompt, err);
    }
    free(ids);
    chat_prompt_free(&laid);
    if (status != OMNI_OK) {
        conversation_free(out);
    }
    return status;
}

void conversation_free(conversation *c) {
    prompt_free(&c->prompt);
    free(c->media);
    free(c->inputs);
    *c = (conversation){0};
}
