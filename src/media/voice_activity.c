#include "media/voice_activity.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOW_RATE = 8000,          /* frames are analysed at this rate */
    FRAME = LOW_RATE / 100,   /* 10 ms */
    WINDOW = 256,             /* 32 ms: what the pitch is looked for in */
    LAG_MIN = LOW_RATE / 400, /* 400 Hz */
    LAG_MAX = LOW_RATE / 60,  /* 60 Hz */
    KEPT = WINDOW + LAG_MAX,  /* samples that the search reads */
    RECENT = 16,              /* frames that decide on a beginning */
    ENOUGH_ACTIVE = 10,       /* of them */
    ENOUGH_VOICED = 4,        /* of them */
    GOING_ON = 4,             /* active frames of the newest GOING_ON_OF: speech goes on; a click makes fewer */
    GOING_ON_OF = 6,
    FLOOR_BLOCK = 25, /* frames; the floor is the lowest of the last FLOOR_BLOCKS blocks */
    FLOOR_BLOCKS = 8,
    START_BLOCKS = 4, /* that hold START_FLOOR until they are filled, for sound that begins with speech */
};

static const float START_FLOOR = -50, LOWEST_FLOOR = -60; /* dB of full scale */
static const float VOICED = 0.45f;                        /* correlation with the sound a period ago; white noise reaches 0.25 */
static const float HYSTERESIS = 1;                        /* dB less are asked of a frame once speech has begun */

struct voice_activity {
    voice_activity_params params;
    int factor; /* samples averaged to one at LOW_RATE */
    float need; /* dB above the floor */

    /* Everything below is the state that voice_activity_reset clears. */
    float sum; /* of the samples of the next one at LOW_RATE */
    int summed;
    float before, filtered; /* the high-pass filter's last input and output */
    float kept[KEPT];       /* the last samples at LOW_RATE */
    int filled;             /* samples of the frame that is being read, at the end of kept */
    int64_t frames;         /* complete */
    float smooth;           /* level, dB */
    float lowest[FLOOR_BLOCKS];
    int floor_frames; /* of the block being filled */
    int floor_block;
    uint32_t active, voiced; /* a bit a frame, the newest lowest */
    bool speaking;
    int64_t last_active; /* end of the last frame in which speech went on, in frames */
    int64_t end;         /* position of the last SPEECH_STOPPED */
};

omni_status voice_activity_new(const voice_activity_params *params, voice_activity **out, omni_error *err) {
    *out = NULL;
    if (params->rate != 16000 && params->rate != 24000) {
        return fail(err, OMNI_ERR_ARGUMENT, "voice activity: rate is %d: must be 16000 or 24000 samples a second", params->rate);
    }
    if (!(params->threshold >= 0 && params->threshold <= 1)) {
        return fail(err, OMNI_ERR_ARGUMENT, "voice activity: threshold is %g: must be from 0 to 1", params->threshold);
    }
    if (params->padding_ms < 0 || params->padding_ms > 60000) {
        return fail(err, OMNI_ERR_ARGUMENT, "voice activity: padding is %d ms: must be from 0 to 60000", params->padding_ms);
    }
    if (params->silence_ms < 10 || params->silence_ms > 60000) {
        return fail(err, OMNI_ERR_ARGUMENT, "voice activity: silence is %d ms: must be from 10 to 60000", params->silence_ms);
    }
    voice_activity *v = malloc(sizeof *v);
    if (!v) {
        return fail(err, OMNI_ERR_MEMORY, "voice activity: out of memory");
    }
    *v = (voice_activity){.params = *params, .factor = params->rate / LOW_RATE, .need = 2 + 8 * (float)params->threshold};
    voice_activity_reset(v);
    *out = v;
    return OMNI_OK;
}

void voice_activity_reset(voice_activity *v) {
    *v = (voice_activity){.params = v->params, .factor = v->factor, .need = v->need};
    for (int i = 0; i < FLOOR_BLOCKS; i++) {
        v->lowest[i] = i < START_BLOCKS ? START_FLOOR : INFINITY;
    }
}

void voice_activity_free(voice_activity *v) {
    free(v);
}

/* dB of full scale of the newest frame and the one before: 20 ms, a period of 50 Hz, so that hum has a steady level. */
static float frame_level(const voice_activity *v) {
    float power = 0;
    for (int i = KEPT - 2 * FRAME; i < KEPT; i++) {
        power += v->kept[i] * v->kept[i];
    }
    return 10 * log10f(power / (2 * FRAME) + 1e-10f);
}

