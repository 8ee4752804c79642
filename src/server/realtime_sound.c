#include <stdlib.h>
#include <string.h>

#include "server/realtime.h"
#include "text/base64.h"

enum { LEAST_MS = 100, KEPT_MS = 2000, TAIL_MS = 100 };

static size_t samples_held(const rt_session *r) {
    return r->heard.size / (size_t)rt_width(r->config.in);
}

static int64_t heard_to(const rt_session *r) {
    return r->heard_from + (int64_t)samples_held(r);
}

static int ms_of(const rt_session *r, int64_t samples) {
    return (int)(1000 * samples / rt_rate(r->config.in));
}

/* Leaves out what was heard before a sample. */
static void drop_before(rt_session *r, int64_t sample) {
    const size_t width = (size_t)rt_width(r->config.in);
    if (sample > r->heard_from) {
        const int64_t most = heard_to(r);
        const size_t gone = (size_t)((sample < most ? sample : most) - r->heard_from) * width;
        memmove(r->heard.data, r->heard.data + gone, r->heard.size - gone);
        r->heard.size -= gone;
        r->heard_from += (int64_t)(gone / width);
    }
}

/* ---- samples ---- */

static float linear(rt_format f, const unsigned char *at) {
    if (f == RT_PCM) {
        return (float)(int16_t)(at[0] | at[1] << 8) / 32768;
    }
    if (f == RT_PCMU) { /* ITU-T G.711 */
        const int v = ~at[0] & 255, size = (((v & 15) << 3) + 132) << (v >> 4 & 7);
        return (float)((v & 128) ? 132 - size : size - 132) / 32768;
    }
    const int v = at[0] ^ 0x55, step = v >> 4 & 7, low = (v & 15) << 4;
    const int size = step == 0 ? low + 8 : (low + 264) << (step - 1);
    return (float)((v & 128) ? size : -size) / 32768;
}

/* ---- turns ---- */

static void turn_begins(rt_session *r, int64_t sample) {
    r->speaking = true;
    r->idle_at = 0;
    r->speech_from = sample < r->heard_from ? r->heard_from : sample;
    server_id(r->s, "item_", r->said_id);
    rt_tell(r, "input_audio_buffer.speech_started", json_pack("{s:i, s:s}", "audio_start_ms", ms_of(r, r->speech_from), "item_id", r->said_id));
    rt_response *active = rt_response_active(r);
    r->answer_when_free = false;
    if (active && r->config.interrupt_response) {
        rt_response_stop(r, active, "turn_detected");
    }
}

/* Makes [from, to) of what was heard an item; false: an error has been told. What was heard before `to` is gone in any case. */
static bool commit(rt_session *r, const char *id, int64_t from, int64_t to) {
    const size_t width = (size_t)rt_width(r->config.in);
    char before[64] = "";
    if (r->item_count > 0) {
        snprintf(before, sizeof before, "%s", r->items[r->item_count - 1]->id);
    }
    rt_item *item = rt_item_of_sound(r, id, r->heard.data + (size_t)(from - r->heard_from) * width, (size_t)(to - from) * width);
    drop_before(r, to);
    if (!item) {
        return rt_refuse(r, NULL, NULL, "out of memory");
    }
    rt_tell(r, "input_audio_buffer.committed",
            json_pack("{s:s, s:o*}", "item_id", item->id, "previous_item_id", before[0] ? json_string(before) : json_null()));
    return rt_item_insert(r, item, r->item_count);
}

static void turn_ends(rt_session *r, int64_t sample, int64_t decided) {
    const int64_t tail = sample + TAIL_MS * rt_rate(r->config.in) / 1000, end = tail < decided ? tail : decided;
    r->speaking = false;
    rt_tell(r, "input_audio_buffer.speech_stopped", json_pack("{s:i, s:s}", "audio_end_ms", ms_of(r, sample), "item_id", r->said_id));
    if (commit(r, r->said_id, r->speech_from, end < r->speech_from ? r->speech_from : end)) {
        char id[64];
        snprintf(id, sizeof id, "%s", r->said_id);
        if (r->config.create_response) {
            rt_response_begin(r);
        }
        rt_transcribe(r, id); /* after the answer, which is waited for */
    }
}

/* ---- semantic_vad: after a short pause the model is asked whether that was the end ---- */

/* What the pause is at least, and at most if the model says that it is none. */
static void pauses(const rt_config *c, int *least_ms, int *most_ms) {
    const bool low = strcmp(c->eagerness, "low") == 0, high = strcmp(c->eagerness, "high") == 0;
    *least_ms = low ? 700 : high ? 250 : 400;
    *most_ms = low ? 8000 : high ? 2000 : 4000;
}

