/* Sound decoding from memory: any bytes give samples or an error. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "media/sound.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    omni_error err;
    sound s;
    /* The limit keeps one input short: a few bytes of FLAC may stand for an hour of silence. */
    if (sound_load_memory(data, size, "input", &(sound_options){.max_seconds = 5}, &s, &err) == OMNI_OK) {
        check(s.count > 0 && s.count <= 5 * 16000 + 1000); /* each change of the rate rounds up */
        float sum = 0;
        for (int64_t i = 0; i < s.count; i++) {
            sum += s.samples[i];
        }
        volatile float used = sum;
        (void)used;
    }
    sound_free(&s);
    return 0;
}
