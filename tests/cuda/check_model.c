/* Whole conversations on the CUDA backend against the same on the CPU: check_model MODEL MMPROJ TALKER [--exact]
 *
 * Two turns with a picture and a sound, greedy and spoken, several at once. With --exact (files of F32 or F16, where nothing is rounded to fewer
 * bits) texts must be equal and the sound the same but for rounding; else what agrees is printed. Linked with the emulation it runs anywhere. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "engine/engine.h"

enum { CONVERSATIONS = 3, TURNS = 2, MOST_TEXT = 8192 };

typedef struct answer {
    char text[MOST_TEXT];
    size_t size;
    float *samples;
    size_t count;
} answer;

static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fprintf(stderr, "check_model: %s\n", err.text);
        exit(1);
    }
}

static omni_model *open_on(backend *b, char **files) {
    omni_model *m;
    omni_model_params p = omni_model_params_default();
    p.model = files[0];
    p.mmproj = files[1];
    p.talker = files[2];
    must(model_open_on(b, &p, &m, &err));
    return m;
}

static void add_turn(omni_conversation *c, int conversation, int turn) {
    const omni_part first[] = {{.kind = OMNI_IMAGE, .path = TEST_DATA "/../../models/media/picture.jpg"},
                               {.kind = OMNI_AUDIO, .path = TEST_DATA "/../../models/media/question.ogg"},
                               {.kind = OMNI_TEXT, .text = "What is this?"}},
                    plain[] = {{.kind = OMNI_TEXT, .text = "Tell me a story about the sea, please."}},
                    next[] = {{.kind = OMNI_TEXT, .text = "Go on."}};
    const omni_message message = {OMNI_USER, turn ? next : conversation ? plain : first, turn || conversation ? 1 : 3};
    must(omni_conversation_add(c, &message, &err));
}

/* Reads what has come; false once the answer has ended. */
static bool read_on(omni_request *r, answer *a) {
    omni_event e;
    while (omni_request_next(r, 0, &e)) {
        if (e.kind == OMNI_EVENT_TEXT && a->size + e.size <= MOST_TEXT) {
            memcpy(a->text + a->size, e.text, e.size);
            a->size += e.size;
        } else if (e.kind == OMNI_EVENT_AUDIO) {
            a->samples = realloc(a->samples, (a->count + e.count) * sizeof *a->samples);
            memcpy(a->samples + a->count, e.samples, e.count * sizeof *e.samples);
            a->count += e.count;
        } else if (e.kind == OMNI_EVENT_DONE) {
            if (e.status != OMNI_OK) {
                err = *e.error;
                must(e.status);
            }
            return false;
        }
    }
    return true;
}

static void converse(omni_model *m, answer answers[CONVERSATIONS]) {
    omni_engine *engine;
    omni_engine_params ep = omni_engine_params_default();
    ep.parallel = CONVERSATIONS;
    ep.context = 2048;
    must(omni_engine_create(m, &ep, &engine, &err));
    omni_conversation *c[CONVERSATIONS];
    for (int i = 0; i < CONVERSATIONS; i++) {
        must(omni_conversation_create(m, NULL, &c[i], &err));
    }
    for (int turn = 0; turn < TURNS; turn++) {
        omni_request *r[CONVERSATIONS];
        for (int i = 0; i < CONVERSATIONS; i++) {
            omni_generate_params p = omni_generate_params_default();
            p.text.greedy = p.speech.greedy = true;
            p.ignore_eos = true;
            p.max_tokens = 6;
            p.max_frames = 6;
            p.speak = i < 2;
            add_turn(c[i], i, turn);
            must(omni_request_submit(engine, c[i], &p, &r[i], &err));
        }
        bool live[CONVERSATIONS] = {true, true, true};
        while (live[0] || live[1] || live[2]) {
            omni_engine_step(engine);
            for (int i = 0; i < CONVERSATIONS; i++) {
                live[i] = live[i] && read_on(r[i], &answers[i]);
            }
        }
        for (int i = 0; i < CONVERSATIONS; i++) {
            must(omni_conversation_add_answer(c[i], r[i], &err));
            omni_request_free(r[i]);
        }
    }
    for (int i = 0; i < CONVERSATIONS; i++) {
        omni_conversation_free(c[i]);
    }
    omni_engine_destroy(engine);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: check_model MODEL MMPROJ TALKER [--exact]\n");
        return 2;
    }
    const bool exact = argc > 4 && strcmp(argv[4], "--exact") == 0;
    static answer expected[CONVERSATIONS], got[CONVERSATIONS];
    backend *cpu, *card;
    must(cpu_backend_create(2, &cpu, &err));
    must(cuda_backend_create(0, &card, &err));
    printf("%s\n", card->description);
    omni_model *a = open_on(cpu, argv + 1), *b = open_on(card, argv + 1);
    converse(a, expected);
    converse(b, got);
    int passed = 0, failed = 0;
    for (int i = 0; i < CONVERSATIONS; i++) {
        const answer *x = &expected[i], *y = &got[i];
        const bool same = x->size == y->size && memcmp(x->text, y->text, x->size) == 0;
        double signal = 0, noise = 0;
        for (size_t j = 0; j < x->count && j < y->count; j++) {
            signal += (double)x->samples[j] * x->samples[j];
            noise += ((double)x->samples[j] - y->samples[j]) * ((double)x->samples[j] - y->samples[j]);
        }
        const bool heard = x->count == y->count && noise <= 1e-6 * signal && (i < 2) == (x->count > 0);
        printf("conversation %d: text %s, %zu and %zu samples, noise %.3g of the signal\n", i, same ? "equal" : "differs", x->count, y->count,
               signal > 0 ? noise / signal : 0);
        passed += (same && heard) || !exact;
        failed += !(same && heard) && exact;
        free(x->samples);
        free(y->samples);
    }
    omni_model_close(a);
    omni_model_close(b);
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
