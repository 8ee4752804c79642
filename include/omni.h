/* omni: Qwen3-Omni in C. Text, images, sound and video in; text and speech out, streaming.
 *
 *     omni_model *model;                opened once: the weights
 *     omni_conversation *conversation;  messages with their media; plain data
 *     omni_engine *engine;              runs the model for any number of conversations, with a cache of what it has computed
 *
 *     omni_model_open -> omni_engine_create, omni_conversation_create -> omni_conversation_add (messages)
 *         -> omni_generate (returns when the answer is complete; callbacks get text and samples)
 *         or omni_request_submit, omni_request_next ... (events; many at once)
 *
 * Every function that returns omni_status fills *err when it fails (err may be NULL). Strings are UTF-8. Params structs come from
 * their omni_..._default() function, so that fields added later keep working.
 *
 * Threads: calls on different objects may come from different threads. A conversation takes one call at a time; one that comes too early, from
 * another thread or from a callback, changes nothing and returns OMNI_ERR_BUSY. An engine takes calls from any number of threads. Engines of one
 * model take turns, step by step; one engine answers many requests together, which is faster. Nothing may be running in what is destroyed or closed.
 * omni_conversation_cancel, omni_speak_cancel and omni_request_cancel may be called from any thread and from signal handlers. */
#ifndef OMNI_H
#define OMNI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "omni_status.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define OMNI_API __attribute__((visibility("default")))
#else
#define OMNI_API
#endif

OMNI_API const char *omni_version(void);

/* ------------------------------------------------------------------------------------------------ model */

typedef struct omni_model omni_model;

/* Where the threads of a model run and how they wait. For machines whose CPUs are not all alike or not all to be used; it makes nothing faster
 * by itself.
 * The thread that calls into the library works as one of them: omni_model_open, omni_generate, omni_speak and omni_bench keep it there while
 * they run, callbacks included, and put it back before they return. */
typedef struct omni_scheduling {
    const char *cpu_mask;  /* hexadecimal, of any length: bit i stands for CPU i ("5" or "0x5": CPUs 0 and 2); NULL: none */
    const char *cpu_range; /* "LO-HI": these CPUs besides; NULL: none. With neither, all that the calling thread may use */
    bool cpu_strict;       /* thread i on the i-th of these CPUs, alone; else, when a mask or a range is given, all threads on any of them */
    int poll;              /* 0 to 100: how long a thread without work spins before it sleeps; 0: not at all; as made by default: 50 */
} omni_scheduling;

/* Progress of long work: done of total (bytes, tokens, ...; total 0: unknown). Return false to cancel. */
typedef bool (*omni_progress)(void *arg, const char *what, uint64_t done, uint64_t total);

typedef struct omni_model_params {
    const char *model;  /* thinker GGUF; required */
    const char *mmproj; /* encoders; NULL: text only */
    const char *talker; /* talker, code predictor, code2wav; NULL: no speech */
    const char *device; /* "cpu"; "cuda" or "cuda:N": an NVIDIA card; "auto": a card if there is one, else the processor. NULL: "cpu" */
    int threads;        /* 0: one a usable core, or one for each CPU of the mask and the range */
    omni_scheduling scheduling;
    bool embeddings_only;   /* leave the thinker's layers out: enough for omni_speak */
    bool no_repack;         /* leave weights as the files have them: opens at once, computes slowly with quantised ones */
    omni_progress progress; /* "loading", in bytes; may be NULL */
    void *progress_arg;
} omni_model_params;

OMNI_API omni_model_params omni_model_params_default(void);
OMNI_API omni_status omni_model_open(const omni_model_params *params, omni_model **out, omni_error *err);
/* Every conversation and engine of the model must be gone before. NULL is fine. */
OMNI_API void omni_model_close(omni_model *model);

/* Voices of the talker file, in its order; count 0 without a talker. The default is chelsie, or the first when there is none. */
OMNI_API size_t omni_model_voice_count(const omni_model *model);
OMNI_API const char *omni_model_voice(const omni_model *model, size_t i);
/* Letter case is ignored; an unknown name's error lists the known ones. NULL names the default. *out: the name as in the file. */
OMNI_API omni_status omni_model_find_voice(const omni_model *model, const char *name, const char **out, omni_error *err);
/* Samples a second of the speech (24000), and the longest context that the model was made for. */
OMNI_API int omni_model_sample_rate(const omni_model *model);
OMNI_API int64_t omni_model_context(const omni_model *model);
/* Entries of the thinker's vocabulary: ids of tokens are smaller. */
OMNI_API int64_t omni_model_vocabulary(const omni_model *model);

/* ------------------------------------------------------------------------------------------------ conversation */

typedef struct omni_conversation omni_conversation;
typedef struct omni_request omni_request;

