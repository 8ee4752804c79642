/* Speech of any number of requests: text tokens -> talker and code predictor (frames of codes) -> code2wav (samples), each part working as soon as
 * it has input. All utterances that can go on make a frame in the same step. */
#ifndef OMNI_ENGINE_SPEECH_H
#define OMNI_ENGINE_SPEECH_H

#include "engine/receiver.h"
#include "engine/trace.h"
#include "model/code2wav.h"
#include "model/talker.h"
#include "omni.h"

typedef struct speech speech;
/* One utterance. */
typedef struct speech_stream speech_stream;

/* Frames of an utterance where params->max_frames is 0. */
enum { SPEECH_DEFAULT_FRAMES = 4096 };

/* Working memory for so many utterances at once. positions: prompt rows and frames of one; more are cut with OMNI_LIMIT_TALKER_CONTEXT, unless there
 * is only one, which may fill the talker's own context. */
omni_status speech_create(backend *b, talker *t, code2wav *c, int streams, int64_t positions, speech **out, omni_error *err);
void speech_destroy(speech *s); /* every stream must be closed before; NULL is fine */

/* Starts an utterance; OMNI_ERR_LIMIT when all streams are in use. to and t (which may be NULL) must stay until it is closed, media_hidden of the
 * prompt until speech_stream_reads is false. turn: its random numbers' sequence. */
omni_status speech_open(speech *s, const talker_prompt *opening, receiver *to, uint64_t turn, trace *t, speech_stream **out, omni_error *err);
/* Whatever has become of it; samples under way are thrown away. NULL is fine. */
void speech_close(speech_stream *u);
/* Rows of the prompt are still to be read. */
bool speech_stream_reads(const speech_stream *u);
/* Reads them all now. */
omni_status speech_stream_read(speech_stream *u, omni_error *err);
/* Further tokens of the answer; then: there are no more. */
omni_status speech_push(speech_stream *u, const int32_t *ids, int64_t n, omni_error *err);
void speech_finish_text(speech_stream *u);
/* Whether the speech has ended and all samples have been handed over, or it has failed: *status says. */
bool speech_done(const speech_stream *u, omni_status *status, omni_error *err);
/* held: nothing more is to be made for it until the reader has caught up. */
void speech_hold(speech_stream *u, bool held);
/* Frames, samples and times so far. */
void speech_account(const speech_stream *u, omni_result *r);

/* One step: at most rows of the prompt of each new utterance, a frame for each that has text, samples for those that have frames enough. Returns
 * whether anything was done. Errors are those of single utterances (speech_done). */
bool speech_step(speech *s, int64_t rows);
/* Waits until samples that are being made on another thread are there; false when there are none. */
bool speech_wait(speech *s);
/* Whether something can be made of what it has: prompt, text or frames. */
bool speech_stream_active(const speech_stream *u);
/* Seconds until its listener runs out of sound, less than 0: he has; INFINITY while he has got none. */
double speech_stream_slack(const speech_stream *u);

#endif
