#include "media/video_packets.h"

#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>

enum { FIRST_CAPACITY = 1024, BYTES_A_PACKET = 32 /* of the list and of its plan */ };

/* Which codecs are known: one packet is one frame at most, and what else is certain. */
static const struct {
    enum AVCodecID id;
    bool independent; /* every frame is coded by itself */
    bool leaves_out;  /* libavcodec's decoder heeds AVDISCARD_NONREF for single packets, and frames that are left out change nothing */
} CODECS[] = {
    {AV_CODEC_ID_H264, false, true},       {AV_CODEC_ID_HEVC, false, true},     {AV_CODEC_ID_MPEG1VIDEO, false, true},
    {AV_CODEC_ID_MPEG2VIDEO, false, true}, {AV_CODEC_ID_MPEG4, false, true},    {AV_CODEC_ID_VP8, false, false},
    {AV_CODEC_ID_VP9, false, false},       {AV_CODEC_ID_AV1, false, false},     {AV_CODEC_ID_MJPEG, true, false},
    {AV_CODEC_ID_PRORES, true, false},     {AV_CODEC_ID_DNXHD, true, false},    {AV_CODEC_ID_DVVIDEO, true, false},
    {AV_CODEC_ID_PNG, true, false},        {AV_CODEC_ID_JPEG2000, true, false}, {AV_CODEC_ID_HUFFYUV, true, false},
    {AV_CODEC_ID_UTVIDEO, true, false},
};

void video_packets_begin(video_packets *p, const AVCodecParameters *stream, budget *b) {
    *p = (video_packets){.codec = (int)stream->codec_id, .budget = b, .reorders = stream->video_delay > 0};
    for (size_t i = 0; i < sizeof CODECS / sizeof *CODECS; i++) {
        if (CODECS[i].id == stream->codec_id) {
            p->usable = true;
            p->independent = CODECS[i].independent;
            p->leaves_out = CODECS[i].leaves_out;
        }
    }
    const uint8_t *extra = stream->extradata;
    const int size = stream->extradata_size;
    if (stream->codec_id == AV_CODEC_ID_H264) {
        p->length_bytes = size >= 7 && extra[0] == 1 ? (extra[4] & 3) + 1 : 0;
        p->usable = stream->field_order <= AV_FIELD_PROGRESSIVE; /* fields may come in packets of their own */
    } else if (stream->codec_id == AV_CODEC_ID_HEVC) {
        const bool record = size >= 23 && (extra[0] || extra[1] || extra[2] > 1); /* no start code */
        p->length_bytes = record ? (extra[21] & 3) + 1 : 0;
        /* a frame that none of its own temporal layer refers to may be one that higher layers refer to */
        p->leaves_out = record && (extra[21] >> 3 & 7) == 1;
        p->usable = stream->field_order <= AV_FIELD_PROGRESSIVE;
    }
}

/* The first byte of the first NAL unit that holds a part of a picture; -1: none. */
static int picture_unit(const video_packets *p, const AVPacket *packet) {
    const uint8_t *at = packet->data;
    const bool hevc = p->codec == AV_CODEC_ID_HEVC;
    for (int64_t left = packet->size; left > 0;) {
        int64_t length = left;
        if (p->length_bytes) {
            if (left <= p->length_bytes) {
                return -1;
            }
            length = 0;
            for (int i = 0; i < p->length_bytes; i++) {
                length = length << 8 | at[i];
            }
            at += p->length_bytes;
            left -= p->length_bytes;
            if (length > left || length < 1) {
                return -1;
            }
        } else {
            const uint8_t *start = left > 3 ? memchr(at + 2, 1, (size_t)left - 3) : NULL;
            while (start && (start[-1] || start[-2])) {
                start = memchr(start + 1, 1, (size_t)(packet->data + packet->size - 1 - (start + 1)));
            }
            if (!start) {
                return -1;
            }
            left -= start + 1 - at;
            at = start + 1;
            length = 1;
        }
        const int type = hevc ? at[0] >> 1 & 63 : at[0] & 31;
        if (hevc ? type < 32 : type >= 1 && type <= 5) {
            return type;
        }
        at += length;
        left -= length;
    }
    return -1;
}

