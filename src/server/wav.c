#include "server/wav.h"

#include <string.h>

static void put(unsigned char *to, int bytes, uint32_t value) {
    for (int i = 0; i < bytes; i++) {
        to[i] = (unsigned char)(value >> (8 * i));
    }
}

void wav_head(unsigned char to[WAV_HEAD], wav_coding coding, int rate, int channels, int width, uint32_t size) {
    memcpy(to, "RIFF", 4);
    put(to + 4, 4, WAV_HEAD - 8 + size);
    memcpy(to + 8, "WAVEfmt ", 8);
    put(to + 16, 4, 16);
    put(to + 20, 2, (uint32_t)coding);
    put(to + 22, 2, (uint32_t)channels);
    put(to + 24, 4, (uint32_t)rate);
    put(to + 28, 4, (uint32_t)(rate * channels * width));
    put(to + 32, 2, (uint32_t)(channels * width));
    put(to + 34, 2, (uint32_t)(8 * width));
    memcpy(to + 36, "data", 4);
    put(to + 40, 4, size);
}
