/* --logit-bias ID(+|-)BIAS, as llama.cpp takes it: "15043+1" makes token 15043 likelier, "15043-inf" bans it. */
#ifndef OMNI_CLI_LOGIT_BIAS_H
#define OMNI_CLI_LOGIT_BIAS_H

#include "cli/args.h"
#include "omni.h"

/* *out: given->count entries, the caller's to free. False after explaining what is wrong. */
bool logit_bias_read(const char *name, const flag_list *given, omni_logit_bias **out);

#endif
