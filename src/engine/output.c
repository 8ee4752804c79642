#include "engine/output.h"

#include <stdlib.h>

static void note_spoken(void *arg, size_t size, bool spoken) {
    spoken_judge(((output *)arg)->spoken, size, spoken);
}

/* What the parser tells; its arg is the output. */

static bool show_text(void *arg, const char *text, size_t size) {
    return receiver_text(((output *)arg)->to, text, size);
}

static bool show_reasoning(void *arg, const char *text, size_t size) {
    return receiver_reasoning(((output *)arg)->to, text, size);
}

static bool show_call(void *arg, const char *name, const char *arguments) {
    return receiver_call(((output *)arg)->to, name, arguments);
}

omni_status output_open(output *o, const tokenizer *t, receiver *to, bool speak, omni_error *err) {
    const omni_generate_params *p = to->params;
    *o = (output){.to = to, .t = t, .text = malloc(token_stream_room(t) + 16)};
    if (!o->text) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    if (p->stop_count > 0) {
        TRY(stop_create(p->stop, p->stop_count, &o->stop, err));
    }
    if (speak) {
        TRY(spoken_create(t, &o->spoken, err));
    }
    if (!speak && !p->on_reasoning && !p->on_tool_call) {
        return OMNI_OK;
    }
    const answer_events events = {.on_text = show_text,
                                  .on_reasoning = p->on_reasoning ? show_reasoning : NULL,
                                  .on_call = p->on_tool_call ? show_call : NULL,
                                  .arg = o,
                                  .on_spoken = speak ? note_spoken : NULL};
    return answer_create(&events, false, &o->parser, err);
}

void output_close(output *o) {
    stop_destroy(o->stop);
    answer_destroy(o->parser);
    spoken_destroy(o->spoken);
    token_log_free(&o->log);
    free(o->text);
    *o = (output){0};
}

/* all: nothing is withheld any more. */
static omni_status pass_on(output *o, const char *text, size_t size, bool all, omni_error *err) {
    if (!text) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the answer");
    }
    if (!token_log_show(&o->log, size, all, o->to->params->top_logprobs, o->t, o->to)) {
        return fail(err, OMNI_CANCELLED, "stopped by the reader of the tokens");
    }
    if (o->parser) {
        return answer_push(o->parser, text, size, err);
    }
    return size == 0 || receiver_text(o->to, text, size) ? OMNI_OK : fail(err, OMNI_CANCELLED, "stopped by the reader of the text");
}

omni_status output_token(output *o, int32_t id, const sample_logprobs *p, omni_error *err) {
    size_t size = token_stream_push(&o->stream, o->t, id, o->text);
    const char *text = o->text;
    if (o->spoken) {
        TRY(spoken_add(o->spoken, id, text, size, o->stream.pending_size == 0, err));
    }
    if (p) {
        TRY(token_log_add(&o->log, id, p, size, err));
    }
    if (o->stop) {
        o->stopped = stop_push(o->stop, o->text, size, &text, &size);
    }
    return pass_on(o, text, size, false, err);
}

omni_status output_finish(output *o, omni_error *err) {
    size_t size = o->stopped ? 0 : token_stream_flush(&o->stream, o->text);
    const char *text = o->text;
    if (o->spoken && size > 0) {
        TRY(spoken_add_rest(o->spoken, text, size, err));
    }
    if (o->stop && !o->stopped) {
        o->stopped = stop_push(o->stop, o->text, size, &text, &size);
        TRY(pass_on(o, text, size, false, err));
        stop_flush(o->stop, &text, &size);
    }
    TRY(pass_on(o, text, size, !o->stopped, err));
    return o->parser ? answer_finish(o->parser, err) : OMNI_OK;
}

omni_status output_spoken(output *o, bool last, token_list *out, omni_error *err) {
    return spoken_take(o->spoken, last, out, err);
}

void output_leave_out_last(output *o) {
    spoken_leave_out_last(o->spoken);
}
