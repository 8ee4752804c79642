/* Choosing tokens: against transformers' own processors (sampling.vectors), the random numbers against the Philox reference, the
 * distribution of draws, and input that no model should produce. */
#include <stdbool.h>

#include "tensor/sample_token.h"
#include "vectors.h"

static int failures;

#define CHECK(condition)                                                                                                                             \
    do {                                                                                                                                             \
        if (!(condition)) {                                                                                                                          \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                                                  \
            failures++;                                                                                                                              \
        }                                                                                                                                            \
    } while (0)

enum { VOCAB = 300 };

static sample_row plain(void) {
    return (sample_row){.temperature = 1, .top_p = 1, .repeat_penalty = 1, .suppress_from = INT32_MAX, .suppress_keep = -1};
}

static void against_reference(void) {
    vectors v = vectors_open(TEST_DATA "/sampling.vectors");
    int cases = *(int32_t *)vectors_get(&v, "cases", NULL);
    CHECK(cases >= 10);
    for (int i = 0; i < cases; i++) {
        char name[40];
        int64_t n;
        snprintf(name, sizeof name, "%d.numbers", i);
        const float *numbers = vectors_get(&v, name, NULL);
        snprintf(name, sizeof name, "%d.integers", i);
        const int32_t *integers = vectors_get(&v, name, NULL);
        snprintf(name, sizeof name, "%d.seen", i);
        const int32_t *tokens = vectors_get(&v, name, &n);
        snprintf(name, sizeof name, "%d.logits", i);
        float *logits = vectors_get(&v, name, NULL);
        snprintf(name, sizeof name, "%d.probabilities", i);
        const float *want = vectors_get(&v, name, NULL);
        uint16_t history[VOCAB] = {0};
        for (int64_t t = 0; t < n; t++) {
            history[tokens[t]] = SAMPLE_BEFORE;
        }
        sample_row s = {.temperature = numbers[0], .top_p = numbers[1], .min_p = numbers[2], .repeat_penalty = numbers[3], .history = history};
        s.top_k = integers[0];
        s.suppress_from = integers[1];
        s.suppress_keep = integers[2];
        float copy[VOCAB];
        memcpy(copy, logits, sizeof copy);
        int64_t largest = sample_weights(copy, VOCAB, &s);
        double sum = 0;
        for (int t = 0; t < VOCAB; t++) {
            sum += copy[t];
        }
        for (int t = 0; t < VOCAB; t++) {
            if ((want[t] > 0) != (copy[t] > 0) || fabs(copy[t] / sum - want[t]) > 2e-6) {
                fprintf(stderr, "case %d, token %d: %g, the reference has %g\n", i, t, copy[t] / sum, want[t]);
                failures++;
            }
            CHECK(want[t] <= want[largest]);
        }
        /* Greedy takes the same token whatever is filtered. */
        s.greedy = true;
        CHECK(sample_token(logits, VOCAB, &s) == largest);
    }
    vectors_close(&v);
}

static void random_numbers(void) {
    /* Known answers of Philox 4x32-10 (Random123): counter and key all zeros, all ones. */
    CHECK(random_uniform(0, 0, 0) == (float)(0x6627e8d5u >> 8) * 0x1p-24f);
    CHECK(random_uniform(UINT64_MAX, UINT64_MAX, UINT64_MAX) == (float)(0x408f276du >> 8) * 0x1p-24f);
    /* Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0. */
    CHECK(random_uniform(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) == (float)(0xd16cfe09u >> 8) * 0x1p-24f);
    double sum = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        float u = random_uniform(3, 4, i);
        CHECK(u >= 0 && u < 1);
        sum += u;
    }
    CHECK(fabs(sum / 100000 - 0.5) < 0.005);
}

