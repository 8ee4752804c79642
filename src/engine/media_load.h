/* The media of one message, or of a conversation given as JSON: loaded one after the other into a conversation, within one budget. */
#ifndef OMNI_ENGINE_MEDIA_LOAD_H
#define OMNI_ENGINE_MEDIA_LOAD_H

#include "engine/engine.h"

typedef struct loaded_medium {
    omni_kind kind;
    medium_options options;
    size_t index;     /* in the conversation's media */
    const void *data; /* bytes given, or NULL and */
    size_t size;
    uint64_t hash, device, inode; /* a file */
    int64_t changed[2];
} loaded_medium;

typedef struct media_loading {
    budget budget;
    loaded_medium *loaded; /* what this call has loaded so far: the same again is copied, not decoded */
    size_t count;
} media_loading;

/* omni_conversation_cancel acts on the loading from then on. media_loading_end releases what begin made. */
void media_loading_begin(media_loading *l, omni_conversation *c);
void media_loading_end(media_loading *l);

/* Loads a medium behind those that the conversation has. Bytes given must outlive the loading. part: what its part asks for; may be NULL. */
omni_status media_loading_add(media_loading *l, omni_conversation *c, omni_kind kind, const char *path, const void *data, size_t size,
                              const chat_media_options *part, omni_error *err);

#endif
