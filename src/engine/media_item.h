/* A medium as requests hold it: decoded data until it is encoded, embeddings from then on. Conversations and requests share it by reference.
 *
 * Embeddings are found again by owner and content, so a picture that another conversation of the owner has shown already is not encoded twice. */
#ifndef OMNI_ENGINE_MEDIA_ITEM_H
#define OMNI_ENGINE_MEDIA_ITEM_H

#include "engine/media_cache.h"
#include "engine/medium.h"
#include "engine/trace.h"
#include "model/thinker.h"

struct media_item {
    _Atomic int holders;
    media_cache *cache;
    prompt_kind kind;
    char *name; /* for errors */
    int32_t grid[3];
    double seconds_per_grid;
    bool has_sound;
    int64_t samples;      /* of its sound */
    int64_t longest;      /* samples of the longest sound of the call of the reference that it belongs to (media/mel.h) */
    content_hash content; /* of its owner and all that its embeddings depend on */
    patch_set patches;    /* decoded; empty once encoded */
    sound sound;
    embeddings *embedded; /* NULL until it is encoded; the step's */
};

/* Items of a conversation's media, for a request that reads them: what a medium has decoded moves into an item of its own at the first time. The
 * sounds that are new to requests belong to one call of the reference, as if the conversation were asked now. owner: who finds their embeddings
 * again. */
omni_status media_items_take(const encoders *e, media_cache *cache, const char *owner, medium *media, size_t count, omni_error *err);
media_item *media_item_hold(media_item *m);
void media_item_drop(media_item *m); /* NULL is fine */

/* As positions see it. */
prompt_media media_item_prompt(const encoders *e, const media_item *m);
/* Whether it is encoded, or its embeddings are found: then it has them. The step's. */
bool media_item_is_encoded(media_item *m);
/* Decoded data is not needed any more, if it is encoded. */
void media_item_forget(media_item *m);
/* Its embeddings as the thinker takes them; empty when it is not encoded. */
thinker_media media_item_embedded(const media_item *m, int64_t width);
/* What the reference's processor and encoders give for those of count items that still have their decoded data, as it names them. */
omni_status media_items_trace(const encoders *e, media_item *const *items, size_t count, trace *t, omni_error *err);

#endif