typedef struct omni_conversation_params {
    int64_t context;         /* tokens that its media may take at most; 0: the smaller of 8192 and the model's own limit */
    double fps;              /* frames a second taken from a video; 0: 2 */
    bool use_audio_in_video; /* hear a video's own sound track too, merged with the picture in time; one without is only seen, with a warning */
    /* What the media of one omni_conversation_add or omni_conversation_add_json may cost; 0: the defaults. What goes beyond is OMNI_ERR_LIMIT; only
     * of videos are fewer frames taken. Pixels and samples are allowed in proportion to the bytes of the files, since honest ones grow with them. */
    double max_audio_seconds; /* one sound's length (3600); all channels of all sounds: as many samples at 16 kHz for 512 KiB of files */
    int max_video_frames;     /* frames taken from one video (768) */
    int64_t max_pixels;       /* decoded: of all pictures for 512 KiB of files, of all frames for 64 KiB (100,000,000) */
    int64_t max_media_memory; /* bytes that files, decoders and decoded media hold at once (805,306,368) */
    bool forbid_files;        /* omni_conversation_add_json takes media as data: URLs only: for JSON from someone who may not read files here */
    /* Told what was left out of something added without an error: one line, without the newline, valid during the call. May be NULL. */
    void (*on_warning)(void *arg, const char *text);
    void *warning_arg;
} omni_conversation_params;

OMNI_API omni_conversation_params omni_conversation_params_default(void);
OMNI_API omni_status omni_conversation_create(omni_model *model, const omni_conversation_params *params, omni_conversation **out, omni_error *err);
/* Requests that were made of it live on. NULL is fine. */
OMNI_API void omni_conversation_free(omni_conversation *conversation);
/* Forgets the messages; tools stay. OMNI_ERR_BUSY: a call of the conversation runs, nothing was done. What an engine has computed for it stays in
 * that one's prefix cache (omni_engine_forget). */
OMNI_API omni_status omni_conversation_reset(omni_conversation *conversation);

typedef enum omni_role { OMNI_SYSTEM, OMNI_USER, OMNI_ASSISTANT, OMNI_TOOL } omni_role;
typedef enum omni_kind { OMNI_TEXT, OMNI_IMAGE, OMNI_AUDIO, OMNI_VIDEO } omni_kind;

/* One part of a message's content. Text: the text, size bytes (0: up to the NUL). Media: a file's path, or a file's bytes in data. */
typedef struct omni_part {
    omni_kind kind;
    const char *text;
    const char *path;
    const void *data;
    size_t size;
} omni_part;

typedef struct omni_message {
    omni_role role;
    const omni_part *parts;
    size_t part_count;
} omni_message;

/* Appends to the conversation. Media files are read and decoded now, and must fit into the context; omni_conversation_cancel ends that
 * (OMNI_CANCELLED). A failure leaves the conversation as it was. A medium that is there twice is decoded once. A path of "-" is standard input, once
 * a call. */
OMNI_API omni_status omni_conversation_add(omni_conversation *conversation, const omni_message *message, omni_error *err);
/* Takes back the last message, with its media: one that omni_generate could not answer, because it does not fit, say.
 * OMNI_ERR_BUSY: a call of the conversation runs, nothing was done. */
OMNI_API omni_status omni_conversation_take_back(omni_conversation *conversation);
/* Makes room: forgets the oldest exchange, which is the first user message and what follows it up to the next one (answers, tool calls and their
 * results), with its media. System messages at the start, tools, and the last user message always stay. Returns how many messages went; 0: there was
 * nothing more to forget, or a call of the conversation runs. What stays is answered as a new conversation of it alone. */
OMNI_API size_t omni_conversation_drop_oldest(omni_conversation *conversation);
/* Tokens that omni_generate would read now, those already read included; of media that it has not encoded yet, the least that they may take.
 * OMNI_ERR_LIMIT when there are far more than the model was made for, which is told without counting them. */
OMNI_API omni_status omni_conversation_prompt_tokens(omni_conversation *conversation, int64_t *tokens, omni_error *err);
/* The role of the last message; false when there is none, or a call of the conversation runs. */
OMNI_API bool omni_conversation_last_role(omni_conversation *conversation, omni_role *role);
/* Appends a conversation given as JSON text: a list of {"role", "content"}, content a string or a list of parts
 * {"type": "text", "text"} | {"type": "image"|"audio"|"video", "path"} | OpenAI's image_url and input_audio, with OpenAI's tool_calls and
 * Ollama's images; keys that cannot act are an error, those that no model would see (tool_call_id) are not; or an object
 * with "messages", and optionally "tools", "fps", "use_audio_in_video" (they hold for what is added later, too) and "audio": sounds
 * of videos that have none, such as .npy frames. A failure leaves everything as it was. */
