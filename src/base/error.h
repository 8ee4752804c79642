/* Filling an omni_error: every fallible function returns what fail() returns. The text is always UTF-8 without control
 * characters but line ends and tabs, whatever bytes the arguments quote from a file: others become question marks. */
#ifndef OMNI_BASE_ERROR_H
#define OMNI_BASE_ERROR_H

#include "omni_status.h"

/* Formats the text into err (when not NULL), sets its code and returns code. */
omni_status fail(omni_error *err, omni_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already in err; returns err's code. For a caller that knows where the fault lies. */
omni_status fail_in(omni_error *err, omni_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Returns the status of an expression that is not OMNI_OK. Only where nothing needs releasing. */
#define TRY(expression)                                                                                                                              \
    do {                                                                                                                                             \
        omni_status try_status_ = (expression);                                                                                                      \
        if (try_status_ != OMNI_OK) {                                                                                                                \
            return try_status_;                                                                                                                      \
        }                                                                                                                                            \
    } while (0)

#endif
