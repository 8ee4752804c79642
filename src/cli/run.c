#define _GNU_SOURCE
/* omni run: one answer (-p or --messages), or a conversation (cli/chat.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/answer.h"
#include "cli/chat.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/logit_bias.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/terminal_text.h"

enum { MAX_MESSAGES_FILE = 512 << 20 }; /* bytes; media may be inside as base64 */

/* The system message; then, with a prompt, the user's message: media, then the text. Without, both are left to the conversation. */
static omni_status add_prompt(omni_conversation *c, omni_part *parts, size_t media_count, const char *system, const char *prompt, omni_error *err) {
    if (system) {
        omni_part part = {.kind = OMNI_TEXT, .text = system};
        omni_status status = omni_conversation_add(c, &(omni_message){OMNI_SYSTEM, &part, 1}, err);
        if (status != OMNI_OK) {
            return status;
        }
    }
    if (!prompt) {
        return OMNI_OK;
    }
    parts[media_count] = (omni_part){.kind = OMNI_TEXT, .text = prompt};
    return omni_conversation_add(c, &(omni_message){OMNI_USER, parts, media_count + (*prompt != 0 || media_count == 0)}, err);
}

/* Puts the file's name before what is wrong with its contents. */
static omni_status in_file(omni_status status, const char *path, omni_error *err) {
    if (status != OMNI_OK) {
        omni_error inner = *err;
        snprintf(err->text, sizeof err->text, "%.300s: %.690s", strcmp(path, "-") == 0 ? "standard input" : path, inner.text);
    }
    return status;
}

static void print_warning(void *arg, const char *text) {
    print_error("omni: warning: %s\n", text);
}

/* What the flags of run say besides those that speak has too. */
typedef struct run_flags {
    flag_list media, stops, biases;
    const char *messages, *system, *tools, *cache_k, *cache_v;
    const char *grammar, *grammar_file, *schema, *schema_file;
    bool no_history, context_shift;
} run_flags;

/* Texts that flags and files gave; run_texts_free releases them. */
typedef struct run_texts {
    char *prompt, *system, *json, *tools, *grammar, *schema; /* the last two: of files */
    size_t json_size, tools_size;
    char **stops;
    size_t stop_count;
    omni_part *parts;
    omni_logit_bias *biases;
} run_texts;

static void run_texts_free(run_texts *t) {
    for (size_t i = 0; i < t->stop_count; i++) {
        free(t->stops[i]);
    }
    char *const owned[] = {t->prompt, t->system, t->json, t->tools, t->grammar, t->schema};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        free(owned[i]);
    }
    free(t->stops);
    free(t->parts);
    free(t->biases);
}

/* A copy of a flag's text, its escapes carried out when they shall be. */
static char *own_text(const options *o, const char *text) {
    char *copy = strdup(text);
    if (!copy) {
        print_error("omni run: out of memory\n");
    } else if (o->escape) {
        input_unescape(copy);
    }
    return copy;
}

static bool own_stops(const options *o, const flag_list *stops, run_texts *t) {
    t->stops = calloc(stops->count + 1, sizeof *t->stops);
    for (size_t i = 0; t->stops && i < stops->count; i++) {
        t->stops[i] = own_text(o, stops->entries[i].value);
        t->stop_count += t->stops[i] != NULL;
    }
    return t->stops && t->stop_count == stops->count;
}

/* Wrong usage that the table of flags cannot see: 2 after saying so, else -1. */
static int check_flags(const options *o, const run_flags *f) {
    if (f->messages && (o->prompt || o->file || f->media.count > 0 || f->system)) {
        print_error("omni run: --messages is the whole conversation: leave -p, -f, --system and media flags out\n");
        return 2;
    }
    if (o->generate.ignore_eos && o->max_tokens <= 0) {
        print_error("omni run: --ignore-eos needs --max-tokens N, or the answer has no end\n");
        return 2;
    }
    if (o->logprobs >= 0 && !o->json) {
        print_error("omni run: --logprobs needs --json, which tells them\n");
        return 2;
    }
    if (!f->grammar + !f->grammar_file + !f->schema + !f->schema_file < 3) {
        print_error(
            "omni run: an answer follows one grammar or one schema: give one of --grammar, --grammar-file, --json-schema, --json-schema-file\n");
        return 2;
    }
    const char **paths = calloc(f->media.count + 5, sizeof *paths);
    if (!paths) {
        print_error("omni run: out of memory\n");
        return 1;
    }
    bool by_pipe = false;
    paths[0] = o->file;
    paths[1] = f->messages;
    paths[2] = f->tools;
    for (size_t i = 0; i < f->media.count; i++) {
        paths[5 + i] = f->media.entries[i].value;
        by_pipe |= input_is_standard(paths[5 + i]);
    }
    paths[3] = f->grammar_file;
    paths[4] = f->schema_file;
    for (size_t i = 2; i < 5; i++) {
        by_pipe |= paths[i] && input_is_standard(paths[i]);
    }
    const bool twice = input_read_twice("run", paths, f->media.count + 5), talks = !o->prompt && !o->file && !f->messages;
    free(paths);
    if (!twice && talks && by_pipe) {
        print_error("omni run: a conversation reads standard input, which cannot be a file (-) too: give a prompt with -p\n");
    }
    return twice || (talks && by_pipe) ? 2 : -1;
}

