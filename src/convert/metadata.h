/* The keys of the three files (docs/formats.md). */
#ifndef OMNI_CONVERT_METADATA_H
#define OMNI_CONVERT_METADATA_H

#include "convert/config.h"
#include "convert/vocabulary.h"
#include "gguf/gguf.h"

/* Ids that config.json left open are looked up by the token's text; an error names the one that is in neither. */
omni_status metadata_resolve_ids(model_config *c, const vocabulary *v, bool talker, const char *dir, omni_error *err);

/* file_type: llama.cpp's number for what most matrices are (recipe.h). Errors of the setters come from gguf_writer_begin. */
void metadata_put_thinker(gguf_writer *w, const model_config *c, const vocabulary *v, const char *name, uint32_t file_type);
void metadata_put_mmproj(gguf_writer *w, const model_config *c, const char *name, uint32_t file_type);
void metadata_put_talker(gguf_writer *w, const model_config *c, const char *name, uint32_t file_type);

#endif