OMNI_API omni_status omni_conversation_add_json(omni_conversation *conversation, const char *json, size_t size, omni_error *err);
/* The same with a whole request, OpenAI's for chat completions, say: what stands beside its messages about the answer goes into *params
 * (temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, logprobs, top_logprobs, seed, stop,
 * max_tokens or max_completion_tokens, response_format, tool_choice, parallel_tool_calls, and llama-server's grammar and json_schema), where
 * omni_conversation_add_json refuses it. What params->stop, logit_bias, grammar, json_schema and tool_name point to is then the conversation's, until
 * the next such call. */
typedef struct omni_generate_params omni_generate_params;
OMNI_API omni_status omni_conversation_add_request(omni_conversation *conversation, const char *json, size_t size, omni_generate_params *params,
                                                   omni_error *err);
/* Tools that the model may call, in place of any given before: OpenAI's "tools" list as JSON text. Before the first message. */
OMNI_API omni_status omni_conversation_set_tools(omni_conversation *conversation, const char *json, size_t size, omni_error *err);
/* Appends what a request has answered, as tokens, so that the next request finds its rows computed. Once it has told its end; what it said until it
 * was cancelled counts. Not for omni_request_speak, and not for one that has failed. omni_generate does so by itself. */
OMNI_API omni_status omni_conversation_add_answer(omni_conversation *conversation, omni_request *request, omni_error *err);
/* Makes omni_conversation_add, _add_json, _add_request or omni_generate of the conversation stop soon: the one that is running, which forgets it as
 * it returns, or else the next one, which then returns at once. Requests that were submitted go on. From any thread and from signal handlers. */
OMNI_API void omni_conversation_cancel(omni_conversation *conversation);
/* Takes a cancel back that no call has met yet; returns whether there was one. */
OMNI_API bool omni_conversation_cancel_withdraw(omni_conversation *conversation);

/* ------------------------------------------------------------------------------------------------ engine */

/* Runs a model for any number of conversations. Without omni_engine_start it has no thread: omni_generate, omni_speak and omni_request_next then
 * compute on their caller's. */
typedef struct omni_engine omni_engine;

/* What keys and values are kept as. F16 takes half of F32's memory, with results within 1e-3; Q8_0 a quarter, for models whose heads are a
 * multiple of 32 values (the released ones are). */
typedef enum omni_cache_type { OMNI_CACHE_F32, OMNI_CACHE_F16, OMNI_CACHE_Q8_0 } omni_cache_type;

typedef struct omni_engine_params {
    int parallel;          /* requests computed together; 0: 1 */
    int queue;             /* requests that may wait besides; 0: 256 */
    int64_t context;       /* tokens of one request, answer included; 0: the smaller of 8192 and the model's own limit */
    int64_t cache_tokens;  /* tokens whose keys and values are kept, of all; 0: parallel contexts. When they run out, the youngest request waits */
    int batch;             /* rows of prompts in a step; 0: 512, on a card 2048 */
    double prompt_seconds; /* what prompts and encoders may take of a step while others wait for tokens or their listeners for sound; 0: 0.05 */
    omni_cache_type cache_type_k, cache_type_v;
    bool prefix_cache;   /* rows that another request has computed are not computed again (on by default) */
    size_t held_text;    /* bytes of text and */
    double held_seconds; /* seconds of sound that may wait for a request's reader before it is held; 0: 65536, 60 */
} omni_engine_params;

OMNI_API omni_engine_params omni_engine_params_default(void);
OMNI_API omni_status omni_engine_create(omni_model *model, const omni_engine_params *params, omni_engine **out, omni_error *err);
/* Every request must have been freed before; those that still run then end. NULL is fine. */
OMNI_API void omni_engine_destroy(omni_engine *engine);
/* Gives the engine a thread of its own, once. */
OMNI_API omni_status omni_engine_start(omni_engine *engine, omni_error *err);
/* Without such a thread: one step, on the caller's. False when there is nothing to do before something is submitted, cancelled or read. */
OMNI_API bool omni_engine_step(omni_engine *engine);
/* Empties the prefix cache. */
OMNI_API void omni_engine_forget(omni_engine *engine);
OMNI_API int64_t omni_engine_context(const omni_engine *engine);

typedef struct omni_engine_counters {
    uint64_t submitted, refused, ended, cancelled, failed; /* requests; the last two are among those that have ended */
    int waiting_or_running;
    int running;                       /* of those: who have a place among `parallel`; the others wait */
    uint64_t steps, rows;              /* passes of the thinker, and the rows in them */
    uint64_t prompt_rows, cached_rows; /* of prompts that were admitted, and how many of them were found computed by others */
    uint64_t preempted;                /* times that a request gave its cache blocks back */
    int64_t blocks, blocks_in_use;     /* of the cache of keys and values: all, and those of requests. What is only kept for later is not in use */
    int block_tokens;                  /* in one of them */
} omni_engine_counters;

