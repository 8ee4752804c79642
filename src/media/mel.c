#include "media/mel.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two complex values side by side: what 128-bit vector units take, without any instruction set of their own. */
typedef double lanes __attribute__((vector_size(16)));

enum { LANES = 2, GROUP = 2 * LANES /* frames analysed at once: two in each complex lane */, MAX_STAGES = 16 };

struct mel {
    mel_config config;
    float *window; /* [n_fft] */
    int stages;
    int radix[MAX_STAGES];
    double *twiddle; /* [n_fft][2]: cos and -sin of 2 pi i / n_fft */
    /* Filter j weighs power bins [first[j], first[j] + width[j]) with weights[start[j] ..]. */
    int *first, *width, *start;
    double *weights;
};

/* ---- mel filters: transformers' audio_utils.mel_filter_bank with norm and mel_scale "slaney" ---- */

static double hertz_to_mel(double hertz) {
    return hertz >= 1000 ? 15 + log(hertz / 1000) * (27 / log(6.4)) : 3 * hertz / 200;
}

static double mel_to_hertz(double mels) {
    return mels >= 15 ? 1000 * exp(log(6.4) / 27 * (mels - 15)) : 200 * mels / 3;
}

static omni_status make_filters(mel *m, omni_error *err) {
    const int bins = m->config.bins, powers = m->config.n_fft / 2 + 1;
    const double highest = hertz_to_mel(8000), nyquist = m->config.rate / 2;
    m->first = calloc((size_t)bins * 3, sizeof(int));
    /* Each power bin lies in at most two triangles. */
    m->weights = calloc((size_t)powers * 2 + (size_t)bins, sizeof(double));
    if (!m->first || !m->weights) {
        return fail(err, OMNI_ERR_MEMORY, "mel filters: out of memory");
    }
    m->width = m->first + bins;
    m->start = m->width + bins;
    int used = 0;
    for (int j = 0; j < bins; j++) {
        const double low = mel_to_hertz(highest * j / (bins + 1)), peak = mel_to_hertz(highest * (j + 1) / (bins + 1)),
                     high = mel_to_hertz(highest * (j + 2) / (bins + 1));
        m->start[j] = used;
        for (int i = 0; i < powers; i++) {
            const double hertz = nyquist * i / (powers - 1);
            const double weight = fmin((hertz - low) / (peak - low), (high - hertz) / (high - peak));
            if (weight > 0 && used < 2 * powers + bins) {
                if (m->width[j] == 0) {
                    m->first[j] = i;
                }
                m->width[j]++;
                m->weights[used++] = (float)(weight * 2 / (high - low)); /* the reference multiplies by float32 filters */
            }
        }
    }
    return OMNI_OK;
}

/* ---- Fourier transform: Stockham's self-sorting form with mixed radices ---- */

static void plan_radices(mel *m) {
    static const int preferred[] = {4, 5, 3, 2};
    int rest = m->config.n_fft;
    for (size_t i = 0; i < sizeof preferred / sizeof *preferred; i++) {
        for (; rest % preferred[i] == 0; rest /= preferred[i]) {
            m->radix[m->stages++] = preferred[i];
        }
    }
    for (int p = 7; rest > 1; p += 2) {
        for (; rest % p == 0; rest /= p) {
            m->radix[m->stages++] = p;
        }
    }
}

/* One value of a lane-wise complex array, kept as separate real and imaginary parts. */
typedef struct complex_lanes {
    lanes re, im;
} complex_lanes;

/* y = x * (c, s) */
#define TURN(y, x, c, s)                                                                                                                             \
    do {                                                                                                                                             \
        (y).re = (x).re * (c) - (x).im * (s);                                                                                                        \
        (y).im = (x).re * (s) + (x).im * (c);                                                                                                        \
    } while (0)

