/* Base64 (RFC 4648, the standard alphabet) for media inside JSON. */
#ifndef OMNI_TEXT_BASE64_H
#define OMNI_TEXT_BASE64_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Whitespace is skipped, padding may be missing. *out is the caller's to free(). Over limit bytes decoded: OMNI_ERR_LIMIT. */
omni_status base64_decode(const char *s, size_t n, size_t limit, uint8_t **out, size_t *out_n, omni_error *err);

#endif