/* Whether a VP9 packet shows a frame: a superframe, an old frame again, or one with its flag set. */
static bool vp9_shown(const AVPacket *packet) {
    const uint8_t first = packet->data[0], last = packet->data[packet->size - 1];
    const int profile = (first >> 5 & 1) | (first >> 4 & 1) << 1, after = profile == 3 ? 5 : 4;
    return (last & 0xe0) == 0xc0 || (first >> (7 - after) & 1) || (first >> (7 - after - 2) & 1);
}

uint8_t video_packet_kind(const video_packets *p, const AVPacket *packet) {
    enum { H264_IDR = 5, HEVC_FIRST_ENTRY = 16, HEVC_LAST_ENTRY = 21 };
    if (packet->flags & AV_PKT_FLAG_DISCARD) {
        return 0;
    }
    const bool key = packet->flags & AV_PKT_FLAG_KEY;
    const uint8_t shown_key = PACKET_SHOWN | PACKET_ENTRY;
    if (packet->size < 1) {
        return PACKET_SHOWN;
    }
    switch (p->codec) {
    case AV_CODEC_ID_H264: {
        const int unit = picture_unit(p, packet);
        return unit < 0 ? 0 : unit == H264_IDR ? shown_key : PACKET_SHOWN; /* other key frames only promise to recover */
    }
    case AV_CODEC_ID_HEVC: {
        const int unit = picture_unit(p, packet);
        return unit < 0 ? 0 : unit >= HEVC_FIRST_ENTRY && unit <= HEVC_LAST_ENTRY ? shown_key : PACKET_SHOWN;
    }
    case AV_CODEC_ID_VP8:
        return !(packet->data[0] & 0x10) ? 0 : key && !(packet->data[0] & 1) ? shown_key : PACKET_SHOWN;
    case AV_CODEC_ID_VP9:
        return !vp9_shown(packet) ? 0 : key ? shown_key : PACKET_SHOWN;
    default:
        return key || p->independent ? shown_key : PACKET_SHOWN;
    }
}

static void give_up(video_packets *p) {
    free(p->times);
    free(p->kinds);
    budget_release(p->budget, p->held);
    p->times = NULL;
    p->kinds = NULL;
    p->n = p->capacity = p->held = 0;
    p->usable = false;
}

omni_status video_packets_add(video_packets *p, const char *name, const AVPacket *packet, uint8_t kind, omni_error *err) {
    enum { SMALL_VOP = 12 };
    p->shown += kind & PACKET_SHOWN;
    /* MPEG-4 has frames that only say that nothing is coded, in a few bytes; whether they are shown is the decoder's choice */
    const bool clear = packet->size > (p->codec == AV_CODEC_ID_MPEG4 ? SMALL_VOP : 0) && packet->pts != AV_NOPTS_VALUE;
    if (!p->usable || ((kind & PACKET_SHOWN) && !clear)) {
        give_up(p);
        return OMNI_OK;
    }
    if (p->n == p->capacity) {
        const int64_t capacity = p->capacity ? p->capacity * 2 : FIRST_CAPACITY;
        const int64_t more = (capacity - p->capacity) * BYTES_A_PACKET;
        if (capacity > INT32_MAX || !budget_try_hold(p->budget, more)) {
            give_up(p);
            return OMNI_OK;
        }
        p->held += more;
        int64_t *times = realloc(p->times, (size_t)capacity * sizeof *times);
        p->times = times ? times : p->times;
        uint8_t *kinds = times ? realloc(p->kinds, (size_t)capacity) : NULL;
        p->kinds = kinds ? kinds : p->kinds;
        if (!kinds) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %lld packets", name, (long long)capacity);
        }
        p->capacity = capacity;
    }
    p->reordered = p->reordered || (p->n > 0 && packet->pts < p->times[p->n - 1]);
    p->times[p->n] = packet->pts;
    p->kinds[p->n++] = packet->pts == AV_NOPTS_VALUE ? 0 : kind;
    return OMNI_OK;
}

