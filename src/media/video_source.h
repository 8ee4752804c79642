/* Where the pictures of a video come from: a container decoded by FFmpeg, or a NumPy array. Behind video_open. */
#ifndef OMNI_MEDIA_VIDEO_SOURCE_H
#define OMNI_MEDIA_VIDEO_SOURCE_H

#include "media/video.h"
#include "media/video_packets.h"

/* Where frames go. A status other than OMNI_OK ends the decoding and is handed on. */
typedef struct video_sink {
    void *arg;
    /* Called once, when the first frame tells the size of all, as displayed. */
    omni_status (*begin)(void *arg, int64_t height, int64_t width, omni_error *err);
    /* Takes frame `index` (counting from 0 in display order) as [height, width, 3]. */
    omni_status (*take)(void *arg, int64_t index, const uint8_t *rgb, omni_error *err);
} video_sink;

typedef struct video_info {
    int64_t frames;
    double stated_fps; /* frames a second as the container has it, or 0 */
    double span;       /* seconds from the first frame's timestamp to the end of the last, or 0 */
    double start;      /* seconds: the first frame's timestamp */
    video_packets packets;
} video_info;

/* The bytes of a video: a file's (data NULL; name is its path), or memory that outlives the calls. */
typedef struct video_bytes {
    const char *name; /* in errors */
    const uint8_t *data;
    size_t size;
} video_bytes;

/* What is accepted of a container, as resolved from video_options. */
typedef struct video_limits {
    int64_t frames;
    budget *budget;
} video_limits;

/* Counts the frames of a container without decoding them (packets of the video stream that show one). video_packets_free(&out->packets) is needed
 * whatever the outcome. */
omni_status video_scan(const video_bytes *bytes, const video_limits *limits, video_info *out, omni_error *err);
/* Decodes and hands over the frames whose index is in indices[0 .. n), ascending.
 * With packets: only what these frames need. *decoded is their number of shown packets, or -1 where the frames did not come as the packets promise;
 * then some may have been handed over, and the call is to be made again without.
 * packets NULL: decodes everything. *decoded: frames seen; all of them are decoded (also behind the last index) only when that many come: a caller
 * compares with the scan. */
omni_status video_decode(const video_bytes *bytes, const video_limits *limits, video_packets *packets, const int32_t *indices, int64_t n,
                         const video_sink *sink, int64_t *decoded, omni_error *err);

/* A NumPy file: header checked, values in place. */
typedef struct npy_video {
    int64_t frames, height, width;
    const uint8_t *values; /* [frames, height, width, 3] within the file's bytes */
} npy_video;

/* From a whole file in memory; name stands for the path in errors. */
omni_status npy_parse(const uint8_t *data, size_t size, const char *name, npy_video *out, omni_error *err);

#endif
