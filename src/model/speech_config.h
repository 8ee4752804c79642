/* Reading the talker file's keys with their bounds, for talker, code predictor and code2wav. */
#ifndef OMNI_MODEL_SPEECH_CONFIG_H
#define OMNI_MODEL_SPEECH_CONFIG_H

#include "gguf/gguf.h"

/* Fills *out from PREFIX.FIELD, which must be present and lie in [low, high]. */
omni_status speech_int(const gguf *g, const char *prefix, const char *field, int64_t low, int64_t high, int64_t *out, omni_error *err);
/* The same for a finite number above 0. */
omni_status speech_positive(const gguf *g, const char *prefix, const char *field, float *out, omni_error *err);

#endif
