/* Speech as a pipeline: text tokens -> talker and code predictor (frames of codes) -> code2wav (samples), each part working as soon as
 * it has input. */
#ifndef OMNI_ENGINE_SPEECH_H
#define OMNI_ENGINE_SPEECH_H

#include "engine/receiver.h"
#include "engine/trace.h"
#include "model/code2wav.h"
#include "model/talker.h"
#include "omni.h"

typedef struct speech speech;

/* Working memory for one utterance at a time. positions: prompt rows and frames together, cut to the talker's own context. */
omni_status speech_create(backend *b, talker *t, code2wav *c, int64_t positions, speech **out, omni_error *err);
/* Whether the memory is enough for so many positions, or as much as the talker can use. */
bool speech_fits(const speech *s, int64_t positions);
/* Frames of an utterance where params->max_frames is 0. */
enum { SPEECH_DEFAULT_FRAMES = 4096 };
void speech_destroy(speech *s);

/* Starts an utterance. to and t (which may be NULL) must stay until it has ended. turn: its random numbers' sequence. */
omni_status speech_begin(speech *s, const talker_prompt *prompt, receiver *to, uint64_t turn, trace *t, omni_error *err);
/* Further tokens of the answer. */
omni_status speech_push(speech *s, const int32_t *ids, int64_t n, omni_error *err);
/* Goes on until text is needed or the speech has ended (*ended), handing samples over as they are made; with most frames made in this call it
 * returns early. OMNI_CANCELLED when nobody listens any more: at most the frame and the samples under way have then been made. */
omni_status speech_run(speech *s, int64_t most, bool *ended, omni_error *err);
/* No more text comes: says the rest and hands over all of it; then gives the trace its tensors. */
omni_status speech_finish(speech *s, omni_error *err);
/* The utterance will not go on, after an error or OMNI_CANCELLED: what is under way comes to an end and is forgotten. */
void speech_abandon(speech *s);
/* Frames, samples and times so far. */
void speech_account(const speech *s, omni_result *r);

#endif
