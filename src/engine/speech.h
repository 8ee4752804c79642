/* Speech as a pipeline: text tokens -> talker and code predictor (frames of codes) -> code2wav (samples), each part working as soon as
 * it has input. */
#ifndef OMNI_ENGINE_SPEECH_H
#define OMNI_ENGINE_SPEECH_H

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

/* Starts an utterance. params and t (which may be NULL) must stay until speech_run has ended it. */
omni_status speech_begin(speech *s, const talker_prompt *prompt, const omni_generate_params *params, trace *t, omni_error *err);
/* Further tokens of the answer. */
omni_status speech_push(speech *s, const int32_t *ids, int64_t n, omni_error *err);
void speech_finish_text(speech *s);
/* Goes on until text is needed or the speech has ended (*ended), handing samples to params->on_audio as they are made; with more than
 * most frames made in this call it returns early. OMNI_CANCELLED when on_audio said so. */
omni_status speech_run(speech *s, int64_t most, bool *ended, omni_error *err);
/* Frames, samples and times so far; first_audio: when the first samples were handed over (engine_now), 0: not yet. */
void speech_account(const speech *s, omni_result *r, double *first_audio);
/* The utterance will not go on: what is under way comes to an end and is forgotten. speech_end does that too. */
void speech_abandon(speech *s);
/* Hands over what is still held back; then gives the trace its tensors. */
omni_status speech_end(speech *s, omni_error *err);

#endif