/* b[r] = sum over j of a[j] exp(-2 pi i j r / p), for the radices without multiplications to spare and for any p. */
static inline void butterfly(const mel *m, int p, const complex_lanes *a, complex_lanes *b) {
    if (p == 2) {
        b[0] = (complex_lanes){a[0].re + a[1].re, a[0].im + a[1].im};
        b[1] = (complex_lanes){a[0].re - a[1].re, a[0].im - a[1].im};
    } else if (p == 4) {
        const lanes sr = a[0].re + a[2].re, si = a[0].im + a[2].im, dr = a[0].re - a[2].re, di = a[0].im - a[2].im;
        const lanes tr = a[1].re + a[3].re, ti = a[1].im + a[3].im, er = a[1].re - a[3].re, ei = a[1].im - a[3].im;
        b[0] = (complex_lanes){sr + tr, si + ti};
        b[1] = (complex_lanes){dr + ei, di - er};
        b[2] = (complex_lanes){sr - tr, si - ti};
        b[3] = (complex_lanes){dr - ei, di + er};
    } else if (p == 3) {
        const double s3 = 0.86602540378443864676;
        const lanes tr = a[1].re + a[2].re, ti = a[1].im + a[2].im;
        const lanes er = (a[1].re - a[2].re) * s3, ei = (a[1].im - a[2].im) * s3;
        const lanes mr = a[0].re - tr * 0.5, mi = a[0].im - ti * 0.5;
        b[0] = (complex_lanes){a[0].re + tr, a[0].im + ti};
        b[1] = (complex_lanes){mr + ei, mi - er};
        b[2] = (complex_lanes){mr - ei, mi + er};
    } else if (p == 5) {
        const double c1 = 0.30901699437494742410, c2 = -0.80901699437494742410, s1 = 0.95105651629515357212, s2 = 0.58778525229247312917;
        const lanes ar = a[1].re + a[4].re, ai = a[1].im + a[4].im, br = a[2].re + a[3].re, bi = a[2].im + a[3].im;
        const lanes cr = a[1].re - a[4].re, ci = a[1].im - a[4].im, dr = a[2].re - a[3].re, di = a[2].im - a[3].im;
        const lanes ur = a[0].re + ar * c1 + br * c2, ui = a[0].im + ai * c1 + bi * c2;
        const lanes vr = a[0].re + ar * c2 + br * c1, vi = a[0].im + ai * c2 + bi * c1;
        const lanes xr = cr * s1 + dr * s2, xi = ci * s1 + di * s2, yr = cr * s2 - dr * s1, yi = ci * s2 - di * s1;
        b[0] = (complex_lanes){a[0].re + ar + br, a[0].im + ai + bi};
        b[1] = (complex_lanes){ur + xi, ui - xr};
        b[2] = (complex_lanes){vr + yi, vi - yr};
        b[3] = (complex_lanes){vr - yi, vi + yr};
        b[4] = (complex_lanes){ur - xi, ui + xr};
    } else {
        const int step = m->config.n_fft / p;
        for (int r = 0; r < p; r++) {
            complex_lanes sum = a[0];
            for (int j = 1; j < p; j++) {
                const double *w = m->twiddle + 2 * ((int64_t)j * r % p * step);
                complex_lanes t;
                TURN(t, a[j], w[0], w[1]);
                sum.re += t.re;
                sum.im += t.im;
            }
            b[r] = sum;
        }
    }
}

static inline __attribute__((always_inline)) void stage(const mel *m, int p, int n, int stride, const complex_lanes *x, complex_lanes *y,
                                                        complex_lanes *a, complex_lanes *b) {
    const int part = n / p;
    for (int q = 0; q < part; q++) {
        for (int t = 0; t < stride; t++) {
            for (int j = 0; j < p; j++) {
                a[j] = x[t + stride * (q + part * j)];
            }
            butterfly(m, p, a, b);
            y[t + stride * p * q] = b[0];
            for (int r = 1; r < p; r++) {
                const double *w = m->twiddle + 2 * ((int64_t)q * r * stride); /* exp(-2 pi i q r / n): n * stride = n_fft */
                TURN(y[t + stride * (p * q + r)], b[r], w[0], w[1]);
            }
        }
    }
}

