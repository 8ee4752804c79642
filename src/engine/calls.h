/* What the public calls check before they do anything. */
#ifndef OMNI_ENGINE_CALLS_H
#define OMNI_ENGINE_CALLS_H

#include "engine/engine.h"

/* OMNI_ERR_BUSY while another call of the conversation runs, in whatever thread, this call's callbacks included. */
omni_status conversation_enter(omni_conversation *c, omni_error *err);
void conversation_leave(omni_conversation *c);
/* OMNI_CANCELLED when a cancel waits that no call has met yet; forget: this call has met it. */
omni_status conversation_check_cancel(const omni_conversation *c, omni_error *err);
void conversation_forget_cancel(omni_conversation *c);

/* Numbers in range, strings there. text: the thinker answers; else only speech. */
omni_status check_generate_params(const omni_model *m, const omni_generate_params *p, bool text, omni_error *err);

#endif
