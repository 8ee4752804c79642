#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>

static int no_password(char *buffer, int size, int writing, void *arg) {
    return -1; /* nobody is there to be asked */
}

omni_status tls_check(const char *cert, const char *key, omni_error *err) {
    BIO *cert_file = BIO_new_file(cert, "r"), *key_file = BIO_new_file(key, "r");
    X509 *c = cert_file ? PEM_read_bio_X509(cert_file, NULL, no_password, NULL) : NULL;
    EVP_PKEY *k = key_file ? PEM_read_bio_PrivateKey(key_file, NULL, no_password, NULL) : NULL;
    omni_status status = OMNI_OK;
    if (!c || !k || X509_check_private_key(c, k) != 1) {
        const char *wrong = !cert_file || !key_file ? "cannot be opened"
                            : !c                    ? "holds no certificate in PEM"
                            : !k                    ? "holds no key in PEM without a password"
                                                    : "";
        status = err->code = !cert_file || !key_file ? OMNI_ERR_IO : OMNI_ERR_FORMAT;
        if (*wrong) {
            snprintf(err->text, sizeof err->text, "%s: %s", !cert_file || (key_file && !c) ? cert : key, wrong);
        } else {
            snprintf(err->text, sizeof err->text, "%s: is not the key of the certificate in %s", key, cert);
        }
    }
    ERR_clear_error();
    EVP_PKEY_free(k);
    X509_free(c);
    BIO_free(cert_file);
    BIO_free(key_file);
    return status;
}