OMNI_API omni_engine_counters omni_engine_count(omni_engine *engine);

/* ------------------------------------------------------------------------------------------------ answers */

typedef struct omni_sampling {
    bool greedy;          /* always the likeliest; of the fields below only the penalties are then used */
    float temperature;    /* > 0 */
    int top_k;            /* 0: all */
    float top_p, min_p;   /* 1 and 0: off */
    float repeat_penalty; /* over the conversation and the answer; 1: off */
    /* OpenAI's, over the answer alone: a token's logit loses presence_penalty when the answer has it, and frequency_penalty for every time. They come
     * after the repetition penalty, as in llama.cpp and vLLM. -100 to 100, OpenAI allows -2 to 2; 0: off. */
    float presence_penalty, frequency_penalty;
} omni_sampling;

/* Added to the logit of a token of the thinker's vocabulary, before penalties. -100 and less, and minus infinity: the token never comes. */
typedef struct omni_logit_bias {
    int32_t id;
    float bias;
} omni_logit_bias;

/* A token of an answer, or one that could have been: the logarithm of its probability in the model's own distribution (softmax of the logits as they
 * come: before temperature, penalties, bias and mask, as in vLLM and llama-server), and its bytes, which may be part of a character; none of a token
 * that the tokenizer does not know. The bytes stay as long as the model. */
typedef struct omni_token {
    int32_t id;
    float logprob;
    const char *bytes;
    size_t size;
} omni_token;

typedef enum omni_tool_choice {
    OMNI_TOOLS_AUTO,
    OMNI_TOOLS_NONE,     /* no call */
    OMNI_TOOLS_REQUIRED, /* nothing but calls */
    OMNI_TOOLS_NAMED,    /* nothing but a call of tool_name */
} omni_tool_choice;

struct omni_generate_params {
    omni_sampling text;      /* defaults: temperature 0.7, top-k 20, top-p 0.8 */
    omni_sampling speech;    /* defaults: temperature 0.9, top-k 50, penalty 1.05; greedy makes the residual codes greedy too */
    uint64_t seed;           /* the same seed and conversation give the same answer; every turn, and text and speech, draw numbers of their own */
    int64_t max_tokens;      /* tokens of answer; 0: up to the context's end */
    int64_t max_frames;      /* frames of speech, 12.5 a second; 0: 4096 */
    bool ignore_eos;         /* go on past the end-of-turn token, up to max_tokens */
    const char *const *stop; /* text that ends the answer; on_text does not get it, nor is it spoken; the conversation keeps it */
    size_t stop_count;

    const omni_logit_bias *logit_bias; /* of text; biases of the same token are added */
    size_t logit_bias_count;
    /* Which tokens may come next: called on the thread that computes, before each token of text is sampled, with those of the answer so far. bits
     * has omni_model_vocabulary bits, token i in bit i % 32 of word i / 32, all set: clear those that may not come. When none is left, the
     * answer ends with an error. False: cancelled. Everything waits for it, so it must be quick, and it must call nothing of the library
     * but the calls that cancel. The end of the answer is a token as all others (or ignore_eos). Not called any more once the
     * request has told its end or omni_request_free has returned. NULL: none. */
    bool (*mask)(void *arg, const int32_t *answer, size_t count, uint32_t *bits);
    void *mask_arg;
    /* What the whole answer must be, in the notation of llama.cpp (GBNF): "root ::= \"yes\" | \"no\"". A mask that is given besides takes away
     * further tokens. The answer ends only where the grammar allows it, or by max_tokens or a stop string; what a model of the Thinking kind says in
     * <think> before it is free. Grammars that a model was asked for lately are kept compiled. NULL: anything. */
    const char *grammar;
    const char *json_schema; /* the same as a JSON Schema, JSON text (docs/constrained.md says what is supported); "{}": any JSON. One of the two */
    /* Whether tools of the conversation are called. Where they must be, and where a tool is strict ("strict": true), arguments follow the tool's
     * parameters, which are a JSON Schema. With json_schema and OMNI_TOOLS_AUTO the answer is such JSON or calls. */
    omni_tool_choice tool_choice;
    const char *tool_name;
    bool one_tool_call; /* OpenAI's parallel_tool_calls false: where calls are forced, only one */

    bool logprobs;    /* on_token is called, or OMNI_EVENT_TOKEN comes: of each token of the answer but the one that ends it and those that a stop
                       * string withholds, before the text it adds to */
    int top_logprobs; /* how many of the likeliest tokens are told with it, the likeliest first: 0 to 20 */

    bool speak;        /* needs a talker */
    const char *voice; /* NULL: the default */

