/* Streams speech to a file: asks the model a question and writes the spoken answer as it is made.
 *
 *     cc speak_to_file.c -o speak_to_file $(pkg-config --cflags --libs omni)
 *     ./speak_to_file thinker.gguf talker.gguf "How are you?" answer.wav
 */
#include <omni.h>
#include <stdio.h>

static bool show(void *arg, const char *text, size_t size) {
    (void)arg;
    return fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0;
}

static bool hear(void *arg, const float *samples, size_t count) {
    omni_error err;
    return omni_sound_write(arg, samples, count, &err) == OMNI_OK;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s THINKER TALKER TEXT OUT.wav\n", argv[0]);
        return 2;
    }
    omni_error err = {0};
    omni_model *model = NULL;
    omni_engine *engine = NULL;
    omni_conversation *conversation = NULL;
    omni_sound *sound = NULL;
    omni_model_params params = omni_model_params_default();
    params.model = argv[1];
    params.talker = argv[2];

    omni_part text = {.kind = OMNI_TEXT, .text = argv[3]};
    omni_message question = {OMNI_USER, &text, 1};
    omni_generate_params answer = omni_generate_params_default();
    answer.speak = true;
    answer.max_tokens = 200;
    answer.on_text = show;
    answer.on_audio = hear;

    int status = omni_model_open(&params, &model, &err) != OMNI_OK || omni_engine_create(model, NULL, &engine, &err) != OMNI_OK ||
                 omni_conversation_create(model, NULL, &conversation, &err) != OMNI_OK ||
                 omni_conversation_add(conversation, &question, &err) != OMNI_OK ||
                 omni_sound_open(argv[4], omni_model_sample_rate(model), &sound, &err) != OMNI_OK;
    if (status == 0) {
        answer.arg = sound;
        status = omni_generate(engine, conversation, &answer, NULL, &err) != OMNI_OK;
        status |= omni_sound_close(sound, status ? NULL : &err) != OMNI_OK;
        putchar('\n');
    }
    if (status != 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    omni_conversation_free(conversation);
    omni_engine_destroy(engine);
    omni_model_close(model);
    return status;
}
