/* A conversation: messages and media come in here; engine/request.c lays them out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/calls.h"
#include "engine/media_load.h"
#include "engine/scheduler.h"
#include "text/messages.h"

enum { DEFAULT_CONTEXT = 8192 };

omni_conversation_params omni_conversation_params_default(void) {
    return (omni_conversation_params){0};
}

static omni_status check_params(const omni_model *m, omni_conversation_params *p, omni_error *err) {
    int64_t most = m->thinker->context;
    if (p->context < 0 || !(p->fps >= 0) || !isfinite(p->fps) || !(p->max_audio_seconds >= 0) || !isfinite(p->max_audio_seconds) ||
        p->max_video_frames < 0 || p->max_pixels < 0 || p->max_media_memory < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "a conversation's parameters must be finite numbers of 0 or more");
    }
    if (p->context > most) {
        return fail(err, OMNI_ERR_LIMIT, "a context of %lld tokens asked for; the model was made for %lld", (long long)p->context, (long long)most);
    }
    p->context = p->context ? p->context : most < DEFAULT_CONTEXT ? most : DEFAULT_CONTEXT;
    return OMNI_OK;
}

omni_status omni_conversation_create(omni_model *model, const omni_conversation_params *params, omni_conversation **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!model || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_create needs a model and a place for the conversation");
    }
    omni_conversation_params p = params ? *params : omni_conversation_params_default();
    TRY(check_params(model, &p, err));
    omni_conversation *c = calloc(1, sizeof *c);
    if (!c) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    c->model = model;
    c->params = p;
    *out = c;
    return OMNI_OK;
}

static void truncate_media(omni_conversation *c, size_t count) {
    while (c->media_count > count) {
        medium_free(&c->media[--c->media_count]);
    }
}

void omni_conversation_free(omni_conversation *c) {
    if (c) {
        truncate_media(c, 0);
        free(c->media);
        chat_free(&c->chat);
        message_answer_free(&c->request);
        free(c->request_bias);
        free(c);
    }
}

omni_status omni_conversation_reset(omni_conversation *c) {
    if (!c) {
        return OMNI_ERR_ARGUMENT;
    }
    TRY(conversation_enter(c, NULL));
    chat_truncate(&c->chat, 0);
    truncate_media(c, 0);
    conversation_leave(c);
    return OMNI_OK;
}

/* ---- messages ---- */

/* Frames without a sound track (.npy) take the sounds given beside them in the same message, in order. A sound that has found its video
 * so is left empty, without has_sound: it is no medium of its own. */
static void pair_sounds(omni_conversation *c, size_t first) {
    size_t next = first;
    for (size_t i = first; i < c->media_count; i++) {
        medium *m = &c->media[i];
        if (m->kind != PROMPT_VIDEO || !m->frames_only) {
            continue;
        }
        while (next < c->media_count && c->media[next].kind != PROMPT_AUDIO) {
            next++;
        }
        if (next == c->media_count) {
            return;
        }
        medium *from = &c->media[next++];
        m->sound = from->sound;
        m->has_sound = true;
        from->sound = (sound){0};
        from->has_sound = false;
    }
}

/* Says which videos from first on have no sound although it was asked for. */
static void warn_of_silence(const omni_conversation *c, size_t first) {
    for (size_t i = first; c->params.use_audio_in_video && c->params.on_warning && i < c->media_count; i++) {
        if (c->media[i].kind == PROMPT_VIDEO && !c->media[i].has_sound) {
            omni_error text = {0}; /* its text is printable whatever the name */
            fail(&text, OMNI_ERR_UNSUPPORTED, "%s: has no sound: only seen (--use-audio-in-video)", c->media[i].name);
            c->params.on_warning(c->params.warning_arg, text.text);
        }
    }
}

static void remove_medium(omni_conversation *c, size_t i) {
    medium_free(&c->media[i]);
    c->media_count--;
    memmove(&c->media[i], &c->media[i + 1], (c->media_count - i) * sizeof *c->media);
}