    /* Called as the answer comes; text never ends inside a character. samples in [-1, 1]. Return false to stop: no callback is called again. */
    bool (*on_text)(void *arg, const char *text, size_t size);
    bool (*on_audio)(void *arg, const float *samples, size_t count);
    bool (*on_token)(void *arg, const omni_token *token, const omni_token *top, size_t top_count); /* with logprobs; valid during the call */
    omni_progress on_progress;                                                                     /* encoding media, reading the prompt */
    /* What stands in <think> at the answer's start, and each whole tool call: its name, and its arguments as JSON text. Where a callback
     * is NULL, on_text gets such markup as it is. Neither is ever spoken. */
    bool (*on_reasoning)(void *arg, const char *text, size_t size);
    bool (*on_tool_call)(void *arg, const char *name, const char *arguments);
    void *arg;

    const char *trace; /* a .safetensors file to write the run's tensors to; NULL: none */

    /* For requests, which have events in place of callbacks. omni_generate goes by on_reasoning and on_tool_call. */
    bool reasoning_apart, tool_calls_apart; /* OMNI_EVENT_REASONING and OMNI_EVENT_TOOL_CALL come; else such markup is text, as it is */
    const char *owner; /* what it has computed is found again by requests of the same owner alone; NULL: by those that name none */
};

typedef enum omni_finish { OMNI_FINISH_STOP, OMNI_FINISH_LENGTH, OMNI_FINISH_CANCELLED } omni_finish;

typedef enum omni_limit {
    OMNI_LIMIT_NONE,
    OMNI_LIMIT_MAX_TOKENS,     /* of the params */
    OMNI_LIMIT_CONTEXT,        /* of the engine */
    OMNI_LIMIT_MAX_FRAMES,     /* of the params, or their default */
    OMNI_LIMIT_TALKER_CONTEXT, /* what the talker was made for, or one of several utterances at once has room for: the context and 4096 frames */
} omni_limit;

typedef struct omni_result {
    omni_finish finish;
    int64_t prompt_tokens, cached_tokens; /* of the prompt, and how many of them were already computed */
    int64_t answer_tokens, frames;
    int64_t samples;
    omni_limit text_limit;   /* what cut the answer's text (OMNI_LIMIT_MAX_TOKENS or _CONTEXT); none: it ended by itself or was cancelled */
    omni_limit speech_limit; /* what cut the speech (OMNI_LIMIT_MAX_FRAMES or _TALKER_CONTEXT) */
    bool speech_cut;         /* speech_limit is not OMNI_LIMIT_NONE */
    double seconds_media, seconds_prompt, seconds_answer; /* encoders; prompt; from there to the end, speech included */
    double seconds_first_text, seconds_first_audio;       /* since the call; 0: none came */
    double seconds_talker, seconds_code2wav;              /* shares of seconds_answer */
} omni_result;

OMNI_API omni_generate_params omni_generate_params_default(void);
/* Answers the conversation so far and appends the answer to it; returns when it is complete. Callbacks come on the calling thread, which must not
 * call omni_generate or omni_speak of the same engine from one (OMNI_ERR_BUSY). Cancelled, by a callback or by omni_conversation_cancel: OMNI_OK with
 * finish OMNI_FINISH_CANCELLED; what was said stays in the conversation. An error leaves the conversation as it was; OMNI_ERR_BUSY also means that
 * the engine's queue is full. result may be NULL. */
OMNI_API omni_status omni_generate(omni_engine *engine, omni_conversation *conversation, const omni_generate_params *params, omni_result *result,
                                   omni_error *err);
/* Says exactly this text, in the same way. Uses speech, seed, max_frames, voice, on_audio and trace. */
OMNI_API omni_status omni_speak(omni_engine *engine, const char *text, const omni_generate_params *params, omni_result *result, omni_error *err);
/* Makes omni_speak of the engine stop soon: all calls that are running, which forget it as the last of them returns, or else the next one, which then
 * returns at once. From any thread and from signal handlers. */
OMNI_API void omni_speak_cancel(omni_engine *engine);
/* Takes a cancel back that no call has met yet; returns whether there was one. */
OMNI_API bool omni_speak_cancel_withdraw(omni_engine *engine);

/* ------------------------------------------------------------------------------------------------ requests: many answers at once */

/* Requests that an engine is given are answered together, in steps that each move all of them on. What a request is answered does not depend on the
 * others. A request takes one omni_request_next at a time. */

/* Answers the conversation as it is now; it may change or go afterwards. Callbacks and arg of params are not used. OMNI_ERR_BUSY: the queue is full.
 */
OMNI_API omni_status omni_request_submit(omni_engine *engine, omni_conversation *conversation, const omni_generate_params *params, omni_request **out,
                                         omni_error *err);
/* Says exactly this text. */
OMNI_API omni_status omni_request_speak(omni_engine *engine, const char *text, const omni_generate_params *params, omni_request **out,
                                        omni_error *err);

