/* omni speak: says a text, without running the thinker's layers. */
#include <stdio.h>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/options.h"

int command_speak(int argc, char **argv) {
    options o;
    options_init(&o);
    flag flags[OPTIONS_FLAGS];
    const command c = {"speak",
                       "",
                       "Says exactly the text given with -p.",
                       "Only the thinker's token embeddings and the talker are loaded.",
                       flags,
                       options_flags(&o, flags)};
    size_t count;
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    if (status >= 0) {
        return status;
    }
    options_finish(&o);
    if (!o.model.model || !o.model.talker || !o.prompt || !o.output) {
        fprintf(stderr, "omni speak: %s; usage: omni speak --model F --talker F -p TEXT -o OUT.wav\n",
                !o.model.model    ? "give the thinker file with --model F"
                : !o.model.talker ? "give the talker file with --talker F"
                : !o.prompt       ? "give the text with -p TEXT"
                                  : "give the output with -o OUT.wav");
        return 2;
    }
    omni_error err = {0};
    if (omni_sound_check(o.output, &err) != OMNI_OK) {
        return report(&err);
    }
    answer a = {.sound_path = o.output, .json = o.json};
    progress_init(&a.bar, true);
    o.model.progress = progress_show;
    o.model.progress_arg = &a.bar;
    o.model.embeddings_only = true;
    omni_model *model = NULL;
    omni_session *session = NULL;
    if (omni_model_open(&o.model, &model, &err) != OMNI_OK || omni_session_create(model, &o.session, &session, &err) != OMNI_OK ||
        omni_model_find_voice(model, o.generate.voice, &o.generate.voice, &err) != OMNI_OK) {
        progress_clear(&a.bar);
        status = report(&err);
    } else {
        progress_clear(&a.bar);
        progress_init(&a.bar, false);
        status = answer_run(&a, session, &o.generate, o.prompt, omni_model_sample_rate(model));
    }
    omni_session_destroy(session);
    omni_model_close(model);
    return status;
}