/* Follows the noise: the lowest smoothed level of the last FLOOR_BLOCKS blocks. */
static float noise_floor(voice_activity *v, float level) {
    const bool beginning = v->frames < 2; /* the first frame's level counts silence before it */
    v->smooth = beginning ? level : v->smooth + 0.2f * (level - v->smooth);
    if (beginning || v->floor_frames == 0 || v->smooth < v->lowest[v->floor_block]) {
        v->lowest[v->floor_block] = v->smooth;
    }
    if (++v->floor_frames == FLOOR_BLOCK) {
        v->floor_frames = 0;
        v->floor_block = (v->floor_block + 1) % FLOOR_BLOCKS;
    }
    float lowest = v->lowest[0];
    for (int i = 1; i < FLOOR_BLOCKS; i++) {
        lowest = fminf(lowest, v->lowest[i]);
    }
    return fmaxf(lowest, LOWEST_FLOOR);
}

/* Whether the newest window resembles the sound some period of a voice ago: the normalised correlation of both. */
static bool has_pitch(const voice_activity *v) {
    const float *now = v->kept + LAG_MAX;
    float power = 0;
    for (int i = 0; i < WINDOW; i++) {
        power += now[i] * now[i];
    }
    for (int lag = LAG_MIN; lag <= LAG_MAX; lag++) {
        const float *then = now - lag;
        float product = 0, power_then = 0;
        for (int i = 0; i < WINDOW; i++) {
            product += now[i] * then[i];
            power_then += then[i] * then[i];
        }
        if (product > 0 && product * product > VOICED * VOICED * power * power_then) {
            return true;
        }
    }
    return false;
}

static int64_t samples_of(const voice_activity *v, int64_t frames) {
    return frames * FRAME * v->factor;
}

/* The newest frame is complete: decides what it changes. */
static void end_frame(voice_activity *v, voice_activity_callback on_event, void *context) {
    const float level = frame_level(v);
    const float above = level - noise_floor(v, level);
    const bool active = above >= v->need - (v->speaking ? HYSTERESIS : 0);
    v->frames++;
    const uint32_t window = ((uint32_t)1 << RECENT) - 1;
    v->active = (v->active << 1 | active) & window;
    v->voiced = (v->voiced << 1 | (active && !v->speaking && has_pitch(v))) & window;
    const uint32_t newest = ((uint32_t)1 << GOING_ON_OF) - 1;
    if (active && __builtin_popcount(v->active & newest) >= GOING_ON) {
        v->last_active = v->frames;
    }
    if (!v->speaking && __builtin_popcount(v->active) >= ENOUGH_ACTIVE && __builtin_popcount(v->voiced) >= ENOUGH_VOICED) {
        const int age = 32 - __builtin_clz(v->active); /* of the first active frame of the window; 1: the newest */
        const int64_t padded = samples_of(v, v->frames - age) - (int64_t)v->params.padding_ms * v->params.rate / 1000;
        v->speaking = true;
        v->last_active = v->frames;
        on_event(context, &(voice_activity_event){SPEECH_STARTED, padded > v->end ? padded : v->end, samples_of(v, v->frames)});
    } else if (v->speaking && (v->frames - v->last_active) * 10 >= v->params.silence_ms) {
        v->speaking = false;
        v->active = v->voiced = 0;
        v->end = samples_of(v, v->last_active);
        on_event(context, &(voice_activity_event){SPEECH_STOPPED, v->end, samples_of(v, v->frames)});
    }
}

void voice_activity_push(voice_activity *v, const float *samples, size_t n, voice_activity_callback on_event, void *context) {
    for (size_t i = 0; i < n; i++) {
        v->sum += isfinite(samples[i]) ? fmaxf(-1, fminf(1, samples[i])) : 0;
        if (++v->summed < v->factor) {
            continue;
        }
        const float x = v->sum / (float)v->factor;
        v->sum = 0;
        v->summed = 0;
        v->filtered = 0.92f * (v->filtered + x - v->before); /* one pole, -3 dB at about 105 Hz */
        v->before = x;
        v->kept[KEPT - FRAME + v->filled] = v->filtered;
        if (++v->filled == FRAME) {
            v->filled = 0;
            end_frame(v, on_event, context);
            memmove(v->kept, v->kept + FRAME, (KEPT - FRAME) * sizeof(float));
        }
    }
}
