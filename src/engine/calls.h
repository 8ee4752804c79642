/* Whether a call of omni.h may run: one at a time in a session, one at a time that computes on a model. */
#ifndef OMNI_ENGINE_CALLS_H
#define OMNI_ENGINE_CALLS_H

#include "engine/engine.h"

/* OMNI_ERR_BUSY while another call of the session runs, in whatever thread, this call's callbacks included. */
omni_status session_enter(omni_session *s, omni_error *err);
void session_leave(omni_session *s);

/* For calls that omni_cancel stops: OMNI_CANCELLED when there is a cancel; forgotten before leaving: it was for this call. */
omni_status session_check_cancel(const omni_session *s, omni_error *err);
void session_forget_cancel(omni_session *s);

/* For calls that compute, and that omni_cancel stops: OMNI_ERR_BUSY also while a call of another session of the model does. Leaving forgets a
 * cancel. The calling thread works on the pool's first CPU in between. */
omni_status session_enter_model(omni_session *s, omni_error *err);
void session_leave_model(omni_session *s);

/* Numbers in range, strings there. text: the thinker answers; else only speech. */
omni_status check_generate_params(const omni_model *m, const omni_generate_params *p, bool text, omni_error *err);

#endif
