#include "server/follow.h"

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

typedef struct following {
    followed *list;
    int n;
    sem_t came; /* posted by the engine when an event waits */
} following;

static void event_waits(void *arg) {
    sem_post(arg);
}

static void cancel_all(void *arg) {
    following *f = arg;
    for (int i = 0; i < f->n; i++) {
        if (f->list[i].request) {
            omni_request_cancel(f->list[i].request);
        }
    }
}

omni_status follow_submit(server *s, exchange *x, followed *one, void (*wake)(void *arg), void *arg, omni_error *err) {
    one->began = one->began > 0 ? one->began : x->began;
    TRY(one->text ? omni_request_speak(s->engine, one->text, &one->params, &one->request, err)
                  : omni_request_submit(s->engine, one->conversation, &one->params, &one->request, err));
    omni_request_set_wakeup(one->request, wake, arg);
    return OMNI_OK;
}

static omni_status submit_all(server *s, exchange *x, following *f, omni_error *err) {
    for (int i = 0; i < f->n; i++) {
        TRY(follow_submit(s, x, &f->list[i], event_waits, &f->came, err));
    }
    return OMNI_OK;
}

static void end_one(server *s, exchange *x, followed *one, const omni_event *e) {
    one->ended = true;
    one->status = e->status;
    if (e->error) {
        one->err = *e->error;
    }
    if (e->result) {
        one->result = *e->result;
    }
    metrics_result(&s->metrics, &one->result, one->seconds);
    if (one->seconds > 0) {
        metrics_time(&s->metrics, TIMING_REAL_TIME_FACTOR, one->result.seconds_answer / one->seconds);
        metrics_time(&s->metrics, TIMING_STUTTER, one->stutter);
    }
    exchange_count(x, one->result.prompt_tokens, one->result.cached_tokens, one->result.answer_tokens);
}

static void hear(server *s, followed *one, size_t samples) {
    const double now = server_now(), seconds = (double)samples / omni_model_sample_rate(s->model);
    if (one->seconds == 0) {
        metrics_time(&s->metrics, TIMING_FIRST_AUDIO, now - one->began);
    } else if (now > one->heard_until) {
        one->stutter += now - one->heard_until;
    }
    one->heard_until = (one->heard_until > now ? one->heard_until : now) + seconds;
    one->seconds += seconds;
}

bool follow_next(server *s, exchange *x, followed *one, omni_event *e) {
    if (one->ended || !omni_request_next(one->request, 0, e)) {
        return false;
    }
    if (e->kind == OMNI_EVENT_DONE) {
        end_one(s, x, one, e);
    } else if (e->kind == OMNI_EVENT_AUDIO) {
        hear(s, one, e->count);
    } else if (!one->told_text && (e->kind == OMNI_EVENT_TEXT || e->kind == OMNI_EVENT_REASONING)) {
        one->told_text = true;
        metrics_time(&s->metrics, TIMING_FIRST_TOKEN, server_now() - one->began);
    }
    return true;
}

static void read_all(server *s, exchange *x, following *f, const follow_calls *calls) {
    for (int live = f->n; live > 0;) {
        while (sem_wait(&f->came) != 0) {
        }
        for (int i = 0; i < f->n; i++) {
            followed *one = &f->list[i];
            omni_event e;
            while (follow_next(s, x, one, &e)) {
                if (one->ended) {
                    calls->ended(calls->arg, i);
                    live--;
                } else {
                    calls->take(calls->arg, i, &e);
                }
            }
        }
    }
}

omni_status follow_all(server *s, exchange *x, followed *list, int n, const follow_calls *calls, omni_error *err) {
    following f = {.list = list, .n = n};
    sem_init(&f.came, 0, 0);
    const omni_status status = submit_all(s, x, &f, err);
    if (status == OMNI_OK) {
        exchange_on_gone(x, cancel_all, &f);
        calls->begin(calls->arg);
        read_all(s, x, &f, calls);
        exchange_on_gone(x, NULL, NULL);
    }
    for (int i = 0; i < n; i++) {
        omni_request_free(list[i].request);
        list[i].request = NULL;
    }
    sem_destroy(&f.came);
    return status;
}

static json_t *token_object(const omni_token *t) {
    json_t *list = json_array();
    for (size_t i = 0; i < t->size; i++) {
        json_array_append_new(list, json_integer((unsigned char)t->bytes[i]));
    }
    return json_pack("{s:o*, s:f, s:o*}", "token", text_value(t->bytes, t->size), "logprob", (double)t->logprob, "bytes", list);
}

json_t *token_logprobs(const omni_event *e) {
    json_t *one = token_object(e->token), *top = json_array();
    for (size_t i = 0; i < e->top_count; i++) {
        json_array_append_new(top, token_object(&e->top[i]));
    }
    json_object_set_new(one, "top_logprobs", top);
    return one;
}

void send_event(exchange *x, const char *name, json_t *value) {
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text) {
        return;
    }
    bytes line = {0};
    if (name) {
        bytes_add(&line, "event: ", 7);
        bytes_add(&line, name, strlen(name));
        bytes_add(&line, "\n", 1);
    }
    bytes_add(&line, "data: ", 6);
    bytes_add(&line, text, strlen(text));
    bytes_add(&line, "\n\n", 2);
    if (!line.failed) {
        reply_write(x, line.data, line.size);
    }
    bytes_free(&line);
    free(text);
}