/* Everything that is read before the model: -1, or the exit status after reporting. */
static int read_texts(const options *o, const run_flags *f, run_texts *t) {
    int status = options_prompt(o, "run", &t->prompt);
    if (status >= 0) {
        return status;
    }
    return own_stops(o, &f->stops, t) && (!f->system || (t->system = own_text(o, f->system))) &&
                   (!f->messages || (t->json = input_read(f->messages, MAX_MESSAGES_FILE, &t->json_size))) &&
                   (!f->tools || (t->tools = input_read(f->tools, MAX_MESSAGES_FILE, &t->tools_size))) &&
                   (!f->grammar_file || (t->grammar = input_read_text(f->grammar_file))) &&
                   (!f->schema_file || (t->schema = input_read_text(f->schema_file))) && (t->parts = input_media(&f->media))
               ? -1
               : 1;
}

typedef struct opened {
    omni_model *model;
    omni_engine *engine;
    omni_conversation *conversation;
} opened;

/* The grammar or schema that flags gave, in place of what a request says. */
static void own_form(options *o, const run_flags *f, const run_texts *t) {
    if (f->grammar || t->grammar || f->schema || t->schema) {
        o->generate.grammar = f->grammar ? f->grammar : t->grammar;
        o->generate.json_schema = f->schema ? f->schema : t->schema;
    }
}

/* Opens the model and adds what was read to a new conversation. */
static omni_status begin(options *o, const run_flags *f, run_texts *t, opened *x, omni_error *err) {
    omni_status status = omni_model_open(&o->model, &x->model, err);
    if (status == OMNI_OK && o->context == 0) {
        o->conversation.context = o->engine.context = omni_model_context(x->model);
    }
    status = status != OMNI_OK ? status : omni_engine_create(x->model, &o->engine, &x->engine, err);
    status = status != OMNI_OK ? status : omni_conversation_create(x->model, &o->conversation, &x->conversation, err);
    if (status == OMNI_OK && o->model.talker) {
        status = omni_model_find_voice(x->model, o->generate.voice, &o->generate.voice, err);
    }
    if (status == OMNI_OK && t->tools) {
        status = in_file(omni_conversation_set_tools(x->conversation, t->tools, t->tools_size, err), f->tools, err);
    }
    if (status == OMNI_OK && t->json) {
        status = in_file(omni_conversation_add_request(x->conversation, t->json, t->json_size, &o->generate, err), f->messages, err);
        options_override(o); /* the command line comes first */
        if (t->biases && f->biases.count > 0) {
            o->generate.logit_bias = t->biases;
            o->generate.logit_bias_count = f->biases.count;
        }
        if (status == OMNI_OK && o->generate.logprobs && !o->json) {
            status = OMNI_ERR_ARGUMENT;
            *err = (omni_error){.code = status};
            snprintf(err->text, sizeof err->text, "%.300s: \"logprobs\" are told with --json alone", f->messages);
        }
        own_form(o, f, t);
        if (t->stop_count > 0) {
            o->generate.stop = (const char *const *)t->stops;
            o->generate.stop_count = t->stop_count;
        }
        return status;
    }
    return status != OMNI_OK ? status : add_prompt(x->conversation, t->parts, f->media.count, t->system, t->prompt, err);
}

