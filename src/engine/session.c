/* A conversation: messages and media come in here; engine/conversation.c lays them out, engine/generate.c answers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/calls.h"
#include "engine/media_load.h"
#include "text/messages.h"

enum { DEFAULT_CONTEXT = 8192, DEFAULT_BATCH = 512 };

omni_session_params omni_session_params_default(void) {
    return (omni_session_params){0};
}

static omni_status check_params(const omni_model *m, omni_session_params *p, omni_error *err) {
    int64_t most = m->thinker->context;
    if (p->context < 0 || p->batch < 0 || !(p->fps >= 0) || !isfinite(p->fps) || !(p->max_audio_seconds >= 0) || !isfinite(p->max_audio_seconds) ||
        p->max_video_frames < 0 || p->max_pixels < 0 || p->max_media_memory < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "session parameters must be finite numbers of 0 or more");
    }
    if ((unsigned)p->cache_type_k > OMNI_CACHE_Q8_0 || (unsigned)p->cache_type_v > OMNI_CACHE_Q8_0) {
        return fail(err, OMNI_ERR_ARGUMENT, "cache types %d and %d: there are 0 to %d", (int)p->cache_type_k, (int)p->cache_type_v, OMNI_CACHE_Q8_0);
    }
    if (p->context > most) {
        return fail(err, OMNI_ERR_LIMIT, "a context of %lld tokens asked for; the model was made for %lld", (long long)p->context, (long long)most);
    }
    p->context = p->context ? p->context : most < DEFAULT_CONTEXT ? most : DEFAULT_CONTEXT;
    p->batch = p->batch ? p->batch : DEFAULT_BATCH;
    p->batch = p->batch < p->context ? p->batch : (int)p->context;
    return OMNI_OK;
}

static omni_status create(omni_session *s, omni_error *err) {
    omni_model *m = s->model;
    if (m->thinker->embeddings_only) {
        return OMNI_OK; /* only speaks given texts */
    }
    const decoder_config *c = &m->thinker->config;
    int64_t n = s->params.context;
    const dtype k = engine_cache_type(s->params.cache_type_k), v = engine_cache_type(s->params.cache_type_v);
    TRY(kv_pool_create(m->b, k, v, c->layers, c->kv_heads, c->head_dim, n, &s->pool, err));
    TRY(kv_seq_init(s->pool, n, &s->seq, err));
    TRY(batch_create(m->b, c, &m->thinker->weights, s->pool, s->params.batch, 1, (n + KV_BLOCK - 1) / KV_BLOCK, &s->batch, err));
    TRY(m->b->ops->alloc(m->b, sizeof(int32_t), (void **)&s->chosen, err));
    s->rows = calloc((size_t)s->params.batch, sizeof *s->rows);
    s->cached = calloc((size_t)n, sizeof *s->cached);
    TRY(m->b->ops->alloc(m->b, (size_t)c->vocab, (void **)&s->seen, err));
    return s->rows && s->cached ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a context of %lld tokens", (long long)n);
}