static omni_status load_parts(omni_conversation *c, media_loading *l, const omni_message *message, omni_error *err) {
    for (size_t i = 0; i < message->part_count; i++) {
        const omni_part *p = &message->parts[i];
        if ((unsigned)p->kind > OMNI_VIDEO || (p->kind == OMNI_TEXT ? !p->text : !p->path && !p->data)) {
            return fail(err, OMNI_ERR_ARGUMENT, "part %zu of the message has no content", i + 1);
        }
        if (p->kind != OMNI_TEXT) {
            TRY(media_loading_add(l, c, p->kind, p->path, p->data, p->size, NULL, err));
        }
    }
    return OMNI_OK;
}

static omni_status add_message(omni_conversation *c, const omni_message *message, omni_error *err) {
    static const chat_role roles[] = {CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL};
    static const chat_kind kinds[] = {CHAT_TEXT, CHAT_IMAGE, CHAT_AUDIO, CHAT_VIDEO};
    chat_message *m;
    size_t at = c->media_count;
    if ((unsigned)message->role > OMNI_TOOL) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d is no role", (int)message->role);
    }
    TRY(chat_add_message(&c->chat, roles[message->role], &m, err));
    media_loading loading;
    media_loading_begin(&loading, c);
    omni_status status = load_parts(c, &loading, message, err);
    media_loading_end(&loading);
    TRY(status);
    if (c->params.use_audio_in_video) {
        pair_sounds(c, at);
    }
    for (size_t i = 0; i < message->part_count; i++) {
        const omni_part *p = &message->parts[i];
        if (p->kind == OMNI_TEXT) {
            TRY(chat_add_text(m, p->text, p->size ? p->size : strlen(p->text), err));
        } else if (p->kind == OMNI_AUDIO && !c->media[at].has_sound) {
            remove_medium(c, at);
        } else { /* the conversation needs to know only that there is a medium: it is loaded */
            TRY(chat_add_media(m, kinds[p->kind], c->media[at++].name, NULL, 0, err));
        }
    }
    return OMNI_OK;
}

omni_status omni_conversation_add(omni_conversation *c, const omni_message *message, omni_error *err) {
    if (!c || !message || (message->part_count > 0 && !message->parts)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_add needs a conversation, a message and its parts");
    }
    TRY(conversation_enter(c, err));
    size_t messages = c->chat.count, media = c->media_count;
    omni_status status = conversation_check_cancel(c, err);
    status = status == OMNI_OK ? add_message(c, message, err) : status;
    if (status != OMNI_OK) {
        chat_truncate(&c->chat, messages);
        truncate_media(c, media);
    } else {
        warn_of_silence(c, media);
    }
    conversation_forget_cancel(c);
    conversation_leave(c);
    return status;
}

static size_t count_media(const chat_message *messages, size_t count) {
    size_t media = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < messages[i].part_count; k++) {
            media += messages[i].parts[k].kind != CHAT_TEXT;
        }
    }
    return media;
}

static void take_back(omni_conversation *c) {
    if (c->chat.count == 0) {
        return;
    }
    const size_t media = count_media(&c->chat.messages[c->chat.count - 1], 1);
    chat_truncate(&c->chat, c->chat.count - 1);
    truncate_media(c, c->media_count - media);
}

omni_status omni_conversation_take_back(omni_conversation *c) {
    if (!c) {
        return OMNI_ERR_ARGUMENT;
    }
    TRY(conversation_enter(c, NULL));
    take_back(c);
    conversation_leave(c);
    return OMNI_OK;
}

static size_t drop_oldest(omni_conversation *c) {
    const chat_message *messages = c->chat.messages;
    const size_t count = c->chat.count;
    size_t first = 0;
    while (first < count && messages[first].role == CHAT_SYSTEM) {
        first++;
    }
    size_t next = first + 1;
    while (next < count && messages[next].role != CHAT_USER) {
        next++;
    }
    if (next >= count) {
        return 0;
    }
    const size_t media_before = count_media(messages, first), media = count_media(messages + first, next - first);
    for (size_t i = 0; i < media; i++) {
        remove_medium(c, media_before);
    }
    chat_remove(&c->chat, first, next - first);
    return next - first;
}

