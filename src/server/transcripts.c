#include "server/transcripts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void transcripts_open(transcripts *s) {
    *s = (transcripts){0};
    pthread_mutex_init(&s->lock, NULL);
}

static void forget_oldest(transcripts *s) {
    transcript_entry *e = s->oldest;
    s->oldest = e->newer;
    *(s->oldest ? &s->oldest->older : &s->newest) = NULL;
    s->count--;
    s->bytes -= e->size;
    free(e);
}

void transcripts_close(transcripts *s) {
    while (s->oldest) {
        forget_oldest(s);
    }
    pthread_mutex_destroy(&s->lock);
}

void transcripts_add(transcripts *s, const char *id, const char *owner, const char *text, size_t size, int64_t *expires) {
    transcript_entry *e = malloc(sizeof *e + size + 1);
    const int64_t now = (int64_t)time(NULL);
    *expires = now + TRANSCRIPTS_SECONDS;
    if (!e) {
        return; /* a later request will be told that it is not known */
    }
    *e = (transcript_entry){.expires = *expires, .size = size};
    snprintf(e->id, sizeof e->id, "%s", id);
    snprintf(e->owner, sizeof e->owner, "%s", owner);
    memcpy(e->text, text, size);
    e->text[size] = 0;
    pthread_mutex_lock(&s->lock);
    while (s->oldest && (s->count >= TRANSCRIPTS_MOST || s->bytes + size > TRANSCRIPTS_BYTES || s->oldest->expires < now)) {
        forget_oldest(s);
    }
    e->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = e;
    s->newest = e;
    s->count++;
    s->bytes += size;
    pthread_mutex_unlock(&s->lock);
}

char *transcripts_find(transcripts *s, const char *id, const char *owner) {
    char *text = NULL;
    const int64_t now = (int64_t)time(NULL);
    pthread_mutex_lock(&s->lock);
    for (const transcript_entry *e = s->newest; e && !text; e = e->older) {
        if (e->expires >= now && strcmp(e->id, id) == 0 && strcmp(e->owner, owner) == 0) {
            text = strdup(e->text);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return text;
}
