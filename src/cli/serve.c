/* omni serve: the model behind HTTP. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/terminal_text.h"
#include "server/server.h"

typedef struct serve_options {
    omni_model_params model;
    server_params server;
    thread_options threads;
    flag_list keys;
    const char *cache_k, *cache_v, *log_format;
    int64_t port, wyoming, parallel, context, cache, queue, batch, max_body, timeout, drain, grace, rate_limit, max_video_frames, max_pixels,
        max_media_memory;
    double max_audio_seconds;
    bool no_page;
} serve_options;

enum { OWN = 39 };

static size_t serve_flags(serve_options *o, flag *list) {
    const flag own[] = {
        {"--model", "-m", FLAG_STRING, &o->model.model, "F",
         "the model: a thinker's GGUF, or a folder with it and the files below (default: $OMNI_MODEL)", 0, 0},
        {"--mmproj", NULL, FLAG_STRING, &o->model.mmproj, "F",
         "encoders' GGUF: pictures, sound, video (default: that of --model's folder, if it is one)", 0, 0},
        {"--talker", NULL, FLAG_STRING, &o->model.talker, "F", "talker GGUF: speech (default: that of --model's folder, if it is one)", 0, 0},
        {"--alias", "-a", FLAG_STRING, &o->server.alias, "NAME", "the model's name in answers (default: its file's)", 0, 0},
        {"--host", NULL, FLAG_STRING, &o->server.host, "ADDRESS", "address to listen on; 0.0.0.0: all of this machine's (default 127.0.0.1)", 0, 0},
        {"--port", NULL, FLAG_INT, &o->port, "N", "port to listen on; 0: any free one, which the log tells (default 8080)", 0, 65535},
        {"--wyoming", NULL, FLAG_INT, &o->wyoming, "PORT", "port for Home Assistant's Wyoming, hearing and speech; 0: any free one (default: none)",
         0, 65535},
        {"--parallel", "-np", FLAG_INT, &o->parallel, "N", "requests answered together (default 4)", 1, 1024},
        {"--ctx-size", "-c", FLAG_INT, &o->context, "N",
         "tokens of a request, its answer included (default: the smaller of 8192 and the model's limit)", 1, 1 << 30},
        {"--cache-tokens", NULL, FLAG_INT, &o->cache, "N", "tokens whose keys and values are kept, of all requests (default: --parallel contexts)", 1,
         1 << 30},
        {"--cache-type-k", "-ctk", FLAG_STRING, &o->cache_k, "<f32|f16|q8_0>", "type of the keys kept (default f32)", 0, 0},
        {"--cache-type-v", "-ctv", FLAG_STRING, &o->cache_v, "<f32|f16|q8_0>", "type of the values kept (default f32)", 0, 0},
        {"--batch-size", "-b", FLAG_INT, &o->batch, "N", "rows of prompts computed at once (default 512; on a card 2048)", 1, 65536},
        {"--queue", NULL, FLAG_INT, &o->queue, "N", "requests that may wait besides; more are answered with 429 (default 256)", 1, 100000},
        {"--api-key", NULL, FLAG_ENTRY, &o->keys, "KEY", "a key that may ask; may be given again (default: everybody may ask)", 0, 0},
        {"--api-key-file", NULL, FLAG_STRING, &o->server.api_key_file, "FILE", "keys, one a line; SIGHUP reads it again (default: none)", 0, 0},
        {"--rate-limit", NULL, FLAG_INT, &o->rate_limit, "N", "requests a minute of one key, or of one address without keys (default: any number)", 1,
         1 << 30},
        {"--cors", NULL, FLAG_STRING, &o->server.cors, "ORIGIN", "pages of this origin may ask, * for any (default: none but ours)", 0, 0},
        {"--tls-cert", NULL, FLAG_STRING, &o->server.tls_cert, "FILE", "certificate chain, PEM: HTTPS; SIGHUP reads it again (default: HTTP)", 0, 0},
        {"--tls-key", NULL, FLAG_STRING, &o->server.tls_key, "FILE", "its private key, PEM (default: none)", 0, 0},
        {"--max-body", NULL, FLAG_INT, &o->max_body, "BYTES", "largest request (default 67108864)", 1024, 4294967296.0},
        {"--timeout", NULL, FLAG_INT, &o->timeout, "SECONDS", "how long a connection may stay without progress (default 60)", 1, 86400},
        {"--drain", NULL, FLAG_INT, &o->drain, "SECONDS", "how long requests are still taken after SIGTERM, while /ready says 503 (default 0)", 0,
         3600},
        {"--grace", NULL, FLAG_INT, &o->grace, "SECONDS", "how long running answers may go on after that (default 30)", 0, 86400},
        {"--max-audio-seconds", NULL, FLAG_FLOAT, &o->max_audio_seconds, "S", "longest sound of a request (default 3600)", 0.001, 1e9},
        {"--max-video-frames", NULL, FLAG_INT, &o->max_video_frames, "N", "most frames taken from a video (default 768)", 2, 1 << 20},
        {"--max-pixels", NULL, FLAG_INT, &o->max_pixels, "N", "most pixels decoded, of a request's pictures or frames (default 100000000)", 1, 1e15},
        {"--max-media-memory", NULL, FLAG_INT, &o->max_media_memory, "BYTES", "most memory of a request's media (default 805306368)", 1, 1e15},
        {"--allow-fetch", NULL, FLAG_SET, &o->server.allow_fetch, NULL, "media may be http(s) URLs; only public addresses are connected to", 0, 0},
        {"--slots", NULL, FLAG_SET, &o->server.slots, NULL, "GET /slots tells what is running", 0, 0},
        {"--no-page", NULL, FLAG_SET, &o->no_page, NULL, "GET / is not the page to talk to", 0, 0},
        {"--log-format", NULL, FLAG_STRING, &o->log_format, "<text|json>", "lines of the log, on standard error (default text)", 0, 0},
        {"--log-content", NULL, FLAG_SET, &o->server.log_content, NULL, "the log has what was asked and answered, too", 0, 0},
        {"--no-repack", NULL, FLAG_SET, &o->model.no_repack, NULL, "leave weights as the files have them: opens at once, computes slowly", 0, 0},
    };
    const size_t n = sizeof own / sizeof *own;
    _Static_assert(sizeof own / sizeof *own == OWN - THREAD_FLAGS, "OWN counts these and those for threads");
    memcpy(list, own, sizeof own);
    return n + thread_options_flags(&o->threads, list + n);
}

/* Into the library's and the server's params. False after explaining what is wrong. */
static bool finish(serve_options *o, const char **keys) {
    server_params *p = &o->server;
    if (!options_cache_type(o->cache_k, &p->engine.cache_type_k) || !options_cache_type(o->cache_v, &p->engine.cache_type_v)) {
        return false;
    }
    if (o->log_format && strcmp(o->log_format, "text") != 0 && strcmp(o->log_format, "json") != 0) {
        print_error("omni serve: the log is text or json, not \"%s\"\n", o->log_format);
        return false;
    }
    if (!p->tls_cert != !p->tls_key) {
        print_error("omni serve: --tls-cert and --tls-key need each other\n");
        return false;
    }
    for (size_t i = 0; i < o->keys.count; i++) {
        keys[i] = o->keys.entries[i].value;
    }
    p->api_keys = keys;
    p->api_key_count = o->keys.count;
    p->port = (int)o->port;
    p->wyoming_port = (int)o->wyoming;
    p->engine.parallel = (int)o->parallel;
    p->engine.context = o->context;
    p->engine.cache_tokens = o->cache;
    p->engine.batch = (int)o->batch;
    p->engine.queue = (int)o->queue;
    p->max_body = (size_t)o->max_body;
    p->timeout = (int)o->timeout;
    p->drain = (int)o->drain;
    p->grace = (int)o->grace;
    p->rate_limit = (int)o->rate_limit;
    p->media.max_audio_seconds = o->max_audio_seconds;
    p->media.max_video_frames = (int)o->max_video_frames;
    p->media.max_pixels = o->max_pixels;
    p->media.max_media_memory = o->max_media_memory;
    p->log_json = o->log_format && strcmp(o->log_format, "json") == 0;
    p->page = !o->no_page;
    thread_options_finish(&o->threads, &o->model.threads, &o->model.scheduling);
    return true;
}