typedef enum omni_event_kind {
    OMNI_EVENT_TEXT,      /* text, size: whole characters */
    OMNI_EVENT_REASONING, /* the same */
    OMNI_EVENT_TOOL_CALL, /* name; text: its arguments as JSON */
    OMNI_EVENT_AUDIO,     /* samples, count: in [-1, 1] */
    OMNI_EVENT_TOKEN,     /* token; top, top_count: with params.logprobs, before the text it adds to */
    OMNI_EVENT_PROGRESS,  /* name: "seeing", "hearing", "reading"; done of total. Only the newest waits */
    OMNI_EVENT_DONE,      /* result, status, error: OMNI_OK, OMNI_CANCELLED, or what went wrong. The last one, for ever */
} omni_event_kind;

/* What it points to is valid until the next call on the request. */
typedef struct omni_event {
    omni_event_kind kind;
    const char *text;
    size_t size;
    const char *name;
    const float *samples;
    size_t count;
    uint64_t done, total;
    const omni_token *token, *top;
    size_t top_count;
    const omni_result *result;
    omni_status status;
    const omni_error *error;
} omni_event;

/* The next event; waits for at most timeout seconds (less than 0: for ever). False: none came, *event is as it was. Whoever reads slowly slows nobody
 * but himself; but an answer that speaks keeps its place among the parallel ones until it is read: cancel it when its listener is gone. */
OMNI_API bool omni_request_next(omni_request *request, double timeout, omni_event *event);
/* For event loops: called from the engine's thread whenever something has come, and at once if something waits already; must return soon and not call
 * back. NULL: nothing is called. */
OMNI_API void omni_request_set_wakeup(omni_request *request, void (*wakeup)(void *arg), void *arg);
/* It ends with the next step, and no event but OMNI_EVENT_DONE comes any more. From any thread and from signal handlers. */
OMNI_API void omni_request_cancel(omni_request *request);
/* Cancels it if it has not ended. NULL is fine. */
OMNI_API void omni_request_free(omni_request *request);

/* ------------------------------------------------------------------------------------------------ measuring */

enum { OMNI_BENCH_THINKER = 1, OMNI_BENCH_AUDIO = 2, OMNI_BENCH_VISION = 4, OMNI_BENCH_TALKER = 8, OMNI_BENCH_CODE2WAV = 16, OMNI_BENCH_ALL = 31 };

/* One measurement. A rate (tokens, frames, seconds of sound ... a second) is better when higher, a time ("s", "x") when lower. */
typedef struct omni_bench_row {
    const char *name; /* "pp512", "tg32 @ d4096", "tg16 b8", "audio", ... */
    const char *unit; /* "t/s", "s/s", "img/s", "frames/s", "s", "GB/s", "GFLOP/s"; "x": real-time factor */
    int samples;
    double median, min, max;
    double bytes, flops; /* of one repetition: what must be moved at least once, and what is computed; 0: not counted */
    double bytes_per_second, flops_per_second;
    double memory_share, compute_share; /* of what the machine did in its own tests just before and after; 0: not counted */
    double memory_limit, compute_limit; /* those: bytes and floating point operations a second */
    double peak_memory;                 /* bytes resident at most while it was measured, mapped weights included; 0: unknown */
    const char *profile;                /* with profile: where the time went, as text; else NULL */
} omni_bench_row;

typedef struct omni_bench_params {
    const char *model, *mmproj, *talker; /* files; or, with model NULL, */
    const char *synthetic;               /* a type: random files of the released sizes are made for the run and removed */
    int layers;                          /* of the random thinker; 0: as released */
    unsigned parts;                      /* OMNI_BENCH_...; 0: all that the files have */
    const char *scratch_dir;             /* for the random files; NULL: $TMPDIR or /tmp */
    const char *only;                    /* rows to measure: a list of names, or of the letters they begin with, "pp,tg32"; NULL: all */
    int repetitions;                     /* 0: 5; fewer when a row takes longer than max_seconds */
    double max_seconds;                  /* a row; 0: 60 */
    int generate;                        /* tokens of a decode row; 0: 32 */
    const char *device;                  /* as of omni_model_params; NULL: "cpu" */
    int batch;                           /* rows of prompts at once; 0: as of omni_engine_params */
    int threads;                         /* 0: one a usable core, or one for each CPU of the mask and the range */
    omni_scheduling scheduling;
    omni_cache_type cache_type_k, cache_type_v;
    bool no_repack;
    bool profile;
    omni_progress progress; /* may be NULL; false cancels */
    bool (*on_row)(void *arg, const omni_bench_row *row);
    void *arg;
} omni_bench_params;

OMNI_API omni_bench_params omni_bench_params_default(void);
/* Calls on_row as each row is done; its strings are valid during the call. */
OMNI_API omni_status omni_bench(const omni_bench_params *params, omni_error *err);