size_t omni_conversation_drop_oldest(omni_conversation *c) {
    if (!c || conversation_enter(c, NULL) != OMNI_OK) {
        return 0;
    }
    const size_t count = drop_oldest(c);
    conversation_leave(c);
    return count;
}

omni_status omni_conversation_prompt_tokens(omni_conversation *c, int64_t *tokens, omni_error *err) {
    if (!c || !tokens) {
        return fail(err, OMNI_ERR_ARGUMENT, "no conversation, or nowhere to put the number of tokens");
    }
    TRY(conversation_enter(c, err));
    chat_prompt laid = {0};
    omni_status status = chat_render(&c->chat, c->model->tokenizer, true, (size_t)c->model->thinker->context, &laid, err);
    *tokens = (int64_t)laid.ids.count;
    for (size_t i = 0; i < c->media_count; i++) {
        *tokens += medium_least_rows(&c->model->encoders, &c->media[i]);
    }
    chat_prompt_free(&laid);
    conversation_leave(c);
    return status;
}

bool omni_conversation_last_role(omni_conversation *c, omni_role *role) {
    static const omni_role roles[] = {
        [CHAT_SYSTEM] = OMNI_SYSTEM, [CHAT_USER] = OMNI_USER, [CHAT_ASSISTANT] = OMNI_ASSISTANT, [CHAT_TOOL] = OMNI_TOOL};
    if (!c || !role || conversation_enter(c, NULL) != OMNI_OK) {
        return false;
    }
    const bool any = c->chat.count > 0;
    if (any) {
        *role = roles[c->chat.messages[c->chat.count - 1].role];
    }
    conversation_leave(c);
    return any;
}

/* Sounds given beside a conversation for its videos without sound. As in the reference's processor there is one list, the sounds of the
 * messages before those beside them, and what needs a sound takes the next in the order of the text. */
static omni_status deal_sounds(omni_conversation *c, media_loading *l, size_t first, const chat_message *beside, omni_error *err) {
    size_t count = c->media_count, takers = 0, given = beside->part_count, dealt = 0;
    for (size_t i = first; i < count; i++) {
        bool silent = c->media[i].kind == PROMPT_VIDEO && !c->media[i].has_sound;
        takers += silent || c->media[i].kind == PROMPT_AUDIO;
        given += c->media[i].kind == PROMPT_AUDIO;
    }
    if (!c->params.use_audio_in_video || given != takers) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "\"audio\" has %zu sounds, which go to videos without sound when use_audio_in_video is set; there are %zu", beside->part_count,
                    c->params.use_audio_in_video ? takers - (given - beside->part_count) : 0);
    }
    sound *list = calloc(given + 1, sizeof *list);
    omni_status status = list ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    for (size_t i = 0; status == OMNI_OK && i < beside->part_count; i++) {
        const chat_part *p = &beside->parts[i];
        status = media_loading_add(l, c, OMNI_AUDIO, p->path, p->data, p->size, NULL, err);
    }
    if (status == OMNI_OK) {
        size_t n = 0;
        for (size_t i = first; i < c->media_count; i++) {
            if (c->media[i].kind == PROMPT_AUDIO) {
                list[n++] = c->media[i].sound;
                c->media[i].sound = (sound){0};
            }
        }
        for (size_t i = first; i < count; i++) {
            medium *m = &c->media[i];
            if (m->kind == PROMPT_AUDIO || (m->kind == PROMPT_VIDEO && !m->has_sound)) {
                m->sound = list[dealt++];
                m->has_sound = true;
            }
        }
    }
    truncate_media(c, count);
    free(list);
    return status;
}

static omni_status load_json_media(omni_conversation *c, media_loading *l, size_t first_message, const chat_message *sounds, omni_error *err) {
    static const omni_kind kinds[] = {[CHAT_IMAGE] = OMNI_IMAGE, [CHAT_AUDIO] = OMNI_AUDIO, [CHAT_VIDEO] = OMNI_VIDEO};
    size_t first = c->media_count;
    for (size_t i = first_message; i < c->chat.count; i++) {
        for (size_t k = 0; k < c->chat.messages[i].part_count; k++) {
            const chat_part *p = &c->chat.messages[i].parts[k];
            if (p->kind != CHAT_TEXT) {
                omni_status status = media_loading_add(l, c, kinds[p->kind], p->path, p->data, p->size, &p->options, err);
                if (status != OMNI_OK) {
                    return fail_in(err, status, "messages[%zu].content[%zu]", i - first_message, k);
                }
            }
        }
    }
    return sounds->part_count > 0 ? deal_sounds(c, l, first, sounds, err) : OMNI_OK;
}

