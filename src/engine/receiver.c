#include "engine/receiver.h"

#include "engine/engine.h"

static bool listens(const receiver *r) {
    return !r->closed && !atomic_load(r->cancelled);
}

/* What a callback said. */
static bool answered(receiver *r, bool go_on) {
    r->closed = r->closed || !go_on;
    return listens(r);
}

static void note(double *first) {
    *first = *first == 0 ? engine_now() : *first;
}

bool receiver_text(void *arg, const char *text, size_t size) {
    receiver *r = arg;
    if (!listens(r)) {
        return false;
    }
    note(&r->first_text);
    return answered(r, !r->params->on_text || r->params->on_text(r->params->arg, text, size));
}

bool receiver_reasoning(void *arg, const char *text, size_t size) {
    receiver *r = arg;
    if (!listens(r)) {
        return false;
    }
    note(&r->first_text);
    return answered(r, !r->params->on_reasoning || r->params->on_reasoning(r->params->arg, text, size));
}

bool receiver_call(void *arg, const char *name, const char *arguments) {
    receiver *r = arg;
    if (!listens(r)) {
        return false;
    }
    note(&r->first_text);
    return answered(r, !r->params->on_tool_call || r->params->on_tool_call(r->params->arg, name, arguments));
}

bool receiver_token(receiver *r, const omni_token *token, const omni_token *top, size_t top_count) {
    return listens(r) && answered(r, !r->params->on_token || r->params->on_token(r->params->arg, token, top, top_count));
}

bool receiver_audio(receiver *r, const float *samples, size_t count) {
    if (!listens(r)) {
        return false;
    }
    if (count == 0 || !r->params->on_audio) {
        return true;
    }
    note(&r->first_audio);
    return answered(r, r->params->on_audio(r->params->arg, samples, count));
}
