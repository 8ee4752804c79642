#include "engine/calls.h"

#include <math.h>

#include "engine/sampler.h"

omni_generate_params omni_generate_params_default(void) {
    return (omni_generate_params){
        .text = {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repeat_penalty = 1},
        .speech = {.temperature = 0.9f, .top_k = 50, .top_p = 1, .repeat_penalty = 1.05f},
    };
}

omni_status conversation_enter(omni_conversation *c, omni_error *err) {
    return atomic_exchange(&c->busy, true)
               ? fail(err, OMNI_ERR_BUSY, "another call of this conversation has not returned: a conversation takes one at a time")
               : OMNI_OK;
}

omni_status conversation_check_cancel(const omni_conversation *c, omni_error *err) {
    return atomic_load(&c->cancelled) ? fail(err, OMNI_CANCELLED, "cancelled") : OMNI_OK;
}

void conversation_forget_cancel(omni_conversation *c) {
    atomic_store(&c->cancelled, false);
}

void conversation_leave(omni_conversation *c) {
    atomic_store(&c->busy, false);
}

/* ---- parameters ---- */

static omni_status check_sampling(const omni_sampling *p, const char *what, omni_error *err) {
    bool ok = p->repeat_penalty > 0 && isfinite(p->repeat_penalty) &&
              (p->greedy ||
               (p->temperature > 0 && isfinite(p->temperature) && p->top_k >= 0 && p->top_p >= 0 && p->top_p <= 1 && p->min_p >= 0 && p->min_p <= 1));
    if (ok && !(fabsf(p->presence_penalty) <= 100 && fabsf(p->frequency_penalty) <= 100)) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: presence and frequency penalty must be from -100 to 100", what);
    }
    return ok ? OMNI_OK
              : fail(err, OMNI_ERR_ARGUMENT,
                     "%s: temperature and repeat penalty must be over 0, top-k 0 or more, top-p and min-p from 0 to 1 (greedy for temperature 0)",
                     what);
}

static omni_status check_stop_strings(const omni_generate_params *p, omni_error *err) {
    enum { MOST = 1024 };
    if (p->stop_count > MOST || (p->stop_count > 0 && !p->stop)) {
        return fail(err, OMNI_ERR_ARGUMENT, "stop_count is %zu: at most %d stop strings can be given%s", p->stop_count, MOST,
                    p->stop ? "" : ", and stop is NULL");
    }
    for (size_t i = 0; i < p->stop_count; i++) {
        if (!p->stop[i]) {
            return fail(err, OMNI_ERR_ARGUMENT, "stop[%zu] is NULL", i);
        }
    }
    return OMNI_OK;
}

omni_status check_generate_params(const omni_model *m, const omni_generate_params *p, bool text, omni_error *err) {
    if (p->max_tokens < 0 || p->max_frames < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "max_tokens and max_frames must not be negative");
    }
    if (text) {
        TRY(check_sampling(&p->text, "text sampling", err));
        TRY(check_stop_strings(p, err));
        TRY(sampler_check(p, m->thinker->config.vocab, err));
    }
    if (p->speak) {
        if (!m->talker) {
            return fail(err, OMNI_ERR_ARGUMENT, "speech needs a talker file (--talker)");
        }
        TRY(check_sampling(&p->speech, "speech sampling", err));
        size_t voice;
        TRY(talker_find_voice(m->talker, p->voice, &voice, err));
    }
    return OMNI_OK;
}
