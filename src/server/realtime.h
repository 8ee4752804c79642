/* GET /v1/realtime: OpenAI's Realtime interface over a WebSocket. One worker thread has a session and everything in it:
 *
 *   realtime.c           the thread: events of the client, events of the engine, timers; errors
 *   realtime_config.c    session.update and what response.create sets for one answer
 *   realtime_items.c     the conversation: items created, told, cut, deleted
 *   realtime_sound.c     the input audio buffer, and turns found by the voice activity detector
 *   realtime_hear.c      what was said as words, and whether it is over, by the model itself
 *   realtime_response.c  answers: an item of words, or of words and sound, and calls
 *
 * Events have the names and shapes of OpenAI's clients; clients that say "OpenAI-Beta: realtime=v1" get those of the beta (realtime_beta.c). */
#ifndef OMNI_SERVER_REALTIME_H
#define OMNI_SERVER_REALTIME_H

#include "media/voice_activity.h"
#include "server/chat.h"
#include "server/follow.h"
#include "server/websocket.h"

enum {
    RT_ITEMS = 4096,            /* of a conversation */
    RT_ITEM_BYTES = 64 << 20,   /* of all items of a conversation */
    RT_BUFFER_BYTES = 32 << 20, /* of sound that is not committed: 11 minutes of audio/pcm */
    RT_CONFIG_BYTES = 4 << 20,  /* of what a session is set to, or a response */
    RT_HEARINGS = 16,           /* transcriptions at once */
    RT_RESPONSES = 4,           /* at once, one of them in the conversation */
};

typedef enum rt_format { RT_PCM, RT_PCMU, RT_PCMA } rt_format;
typedef enum rt_turns { RT_TURNS_NONE, RT_TURNS_SERVER_VAD, RT_TURNS_SEMANTIC_VAD } rt_turns;

/* What a session is set to, or one response. */
typedef struct rt_config {
    bool transcribes; /* a session of type "transcription": it answers nothing */
    bool spoken;
    rt_format in, out;
    char voice[64]; /* "": the model's default */
    double speed;
    rt_turns turns;
    double threshold;
    int padding_ms, silence_ms, idle_ms; /* idle_ms 0: no timeout */
    bool create_response, interrupt_response;
    char eagerness[8];
    json_t *transcription; /* "transcription" of the input, an object; NULL: off */
    json_t *own;           /* instructions, tools, tool_choice, max_output_tokens, sampling: as they were given */
} rt_config;

typedef struct rt_item {
    char id[64];
    json_t *told;  /* as events tell it: without sound */
    json_t *asked; /* as the model is asked: an item of the Responses interface */
    size_t bytes;
    bool growing;          /* an answer that is not whole yet */
    bool spoken;           /* an assistant's, with sound */
    double seconds, words; /* of its sound; what the words of an answer that was stopped would take to say */
} rt_item;

typedef struct rt_response {
    char id[64];
    rt_config config;
    bool in_conversation;
    json_t *metadata;
    omni_conversation *conversation; /* of its own; NULL: the session's */
    chat_request in;
    followed f;
    json_t *output; /* items; null where the message that grows will be */
    int message;    /* its place in output; -1: there is none */
    rt_item *item;  /* the message: in the conversation, or of this response alone */
    bytes text;
    bytes made; /* by the encoder, not told yet */
    omni_encoder *encoder;
    size_t sound_bytes;
    const char *cancelled; /* why: "client_cancelled", "turn_detected"; NULL: not */
    bool unkept;           /* the conversation had no room for an item of it: it fails */
} rt_response;

/* A question to the model about what was heard. */
typedef struct rt_hearing {
    bool judges;      /* whether the speaker has ended; else what was said */
    bool logprobs;    /* are told */
    char item_id[64]; /* of what was said */
    chat_request in;
    followed f;
    bytes text;
    json_t *tokens; /* with logprobs */
    size_t told;    /* of them */
} rt_hearing;

typedef struct rt_session {
    server *s;
    exchange *x;
    char id[64], conversation_id[64];
    bool beta;
    rt_config config;
    char event_id[128]; /* of the client's event that is being answered; "": none, or it has none */
    int64_t expires;

    rt_item **items;
    size_t item_count, item_room, item_bytes;
    omni_conversation *conversation; /* the items up to `asked`, laid out once for all answers; NULL: not yet */
    size_t asked;
    json_t *asked_with; /* instructions and tools of it */

    bytes heard;              /* sound that is not committed, in the client's format; its capacity is in server.body_bytes */
    int64_t heard_from;       /* where it begins, in samples since the session began */
    voice_activity *detector; /* NULL: turns are not looked for */
    int detector_rate;
    int64_t detector_from; /* where the detector began to count */
    float last_sample;     /* read by it, for sound of 8000 samples a second */
    bool speaking;
    char said_id[64]; /* of the item that the speech being heard will be */
    int64_t speech_from;
    double idle_at;        /* server_now() when the user has been silent for too long; 0: not waited for */
    bool answer_when_free; /* a turn ended while an answer ran */

    int64_t silent_from; /* semantic_vad: where speech last went on, while it is asked whether that was its end; -1: it goes on */
    double silent_until; /* server_now() when that counts as its end whatever the model says; 0: it goes on */

    rt_response *responses[RT_RESPONSES];
    rt_hearing *hearings[RT_HEARINGS];
} rt_session;

