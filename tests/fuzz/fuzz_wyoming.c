/* Fuzzing frames of the Wyoming protocol: events one after the other, whole and cut; a frame lies within the bytes, and is what it is however many
 * follow. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "server/wyoming_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every cut of a frame asks for more, and never for more than it has. */
static void check_cuts(const char *bytes, size_t size) {
    for (size_t n = 0; n < size; n += 1 + n / 8) {
        wyoming_frame f;
        size_t need;
        char *own = malloc(n + 1);
        check(own);
        memcpy(own, bytes, n);
        check(wyoming_read(own, n, &f, &need, NULL) == OMNI_OK && f.size == 0 && !f.data && need > n && need <= size);
        free(own);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *bytes = malloc(size + 1);
    check(bytes);
    if (size > 0) {
        memcpy(bytes, data, size);
    }
    for (size_t at = 0; at < size;) {
        wyoming_frame f;
        omni_error err = {0};
        size_t need;
        const omni_status status = wyoming_read(bytes + at, size - at, &f, &need, &err);
        if (status != OMNI_OK) {
            check(!f.data && f.size == 0 && err.text[0]);
            break;
        }
        if (f.size == 0) {
            check(need > size - at && need <= WYOMING_MOST + size);
            break;
        }
        check(f.size == need && f.size <= size - at && json_is_object(f.data) && strlen(f.type) < sizeof f.type);
        check(f.payload >= bytes + at && f.payload + f.payload_size == bytes + at + f.size);
        check_cuts(bytes + at, f.size);
        size_t head;
        char *again = wyoming_write("x", json_incref(f.data), f.payload_size, &head);
        check(again && head <= WYOMING_MOST * 8);
        free(again);
        json_decref(f.data);
        at += f.size;
    }
    free(bytes);
    return 0;
}
