/* Certificates, looked at before libwebsockets takes them: it would replace the one in use by what cannot be used. */
#ifndef OMNI_SERVER_TLS_H
#define OMNI_SERVER_TLS_H

#include "omni.h"

/* Whether the first certificate of the PEM file can be read and the key in the other belongs to it; else an error that says which is wrong.
 * Between the writing of one file and of the other, a pair does not match. */
omni_status tls_check(const char *cert, const char *key, omni_error *err);

#endif