static void distribution(void) {
    /* Chi-square of 20,000 draws over 8 outcomes; 7 degrees of freedom give more than 24.3 once in 1,000 times, and the numbers are fixed. */
    enum { N = 8, DRAWS = 20000 };
    const float logits[N] = {0, 1, -1, 0.5f, 2, -2, 1.5f, 0.1f};
    double total = 0, chi = 0;
    int count[N] = {0};
    for (int i = 0; i < N; i++) {
        total += exp(logits[i] / 0.8);
    }
    for (int d = 0; d < DRAWS; d++) {
        float copy[N];
        memcpy(copy, logits, sizeof copy);
        sample_row s = plain();
        s.temperature = 0.8f;
        s.seed = 11;
        s.step = (uint64_t)d;
        count[sample_token(copy, N, &s)]++;
    }
    for (int i = 0; i < N; i++) {
        double expected = DRAWS * exp(logits[i] / 0.8) / total;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
    }
    CHECK(chi < 24.3);
    CHECK(chi > 0.5); /* and not better than chance */
}

static void repeatable(void) {
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        float a[VOCAB], b[VOCAB], c[VOCAB];
        for (int t = 0; t < VOCAB; t++) {
            a[t] = b[t] = c[t] = random_uniform(9, (uint64_t)i, (uint64_t)t) * 4;
        }
        sample_row s = plain();
        s.seed = 5;
        s.step = (uint64_t)i;
        int32_t first = sample_token(a, VOCAB, &s);
        CHECK(first == sample_token(b, VOCAB, &s));
        s.seed = 6;
        differ += sample_token(c, VOCAB, &s) != first;
    }
    CHECK(differ > 150);
}

/* A large vocabulary with top-k takes a short cut to the few entries that matter: the draw must be the one over all weights. */
static void short_cut(void) {
    enum { LARGE = 5003 };
    float *logits = malloc(LARGE * sizeof *logits), *copy = malloc(LARGE * sizeof *copy);
    for (int i = 0; i < 300; i++) {
        for (int t = 0; t < LARGE; t++) {
            logits[t] = 8 * random_uniform(21, (uint64_t)i, (uint64_t)t);
            logits[t] = i % 3 == 0 ? floorf(2 * logits[t]) : logits[t]; /* many ties */
        }
        sample_row s = plain();
        s.top_k = 1 + i % 90; /* 79 blocks: sometimes more than there are */
        s.top_p = i % 2 ? 0.9f : 1;
        s.min_p = i % 5 ? 0 : 0.1f;
        s.step = (uint64_t)i;
        memcpy(copy, logits, LARGE * sizeof *copy);
        sample_weights(copy, LARGE, &s);
        double total = 0, sum = 0;
        for (int t = 0; t < LARGE; t++) {
            total += copy[t];
        }
        int want = 0;
        for (; want < LARGE; want++) {
            sum += copy[want];
            if (sum > random_uniform(0, 0, (uint64_t)i) * total) {
                break;
            }
        }
        CHECK(sample_token(logits, LARGE, &s) == want);
    }
    free(logits);
    free(copy);
}

static void marks(void) {
    float logits[4] = {1, 5, 3, 4.9f};
    uint16_t history[4] = {0};
    sample_row s = plain();
    s.greedy = true;
    s.history = history;
    s.repeat_penalty = 1.5f;
    float copy[4];
    const int32_t want[] = {1, 3, 1}; /* 5 and 4.9 fall to 3.33 and 3.27, and stay above 3 */
    for (int i = 0; i < 3; i++) {
        memcpy(copy, logits, sizeof copy);
        CHECK(sample_token(copy, 4, &s) == want[i]);
    }
    CHECK(history[0] == 0 && history[1] == 2 && history[2] == 0 && history[3] == 1);
    float negative[2] = {-1, -1.2f}; /* -1 becomes -1.5 */
    uint16_t first[2] = {SAMPLE_BEFORE, 0};
    s.history = first;
    CHECK(sample_token(negative, 2, &s) == 1);
    float tied[3] = {1, 2, 2};
    s.history = NULL;
    CHECK(sample_token(tied, 3, &s) == 1);
}

/* Bias, mask and penalties of all kinds at once, with the rules of OpenAI and llama.cpp written down again in double precision. */
typedef struct changes {
    sample_row row;
    uint16_t history[VOCAB];
    sample_bias bias[40];
    uint32_t allowed[(VOCAB + 31) / 32];
} changes;

