#include "engine/token_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void token_log_free(token_log *l) {
    free(l->waiting);
    *l = (token_log){0};
}

omni_status token_log_add(token_log *l, int32_t id, const sample_logprobs *p, size_t size, omni_error *err) {
    if (l->count == l->room) {
        const size_t room = 2 * l->room + 8;
        logged_token *larger = realloc(l->waiting, room * sizeof *larger);
        if (!larger) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu tokens", room);
        }
        l->waiting = larger;
        l->room = room;
    }
    l->waiting[l->count++] = (logged_token){id, l->text, *p};
    l->text += size;
    return OMNI_OK;
}

static omni_token named(const tokenizer *t, int32_t id, float logprob) {
    omni_token k = {.id = id, .logprob = logprob};
    k.bytes = tokenizer_piece(t, id, &k.size);
    return k;
}

static bool hand_out(const logged_token *k, int top, const tokenizer *t, receiver *to) {
    omni_token list[SAMPLE_TOP];
    const omni_token token = named(t, k->id, k->probabilities.chosen);
    for (int i = 0; i < top; i++) {
        list[i] = named(t, k->probabilities.ids[i], k->probabilities.top[i]);
    }
    return receiver_token(to, &token, list, (size_t)top);
}

bool token_log_show(token_log *l, size_t size, bool all, int top, const tokenizer *t, receiver *to) {
    size_t n = 0;
    bool listens = true;
    l->shown += size;
    while (listens && n < l->count && (all || l->waiting[n].start < l->shown)) {
        listens = hand_out(&l->waiting[n++], top, t, to);
    }
    l->count -= n;
    if (n > 0 && l->count > 0) {
        memmove(l->waiting, l->waiting + n, l->count * sizeof *l->waiting);
    }
    return listens;
}
