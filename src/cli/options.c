#include "cli/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cli/input.h"
#include "cli/terminal_text.h"

void thread_options_init(thread_options *t) {
    *t = (thread_options){.scheduling = omni_model_params_default().scheduling};
    t->poll = t->scheduling.poll;
}

size_t thread_options_flags(thread_options *t, flag *list) {
    const flag flags[THREAD_FLAGS] = {
        {"--threads", "-t", FLAG_INT, &t->threads, "N", "threads (default one a core, or one for each CPU named below)", 1, 512},
        {"--cpu-mask", "-C", FLAG_STRING, &t->scheduling.cpu_mask, "M",
         "CPUs that the threads may use, in hexadecimal: bit i stands for CPU i (default: all)", 0, 0},
        {"--cpu-range", "-Cr", FLAG_STRING, &t->scheduling.cpu_range, "LO-HI", "the same from one number to another; adds to a mask (default: all)",
         0, 0},
        {"--cpu-strict", NULL, FLAG_INT, &t->strict, "<0|1>", "1: each thread on one of these CPUs, alone; 0: all on any of them (default 0)", 0, 1},
        {"--poll", NULL, FLAG_INT, &t->poll, "<0...100>", "how long a thread without work spins before it sleeps; 0: not at all (default 50)", 0,
         100},
    };
    memcpy(list, flags, sizeof flags);
    return THREAD_FLAGS;
}

void thread_options_finish(const thread_options *t, int *threads, omni_scheduling *scheduling) {
    *threads = (int)t->threads;
    *scheduling = t->scheduling;
    scheduling->cpu_strict = t->strict == 1;
    scheduling->poll = (int)t->poll;
}

void options_init(options *o) {
    *o = (options){.model = omni_model_params_default(),
                   .conversation = omni_conversation_params_default(),
                   .engine = omni_engine_params_default(),
                   .generate = omni_generate_params_default()};
    thread_options_init(&o->threads);
    o->temperature = o->top_p = o->min_p = o->repeat_penalty = o->presence_penalty = o->frequency_penalty = NAN; /* not given */
    o->top_k = o->seed = o->context = o->logprobs = -1;
}

size_t options_flags(options *o, flag *list) {
    const flag first[] = {
        {"--model", "-m", FLAG_STRING, &o->model.model, "F",
         "the model: a thinker's GGUF, or a folder with it and the files below (default: $OMNI_MODEL)", 0, 0},
        {"--talker", NULL, FLAG_STRING, &o->model.talker, "F", "talker GGUF: speech (default: that of --model's folder, if it is one)", 0, 0},
        {"--prompt", "-p", FLAG_STRING, &o->prompt, "TEXT", "what to say to the model (default: none)", 0, 0},
        {"--file", "-f", FLAG_STRING, &o->file, "FILE", "the same from a file of UTF-8 text; - reads standard input (default: none)", 0, 0},
        {"--escape", "-e", FLAG_SET, &o->escape, NULL,
         "carry out \\n, \\t, \\\", \\xHH and their like in texts of flags (llama.cpp does so by default)", 0, 0},
        {"--output", "-o", FLAG_STRING, &o->output, "OUT",
         "speech to FILE.wav, .mp3, .opus, .ogg, .flac, .aac, its samples to .pcm, .raw (16-bit), .f32, .ulaw, .alaw, or WAV to - (default: no "
         "speech)",
         0, 0},
        {"--voice", NULL, FLAG_STRING, &o->generate.voice, "NAME", "voice of the talker file (default chelsie)", 0, 0},
        {"--seed", "-s", FLAG_INT, &o->seed, "N",
         "the same seed gives the same answer; -1: a random one, which --json and --verbose tell (default -1)", -1, 9007199254740992.0},
        {"--greedy", NULL, FLAG_SET, &o->greedy, NULL, "always the likeliest token, in text and speech", 0, 0},
        {"--max-frames", NULL, FLAG_INT, &o->max_frames, "N", "frames of speech at most, 12.5 a second (default 4096)", 1, 1 << 30},
    };
    const flag last[] = {
        {"--device", NULL, FLAG_STRING, &o->model.device, "cpu|cuda[:N]|auto",
         "where to compute: the processor, an NVIDIA card, or a card if there is one (default cpu)", 0, 0},
        {"--no-repack", NULL, FLAG_SET, &o->model.no_repack, NULL, "leave weights as the files have them: opens at once, computes slowly", 0, 0},
        {"--trace", NULL, FLAG_STRING, &o->generate.trace, "FILE.safetensors", "write the run's tensors, for comparisons (default: none)", 0, 0},
        {"--verbose", "-v", FLAG_SET, &o->verbose, NULL, "seed and timings after the answer, on standard error", 0, 0},
        {"--json", NULL, FLAG_SET, &o->json, NULL, "print one JSON object: text, counts, timings", 0, 0},
    };
    _Static_assert(sizeof first + sizeof last == (OPTIONS_FLAGS - THREAD_FLAGS) * sizeof *list, "OPTIONS_FLAGS counts these");
    const size_t before = sizeof first / sizeof *first;
    memcpy(list, first, sizeof first);
    const size_t threads = thread_options_flags(&o->threads, list + before);
    memcpy(list + before + threads, last, sizeof last);
    return OPTIONS_FLAGS;
}

