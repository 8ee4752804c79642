#include "server/auth.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool digest_of(const char *key, unsigned char digest[DIGEST_BYTES]) {
    unsigned size = 0;
    return EVP_Digest(key, strlen(key), digest, &size, EVP_sha256(), NULL) == 1 && size == DIGEST_BYTES;
}

static omni_status give(omni_error *err, omni_status status, const char *what, const char *path) {
    if (err) {
        err->code = status;
        snprintf(err->text, sizeof err->text, "%s%s%s", path ? path : "", path ? ": " : "", what);
    }
    return status;
}

static omni_status add_key(auth *a, const char *key, omni_error *err) {
    unsigned char(*grown)[DIGEST_BYTES] = realloc(a->digests, (a->count + 1) * sizeof *grown);
    if (!grown) {
        return give(err, OMNI_ERR_MEMORY, "out of memory", NULL);
    }
    a->digests = grown;
    if (!digest_of(key, a->digests[a->count])) {
        return give(err, OMNI_ERR_UNSUPPORTED, "no SHA-256 in the system's libcrypto", NULL);
    }
    a->count++;
    return OMNI_OK;
}

static omni_status add_file(auth *a, const char *path, omni_error *err) {
    char line[1024];
    FILE *f = fopen(path, "re");
    if (!f) {
        return give(err, OMNI_ERR_IO, strerror(errno), path);
    }
    omni_status status = OMNI_OK;
    while (status == OMNI_OK && fgets(line, sizeof line, f)) {
        const size_t n = strlen(line);
        if (n + 1 == sizeof line && line[n - 1] != '\n') {
            status = give(err, OMNI_ERR_FORMAT, "a key of more than 1000 characters", path);
            break;
        }
        char *end = line + strcspn(line, "\r\n"), *begin = line + strspn(line, " \t");
        while (end > begin && (end[-1] == ' ' || end[-1] == '\t')) {
            end--;
        }
        *end = 0;
        if (*begin && *begin != '#') {
            status = add_key(a, begin, err);
        }
    }
    if (ferror(f)) {
        status = give(err, OMNI_ERR_IO, "cannot be read", path);
    }
    fclose(f);
    OPENSSL_cleanse(line, sizeof line);
    return status;
}

omni_status auth_open(auth *a, const char *const *keys, size_t count, const char *file, omni_error *err) {
    *a = (auth){0};
    pthread_mutex_init(&a->lock, NULL);
    omni_status status = OMNI_OK;
    for (size_t i = 0; status == OMNI_OK && i < count; i++) {
        status = *keys[i] ? add_key(a, keys[i], err) : give(err, OMNI_ERR_ARGUMENT, "an empty API key", NULL);
    }
    a->from_flags = a->count;
    status = status == OMNI_OK && file ? add_file(a, file, err) : status;
    if (status == OMNI_OK && file && a->count == 0) { /* an empty file would let everybody in */
        status = give(err, OMNI_ERR_FORMAT, "no key in it", file);
    }
    return status;
}

omni_status auth_reload(auth *a, const char *file, omni_error *err) {
    auth fresh = {0};
    omni_status status = OMNI_OK;
    if (!file) {
        return OMNI_OK;
    }
    pthread_mutex_lock(&a->lock);
    fresh.digests = malloc((a->from_flags + 1) * sizeof *fresh.digests);
    if (fresh.digests && a->from_flags > 0) {
        memcpy(fresh.digests, a->digests, a->from_flags * sizeof *fresh.digests);
        fresh.count = a->from_flags;
    }
    status = add_file(&fresh, file, err);
    if (status == OMNI_OK && fresh.count == 0) {
        status = give(err, OMNI_ERR_FORMAT, "no key in it; the keys stay as they were", file);
    }
    if (status == OMNI_OK) {
        free(a->digests);
        a->digests = fresh.digests;
        a->count = fresh.count;
    } else {
        free(fresh.digests);
    }
    pthread_mutex_unlock(&a->lock);
    return status;
}

void auth_close(auth *a) {
    free(a->digests);
    pthread_mutex_destroy(&a->lock);
}

bool auth_check(auth *a, const char *key, char owner[OWNER_SIZE]) {
    unsigned char digest[DIGEST_BYTES];
    bool found = false;
    owner[0] = 0;
    pthread_mutex_lock(&a->lock);
    const bool anybody = a->count == 0;
    if (!anybody && key && digest_of(key, digest)) {
        for (size_t i = 0; i < a->count; i++) {
            found |= CRYPTO_memcmp(digest, a->digests[i], DIGEST_BYTES) == 0;
        }
    }
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; found && i < DIGEST_BYTES; i++) {
        snprintf(owner + 2 * i, 3, "%02x", digest[i]);
    }
    return anybody || found;
}

bool auth_take(auth *a, const char *who, int per_minute, double now, int *wait) {
    if (per_minute <= 0) {
        return true;
    }
    pthread_mutex_lock(&a->lock);
    rate *r = NULL, *oldest = &a->rates[0];
    for (int i = 0; !r && i < RATES; i++) {
        oldest = a->rates[i].at < oldest->at ? &a->rates[i] : oldest;
        r = a->rates[i].at > 0 && strcmp(a->rates[i].who, who) == 0 ? &a->rates[i] : NULL;
    }
    if (!r) {
        r = oldest;
        *r = (rate){.left = per_minute, .at = now};
        snprintf(r->who, sizeof r->who, "%s", who);
    }
    const double most = per_minute, filled = r->left + (now - r->at) * most / 60;
    r->left = filled < most ? filled : most;
    r->at = now;
    const bool good = r->left >= 1;
    r->left -= good;
    *wait = good ? 0 : (int)((1 - r->left) * 60 / most) + 1;
    pthread_mutex_unlock(&a->lock);
    return good;
}