void video_packets_free(video_packets *p) {
    if (p->budget) {
        give_up(p);
    }
    *p = (video_packets){0};
}

/* ---- the plan ---- */

static int by_time(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool wanted(const video_plan *plan, const int32_t *indices, int64_t n, int64_t time) {
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (plan->times[indices[middle]] < time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return time == plan->times[0] || (low < n && plan->times[indices[low]] == time);
}

/* covers[i]: how many stretches of packets begin with i, less those that ended before it. A stretch leads from where decoding can begin to a frame
 * that is wanted; frames shown before the entry (of an open group of pictures) need the entry before. */
static void mark_stretches(const video_plan *plan, const int32_t *indices, int64_t n, int32_t *covers) {
    const video_packets *p = plan->packets;
    int64_t entry = 0, before = 0; /* the last two entries */
    for (int64_t i = 0; i < p->n; i++) {
        if (p->kinds[i] & PACKET_ENTRY) {
            before = entry;
            entry = i;
        }
        if ((p->kinds[i] & PACKET_SHOWN) && wanted(plan, indices, n, p->times[i])) {
            const bool leads = (p->kinds[entry] & PACKET_ENTRY) && p->times[i] < p->times[entry];
            covers[leads ? before : entry]++;
            covers[i + 1]--;
            plan->steps[i] = PLAN_DECODE;
        }
    }
}

static void decide(const video_plan *plan, const int32_t *covers) {
    const video_packets *p = plan->packets;
    const uint8_t pass = p->leaves_out ? PLAN_REFERENCE : PLAN_DECODE;
    int32_t open = 0;
    bool dropped = false;
    for (int64_t i = 0; i < p->n; i++) {
        open += covers[i];
        if (open < 1) {
            plan->steps[i] = PLAN_DROP;
            dropped = true;
            continue;
        }
        plan->steps[i] = dropped && !p->independent ? PLAN_ENTER : plan->steps[i] == PLAN_DECODE ? PLAN_DECODE : pass;
        dropped = false;
    }
}

omni_status video_plan_make(video_packets *p, const char *name, const int32_t *indices, int64_t n, video_plan *out, omni_error *err) {
    *out = (video_plan){.packets = p};
    if (!p->usable || (p->reorders && !p->reordered) || p->shown < 1 || n < 1 || indices[0] < 0 || indices[n - 1] >= p->shown) {
        p->usable = false;
        return OMNI_OK;
    }
    const size_t packets = (size_t)p->n;
    int32_t *covers = calloc(packets + 1, sizeof *covers);
    out->steps = calloc(packets, 1);
    out->times = malloc((size_t)p->shown * sizeof *out->times);
    if (!covers || !out->steps || !out->times) {
        free(covers);
        video_plan_free(out);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %zu packets", name, packets);
    }
    int64_t shown = 0;
    for (size_t i = 0; i < packets; i++) {
        if (p->kinds[i] & PACKET_SHOWN) {
            out->times[shown++] = p->times[i];
        }
    }
    qsort(out->times, (size_t)shown, sizeof *out->times, by_time);
    for (int64_t i = 1; i < shown; i++) {
        p->usable = p->usable && out->times[i] > out->times[i - 1];
    }
    if (p->usable) {
        mark_stretches(out, indices, n, covers);
        decide(out, covers);
    } else {
        video_plan_free(out);
    }
    free(covers);
    return OMNI_OK;
}

void video_plan_free(video_plan *plan) {
    free(plan->steps);
    free(plan->times);
    *plan = (video_plan){0};
}
