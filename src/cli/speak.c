/* omni speak: says a text, without running the thinker's layers. */
#include <stdlib.h>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/terminal_text.h"

static int speak(options *o, const char *text) {
    omni_error err = {0};
    if (omni_sound_check(o->output, &err) != OMNI_OK) {
        return report(&err);
    }
    answer a = {.sound_path = o->output, .json = o->json, .verbose = o->verbose, .seed = o->generate.seed};
    progress_init(&a.bar, true);
    o->model.progress = progress_show;
    o->model.progress_arg = &a.bar;
    o->model.embeddings_only = true;
    omni_model *model = NULL;
    omni_engine *engine = NULL;
    int status;
    const double started = progress_now();
    if (omni_model_open(&o->model, &model, &err) != OMNI_OK || omni_engine_create(model, &o->engine, &engine, &err) != OMNI_OK ||
        omni_model_find_voice(model, o->generate.voice, &o->generate.voice, &err) != OMNI_OK) {
        progress_clear(&a.bar);
        status = report(&err);
    } else {
        a.load_seconds = progress_now() - started;
        progress_clear(&a.bar);
        progress_init(&a.bar, false);
        status = answer_run(&a, engine, NULL, &o->generate, text, omni_model_sample_rate(model));
    }
    omni_engine_destroy(engine);
    omni_model_close(model);
    return status;
}

int command_speak(int argc, char **argv) {
    options o;
    options_init(&o);
    flag flags[OPTIONS_FLAGS];
    const command c = {.name = "speak",
                       .arguments = "",
                       .summary = "Says exactly the text given with -p or -f.",
                       .details = "Only the thinker's token embeddings and the talker are loaded.",
                       .flags = flags,
                       .flag_count = options_flags(&o, flags)};
    size_t count;
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    if (status >= 0) {
        return status;
    }
    options_finish(&o);
    model_files files = {o.model.model, NULL, o.model.talker, {0}};
    char *text = NULL;
    status = model_files_find("speak", WANT_TALKER, &files);
    o.model.model = files.model;
    o.model.talker = files.talker;
    if (status < 0 && (!o.model.talker || !(o.prompt || o.file) || !o.output)) {
        print_error("omni speak: %s; usage: omni speak --model F --talker F -p TEXT -o OUT.wav\n",
                    !o.model.talker         ? "give the talker file with --talker F"
                    : !(o.prompt || o.file) ? "give the text with -p TEXT, or its file with -f FILE"
                                            : "give the output with -o OUT.wav");
        status = 2;
    }
    status = status < 0 ? options_prompt(&o, "speak", &text) : status;
    status = status < 0 ? speak(&o, text) : status;
    free(text);
    model_files_free(&files);
    return status;
}