/* Transforms x[n_fft]; returns which of x and y holds the result. butterflies: 2 n_fft values. */
static complex_lanes *transform(const mel *m, complex_lanes *x, complex_lanes *y, complex_lanes *butterflies) {
    int n = m->config.n_fft, stride = 1;
    for (int i = 0; i < m->stages; i++) {
        const int p = m->radix[i];
        complex_lanes a[5], b[5];
        switch (p) { /* constants let the compiler unroll */
        case 2:
            stage(m, 2, n, stride, x, y, a, b);
            break;
        case 3:
            stage(m, 3, n, stride, x, y, a, b);
            break;
        case 4:
            stage(m, 4, n, stride, x, y, a, b);
            break;
        case 5:
            stage(m, 5, n, stride, x, y, a, b);
            break;
        default:
            stage(m, p, n, stride, x, y, butterflies, butterflies + p);
        }
        n /= p;
        stride *= p;
        complex_lanes *swap = x;
        x = y;
        y = swap;
    }
    return x;
}

/* ---- the analysis ---- */

omni_status mel_create(const mel_config *config, mel **out, omni_error *err) {
    *out = NULL;
    const mel_config c = *config;
    if (c.n_fft < 2 || c.n_fft > 8192 || c.bins < 1 || c.bins > 1024 || c.hop < 1 || c.hop > c.n_fft || c.rate < 2 || c.rate > 1000000) {
        return fail(err, OMNI_ERR_FORMAT,
                    "mel analysis: %d samples a second, windows of %d, steps of %d, %d bins: cannot be computed (2 to 1000000 a second, windows of 2 "
                    "to 8192, steps of at most a window, 1 to 1024 bins)",
                    c.rate, c.n_fft, c.hop, c.bins);
    }
    mel *m = calloc(1, sizeof *m);
    if (!m) {
        return fail(err, OMNI_ERR_MEMORY, "mel analysis: out of memory");
    }
    m->config = c;
    m->window = calloc((size_t)c.n_fft, sizeof(float));
    m->twiddle = calloc((size_t)c.n_fft * 2, sizeof(double));
    omni_status status = m->window && m->twiddle ? make_filters(m, err) : fail(err, OMNI_ERR_MEMORY, "mel analysis: out of memory");
    if (status != OMNI_OK) {
        mel_free(m);
        return status;
    }
    for (int i = 0; i < c.n_fft; i++) {
        const double angle = 2 * 3.14159265358979323846 * i / c.n_fft;
        m->window[i] = (float)(0.5 - 0.5 * cos(angle));
        m->twiddle[2 * i] = cos(angle);
        m->twiddle[2 * i + 1] = -sin(angle);
    }
    plan_radices(m);
    *out = m;
    return OMNI_OK;
}

void mel_free(mel *m) {
    if (m) {
        free(m->window);
        free(m->twiddle);
        free(m->first);
        free(m->weights);
        free(m);
    }
}

int64_t mel_shortest(const mel *m) {
    return m->config.n_fft / 2 + 1;
}

struct mel_analysis {
    const mel *m;
    mel_sound sound;
    int64_t length; /* of the longest of the call */
    mel_clip clip;
    int64_t next; /* frame to be analysed, and behind the last: stored and so many that have been scaled */
    float largest;
    complex_lanes *x, *y, *butterflies; /* n_fft, n_fft, 2 n_fft */
    double *power;                      /* [GROUP][n_fft / 2 + 1] */
};

/* Sample i of a sound padded with silence to length and then reflected at both ends. */
static inline double padded_sample(const mel_sound *s, int64_t length, int64_t i) {
    i = i < 0 ? -i : i;
    i = i >= length ? 2 * (length - 1) - i : i;
    return i < s->count ? s->samples[i] : 0;
}

