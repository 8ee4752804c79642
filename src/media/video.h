/* Video: the pictures of a file, sampled at a rate, as patches for the vision encoder.
 *
 * Any container and codec of FFmpeg (MP4, WebM, MKV, MOV, ...), or a NumPy file (.npy, uint8 [frames, height, width, 3] in C order)
 * whose frames count as already sampled at `fps`. Frame choice and limits are those of qwen-omni-utils: see video_sample.
 * A rotation stored in the container is applied, rounded to quarters of a circle (as torchcodec, the reader that qwen-omni-utils prefers, does); a
 * reflection as FFmpeg's own program does.
 * Frames are numbered by their timestamps, and only what the chosen ones need is decoded (video_packets.h). A damaged frame that is not needed is
 * counted and not noticed; where a chosen one does not come, everything is decoded, and only frames that come are counted.
 * Decoding streams: memory is a few frames plus the result. The sound track is not touched: media/sound.h reads it from the same path. */
#ifndef OMNI_MEDIA_VIDEO_H
#define OMNI_MEDIA_VIDEO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "media/budget.h"
#include "media/patches.h"

/* 0 takes the default. */
typedef struct video_options {
    double fps;           /* pictures a second to sample (2) */
    int64_t min_frames;   /* sampled at least (4), where the file has that many */
    int64_t max_frames;   /* sampled at most (768) */
    int64_t frames;       /* sampled in place of what fps gives (rounded to an even number; containers only) */
    double from, to;      /* seconds: of this stretch alone (0: to the end; containers only) */
    int64_t total_tokens; /* budget of pixels over all frames, in merged patches (128,000 * 0.9), for containers only */
    int64_t file_frames;  /* frames that a file may have at most (1,000,000); more is OMNI_ERR_LIMIT */
    double seconds;       /* length of the source at most (86,400) */
    budget *budget;       /* what decoding may cost, and whose memory the patches hold from then on; NULL: one of its own, with the default limits */
} video_options;

typedef struct video {
    patch_set patches;
    int64_t frames;           /* sampled */
    int32_t *indices;         /* [frames]: which of the file's frames */
    int64_t file_frames;      /* in the file */
    int32_t height, width;    /* of the source, as displayed */
    double file_fps;          /* of the source: average rate (for .npy: the rate asked for) */
    double sample_fps;        /* frames / file_frames * file_fps: the rate that was reached */
    double seconds_per_group; /* temporal / the rate asked for: what the reference's position ids use */
    double start;             /* seconds: timestamp of the first frame on the container's clock (sound at this instant is simultaneous) */
    double duration;          /* seconds: file_frames / file_fps */
    bool sampled;             /* .npy: frames were taken as they are */
} video;

/* Reads, samples, resizes and cuts the pictures of the file at path. options may be NULL. */
omni_status video_open(const char *path, const patch_params *p, const video_options *options, video *out, omni_error *err);
/* The same from memory; name stands for the path in errors. */
omni_status video_open_memory(const void *data, size_t size, const char *name, const patch_params *p, const video_options *options, video *out,
                              omni_error *err);
void video_free(video *v);

/* Indices of the frames to take from a file of `total` frames at `file_fps` (qwen-omni-utils 0.0.9, smart_nframes and linspace):
 * total / file_fps * fps clamped to [min_frames, max_frames] and to total, rounded down to a multiple of 2, spread evenly from
 * the first to the last frame. indices has room for max(2, max_frames) values; returns how many. A file of one frame gives 1. */
int64_t video_sample(int64_t total, double file_fps, const video_options *options, int32_t *indices);

/* The same with options.frames, from and to (calculate_video_frame_range, smart_nframes): indices are those of the whole file, and have room for
 * max(2, max_frames, frames + 2) values. *among: how many frames lie in the stretch. path is for errors. OMNI_ERR_ARGUMENT: the stretch has
 * fewer than two frames, or fewer than options.frames. */
omni_status video_choose(const char *path, int64_t total, double file_fps, const video_options *options, int32_t *indices, int64_t *frames,
                         int64_t *among, omni_error *err);

/* Whether the path ends in .npy or the file starts as a NumPy file. */
bool video_is_npy(const char *path);

#endif