static void ask_whether_over(rt_session *r, int64_t sample, int64_t decided) {
    const int64_t end = decided < heard_to(r) ? decided : heard_to(r);
    int least_ms, most_ms;
    pauses(&r->config, &least_ms, &most_ms);
    r->silent_from = sample;
    r->silent_until = server_now() + 1e-3 * (most_ms - least_ms);
    const size_t width = (size_t)rt_width(r->config.in);
    json_t *sound =
        rt_sound_part(r->config.in, r->heard.data + (size_t)(r->speech_from - r->heard_from) * width, (size_t)(end - r->speech_from) * width);
    const bool asked = sound && rt_judge(r, sound);
    json_decref(sound);
    if (!asked) {
        rt_sound_judged(r, true);
    }
}

/* Speech goes on after a pause that was not its end. */
static void go_on(rt_session *r) {
    r->silent_until = 0;
    rt_judge_forget(r);
}

void rt_sound_judged(rt_session *r, bool over) {
    if (over && r->silent_until > 0) {
        go_on(r);
        turn_ends(r, r->silent_from, heard_to(r));
    }
}

/* The pause has lasted for too long, in what was heard: a client may send faster than time goes. */
static void look_at_pause(rt_session *r) {
    int least_ms, most_ms;
    pauses(&r->config, &least_ms, &most_ms);
    if (r->silent_until > 0 && ms_of(r, heard_to(r) - r->silent_from) >= most_ms) {
        rt_sound_judged(r, true);
    }
}

/* The detector reads 24000 samples a second; of 8000 each counts as three. */
static void take_turn(void *context, const voice_activity_event *e) {
    rt_session *r = context;
    const int times = r->detector_rate / rt_rate(r->config.in);
    const int64_t sample = r->detector_from + e->position / times, decided = r->detector_from + e->decided / times;
    if (e->kind == SPEECH_STARTED && r->speaking) {
        go_on(r);
    } else if (e->kind == SPEECH_STARTED) {
        turn_begins(r, sample);
    } else if (r->speaking && r->config.turns == RT_TURNS_SEMANTIC_VAD) {
        ask_whether_over(r, sample, decided);
    } else if (r->speaking) {
        turn_ends(r, sample, decided);
    }
}

/* Reads [from, to) of the bytes heard. */
static void detect(rt_session *r, const unsigned char *data, size_t size) {
    enum { PIECE = 240 };
    const rt_format f = r->config.in;
    const size_t width = (size_t)rt_width(f), times = (size_t)(r->detector_rate / rt_rate(f));
    float samples[3 * PIECE];
    for (size_t at = 0; at < size;) {
        size_t n = 0;
        for (; at < size && n < PIECE; at += width) {
            const float x = linear(f, data + at), step = (x - r->last_sample) / (float)times;
            for (size_t k = 1; k <= times; k++) {
                samples[n++] = k == times ? x : r->last_sample + step * (float)k;
            }
            r->last_sample = x;
        }
        voice_activity_push(r->detector, samples, n, take_turn, r);
    }
}

/* Without speech only as much is kept as may belong to it once it has begun, and an eighth more, so that not every piece moves all of it. */
static void keep_little(rt_session *r) {
    if (r->detector && !r->speaking) {
        const int64_t ms = KEPT_MS + r->config.padding_ms + r->config.idle_ms, most = ms * rt_rate(r->config.in) / 1000;
        if ((int64_t)samples_held(r) > most + most / 8) {
            drop_before(r, heard_to(r) - most);
        }
    }
}

/* False: an error has been told. */
static bool hold(rt_session *r, const void *data, size_t size) {
    const size_t before = r->heard.capacity;
    if (r->heard.size + size > before && atomic_load(&r->s->body_bytes) + r->heard.size + size > r->s->p.max_bodies) {
        return rt_refuse(r, "audio", "overloaded", "the server holds as much of its clients as it may");
    }
    bytes_add(&r->heard, data, size);
    atomic_fetch_add(&r->s->body_bytes, r->heard.capacity - before);
    const bool good = !r->heard.failed;
    r->heard.failed = false;
    return good || rt_refuse(r, NULL, NULL, "out of memory");
}