static void make_changes(changes *c, uint64_t number) {
    *c = (changes){.row = plain()};
    sample_row *s = &c->row;
    s->seed = number;
    if (number & 1) {
        s->history = c->history;
        s->repeat_penalty = number & 2 ? 1.3f : 1;
        s->frequency_penalty = number & 4 ? 0.25f : number & 8 ? -0.125f : 0;
        s->presence_penalty = number & 16 ? 0.75f : 0;
        for (int t = 0; t < VOCAB; t++) {
            const int kind = (int)(8 * random_uniform(31, number, (uint64_t)t));
            c->history[t] = (uint16_t)(kind < 4 ? 0 : kind < 6 ? SAMPLE_BEFORE : kind == 6 ? 1 + t % 5 : SAMPLE_BEFORE + t % 7);
        }
    }
    if (number & 32) {
        s->bias = c->bias;
        s->bias_count = 40;
        for (int i = 0; i < 40; i++) {
            c->bias[i] = (sample_bias){(i * 7 + (int)number) % VOCAB, i % 5 == 0 ? -INFINITY : 4 * random_uniform(32, number, (uint64_t)i) - 2};
        }
    }
    if (number & 64) {
        s->allowed = c->allowed;
        for (int w = 0; w < (VOCAB + 31) / 32; w++) {
            c->allowed[w] = w % 3 == 0 ? UINT32_MAX : (uint32_t)(random_uniform(33, number, (uint64_t)w) * 0x1p32);
        }
    }
}

static double changed(const changes *c, int t, double logit) {
    const sample_row *s = &c->row;
    for (int i = 0; i < s->bias_count; i++) {
        logit += s->bias[i].id == t ? (double)s->bias[i].bias : 0;
    }
    if (s->allowed && !(s->allowed[t / 32] & 1u << t % 32)) {
        logit = -INFINITY;
    }
    if (s->history && s->history[t] > 0) {
        const int count = s->history[t] % 32768;
        logit = logit > 0 ? logit / (double)s->repeat_penalty : logit * (double)s->repeat_penalty;
        logit -= count * (double)s->frequency_penalty;
        logit -= count > 0 ? (double)s->presence_penalty : 0;
    }
    return logit;
}

static void logits_are_changed(void) {
    for (uint64_t number = 0; number < 256; number++) {
        static changes c;
        make_changes(&c, number);
        float logits[VOCAB], copy[VOCAB];
        double want[VOCAB], most = -INFINITY;
        int best = 0;
        for (int t = 0; t < VOCAB; t++) {
            logits[t] = copy[t] = 6 * random_uniform(34, number, (uint64_t)t) - 3;
            want[t] = changed(&c, t, (double)logits[t]);
            best = want[t] > most ? t : best;
            most = want[best];
        }
        CHECK(sample_weights(copy, VOCAB, &c.row) == best);
        for (int t = 0; t < VOCAB; t++) {
            CHECK(fabs(copy[t] - exp(want[t] - most)) < 3e-6);
            CHECK((copy[t] > 0) == (want[t] > -INFINITY));
        }
        uint16_t before[VOCAB];
        memcpy(before, c.history, sizeof before);
        memcpy(copy, logits, sizeof copy);
        const int32_t drawn = sample_token(copy, VOCAB, &c.row);
        CHECK(drawn >= 0 && drawn < VOCAB && want[drawn] > -INFINITY);
        for (int t = 0; t < VOCAB; t++) { /* what was chosen is counted, nothing else */
            CHECK(c.history[t] == before[t] + (c.row.history && t == drawn));
        }
        make_changes(&c, number);
        memcpy(copy, logits, sizeof copy);
        CHECK(sample_token(copy, VOCAB, &c.row) == drawn);
        make_changes(&c, number);
        c.row.greedy = true;
        memcpy(copy, logits, sizeof copy);
        CHECK(sample_token(copy, VOCAB, &c.row) == best);
    }
}

