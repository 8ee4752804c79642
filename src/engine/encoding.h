/* The embeddings of one medium, made in units, so that those who wait for tokens and sound get on between them. */
#ifndef OMNI_ENGINE_ENCODING_H
#define OMNI_ENGINE_ENCODING_H

#include <stdbool.h>

#include "engine/media_item.h"

typedef struct encoding encoding;

/* Holds the item, which must have its decoded data, until encoding_free. An encoder works on one medium at a time: beginning another one gives up
 * what is not complete. for_whom: only kept. All of it is the step's. */
omni_status encoding_begin(const encoders *e, media_item *m, const void *for_whom, encoding **out, omni_error *err);
/* One unit, which takes about as long as the MLP of one encoder layer for so many rows. *done: the item has its embeddings, and others find them. */
omni_status encoding_step(encoding *x, int64_t rows, bool *done, omni_error *err);
/* Also before it is done. NULL is fine. */
void encoding_free(encoding *x);

const media_item *encoding_item(const encoding *x);
const void *encoding_for(const encoding *x);

#endif
