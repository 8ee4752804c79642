/* The thinker: the text model that reads the conversation, media included, and answers in tokens.
 *
 * This opens its GGUF (architecture qwen3vlmoe; qwen3omnimoe and qwen3omni with the same keys under their own prefix) and turns
 * an expanded prompt into decoder rows; engine/decoder_runner.h runs them. Sources: Qwen3OmniMoeThinkerForConditionalGeneration. */
#ifndef OMNI_MODEL_THINKER_H
#define OMNI_MODEL_THINKER_H

#include "gguf/gguf.h"
#include "model/decoder.h"
#include "model/prompt.h"

/* Ids of the chat layout; -1 where the file does not tell. */
typedef struct thinker_ids {
    int32_t im_start, im_end, system, user, assistant;
} thinker_ids;

typedef struct thinker {
    backend *b;
    const char *architecture; /* as in the file */
    decoder_config config;
    decoder_weights weights; /* without layers when opened for embeddings only */
    prompt_markup markup;    /* ids of -1 where the file does not tell; spatial_merge 2 until thinker_use_encoder */
    thinker_ids ids;
    int64_t context;      /* positions the model was made for */
    int deepstack_layers; /* as in the file, until thinker_use_encoder */
    bool embeddings_only;
} thinker;

/* Reads and checks sizes and tensors. g and b must outlive the thinker. embeddings_only: just the token table and the ids (what
 * speaking a given text needs). Special ids come from the omni.* keys, else from the token texts. */
omni_status thinker_open(backend *b, gguf *g, bool embeddings_only, thinker **out, omni_error *err);
void thinker_close(thinker *t);

/* Takes the vision encoder's side: patches a side of an embedding, width of the embeddings, and number of deepstack feature sets
 * (files made elsewhere say 0 in the thinker's file although the encoder has them, so the encoder decides). */
omni_status thinker_use_encoder(thinker *t, int spatial_merge, int width, int deepstack, omni_error *err);

/* Bytes beyond the weights for so many positions of context in all, rows a pass and kept outputs. SIZE_MAX when too large. */
size_t thinker_memory(const thinker *t, dtype kv_type, int64_t positions, int64_t batch_rows, int64_t outputs);

/* The embeddings of one media, in the backend's memory; the pointers that its kind has no use for are NULL. */
typedef struct thinker_media {
    const float *visual;      /* [visual rows, width] */
    const float *audio;       /* [sound rows, width] */
    const float *deepstack;   /* layer k's features: deepstack + k * deepstack_stride, [visual rows, width]; NULL: none */
    int64_t deepstack_stride; /* values */
} thinker_media;

/* Decoder rows of prompt rows [first, first + n): token or embedding, positions, deepstack features. media is indexed as in the
 * prompt. captured: where the accepted hidden states go, row first + i to captured + i * width; NULL: not wanted. Slots and
 * attention are decoder_runner_run's to fill. */
omni_status thinker_rows(const thinker *t, const prompt *p, int64_t first, int64_t n, const thinker_media *media, int32_t media_count,
                         float *captured, decoder_row *rows, omni_error *err);
/* The row of a generated token that follows a row at `previous`; position receives its own ids. */
decoder_row thinker_next_row(int32_t token, float position[3]);

#endif
