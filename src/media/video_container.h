/* One video stream of a container, opened for decoding by FFmpeg within a budget. Behind video_source.h. */
#ifndef OMNI_MEDIA_VIDEO_CONTAINER_H
#define OMNI_MEDIA_VIDEO_CONTAINER_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "media/video_source.h"

typedef struct container {
    AVFormatContext *format;
    AVIOContext *io; /* for memory; NULL when the file is read by libavformat */
    const video_bytes *bytes;
    budget *budget;
    int64_t at; /* where in memory */
    AVCodecContext *codec;
    int stream;
    bool has_matrix;
    int32_t matrix[9]; /* how to display a frame (libavutil/display.h) */
    int64_t packets, max_packets;
    /* What frames cost: see container_charge. The decoder's threads write to these. */
    double share;              /* of a frame's pixels, each time that the decoder makes room for one */
    _Atomic int64_t made_room; /* pixels of such frames since the last charge */
    _Atomic int64_t refused;   /* bytes that did not fit into the budget; 0: none */
    atomic_bool starved;       /* the system had no memory for a frame */
} container;

/* Opens the file or the bytes. container_close is needed whatever the outcome. Nothing is decoded yet. */
omni_status container_open(container *c, const video_bytes *bytes, const video_limits *limits, omni_error *err);
void container_close(container *c);
AVStream *container_stream(const container *c);

/* Starts the decoder, which takes the memory of its frames from the budget. */
omni_status container_decoder(container *c, omni_error *err);
/* Takes the pixels of the frames that the decoder made since the last call, and of `shown` frames that came out; reports memory that the decoder
 * did not get. To be called after each step of decoding. */
omni_status container_charge(container *c, int width, int height, int shown, omni_error *err);

/* The next packet of the video stream: *got is 1, or 0 at the end of the file (a read error ends it too: what came before is used). */
omni_status container_packet(container *c, AVPacket *packet, int *got, omni_error *err);

#endif