/* Power spectra of frames [frame, frame + GROUP), or what there is of them. */
static void power_spectra(const mel_analysis *a, int64_t frame) {
    const mel *m = a->m;
    const mel_sound *s = &a->sound;
    const int64_t length = a->length, frames = a->clip.stored;
    const int n = m->config.n_fft, powers = n / 2 + 1;
    double *in = (double *)a->x; /* [n_fft][re, im][LANES] */
    for (int f = 0; f < GROUP; f++) {
        double *to = in + (f & 1) * LANES + f / 2;
        const int64_t begin = (frame + f) * m->config.hop - n / 2;
        if (frame + f >= frames) {
            for (int i = 0; i < n; i++) {
                to[2 * LANES * i] = 0;
            }
        } else if (begin >= 0 && begin + n <= s->count) {
            for (int i = 0; i < n; i++) {
                to[2 * LANES * i] = (double)s->samples[begin + i] * m->window[i];
            }
        } else {
            for (int i = 0; i < n; i++) {
                to[2 * LANES * i] = padded_sample(s, length, begin + i) * m->window[i];
            }
        }
    }
    const complex_lanes *z = transform(m, a->x, a->y, a->butterflies);
    /* Two real signals a, b went in as a + ib: A[k] = (Z[k] + conj Z[n - k]) / 2, B[k] = (Z[k] - conj Z[n - k]) / 2i. */
    for (int k = 0; k < powers; k++) {
        const complex_lanes p = z[k], q = z[k == 0 ? 0 : n - k];
        const lanes ar = p.re + q.re, ai = p.im - q.im, br = p.im + q.im, bi = q.re - p.re;
        const lanes first = (ar * ar + ai * ai) * 0.25, second = (br * br + bi * bi) * 0.25;
        for (int l = 0; l < LANES; l++) {
            a->power[(2 * l) * powers + k] = first[l];
            a->power[(2 * l + 1) * powers + k] = second[l];
        }
    }
}

/* log10 of at least 1e-10, of the mel powers of frames [frame, end). */
static void log_mel(mel_analysis *a, int64_t frame, int64_t end) {
    const mel *m = a->m;
    const int bins = m->config.bins, powers = m->config.n_fft / 2 + 1;
    for (; frame < end; frame += GROUP) {
        power_spectra(a, frame);
        for (int f = 0; f < GROUP && frame + f < end; f++) {
            const double *power = a->power + f * powers;
            float *to = a->clip.values + (frame + f) * bins;
            for (int j = 0; j < bins; j++) {
                const double *weights = m->weights + m->start[j], *from = power + m->first[j];
                double sum = 0;
                for (int i = 0; i < m->width[j]; i++) {
                    sum += weights[i] * from[i];
                }
                to[j] = logf(sum > 1e-10 ? (float)sum : 1e-10f) * 0.434294481903251827651f;
                a->largest = to[j] > a->largest ? to[j] : a->largest;
            }
        }
    }
}

static float scaled(float value, float floor) {
    return ((value > floor ? value : floor) + 4.0f) / 4.0f;
}

int64_t mel_frames(const mel *m, int64_t count, int64_t longest) {
    const int64_t whole = (count + m->config.hop - 1) / m->config.hop, most = (longest > count ? longest : count) / m->config.hop;
    return whole < most ? whole : most;
}

int64_t mel_longest(const mel *m, int64_t count) {
    return count + m->config.n_fft + m->config.hop;
}

void mel_abandon(mel_analysis *a) {
    if (a) {
        mel_clips_free(&a->clip, 1);
        free(a->power);
        free(a->x);
        free(a);
    }
}

