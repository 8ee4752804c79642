/* divergence EXACT.gguf FILE.gguf... [--sequences N] [--length N] [--seed N]
 * How far the next-token distributions of thinkers are from those of the first file, over random tokens: for each file one line with
 * mean and largest KL divergence (nats), the share of equal first choices and the root mean square error of the logits over that of the exact ones.
 */
#include "logits.h"

static omni_error err;

static void need(omni_status status) {
    if (status != OMNI_OK) {
        fprintf(stderr, "divergence: %s\n", err.text);
        exit(1);
    }
}

int main(int argc, char **argv) {
    int64_t sequences = 64, length = 64, seed = 1;
    const char **files = calloc((size_t)argc, sizeof *files);
    int count = 0;
    for (int i = 1; i < argc; i++) {
        int64_t *number = strcmp(argv[i], "--sequences") == 0 ? &sequences
                          : strcmp(argv[i], "--length") == 0  ? &length
                          : strcmp(argv[i], "--seed") == 0    ? &seed
                                                              : NULL;
        if (number && i + 1 < argc) {
            *number = atoll(argv[++i]);
        } else {
            files[count++] = argv[i];
        }
    }
    if (count < 2 || sequences < 1 || length < 1) {
        fprintf(stderr, "usage: divergence EXACT.gguf FILE.gguf... [--sequences N] [--length N] [--seed N]\n");
        return 2;
    }
    float **exact = calloc((size_t)sequences, sizeof *exact);
    int32_t *ids = calloc((size_t)length, sizeof *ids);
    int64_t vocab = 0;
    for (int f = 0; f < count; f++) {
        reader r;
        distance d = {0};
        need(reader_open(&r, files[f], false, length, &err));
        if (f > 0 && r.vocab != vocab) {
            fprintf(stderr, "divergence: %s has another vocabulary than %s\n", files[f], files[0]);
            return 1;
        }
        vocab = r.vocab;
        for (int64_t s = 0; s < sequences; s++) {
            float *got = NULL;
            random_ids(ids, length, vocab, (uint64_t)(seed * sequences + s));
            need(reader_read(&r, ids, length, f == 0 ? &exact[s] : &got, &err));
            if (f > 0) {
                distance_add(&d, exact[s], got, length, vocab);
            }
            free(got);
        }
        if (f > 0) {
            printf("%s kl %.8f largest %.6f same %.5f error %.6f\n", files[f], d.kl / (double)d.rows, d.largest_kl,
                   (double)d.same_choice / (double)d.rows, distance_error(&d));
        }
        reader_close(&r);
    }
    for (int64_t s = 0; s < sequences; s++) {
        free(exact[s]);
    }
    free(exact), free(ids), free(files);
    return 0;
}
