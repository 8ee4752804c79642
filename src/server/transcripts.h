/* What was spoken lately: {"audio": {"id"}} in a later request stands for its words. */
#ifndef OMNI_SERVER_TRANSCRIPTS_H
#define OMNI_SERVER_TRANSCRIPTS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { TRANSCRIPTS_SECONDS = 3600, TRANSCRIPTS_MOST = 4096, TRANSCRIPTS_BYTES = 64 << 20 };

typedef struct transcript_entry {
    struct transcript_entry *older, *newer;
    int64_t expires; /* seconds since 1970 */
    char id[64], owner[68];
    size_t size;
    char text[];
} transcript_entry;

typedef struct transcripts {
    pthread_mutex_t lock;
    transcript_entry *oldest, *newest;
    size_t count, bytes;
} transcripts;

void transcripts_open(transcripts *s);
void transcripts_close(transcripts *s);
/* Keeps the words until *expires; what is oldest goes when there are too many. */
void transcripts_add(transcripts *s, const char *id, const char *owner, const char *text, size_t size, int64_t *expires);
/* A copy of the words, the caller's to free; NULL: nobody has said that, not this owner's, or it is too long ago. */
char *transcripts_find(transcripts *s, const char *id, const char *owner);

#endif
