/* Choosing tokens: against transformers' own processors (sampling.vectors), the random numbers against the Philox reference, the
 * distribution of draws, and input that no model should produce. */
#include <stdbool.h>

#include "tensor/choose.h"
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
        uint8_t seen[VOCAB] = {0};
        for (int64_t t = 0; t < n; t++) {
            seen[tokens[t]] = 1;
        }
        sample_row s = {.temperature = numbers[0], .top_p = numbers[1], .min_p = numbers[2], .repeat_penalty = numbers[3], .seen = seen};
        s.top_k = integers[0];
        s.suppress_from = integers[1];
        s.suppress_keep = integers[2];
        float copy[VOCAB];
        memcpy(copy, logits, sizeof copy);
        int64_t largest = choose_weights(copy, VOCAB, &s);
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
        CHECK(choose_token(logits, VOCAB, &s) == largest);
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
        count[choose_token(copy, N, &s)]++;
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
        int32_t first = choose_token(a, VOCAB, &s);
        CHECK(first == choose_token(b, VOCAB, &s));
        s.seed = 6;
        differ += choose_token(c, VOCAB, &s) != first;
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
        choose_weights(copy, LARGE, &s);
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
        CHECK(choose_token(logits, LARGE, &s) == want);
    }
    free(logits);
    free(copy);
}

static void marks(void) {
    float logits[4] = {1, 5, 3, 4.9f};
    uint8_t seen[4] = {0};
    sample_row s = plain();
    s.greedy = true;
    s.seen = seen;
    s.repeat_penalty = 1.5f;
    float copy[4];
    const int32_t want[] = {1, 3, 1}; /* 5 and 4.9 fall to 3.33 and 3.27, and stay above 3 */
    for (int i = 0; i < 3; i++) {
        memcpy(copy, logits, sizeof copy);
        CHECK(choose_token(copy, 4, &s) == want[i]);
    }
    CHECK(seen[0] == 0 && seen[1] == 1 && seen[2] == 0 && seen[3] == 1);
    float negative[2] = {-1, -1.2f}; /* -1 becomes -1.5 */
    uint8_t first[2] = {1, 0};
    s.seen = first;
    CHECK(choose_token(negative, 2, &s) == 1);
    float tied[3] = {1, 2, 2};
    s.seen = NULL;
    CHECK(choose_token(tied, 3, &s) == 1);
}

static int32_t choose(const float *logits, int64_t n, sample_row s) {
    float copy[VOCAB];
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        finite &= isfinite(logits[i]) != 0;
    }
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    int32_t id = choose_token(copy, n, &s);
    CHECK(finite ? id >= 0 && id < n : id == -1);
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
                    uint8_t seen[5] = {1, 1, 0, 1, 1};
                    s.seen = seen;
                    s.repeat_penalty = shares[p];
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
    CHECK(choose(rows[5], 5, s) == 0);
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
    extremes();
    printf("%d failures\n", failures);
    return failures != 0;
}
