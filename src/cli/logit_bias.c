#include "cli/logit_bias.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/terminal_text.h"

static bool read_one(const char *text, omni_logit_bias *out) {
    char *sign, *end;
    errno = 0;
    const long id = isdigit((unsigned char)*text) ? strtol(text, &sign, 10) : -1;
    if (id < 0 || id > INT32_MAX || errno != 0 || (*sign != '+' && *sign != '-')) {
        return false;
    }
    const bool infinite = strcmp(sign, "-inf") == 0;
    if (!infinite && !isdigit((unsigned char)sign[1]) && sign[1] != '.') {
        return false;
    }
    const float bias = strtof(sign, &end);
    *out = (omni_logit_bias){(int32_t)id, bias};
    return !*end && (infinite || isfinite(bias));
}

bool logit_bias_read(const char *name, const flag_list *given, omni_logit_bias **out) {
    *out = calloc(given->count + 1, sizeof **out);
    if (!*out) {
        print_error("omni %s: out of memory\n", name);
        return false;
    }
    for (size_t i = 0; i < given->count; i++) {
        if (!read_one(given->entries[i].value, &(*out)[i])) {
            print_error("omni %s: --logit-bias takes ID(+|-)BIAS, as 15043+1, 15043-0.5 or 15043-inf, not \"%s\"\n", name, given->entries[i].value);
            return false;
        }
    }
    return true;
}