/* Into params what was given; the stop strings and biases stay the conversation's. */
static omni_status take_request(omni_conversation *c, message_answer *from, omni_generate_params *params, omni_error *err) {
    omni_logit_bias *bias = calloc(from->bias_count + 1, sizeof *bias);
    if (!bias) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < from->bias_count; i++) {
        bias[i] = (omni_logit_bias){from->bias[i].id, from->bias[i].bias};
    }
    free(c->request_bias);
    c->request_bias = bias;
    message_answer_free(&c->request);
    c->request = *from;
    *from = message_answer_none();
    const message_answer *a = &c->request;
    omni_sampling *t = &params->text;
    if (!isnan(a->temperature)) {
        t->greedy = a->temperature == 0;
        t->temperature = t->greedy ? t->temperature : (float)a->temperature;
    }
    t->top_p = isnan(a->top_p) ? t->top_p : (float)a->top_p;
    t->min_p = isnan(a->min_p) ? t->min_p : (float)a->min_p;
    t->repeat_penalty = isnan(a->repeat_penalty) ? t->repeat_penalty : (float)a->repeat_penalty;
    t->presence_penalty = isnan(a->presence_penalty) ? t->presence_penalty : (float)a->presence_penalty;
    t->frequency_penalty = isnan(a->frequency_penalty) ? t->frequency_penalty : (float)a->frequency_penalty;
    if (a->has_bias) {
        params->logit_bias = bias;
        params->logit_bias_count = a->bias_count;
    }
    if (a->has_logprobs) {
        params->logprobs = a->logprobs;
        params->top_logprobs = 0;
    }
    params->top_logprobs = a->top_logprobs < 0 ? params->top_logprobs : (int)a->top_logprobs;
    t->top_k = a->top_k < 0 ? t->top_k : (int)a->top_k;
    params->seed = a->seed < 0 ? params->seed : (uint64_t)a->seed;
    params->max_tokens = a->max_tokens > 0 ? a->max_tokens : params->max_tokens;
    if (a->grammar || a->json_schema) {
        params->grammar = a->grammar;
        params->json_schema = a->json_schema;
    }
    if (a->tools != MESSAGE_TOOLS_NOT_GIVEN) {
        params->tool_choice = a->tools == MESSAGE_TOOLS_NONE       ? OMNI_TOOLS_NONE
                              : a->tools == MESSAGE_TOOLS_REQUIRED ? OMNI_TOOLS_REQUIRED
                              : a->tools == MESSAGE_TOOLS_NAMED    ? OMNI_TOOLS_NAMED
                                                                   : OMNI_TOOLS_AUTO;
        params->tool_name = a->tool_name;
    }
    params->one_tool_call |= a->one_call;
    if (a->stop_count > 0) {
        params->stop = (const char *const *)a->stop;
        params->stop_count = a->stop_count;
    }
    return OMNI_OK;
}