/* longest: at least the sound's own samples. */
static omni_status begin(const mel *m, const mel_sound *s, int64_t longest, const char *which, mel_analysis **out, omni_error *err) {
    const int n_fft = m->config.n_fft, hop = m->config.hop;
    const int64_t frames = longest / hop;
    if (s->count < 1 || longest < mel_shortest(m) || frames < 1) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s has %lld samples: too short, at least %lld are needed", which, (long long)s->count,
                    (long long)(mel_shortest(m) > hop ? mel_shortest(m) : hop));
    }
    if (s->count > INT64_MAX / 4096) {
        return fail(err, OMNI_ERR_LIMIT, "%s has %lld samples: too long", which, (long long)s->count);
    }
    mel_analysis *a = calloc(1, sizeof *a);
    if (!a) {
        return fail(err, OMNI_ERR_MEMORY, "mel analysis: out of memory");
    }
    const int64_t reached = (s->count + n_fft / 2) / hop + 1;
    *a = (mel_analysis){.m = m, .sound = *s, .length = longest, .largest = -10};
    a->clip.frames = mel_frames(m, s->count, longest);
    a->clip.stored = reached < frames ? reached : frames;
    a->clip.values = calloc((size_t)a->clip.stored, (size_t)m->config.bins * sizeof(float));
    a->power = calloc((size_t)GROUP * (size_t)(n_fft / 2 + 1), sizeof(double));
    a->x = aligned_alloc(64, (size_t)n_fft * 4 * sizeof(complex_lanes) / 64 * 64 + 64);
    if (!a->clip.values || !a->power || !a->x) {
        omni_status status = fail(err, OMNI_ERR_MEMORY, "mel analysis of %s: out of memory for %lld frames", which, (long long)a->clip.stored);
        mel_abandon(a);
        return status;
    }
    a->y = a->x + n_fft;
    a->butterflies = a->y + n_fft;
    *out = a;
    return OMNI_OK;
}

omni_status mel_begin(const mel *m, const mel_sound *s, int64_t longest, mel_analysis **out, omni_error *err) {
    *out = NULL;
    return begin(m, s, longest > s->count ? longest : s->count, "the sound", out, err);
}

bool mel_step(mel_analysis *a, int64_t frames) {
    const int64_t stored = a->clip.stored, from = a->next < stored ? a->next : a->next - stored, left = stored - from;
    const int64_t n = frames < left ? (frames + GROUP - 1) / GROUP * GROUP : left, end = from + (n < left ? n : left);
    if (a->next < stored) {
        log_mel(a, from, end);
    } else {
        const int bins = a->m->config.bins;
        for (int64_t k = from * bins; k < end * bins; k++) {
            a->clip.values[k] = scaled(a->clip.values[k], a->largest - 8.0f);
        }
    }
    a->next += end - from;
    return a->next < 2 * stored;
}

mel_clip mel_end(mel_analysis *a) {
    mel_clip clip = a->clip;
    clip.rest = scaled(-10.0f, a->largest - 8.0f);
    a->clip = (mel_clip){0};
    mel_abandon(a);
    return clip;
}

omni_status mel_run(const mel *m, const mel_sound *sounds, int n, int64_t longest, mel_clip *clips, int64_t *frames, omni_error *err) {
    int64_t length = longest;
    for (int i = 0; i < n; i++) {
        clips[i] = (mel_clip){0};
        length = sounds[i].count > length ? sounds[i].count : length;
    }
    *frames = length / m->config.hop;
    for (int i = 0; i < n; i++) {
        char which[48];
        mel_analysis *a = NULL;
        snprintf(which, sizeof which, "sound %d of %d", i + 1, n);
        omni_status status = begin(m, &sounds[i], length, which, &a, err);
        if (status != OMNI_OK) {
            mel_clips_free(clips, i);
            return status;
        }
        while (mel_step(a, a->clip.stored)) {
        }
        clips[i] = mel_end(a);
    }
    return OMNI_OK;
}

void mel_clips_free(mel_clip *clips, int n) {
    for (int i = 0; i < n; i++) {
        free(clips[i].values);
        clips[i] = (mel_clip){0};
    }
}

void mel_features(const mel *m, const mel_clip *clips, int n, int64_t frames, float *features, int64_t *mask) {
    const int bins = m->config.bins;
    for (int i = 0; i < n; i++) {
        for (int64_t f = 0; f < frames; f++) {
            if (mask) {
                mask[i * frames + f] = f < clips[i].frames;
            }
            for (int j = 0; features && j < bins; j++) {
                features[((int64_t)i * bins + j) * frames + f] = f < clips[i].stored ? clips[i].values[f * bins + j] : clips[i].rest;
            }
        }
    }
}
