/* The head of a WAV file. */
#ifndef OMNI_SERVER_WAV_H
#define OMNI_SERVER_WAV_H

#include <stdint.h>

enum { WAV_HEAD = 44 };

typedef enum wav_coding { WAV_PCM = 1, WAV_FLOAT = 3, WAV_ALAW = 6, WAV_MULAW = 7 } wav_coding; /* format tags of WAVE files */

/* Of `size` bytes of samples that follow, `width` bytes each, the channels of a moment side by side. Numbers are little-endian; of WAV_PCM signed,
 * from 2 bytes on. */
void wav_head(unsigned char to[WAV_HEAD], wav_coding coding, int rate, int channels, int width, uint32_t size);

#endif
