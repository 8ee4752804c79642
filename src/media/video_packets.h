/* Which packets of a video must be decoded for some of its frames.
 *
 * The scan notes every packet of the stream: its timestamp, whether it shows a frame, and whether decoding can begin with it. Frames are numbered by
 * their timestamps. For the frames that are wanted the packets from the key frame before each are decoded, and no others; of those in between, frames
 * that no other refers to are left out by the decoder where that is certain from its codec. Frames come out equal to those of decoding everything
 * (tests/videos.py).
 *
 * Where the packets do not tell the frames (no timestamps, two alike, or such as count packets; codecs that are not listed in video_packets.c; fields
 * in packets of their own), everything is decoded and counted. */
#ifndef OMNI_MEDIA_VIDEO_PACKETS_H
#define OMNI_MEDIA_VIDEO_PACKETS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "media/budget.h"

struct AVCodecParameters;
struct AVPacket;

typedef struct video_packets {
    bool usable;             /* the packets tell the frames */
    bool independent;        /* every frame is coded by itself */
    bool leaves_out;         /* the decoder knows frames that no other refers to */
    bool reorders;           /* the stream says that frames are shown in another order than they are decoded in */
    bool reordered;          /* the timestamps say so */
    int codec, length_bytes; /* AVCodecID; of the length before each NAL unit, 0: start codes */
    int64_t n, capacity, shown;
    int64_t *times; /* [n]: in units of the stream */
    uint8_t *kinds; /* [n]: PACKET_SHOWN, PACKET_ENTRY */
    budget *budget;
    int64_t held;
} video_packets;

enum { PACKET_SHOWN = 1, PACKET_ENTRY = 2 };

/* An empty list for a stream. */
void video_packets_begin(video_packets *p, const struct AVCodecParameters *stream, budget *b);
/* What a packet of that stream is; also where the list is not usable. */
uint8_t video_packet_kind(const video_packets *p, const struct AVPacket *packet);
/* Appends one. Where the budget has no room the list becomes unusable; OMNI_ERR_MEMORY where the system has none. */
omni_status video_packets_add(video_packets *p, const char *name, const struct AVPacket *packet, uint8_t kind, omni_error *err);
void video_packets_free(video_packets *p);

/* What is to be done with a packet. */
enum { PLAN_DROP, PLAN_REFERENCE /* frames that no other refers to may be left out */, PLAN_DECODE, PLAN_ENTER /* the decoder begins anew here */ };

typedef struct video_plan {
    const video_packets *packets;
    uint8_t *steps; /* [packets->n] */
    int64_t *times; /* [packets->shown], ascending: of frame i in display order */
} video_plan;

/* A plan for the frames indices[0 .. n), ascending, and for frame 0, which decides on the size of all. Sets p->usable to false, and makes no
 * plan, when two frames have the same time or an index is not that of a frame. p must outlive the plan. */
omni_status video_plan_make(video_packets *p, const char *name, const int32_t *indices, int64_t n, video_plan *out, omni_error *err);
void video_plan_free(video_plan *plan);

#endif