/* ------------------------------------------------------------------------------------------------ sound out */

/* Mono sound written as it is made. path: FILE.wav, .mp3, .opus or .ogg (Opus), .flac, .aac; the samples alone, little-endian: .pcm or .raw (16-bit),
 * .f32 (floats), .ulaw and .alaw (8000 a second); or "-" (a WAV stream on standard output). OMNI_ERR_UNSUPPORTED: this FFmpeg lacks the encoder. A
 * file appears under its name when omni_sound_close succeeds; it is a valid file however early that is. */
typedef struct omni_sound omni_sound;
OMNI_API omni_status omni_sound_open(const char *path, int sample_rate, omni_sound **out, omni_error *err);
/* Whether omni_sound_open could: for programs that want to say so before they load a model. Nothing is left behind. */
OMNI_API omni_status omni_sound_check(const char *path, omni_error *err);
OMNI_API omni_status omni_sound_write(omni_sound *sound, const float *samples, size_t count, omni_error *err);
/* Frees sound whatever the outcome. */
OMNI_API omni_status omni_sound_close(omni_sound *sound, omni_error *err);

/* The same to a callback, bytes as soon as they exist: to send sound while it is made. One thread at a time. */
typedef struct omni_encoder omni_encoder;
typedef struct omni_encoder_params {
    const char *format; /* "wav" (sizes unknown), "pcm16", "pcm_f32", "mulaw", "alaw", "mp3", "opus", "flac", "aac" */
    int sample_rate;    /* of the samples, a second; mulaw and alaw always have 8000 */
    double speed;       /* 0.25 to 4, without a change of pitch; 2 halves the length; 0: 1 */
    bool (*write)(void *arg, const void *data, size_t size); /* during the calls below; false ends them with OMNI_CANCELLED */
    void *arg;
} omni_encoder_params;

OMNI_API omni_encoder_params omni_encoder_params_default(void);
/* The media type of a format: "audio/mpeg"; NULL: there is no such format. */
OMNI_API const char *omni_sound_type(const char *format);
/* OMNI_ERR_ARGUMENT: no such format; OMNI_ERR_UNSUPPORTED: this FFmpeg lacks what the format needs; the text says which. */
OMNI_API omni_status omni_encoder_open(const omni_encoder_params *params, omni_encoder **out, omni_error *err);
/* What comes out does not depend on how samples are cut into calls. After an error, only omni_encoder_close or _free may be called. */
OMNI_API omni_status omni_encoder_write(omni_encoder *encoder, const float *samples, size_t count, omni_error *err);
/* Writes what is held back, and frees encoder whatever the outcome. */
OMNI_API omni_status omni_encoder_close(omni_encoder *encoder, omni_error *err);
/* Without another byte; NULL is fine. */
OMNI_API void omni_encoder_free(omni_encoder *encoder);

/* ------------------------------------------------------------------------------------------------ files and tools */

enum { OMNI_PART_THINKER = 1, OMNI_PART_MMPROJ = 2, OMNI_PART_TALKER = 4, OMNI_PART_ALL = 7 };

typedef struct omni_convert_params {
    const char *checkpoint;  /* folder with config.json, tokenizer.json and *.safetensors */
    const char *out_dir;     /* made when missing */
    const char *name;        /* NULL: "qwen3-omni" */
    const char *type;        /* "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m" or a plain block type; NULL: "f16" */
    const char *imatrix;     /* importance of columns (omni_imatrix, or llama.cpp's); NULL: all alike */
    unsigned parts;          /* OMNI_PART_...; 0: all that the checkpoint has */
    int threads;             /* 0: one a usable core */
    uint64_t split_max_size; /* what takes more bytes becomes several files, NAME-TYPE-00001-of-00003.gguf; 0: one file each */
    omni_progress progress;  /* bytes read */
    void *progress_arg;
} omni_convert_params;

typedef struct omni_converted {
    size_t count;       /* files written; one in parts counts once */
    char path[3][4096]; /* of one in parts, the first's */
    uint64_t bytes[3];  /* of all its parts */
    size_t split[3];    /* parts, 1 when whole */
    bool has_talker;    /* the checkpoint has one */
    size_t important;   /* matrices that the importance matrix knew */
} omni_converted;

OMNI_API omni_convert_params omni_convert_params_default(void);
/* out may be NULL. */
OMNI_API omni_status omni_convert(const omni_convert_params *params, omni_converted *out, omni_error *err);

/* The matrices of a GGUF file in another type; everything else as it is. */
typedef struct omni_quantize_params {
    const char *input;      /* F32, F16, BF16 or Q8_0 matrices */
    const char *output;     /* appears when complete; not the input */
    const char *type;       /* as omni_convert takes it */
    const char *imatrix;    /* importance of columns (omni_imatrix, or llama.cpp's); NULL: all alike */
    bool allow_requantize;  /* take matrices of other quantised types too: loses more than from the original */
    int threads;            /* 0: one a usable core */
    omni_progress progress; /* bytes read */
    void *progress_arg;
} omni_quantize_params;