/* ---- realtime.c ---- */

/* Sends an event; takes fields. */
void rt_tell(rt_session *r, const char *type, json_t *fields);
/* An error event about the client's event at hand; param and code may be NULL. Returns false. */
bool rt_refuse(rt_session *r, const char *param, const char *code, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Whether one more question to the model is within --rate-limit, which it then counts for; if not, *wait is in how many seconds. */
bool rt_within_rate(rt_session *r, int *wait);
/* Samples a second and bytes a sample. */
int rt_rate(rt_format f);
int rt_width(rt_format f);

/* ---- realtime_config.c ---- */

/* What a session begins with. */
bool rt_config_begin(rt_session *r, bool transcribes);
/* Takes what an update sets, of the session or (answer) of a response. False: an error has been told, c is as it was. */
bool rt_config_update(rt_session *r, rt_config *c, const json_t *update, bool answer);
bool rt_config_copy(rt_config *to, const rt_config *from);
void rt_config_free(rt_config *c);
/* "truncation" of a session or response: the share of the context that a conversation which has grown too long may keep; 0: it is refused; below 0:
 * it is set to something else. */
double rt_retention(const json_t *set);
json_t *rt_session_object(const rt_session *r);
json_t *rt_format_object(rt_format f);

/* ---- realtime_items.c ---- */

void rt_item_create(rt_session *r, const json_t *event);
void rt_item_retrieve(rt_session *r, const json_t *event);
void rt_item_delete(rt_session *r, const json_t *event);
void rt_item_truncate(rt_session *r, const json_t *event);
/* An item as a client gives it; NULL: an error has been told. */
rt_item *rt_item_read(rt_session *r, const json_t *item);
/* A user's message of sound, in the session's format. id "": a new one. NULL: no memory. */
json_t *rt_sound_part(rt_format f, const void *data, size_t size); /* type input_audio, as chat completions take it */
rt_item *rt_item_of_sound(rt_session *r, const char *id, const void *data, size_t size);
/* Puts an item at a place of the conversation, whose it then is, and tells of it. False: an error has been told, and it is freed. */
bool rt_item_insert(rt_session *r, rt_item *item, size_t at);
/* Lets go of the conversation as the model is asked, and of decoded media in it: the next answer asks with all items anew. */
void rt_items_forget(rt_session *r);
/* Counts what an item of the conversation has become. */
void rt_item_weigh(rt_session *r, rt_item *item);
/* Tells conversation.item.added, and conversation.item.done of what does not grow. */
void rt_item_tell(rt_session *r, const rt_item *item, const char *type);
rt_item *rt_item_find(const rt_session *r, const char *id, size_t *at);
void rt_item_free(rt_item *item);
/* Bytes that a value holds, about. */
size_t rt_weight(const json_t *value);
/* How long the words take to say, roughly. */
double rt_seconds_of(const char *text, size_t size);

/* ---- realtime_sound.c ---- */

void rt_sound_append(rt_session *r, const json_t *event);
void rt_sound_commit(rt_session *r);
void rt_sound_clear(rt_session *r);
/* After an update: looks for turns as is set now, anew where that has changed. before: what was set; NULL: nothing. */
void rt_sound_set(rt_session *r, const rt_config *before);
/* Nothing was heard for too long. */
void rt_sound_idle(rt_session *r);
/* What the model says of a pause, or that it has lasted too long to ask. */
void rt_sound_judged(rt_session *r, bool over);

/* ---- realtime_hear.c ---- */

/* Tells what the sound of an item says, if the session is set so. */
void rt_transcribe(rt_session *r, const char *item_id);
/* Asks whether the speaker of a sound, a part of type input_audio, has ended: rt_sound_judged is called then. False: it cannot be asked. */
bool rt_judge(rt_session *r, json_t *sound);
void rt_judge_forget(rt_session *r);
void rt_hearings_read(rt_session *r);
void rt_hearings_free(rt_session *r);

/* ---- realtime_response.c ---- */

void rt_response_create(rt_session *r, const json_t *event);
void rt_response_cancel(rt_session *r, const json_t *event);
/* Answers the conversation as it is, unless an answer runs: then once that has ended. */
void rt_response_begin(rt_session *r);
/* The one of the conversation that runs; NULL: none. */
rt_response *rt_response_active(const rt_session *r);
/* Stops it at once and tells its end. */
void rt_response_stop(rt_session *r, rt_response *a, const char *why);
/* Tells what the engine has made, as far as the client reads. */
void rt_responses_read(rt_session *r);
void rt_responses_free(rt_session *r);

/* ---- realtime_beta.c ---- */

/* An event of today in the shape of the beta: its name (NULL: there was no such event), its fields changed in place. */
const char *rt_beta_event(const char *type, json_t *fields);
/* "session" or "response" of an event of the beta as today's; a new reference. */
json_t *rt_beta_update(const json_t *update);

#endif
