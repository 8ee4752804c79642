/* NumPy arrays as videos: the header gives an error or a range that lies within the file. */
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "media/video_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    npy_video v;
    omni_error err = {0};
    if (npy_parse(data, size, "input", &v, &err) != OMNI_OK) {
        check(err.text[0]);
        return 0;
    }
    size_t values = (size_t)(v.frames * v.height * v.width * 3);
    check(v.values >= data && values <= size && (size_t)(v.values - data) <= size - values);
    return 0;
}