/* With the flags parsed and the model's files found. */
static int answer_or_chat(options *o, const run_flags *f, run_texts *t) {
    omni_error err = {0};
    opened x = {0};
    if (o->output && omni_sound_check(o->output, &err) != OMNI_OK) {
        return report(&err);
    }
    int status = read_texts(o, f, t);
    if (status >= 0) {
        return status;
    }
    o->generate.stop = (const char *const *)t->stops;
    o->generate.stop_count = t->stop_count;
    o->generate.logit_bias = t->biases;
    o->generate.logit_bias_count = f->biases.count;
    own_form(o, f, t);
    answer a = {.sound_path = o->output, .json = o->json, .verbose = o->verbose, .seed = o->generate.seed};
    progress_init(&a.bar, true);
    o->model.progress = progress_show;
    o->model.progress_arg = &a.bar;
    const double started = progress_now();
    const omni_status begun = begin(o, f, t, &x, &err);
    a.load_seconds = progress_now() - started;
    progress_clear(&a.bar);
    a.seed = o->generate.seed;
    if (begun != OMNI_OK) {
        status = report(&err);
    } else {
        progress_init(&a.bar, false);
        status = t->json || t->prompt ? answer_run(&a, x.engine, x.conversation, &o->generate, NULL, omni_model_sample_rate(x.model))
                                      : chat(&a, x.model, x.engine, x.conversation, &o->generate,
                                             &(chat_options){t->system, t->parts, f->media.count, !f->no_history, f->context_shift});
    }
    omni_conversation_free(x.conversation);
    omni_engine_destroy(x.engine);
    omni_model_close(x.model);
    return status;
}

