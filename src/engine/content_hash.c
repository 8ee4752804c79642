#include "engine/content_hash.h"

#include <stdbool.h>

#include <openssl/evp.h>

omni_status content_hash_of(const content_part *parts, size_t count, content_hash *out, omni_error *err) {
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1;
    for (size_t i = 0; ok && i < count; i++) {
        ok = EVP_DigestUpdate(c, parts[i].data, parts[i].size) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(c, out->bytes, NULL) == 1;
    EVP_MD_CTX_free(c);
    return ok ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a hash");
}