/* Chi-square of 20,000 draws a case; the logits are made so flat that all outcomes that are allowed are frequent. */
static void changed_distribution(void) {
    enum { DRAWS = 20000, N = 16 };
    for (uint64_t number = 33; number < 128; number += 31) { /* 33, 64, 95, 126 */
        static changes c;
        make_changes(&c, number);
        float logits[N];
        double weight[N], total = 0, chi = 0;
        int count[N] = {0}, outcomes = 0;
        c.row.temperature = 1.25f;
        for (int t = 0; t < N; t++) {
            logits[t] = 2 * random_uniform(35, number, (uint64_t)t) - 1;
            weight[t] = exp(changed(&c, t, (double)logits[t]) / 1.25);
            total += weight[t];
            outcomes += weight[t] > 0;
        }
        for (int d = 0; d < DRAWS; d++) {
            float copy[N];
            uint16_t history[N];
            sample_row s = c.row;
            memcpy(copy, logits, sizeof copy);
            memcpy(history, c.history, sizeof history);
            s.history = s.history ? history : NULL;
            s.step = (uint32_t)d;
            count[sample_token(copy, N, &s)]++;
        }
        for (int t = 0; t < N; t++) {
            const double expected = DRAWS * weight[t] / total;
            if (expected > 0) {
                chi += (count[t] - expected) * (count[t] - expected) / expected;
            }
            CHECK(expected > 0 || count[t] == 0);
        }
        const double freedom = outcomes - 1;
        CHECK(outcomes > 5 && chi < freedom + 4 * sqrt(2 * freedom) && chi > freedom / 10);
    }
}

/* Against log-softmax in double precision of the logits as they were before anything changed them. */
static void log_probabilities(void) {
    for (uint64_t number = 0; number < 256; number++) {
        static changes c;
        const int n = number % 7 == 0 ? 5 : VOCAB, top = (int)(number % 21) < n ? (int)(number % 21) : n;
        float logits[VOCAB], copy[VOCAB], raw[VOCAB];
        double sum = 0;
        for (int t = 0; t < n; t++) {
            logits[t] = 40 * random_uniform(36, number, (uint64_t)t) - 20;
            logits[t] = number % 3 == 0 ? floorf(logits[t] / 4) : logits[t]; /* many ties */
            sum += exp((double)logits[t]);
        }
        make_changes(&c, number | 1);
        memcpy(copy, logits, sizeof copy);
        const int32_t plainly = sample_token(copy, n, &c.row);
        make_changes(&c, number | 1);
        sample_logprobs p;
        memset(&p, 0x55, sizeof p);
        const sample_logprobs untouched = p;
        c.row.logprobs = &p;
        c.row.top_logprobs = top;
        c.row.raw = raw;
        memcpy(copy, logits, sizeof copy);
        const int32_t id = sample_token(copy, n, &c.row);
        CHECK(id == plainly);
        if (id < 0) {
            continue;
        }
        CHECK(fabs((double)p.chosen - ((double)logits[id] - log(sum))) < 5e-6);
        bool taken[VOCAB] = {false};
        for (int k = 0; k < top; k++) {
            int best = -1;
            for (int t = 0; t < n; t++) {
                best = !taken[t] && (best < 0 || logits[t] > logits[best]) ? t : best;
            }
            taken[best] = true;
            CHECK(p.ids[k] == best && fabs((double)p.top[k] - ((double)logits[best] - log(sum))) < 5e-6);
        }
        CHECK(memcmp(p.ids + top, untouched.ids + top, (size_t)(SAMPLE_TOP - top) * sizeof *p.ids) == 0);
    }
    float flat[VOCAB] = {0}, raw[VOCAB], extreme[3] = {3e38f, -3e38f, 3e38f};
    sample_logprobs p;
    sample_row s = plain();
    s.logprobs = &p;
    s.raw = raw;
    s.top_logprobs = 3;
    sample_token(flat, VOCAB, &s);
    CHECK(fabs((double)p.chosen + log(VOCAB)) < 1e-6 && p.ids[0] == 0 && p.ids[1] == 1 && p.ids[2] == 2);
    sample_token(extreme, 3, &s);
    CHECK(fabs((double)p.top[0] + log(2)) < 1e-6 && p.ids[1] == 2 && p.top[2] < -1e38f);
}

