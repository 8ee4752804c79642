/* decode_codes TALKER.gguf CODES OUT: frames of codes (raw int32, one group after the other, frame by frame) to samples (raw float32), by the
 * file's code2wav as omni decodes them. training/quality.py compares the sound of the same codes by files of several types. */
#include <stdio.h>
#include <stdlib.h>

#include "cpu/cpu.h"
#include "gguf/gguf.h"
#include "model/code2wav.h"

enum { CHUNK = 25 }; /* frames decoded at once */

/* All frames of the file into a stream, chunk by chunk; the samples go to out. */
static omni_status decode(const code2wav *m, FILE *in, FILE *out, omni_error *err) {
    const size_t groups = (size_t)code2wav_groups(m);
    code2wav_runner *r = NULL;
    code2wav_stream *s = NULL;
    int32_t *codes = malloc(CHUNK * groups * sizeof *codes);
    float *samples = malloc((size_t)(CHUNK * code2wav_upsample(m)) * sizeof *samples);
    omni_status status = codes && samples ? code2wav_runner_create(m, NULL, CHUNK, &r, err) : fail(err, OMNI_ERR_MEMORY, "out of memory");
    if (status == OMNI_OK) {
        status = code2wav_stream_create(m, CHUNK, &s, err);
    }
    while (status == OMNI_OK) {
        const size_t frames = fread(codes, groups * sizeof *codes, CHUNK, in);
        int64_t n = 0;
        if (frames == 0) {
            break;
        }
        status = code2wav_push(r, s, codes, (int64_t)frames, samples, &n, err);
        if (status == OMNI_OK && fwrite(samples, sizeof *samples, (size_t)n, out) != (size_t)n) {
            status = fail(err, OMNI_ERR_IO, "cannot write the samples");
        }
    }
    code2wav_stream_destroy(s);
    code2wav_runner_destroy(r);
    free(samples);
    free(codes);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: decode_codes TALKER.gguf CODES OUT\n");
        return 2;
    }
    omni_error err = {0};
    gguf *g = NULL;
    backend *b = NULL;
    code2wav *m = NULL;
    FILE *in = fopen(argv[2], "rb"), *out = fopen(argv[3], "wb");
    omni_status status = in && out ? OMNI_OK : fail(&err, OMNI_ERR_IO, "cannot open %s or %s", argv[2], argv[3]);
    if (status == OMNI_OK) {
        status = cpu_backend_create(0, &b, &err);
    }
    if (status == OMNI_OK) {
        status = gguf_open(argv[1], &g, &err);
    }
    if (status == OMNI_OK) {
        status = code2wav_open(b, g, &m, &err);
    }
    if (status == OMNI_OK) {
        status = decode(m, in, out, &err);
    }
    code2wav_close(m);
    gguf_close(g);
    if (b) {
        cpu_backend_destroy(b);
    }
    if (in) {
        fclose(in);
    }
    if (out && fclose(out) != 0 && status == OMNI_OK) {
        status = fail(&err, OMNI_ERR_IO, "cannot write %s", argv[3]);
    }
    if (status != OMNI_OK) {
        fprintf(stderr, "decode_codes: %s\n", err.text);
        return 1;
    }
    return 0;
}