int command_run(int argc, char **argv) {
    options o;
    options_init(&o);
    run_flags f = {0};
    int64_t max_video_frames = 0;
    const flag own[] = {
        {"--mmproj", NULL, FLAG_STRING, &o.model.mmproj, "F",
         "encoders GGUF: pictures, sound, video (default: that of --model's folder, if it is one)", 0, 0},
        {"--image", NULL, FLAG_ENTRY, &f.media, "F", "a picture; media come before the text, in the order of their flags; - reads standard input", 0,
         0},
        {"--audio", NULL, FLAG_ENTRY, &f.media, "F", "a sound; may be repeated", 0, 0},
        {"--video", NULL, FLAG_ENTRY, &f.media, "F", "a video, or frames as .npy, uint8 [frames, height, width, 3]; may be repeated", 0, 0},
        {"--fps", NULL, FLAG_FLOAT, &o.conversation.fps, "X", "frames a second taken from a video (default 2)", 0.01, 240},
        {"--use-audio-in-video", NULL, FLAG_SET, &o.conversation.use_audio_in_video, NULL,
         "hear a video's own sound; for .npy frames the --audio files are the videos' sounds", 0, 0},
        {"--max-pixels", NULL, FLAG_INT, &o.conversation.max_pixels, "N",
         "pixels decoded of a message's media, in proportion more for large files (default 100000000)", 1, 9007199254740992.0},
        {"--max-video-frames", NULL, FLAG_INT, &max_video_frames, "N", "frames taken from a video at most (default 768)", 1, 1 << 30},
        {"--max-audio-seconds", NULL, FLAG_FLOAT, &o.conversation.max_audio_seconds, "X", "length of a sound at most (default 3600)", 0.001, 1e9},
        {"--max-media-memory", NULL, FLAG_INT, &o.conversation.max_media_memory, "N",
         "bytes that decoding a message's media takes at most (default 805306368)", 1, 9007199254740992.0},
        {"--system", "-sys", FLAG_STRING, &f.system, "TEXT", "system prompt (default: none)", 0, 0},
        {"--messages", NULL, FLAG_STRING, &f.messages, "FILE.json",
         "a whole conversation: a list of {\"role\", \"content\"}, or an OpenAI request; - reads standard input (default: none)", 0, 0},
        {"--no-local-files", NULL, FLAG_SET, &o.conversation.forbid_files, NULL,
         "media in --messages as data: URLs only: for JSON of someone who may not read files here", 0, 0},
        {"--tools", NULL, FLAG_STRING, &f.tools, "FILE.json", "tools that the model may call, OpenAI's list; - reads standard input (default: none)",
         0, 0},
        {"--temp", NULL, FLAG_FLOAT, &o.temperature, "X", "temperature; speech has its own sampling (default 0.7)", 0, 100},
        {"--top-k", NULL, FLAG_INT, &o.top_k, "N", "choose among the N likeliest tokens; 0: all (default 20)", 0, 1 << 30},
        {"--top-p", NULL, FLAG_FLOAT, &o.top_p, "X", "choose among the likeliest tokens that sum to X (default 0.8)", 0, 1},
        {"--min-p", NULL, FLAG_FLOAT, &o.min_p, "X", "leave out tokens under X times the likeliest; 0: off (default 0)", 0, 1},
        {"--repeat-penalty", NULL, FLAG_FLOAT, &o.repeat_penalty, "X", "make tokens that have occurred less likely; 1: off (default 1)", 0.01, 100},
        {"--presence-penalty", NULL, FLAG_FLOAT, &o.presence_penalty, "X", "make tokens that the answer has less likely; 0: off (default 0)", -100,
         100},
        {"--frequency-penalty", NULL, FLAG_FLOAT, &o.frequency_penalty, "X",
         "make them less likely by X for each time that the answer has them; 0: off (default 0)", -100, 100},
        {"--logit-bias", "-l", FLAG_ENTRY, &f.biases, "ID(+|-)BIAS",
         "make a token likelier or less likely, ID-inf: never; omni tokenize tells ids; may be repeated", 0, 0},
        {"--grammar", NULL, FLAG_STRING, &f.grammar, "GBNF",
         "what the answer must be, in llama.cpp's notation: root ::= \"yes\" | \"no\" (default: anything)", 0, 0},
        {"--grammar-file", NULL, FLAG_STRING, &f.grammar_file, "F", "the same from a file; - reads standard input (default: none)", 0, 0},
        {"--json-schema", "-j", FLAG_STRING, &f.schema, "SCHEMA", "what the answer must be, as a JSON schema; {} is any JSON (default: none)", 0, 0},
        {"--json-schema-file", "-jf", FLAG_STRING, &f.schema_file, "FILE", "the same from a file; - reads standard input (default: none)", 0, 0},
        {"--logprobs", NULL, FLAG_INT, &o.logprobs, "N", "tell the probability of each token, and the N likeliest, with --json (default: no)", 0, 20},
        {"--max-tokens", "-n", FLAG_COUNT, &o.max_tokens, "N", "tokens of answer at most; -1: up to the context's end (default -1)", 1, 1 << 30},
        {"--ctx-size", "-c", FLAG_INT, &o.context, "N", "tokens of conversation kept; 0: as many as the model allows (default 8192, or those)", 0,
         1 << 30},
        {"--ignore-eos", NULL, FLAG_SET, &o.generate.ignore_eos, NULL, "go on past the end of the answer, up to --max-tokens", 0, 0},
        {"--stop", "-r", FLAG_ENTRY, &f.stops, "TEXT", "end the answer before this text; may be repeated", 0, 0},
        {"--cache-type-k", "-ctk", FLAG_STRING, &f.cache_k, "<f32|f16|q8_0>", "keys are kept as (default f32)", 0, 0},
        {"--cache-type-v", "-ctv", FLAG_STRING, &f.cache_v, "<f32|f16|q8_0>", "values are kept as (default f32)", 0, 0},
        {"--context-shift", NULL, FLAG_SET, &f.context_shift, NULL, "in a conversation: forget the oldest messages when the context is full", 0, 0},
        {"--no-history", NULL, FLAG_SET, &f.no_history, NULL, "do not keep what is typed for the next run ($XDG_STATE_HOME/omni/history)", 0, 0},
    };
    flag flags[OPTIONS_FLAGS + sizeof own / sizeof *own];
    size_t flag_count = options_flags(&o, flags), count;
    memcpy(flags + flag_count, own, sizeof own);
    const command c = {.name = "run",
                       .arguments = "",
                       .summary = "Answers with text, and with speech when -o is given. Without -p, -f and --messages: a conversation.",
                       .details = "In a conversation: /image F, /audio F, /video F add media to the next message; /voice NAME, /reset, /quit.",
                       .flags = flags,
                       .flag_count = flag_count + sizeof own / sizeof *own};
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    model_files files = {0};
    run_texts texts = {0};
    if (status < 0) {
        options_finish(&o);
        o.conversation.max_video_frames = (int)max_video_frames;
        o.conversation.on_warning = print_warning;
        status = options_cache_type(f.cache_k, &o.engine.cache_type_k) && options_cache_type(f.cache_v, &o.engine.cache_type_v) ? -1 : 2;
    }
    status = status < 0 ? check_flags(&o, &f) : status;
    status = status < 0 && !logit_bias_read("run", &f.biases, &texts.biases) ? 2 : status;
    if (status < 0) {
        files = (model_files){o.model.model, o.model.mmproj, o.model.talker, {0}};
        const bool media = f.media.count > 0 || f.messages || (!o.prompt && !o.file);
        status = model_files_find("run", (media ? WANT_MMPROJ : 0) | (o.output ? WANT_TALKER : 0), &files);
        o.model.model = files.model;
        o.model.mmproj = files.mmproj;
        o.model.talker = files.talker;
    }
    if (status < 0 && o.output && !o.model.talker) {
        print_error("omni run: -o needs the talker: give it with --talker F\n");
        status = 2;
    }
    status = status < 0 ? answer_or_chat(&o, &f, &texts) : status;
    run_texts_free(&texts);
    model_files_free(&files);
    free(f.media.entries);
    free(f.stops.entries);
    free(f.biases.entries);
    return status;
}
