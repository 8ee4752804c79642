/* The head of a WAV file. */
#ifndef OMNI_SERVER_WAV_H
#define OMNI_SERVER_WAV_H

#include <stdbool.h>
#include <stdint.h>

enum { WAV_HEAD = 44 };

/* Of `size` bytes of samples that follow, little-endian, channel by channel, `width` bytes each: whole numbers, signed, or floats. */
void wav_head(unsigned char to[WAV_HEAD], bool floats, int rate, int channels, int width, uint32_t size);

#endif
