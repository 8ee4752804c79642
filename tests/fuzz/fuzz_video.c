/* Small video containers from memory: sampling them gives an error or patches. Most of the work is FFmpeg's. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "media/video.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const patch_params params = {.patch = 16, .merge = 2, .temporal = 2, .min_pixels = 1024, .max_pixels = 4096, .std = {1, 1, 1}};
    budget limits;
    budget_init(&limits, &(budget_limits){.pixels = 1 << 18, .memory = 1 << 24});
    video_options options = {.file_frames = 100, .max_frames = 8, .budget = &limits};
    video v;
    omni_error err = {0};
    if (video_open_memory(data, size, "input", &params, &options, &v, &err) != OMNI_OK) {
        check(err.text[0] && !v.patches.levels && !v.indices);
        return 0;
    }
    check(v.frames > 0 && v.patches.t > 0 && patch_count(&v.patches) <= (int64_t)1 << 20);
    video_free(&v);
    return 0;
}