static void bounds(void) {
    uint16_t history[2] = {SAMPLE_BEFORE | SAMPLE_COUNT, SAMPLE_COUNT - 1};
    sample_row s = plain();
    s.greedy = true;
    s.history = history;
    float first[2] = {3, 1}, second[2] = {1, 3}, third[2] = {1, 3};
    CHECK(sample_token(first, 2, &s) == 0 && sample_token(second, 2, &s) == 1 && sample_token(third, 2, &s) == 1);
    CHECK(history[0] == 0xffff && history[1] == SAMPLE_COUNT); /* no count runs into the mark, or over */
    /* Nothing is left by the mask, by the bias, by both together; the unused bits of the mask's last word count for nothing. */
    const uint32_t none[2] = {0, ~1u}, all_but_first[2] = {~1u, 1};
    const sample_bias ban[] = {{0, -INFINITY}, {32, -INFINITY}}, odd[] = {{-1, 9}, {33, 9}, {INT32_MIN, 9}, {INT32_MAX, 9}};
    float x[33] = {0};
    s = plain();
    s.allowed = none;
    CHECK(sample_token(memset(x, 0, sizeof x), 33, &s) == SAMPLE_NONE);
    s.greedy = true;
    CHECK(sample_token(memset(x, 0, sizeof x), 33, &s) == SAMPLE_NONE);
    s.allowed = all_but_first;
    s.bias = ban;
    s.bias_count = 2;
    CHECK(sample_token(memset(x, 0, sizeof x), 33, &s) == 1);
    s.allowed = (const uint32_t[]){1, 1};
    CHECK(sample_token(memset(x, 0, sizeof x), 33, &s) == SAMPLE_NONE);
    s.bias = odd; /* outside: passed over */
    s.bias_count = 4;
    s.allowed = NULL;
    float behind[34] = {0};
    CHECK(sample_token(behind, 33, &s) == 0 && behind[33] == 0);
}

static int32_t choose(const float *logits, int64_t n, sample_row s) {
    float copy[VOCAB];
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        finite &= isfinite(logits[i]) != 0;
    }
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    int32_t id = sample_token(copy, n, &s);
    CHECK(finite ? (id >= 0 && id < n) || (s.suppress_from <= 0 && id == SAMPLE_NONE) : id == SAMPLE_DAMAGED);
    return id;
}

static void extremes(void) {
    const float nan = NAN, inf = INFINITY;
    const float rows[][5] = {
        {nan, nan, nan, nan, nan}, {-inf, -inf, -inf, -inf, -inf},
        {inf, 1, 2, inf, 0},       {0, 3, 1, 2, -inf},
        {3e38f, -3e38f, 0, 1, 2},  {0, 0, 0, 0, 0},
        {-0.0f, 0, -0.0f, 0},      {1e-45f, -1e-45f, 0, 1e-38f, 2e-38f},
    };
    const float temperatures[] = {1, 1e-30f, 1e30f, 0, -1, inf, nan}, shares[] = {1, 0, -1, 2, 0.5f, nan, inf, 1e-30f};
    const int32_t tops[] = {0, 1, 3, 5, 1000, INT32_MAX, -4};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        for (size_t t = 0; t < 7; t++) {
            for (size_t p = 0; p < 8; p++) {
                for (size_t k = 0; k < 7; k++) {
                    sample_row s = plain();
                    s.temperature = temperatures[t];
                    s.top_p = shares[p];
                    s.min_p = shares[(p + 3) % 8];
                    s.top_k = tops[k];
                    s.seed = r * 7 + t;
                    choose(rows[r], 5, s);
                    uint16_t history[5] = {1, SAMPLE_BEFORE, 0, 0xffff, 3};
                    s.history = history;
                    s.repeat_penalty = shares[p];
                    s.frequency_penalty = temperatures[t];
                    s.presence_penalty = temperatures[k];
                    choose(rows[r], 5, s);
                    s.suppress_from = (int32_t)k - 1;
                    s.suppress_keep = tops[t % 7];
                    choose(rows[r], 5, s);
                }
            }
        }
    }
    sample_row s = plain();
    s.suppress_from = 0;
    CHECK(choose(rows[5], 5, s) == SAMPLE_NONE);
    s.suppress_keep = 3;
    CHECK(choose(rows[5], 5, s) == 3);
    CHECK(choose(rows[0], 5, s) == -1);
    float one = -inf;
    CHECK(choose(&one, 1, plain()) == -1);
    /* top-k 1 and a tiny top-p are greedy, at any temperature. */
    for (int i = 0; i < 50; i++) {
        float logits[VOCAB];
        int32_t best = 0;
        for (int t = 0; t < VOCAB; t++) {
            logits[t] = random_uniform(1, (uint64_t)i, (uint64_t)t);
            best = logits[t] > logits[best] ? t : best;
        }
        s = plain();
        s.temperature = 5;
        s.step = (uint64_t)i;
        s.top_k = 1;
        CHECK(choose(logits, VOCAB, s) == best);
        s.top_k = 0;
        s.top_p = 1e-9f;
        CHECK(choose(logits, VOCAB, s) == best);
        s.top_p = 1;
        s.min_p = 1;
        CHECK(choose(logits, VOCAB, s) == best);
    }
}