omni_status omni_session_create(omni_model *model, const omni_session_params *params, omni_session **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!model || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_session_create needs a model and a place for the session");
    }
    omni_session_params p = params ? *params : omni_session_params_default();
    TRY(check_params(model, &p, err));
    omni_session *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    s->model = model;
    s->params = p;
    omni_status status = create(s, err);
    if (status != OMNI_OK) {
        omni_session_destroy(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

static void truncate_media(omni_session *s, size_t count) {
    while (s->media_count > count) {
        medium_free(&s->model->encoders, &s->media[--s->media_count]);
    }
}

void omni_session_destroy(omni_session *s) {
    if (!s) {
        return;
    }
    backend *b = s->model->b;
    speech_destroy(s->speech);
    truncate_media(s, 0);
    free(s->media);
    chat_free(&s->chat);
    batch_destroy(s->batch);
    kv_seq_release(&s->seq);
    kv_pool_destroy(s->pool);
    if (s->chosen) {
        b->ops->release(b, s->chosen);
    }
    if (s->seen) {
        b->ops->release(b, s->seen);
    }
    if (s->media_hidden) {
        b->ops->release(b, s->media_hidden);
    }
    free(s->rows);
    free(s->cached);
    free(s);
}

static void reset(omni_session *s) {
    chat_truncate(&s->chat, 0);
    truncate_media(s, 0);
    s->cached_count = 0;
    if (s->pool) {
        kv_seq_truncate(&s->seq, 0);
    }
}

omni_status omni_session_reset(omni_session *s) {
    if (!s) {
        return OMNI_ERR_ARGUMENT;
    }
    TRY(session_enter(s, NULL));
    reset(s);
    session_leave(s);
    return OMNI_OK;
}

int64_t omni_session_used(const omni_session *s) {
    return s ? s->cached_count : 0;
}

int64_t omni_session_context(const omni_session *s) {
    return s ? s->params.context : 0;
}

/* ---- messages ---- */

/* Frames without a sound track (.npy) take the sounds given beside them in the same message, in order. A sound that has found its video
 * so is left empty, without has_sound: it is no medium of its own. */
static void pair_sounds(omni_session *s, size_t first) {
    size_t next = first;
    for (size_t i = first; i < s->media_count; i++) {
        medium *m = &s->media[i];
        if (m->kind != PROMPT_VIDEO || !m->frames_only) {
            continue;
        }
        while (next < s->media_count && s->media[next].kind != PROMPT_AUDIO) {
            next++;
        }
        if (next == s->media_count) {
            return;
        }
        medium *from = &s->media[next++];
        m->sound = from->sound;
        m->has_sound = true;
        from->sound = (sound){0};
        from->has_sound = false;
    }
}

/* Says which videos from first on have no sound although it was asked for. */
static void warn_of_silence(const omni_session *s, size_t first) {
    for (size_t i = first; s->params.use_audio_in_video && s->params.on_warning && i < s->media_count; i++) {
        if (s->media[i].kind == PROMPT_VIDEO && !s->media[i].has_sound) {
            omni_error text = {0}; /* its text is printable whatever the name */
            fail(&text, OMNI_ERR_UNSUPPORTED, "%s: has no sound: only seen (--use-audio-in-video)", s->media[i].name);
            s->params.on_warning(s->params.warning_arg, text.text);
        }
    }
}

static void remove_medium(omni_session *s, size_t i) {
    medium_free(&s->model->encoders, &s->media[i]);
    s->media_count--;
    memmove(&s->media[i], &s->media[i + 1], (s->media_count - i) * sizeof *s->media);
}

static omni_status load_parts(omni_session *s, media_loading *l, const omni_message *message, omni_error *err) {
    for (size_t i = 0; i < message->part_count; i++) {
        const omni_part *p = &message->parts[i];
        if ((unsigned)p->kind > OMNI_VIDEO || (p->kind == OMNI_TEXT ? !p->text : !p->path && !p->data)) {
            return fail(err, OMNI_ERR_ARGUMENT, "part %zu of the message has no content", i + 1);
        }
        if (p->kind != OMNI_TEXT) {
            TRY(media_loading_add(l, s, p->kind, p->path, p->data, p->size, err));
        }
    }
    return OMNI_OK;
}

static omni_status add_message(omni_session *s, const omni_message *message, omni_error *err) {
    static const chat_role roles[] = {CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL};
    static const chat_kind kinds[] = {CHAT_TEXT, CHAT_IMAGE, CHAT_AUDIO, CHAT_VIDEO};
    chat_message *m;
    size_t at = s->media_count;
    if ((unsigned)message->role > OMNI_TOOL) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d is no role", (int)message->role);
    }
    TRY(chat_add_message(&s->chat, roles[message->role], &m, err));
    media_loading loading;
    media_loading_begin(&loading, s);
    omni_status status = load_parts(s, &loading, message, err);
    media_loading_end(&loading);
    TRY(status);
    if (s->params.use_audio_in_video) {
        pair_sounds(s, at);
    }
    for (size_t i = 0; i < message->part_count; i++) {
        const omni_part *p = &message->parts[i];
        if (p->kind == OMNI_TEXT) {
            TRY(chat_add_text(m, p->text, p->size ? p->size : strlen(p->text), err));
        } else if (p->kind == OMNI_AUDIO && !s->media[at].has_sound) {
            remove_medium(s, at);
        } else { /* the conversation needs to know only that there is a medium: it is loaded */
            TRY(chat_add_media(m, kinds[p->kind], s->media[at++].name, NULL, 0, err));
        }
    }
    return OMNI_OK;
}

omni_status omni_session_add(omni_session *s, const omni_message *message, omni_error *err) {
    if (!s || !message || (message->part_count > 0 && !message->parts)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_session_add needs a session, a message and its parts");
    }
    TRY(session_enter(s, err));
    size_t messages = s->chat.count, media = s->media_count;
    omni_status status = session_check_cancel(s, err);
    status = status == OMNI_OK ? add_message(s, message, err) : status;
    if (status != OMNI_OK) {
        chat_truncate(&s->chat, messages);
        truncate_media(s, media);
    } else {
        warn_of_silence(s, media);
    }
    session_forget_cancel(s);
    session_leave(s);
    return status;
}

static void take_back(omni_session *s) {
    if (s->chat.count == 0) {
        return;
    }
    const chat_message *last = &s->chat.messages[s->chat.count - 1];
    size_t media = 0;
    for (size_t i = 0; i < last->part_count; i++) {
        media += last->parts[i].kind != CHAT_TEXT;
    }
    chat_truncate(&s->chat, s->chat.count - 1);
    truncate_media(s, s->media_count - media);
    int64_t kept = 0; /* rows of its media must not pass for those of others of the same size */
    while (kept < s->cached_count && s->cached[kept].media < (int64_t)s->media_count) {
        kept++;
    }
    s->cached_count = kept;
}

omni_status omni_session_take_back(omni_session *s) {
    if (!s) {
        return OMNI_ERR_ARGUMENT;
    }
    TRY(session_enter(s, NULL));
    take_back(s);
    session_leave(s);
    return OMNI_OK;
}

/* Sounds given beside a conversation for its videos without sound. As in the reference's processor there is one list, the sounds of the
 * messages before those beside them, and what needs a sound takes the next in the order of the text. */
static omni_status deal_sounds(omni_session *s, media_loading *l, size_t first, const chat_message *beside, omni_error *err) {
    size_t count = s->media_count, takers = 0, given = beside->part_count, dealt = 0;
    for (size_t i = first; i < count; i++) {
        bool silent = s->media[i].kind == PROMPT_VIDEO && !s->media[i].has_sound;
        takers += silent || s->media[i].kind == PROMPT_AUDIO;
        given += s->media[i].kind == PROMPT_AUDIO;
    }
    if (!s->params.use_audio_in_video || given != takers) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "\"audio\" has %zu sounds, which go to videos without sound when use_audio_in_video is set; there are %zu", beside->part_count,
                    s->params.use_audio_in_video ? takers - (given - beside->part_count) : 0);
    }
    sound *list = calloc(given + 1, sizeof *list);
    omni_status status = list ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    for (size_t i = 0; status == OMNI_OK && i < beside->part_count; i++) {
        const chat_part *p = &beside->parts[i];
        status = media_loading_add(l, s, OMNI_AUDIO, p->path, p->data, p->size, err);
    }
    if (status == OMNI_OK) {
        size_t n = 0;
        for (size_t i = first; i < s->media_count; i++) {
            if (s->media[i].kind == PROMPT_AUDIO) {
                list[n++] = s->media[i].sound;
                s->media[i].sound = (sound){0};
            }
        }
        for (size_t i = first; i < count; i++) {
            medium *m = &s->media[i];
            if (m->kind == PROMPT_AUDIO || (m->kind == PROMPT_VIDEO && !m->has_sound)) {
                m->sound = list[dealt++];
                m->has_sound = true;
            }
        }
    }
    truncate_media(s, count);
    free(list);
    return status;
}

