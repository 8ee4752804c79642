#include "engine/content_hash.h"

#include <libavutil/mem.h>
#include <libavutil/sha.h>

omni_status content_hash_of(const content_piece *pieces, size_t count, content_hash *out, omni_error *err) {
    struct AVSHA *sha = av_sha_alloc();
    if (!sha || av_sha_init(sha, 256) != 0) {
        av_free(sha);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a hash");
    }
    for (size_t i = 0; i < count; i++) {
        av_sha_update(sha, pieces[i].data, pieces[i].size);
    }
    av_sha_final(sha, out->bytes);
    av_free(sha);
    return OMNI_OK;
}