/* "qwen3-omni-q8_0" of a path. */
static char *name_of(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const size_t n = strlen(base);
    return strndup(base, n > 5 && strcmp(base + n - 5, ".gguf") == 0 ? n - 5 : n);
}

static int serve(serve_options *o) {
    omni_error err = {0};
    omni_model *model = NULL;
    omni_tokenizer *tokenizer = NULL;
    progress bar;
    progress_init(&bar, true);
    o->model.progress = progress_show;
    o->model.progress_arg = &bar;
    char *name = o->server.alias ? NULL : name_of(o->model.model);
    o->server.alias = name ? name : o->server.alias;
    omni_status status = omni_model_open(&o->model, &model, &err);
    status = status == OMNI_OK ? omni_tokenizer_open(o->model.model, &tokenizer, &err) : status;
    progress_clear(&bar);
    status = status == OMNI_OK ? server_run(model, tokenizer, &o->server, &err) : status;
    omni_tokenizer_close(tokenizer);
    omni_model_close(model);
    free(name);
    return status == OMNI_OK ? 0 : report(&err);
}

int command_serve(int argc, char **argv) {
    serve_options o = {.model = omni_model_params_default(),
                       .server = server_params_default(),
                       .port = 8080,
                       .wyoming = -1,
                       .parallel = 4,
                       .queue = 256,
                       .max_body = (int64_t)64 << 20,
                       .timeout = 60,
                       .grace = 30};
    thread_options_init(&o.threads);
    flag flags[OWN];
    const command c = {
        .name = "serve",
        .arguments = "",
        .summary = "Answers over HTTP, in the shapes of OpenAI's API, until SIGTERM or Ctrl+C.",
        .details = "POST /v1/chat/completions, /v1/responses, /v1/completions, /v1/audio/speech, /v1/audio/transcriptions, GET /v1/models, "
                   "/v1/audio/voices, /health, /ready, /metrics, /props, "
                   "POST /tokenize and /detokenize.\n"
                   "SIGTERM lets running answers end within --grace; a second one ends them. docs/server.md has examples.\n"
                   "Every flag is also an environment variable, --ctx-size OMNI_CTX_SIZE and so on; the command line comes before it. OMNI_API_KEY "
                   "is one key.",
        .flags = flags,
        .flag_count = serve_flags(&o, flags),
        .environment = true};
    size_t count;
    int status = args_parse(&c, argc, argv, NULL, 0, &count);
    if (status >= 0) {
        free(o.keys.entries);
        return status;
    }
    model_files files = {o.model.model, o.model.mmproj, o.model.talker, {0}};
    status = model_files_find("serve", WANT_MMPROJ | WANT_TALKER, &files);
    o.model.model = files.model;
    o.model.mmproj = files.mmproj;
    o.model.talker = files.talker;
    if (status < 0 && !o.model.model) {
        print_error("omni serve: give the model with --model F; usage: omni serve --model F\n");
        status = 2;
    }
    const char **keys = calloc(o.keys.count + 1, sizeof *keys);
    status = status < 0 && !keys ? report(&(omni_error){.text = "out of memory"}) : status;
    status = status < 0 ? finish(&o, keys) ? serve(&o) : 2 : status;
    free(keys);
    free(o.keys.entries);
    model_files_free(&files);
    return status;
}
