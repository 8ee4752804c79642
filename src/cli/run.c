#define _GNU_SOURCE
/* omni run: one answer (-p or --messages), or a conversation (cli/chat.c). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/answer.h"
#include "cli/chat.h"
#include "cli/commands.h"
#include "cli/options.h"

enum { MAX_MESSAGES_FILE = 512 << 20 }; /* bytes; media may be inside as base64 */

/* A whole file, or standard input for "-"; NULL after reporting. The caller frees it. */
static char *read_text(const char *path, size_t *size) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "omni: %s: cannot open: %s\n", path, strerror(errno));
        return NULL;
    }
    size_t capacity = 1 << 16, used = 0;
    char *text = malloc(capacity);
    while (text) {
        used += fread(text + used, 1, capacity - used, f);
        if (used < capacity || capacity > MAX_MESSAGES_FILE) {
            break;
        }
        char *larger = realloc(text, capacity *= 2);
        if (!larger) {
            free(text);
        }
        text = larger;
    }
    const char *fault = !text ? "out of memory" : ferror(f) ? strerror(errno) : used > MAX_MESSAGES_FILE ? "larger than 512 MiB" : NULL;
    if (f != stdin) {
        fclose(f);
    }
    if (fault) {
        fprintf(stderr, "omni: %s: %s\n", path, fault);
        free(text);
        return NULL;
    }
    *size = used;
    return text;
}

static omni_kind kind_of(const char *name) {
    return strcmp(name, "--image") == 0 ? OMNI_IMAGE : strcmp(name, "--audio") == 0 ? OMNI_AUDIO : OMNI_VIDEO;
}

/* The media of the flags, in their order, with room for one part more; NULL after reporting. The caller frees it. */
static omni_part *media_parts(const flag_list *media) {
    omni_part *parts = calloc(media->count + 1, sizeof *parts);
    if (!parts) {
        fprintf(stderr, "omni: out of memory\n");
        return NULL;
    }
    for (size_t i = 0; i < media->count; i++) {
        parts[i] = (omni_part){.kind = kind_of(media->entries[i].name), .path = media->entries[i].value};
        if (strcmp(parts[i].path, "-") != 0 && access(parts[i].path, R_OK) != 0) { /* said now, not after loading the model */
            fprintf(stderr, "omni: %s: cannot open: %s\n", parts[i].path, strerror(errno));
            free(parts);
            return NULL;
        }
    }
    return parts;
}

/* The system message; then, with a prompt, the user's message: media, then the text. Without, both are left to the conversation. */
static omni_status add_prompt(omni_session *session, omni_part *parts, size_t media_count, const char *system, const char *prompt, omni_error *err) {
    if (system) {
        omni_part part = {.kind = OMNI_TEXT, .text = system};
        omni_status status = omni_session_add(session, &(omni_message){OMNI_SYSTEM, &part, 1}, err);
        if (status != OMNI_OK) {
            return status;
        }
    }
    if (!prompt) {
        return OMNI_OK;
    }
    parts[media_count] = (omni_part){.kind = OMNI_TEXT, .text = prompt};
    return omni_session_add(session, &(omni_message){OMNI_USER, parts, media_count + (*prompt != 0 || media_count == 0)}, err);
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
    (void)arg;
    fprintf(stderr, "omni: warning: %s\n", text);
}

/* Standard input holds one thing: a medium, or the conversation. */
static bool check_standard_input(const flag_list *media, const char *prompt) {
    size_t count = 0;
    for (size_t i = 0; i < media->count; i++) {
        count += strcmp(media->entries[i].value, "-") == 0;
    }
    if (count > 1 || (count == 1 && !prompt)) {
        fprintf(stderr, count > 1 ? "omni run: - (standard input) can be one medium only\n"
                                  : "omni run: a medium from standard input (-) needs -p: without it the conversation is read from there\n");
        return false;
    }
    return true;
}

