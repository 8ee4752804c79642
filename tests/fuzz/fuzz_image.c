/* Image files of every kind: decoding gives an error or a picture of the stated size. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "media/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    image im;
    omni_error err = {0};
    budget limits;
    budget_init(&limits, &(budget_limits){.pixels = 1 << 20});
    if (image_decode(data, size, "input", &limits, &im, &err) != OMNI_OK) {
        check(err.text[0] && !im.rgb);
        return 0;
    }
    check(im.width > 0 && im.height > 0 && (int64_t)im.width * im.height <= limits.pixels);
    volatile uint8_t last = im.rgb[(size_t)im.width * (size_t)im.height * 3 - 1];
    (void)last;
    image_free(&im);
    return 0;
}