static omni_status load_json_media(omni_session *s, media_loading *l, size_t first_message, const chat_message *sounds, omni_error *err) {
    static const omni_kind kinds[] = {[CHAT_IMAGE] = OMNI_IMAGE, [CHAT_AUDIO] = OMNI_AUDIO, [CHAT_VIDEO] = OMNI_VIDEO};
    size_t first = s->media_count;
    for (size_t i = first_message; i < s->chat.count; i++) {
        for (size_t k = 0; k < s->chat.messages[i].part_count; k++) {
            const chat_part *p = &s->chat.messages[i].parts[k];
            if (p->kind != CHAT_TEXT) {
                omni_status status = media_loading_add(l, s, kinds[p->kind], p->path, p->data, p->size, err);
                if (status != OMNI_OK) {
                    return fail_in(err, status, "messages[%zu].content[%zu]", i - first_message, k);
                }
            }
        }
    }
    return sounds->part_count > 0 ? deal_sounds(s, l, first, sounds, err) : OMNI_OK;
}

static omni_status add_json(omni_session *s, const char *json, size_t size, omni_error *err) {
    size_t messages = s->chat.count, media = s->media_count, tools = s->chat.tool_count;
    const omni_session_params before = s->params;
    message_options options = {0};
    message_limits limits = message_limits_default();
    limits.forbid_files = s->params.forbid_files;
    TRY(messages_parse(json, size, &limits, &s->chat, &options, err));
    if (options.has_fps) {
        s->params.fps = options.fps;
    }
    if (options.has_use_audio_in_video) {
        s->params.use_audio_in_video = options.use_audio_in_video;
    }
    media_loading loading;
    media_loading_begin(&loading, s);
    omni_status status = load_json_media(s, &loading, messages, &options.sounds, err);
    media_loading_end(&loading);
    message_options_free(&options);
    if (status != OMNI_OK) {
        chat_truncate(&s->chat, messages);
        chat_truncate_tools(&s->chat, tools);
        truncate_media(s, media);
        s->params = before;
        return status;
    }
    warn_of_silence(s, media);
    return OMNI_OK;
}

omni_status omni_session_add_json(omni_session *s, const char *json, size_t size, omni_error *err) {
    if (!s || !json) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_session_add_json needs a session and JSON text");
    }
    TRY(session_enter(s, err));
    omni_status status = session_check_cancel(s, err);
    status = status == OMNI_OK ? add_json(s, json, size, err) : status;
    session_forget_cancel(s);
    session_leave(s);
    return status;
}

static omni_status set_tools(omni_session *s, const char *json, size_t size, omni_error *err) {
    if (s->chat.count > 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "tools must be given before the first message");
    }
    message_limits limits = message_limits_default();
    chat given = {0};
    TRY(messages_parse_tools(json, size, &limits, &given, err));
    chat_free(&s->chat);
    s->chat = given;
    return OMNI_OK;
}

omni_status omni_session_set_tools(omni_session *s, const char *json, size_t size, omni_error *err) {
    if (!s || !json) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_session_set_tools needs a session and JSON text");
    }
    TRY(session_enter(s, err));
    omni_status status = set_tools(s, json, size, err);
    session_leave(s);
    return status;
}
