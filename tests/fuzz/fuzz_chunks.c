/* Fuzzing bodies in chunks: the same body, end and fault whatever the pieces that it comes in. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "server/chunks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct outcome {
    uint64_t hash;
    size_t body, used;
    bool ended, damaged;
} outcome;

static outcome read_body(const char *data, size_t size, size_t step) {
    chunk_reader c = {0};
    outcome o = {0};
    while (o.used < size && !c.ended && !c.damaged) {
        const size_t piece = size - o.used < step ? size - o.used : step;
        size_t n;
        const size_t taken = chunks_read(&c, data + o.used, piece, &n);
        check(taken > 0 && taken <= piece && n <= taken);
        for (size_t i = taken - n; i < taken; i++) {
            o.hash = (o.hash ^ (uint8_t)data[o.used + i]) * 0x100000001B3u;
        }
        o.body += n;
        o.used += taken;
    }
    o.ended = c.ended;
    o.damaged = c.damaged;
    check(!(o.ended && o.damaged));
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const size_t steps[] = {1, 3, 64};
    const outcome whole = read_body((const char *)data, size, size + 1);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const outcome o = read_body((const char *)data, size, steps[i]);
        check(o.hash == whole.hash && o.body == whole.body && o.used == whole.used && o.ended == whole.ended && o.damaged == whole.damaged);
    }
    return 0;
}