int command_run(int argc, char **argv) {
    options o;
    options_init(&o);
    flag_list media = {0}, stops = {0};
    const char *messages = NULL, *system = NULL, *tools = NULL, *cache_k = NULL, *cache_v = NULL;
    int64_t max_video_frames = 0;
    const flag own[] = {
        {"--mmproj", NULL, FLAG_STRING, &o.model.mmproj, "F", "encoders GGUF: pictures, sound, video", 0, 0},
        {"--image", NULL, FLAG_ENTRY, &media, "F", "a picture, - for standard input; media come before the text, in the order of their flags", 0, 0},
        {"--audio", NULL, FLAG_ENTRY, &media, "F", "a sound", 0, 0},
        {"--video", NULL, FLAG_ENTRY, &media, "F", "a video (or frames as .npy, uint8 [frames, height, width, 3])", 0, 0},
        {"--fps", NULL, FLAG_FLOAT, &o.session.fps, "X", "frames a second taken from a video (default 2)", 0.01, 240},
        {"--use-audio-in-video", NULL, FLAG_SET, &o.session.use_audio_in_video, NULL,
         "hear a video's own sound; for .npy frames the --audio files are the videos' sounds", 0, 0},
        {"--max-pixels", NULL, FLAG_INT, &o.session.max_pixels, "N",
         "pixels decoded of pictures and frames for 64 KiB of a message's files, more for larger ones (default 134217728)", 1, 9007199254740992.0},
        {"--max-video-frames", NULL, FLAG_INT, &max_video_frames, "N", "frames taken from a video at most (default 768)", 1, 1 << 30},
        {"--max-audio-seconds", NULL, FLAG_FLOAT, &o.session.max_audio_seconds, "X", "length of a sound at most (default 3600)", 0.001, 1e9},
        {"--max-media-memory", NULL, FLAG_INT, &o.session.max_media_memory, "N",
         "bytes that decoding a message's media takes at most (default 805306368)", 1, 9007199254740992.0},
        {"--system", "-sys", FLAG_STRING, &system, "TEXT", "system prompt", 0, 0},
        {"--messages", NULL, FLAG_STRING, &messages, "FILE.json", "a whole conversation: a list of {\"role\", \"content\"}; - reads standard input",
         0, 0},
        {"--tools", NULL, FLAG_STRING, &tools, "FILE.json", "tools that the model may call (OpenAI's list)", 0, 0},
        {"--temp", NULL, FLAG_FLOAT, &o.temperature, "X", "temperature (default 0.7; speech has its own sampling)", 0, 100},
        {"--top-k", NULL, FLAG_INT, &o.top_k, "N", "choose among the N likeliest tokens; 0: all (default 20)", 0, 1 << 30},
        {"--top-p", NULL, FLAG_FLOAT, &o.top_p, "X", "choose among the likeliest tokens that sum to X (default 0.8)", 0, 1},
        {"--min-p", NULL, FLAG_FLOAT, &o.min_p, "X", "leave out tokens under X times the likeliest (default 0: off)", 0, 1},
        {"--repeat-penalty", NULL, FLAG_FLOAT, &o.repeat_penalty, "X", "make tokens that have occurred less likely (default 1: off)", 0.01, 100},
        {"--max-tokens", "-n", FLAG_INT, &o.max_tokens, "N", "tokens of answer at most (default: up to the context's end)", 1, 1 << 30},
        {"--ctx-size", "-c", FLAG_INT, &o.context, "N", "tokens of conversation kept (default 8192, or what the model allows)", 1, 1 << 30},
        {"--ignore-eos", NULL, FLAG_SET, &o.generate.ignore_eos, NULL, "go on past the end of the answer, up to --max-tokens", 0, 0},
        {"--stop", "-r", FLAG_ENTRY, &stops, "TEXT", "end the answer before this text; may be repeated", 0, 0},
        {"--cache-type-k", "-ctk", FLAG_STRING, &cache_k, "TYPE", "keys are kept as f32, f16 or q8_0 (default f32)", 0, 0},
        {"--cache-type-v", "-ctv", FLAG_STRING, &cache_v, "TYPE", "values are kept as f32, f16 or q8_0 (default f32)", 0, 0},
    };
    flag flags[OPTIONS_FLAGS + sizeof own / sizeof *own];
    size_t flag_count = options_flags(&o, flags);
    memcpy(flags + flag_count, own, sizeof own);
    flag_count += sizeof own / sizeof *own;
    const command c = {"run",
                       "",
                       "Answers with text, and with speech when -o is given. Without -p and --messages: a conversation.",
                       "In a conversation: /image F, /audio F, /video F add media to the next message; /voice NAME, /reset, /quit.",
                       flags,
                       flag_count};
    size_t count;
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    omni_part *parts = NULL;
    char *json = NULL, *tools_json = NULL;
    size_t json_size = 0, tools_size = 0;
    const char **stop_texts = calloc(stops.count + 1, sizeof *stop_texts);
    omni_model *model = NULL;
    omni_session *session = NULL;
    if (status >= 0) {
        goto done;
    }
    status = 2;
    options_finish(&o);
    o.session.max_video_frames = (int)max_video_frames;
    o.session.on_warning = print_warning;
    if (!options_cache_type(cache_k, &o.session.cache_type_k) || !options_cache_type(cache_v, &o.session.cache_type_v)) {
        goto done;
    }
    if (!o.model.model) {
        fprintf(stderr, "omni run: give the model with --model F; see omni run --help\n");
        goto done;
    }
    if (messages && (o.prompt || media.count > 0 || system)) {
        fprintf(stderr, "omni run: --messages is the whole conversation: leave -p, --system and media flags out\n");
        goto done;
    }
    if (!check_standard_input(&media, o.prompt)) {
        goto done;
    }
    if (o.generate.ignore_eos && o.max_tokens == 0) {
        fprintf(stderr, "omni run: --ignore-eos needs --max-tokens N, or the answer has no end\n");
        goto done;
    }
    if (o.output && !o.model.talker) {
        fprintf(stderr, "omni run: -o needs the talker: give it with --talker F\n");
        goto done;
    }
    omni_error err = {0};
    if (o.output && omni_sound_check(o.output, &err) != OMNI_OK) {
        status = report(&err);
        goto done;
    }
    status = 1;
    for (size_t i = 0; stop_texts && i < stops.count; i++) {
        stop_texts[i] = stops.entries[i].value;
    }
    o.generate.stop = stop_texts;
    o.generate.stop_count = stop_texts ? stops.count : 0;
    if (!(parts = media_parts(&media)) || (messages && !(json = read_text(messages, &json_size))) ||
        (tools && !(tools_json = read_text(tools, &tools_size)))) {
        goto done;
    }
    answer a = {.sound_path = o.output, .json = o.json};
    progress_init(&a.bar, true);
    o.model.progress = progress_show;
    o.model.progress_arg = &a.bar;
    if (omni_model_open(&o.model, &model, &err) != OMNI_OK || omni_session_create(model, &o.session, &session, &err) != OMNI_OK ||
        (o.model.talker && omni_model_find_voice(model, o.generate.voice, &o.generate.voice, &err) != OMNI_OK) ||
        (tools && in_file(omni_session_set_tools(session, tools_json, tools_size, &err), tools, &err) != OMNI_OK) ||
        (json && in_file(omni_session_add_json(session, json, json_size, &err), messages, &err) != OMNI_OK) ||
        (!json && add_prompt(session, parts, media.count, system, o.prompt, &err) != OMNI_OK)) {
        progress_clear(&a.bar);
        status = report(&err);
        goto done;
    }
    progress_clear(&a.bar);
    progress_init(&a.bar, false);
    if (json || o.prompt) {
        status = answer_run(&a, session, &o.generate, NULL, omni_model_sample_rate(model));
    } else {
        status = chat(&a, model, session, &o.generate, system, parts, media.count);
    }
done:
    omni_session_destroy(session);
    omni_model_close(model);
    free(json);
    free(tools_json);
    free(parts);
    free(media.entries);
    free(stops.entries);
    free(stop_texts);
    return status;
}
