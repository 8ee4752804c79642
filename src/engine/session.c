/* A session: one conversation and an engine of its own, with calls that return when the answer is complete. */
#include <stdlib.h>

#include "engine/calls.h"
#include "engine/request.h"

omni_session_params omni_session_params_default(void) {
    return (omni_session_params){0};
}

omni_status omni_session_create(omni_model *model, const omni_session_params *params, omni_session **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!model || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_session_create needs a model and a place for the session");
    }
    const omni_session_params p = params ? *params : omni_session_params_default();
    const omni_conversation_params c = {.context = p.context,
                                        .fps = p.fps,
                                        .use_audio_in_video = p.use_audio_in_video,
                                        .max_audio_seconds = p.max_audio_seconds,
                                        .max_video_frames = p.max_video_frames,
                                        .max_pixels = p.max_pixels,
                                        .max_media_memory = p.max_media_memory,
                                        .forbid_files = p.forbid_files,
                                        .on_warning = p.on_warning,
                                        .warning_arg = p.warning_arg};
    omni_engine_params e = omni_engine_params_default();
    e.context = p.context;
    e.batch = p.batch;
    e.cache_type_k = p.cache_type_k;
    e.cache_type_v = p.cache_type_v;
    omni_session *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    omni_status status = omni_conversation_create(model, &c, &s->conversation, err);
    status = status == OMNI_OK ? omni_engine_create(model, &e, &s->engine, err) : status;
    if (status != OMNI_OK) {
        omni_session_destroy(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

void omni_session_destroy(omni_session *s) {
    if (s) {
        omni_conversation_free(s->conversation);
        omni_engine_destroy(s->engine);
        free(s);
    }
}

omni_status omni_session_reset(omni_session *s) {
    if (!s) {
        return OMNI_ERR_ARGUMENT;
    }
    TRY(omni_conversation_reset(s->conversation));
    omni_engine_forget(s->engine);
    s->used = 0;
    return OMNI_OK;
}

int64_t omni_session_used(const omni_session *s) {
    return s ? s->used : 0;
}

int64_t omni_session_context(const omni_session *s) {
    return s ? omni_engine_context(s->engine) : 0;
}

omni_status omni_session_add(omni_session *s, const omni_message *message, omni_error *err) {
    return omni_conversation_add(s ? s->conversation : NULL, message, err);
}

omni_status omni_session_add_json(omni_session *s, const char *json, size_t size, omni_error *err) {
    return omni_conversation_add_json(s ? s->conversation : NULL, json, size, err);
}

omni_status omni_session_add_request(omni_session *s, const char *json, size_t size, omni_generate_params *params, omni_error *err) {
    return omni_conversation_add_request(s ? s->conversation : NULL, json, size, params, err);
}

omni_status omni_session_set_tools(omni_session *s, const char *json, size_t size, omni_error *err) {
    return omni_conversation_set_tools(s ? s->conversation : NULL, json, size, err);
}

omni_status omni_session_take_back(omni_session *s) {
    return omni_conversation_take_back(s ? s->conversation : NULL);
}

size_t omni_session_drop_oldest(omni_session *s) {
    return omni_conversation_drop_oldest(s ? s->conversation : NULL);
}

omni_status omni_session_prompt_tokens(omni_session *s, int64_t *tokens, omni_error *err) {
    return omni_conversation_prompt_tokens(s ? s->conversation : NULL, tokens, err);
}

bool omni_session_last_role(omni_session *s, omni_role *role) {
    return omni_conversation_last_role(s ? s->conversation : NULL, role);
}

/* ---- answers ---- */

void omni_cancel(omni_session *s) {
    omni_conversation_cancel(s ? s->conversation : NULL);
}

bool omni_cancel_withdraw(omni_session *s) {
    return s && atomic_exchange(&s->conversation->cancelled, false);
}

/* One event to the callback that wants it; false when that wants no more. */
static bool hand_over(const omni_generate_params *p, const omni_event *e, omni_result *result) {
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
        result->samples += (int64_t)e->count;
        return !p->on_audio || p->on_audio(p->arg, e->samples, e->count);
    case OMNI_EVENT_PROGRESS:
        return !p->on_progress || p->on_progress(p->arg, e->name, e->done, e->total);
    case OMNI_EVENT_DONE:
        break;
    }
    return true;
}

/* Hands events over until the request has ended. Once a callback has returned false, none is called any more. */
static omni_status run(omni_session *s, omni_request *r, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_event event = {.kind = OMNI_EVENT_TEXT};
    omni_result heard = {0};
    while (event.kind != OMNI_EVENT_DONE) {
        if (omni_request_next(r, -1, &event) && !request_is_cancelled(r) && !hand_over(params, &event, &heard)) {
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
    if (!r->speak_only && r->answer.count > 0) { /* cancelled before its first token: nothing was said */
        s->used = result->prompt_tokens + (result->answer_tokens > 0 ? result->answer_tokens - 1 : 0);
        return conversation_keep_answer(s->conversation, r, err);
    }
    return OMNI_OK;
}

/* The calling thread computes until the answer is complete. */

static void enter_pool(omni_model *m) {
    pthread_mutex_lock(&m->computing);
    backend_enter(m->b);
    pthread_mutex_unlock(&m->computing);
}

static void leave_pool(omni_model *m) {
    pthread_mutex_lock(&m->computing);
    backend_leave(m->b);
    pthread_mutex_unlock(&m->computing);
}

/* Answers the conversation, or says text where that is given. */
static omni_status answer(omni_session *s, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_conversation *c = s->conversation;
    omni_request *r = NULL;
    TRY(conversation_enter(c, err));
    omni_status status = conversation_check_cancel(c, err);
    if (status == OMNI_OK) {
        omni_generate_params p = *params;
        p.reasoning_apart = params->on_reasoning != NULL;
        p.tool_calls_apart = params->on_tool_call != NULL;
        status = text ? request_speak(s->engine, text, &p, &c->cancelled, &r, err) : request_submit(s->engine, c, &p, &c->cancelled, &r, err);
    }
    if (status == OMNI_OK) {
        enter_pool(c->model);
        status = run(s, r, params, result, err);
        leave_pool(c->model);
    } else if (status == OMNI_CANCELLED) {
        result->finish = OMNI_FINISH_CANCELLED;
        status = OMNI_OK;
    }
    omni_request_free(r);
    conversation_forget_cancel(c);
    conversation_leave(c);
    return status;
}

omni_status omni_generate(omni_session *s, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    if (!s || !params) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_generate needs a session and params");
    }
    return answer(s, NULL, params, result, err);
}

omni_status omni_speak(omni_session *s, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    if (!s || !text || !params) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_speak needs a session, a text and params");
    }
    return answer(s, text, params, result, err);
}
