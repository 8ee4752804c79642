#include "model/speech_config.h"

#include <math.h>
#include <stdio.h>

enum { KEY_SIZE = 96 };

omni_status speech_int(const gguf *g, const char *prefix, const char *field, int64_t low, int64_t high, int64_t *out, omni_error *err) {
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", prefix, field);
    int v;
    TRY(gguf_need_int(g, key, low, high, &v, err));
    *out = v;
    return OMNI_OK;
}

omni_status speech_positive(const gguf *g, const char *prefix, const char *field, float *out, omni_error *err) {
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "%s.%s", prefix, field);
    float v;
    TRY(gguf_need_f32(g, key, &v, err));
    if (!(v > 0) || !isfinite(v)) {
        return fail(err, OMNI_ERR_FORMAT, "%s: key %s is %g; it must be a number above 0", gguf_path(g), key, (double)v);
    }
    *out = v;
    return OMNI_OK;
}
