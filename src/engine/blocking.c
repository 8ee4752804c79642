/* omni_generate and omni_speak: a request whose events become callbacks, in a call that returns when it has ended. */
#include "engine/calls.h"
#include "engine/request.h"
#include "engine/scheduler.h"

/* How often a flag that a signal handler sets is looked at while nothing comes. */
static const double LOOK = 0.02;

/* The engine that a blocking call of this thread waits for: from its callbacks the same engine cannot be waited for again. */
static _Thread_local const omni_engine *waited_for;

/* One event to the callback that wants it; false when that wants no more. */
static bool hand_over(const omni_generate_params *p, const omni_event *e, omni_result *heard) {
    switch (e->kind) {
    case OMNI_EVENT_TEXT:
        return !p->on_text || p->on_text(p->arg, e->text, e->size);
    case OMNI_EVENT_REASONING:
        return !p->on_reasoning || p->on_reasoning(p->arg, e->text, e->size);
    case OMNI_EVENT_TOOL_CALL:
        return !p->on_tool_call || p->on_tool_call(p->arg, e->name, e->text);
    case OMNI_EVENT_TOKEN:
        return !p->on_token || p->on_token(p->arg, e->token, e->top, e->top_count);
    case OMNI_EVENT_AUDIO:
        heard->samples += (int64_t)e->count;
        return !p->on_audio || p->on_audio(p->arg, e->samples, e->count);
    case OMNI_EVENT_PROGRESS:
        return !p->on_progress || p->on_progress(p->arg, e->name, e->done, e->total);
    case OMNI_EVENT_DONE:
        break;
    }
    return true;
}

/* Hands events over until the request has ended. Once a callback has returned false or *cancelled is set, none is called any more. */
static omni_status hand_over_all(omni_request *r, const omni_generate_params *p, const _Atomic bool *cancelled, omni_result *result,
                                 omni_error *err) {
    omni_event event = {.kind = OMNI_EVENT_TEXT};
    omni_result heard = {0};
    while (event.kind != OMNI_EVENT_DONE) {
        const bool got = omni_request_next(r, LOOK, &event);
        if (got && !atomic_load(cancelled) && !request_is_cancelled(r) && !hand_over(p, &event, &heard)) {
            omni_request_cancel(r);
        }
        if (atomic_load(cancelled)) {
            omni_request_cancel(r);
        }
    }
    *result = *event.result;
    result->samples = heard.samples;
    if (event.status != OMNI_OK && event.status != OMNI_CANCELLED) {
        if (err) {
            *err = *event.error;
        }
        return event.status;
    }
    return OMNI_OK;
}

/* Without a thread of its own the engine computes on this one. */
static void enter_pool(const omni_engine *e, bool enter) {
    omni_model *m = e->model;
    if (!e->threaded) {
        pthread_mutex_lock(&m->computing);
        (enter ? backend_enter : backend_leave)(m->b);
        pthread_mutex_unlock(&m->computing);
    }
}

static omni_status check_not_inside(const omni_engine *e, omni_error *err) {
    return waited_for == e ? fail(err, OMNI_ERR_BUSY,
                                  "a callback of this engine's omni_generate or omni_speak cannot wait for the engine: submit a "
                                  "request")
                           : OMNI_OK;
}

static omni_status wait_for(omni_request *r, const omni_generate_params *p, const _Atomic bool *cancelled, omni_result *result, omni_error *err) {
    const omni_engine *e = r->e, *outer = waited_for;
    waited_for = e;
    enter_pool(e, true);
    omni_status status = hand_over_all(r, p, cancelled, result, err);
    enter_pool(e, false);
    waited_for = outer;
    return status;
}

/* A call that was cancelled before it began. */
static omni_status cancelled_early(omni_result *result) {
    result->finish = OMNI_FINISH_CANCELLED;
    return OMNI_OK;
}

static omni_status generate(omni_engine *e, omni_conversation *c, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_generate_params p = *params;
    p.reasoning_apart = params->on_reasoning != NULL;
    p.tool_calls_apart = params->on_tool_call != NULL;
    omni_request *r;
    if (atomic_load(&c->cancelled)) {
        return cancelled_early(result);
    }
    TRY(request_submit(e, c, &p, &r, err));
    omni_status status = wait_for(r, params, &c->cancelled, result, err);
    if (status == OMNI_OK && r->answer.count > 0) { /* else cancelled before its first token: nothing was said */
        status = conversation_keep_answer(c, r, err);
    }
    omni_request_free(r);
    return status;
}

omni_status omni_generate(omni_engine *e, omni_conversation *c, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    if (!e || !c || !params || c->model != e->model) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_generate needs an engine, a conversation of the same model, and params");
    }
    TRY(conversation_enter(c, err));
    omni_status status = check_not_inside(e, err);
    if (status == OMNI_OK) {
        status = generate(e, c, params, result, err);
        conversation_forget_cancel(c);
    }
    conversation_leave(c);
    return status;
}

/* ---- given texts ---- */

void omni_speak_cancel(omni_engine *e) {
    if (e) {
        atomic_store(&e->speak_cancelled, true);
    }
}

bool omni_speak_cancel_withdraw(omni_engine *e) {
    return e && atomic_exchange(&e->speak_cancelled, false);
}

/* Counts the calls of omni_speak; the last one to return forgets the cancel that they all have met. */
static void count_speaking(omni_engine *e, int more) {
    pthread_mutex_lock(&e->lock);
    e->speaking += more;
    if (e->speaking == 0) {
        atomic_store(&e->speak_cancelled, false);
    }
    pthread_mutex_unlock(&e->lock);
}

static omni_status speak(omni_engine *e, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_request *r;
    if (atomic_load(&e->speak_cancelled)) {
        return cancelled_early(result);
    }
    TRY(request_speak(e, text, params, &r, err));
    omni_status status = wait_for(r, params, &e->speak_cancelled, result, err);
    omni_request_free(r);
    return status;
}

omni_status omni_speak(omni_engine *e, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    if (!e || !text || !params) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_speak needs an engine, a text and params");
    }
    TRY(check_not_inside(e, err));
    count_speaking(e, 1);
    omni_status status = speak(e, text, params, result, err);
    count_speaking(e, -1);
    return status;
}
