#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

omni_status sampler_check(const omni_generate_params *p, int64_t vocab, omni_error *err) {
    if (p->logit_bias_count > 0 && (!p->logit_bias || p->logit_bias_count > (size_t)vocab)) {
        return fail(err, OMNI_ERR_ARGUMENT, "logit_bias_count is %zu: at most %lld biases can be given%s", p->logit_bias_count, (long long)vocab,
                    p->logit_bias ? "" : ", and logit_bias is NULL");
    }
    for (size_t i = 0; i < p->logit_bias_count; i++) {
        const omni_logit_bias *b = &p->logit_bias[i];
        if (b->id < 0 || b->id >= vocab) {
            return fail(err, OMNI_ERR_ARGUMENT, "logit bias of token %d: the vocabulary has %lld tokens, 0 to %lld", b->id, (long long)vocab,
                        (long long)vocab - 1);
        }
        if (isnan(b->bias) || b->bias == INFINITY) {
            return fail(err, OMNI_ERR_ARGUMENT, "logit bias of token %d: %g is no bias; take a number, or minus infinity, which bans the token",
                        b->id, (double)b->bias);
        }
    }
    if (p->top_logprobs < 0 || p->top_logprobs > SAMPLE_TOP || p->top_logprobs > vocab || (p->top_logprobs > 0 && !p->logprobs)) {
        return fail(err, OMNI_ERR_ARGUMENT, "top_logprobs is %d: it can be 0 to %d, and needs logprobs", p->top_logprobs, SAMPLE_TOP);
    }
    return OMNI_OK;
}

static int by_id(const void *a, const void *b) {
    const int32_t x = ((const omni_logit_bias *)a)->id, y = ((const omni_logit_bias *)b)->id;
    return (x > y) - (x < y);
}

omni_status sampler_merge_bias(const omni_generate_params *p, omni_logit_bias **out, size_t *count, omni_error *err) {
    static const float BAN = -100; /* OpenAI's lowest, which "should result in a ban" of the token */
    *out = NULL;
    *count = 0;
    if (p->logit_bias_count == 0) {
        return OMNI_OK;
    }
    omni_logit_bias *list = calloc(p->logit_bias_count, sizeof *list);
    if (!list) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu biases", p->logit_bias_count);
    }
    memcpy(list, p->logit_bias, p->logit_bias_count * sizeof *list);
    qsort(list, p->logit_bias_count, sizeof *list, by_id);
    size_t n = 0;
    for (size_t i = 0; i < p->logit_bias_count;) {
        const int32_t id = list[i].id;
        double sum = 0;
        for (; i < p->logit_bias_count && list[i].id == id; i++) {
            sum += list[i].bias > BAN ? (double)list[i].bias : -INFINITY;
        }
        list[n++] = (omni_logit_bias){id, sum > (double)BAN ? (float)fmin(sum, (double)FLT_MAX) : -INFINITY};
    }
    *out = list;
    *count = n;
    return OMNI_OK;
}

static bool penalises(const omni_sampling *s) {
    return s->repeat_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

static size_t mask_bytes(int64_t vocab) {
    return (size_t)((vocab + 31) / 32) * sizeof(uint32_t);
}

omni_status sampler_open(sampler *s, backend *b, int64_t vocab, const omni_generate_params *p, bool constrained, const prompt_row *rows, int64_t n,
                         omni_error *err) {
    const size_t mask = p->mask || constrained ? mask_bytes(vocab) : 0, bias = p->logit_bias_count * sizeof *s->bias;
    const size_t history = penalises(&p->text) ? (size_t)vocab * sizeof *s->history : 0, raw = p->logprobs ? (size_t)vocab * sizeof *s->raw : 0;
    const size_t total = mask + bias + raw + history;
    *s = (sampler){0};
    if (total == 0) {
        return OMNI_OK;
    }
    TRY(b->ops->alloc(b, total, &s->memory, err));
    char *at = s->memory; /* those of 4 bytes an entry first: what follows is aligned for its own */
    s->allowed = mask > 0 ? (uint32_t *)(void *)at : NULL;
    s->bias = bias > 0 ? (sample_bias *)(void *)(at + mask) : NULL;
    s->raw = raw > 0 ? (float *)(void *)(at + mask + bias) : NULL;
    s->history = history > 0 ? (uint16_t *)(void *)(at + mask + bias + raw) : NULL;
    uint16_t *marks = calloc(history + 1, 1);
    sample_bias *list = calloc(p->logit_bias_count + 1, sizeof *list);
    s->words = calloc(mask + 1, 1);
    const bool ok = marks && list && s->words;
    for (size_t i = 0; ok && i < p->logit_bias_count; i++) {
        list[i] = (sample_bias){p->logit_bias[i].id, p->logit_bias[i].bias};
    }
    for (int64_t i = 0; ok && history > 0 && i < n; i++) {
        marks[rows[i].id] = SAMPLE_BEFORE;
    }
    if (ok && bias > 0) {
        b->ops->upload(b, s->bias, list, bias);
    }
    if (ok && history > 0) {
        b->ops->upload(b, s->history, marks, history);
    }
    free(marks);
    free(list);
    return ok ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the sampling of an answer");
}

void sampler_close(sampler *s, backend *b) {
    if (s->memory) {
        b->ops->release(b, s->memory);
    }
    free(s->words);
    *s = (sampler){0};
}

omni_status sampler_ask_mask(sampler *s, backend *b, int64_t vocab, const omni_generate_params *p, token_matcher *matcher, const int32_t *answer,
                             size_t count, omni_error *err) {
    memset(s->words, 0xff, mask_bytes(vocab));
    if (p->mask && !p->mask(p->mask_arg, answer, count, s->words)) {
        return fail(err, OMNI_CANCELLED, "cancelled by the mask");
    }
    if (matcher) {
        TRY(token_matcher_allow(matcher, answer, count, s->words, err));
    }
    b->ops->upload(b, s->allowed, s->words, mask_bytes(vocab));
    return OMNI_OK;
}

sample_row sampler_row(const sampler *s, int64_t vocab, const omni_generate_params *p, uint64_t turn, size_t count) {
    return (sample_row){.greedy = p->text.greedy,
                        .temperature = p->text.temperature,
                        .top_k = p->text.top_k,
                        .top_p = p->text.top_p,
                        .min_p = p->text.min_p,
                        .repeat_penalty = p->text.repeat_penalty,
                        .frequency_penalty = p->text.frequency_penalty,
                        .presence_penalty = p->text.presence_penalty,
                        .history = s->history,
                        .bias = s->bias,
                        .raw = s->raw,
                        .bias_count = (int32_t)p->logit_bias_count,
                        .top_logprobs = p->top_logprobs,
                        .allowed = s->allowed,
                        .suppress_from = (int32_t)vocab,
                        .suppress_keep = -1,
                        .seed = p->seed,
                        .stage = SAMPLE_THINKER,
                        .sequence = turn,
                        .step = (uint32_t)count};
}
