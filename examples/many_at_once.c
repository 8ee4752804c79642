/* Answers several questions at once: one engine computes all answers together, and this thread reads whatever has come, of whichever answer.
 *
 *     cc many_at_once.c -o many_at_once $(pkg-config --cflags --libs omni)
 *     ./many_at_once thinker.gguf "How are you?" "What is a sonnet?" "Count to ten."
 */
#include <omni.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct answer {
    omni_request *request;
    FILE *text; /* collected here, since answers come in turns */
    char *collected;
    size_t size;
    bool done;
} answer;

/* Called by the engine's thread when any request has news. */
static void wake(void *arg) {
    sem_post(arg);
}

static omni_status ask(omni_model *model, omni_engine *engine, const char *question, answer *a, omni_error *err) {
    omni_conversation *conversation;
    omni_status status = omni_conversation_create(model, NULL, &conversation, err);
    if (status != OMNI_OK) {
        return status;
    }
    const omni_part text = {.kind = OMNI_TEXT, .text = question};
    const omni_message message = {OMNI_USER, &text, 1};
    omni_generate_params params = omni_generate_params_default();
    params.max_tokens = 200;
    status = omni_conversation_add(conversation, &message, err);
    if (status == OMNI_OK) {
        status = omni_request_submit(engine, conversation, &params, &a->request, err);
    }
    omni_conversation_free(conversation); /* the request has what it needs of it */
    return status;
}

/* Takes what waits of one answer; returns OMNI_OK, or why it has failed. */
static omni_status read_events(answer *a, omni_error *err) {
    omni_event event;
    while (!a->done && omni_request_next(a->request, 0, &event)) {
        if (event.kind == OMNI_EVENT_TEXT) {
            fwrite(event.text, 1, event.size, a->text);
        } else if (event.kind == OMNI_EVENT_DONE) {
            a->done = true;
            if (event.status != OMNI_OK) {
                *err = *event.error;
            }
            return event.status;
        }
    }
    return OMNI_OK;
}

static omni_status answer_all(omni_model *model, int count, char **questions, answer *answers, omni_error *err) {
    omni_engine *engine = NULL;
    omni_engine_params params = omni_engine_params_default();
    params.parallel = count < 8 ? count : 8; /* those beyond wait for their turn */
    params.context = omni_model_context(model) < 1024 ? 0 : 1024;
    params.queue = count;
    sem_t news;
    sem_init(&news, 0, 0);
    omni_status status = omni_engine_create(model, &params, &engine, err);
    if (status == OMNI_OK) {
        status = omni_engine_start(engine, err);
    }
    for (int i = 0; status == OMNI_OK && i < count; i++) {
        status = ask(model, engine, questions[i], &answers[i], err);
        omni_request_set_wakeup(answers[i].request, wake, &news);
    }
    for (int left = count; status == OMNI_OK && left > 0;) {
        sem_wait(&news);
        left = 0;
        for (int i = 0; status == OMNI_OK && i < count; i++) {
            status = read_events(&answers[i], err);
            left += !answers[i].done;
        }
    }
    for (int i = 0; i < count; i++) {
        omni_request_free(answers[i].request); /* cancels what has not ended; no wakeup comes afterwards */
    }
    omni_engine_destroy(engine);
    sem_destroy(&news);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s THINKER QUESTION ...\n", argv[0]);
        return 2;
    }
    const int count = argc - 2;
    omni_error err = {0};
    omni_model *model = NULL;
    omni_model_params params = omni_model_params_default();
    params.model = argv[1];
    answer *answers = calloc((size_t)count, sizeof *answers);
    bool ok = answers != NULL;
    for (int i = 0; ok && i < count; i++) {
        answers[i].text = open_memstream(&answers[i].collected, &answers[i].size);
        ok = answers[i].text != NULL;
    }
    if (!ok) {
        fprintf(stderr, "out of memory\n");
    } else if (omni_model_open(&params, &model, &err) != OMNI_OK || answer_all(model, count, argv + 2, answers, &err) != OMNI_OK) {
        fprintf(stderr, "%s\n", err.text);
        ok = false;
    }
    for (int i = 0; answers && i < count; i++) {
        if (answers[i].text) {
            fclose(answers[i].text);
        }
        if (ok) {
            printf("%s\n", argv[i + 2]);
            fwrite(answers[i].collected, 1, answers[i].size, stdout);
            printf("\n\n");
        }
        free(answers[i].collected);
    }
    free(answers);
    omni_model_close(model);
    return ok ? 0 : 1;
}
