/* convert_tool CHECKPOINT_DIR OUT_DIR [TYPE [PARTS [THREADS]]]: runs a conversion, for tests of the library alone. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "convert/convert.h"

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s CHECKPOINT_DIR OUT_DIR [TYPE [PARTS [THREADS]]]\n", argv[0]);
        return 2;
    }
    convert_options o = {.checkpoint_dir = argv[1], .out_dir = argv[2], .type = argc > 3 ? argv[3] : NULL};
    o.parts = argc > 4 ? (unsigned)atoi(argv[4]) : 0;
    o.threads = argc > 5 ? atoi(argv[5]) : 0;
    convert_result r;
    omni_error e;
    if (convert_checkpoint(&o, &r, &e) != OMNI_OK) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    for (size_t i = 0; i < r.count; i++) {
        printf("%s: %" PRIu64 " bytes\n", r.path[i], r.bytes[i]);
    }
    if (r.no_talker) {
        puts("this checkpoint has no talker");
    }
    return 0;
}