/* params: what a request says of its answer goes there; NULL: it must say nothing. */
static omni_status add_json(omni_conversation *c, const char *json, size_t size, omni_generate_params *params, omni_error *err) {
    size_t messages = c->chat.count, media = c->media_count, tools = c->chat.tool_count;
    const omni_conversation_params before = c->params;
    message_options options = {0};
    message_limits limits = message_limits_default();
    limits.forbid_files = c->params.forbid_files;
    TRY(messages_parse(json, size, &limits, &c->chat, &options, err));
    if (!params && *options.answer.named) {
        chat_truncate(&c->chat, messages);
        chat_truncate_tools(&c->chat, tools);
        omni_status refused = fail(err, OMNI_ERR_ARGUMENT, "\"%s\" cannot act here: omni_conversation_add_request takes it", options.answer.named);
        message_options_free(&options);
        return refused;
    }
    if (options.has_fps) {
        c->params.fps = options.fps;
    }
    if (options.has_use_audio_in_video) {
        c->params.use_audio_in_video = options.use_audio_in_video;
    }
    media_loading loading;
    media_loading_begin(&loading, c);
    omni_status status = load_json_media(c, &loading, messages, &options.sounds, err);
    media_loading_end(&loading);
    if (status == OMNI_OK && params) {
        status = take_request(c, &options.answer, params, err);
    }
    message_options_free(&options);
    if (status != OMNI_OK) {
        chat_truncate(&c->chat, messages);
        chat_truncate_tools(&c->chat, tools);
        truncate_media(c, media);
        c->params = before;
        return status;
    }
    warn_of_silence(c, media);
    return OMNI_OK;
}

static omni_status enter_and_add(omni_conversation *c, const char *json, size_t size, omni_generate_params *params, omni_error *err) {
    TRY(conversation_enter(c, err));
    omni_status status = conversation_check_cancel(c, err);
    status = status == OMNI_OK ? add_json(c, json, size, params, err) : status;
    conversation_forget_cancel(c);
    conversation_leave(c);
    return status;
}

omni_status omni_conversation_add_json(omni_conversation *c, const char *json, size_t size, omni_error *err) {
    return c && json ? enter_and_add(c, json, size, NULL, err)
                     : fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_add_json needs a conversation and JSON text");
}

omni_status omni_conversation_add_request(omni_conversation *c, const char *json, size_t size, omni_generate_params *params, omni_error *err) {
    return c && json && params ? enter_and_add(c, json, size, params, err)
                               : fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_add_request needs a conversation, JSON text and params");
}

static omni_status set_tools(omni_conversation *c, const char *json, size_t size, omni_error *err) {
    if (c->chat.count > 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "tools must be given before the first message");
    }
    message_limits limits = message_limits_default();
    chat given = {0};
    TRY(messages_parse_tools(json, size, &limits, &given, err));
    chat_free(&c->chat);
    c->chat = given;
    return OMNI_OK;
}

omni_status omni_conversation_set_tools(omni_conversation *c, const char *json, size_t size, omni_error *err) {
    if (!c || !json) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_set_tools needs a conversation and JSON text");
    }
    TRY(conversation_enter(c, err));
    omni_status status = set_tools(c, json, size, err);
    conversation_leave(c);
    return status;
}

omni_status conversation_keep_answer(omni_conversation *c, const omni_request *r, omni_error *err) {
    chat_message *m;
    TRY(chat_add_message(&c->chat, CHAT_ASSISTANT, &m, err));
    for (size_t i = 0; i < request_answer_length(r); i++) {
        omni_status status = token_list_push(&m->answer, r->answer.ids[i], err);
        if (status != OMNI_OK) {
            chat_truncate(&c->chat, c->chat.count - 1);
            return status;
        }
    }
    return OMNI_OK;
}

omni_status omni_conversation_add_answer(omni_conversation *c, omni_request *r, omni_error *err) {
    if (!c || !r || !events_ended(&r->events)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_add_answer needs a conversation and a request that has ended");
    }
    if (r->e->model != c->model || r->speak_only || (r->status != OMNI_OK && r->status != OMNI_CANCELLED)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_conversation_add_answer: %s",
                    r->speak_only             ? "the request said a given text, which is no answer"
                    : r->e->model != c->model ? "the request was answered by another model"
                                              : "the request has failed");
    }
    TRY(conversation_enter(c, err));
    omni_status status = r->answer.count > 0 ? conversation_keep_answer(c, r, err) : OMNI_OK; /* cancelled before its first token */
    conversation_leave(c);
    return status;
}

void omni_conversation_cancel(omni_conversation *c) {
    if (c) {
        atomic_store(&c->cancelled, true);
    }
}

bool omni_conversation_cancel_withdraw(omni_conversation *c) {
    return c && atomic_exchange(&c->cancelled, false);
}