/* Every stage, turn and code has a stream of its own. Of each two streams the pairs of numbers with the same step, and with the next step, fill a
 * 16 x 16 table evenly: chi-square with 255 degrees of freedom, whose standard deviation is 22.6 (bound: 255 + 6 of them). The same stream twice,
 * or one a step behind the other, gives 15 times the count of pairs. */
static void streams_are_independent(void) {
    enum { STREAMS = 12, STEPS = 4096, SIDE = 16 };
    static float u[STREAMS][STEPS + 1];
    static const sample_row at[STREAMS] = {
        {.stage = SAMPLE_THINKER, .sequence = 1},
        {.stage = SAMPLE_THINKER, .sequence = 3},
        {.stage = SAMPLE_TALKER, .sequence = 1},
        {.stage = SAMPLE_TALKER, .sequence = 3},
        {.stage = SAMPLE_PREDICTOR, .sequence = 1, .code = 1},
        {.stage = SAMPLE_PREDICTOR, .sequence = 1, .code = 2},
        {.stage = SAMPLE_PREDICTOR, .sequence = 1, .code = 15},
        {.stage = SAMPLE_PREDICTOR, .sequence = 3, .code = 1},
        {.stage = SAMPLE_THINKER, .sequence = 1, .seed = 1},
        {.stage = SAMPLE_TALKER, .sequence = 0, .seed = 1},
        {.stage = SAMPLE_TALKER, .sequence = 0},
        {.stage = SAMPLE_THINKER, .sequence = 1ull << 32},
    };
    for (int i = 0; i < STREAMS; i++) {
        for (uint32_t k = 0; k <= STEPS; k++) {
            sample_row row = at[i];
            row.step = k;
            u[i][k] = sample_uniform(&row);
            CHECK(u[i][k] >= 0 && u[i][k] < 1 && u[i][k] == sample_uniform(&row));
        }
    }
    for (int i = 0; i < STREAMS; i++) {
        for (int j = 0; j < STREAMS; j++) {
            for (int lag = i == j; lag < 2; lag++) {
                int table[SIDE][SIDE] = {0};
                double chi = 0;
                const double expected = STEPS / (double)(SIDE * SIDE);
                for (int k = 0; k < STEPS; k++) {
                    table[(int)(u[i][k] * SIDE)][(int)(u[j][k + lag] * SIDE)]++;
                }
                for (int a = 0; a < SIDE; a++) {
                    for (int b = 0; b < SIDE; b++) {
                        chi += (table[a][b] - expected) * (table[a][b] - expected) / expected;
                    }
                }
                CHECK(chi < 255 + 6 * 22.6);
            }
        }
    }
}

int main(void) {
    against_reference();
    random_numbers();
    streams_are_independent();
    distribution();
    repeatable();
    short_cut();
    marks();
    logits_are_changed();
    changed_distribution();
    log_probabilities();
    bounds();
    extremes();
    printf("%d failures\n", failures);
    return failures != 0;
}