static void listen_anew(rt_session *r) {
    voice_activity_free(r->detector);
    r->detector = NULL;
    r->speaking = false;
    go_on(r);
    r->detector_from = heard_to(r);
    r->detector_rate = 24000;
    r->last_sample = 0;
    if (r->config.turns == RT_TURNS_NONE) {
        return;
    }
    int least_ms = r->config.silence_ms, most_ms;
    if (r->config.turns == RT_TURNS_SEMANTIC_VAD) {
        pauses(&r->config, &least_ms, &most_ms);
    }
    const voice_activity_params p = {
        .rate = r->detector_rate, .threshold = r->config.threshold, .padding_ms = r->config.padding_ms, .silence_ms = least_ms};
    omni_error err = {0};
    if (voice_activity_new(&p, &r->detector, &err) != OMNI_OK) {
        rt_refuse(r, "session.audio.input.turn_detection", NULL, "turns cannot be found: %s", err.text);
    }
}

void rt_sound_set(rt_session *r, const rt_config *before) {
    const rt_config *c = &r->config;
    if (before && c->in != before->in) { /* what was heard in another format is gone */
        const int64_t at = r->heard_from + (int64_t)(r->heard.size / (size_t)rt_width(before->in));
        r->heard_from = at * rt_rate(c->in) / rt_rate(before->in);
        r->heard.size = 0;
    }
    if (!before || c->in != before->in || c->turns != before->turns || c->threshold != before->threshold || c->padding_ms != before->padding_ms ||
        c->silence_ms != before->silence_ms || strcmp(c->eagerness, before->eagerness) != 0) {
        listen_anew(r);
    }
    if (before && (c->turns != before->turns || c->idle_ms != before->idle_ms)) {
        r->idle_at = 0; /* the next answer's end sets it anew */
    }
}

/* ---- the client's events ---- */

void rt_sound_append(rt_session *r, const json_t *event) {
    const json_t *audio = json_object_get(event, "audio");
    uint8_t *data = NULL;
    size_t size = 0;
    omni_error err = {0};
    if (!json_is_string(audio)) {
        rt_refuse(r, "audio", "missing_required_parameter", "\"audio\" must be sound in base64");
        return;
    }
    if (base64_decode(json_string_value(audio), json_string_length(audio), WEBSOCKET_MESSAGE_MOST, &data, &size, &err) != OMNI_OK) {
        rt_refuse(r, "audio", "invalid_value", "\"audio\" is no base64: %s", err.text);
        return;
    }
    if (size % (size_t)rt_width(r->config.in) != 0) {
        rt_refuse(r, "audio", "invalid_value", "\"audio\" has %zu bytes: samples of audio/pcm have two each", size);
    } else if (r->heard.size + size > RT_BUFFER_BYTES && !r->speaking) {
        rt_refuse(r, "audio", "input_audio_buffer_full", "the input audio buffer holds %d MiB: commit or clear it", RT_BUFFER_BYTES >> 20);
    } else {
        if (r->heard.size + size > RT_BUFFER_BYTES) { /* somebody speaks on and on */
            turn_ends(r, heard_to(r), heard_to(r));
            listen_anew(r);
        }
        if (hold(r, data, size) && r->detector) {
            detect(r, data, size);
            look_at_pause(r);
            keep_little(r);
        }
    }
    free(data);
}

void rt_sound_commit(rt_session *r) {
    const int ms = ms_of(r, (int64_t)samples_held(r));
    if (ms < LEAST_MS) {
        rt_refuse(r, NULL, "input_audio_buffer_commit_empty", "the input audio buffer has %d ms of sound: %d at least make an item", ms, LEAST_MS);
        return;
    }
    char id[64];
    server_id(r->s, "item_", id);
    if (r->speaking) {
        snprintf(id, sizeof id, "%s", r->said_id);
    }
    if (commit(r, id, r->heard_from, heard_to(r))) {
        rt_transcribe(r, id);
    }
    listen_anew(r);
}

void rt_sound_clear(rt_session *r) {
    drop_before(r, heard_to(r));
    listen_anew(r);
}

void rt_sound_idle(rt_session *r) {
    char id[64];
    r->idle_at = 0;
    if (r->speaking || rt_response_active(r)) {
        return;
    }
    const int64_t to = heard_to(r), silent = (int64_t)r->config.idle_ms * rt_rate(r->config.in) / 1000;
    const int64_t from = to - silent > r->heard_from ? to - silent : r->heard_from;
    server_id(r->s, "item_", id);
    rt_tell(r, "input_audio_buffer.timeout_triggered",
            json_pack("{s:i, s:i, s:s}", "audio_start_ms", ms_of(r, from), "audio_end_ms", ms_of(r, to), "item_id", id));
    if (to > from && !commit(r, id, from, to)) {
        return;
    }
    listen_anew(r);
    rt_response_begin(r);
}
