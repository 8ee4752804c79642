/* What a fuzz target holds to be true of every input: abort() tells libFuzzer, and the line before it says which of them was not. */
#ifndef OMNI_FUZZ_CHECK_H
#define OMNI_FUZZ_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define check(condition)                                                                                                                             \
    do {                                                                                                                                             \
        if (!(condition)) {                                                                                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                                                  \
            abort();                                                                                                                                 \
        }                                                                                                                                            \
    } while (0)

#endif
