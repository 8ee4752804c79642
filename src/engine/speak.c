/* Speaking a given text, without the thinker; working memory for speech. */
#include <stdlib.h>
#include <string.h>

#include "engine/calls.h"
#include "engine/engine.h"

omni_status session_speech(omni_session *s, int64_t rows, const omni_generate_params *params, omni_error *err) {
    enum { OPENING = 16 }; /* the talker's own rows before the first frame */
    int64_t frames = params->max_frames > 0 ? params->max_frames : SPEECH_DEFAULT_FRAMES, most = talker_get_config(s->model->talker)->context_length;
    int64_t positions = rows + OPENING + (frames < most ? frames : most);
    if (s->speech && speech_fits(s->speech, positions)) {
        return OMNI_OK;
    }
    speech_destroy(s->speech);
    s->speech = NULL;
    return speech_create(s->model->b, s->model->talker, s->model->code2wav, positions, &s->speech, err);
}

/* The rows of an opening without a conversation. */
static omni_status opening_rows(const tokenizer *t, prompt_row **out, int64_t *count, omni_error *err) {
    static const char layout[] = "<|im_start|>assistant\n";
    token_list ids = {0};
    omni_status status = tokenizer_encode(t, TOKENIZE_MARKUP, layout, sizeof layout - 1, &ids, err);
    prompt_row *rows = calloc(ids.count + 1, sizeof *rows);
    if (status == OMNI_OK && !rows) {
        status = fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (size_t i = 0; status == OMNI_OK && i < ids.count; i++) {
        rows[i] = (prompt_row){.id = ids.ids[i], .class = ROW_TEXT, .media = -1, .position = {(float)i, (float)i, (float)i}};
    }
    *out = rows;
    *count = (int64_t)ids.count;
    token_list_free(&ids);
    return status;
}

static omni_status utter(omni_session *s, const token_list *text, receiver *to, trace *t, omni_result *result, omni_error *err) {
    prompt_row *rows;
    int64_t count;
    omni_status status = opening_rows(s->model->tokenizer, &rows, &count, err);
    if (status == OMNI_OK) {
        status = session_speech(s, count, to->params, err);
    }
    if (status == OMNI_OK) {
        talker_prompt p = {.rows = rows, .n = count};
        status = speech_begin(s->speech, &p, to, 0, t, err);
    }
    free(rows);
    TRY(status);
    status = speech_push(s->speech, text->ids, (int64_t)text->count, err);
    status = status == OMNI_OK ? speech_finish(s->speech, err) : status;
    if (status != OMNI_OK) {
        speech_abandon(s->speech);
    }
    speech_account(s->speech, result);
    return status;
}

static omni_status speak(omni_session *s, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    const double started = engine_now();
    receiver to = {.params = params, .cancelled = &s->cancelled};
    trace *t = NULL;
    token_list ids = {0};
    TRY(check_generate_params(s->model, params, false, err));
    if (!*text) {
        return fail(err, OMNI_ERR_ARGUMENT, "there is no text to say");
    }
    if (params->trace) {
        TRY(trace_create(params->trace, &t, err));
    }
    omni_status status = receiver_check(&to, err);
    if (status == OMNI_OK) {
        status = tokenizer_encode(s->model->tokenizer, TOKENIZE_PLAIN, text, strlen(text), &ids, err);
    }
    if (status == OMNI_OK) {
        status = utter(s, &ids, &to, t, result, err);
    }
    result->answer_tokens = (int64_t)ids.count;
    result->seconds_answer = engine_now() - started;
    result->seconds_first_audio = to.first_audio > 0 ? to.first_audio - started : 0;
    token_list_free(&ids);
    if (status == OMNI_OK) {
        return trace_finish(t, err);
    }
    trace_abandon(t);
    return status;
}

omni_status omni_speak(omni_session *s, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err) {
    omni_result own;
    result = result ? result : &own;
    *result = (omni_result){0};
    if (!s || !text || !params) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_speak needs a session, a text and params");
    }
    omni_generate_params p = *params;
    p.speak = true;
    TRY(session_enter_model(s, err));
    omni_status status = speak(s, text, &p, result, err);
    session_leave_model(s);
    if (status == OMNI_CANCELLED) {
        result->finish = OMNI_FINISH_CANCELLED;
        status = OMNI_OK;
    }
    return status;
}