bool options_cache_type(const char *text, omni_cache_type *type) {
    static const char *const names[] = {[OMNI_CACHE_F32] = "f32", [OMNI_CACHE_F16] = "f16", [OMNI_CACHE_Q8_0] = "q8_0"};
    for (size_t i = 0; text && i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *type = (omni_cache_type)i;
            return true;
        }
    }
    if (text) {
        print_error("omni: keys and values can be kept as f32, f16 or q8_0, not \"%s\"\n", text);
    }
    return !text;
}

/* Of 32 bits, as others' seeds are: short enough to be typed. */
static uint64_t random_seed(void) {
    uint32_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) {
        seed = (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16;
    }
    return seed;
}

void options_override(options *o) {
    omni_sampling *s = &o->generate.text;
    s->greedy |= o->greedy;
    if (!isnan(o->temperature)) {
        s->greedy = o->greedy || o->temperature == 0; /* as llama.cpp's --temp 0 */
        s->temperature = (float)o->temperature;
    }
    s->top_k = o->top_k >= 0 ? (int)o->top_k : s->top_k;
    s->top_p = isnan(o->top_p) ? s->top_p : (float)o->top_p;
    s->min_p = isnan(o->min_p) ? s->min_p : (float)o->min_p;
    s->repeat_penalty = isnan(o->repeat_penalty) ? s->repeat_penalty : (float)o->repeat_penalty;
    s->presence_penalty = isnan(o->presence_penalty) ? s->presence_penalty : (float)o->presence_penalty;
    s->frequency_penalty = isnan(o->frequency_penalty) ? s->frequency_penalty : (float)o->frequency_penalty;
    o->generate.logprobs |= o->logprobs >= 0;
    o->generate.top_logprobs = o->logprobs >= 0 ? (int)o->logprobs : o->generate.top_logprobs;
    o->generate.seed = o->seed < 0 ? o->generate.seed : (uint64_t)o->seed;
    o->generate.max_tokens = o->max_tokens == 0 ? o->generate.max_tokens : o->max_tokens < 0 ? 0 : o->max_tokens;
}

void options_finish(options *o) {
    o->generate.seed = random_seed();
    options_override(o);
    o->generate.speech.greedy = o->greedy;
    o->generate.max_frames = o->max_frames;
    o->generate.speak = o->output != NULL;
    o->conversation.context = o->engine.context = o->context < 0 ? 0 : o->context; /* 0, the model's own, is known only once that is open */
    thread_options_finish(&o->threads, &o->model.threads, &o->model.scheduling);
}

int options_prompt(const options *o, const char *name, char **prompt) {
    *prompt = NULL;
    if (o->prompt && o->file) {
        print_error("omni %s: the prompt comes from --prompt or from --file, not from both\n", name);
        return 2;
    }
    if (o->file) {
        return (*prompt = input_read_text(o->file)) ? -1 : 1;
    }
    if (o->prompt && !(*prompt = strdup(o->prompt))) {
        print_error("omni %s: out of memory\n", name);
        return 1;
    }
    if (o->prompt && o->escape) {
        input_unescape(*prompt);
    }
    return -1;
}
