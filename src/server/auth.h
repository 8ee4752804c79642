/* Who may ask, and how often. */
#ifndef OMNI_SERVER_AUTH_H
#define OMNI_SERVER_AUTH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "omni.h"

enum { DIGEST_BYTES = 32, OWNER_SIZE = 2 * DIGEST_BYTES + 1, RATES = 1024 };

/* Requests left of one key or address: a bucket that fills evenly. */
typedef struct rate {
    char who[OWNER_SIZE];
    double left, at;
} rate;

typedef struct auth {
    pthread_mutex_t lock;
    unsigned char (*digests)[DIGEST_BYTES]; /* of the keys: all are compared, in time that tells nothing of how much agrees */
    size_t count, from_flags;
    rate rates[RATES];
} auth;

/* file may be NULL. Reads it; flags' keys come first. */
omni_status auth_open(auth *a, const char *const *keys, size_t count, const char *file, omni_error *err);
/* Reads the file anew; on an error the keys stay as they were. */
omni_status auth_reload(auth *a, const char *file, omni_error *err);
void auth_close(auth *a);

/* Whether the key may ask; without any keys everybody may. owner: a name for the key that does not tell it, "" without keys. */
bool auth_check(auth *a, const char *key, char owner[OWNER_SIZE]);
/* Takes one request of who's per_minute; false: they are used up, and *wait is how many seconds until there is one again. */
bool auth_take(auth *a, const char *who, int per_minute, double now, int *wait);

#endif