typedef struct omni_quantized {
    uint64_t bytes_before, bytes_after; /* of the files */
    size_t tensors, changed;            /* in the file, and of another type now */
    size_t important;                   /* matrices that the importance matrix knew */
} omni_quantized;

OMNI_API omni_quantize_params omni_quantize_params_default(void);
/* out may be NULL. */
OMNI_API omni_status omni_quantize(const omni_quantize_params *params, omni_quantized *out, omni_error *err);

/* What each matrix's columns are worth to quantisation: the mean squares of its inputs while the model reads a corpus. */
typedef struct omni_imatrix_params {
    omni_model_params model; /* progress is not used; with a talker, its answers are spoken too */
    const char *text;        /* a file of UTF-8 text, read in pieces of piece_bytes; NULL: none */
    const omni_part *media;  /* pictures, sounds and videos by path, each read with a question about it */
    size_t media_count;
    const char *output;     /* a GGUF file as llama.cpp writes it */
    size_t piece_bytes;     /* 0: 2048 */
    int max_pieces;         /* 0: all of the text */
    omni_progress progress; /* pieces */
    void *progress_arg;
} omni_imatrix_params;

typedef struct omni_imatrix_result {
    size_t matrices, pieces;
    int64_t tokens;
} omni_imatrix_result;

OMNI_API omni_imatrix_params omni_imatrix_params_default(void);
/* out may be NULL. */
OMNI_API omni_status omni_imatrix(const omni_imatrix_params *params, omni_imatrix_result *out, omni_error *err);

/* Models in parts, as llama.cpp has them: OUTPUT-00001-of-00003.gguf and so on. Everything that reads a model takes the path of any part. */
typedef struct omni_split_params {
    const char *input;      /* the file; of a model in parts, any part */
    const char *output;     /* of omni_split what the parts' names begin with, of omni_merge the file */
    uint64_t max_size;      /* bytes of a part, unless one tensor alone takes more; 0: any */
    size_t max_tensors;     /* of a part; 0: any. Both 0: 128. omni_merge uses neither. */
    omni_progress progress; /* bytes copied */
    void *progress_arg;
} omni_split_params;

typedef struct omni_split_result {
    size_t parts, tensors; /* files and tensors written */
    uint64_t bytes;        /* of all files */
    char first[4096];      /* path of the first */
} omni_split_result;

OMNI_API omni_split_params omni_split_params_default(void);
/* Tensors and keys are copied as they are; after an error no file is there. out may be NULL. */
OMNI_API omni_status omni_split(const omni_split_params *params, omni_split_result *out, omni_error *err);
/* Of a model in parts, one file. */
OMNI_API omni_status omni_merge(const omni_split_params *params, omni_split_result *out, omni_error *err);

/* A file of the released sizes with random weights, to measure speed without a download. What it answers is noise. */
typedef struct omni_synth_params {
    const char *path;
    const char *type; /* as omni_convert takes it, and every block type and mix; NULL: "q8_0" */
    unsigned part;    /* one of OMNI_PART_...; 0: the thinker */
    int layers;       /* decoder layers of the thinker; 0: as released */
    uint64_t seed;
    int threads;            /* 0: one a usable core */
    omni_progress progress; /* bytes written */
    void *progress_arg;
} omni_synth_params;

OMNI_API omni_synth_params omni_synth_params_default(void);
/* bytes: size of the file; may be NULL. */
OMNI_API omni_status omni_synth(const omni_synth_params *params, uint64_t *bytes, omni_error *err);

/* What is in a GGUF file, as text or JSON, and the memory needed to run it. *text is released with omni_free. */
OMNI_API omni_status omni_describe(const char *path, bool json, char **text, omni_error *err);

/* Tokens of a text under a model file's tokenizer. Markup (<|im_start|> and the like) counts as text unless markup is set.
 * *ids is released with omni_free. */
typedef struct omni_tokenizer omni_tokenizer;
OMNI_API omni_status omni_tokenizer_open(const char *model_path, omni_tokenizer **out, omni_error *err);
OMNI_API void omni_tokenizer_close(omni_tokenizer *tokenizer);
OMNI_API omni_status omni_tokenize(const omni_tokenizer *tokenizer, const char *text, size_t size, bool markup, int32_t **ids, size_t *count,
                                   omni_error *err);
/* The bytes that a token stands for (any bytes, not always whole characters); valid as long as the tokenizer. */
OMNI_API const char *omni_token_bytes(const omni_tokenizer *tokenizer, int32_t id, size_t *size);

OMNI_API void omni_free(void *memory);

#ifdef __cplusplus
}
#endif
#endif
